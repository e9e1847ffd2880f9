"""The server of a study's record dies in mid-run; a real one."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from bench.kills import write_workload
from search.cli.main import main
from search.location import StudyLocation
from search.record import Record, RecordReader
from spaces import StorageLost
from tests.clusters import HAS_TUNE, session_address
from tests.postgres import Postgres, postgres
from tests.search.test_record import create, simulate

TRIALS = 6


@pytest.fixture
def server() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, postgres(Path(folder)) as ours:
        yield ours


def _recorded(location: StudyLocation) -> int:
    """Trials in the record; 0 before there is one."""
    try:
        return sum(RecordReader.open(location).counts())
    except Exception:  # it is being made
        return 0


@pytest.mark.kill
@pytest.mark.parametrize(
    "engine",
    [
        "local",
        pytest.param(
            "tune", marks=pytest.mark.skipif(not HAS_TUNE, reason="the extra `tune` is missing")
        ),
    ],
)
def test_a_run_ends_with_one_message_and_goes_on_when_it_is_back(
    engine: str,
    server: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_workload(tmp_path)
    monkeypatch.chdir(tmp_path)
    location = StudyLocation(server.url, "cut")
    how = [f"--engine={engine}", "--workers=1", f"--storage={server.url}"]
    if engine == "tune":
        how.append(f"--ray-address={session_address()}")
    asked = [f"--trials={TRIALS}", "--finalists=1", "--target=m1", "--format=packed", "--study=cut"]
    run = [sys.executable, "-m", "search.cli", "run", "net.py:workload", *asked, *how]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        deadline = time.monotonic() + 200
        while _recorded(location) < 2:
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.3)  # a look takes as much of the machine as a trial
        before = RecordReader.open(location).trials()
        server.stop()
        _, said = driver.communicate(timeout=100)
    assert driver.returncode == 2, said
    assert "Traceback" not in said
    (message,) = [line for line in said.splitlines() if "search: error" in line]
    assert "the database is gone, cannot " in message
    assert "go on with: search resume cut --storage 'postgresql+psycopg2://" in message
    assert main(["resume", "cut", *how]) == 2, "it is still gone"
    assert "No such file" in capsys.readouterr().err
    server.start()
    assert main(["resume", "cut", *how, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == TRIALS
    reader = RecordReader.open(location)
    trials = reader.trials()
    assert trials[: len(before)] == before
    assert len(trials) == len({trial.identity.key for trial in trials}) == TRIALS
    assert reader.driver_state().state == "finished"


def test_a_server_that_was_away_takes_nothing_more_from_this_driver(server: Postgres) -> None:
    """The lock went with its session: another driver may have the study by now."""
    location = StudyLocation(server.url, "sim")
    part = simulate(3, study="sim")
    first, second, third = part.random_trials(3)
    record = create(location, part)
    record.append(first)
    server.stop()
    server.start()
    with pytest.raises(StorageLost, match="go on with: search resume sim --storage"):
        record.append(second)
    with Record.open(location) as other:
        with pytest.raises(StorageLost, match="the session that locks the study has ended"):
            record.append(second)
        other.append(third)
    with pytest.raises(StorageLost):
        record.close()
    identities = [trial.identity for trial in RecordReader.open(location).trials()]
    assert identities == [first.identity, third.identity]


def test_a_server_that_dies_within_a_read_is_one_that_is_gone(server: Postgres) -> None:
    """Optuna takes the first error for too long a query and its second try says "rolled back"."""
    location = StudyLocation(server.url, "sim")
    part = simulate(2, study="sim")
    with create(location, part) as record:
        record.append(part.random_trials(1)[0])
    reader = RecordReader.open(location)

    def stop(*arguments: object) -> None:
        if "FROM trial_params" in str(arguments[2]):
            event.remove(Engine, "before_cursor_execute", stop)
            server.stop()

    event.listen(Engine, "before_cursor_execute", stop)
    with pytest.raises(StorageLost, match="the database is gone, cannot read it"):
        reader.trials()
