"""Studies as jobs, on a real Ray head with its job server, and what is refused before any job."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.location import StudyLocation
from search.record import Record
from tests.clusters import HAS_RAY
from tests.search.cli.conftest import Search, write_net

if not HAS_RAY:
    pytest.skip("the extra `ray` is not installed", allow_module_level=True)

#: Ray passes aiohttp an argument that aiohttp no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")

NOWHERE = "--address http://127.0.0.1:9"
START_S = 60.0
STUDY = "--study clouds --target m1 --format packed --workers 1 --finalists 0"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The job server of a head that this module starts and ends."""
    port, dashboard, agent, client = free_ports(4)
    # Sockets have short paths, so not pytest's folder.
    place = Path("/tmp") / f"ray-jobs-{os.getpid()}"
    here = str(Path(sys.executable).parent)
    command = [
        str(Path(here) / "ray"), "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=true",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}", "--num-cpus=2", f"--temp-dir={place}",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Whether there is a token depends on which tests ran before.
        "RAY_AUTH_MODE": "disabled",
    }
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as out:
        head = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        until = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        # --block passes the signal on to all of the node's processes.
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(timeout=20)
        finally:
            if head.poll() is None:
                os.killpg(head.pid, signal.SIGKILL)
            shutil.rmtree(place, ignore_errors=True)


def test_a_job_is_followed_and_its_exit_code_is_the_runs(
    search: Search, address: str, tmp_path: Path
) -> None:
    """From a folder that is uploaded; the budget is out of reach, so the run ends with 3."""
    write_net(tmp_path / "mine")
    runs = tmp_path / "runs"
    said = search(
        *f"submit --address {address} --working-dir {tmp_path / 'mine'} run net.py:workload "
        f"{STUDY} --budget-kb 0.01 --max-drop 0 --trials 2 --storage {runs}".split()
    )
    assert said.code == 3, said
    assert "Budget not met" in said.out
    assert "search status search-clouds --address" in said.err
    record = Record.open(StudyLocation(str(runs), "clouds"))
    assert len(record.trials()) == 2
    record.close()
    status = json.loads(search(*f"status clouds --address {address} --json".split()).out)
    assert status["exit_code"] == 3
    assert status["storage"] == str(runs)
    assert status["last_lines"]
    assert "search-clouds" in search(*f"status --address {address}".split()).out
    assert search(*f"status other --address {address}".split()).code == 2


def test_a_stopped_job_keeps_what_finished(search: Search, address: str, tmp_path: Path) -> None:
    net = write_net(tmp_path)
    runs = tmp_path / "runs"
    study = STUDY.replace("clouds", "long")
    said = search(
        *f"submit --address {address} --detach run {net}:workload {study} "
        f"--fidelity 300000 --trials 50 --storage {runs}".split()
    )
    assert said.code == 0, said
    location = StudyLocation(str(runs), "long")
    until = time.monotonic() + 60
    while not (location.journal_path.exists() and location.journal_path.stat().st_size > 5000):
        assert time.monotonic() < until, search(
            *f"status long --address {address} --json".split()
        ).out
        time.sleep(0.3)
    stopped = search(*f"stop long --address {address}".split())
    assert stopped.code == 0, stopped
    assert f"search submit resume long --storage {runs}" in " ".join(stopped.out.split())
    record = Record.open(location)  # whole, and no driver holds it
    assert len(record.trials()) < 50
    record.close()
    assert "is over" in search(*f"stop long --address {address}".split()).out


REFUSED = {
    "submit": "submit must be followed by a run",
    "submit front x": "submit must be followed by a run.*got front x",
    "submit run": "--storage of a job must be a folder that every node sees.*got 'search-runs'",
    "submit run --storage sqlite:///x.db": "--storage of a job must be a folder that every node",
    "submit run --storage /x --dry-run": "submit has no --dry-run",
    "submit run --storage /x --engine in-process": "submit runs with --engine ray",
    "submit resume --storage /x": "submit resume must name a study",
    "submit run net.py:workload --storage /x": "by the absolute path at which every node sees it",
    "submit --working-dir nowhere run net.py:w --storage /x": "there is no net.py in --working-dir",
    "submit --working-dir nowhere run --storage /x": "--working-dir must be a folder",
    "submit run --storage /x --target m9": "target must be one of",
    f"submit {NOWHERE} run --storage /x": "--address http://127.0.0.1:9: nothing answers there",
    f"status {NOWHERE}": "nothing answers there",
    "stop --address here": "--address must be that of the cluster's dashboard.*got 'here'",
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused_before_any_job(search: Search, words: str) -> None:
    said = search(*words.split())
    assert said.code == 2
    assert "Traceback" not in said.err
    assert re.search(REFUSED[words], " ".join(said.err.split()))
