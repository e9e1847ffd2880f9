"""`--engine tune` and a Tuner of one's own, on a real cluster of this machine."""

import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from bench.kills import trials_in, write_workload
from search.cli.main import main
from search.location import StudyLocation
from search.record import RecordReader
from spaces import InvalidRequest
from tests.clusters import HAS_TUNE, session_address
from tests.search.test_record import opened_by_dashboard
from tests.test_docs import ROOT, _train_example

if not HAS_TUNE:
    pytest.skip("the extra `tune` is not installed", allow_module_level=True)

from ray import tune

from search.tune.study import _Trainable

#: Tune's own; not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default")]

CALLBACK = """
from pathlib import Path
from ray import tune

class Count(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        with Path("told.txt").open("a") as file:
            file.write(trial.trial_id + chr(10))

def make():
    return Count()
"""
TRIALS = 5


@pytest.mark.kill
def test_a_killed_study_ends_with_the_asked_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 of the driver in mid-run; the record is read by everything that reads records."""
    write_workload(tmp_path)
    (tmp_path / "mine.py").write_text(CALLBACK, encoding="utf-8")
    how = ["--engine=tune", f"--ray-address={session_address()}", "--workers=1"]
    how += ["--tune-callback=mine.py:make"]
    asked = [f"--trials={TRIALS}", "--finalists=1", "--target=m1", "--format=packed"]
    run = ["run", "net.py:workload", *asked, "--study=tuned", *how]
    location = StudyLocation(str(tmp_path / "search-runs"), "tuned")
    with (tmp_path / "log.txt").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "search.cli", *run], cwd=tmp_path, stdout=log, stderr=log
        )
        with driver:
            journal, deadline = location.journal_path, time.monotonic() + 300
            while not journal.exists() or trials_in(journal.read_bytes()) < 2:
                assert driver.poll() is None, (tmp_path / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.005)
            driver.send_signal(signal.SIGKILL)
    before = RecordReader.open(location).trials()
    assert 2 <= len(before) < TRIALS
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["resume", "tuned", *how, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == TRIALS, "nothing else is on stdout"
    reader = RecordReader.open(location)
    trials = reader.trials()
    assert trials[: len(before)] == before
    assert len(trials) == len({trial.identity.key for trial in trials}) == TRIALS
    assert all(trial.measurement for trial in trials)
    assert reader.finalists()
    assert reader.driver_state().state == "finished"
    study = optuna.load_study(study_name="tuned", storage=reader._storage)
    assert len(study.get_trials(deepcopy=False)) == TRIALS
    if importlib.util.find_spec("optuna_dashboard"):
        opened_by_dashboard(location, TRIALS)
    # Tune's own way to go on knows nothing of the record, so it is refused.
    (first, *_) = sorted((location.folder / "tune").glob("*/tuner.pkl"))
    with pytest.raises(InvalidRequest, match="use `search resume tuned --engine tune`"):
        tune.Tuner.restore(str(first.parent), trainable=_Trainable)
    assert main(["front", "tuned", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["front"]
    # The user's callback, and Tune's own loggers, which write when a run ends: not the killed one.
    logs = list((location.folder / "tune").glob("*/trial-*/progress.csv"))
    told = (tmp_path / "told.txt").read_text().split()
    # A trial that was recorded at the instant of the kill may not have reached a callback.
    assert len(told) == len(set(told)) >= TRIALS - 1
    assert len(logs) >= TRIALS - len(before)


def _snapshot(folder: Path) -> list[dict[str, Any]]:
    """Trials that Tune's snapshot knows, the searcher's own part; none while it is written."""
    try:
        json.loads(max(folder.glob("experiment_state-*")).read_text())
        generator = max(folder.glob("search_gen_state-*")).read_bytes()
        history: list[dict[str, Any]]
        history = json.loads(max(folder.glob("searcher-state-*")).read_text())["history"]
    except ValueError:  # none yet, or cut
        return []
    return history if generator.endswith(b".") else []  # a pickle's last byte


@pytest.mark.kill
def test_the_readme_s_tuner_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 once Tune has a snapshot with finished trials, then the same program again."""
    example = ROOT / "docs" / "examples"
    for name in ("my_net.py", "my_tuner.py"):
        (tmp_path / name).write_text((example / name).read_text(), encoding="utf-8")
    _train_example(tmp_path)
    trials = 6
    environment = {
        **os.environ,
        "RAY_ADDRESS": session_address(),
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "0",  # a snapshot whenever something changed
        "PYTHONPATH": str(ROOT),
    }
    run = [sys.executable, "my_tuner.py", str(trials)]
    with (tmp_path / "log.txt").open("w") as log:
        driver = subprocess.Popen(run, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        with driver:
            deadline = time.monotonic() + 200
            while True:
                assert driver.poll() is None, (tmp_path / "log.txt").read_text()
                assert time.monotonic() < deadline
                # Held still: Tune writes a snapshot in place, and one cut in mid-write is lost.
                driver.send_signal(signal.SIGSTOP)
                if learned := _snapshot(tmp_path / "tune-logs" / "mine"):
                    break
                driver.send_signal(signal.SIGCONT)
                time.sleep(0.05)
            driver.send_signal(signal.SIGKILL)
    assert len(learned) < trials
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["my_tuner.py", str(trials)])
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    capsys.readouterr()
    runpy.run_path(str(tmp_path / "my_tuner.py"), run_name="__main__")
    table, front = capsys.readouterr().out.split("on the front\n")
    assert "size_kb" in table
    assert table.rstrip().splitlines()[-1].startswith(str(trials - 1)), "no trial twice, none lost"
    sizes = [int(line.split()[-1]) for line in front.splitlines()]
    assert sizes
    assert all(0 < size <= 2000 for size in sizes)
    digests = {
        json.loads(path.read_text())["identity"]["policy_digest"]
        for path in (tmp_path / "tune-logs" / "mine").glob("*/params.json")
    }
    assert len(digests) >= trials
    assert {trial["identity"]["policy_digest"] for trial in learned} <= digests


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--engine=ray", "--tune-dir=x"], "--tune-dir is for --engine tune, but got --engine ray"),
        (["--engine=tune", "--ray-address=ray://h:1"], "must be auto, local or HOST:PORT with"),
        (["--engine=tune", "--tune-callback=no.py:f"], "must be path/to/file.py:function"),
    ],
)
def test_refusals(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_workload(tmp_path)
    where = [f"--ray-address={session_address()}", *flags]
    assert main(["run", f"{tmp_path / 'net.py'}:workload", *where]) == 2
    assert said in capsys.readouterr().err
