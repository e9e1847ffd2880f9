"""One Ray cluster for a whole test session: a start takes seconds, an engine then milliseconds."""

import importlib
import importlib.util
from typing import Any

from search.engines import Engine

__all__ = ["HAS_RAY", "HAS_TUNE", "ray_engine", "session_address", "session_cluster"]

HAS_RAY = importlib.util.find_spec("ray") is not None
HAS_TUNE = HAS_RAY and importlib.util.find_spec("pyarrow") is not None
_started: list[Any] = []


def session_cluster() -> None:
    """Start it, once a process; Ray ends it with the process.

    It pretends to have 4 CPUs and 2 GPUs: no test may need more cores than the machine has.
    """
    if not _started:
        importlib.import_module("search.engines.ray")  # first: it decides how Ray is imported
        import ray

        quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        _started.append(ray.init(address="local", num_cpus=4, num_gpus=2, **quiet))


def session_address() -> str:
    """HOST:PORT, for commands in processes of their own."""
    session_cluster()
    import ray

    return str(ray.get_runtime_context().gcs_address)


def ray_engine(workers: int, **options: Any) -> Engine:
    """An engine on the session's cluster."""
    session_cluster()
    from search.engines.ray import RayEngine

    return RayEngine(workers, **options)
