"""Latencies from a node that is the target: what happens to each answer, and on a real cluster."""

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench.kills import trials_in, write_workload
from evaluators import tasks
from evaluators.messages import Profiled, WorkerContext
from search.cli.main import main
from search.engines import Engine
from search.engines.measuring import MeasuringEngine, WhenLost
from search.location import StudyLocation
from search.record import RecordReader
from spaces import Failure, InvalidRequest, Latency, Policy, StudyBroken, WorkerLost
from tests.clusters import (
    HAS_RAY,
    HAS_TUNE,
    join_command,
    joined,
    raylet_of,
    session_address,
)
from tests.s3 import s3_server
from tests.search.cli.conftest import Search
from tests.search.simulated import write_file
from tests.simulator import Simulator

needs_ray = pytest.mark.skipif(not HAS_RAY, reason="the extra `ray` is not installed")
needs_tune = pytest.mark.skipif(not HAS_TUNE, reason="the extra `tune` is not installed")
SIM = Simulator(layer_count=3)
POLICY = Policy()
MEASURED = Latency(0.5, 0.6, "measured", "torch-cpu on a-mac")
IDENTITY = SIM.spec.identity(POLICY, SIM.spec.fidelity)


class Scripted(Engine):
    """Gives, or raises, one thing after the other."""

    def __init__(self, *answers: Any) -> None:
        self.workers = 2
        self.answers, self.asked = list(answers), []

    def configure(self, setup: Callable[..., None], context: object) -> None:
        """Nothing to set up."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.asked.append((fn, *args))
        future: Future[Any] = Future()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future

    def kill(self) -> None:
        """Nothing to end."""


def measuring(
    folder: Path, times: Sequence[Any], trains: Sequence[Any] = (), when: WhenLost = "modelled"
) -> tuple[MeasuringEngine, list[str], Scripted]:
    measurement = SIM.measure(POLICY)
    write_file(folder, measurement.sha256)
    notices: list[str] = []
    node = Scripted(*times)
    trained = Scripted(*(trains or [measurement] * 3))
    engine = MeasuringEngine(trained, node, "m1", when, notices.append)
    engine.configure(tasks.setup, WorkerContext("simulated", "m1", "packed", str(folder)))
    return engine, notices, node


def evaluated(engine: Engine) -> Any:
    return engine.submit(tasks.evaluate, IDENTITY, POLICY).result(timeout=5)


def test_the_node_s_latency_takes_the_model_s_place(tmp_path: Path) -> None:
    engine, notices, node = measuring(tmp_path, [MEASURED])
    assert evaluated(engine) == replace(SIM.measure(POLICY), latency=MEASURED)
    assert node.asked == [(tasks.probe, POLICY, {"": b"weights"})], "the file's own bytes"
    assert not notices
    assert engine.workers == 3, "one file may be with the node while both others train"


def test_the_baseline_is_timed_there_too(tmp_path: Path) -> None:
    profiled = Profiled(SIM.profile, SIM.spec.metric, "torch", "cpu", 1000, 2000, 20000, 50, True)
    engine, _, node = measuring(tmp_path, [MEASURED], [profiled])
    profile = engine.submit(tasks.make_profile).result(timeout=5).profile
    assert (profile.baseline_latency_ms, profile.latency_source) == (0.5, "measured")
    assert profile.latency_device == "torch-cpu on a-mac"
    assert node.asked == [(tasks.probe_baseline,)]


def test_failures_and_other_tasks_pass(tmp_path: Path) -> None:
    failure = Failure("fc1", "prune", "no")
    engine, _, node = measuring(tmp_path, [], [failure, 7, WorkerLost("died")])
    assert evaluated(engine) == failure
    assert engine.submit(tasks.score_test, "0" * 64).result(timeout=5) == 7
    with pytest.raises(WorkerLost):
        evaluated(engine)
    assert not node.asked


def test_a_node_that_dies_is_replaced_once_for_a_file(tmp_path: Path) -> None:
    engine, notices, _ = measuring(tmp_path, [WorkerLost("died"), MEASURED])
    assert evaluated(engine).latency == MEASURED
    assert len(notices) == 1
    assert "the node that times files for m1 died" in notices[0]


def test_lost_for_good_is_modelled_and_said_once(tmp_path: Path) -> None:
    engine, notices, node = measuring(tmp_path, [MEASURED, InvalidRequest("no worker after 10 s")])
    assert [evaluated(engine).latency.source for _ in range(3)] == [
        "measured",
        "modelled",
        "modelled",
    ]
    assert len(notices) == 1
    assert "modelled: no worker after 10 s" in notices[0]
    assert len(node.asked) == 2, "nobody is asked again"
    assert engine.workers == 2


def test_lost_for_good_ends_a_run_that_waits(tmp_path: Path) -> None:
    engine, _, _ = measuring(tmp_path, [InvalidRequest("no worker after 9 s")], when="wait")
    with pytest.raises(StudyBroken, match=r"target:m1: no worker after 9 s; what was recorded"):
        evaluated(engine)


def test_a_file_that_cannot_be_timed_is_modelled_alone(tmp_path: Path) -> None:
    engine, notices, _ = measuring(tmp_path, [ValueError("odd"), MEASURED])
    assert [evaluated(engine).latency.source for _ in range(2)] == ["modelled", "measured"]
    assert notices == ["one latency for m1 is modelled: ValueError: odd"]


# The command, with a node on loopback ---------------------------------------------------------


@dataclass(frozen=True)
class Far:
    """A node that is rpi4 and can train one trial, but sees another file system in a folder.

    Attributes:
        folder: where studies run; its `search-runs` is hidden from the node, if possible.
        hidden: "" or why it is not hidden: mount namespaces are for root.
        bucket: both can use it.
    """

    folder: Path
    hidden: str
    bucket: str


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    """`search worker` in a mount namespace of its own."""
    write_workload(tmp_path)
    runs = tmp_path / "search-runs"
    runs.mkdir()
    join = join_command("rpi4", cpus=1)
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if tried.returncode == 0:
        mount = f"mount -t tmpfs none {runs} && exec {shlex.join(join)}"
        join = ["unshare", "--mount", "sh", "-c", mount]
    with s3_server() as bucket, joined(join, "rpi4"):
        yield Far(tmp_path, tried.stderr.decode().strip(), bucket)


@needs_ray
def test_a_node_that_does_not_see_the_folder(
    far: Far, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    """It is named and refused; with a bucket it does the work all the same."""
    if far.hidden:
        pytest.skip(f"no mount namespaces here: {far.hidden}")
    monkeypatch.chdir(far.folder)
    there = ["--resource-per-trial=target:rpi4=0.5", f"--ray-address={session_address()}"]
    asked = ["--trials=2", "--finalists=0", "--target=m1", "--format=packed", "--workers=1"]
    run = ["run", "net.py:workload", "--engine=ray", *there, *asked]
    refused = search(*run, "--study=refused")
    assert refused.code == 2
    said = " ".join(refused.err.split())
    assert f"does not see the driver's folder {far.folder / 'search-runs'}" in said
    done = search(*run, "--study=bucket", f"--artifacts={far.bucket}", "--json")
    assert done.json["trials"] == 2
    assert search("verify", done.json["file"]).code == 0


@pytest.fixture
def timing_node() -> Iterator[int]:
    """A node that is m1 and trains nothing; the process id of its raylet."""
    with joined(join_command("m1", cpus=0), "m1"):
        yield raylet_of("target:m1")


@needs_tune
@pytest.mark.filterwarnings("default")  # Tune's own; not ours to mend
@pytest.mark.usefixtures("timing_node")
def test_it_measures_for_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    """Files go from the trials to the driver's folder and from there to the node."""
    write_workload(tmp_path)
    monkeypatch.chdir(tmp_path)
    asked = ["--trials=2", "--finalists=0", "--format=packed", "--target=m1", "--workers=1"]
    how = ["--engine=tune", f"--ray-address={session_address()}"]
    place = "--resource-per-trial=place=0.5"
    run = search("run", "net.py:workload", *asked, *how, place, "--study=timed", "--json")
    assert run.json["trials"] == 2
    trials = RecordReader.open(StudyLocation("search-runs", "timed")).trials()
    assert [t.measurement.latency.source for t in trials if t.measurement] == ["measured"] * 2


