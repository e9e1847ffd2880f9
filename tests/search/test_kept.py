"""Which files stay: those non-dominated when they finished, and the finalists; no strays."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.kept import KeptFiles
from search.study import run_finalists
from spaces import Failure, Measurement, Trial, nondominated
from tests.search.simulated import SimulatedEngine, Watcher, create, kept_files, search, write_file
from tests.simulator import Simulator, simulate


@pytest.fixture
def sim() -> Simulator:
    return simulate(3, trials=30)


def measured(trial: Trial) -> Measurement:
    assert trial.measurement is not None
    return trial.measurement


def expected(sim: Simulator, trials: list[Trial]) -> set[str]:
    """By definition: each against everything that finished before it."""
    hashes = set()
    for at, trial in enumerate(trials):
        if trial.measurement is None:
            continue
        before = [t for t in trials[:at] if t.measurement]
        points = sim.judge.points([*before, trial])
        beaten = (points[:-1] <= points[-1]).all(axis=1).any()
        if not beaten:
            hashes.add(measured(trial).sha256)
    return hashes


def on_disk(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.packed")}


@given(st.integers(0, 1000), st.integers(1, 25))
def test_non_dominated_at_finish(seed: int, count: int) -> None:
    sim = simulate(2, seed=seed % 3)
    trials = sim.random_trials(count, seed)
    kept = KeptFiles(sim.judge, Path("nowhere"), "packed")
    answers = [kept.add(trial) for trial in trials]
    assert kept.hashes == expected(sim, trials)
    assert answers == [measured(t).sha256 in kept.hashes for t in trials]
    final = sim.judge.points(trials)
    front = {measured(t).sha256 for t, k in zip(trials, nondominated(final), strict=True) if k}
    assert front <= kept.hashes, "the front's files are there at any time"


def test_the_same_file_from_another_policy_stays(sim: Simulator) -> None:
    trial, worse = sim.random_trials(2)
    kept = KeptFiles(sim.judge, Path("nowhere"), "packed")
    kept.add(trial)
    twin = Trial(1, worse.identity, worse.policy, measured(trial))
    assert kept.add(twin)
    assert kept.hashes == {measured(trial).sha256}


def test_failures_have_no_file(sim: Simulator, tmp_path: Path) -> None:
    trial = sim.trial(0, sim.random_trials(1)[0].policy, failure="killed")
    assert isinstance(trial.outcome, Failure)
    kept = KeptFiles(sim.judge, tmp_path, "packed")
    assert not kept.add(trial)
    kept.keep(trial)
    kept.discard(trial)
    assert kept.hashes == set()


def test_a_study_keeps_what_it_should_on_disk(sim: Simulator, tmp_path: Path) -> None:
    with create(sim, tmp_path) as record:
        search(record, sim, workers=2)
        folder = record.location.artifacts_dir
        assert on_disk(folder) == expected(sim, record.trials())
        engine = SimulatedEngine(2, sim, folder)
        run_finalists(record, engine, kept_files(record), Watcher())
        finals = {measured(t).sha256 for t in record.finalists()}
        assert finals
        assert on_disk(folder) == expected(sim, record.trials()) | finals
        replayed = kept_files(record)
        assert replayed.hashes == on_disk(folder)
        assert replayed.sweep() == []


def test_strays_of_a_killed_driver_are_swept(sim: Simulator, tmp_path: Path) -> None:
    """A finished file whose trial was not recorded, and one cut short while it was written."""
    with create(sim, tmp_path) as record:
        search(record, sim)
        folder = record.location.artifacts_dir
        before = on_disk(folder)
        write_file(folder, "0" * 64)
        (folder / "abc.77.partial").write_bytes(b"half")
        (folder / "notes.txt").write_text("a user's own")
        strays = kept_files(record).sweep()
    assert {path.name for path in strays} == {f"{'0' * 64}.packed", "abc.77.partial"}
    assert on_disk(folder) == before
    assert {path.name for path in folder.iterdir() if path.suffix != ".packed"} == {"notes.txt"}


def test_sweeping_where_there_is_no_folder_yet(sim: Simulator, tmp_path: Path) -> None:
    assert KeptFiles(sim.judge, tmp_path / "none", "packed").sweep() == []


def test_equal_points_keep_the_first(sim: Simulator) -> None:
    assert np.array_equal(nondominated(np.zeros((3, 3))), [True, False, False])
