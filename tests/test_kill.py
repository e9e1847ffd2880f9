"""kill -9, Ctrl-C and SIGTERM of the real command; `python -m bench.kills` is the long version."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.kills import PHASES, VICTIMS, Study, kill_once, trials_in, workers_of
from bench.kills import write_workload as write_slow_workload
from search.engines import InProcessEngine
from search.record import RecordReader

pytestmark = pytest.mark.kill


@pytest.mark.parametrize("victim", VICTIMS)
def test_nothing_is_lost_and_nothing_is_twice(victim: str, tmp_path: Path) -> None:
    """Another phase each time the suite runs; the seed in a failure's message makes it again."""
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    phase = rng.choice(PHASES)
    killed = kill_once(tmp_path, victim, phase, rng, InProcessEngine())
    assert not killed.wrong, f"seed {seed}, {phase}: " + "\n".join(killed.wrong)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on(sent: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C as a terminal sends it, to the whole process group; SIGTERM as a cluster does."""
    write_slow_workload(tmp_path)
    study = Study(tmp_path)
    driver = study.run(seed=3)
    deadline = time.monotonic() + 120
    while trials_in(study.journal_bytes()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = workers_of(driver.pid)
    os.killpg(driver.pid, sent) if sent == signal.SIGINT else driver.send_signal(sent)
    code = driver.wait(timeout=30)
    log = study.log()
    assert code == 130, log
    assert "Traceback" not in log
    assert "interrupted after" in log
    assert "Front (accuracy, bytes, latency)" in log
    assert f"go on with: search resume victim --storage {tmp_path}/runs" in log
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    reader = RecordReader.open(study.location)
    before = reader.trials()
    assert 3 <= len(before) < 8
    assert reader.driver_state().state == "resumable"
    if sent == signal.SIGINT:  # after a kill -9 it does too: once is enough here
        assert study.resume() == 0
        assert reader.trials()[: len(before)] == before
        assert len(reader.trials()) == 8
        assert reader.driver_state().state == "finished"


def test_two_drivers_and_a_full_disk(tmp_path: Path) -> None:
    """A second driver is refused and harms nothing; a disk that fills up stops the first."""
    write_slow_workload(tmp_path)
    study = Study(tmp_path)
    # Files of more than 40 kB cannot be written, as on a full disk; the limit is inherited.
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
        "from search.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    storage = str(tmp_path / "runs")
    asked = [
        "net.py:workload",
        "--target=m1",
        "--format=packed",
        "--trials=40",
        "--study=victim",
        "--workers=1",
    ]
    driver = subprocess.Popen(
        [sys.executable, "-c", code, "run", *asked, "--storage", storage],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while trials_in(study.journal_bytes()) < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    # Held still, or on a busy machine the first is over before the second has started.
    driver.send_signal(signal.SIGSTOP)
    second = subprocess.run(
        [sys.executable, "-m", "search.cli", "resume", "victim", "--storage", storage],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    driver.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert second.stderr.startswith("search: error: study victim in ")
    assert f"process {driver.pid} on " in second.stderr
    assert "a study has one driver at a time" in second.stderr
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert (out, "Traceback" in err) == ("", False)
    last = err.strip().splitlines()[-1]
    assert last.startswith("search: error: study victim in ")
    assert "File too large; what was recorded before is intact" in last
    reader = RecordReader.open(study.location)
    finished = reader.trials()
    assert 1 <= len(finished) < 40
    assert all(json.loads(trial.to_json()) for trial in finished)
    # With room again it goes on from there.
    process = study.start("resume", "victim", "--storage", storage, "--trials", "20")
    assert process.wait(timeout=120) == 0
    assert reader.trials()[: len(finished)] == finished
    assert len(reader.trials()) == 20
