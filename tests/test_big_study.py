"""`bench.studies` writes what a real driver would have written."""

from pathlib import Path

import pytest

from bench.studies import write_big_study
from search.location import StudyLocation
from search.progress import ProgressTracker
from search.record import Record, RecordReader
from search.study import Job, _driver_payload
from spaces import Failure, Front
from tests.search.simulated import SimulatedEngine
from tests.simulator import simulate

TRIALS = 150


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> StudyLocation:
    return write_big_study(tmp_path_factory.mktemp("runs"), trials=TRIALS)


@pytest.fixture(scope="module")
def reader(location: StudyLocation) -> RecordReader:
    return RecordReader.open(location)


def test_it_is_a_finished_study(location: StudyLocation, reader: RecordReader) -> None:
    assert (location.study, StudyLocation.latest(location.storage)) == ("big", location)
    assert reader.driver_state().state == "finished"
    assert reader.counts() == (TRIALS, reader.spec.finalists) == (TRIALS, 8)
    assert [t.number for t in reader.trials()] == list(range(TRIALS))


def test_the_space_has_sixty_knobs_of_layers(reader: RecordReader) -> None:
    assert len(reader.profile.layers) == 12
    assert sum(":" in knob.name for knob in reader.space.knobs) == 60


def test_some_failed_and_say_where(reader: RecordReader) -> None:
    failures = [t.outcome for t in reader.trials() if isinstance(t.outcome, Failure)]
    assert 0 < len(failures) < 0.15 * TRIALS
    layers = {layer.name for layer in reader.profile.layers}
    assert all(failure.layer in layers and failure.reason for failure in failures)


def test_measurements_are_whole(reader: RecordReader) -> None:
    for trial in [*reader.trials(), *reader.finalists()]:
        values = trial.measurement
        if values is not None:
            assert sum(line.size_bytes for line in values.ledger) == values.size_bytes
            assert [a.stage for a in values.audit] == [s.value for s in trial.policy.order]
            assert values.latency.source == "modelled"
            assert len(values.latency.layers_ms) == len(reader.profile.layers)


def test_there_is_a_front_and_it_moves(reader: RecordReader) -> None:
    front = Front.of(reader.trials(), reader.judge, reader.spec.fidelity)
    assert len(front.members) > 5
    assert front.feasible < front.finished
    assert max(t.number for t in front.members) > TRIALS / 2


def test_every_finalist_has_a_test_score(reader: RecordReader) -> None:
    scores = reader.test_scores()
    assert set(scores) == {t.identity.key for t in reader.finalists()}
    assert all(set(s) == {"metric", "metric_se", "samples", "scored_at"} for s in scores.values())


def test_the_same_seed_writes_the_same_trials(location: StudyLocation, tmp_path: Path) -> None:
    again = RecordReader.open(write_big_study(tmp_path, trials=40, name="again"))
    other = RecordReader.open(write_big_study(tmp_path, trials=40, name="other", seed=1))
    first = RecordReader.open(location).trials()[:40]
    assert [t.outcome for t in again.trials()] == [t.outcome for t in first]
    assert [t.policy for t in other.trials()] != [t.policy for t in first]


def test_the_driver_says_what_a_real_one_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict] = []
    write = Record.write_driver

    def listen(record: Record, payload: dict, *, force: bool = False) -> None:
        said.append(payload)
        write(record, payload, force=force)

    monkeypatch.setattr(Record, "write_driver", listen)
    location = write_big_study(tmp_path, trials=20)
    trial = RecordReader.open(location).trials()[0]
    sim = simulate(2)
    real = _driver_payload(
        SimulatedEngine(8, sim, tmp_path),
        ProgressTracker("search", 20, sim.judge, ()).now(),
        [Job(trial.identity, trial.policy, trial.origin, seen=0)],
    )
    assert {payload["phase"] for payload in said} == {"search", "finalists"}
    assert all(set(payload) == set(real) for payload in said)
    assert said[0]["running"] == real["running"]
