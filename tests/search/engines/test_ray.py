"""What only the Ray engine has: resources, a wait with an end, joining a cluster, same files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.kills import write_workload
from search.engines import Engine
from spaces import InvalidRequest
from tests.clusters import HAS_RAY, ray_engine, session_address
from tests.contracts.test_engines import divide, gone, nap

if not HAS_RAY:
    pytest.skip("the extra `ray` is not installed", allow_module_level=True)

from search.engines.ray import Needs
from search.engines.ray.cluster import places, shortage

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


def test_a_resource_no_node_has_is_named_in_time() -> None:
    engine = ray_engine(2, needs=Needs(resources={"target:m1": 1.0}), patience_s=2.0)
    try:
        started = time.monotonic()
        future = engine.submit(divide, 1, 1)
        with pytest.raises(InvalidRequest, match="needs 1 target:m1, but none of the 1 nodes has"):
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


# The command -------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "search.cli", "run", "net.py:workload", "--target=m1", *arguments],
        cwd=folder,
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


def test_same_files_as_the_local_engine(tmp_path: Path) -> None:
    """A fixed list of policies (one worker, so the proposals are the same), byte for byte."""
    write_workload(tmp_path)
    asked = ["--trials=6", "--finalists=2", "--workers=1", "--proposer=random", "--json"]
    asked += ["--format=packed"]
    files = {}
    for name, flags in {
        "local": ["--engine=local"],
        "ray": ["--engine=ray", f"--ray-address={session_address()}"],
    }.items():
        done = run(tmp_path, *asked, *flags, f"--study={name}")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["file"].endswith("best.packed")
        folder = tmp_path / "search-runs" / name / "artifacts"
        files[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(files["local"]) >= 2
    assert files["ray"] == files["local"]


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


ELASTIC = """
import time
from ray.cluster_utils import Cluster
from search.engines.ray import RayEngine
from tests.contracts.test_engines import divide, nap


def until(holds):
    deadline = time.monotonic() + 40
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert holds()


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
engine = RayEngine(None, address=cluster.address)
assert engine.workers == 1
node = cluster.add_node(num_cpus=1)
until(lambda: engine.workers == 2 and len(engine.pids) == 2)
assert len({f.result() for f in [engine.submit(nap, 0.5) for _ in range(4)]}) == 2
cluster.remove_node(node, allow_graceful=False)
until(lambda: engine.workers == 1)
assert engine.submit(divide, 4, 2).result(timeout=60) == 2
engine.kill()
cluster.shutdown()
print("elastic")
"""


def test_nodes_join_and_leave(tmp_path: Path) -> None:
    """In a process of its own: this one is in the session's cluster."""
    (tmp_path / "elastic.py").write_text(ELASTIC, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "elastic.py")],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout.strip().endswith("elastic"), done.stdout + done.stderr


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
