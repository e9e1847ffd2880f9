"""A two-headed network for charging cells, compressed: `python -m bench.battery`.

A study of the product, started or gone on with by its own command line, then three seeds of its
winner: the smallest finalist that keeps the accuracy on VALIDATION. Everything resumes. Reads its
data from SEARCH_DATA.
"""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.parts import search
from bench.results import write_results
from bench.winners import winner
from evaluators.artifacts.files import read_content
from evaluators.worker import Worker
from evaluators.workloads.base import Split
from evaluators.workloads.battery import (
    cell_correct,
    checked_data,
    prepare,
    split_rows,
    splits,
    teacher_outputs,
    time_error_s,
)
from search.location import StudyLocation
from search.record import RecordReader
from search.session import worker_context
from spaces import Distillation, Measurement, Policy, Stage

__all__ = ["main", "paired_drop_points"]

FOLDER = Path("search-runs") / "bench-battery"
NAME = "battery"
#: A quarter of the fp32 bytes, the goal, is 26.436 KB; the search may go far below.
BUDGET_KB, MAX_DROP_POINTS = 26.436, 0.3
#: Temperature and weight of the winner's twins, to see what the trees give.
TWINS = ((2.0, 0.5), (1.0, 0.1))
#: Test accuracy of a baseline trained for 300 epochs instead of 200, once, by hand.
LONGER_PCT = 95.88
TRIALS, SEARCH_EPOCHS, FULL_EPOCHS, FINALISTS, SEEDS = 48, 20, 80, 6, 3


def request() -> list[str]:
    """What the study is asked for."""
    samples = len(splits()[0])
    return [
        "battery", "--target", "m1", "--format", "packed",
        "--budget-kb", str(BUDGET_KB), "--max-drop", str(MAX_DROP_POINTS),
        "--trials", str(TRIALS), "--fidelity", str(SEARCH_EPOCHS * samples),
        "--full-fidelity", str(FULL_EPOCHS * samples), "--finalists", str(FINALISTS),
    ]  # fmt: skip


def paired_drop_points(
    baseline: np.ndarray, other: np.ndarray, charges: np.ndarray
) -> tuple[float, float]:
    """Points of accuracy lost, and the standard error of that, with whole charges as samples.

    Args:
        baseline, other: (samples,) 0.0 or 1.0 of two networks on the same samples.
        charges: (samples,) which charge each belongs to; samples of one are not independent.
    """
    drop = baseline - other
    by_charge = np.array([drop[charges == charge].mean() for charge in np.unique(charges)])
    return 100 * float(drop.mean()), 100 * float(by_charge.std(ddof=1)) / len(by_charge) ** 0.5


def _judged(
    network: str, size_bytes: int, outputs: Mapping[str, Tensor], baseline: np.ndarray | None
) -> dict[str, Any]:
    """One row, from what a network says of the validation and the test split."""
    _, validation, test = splits()
    parts: dict[str, Split] = {"validation": validation, "test": test}
    row: dict[str, Any] = {"network": network, "size_bytes": size_bytes or None}
    row["share_of_fp32_pct"] = round(100 * size_bytes / FP32_BYTES, 1) if size_bytes else None
    for name, part in parts.items():
        right = cell_correct(outputs[name], part.targets).numpy()
        row[f"{name}_accuracy_pct"] = f"{100 * right.mean():.2f}"
        if name == "test" and baseline is not None:
            data = checked_data()
            drop, error = paired_drop_points(baseline, right, data.charges[split_rows(data)[2]])
            row["test_drop_points"] = f"{drop:+.2f} ± {error:.2f}"
        elif name == "test":
            row["test_drop_points"] = None
        row[f"{name}_time_error_min"] = round(
            float(time_error_s(outputs[name], part.targets).mean()) / 60, 2
        )
    return row


FP32_BYTES = 4 * 26_436


