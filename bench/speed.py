"""What compressed networks gain in ONNX Runtime, found by the search: `python -m bench.speed`.

A part is a study of the product for the target x86, started or gone on with by its own command
line. Every finalist's file is then timed again, one thread, interleaved with the uncompressed
network's file in the same runtime: the ratio is the median of `ROUNDS_OF` runs' medians of ratios.
ONLY=lenet5 (resnet20, resnet20-channels) runs one part; resnet20 reads its data from SEARCH_DATA.
All resume.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.parts import chosen, search
from bench.results import cpu, today, write_results
from evaluators.artifacts.files import read_content
from evaluators.worker import Worker
from search.finalists import answer_front
from search.location import StudyLocation
from search.record import RecordReader
from search.session import worker_context
from spaces import Measurement, Policy, Stage, Trial, format_order

__all__ = ["main"]

FOLDER = Path("search-runs") / "bench-speed"
RESULTS = Path(__file__).parent / "results" / "speed.json"
INTEGERS = Path(__file__).parent / "lenet5_integers.toml"
CHANNELS = Path(__file__).parent / "resnet20_channels.toml"
#: Runs of the interleaved probe for each file.
ROUNDS_OF = 15


@dataclass(frozen=True)
class Part:
    """One network's study: its budget and effort; a small goal where there is one.

    Attributes:
        flags: more of the command line.
        goal_kb: within `max_drop_points`.
    """

    workload: str
    budget_kb: float
    max_drop_points: float
    trials: int
    finalists: int
    flags: tuple[str, ...] = ()
    goal_kb: float | None = None

    @property
    def request(self) -> list[str]:
        """What the study is asked for."""
        return [
            self.workload, "--target", "x86",
            "--budget-kb", str(self.budget_kb), "--max-drop", str(self.max_drop_points),
            "--trials", str(self.trials), "--finalists", str(self.finalists), "--workers", "2",
            *self.flags,
        ]  # fmt: skip


# fmt: off
PARTS = {
    "lenet5": Part("lenet5-mnist", 450, 1.0, 30, 6),
    "lenet5-integers": Part("lenet5-mnist", 450, 1.0, 16, 3, ("--space", str(INTEGERS))),
    "resnet20": Part("resnet20-cifar10", 300, 1.0, 36, 5, goal_kb=150),
    # A tenth of an epoch, the workload's default, does not heal a network that lost channels.
    "resnet20-channels": Part(
        "resnet20-cifar10", 300, 1.0, 6, 2,
        ("--space", str(CHANNELS), "--fidelity", "10000", "--full-fidelity", "60000"),
    ),
}
# fmt: on


def channels_pruned(policy: Policy) -> bool:
    """Whether a policy removes channels."""
    return Stage.PRUNE in policy.order and any(
        layer.pattern == "channel" and layer.sparsity > 0 for _, layer in policy.layers
    )


def integer_kernels(policy: Policy) -> bool:
    """Whether products are of 8-bit numbers: weights on an integer grid, activations rounded."""
    return policy.activation_bits == 8 and Stage.QUANTIZE in policy.order


def _ratios(worker: Worker, trial: Trial, file: Path) -> list[float]:
    content = read_content(file)
    baseline_ms = worker.profile.baseline_latency_ms
    return [baseline_ms / worker.probe(trial.policy, content).median_ms for _ in range(ROUNDS_OF)]


def run_part(key: str, part: Part) -> list[dict[str, Any]]:
    """The rows of a part."""
    search(FOLDER, key, part.request)
    record = RecordReader.open(StudyLocation(str(FOLDER), key))
    worker = Worker(worker_context(record.spec, record.location, record.profile))
    profile, tests = record.profile, record.test_scores()
    finalists = record.finalists()
    spec = record.spec
    fidelities = (spec.fidelity, spec.full_fidelity)
    front = answer_front(record.trials(), finalists, record.judge, fidelities)
    members = {trial.identity.key for trial in front.members}
    made = f"{today()}, {cpu()}"
    rows = [
        {
            "network": key,
            "made": made,
            "file": "uncompressed, fp32",
            "on front": "",
            "bytes": profile.baseline_size_bytes,
            "macs": sum(layer.macs for layer in profile.layers),
            "int8 kernels": "no",
            "channels pruned": "no",
            "validation %": f"{100 * profile.baseline_metric:.2f}",
            "test %": "",
            "times faster": 1.0,
            "range": "",
        }
    ]
    for trial in finalists:
        found = trial.measurement
        if not isinstance(found, Measurement):
            continue
        file = record.location.artifacts_dir / f"{found.sha256}.onnx"
        if not file.exists():
            continue  # beaten in size, metric and time: the study did not keep it
        ratios = _ratios(worker, trial, file)
        test = tests.get(trial.identity.key)
        rows.append(
            {
                "network": key,
                "made": made,
                "file": format_order(trial.policy.order),
                "on front": "yes" if trial.identity.key in members else "no",
                "bytes": found.size_bytes,
                "macs": found.macs,
                "int8 kernels": "yes" if integer_kernels(trial.policy) else "no",
                "channels pruned": "yes" if channels_pruned(trial.policy) else "no",
                "validation %": f"{100 * found.metric:.2f}",
                "test %": f"{100 * test['metric']:.2f}" if test else "",
                "times faster": round(statistics.median(ratios), 2),
                "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def verdicts(key: str, part: Part, rows: list[dict[str, Any]]) -> list[str]:
    """What the goals came to, from the members of the front."""
    baseline, *others = rows
    members = [row for row in others if row["on front"] == "yes"]

    def lost(row: dict[str, Any]) -> float:
        return float(baseline["validation %"]) - float(row["validation %"])

    def best(kind: str, chosen: list[dict[str, Any]], goal: float) -> str:
        if not chosen:
            return f"{key}: no member of the front has {kind}."
        row = max(chosen, key=lambda each: each["times faster"])
        word = "reached" if row["times faster"] >= goal else "MISSED"
        return (
            f"{key}, fastest member with {kind}: {row['times faster']} times fp32 ({row['range']}) "
            f"at {row['bytes']:,} bytes, {row['macs']:,} MACs, {lost(row):+.2f} points lost; "
            f"goal {goal:g} times, {word}."
        )

    close = [row for row in members if lost(row) <= part.max_drop_points]
    found = [
        best("int8 kernels", [row for row in close if row["int8 kernels"] == "yes"], 1.5),
        best("pruned channels", [row for row in close if row["channels pruned"] == "yes"], 1.0),
    ]
    if part.goal_kb is not None:
        small = min(close, key=lambda row: row["bytes"], default=None)
        if small is None:
            found.append(f"{key}: no member within {part.max_drop_points:g} points.")
        else:
            word = "reached" if small["bytes"] <= 1000 * part.goal_kb else "MISSED"
            found.append(
                f"{key}, smallest member within {part.max_drop_points:g} points: "
                f"{small['bytes']:,} bytes, {small['validation %']} % on validation, "
                f"{small['test %']} % on test; goal {part.goal_kb:g} KB, {word}."
            )
    slower = [row for row in others if row["times faster"] < 1]
    found.append(f"{key}: {len(slower)} of {len(others)} finalists are slower than fp32.")
    return found


def main() -> None:
    asked = chosen("ONLY", tuple(PARTS))
    before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {key: [row for row in before if row["network"] == key] for key in PARTS}
    for key, part in PARTS.items():
        if key in asked:
            rows[key] = run_part(key, part)
    write_results(
        "speed",
        "Speed in ONNX Runtime of files found by search, target x86",
        "make bench-speed",
        [row for key in PARTS for row in rows[key]],
        [
            *(
                line
                for key, part in PARTS.items()
                if rows[key]
                for line in verdicts(key, part, rows[key])
            ),
            (
                "One sample, one thread, each file interleaved with the uncompressed network's in "
                f"the same runtime: median of {ROUNDS_OF} runs, each a median of 20 ratios."
            ),
            "Finalists only, at full fidelity; accuracy of the written file in ONNX Runtime.",
            "Rows are of the day's code; those of lenet5 of 30 November are of 5 runs.",
        ],
    )


if __name__ == "__main__":
    main()
