"""The loop, on the simulator: what reaches the record, in every kind of bad weather."""

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from search import study as study_module
from search.finalists import worth_repeating
from search.progress import Progress
from search.proposers.base import Proposal
from search.record import Record
from search.study import correct_pick, run_finalists, run_search, score_on_test
from spaces import Failure, Front, InvalidRequest, Policy, StudyBroken, Trial
from tests.search.simulated import (
    SimulatedEngine,
    Watcher,
    create,
    kept_files,
    proposer,
    search,
)
from tests.simulator import FULL_FIDELITY, Simulator, simulate

#: Two layers with a little sparsity each: 4 distinct policies in all.
FOUR_POLICIES = {
    "order": ["none", "prune"],
    "layers": {
        "*": {"clusters": "drop", "bits": "drop", "bias_bits": "drop", "pattern": "drop"},
        "fc3": {"sparsity": [0.0, 0.9]},
        "out": {"sparsity": [0.0, 0.8]},
    },
}


@pytest.fixture
def sim() -> Simulator:
    return simulate(3, trials=24)


@pytest.fixture
def record(sim: Simulator, tmp_path: Path) -> Iterator[Record]:
    with create(sim, tmp_path) as made:
        yield made


def engine_of(record: Record, sim: Simulator, workers: int = 2) -> SimulatedEngine:
    return SimulatedEngine(workers, sim, record.location.artifacts_dir)


def facts(trials: list[Trial]) -> list[str]:
    """Everything of them but the clock."""
    rows = [trial.to_dict() for trial in trials]
    return [json.dumps({**row, "finished_at": 0.0}, sort_keys=True) for row in rows]


# The number, and nothing twice -------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_exactly_the_asked_number_and_none_twice(
    record: Record, sim: Simulator, workers: int
) -> None:
    watcher = search(record, sim, workers)
    trials = record.trials()
    assert len(trials) == sim.trials
    assert [trial.number for trial in trials] == list(range(sim.trials))
    assert len({trial.identity.key for trial in trials}) == sim.trials
    assert watcher.notices == []
    assert [trial for trial, _ in watcher.finished] == trials
    assert [progress.finished for _, progress in watcher.finished] == list(range(1, 25))


def test_what_a_proposal_had_seen_is_recorded(record: Record, sim: Simulator) -> None:
    search(record, sim, workers=3)
    for trial in record.trials():
        assert trial.seen <= trial.number
        assert len(trial.running) <= 2
        assert trial.seen + len(trial.running) <= trial.number + 2