@needs_ray
@pytest.mark.kill
def test_a_node_measures_until_it_is_killed(
    timing_node: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    search: Search,
) -> None:
    """Training is elsewhere: the node has no `place`."""
    write_workload(tmp_path)
    monkeypatch.chdir(tmp_path)
    location = StudyLocation("search-runs", "timed")
    # Enough that some are left when the loss is noticed, however quick this machine is.
    trials = 25

    def kill_after_two() -> None:
        deadline, journal = time.monotonic() + 100, location.journal_path
        while time.monotonic() < deadline:
            if journal.exists() and trials_in(journal.read_bytes()) >= 2:
                os.kill(timing_node, signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_after_two)
    killer.start()
    asked = [f"--trials={trials}", "--finalists=0", "--format=packed", "--target=m1", "--workers=1"]
    address = f"--ray-address={session_address()}"
    # Long enough for the process that trains to start, on a busy machine too: it is not lost.
    wait = "--ray-wait=10"
    how = ["--engine=ray", address, "--resource-per-trial=place=0.5", wait]
    run = search("run", "net.py:workload", *asked, *how, "--study=timed", "--json")
    killer.join()
    assert run.json["trials"] == trials
    assert "they are modelled: --engine ray: no worker after" in " ".join(run.err.split())
    reader = RecordReader.open(location)
    assert reader.profile.latency_source == "measured"
    latencies = [t.measurement.latency for t in reader.trials() if t.measurement]
    sources = [latency.source for latency in latencies]
    assert sources == sorted(sources), "measured, then modelled"
    assert sources[:2] == ["measured"] * 2
    assert sources[-1] == "modelled"
    assert latencies[0].device.startswith("torch-cpu on ")
    assert "m1, scaled to the baseline measured on torch-cpu on " in latencies[-1].device
    ended = search("resume", "timed", f"--trials={trials + 1}", *how, "--when-target-lost=wait")
    assert ended.code == 1
    assert "no worker after 10 s" in " ".join(ended.err.split())
    assert len(RecordReader.open(location).trials()) == trials


@needs_ray
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target=host", "--ray-address=127.0.0.1:1"], "--target must be a profile of other"),
        (["--target=m1", "--ray-address=127.0.0.1:9"], "127.0.0.1:9: nothing answers there"),
        (["--target=m1", "--ray-address=auto"], "must be HOST:PORT of a cluster"),
    ],
)
def test_refusals(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", *flags]) == 2
    assert said in capsys.readouterr().err
