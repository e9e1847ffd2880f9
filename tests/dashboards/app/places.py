"""Storages with studies of the simulator: written by the real record, with files whose hash it
holds."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from search.location import StudyLocation
from search.record import Record
from spaces import Budget, Front, Judge, Metric, Trial, build_space
from tests.dashboards.studies import EVIL, ROOMY, hostile_study, references
from tests.simulator import CAPABILITIES, FULL_FIDELITY, Simulator, simulate

__all__ = [
    "MAE",
    "abandon",
    "append",
    "drive",
    "file_of",
    "front_pick",
    "new_trials",
    "simulator",
    "spoil",
    "write_hostile",
    "write_study",
]

MAE = Metric("mae", "s", higher_is_better=False)


@dataclass(frozen=True)
class Kept:
    """A trial with a file of its own, whose bytes say which."""

    trial: Trial
    data: bytes

    @classmethod
    def of(cls, trial: Trial) -> "Kept":
        assert trial.measurement is not None
        data = f"weights of {trial.identity.key}".encode() * 40
        digest = hashlib.sha256(data).hexdigest()
        return cls(replace(trial, outcome=replace(trial.measurement, sha256=digest)), data)

    def write(self, folder: Path) -> None:
        assert self.trial.measurement is not None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.trial.measurement.sha256}.packed").write_bytes(self.data)


def file_of(location: StudyLocation, trial: Trial) -> Path:
    assert trial.measurement is not None
    return location.artifacts_dir / f"{trial.measurement.sha256}.packed"


def simulator(name: str, *, seed: int = 0, asked: int = 60, budget: Budget = ROOMY) -> Simulator:
    return simulate(4, seed, study=name, budget=budget, trials=asked)


def new_trials(sim: Simulator, seed: int = 0) -> Iterator[Trial]:
    """References, then random ones; every eleventh failed."""
    known = references(sim)
    yield from known
    for number, drawn in enumerate(sim.random_trials(400, seed=seed), start=len(known)):
        failure = "loss became NaN" if number % 11 == 5 else ""
        yield sim.trial(number, drawn.policy, failure=failure)


def write_study(
    root: Path,
    name: str,
    count: int = 60,
    *,
    seed: int = 0,
    budget: Budget = ROOMY,
    finalists: int = 3,
    metric: Metric | None = None,
    is_finished: bool = True,
) -> StudyLocation:
    """A study that nobody drives any more; the front's files are kept."""
    sim = simulator(name, seed=seed, asked=count, budget=budget)
    spec = sim.spec if metric is None else replace(sim.spec, metric=metric)
    location = StudyLocation(str(root), name)
    with Record.create(location, spec, sim.profile, sim.space) as record:
        append(
            record, [trial for trial, _ in zip(new_trials(sim, seed), range(count), strict=False)]
        )
        members = Front.of(record.trials(), record.judge, spec.fidelity).members
        again = [
            sim.trial(number, member.policy, fidelity=FULL_FIDELITY, origin="finalist")
            for number, member in enumerate(members[-finalists:] if finalists else ())
        ]
        for trial in append(record, again):
            record.write_test_scores(
                trial.identity.key, {"metric": 0.9712, "metric_se": 0.0017, "samples": 10_000}
            )
        record.close(is_finished=is_finished)
    return location


def append(record: Record, trials: Sequence[Trial]) -> list[Trial]:
    """Write trials, with a file for each that is measured."""
    written = []
    for trial in trials:
        if trial.measurement is None:
            written.append(record.append(trial))
            continue
        kept = Kept.of(trial)
        kept.write(record.location.artifacts_dir)
        written.append(record.append(kept.trial))
    return written


def drive(root: Path, name: str, count: int, asked: int) -> tuple[Record, Iterator[Trial]]:
    """A study whose driver is at work: the record it holds, and the trials it will append."""
    sim = simulator(name, asked=asked)
    record = Record.create(StudyLocation(str(root), name), sim.spec, sim.profile, sim.space)
    coming = new_trials(sim)
    append(record, [next(coming) for _ in range(count)])
    record.write_driver({"phase": "search", "workers": 2, "running": [], "eta_s": 60}, force=True)
    return record, coming


def abandon(record: Record) -> None:
    """Leave a record as a killed driver leaves it: unlocked, and "running"."""
    record._is_closed = True
    record._access.release()


def write_hostile(root: Path, count: int = 30) -> StudyLocation:
    """Every text of the record is EVIL, as far as a record takes it; its own name is `hostile`."""
    given = hostile_study(count)
    spec = replace(
        given.spec, name="hostile", workload=EVIL, target=EVIL, device=EVIL, notes=(EVIL,)
    )
    space = build_space(given.profile, CAPABILITIES, {})
    location = StudyLocation(str(root), "hostile")
    with Record.create(location, spec, given.profile, space) as record:
        for trial in [*given.trials, *given.finalists]:
            record.append(_poisoned(trial))
        for key, scores in given.test_scores.items():
            record.write_test_scores(key, scores)
        job = {"origin": EVIL, "policy": EVIL}
        record.write_driver({"phase": EVIL, "workers": 2, "running": [job], "eta_s": 9}, force=True)
        abandon(record)
    spoil(location, '"spec":{"name":"hostile"', f'"spec":{{"name":{json.dumps(EVIL)}')
    # A folder whose name is no study's name, but holds a record.
    folder = root / "<img src=x onerror=window.pwned=1>"
    folder.mkdir()
    shutil.copy(location.journal_path, folder)
    return location


def _poisoned(trial: Trial) -> Trial:
    origin = EVIL if trial.origin == "random" else trial.origin
    if trial.measurement is None:
        return replace(trial, origin=origin)
    measured = replace(trial.measurement, device=EVIL)
    return Kept.of(replace(trial, origin=origin, outcome=measured)).trial


def spoil(location: StudyLocation, old: str, new: str) -> None:
    """Change a record behind the product's back."""
    text = location.journal_path.read_text(encoding="utf-8")
    assert old in text
    location.journal_path.write_text(text.replace(old, new), encoding="utf-8")


def front_pick(
    trials: Sequence[Trial], finalists: Sequence[Trial], judge: Judge, fidelities: tuple[int, int]
) -> str:
    """The name of what `Front.of` ships: a finalist where one is feasible; "" for nothing."""
    full = Front.of(finalists, judge, fidelities[1]).pick
    if full is not None:
        return f"{full.number}@full"
    searched = Front.of(trials, judge, fidelities[0]).pick
    return "" if searched is None else str(searched.number)
