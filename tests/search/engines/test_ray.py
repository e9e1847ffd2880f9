"""What only the Ray engine has: resources, a wait with an end, joining a cluster, same files."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.kills import write_workload
from evaluators import tasks
from search.engines import Engine, LocalEngine
from search.location import StudyLocation
from search.session import Request, prepare, proposer_of, worker_context
from spaces import Failure, InvalidRequest, Measurement
from tests.clusters import HAS_RAY, ray_engine, session_address, session_cluster
from tests.contracts.test_engines import divide, gone, nap, set_up, setups_here

if not HAS_RAY:
    pytest.skip("the extra `ray` is not installed", allow_module_level=True)

from search.engines.ray import Needs
from search.engines.ray.cluster import places, shortage


def request(workload: str) -> Request:
    """A short study of the tiny network on a target that is not here."""
    return Request(
        workload=workload,
        target="m1",
        budget_kb=None,
        budget_download_kb=None,
        max_latency_ms=None,
        min_accuracy_percent=None,
        max_drop_points=None,
        proposer="random",
        seed=0,
        trials=9,
        fidelity=None,
        full_fidelity=None,
        finalists=0,
        device="auto",
        restrictions={},
        artifact_format="packed",
    )


NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "bigmem": 1.0}]


@pytest.mark.parametrize(
    ("needs", "fit"),
    [
        (Needs(), 6),
        (Needs(cpus=3), 1),
        (Needs(cpus=0.1), 60),
        (Needs(cpus=1, gpus=0.25), 4),
        (Needs(cpus=0.5, gpus=0.1), 8),
        (Needs(resources={"bigmem": 1.0}), 1),
        (Needs(gpus=1, resources={"bigmem": 1.0}), 0),
    ],
)
def test_how_many_trials_fit(needs: Needs, fit: int) -> None:
    assert places(NODES, needs) == fit


def test_a_shortage_names_the_resource() -> None:
    assert "needs 2 GPU, but none of the 2 nodes has it (the most is 1)" in shortage(
        NODES, Needs(gpus=2)
    )
    assert "1 CPU, 1 GPU, 1 bigmem, but no node has all of it together" in shortage(
        NODES, Needs(gpus=1, resources={"bigmem": 1.0})
    )
    assert "taken by something else" in shortage(NODES, Needs())


def devices(delay_s: float) -> str:
    time.sleep(delay_s)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_trials_share_gpus() -> None:
    """Two pretended GPUs, half of one for a trial: four workers, two on each."""
    engine = ray_engine(8, needs=Needs(cpus=0.5, gpus=0.5))
    try:
        assert engine.workers == 4
        seen = [f.result() for f in [engine.submit(devices, 1.0) for _ in range(4)]]
        assert sorted(seen) == ["0", "0", "1", "1"]
    finally:
        engine.kill()


class Unreadable:
    """A context that cannot be made again on a node, as where a file is missing there."""

    def __reduce__(self) -> Any:
        return _cannot, ()


def _cannot() -> None:
    raise FileNotFoundError("no such file on this node: weights.pt")


def test_a_configuration_that_does_not_arrive_is_the_task_s_error() -> None:
    """And nothing is evaluated under the one before."""
    with ray_engine(1) as engine:
        engine.configure(set_up, "first")
        assert engine.submit(divide, 1, 1).result() == 1
        engine.configure(set_up, Unreadable())
        for _ in range(2):
            with pytest.raises(Exception, match=r"no such file on this node: weights\.pt"):
                engine.submit(setups_here).result()
        engine.configure(set_up, "second")
        assert engine.submit(setups_here).result()[1] == ["first", "second"]


def test_a_resource_no_node_has_is_named_in_time() -> None:
    engine = ray_engine(2, needs=Needs(resources={"target:m1": 1.0}), patience_s=2.0)
    try:
        started = time.monotonic()
        future = engine.submit(divide, 1, 1)
        with pytest.raises(InvalidRequest, match="needs 1 target:m1, but none of the 3 nodes has"):
            future.result(timeout=20)
        assert time.monotonic() - started < 10
        with pytest.raises(InvalidRequest, match="target:m1"):
            engine.submit(divide, 1, 1).result(timeout=5)
    finally:
        engine.kill()


def test_its_workers_end_with_it_and_the_cluster_stays() -> None:
    engine = ray_engine(2)
    pids = [f.result() for f in [engine.submit(nap, 0.2) for _ in range(2)]]
    engine.kill()
    assert gone(pids)
    again: Engine = ray_engine(1)
    assert again.submit(divide, 4, 2).result() == 2
    again.shutdown()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert holds()


def test_nodes_join_and_leave() -> None:
    cluster = session_cluster()
    needs = Needs(cpus=0.5, resources={"joining": 1.0})
    first = cluster.add_node(num_cpus=1, resources={"joining": 1})
    engine = ray_engine(None, needs=needs)
    try:
        until(lambda: engine.workers == 1 and len(engine.pids) == 1)
        second = cluster.add_node(num_cpus=1, resources={"joining": 1})
        until(lambda: engine.workers == 2 and len(engine.pids) == 2)
        assert len({f.result() for f in [engine.submit(nap, 0.3) for _ in range(4)]}) == 2
        cluster.remove_node(first, allow_graceful=False)
        until(lambda: engine.workers == 1)
        assert engine.submit(divide, 4, 2).result(timeout=60) == 2
        cluster.remove_node(second, allow_graceful=False)
    finally:
        engine.kill()


def node_of_worker(delay_s: float) -> str:
    import ray

    time.sleep(delay_s)
    return str(ray.get_runtime_context().get_node_id())


def without_clock(outcome: Measurement | Failure) -> Measurement:
    """What must be equal: everything but how long things took."""
    assert isinstance(outcome, Measurement), outcome
    audit = tuple(replace(stage, seconds=0.0) for stage in outcome.audit)
    return replace(outcome, seconds={}, audit=audit)


def test_three_nodes_give_the_files_of_the_local_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fixed list of policies, byte for byte."""
    write_workload(tmp_path)
    monkeypatch.chdir(tmp_path)
    made: dict[str, dict[str, bytes]] = {}
    outcomes: dict[str, list[Measurement]] = {}
    engines = {"local": LocalEngine(1), "ray": ray_engine(3, needs=Needs(resources={"place": 1}))}
    try:
        location = StudyLocation(str(tmp_path), "local")
        prepared = prepare(request("net.py:workload"), engines["local"], location)
        profile = prepared.profiled.profile
        proposer = proposer_of(prepared.spec, profile, prepared.space, prepared.target)
        policies = [proposal.policy for proposal in proposer.propose([], [], 9)]
        for name, engine in engines.items():
            location = StudyLocation(str(tmp_path), name)
            engine.configure(tasks.setup, worker_context(prepared.spec, location, profile))
            fidelity = prepared.spec.fidelity
            asked = [(prepared.spec.identity(p, fidelity), p) for p in policies]
            futures = [engine.submit(tasks.evaluate, *each) for each in asked]
            outcomes[name] = [without_clock(future.result()) for future in futures]
            files = location.artifacts_dir.iterdir()
            made[name] = {path.name: path.read_bytes() for path in files}
        nodes = {f.result() for f in [engines["ray"].submit(node_of_worker, 0.3) for _ in range(3)]}
    finally:
        for engine in engines.values():
            engine.kill()
    assert len(nodes) == 3
    assert len(made["local"]) >= 5
    assert made["ray"] == made["local"]
    assert outcomes["ray"] == outcomes["local"]


