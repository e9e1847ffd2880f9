"""One Ray cluster for a whole test session: a start takes seconds, an engine then milliseconds."""

import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from search.engines import Engine

__all__ = [
    "HAS_RAY",
    "HAS_TUNE",
    "add_member",
    "end_session_cluster",
    "join_command",
    "joined",
    "ray_engine",
    "raylet_of",
    "ready_ray_engine",
    "session_address",
    "session_cluster",
]

HAS_RAY = importlib.util.find_spec("ray") is not None
HAS_TUNE = HAS_RAY and importlib.util.find_spec("pyarrow") is not None
if HAS_RAY:  # before any test imports Ray: it decides whether Ray sends its token
    importlib.import_module("search.engines.ray")
_started: list[Any] = []


def session_cluster() -> Any:
    """Three emulated nodes, started once a process and joined by it; they end with it.

    They pretend to have 4 CPUs and 2 GPUs: no test may need more cores than the machine has. Each
    has one `place`, which spreads workers that need one over all three; all but the head have one
    `member`.
    """
    if not _started:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # By default at nice 15: beside a process that computes, a test would wait for ever.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 -- Ray's own name
        import ray
        from ray.cluster_utils import Cluster

        place = {"place": 1}
        # A killed node is missed after seconds, not a quarter of a minute.
        system = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 1000}
        head = {
            "num_cpus": 2,
            "num_gpus": 2,
            "resources": place,
            "include_dashboard": False,
            "include_log_monitor": False,  # nobody reads the workers' lines
            "dashboard_port": None,  # any that is free
            "_system_config": system,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            add_member(cluster)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        _started.append(cluster)
    return _started[0]


def add_member(cluster: Any) -> None:
    """A node beside the head."""
    cluster.add_node(num_cpus=1, resources={"place": 1, "member": 1})


def end_session_cluster() -> None:
    """Its daemons take an eighth of a core for as long as they stand."""
    if _started:
        import ray

        ray.shutdown()
        _started.pop().shutdown()


def session_address() -> str:
    """HOST:PORT, for commands in processes of their own."""
    return str(session_cluster().address)


def ray_engine(workers: int | None, **options: Any) -> Engine:
    """An engine on the session's cluster."""
    session_cluster()
    from search.engines.ray import RayEngine

    return RayEngine(workers, **options)


def ready_ray_engine(workers: int) -> Engine:
    """The same once all of its workers run: on three nodes they start at different times."""
    engine: Any = ray_engine(workers)
    deadline = time.monotonic() + 60
    while len(engine.pids) < workers and time.monotonic() < deadline:
        time.sleep(0.01)
    return engine


def join_command(target: str, cpus: int) -> list[str]:
    """`search worker`, the real command, for the session's cluster."""
    join = [sys.executable, "-m", "search.cli", "worker", f"--target={target}", f"--cpus={cpus}"]
    return [*join, f"--ray-address={session_address()}"]


@contextlib.contextmanager
def joined(command: Sequence[str], target: str) -> Iterator[None]:
    """A node on loopback that is a target, from when it has joined to the end of the block.

    Args:
        command: `join_command`, or something around it.
        target: what it says it is.
    """
    node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert node.stderr is not None
    with node:
        assert f"this machine is target:{target} in" in node.stderr.readline()
        yield
        node.send_signal(signal.SIGTERM)


def raylet_of(resource: str) -> int:
    """The process of the node that offers a resource: it stands on its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"raylet") and any(resource.encode() in w for w in words):
                    return int(entry.name)
    raise AssertionError(f"no raylet with {resource}")
