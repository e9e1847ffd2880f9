"""How well short fine-tuning tells what full fine-tuning would give: `python -m bench.fidelity`.

A study of the product proposes the policies; each is then evaluated at several fidelities. Two
questions: do short runs put the policies in the order of full ones (Spearman), and how much of the
full front survives when only the finalists that a short run chooses are run in full. Everything
resumes; ONLY=lenet300 (lenet5, cnn) runs one part.
"""

import json
import sys
from concurrent.futures import Future, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from bench.parts import chosen, search
from bench.results import write_results
from evaluators import tasks
from search.engines import LocalEngine
from search.finalists import choose_finalists
from search.location import StudyLocation
from search.record import RecordReader
from search.session import worker_context
from spaces import Front, Identity, Judge, Measurement, Trial

__all__ = ["main"]

FOLDER = Path("search-runs") / "bench-fidelity"
RESULTS = Path(__file__).parent / "results" / "fidelity.json"
WORKERS = 2
EPOCH = 50_000
SEATS = (2, 4, 8, 12)


@dataclass(frozen=True)
class Part:
    """One network: how many policies, and the passes over the training split; the last is full."""

    workload: str
    trials: int
    epochs: tuple[float, ...]


PARTS = {
    "lenet300": Part("lenet300-mnist", 36, (0.5, 1, 2, 4, 15)),
    "lenet5": Part("lenet5-mnist", 24, (0.25, 0.5, 3)),
    "cnn": Part("cnn-mnist", 24, (0.5, 1, 5)),
}


def proposed(key: str, part: Part) -> tuple[RecordReader, list[Trial]]:
    """The study's record and its trials with a file, but the references."""
    name = f"fidelity-{key}"
    request = [
        part.workload, "--target", "m1", "--format", "packed", "--workers", str(WORKERS),
        "--trials", str(part.trials), "--finalists", "0", "--budget-kb", "250",
    ]  # fmt: skip
    search(FOLDER, name, request)
    record = RecordReader.open(StudyLocation(str(FOLDER), name))
    trials = [t for t in record.trials() if t.measurement and not t.origin.startswith("reference")]
    return record, trials


def evaluated(
    key: str, record: RecordReader, trials: list[Trial], fidelities: list[int]
) -> dict[str, Measurement]:
    """Identity's key -> measurement at each fidelity; kept in a file, so that none runs twice."""
    path = FOLDER / f"fidelity-{key}-measured.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    known = {name: Measurement.from_dict(value) for name, value in saved.items()}
    known |= {t.identity.key: t.measurement for t in trials if t.measurement}
    engine = LocalEngine(WORKERS)
    engine.configure(tasks.setup, worker_context(record.spec, record.location, record.profile))
    todo: dict[Future[Any], Identity] = {}
    for fidelity in fidelities:
        for trial in trials:
            identity = record.spec.identity(trial.policy, fidelity)
            if identity.key not in known:
                future = engine.submit(tasks.evaluate, identity, trial.policy)
                todo[future] = identity
    for done, future in enumerate(as_completed(todo), start=1):
        outcome = future.result()
        if not isinstance(outcome, Measurement):
            raise SystemExit(f"bench.fidelity: {todo[future].key} failed: {outcome}")
        known[todo[future].key] = outcome
        path.write_text(json.dumps({name: asdict(found) for name, found in known.items()}))
        sys.stderr.write(f"\r{key}: {done} of {len(todo)}")
    engine.shutdown()
    return known


def rows_of(key: str, part: Part) -> list[dict[str, Any]]:
    record, trials = proposed(key, part)
    fidelities = [round(epochs * EPOCH) for epochs in part.epochs]
    known = evaluated(key, record, trials, fidelities)

    def at(fidelity: int) -> list[Trial]:
        found = []
        for trial in trials:
            identity = record.spec.identity(trial.policy, fidelity)
            found.append(replace(trial, identity=identity, outcome=known[identity.key]))
        return found

    judge, full = record.judge, at(fidelities[-1])
    whole = Front.of(full, judge, fidelities[-1]).hypervolume
    rows = []
    for epochs, fidelity in zip(part.epochs, fidelities, strict=True):
        short = at(fidelity)
        seconds = [sum(known[t.identity.key].seconds.values()) for t in short]
        kept = {
            f"volume_kept_of_{seats}_pct": _kept_pct(short, full, judge, seats, whole)
            for seats in SEATS
        }
        rows.append(
            {
                "network": key,
                "policies": len(trials),
                "epochs": epochs,
                "core_s_each": round(float(np.median(seconds)), 1),
                "spearman_error": _rank(_errors(short), _errors(full)),
                "spearman_best_half": _best_half(short, full),
                "spearman_bytes": _rank(_sizes(short), _sizes(full)),
                **kept,
            }
        )
    return rows


def _kept_pct(
    short: list[Trial], full: list[Trial], judge: Judge, seats: int, whole: float
) -> float | None:
    """Full hypervolume of the finalists that a short run would choose, of all policies' in full."""
    if whole <= 0:
        return None
    chosen = {trial.number for trial in choose_finalists(short, judge, seats)}
    front = Front.of([t for t in full if t.number in chosen], judge, full[0].identity.fidelity)
    return round(100 * front.hypervolume / whole, 1)


def _errors(trials: list[Trial]) -> np.ndarray:
    return np.array([1 - t.measurement.metric for t in trials if t.measurement])


def _sizes(trials: list[Trial]) -> np.ndarray:
    return np.array([t.measurement.size_bytes for t in trials if t.measurement])


def _rank(short: np.ndarray, full: np.ndarray) -> float | None:
    """Spearman's correlation; None where one side is constant."""
    if np.ptp(short) == 0 or np.ptp(full) == 0:
        return None
    return round(float(spearmanr(short, full).statistic), 2)


def _best_half(short: list[Trial], full: list[Trial]) -> float | None:
    """The error's rank correlation among the half of the policies that are best in full."""
    errors = _errors(full)
    best = errors <= np.median(errors)
    return _rank(_errors(short)[best], errors[best])


def main() -> None:
    asked = chosen("ONLY", tuple(PARTS))
    FOLDER.mkdir(parents=True, exist_ok=True)
    before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {key: [row for row in before if row["network"] == key] for key in PARTS}
    for key, part in PARTS.items():
        if key in asked:
            rows[key] = rows_of(key, part)
    todo = ", ".join(key for key in PARTS if not rows[key]) or "nothing"
    write_results(
        "fidelity",
        "What short fine-tuning tells about full fine-tuning",
        "make bench-fidelity",
        [row for key in PARTS for row in rows[key]],
        [
            (
                "Policies: what a study with greybox at the default fidelity proposed. The last "
                "row of each network is full fidelity itself."
            ),
            (
                "spearman_*: rank correlation with full fidelity; best_half: among the half of the "
                "policies with the least error in full."
            ),
            (
                "volume_kept_of_N_pct: hypervolume in full of the N finalists that `search run` "
                "would choose from the short runs, of that of all policies in full."
            ),
            "One seed a policy and fidelity.",
            f"Not run yet: {todo}.",
        ],
    )


if __name__ == "__main__":
    main()