# The command -------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "search.cli", "run", "net.py:workload", "--target=m1", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--engine=ray", "--ray-address=127.0.0.1:9"], "127.0.0.1:9: nothing answers there"),
        (["--engine=ray", "--ray-address=nowhere"], "must be auto, local, HOST:PORT or ray://"),
        (["--engine=ray", "--gpus-per-trial=1.5"], "--gpus-per-trial above 1 must be a whole"),
        (["--gpus-per-trial=0.5"], "--gpus-per-trial is for --engine ray, but got --engine local"),
        (["--engine=ray", "--resource-per-trial=GPU=1"], "must be NAME=AMOUNT"),
    ],
)
def test_refusals(flags: list[str], said: str, tmp_path: Path) -> None:
    write_workload(tmp_path)
    done = run(tmp_path, *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "search-runs").exists()


def test_no_such_resource_in_the_command(tmp_path: Path) -> None:
    write_workload(tmp_path)
    flags = ["--resource-per-trial=bigmem=1", "--ray-wait=2", f"--ray-address={session_address()}"]
    done = run(tmp_path, "--engine=ray", *flags)
    assert done.returncode == 2, done.stderr
    assert "no worker after 2 s (--ray-wait): a trial needs 1 bigmem, but none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kill
def test_a_killed_driver_leaves_no_orphans(tmp_path: Path) -> None:
    """Its workers belong to the cluster, which lives on."""
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\n"
        "from search.engines.ray import RayEngine\n"
        "from tests.contracts.test_engines import nap\n"
        "engine = RayEngine(2, address=sys.argv[1])\n"
        "pids = set()\n"
        "while len(pids) < 2:  # actors start one after the other\n"
        "    pids |= {f.result() for f in [engine.submit(nap, 0.3) for _ in range(2)]}\n"
        "print(*pids, flush=True)\n"
        "[f.result() for f in [engine.submit(nap, 60) for _ in range(2)]]\n",
        encoding="utf-8",
    )
    root = str(Path(__file__).parents[3])
    driver = subprocess.Popen(
        [sys.executable, str(script), session_address()],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert driver.stdout is not None
        pids = [int(word) for word in driver.stdout.readline().split()]
        assert len(set(pids)) == 2
        driver.send_signal(signal.SIGKILL)
    assert gone(pids, within_s=20)


def test_a_cluster_of_another_ray_is_refused(tmp_path: Path) -> None:
    """Ray compares versions when it joins; a node pretends to be of another one."""
    code = (
        "import sys, ray._version as v; v.version = '2.1.0'\n"
        "import ray; ray.__version__ = '2.1.0'\n"
        "from search.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    write_workload(tmp_path)
    flags = ["--engine=ray", f"--ray-address={session_address()}"]
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "net.py:workload", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot join the cluster: Version mismatch" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_token_than_the_cluster_s_is_named(tmp_path: Path) -> None:
    """Whether the session's cluster asks for one, or has none: Ray's own words tell neither."""
    write_workload(tmp_path)
    flags = ["--engine=ray", "--workers=1", f"--ray-address={session_address()}"]
    done = run(tmp_path, *flags, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 32)
    assert done.returncode == 2, done.stderr
    assert "this driver sends Ray's token" in done.stderr
    assert "Traceback" not in done.stderr