def test_trials_that_finish_together_hold_up_no_other_writer(
    record: Record, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is locked while lines are written, not while anything else is done."""
    lock = Path(f"{record.location.journal_path}.lock")
    taken: list[str] = []
    symlink = os.symlink

    def counted(place: str, link: str) -> None:
        taken.append(link)
        symlink(place, link)

    monkeypatch.setattr(os, "symlink", counted)
    inner = proposer(sim)

    class Slow:
        def propose(self, *args: Any) -> Any:
            assert not lock.is_symlink()
            return inner.propose(*args)

    class Unread(Watcher):
        def trial_finished(self, trial: Trial, progress: Progress) -> None:
            assert not lock.is_symlink()
            assert trial in record.trials()
            super().trial_finished(trial, progress)

    watcher = Unread()
    run_search(record, engine_of(record, sim, 4), Slow(), kept_files(record), watcher)
    assert len(watcher.finished) == sim.trials
    assert len(taken) < sim.trials, "four trials finish at a time and take the lock once"


def test_one_worker_twice_gives_the_same_trials(sim: Simulator, tmp_path: Path) -> None:
    told = []
    for name in ("a", "b"):
        with create(sim, tmp_path / name) as record:
            search(record, sim)
            told.append(facts(record.trials()))
    assert told[0] == told[1]


@pytest.mark.parametrize("stop_after", [1, 7, 23])
def test_a_resumed_search_equals_a_straight_one(
    sim: Simulator, tmp_path: Path, stop_after: int
) -> None:
    with create(sim, tmp_path / "straight") as record:
        search(record, sim)
        straight = facts(record.trials())
    with create(sim, tmp_path / "stopped") as record:
        engine, kept, watcher = engine_of(record, sim, 1), kept_files(record), Watcher(stop_after)
        with pytest.raises(KeyboardInterrupt):
            run_search(record, engine, proposer(sim), kept, watcher)
    with Record.open(record.location) as resumed:
        assert facts(resumed.trials()) == straight[:stop_after]
        search(resumed, sim)
        assert facts(resumed.trials()) == straight


def test_more_can_be_asked_for(record: Record, sim: Simulator, tmp_path: Path) -> None:
    search(record, sim)
    before = facts(record.trials())
    record.close()
    more = simulate(3, trials=30)
    with Record.open(record.location, more.spec) as resumed:
        search(resumed, more)
        assert len(resumed.trials()) == 30
        assert facts(resumed.trials())[:24] == before


def test_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    sim = simulate(2, trials=24, restrictions=FOUR_POLICIES)
    with create(sim, tmp_path) as record:
        watcher = search(record, sim, workers=2)
        assert len(record.trials()) == 4
    assert watcher.notices == ["the space has no more distinct policies to try: 4 of 24 trials"]


def test_nothing_starts_after_the_deadline(record: Record, sim: Simulator) -> None:
    watcher = Watcher()
    engine = engine_of(record, sim)
    late = time.monotonic() - 1
    run_search(record, engine, proposer(sim), kept_files(record), watcher, late)
    assert engine.ran == []
    assert watcher.notices == ["the time is up: 0 of 24 trials"]


class SlowEngine(SimulatedEngine):
    """Every evaluation takes 60 ms."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        time.sleep(0.06)
        return super().submit(fn, *args, **kwargs)


def test_what_runs_at_the_deadline_is_recorded(record: Record, sim: Simulator) -> None:
    engine = SlowEngine(2, sim, record.location.artifacts_dir)
    deadline = time.monotonic() + 0.1
    run_search(record, engine, proposer(sim), kept_files(record), Watcher(), deadline)
    assert len(record.trials()) == len(engine.ran)
    assert 0 < len(engine.ran) < sim.trials


# Deaths, failures, a broken disk -----------------------------------------------------------------


def first_policies(sim: Simulator, count: int) -> list[Policy]:
    return [p.policy for p in proposer(sim).propose([], [], count)]


def test_a_task_whose_worker_died_runs_once_more(record: Record, sim: Simulator) -> None:
    unlucky, cursed = first_policies(sim, 2)
    engine, watcher = engine_of(record, sim), Watcher()
    engine.deaths.update({unlucky.digest: 1, cursed.digest: 99})
    run_search(record, engine, proposer(sim), kept_files(record), watcher)
    by_digest = {trial.policy.digest: trial for trial in record.trials()}
    assert by_digest[unlucky.digest].measurement == sim.measure(unlucky)
    failure = by_digest[cursed.digest].outcome
    assert failure == Failure("", "worker", "the worker process 7 died, 2 times")
    ran = [digest for _, digest in engine.ran]
    assert ran.count(unlucky.digest) == ran.count(cursed.digest) == 2
    assert len(ran) == sim.trials + 2, "nobody else's task ran again"
    assert watcher.notices == [
        f"the worker of {policy.digest} died; it is run once more" for policy in (unlucky, cursed)
    ]
    assert len(record.trials()) == sim.trials


def test_a_worker_that_cannot_write_stops_the_study(record: Record, sim: Simulator) -> None:
    """Two trials were finished before: they stay."""
    third = first_policies(sim, 3)[2]
    engine = engine_of(record, sim, 1)
    engine.broken[third.digest] = StudyBroken("cannot write to /full: No space left on device")

    class Fixed:
        def propose(self, history: Any, running: Any, count: int) -> list[Proposal]:
            known = {trial.policy.digest for trial in history}
            left = [p for p in first_policies(sim, 3) if p.digest not in known]
            return [Proposal(policy, "fixed") for policy in left[:count]]

    with pytest.raises(StudyBroken, match="No space left on device"):
        run_search(record, engine, Fixed(), kept_files(record), Watcher())
    assert len(record.trials()) == 2


def test_readers_see_what_runs(record: Record, sim: Simulator) -> None:
    search(record, sim, workers=2)
    state = record.driver_state()
    assert state.state == "running"
    assert state.payload["workers"] == 2
    assert state.payload["asked"] == sim.trials
    assert {"phase", "finished", "eta_s", "running", "pid", "host", "beat"} <= set(state.payload)


# Finalists and test scores -----------------------------------------------------------------------


def finalists(record: Record, sim: Simulator) -> tuple[Watcher, SimulatedEngine]:
    watcher, engine = Watcher(), engine_of(record, sim)
    run_finalists(record, engine, kept_files(record), watcher)
    return watcher, engine


def test_finalists_run_once_at_full_fidelity(record: Record, sim: Simulator) -> None:
    search(record, sim)
    watcher, _ = finalists(record, sim)
    made = record.finalists()
    first = [trial for trial in made if trial.identity.repeat == 0]
    assert 0 < len(first) <= sim.spec.finalists
    assert {trial.identity.fidelity for trial in made} == {FULL_FIDELITY}
    searched = {trial.policy.digest: trial.number for trial in record.trials()}
    assert all(t.origin == f"finalist of {searched[t.policy.digest]}" for t in first)
    close = worth_repeating(first, record.judge, FULL_FIDELITY)
    assert [t.policy for t in made[len(first) :]] == [t.policy for t in close]
    assert all(t.identity.repeat == 1 for t in made[len(first) :])
    assert [t.origin for t in made[len(first) :]] == [f"new seed of {t.number}" for t in close]
    assert watcher.finished[-1][1].finished == watcher.finished[-1][1].asked == len(made)
    again, engine = finalists(record, sim)
    assert (again.finished, engine.ran) == ([], [])
    assert record.finalists() == made


def test_interrupted_finalists_go_on(record: Record, sim: Simulator) -> None:
    search(record, sim)
    engine = engine_of(record, sim, 1)
    with pytest.raises(KeyboardInterrupt):
        run_finalists(record, engine, kept_files(record), Watcher(stop_after=1))
    assert len(record.finalists()) == 1
    watcher, _ = finalists(record, sim)
    assert len({trial.identity.key for trial in record.finalists()}) == len(record.finalists())
    assert all(progress.finished <= progress.asked for _, progress in watcher.finished)


def test_finalists_of_an_earlier_front_stay(record: Record, sim: Simulator) -> None:
    """A study stopped by its timeout, then resumed: the front has moved on."""
    run_search(record, engine_of(record, sim), proposer(sim), kept_files(record), Watcher())
    finalists(record, sim)
    first = facts(record.finalists())
    record.close()
    more = simulate(3, trials=120)
    with Record.open(record.location, more.spec) as resumed:
        search(resumed, more)
        watcher, _ = finalists(resumed, more)
        assert facts(resumed.finalists())[: len(first)] == first
        assert all(progress.finished <= progress.asked for _, progress in watcher.finished)


def test_no_finalists_where_the_search_is_at_full_fidelity(sim: Simulator, tmp_path: Path) -> None:
    with create(sim, tmp_path) as record:
        search(record, sim)
        spec = record.spec
        object.__setattr__(spec, "full_fidelity", spec.fidelity)
        _, engine = finalists(record, sim)
        assert engine.ran == []


def test_test_scores_are_made_once_and_stay_out_of_the_trials(
    record: Record, sim: Simulator
) -> None:
    search(record, sim)
    trials, engine, watcher = record.trials()[:3], engine_of(record, sim), Watcher()
    before = facts(record.trials())
    kept = kept_files(record)
    for _ in range(2):
        score_on_test(record, engine, kept, watcher, trials)
    scores = record.test_scores()
    assert set(scores) == {trial.identity.key for trial in trials}
    assert all(score["metric"] == 0.97 for score in scores.values())
    assert [door for door, _ in engine.ran].count("test") == 3
    assert facts(record.trials()) == before


def test_a_missing_file_is_made_again_before_it_is_scored(record: Record, sim: Simulator) -> None:
    search(record, sim)
    trial = next(t for t in record.trials() if t.measurement)
    assert trial.measurement is not None
    kept, engine = kept_files(record), engine_of(record, sim)
    kept.path(trial.measurement.sha256).unlink(missing_ok=True)
    score_on_test(record, engine, kept, Watcher(), [trial])
    assert engine.ran == [("evaluate", trial.policy.digest), ("test", trial.measurement.sha256)]
    assert len(record.test_scores()) == 1


def test_what_cannot_be_scored_is_said_and_costs_nothing_else(
    record: Record, sim: Simulator
) -> None:
    search(record, sim)
    trials, kept = record.trials()[:2], kept_files(record)
    engine, watcher = engine_of(record, sim), Watcher()
    assert trials[0].measurement is not None
    engine.deaths[trials[0].measurement.sha256] = 2
    score_on_test(record, engine, kept, watcher, trials)
    assert len(record.test_scores()) == 1
    assert watcher.notices == ["trial 0 is not scored on the test split: the worker process 7 died"]
    engine.test_split = InvalidRequest("cannot read x: it is damaged")
    score_on_test(record, engine, kept, watcher, trials)
    assert watcher.notices[1].endswith("cannot read x: it is damaged")


class LateEngine(SimulatedEngine):
    """Every answer comes after 0.15 s."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        late: Future[Any] = Future()
        done = super().submit(fn, *args, **kwargs)
        threading.Timer(0.15, lambda: late.set_result(done.result())).start()
        return late


def test_readers_see_that_it_is_scoring(
    record: Record, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a test split takes, nobody takes the driver for dead."""
    search(record, sim)
    trials = [t for t in record.trials() if t.measurement][:2]
    beats: list[dict[str, Any]] = []
    monkeypatch.setattr(record, "write_driver", beats.append)
    monkeypatch.setattr(study_module, "TICK_S", 0.02)
    engine = LateEngine(1, sim, record.location.artifacts_dir)
    score_on_test(record, engine, kept_files(record), Watcher(), trials)
    assert len(beats) >= 6
    assert {beat["phase"] for beat in beats} == {"test"}
    assert {(beat["finished"], beat["asked"]) for beat in beats} == {(0, 2), (1, 2)}


def test_a_workload_without_a_test_split_is_asked_once(record: Record, sim: Simulator) -> None:
    search(record, sim)
    engine, watcher = engine_of(record, sim), Watcher()
    engine.test_split = False
    score_on_test(record, engine, kept_files(record), watcher, record.trials())
    assert [door for door, _ in engine.ran].count("test") == 1
    assert (record.test_scores(), watcher.notices) == ({}, [])


def test_the_pick_is_corrected_once(record: Record, sim: Simulator) -> None:
    search(record, sim)
    finalists(record, sim)
    engine = engine_of(record, sim)
    for _ in range(2):
        correct_pick(record, engine, kept_files(record), Watcher(), FULL_FIDELITY)
    pick = Front.of(record.finalists(), record.judge, FULL_FIDELITY).pick
    assert pick is not None
    assert list(record.optimism()) == [pick.identity.key]
    looked_at = [sha256 for what, sha256 in engine.ran if what == "samples"]
    assert pick.measurement is not None
    assert pick.measurement.sha256 in looked_at
    assert len(looked_at) == len(set(looked_at))


def test_a_file_that_cannot_be_read_costs_the_correction_alone(
    record: Record, sim: Simulator
) -> None:
    search(record, sim)
    finalists(record, sim)
    engine, watcher = engine_of(record, sim), Watcher()
    pick = Front.of(record.finalists(), record.judge, FULL_FIDELITY).pick
    assert pick is not None
    assert pick.measurement is not None
    engine.broken[pick.measurement.sha256] = InvalidRequest("damaged")
    correct_pick(record, engine, kept_files(record), watcher, FULL_FIDELITY)
    assert record.optimism() == {}
    assert "not corrected: damaged" in watcher.notices[0]
