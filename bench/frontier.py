"""Frontier records on MNIST, found by the search: `python -m bench.frontier`.

A part is a study of the product, started or gone on with by its own command line, and three seeds
of its winner: the smallest finalist that keeps the error on VALIDATION. Everything resumes;
ONLY=lenet300 (lenet5, cnn) runs one part.
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.parts import chosen, search
from bench.results import write_results
from bench.winners import winner
from evaluators import tasks
from search.engines import InProcessEngine
from search.location import StudyLocation
from search.record import RecordReader
from search.session import worker_context
from spaces import Measurement, Trial

__all__ = ["main"]

FOLDER = Path("search-runs") / "bench-frontier"
SEEDS = 3
EPOCH = 50_000
RESULTS = Path(__file__).parent / "results" / "frontier.json"


@dataclass(frozen=True)
class Part:
    """One network's goal and effort; published and hand-made rows are printed beside it."""

    workload: str
    goal_kb: float
    goal_error_pct: float
    parameters: int
    trials: int
    search_epochs: int
    full_epochs: int
    finalists: int
    published: str

    @property
    def request(self) -> list[str]:
        """What the study is asked for."""
        return [
            self.workload, "--target", "m1", "--format", "packed", "--proposer", "greybox",
            "--budget-kb", str(self.goal_kb), "--min-accuracy", str(100 - self.goal_error_pct),
            "--trials", str(self.trials), "--fidelity", str(self.search_epochs * EPOCH),
            "--full-fidelity", str(self.full_epochs * EPOCH), "--finalists", str(self.finalists),
        ]  # fmt: skip


PARTS = {
    "lenet300": Part(
        "lenet300-mnist", 5.5, 1.57, 266_610, 80, 40, 120, 8,
        "Deep Compression 27 KB at 1.58 % (CSR, Huffman); by hand: 5,008 B at 1.55 %",
    ),
    "lenet5": Part(
        "lenet5-mnist", 9.5, 0.74, 431_080, 40, 3, 20, 6,
        "Deep Compression 44 KB at 0.74 % (fixed-bit CSR + Huffman); by hand: 8,899 B at 0.66 %",
    ),
    "cnn": Part(
        "cnn-mnist", 1.9, 2.1, 20_410, 48, 8, 40, 8,
        "TFMOT PCQAT 8,076 B at 2.04 % (gzip of .tflite); by hand: 1,704 B at 1.86 %",
    ),
}  # fmt: skip


def error_pct(measurement: Measurement | None) -> float:
    assert measurement is not None
    return 100 * (1 - measurement.metric)


def run_part(key: str, part: Part) -> list[dict[str, Any]]:
    name = f"frontier-{key}"
    started = time.monotonic()
    search(FOLDER, name, part.request)
    wall_s = time.monotonic() - started
    record = RecordReader.open(StudyLocation(str(FOLDER), name))
    best = winner(
        record.finalists(), lambda trial: error_pct(trial.measurement) <= part.goal_error_pct
    )
    repeats = seeds_of(name, record, best)
    trials = [*record.trials(), *record.finalists()]
    core_s = sum(sum(t.measurement.seconds.values()) for t in trials if t.measurement)
    core_s += sum(r["core_s"] for r in repeats[1:])
    rows = [_row(key, part, f"winner, seed {seed['repeat']}", seed) for seed in repeats]
    median = {
        field: statistics.median(r[field] for r in repeats)
        for field in ("size_bytes", "validation_error_pct", "test_error_pct")
    }
    kept = (
        median["size_bytes"] <= 1000 * part.goal_kb
        and median["test_error_pct"] <= part.goal_error_pct
    )
    goal = f"goal {part.goal_kb} KB at {part.goal_error_pct} % {'reached' if kept else 'MISSED'}"
    found = {**median, "core_s": core_s}
    rows.append(_row(key, part, f"median of {len(repeats)}: {goal}", found))
    sys.stdout.write(f"{key}: this session searched {wall_s:.0f} s; {part.published}\n")
    return rows


def _row(key: str, part: Part, row: str, found: Mapping[str, float]) -> dict[str, Any]:
    return {
        "network": key,
        "row": row,
        "size_bytes": round(found["size_bytes"]),
        "ratio": round(4 * part.parameters / found["size_bytes"], 1),
        "validation_error_pct": round(found["validation_error_pct"], 2),
        "test_error_pct": round(found["test_error_pct"], 2),
        "core_s": round(found["core_s"], 1),
    }


def seeds_of(name: str, record: RecordReader, best: Trial) -> list[dict[str, Any]]:
    """The winner as searched and with new seeds; kept in a file, so that none runs twice."""
    path = FOLDER / f"{name}-seeds.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    engine = InProcessEngine()
    engine.configure(tasks.setup, worker_context(record.spec, record.location, record.profile))
    found = []
    for repeat in range(SEEDS):
        identity = record.spec.identity(best.policy, record.spec.full_fidelity, repeat)
        if identity.key not in known:
            outcome = engine.submit(tasks.evaluate, identity, best.policy).result()
            if not isinstance(outcome, Measurement):
                raise SystemExit(f"bench.frontier: seed {repeat} of {name} failed: {outcome}")
            score = engine.submit(tasks.score_test, outcome.sha256).result()
            assert score is not None
            known[identity.key] = {
                "repeat": repeat,
                "size_bytes": outcome.size_bytes,
                "validation_error_pct": error_pct(outcome),
                "test_error_pct": 100 * (1 - score.metric),
                "core_s": sum(outcome.seconds.values()),
            }
            path.write_text(json.dumps(known, indent=1))
        found.append(known[identity.key])
    return found


def main() -> None:
    asked = chosen("ONLY", tuple(PARTS))
    before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {key: [row for row in before if row["network"] == key] for key in PARTS}
    for key, part in PARTS.items():
        if key in asked:
            rows[key] = run_part(key, part)
    todo = ", ".join(key for key in PARTS if not rows[key]) or "nothing"
    notes = [
        *(f"{key}: {part.published}." for key, part in PARTS.items() if rows[key]),
        "Bytes of one self-contained file, decoded and re-scored. Ratio: 4 x parameters / bytes.",
        "The winner is the smallest finalist whose VALIDATION error keeps the goal.",
        "Its test errors were looked at afterwards.",
        "A median row's core_s is all of its study's training, scoring and coding.",
        f"Not run yet: {todo}.",
    ]
    write_results(
        "frontier",
        "Smallest files found by search on MNIST",
        "make bench-frontier",
        [row for key in PARTS for row in rows[key]],
        notes,
    )


if __name__ == "__main__":
    main()