@torch.no_grad()
def _outputs(run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    _, validation, test = splits()
    parts = {"validation": validation, "test": test}
    return {name: run(prepare(part.inputs.clone())) for name, part in parts.items()}


def twins_of(policy: Policy) -> dict[str, Policy]:
    """The policy with the trees' soft targets from its first stage on; or without them."""
    if Stage.DISTILL in policy.order:
        order = tuple(stage for stage in policy.order if stage is not Stage.DISTILL)
        return {"winner without the trees": replace(policy, order=order)}
    order = (Stage.DISTILL, *policy.order)
    return {
        f"winner with the trees, T {temperature:g}, weight {weight:g}": replace(
            policy, order=order, distillation=Distillation("logits", temperature, weight)
        )
        for temperature, weight in TWINS
    }


def seeds_of(record: RecordReader, worker: Worker, policy: Policy) -> list[tuple[int, Path]]:
    """(bytes, file) of a policy with each seed, the study's own first; none is trained twice."""
    path = FOLDER / "seeds.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    found = []
    for repeat in range(SEEDS):
        identity = record.spec.identity(policy, record.spec.full_fidelity, repeat)
        file = FOLDER / f"seed-{identity.policy_digest}-{repeat}.packed"
        if identity.key not in known or not file.exists():
            outcome = worker.evaluate(identity, policy)
            if not isinstance(outcome, Measurement):
                raise SystemExit(f"bench.battery: seed {repeat} failed: {outcome}")
            made = record.location.artifacts_dir / f"{outcome.sha256}.packed"
            file.write_bytes(made.read_bytes())
            known[identity.key] = outcome.size_bytes
            path.write_text(json.dumps(known, indent=1))
        found.append((known[identity.key], file))
    return found


def main() -> None:
    torch.set_num_threads(1)
    search(FOLDER, NAME, request())
    record = RecordReader.open(StudyLocation(str(FOLDER), NAME))
    worker = Worker(worker_context(record.spec, record.location, record.profile))
    base = _outputs(worker.format.read(worker.baseline_file).run)
    test = splits()[2]
    right = cell_correct(base["test"], test.targets).numpy()
    rows = [_judged("fp32 baseline", FP32_BYTES, base, None)]
    best = winner(record.finalists(), record.judge.is_feasible)
    by_policy = []
    for name, policy in {"winner": best.policy, **twins_of(best.policy)}.items():
        found = []
        for seed, (size, file) in enumerate(seeds_of(record, worker, policy)):
            run = worker.format.read(read_content(file)).run
            found.append(_judged(f"{name}, seed {seed}", size, _outputs(run), right))
        by_policy.append(found)
        rows += found
    seeds = by_policy[0]
    rows.append(_judged("boosted-tree teacher", 0, teacher_outputs(), right))
    drops = [float(row["test_drop_points"].split()[0]) for row in seeds]
    share = statistics.median(row["share_of_fp32_pct"] for row in seeds)
    drop = statistics.median(drops)
    kept = share <= 25 and drop <= MAX_DROP_POINTS
    accuracy = statistics.median(float(row["test_accuracy_pct"]) for row in seeds)
    lost_to_longer = LONGER_PCT - accuracy
    kept_to_longer = share <= 25 and lost_to_longer <= MAX_DROP_POINTS
    trials = [*record.trials(), *record.finalists()]
    core_s = sum(sum(t.measurement.seconds.values()) for t in trials if t.measurement)
    notes = [
        (
            f"Goal, a quarter of the fp32 bytes at no more than {MAX_DROP_POINTS} points of "
            f"accuracy lost on test, median of {SEEDS} seeds: {share:.1f} % at {drop:+.2f} points, "
            f"{'reached' if kept else 'MISSED'}."
        ),
        "Published, on data of its own: -75 % of bytes, 95.6 -> 95.3 %, 2.43 min of error.",
        (
            "The winner is the smallest finalist within the budget on VALIDATION: "
            f"order {', '.join(stage.value for stage in best.policy.order)}."
        ),
        (
            "A drop's error is of the difference on the same samples, with whole charges as "
            "samples; below 0 is better than the baseline."
        ),
        (
            f"The baseline saw the data alone; every file was fine-tuned for {FULL_EPOCHS} epochs, "
            "those that distil at equal samples: distillation shares them with the other stages. "
            "Temperature 2 with weight 0.5 was fixed before the twins were measured; 1 with 0.1 "
            "was added afterwards, because most of greybox's distilling proposals asked for it."
        ),
        (
            f"The baseline's 200 epochs balance both figures: 300 epochs gave {LONGER_PCT} % and "
            f"4.05 min on test (one seed, not shipped). Against that network the winner would "
            f"lose about {lost_to_longer:.1f} points and "
            f"{'keep' if kept_to_longer else 'miss'} the goal."
        ),
        "Bytes of one file, decoded and re-scored; fp32: 4 x parameters. The trees are no file.",
        f"{len(trials)} trials, {core_s:.0f} core seconds of training, scoring and coding.",
    ]
    write_results(
        "battery",
        "Charging cells: which one, and when it is full",
        "make bench-battery",
        rows,
        notes,
    )


if __name__ == "__main__":
    main()
