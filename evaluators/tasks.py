"""The worker's doors: functions an engine can send by name, and the plain values they exchange.

Importing this module imports no framework; the first call in a worker does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spaces import Failure, Identity, Measurement, Metric, ModelProfile, Policy

if TYPE_CHECKING:
    from evaluators.backends.pytorch.worker import Worker

__all__ = [
    "Profiled",
    "Verified",
    "WorkerContext",
    "evaluate",
    "make_profile",
    "score_test",
    "setup",
    "verify",
]


@dataclass(frozen=True)
class WorkerContext:
    """What a worker must know once.

    Attributes:
        workload, target: by name; the worker resolves them itself.
        artifact_format: e.g. "packed".
        artifacts_dir: where files are written.
        device: "auto", "cpu" or "cuda".
        profile: None until it is made.
    """

    workload: str
    target: str
    artifact_format: str
    artifacts_dir: str
    device: str = "auto"
    profile: ModelProfile | None = None


@dataclass(frozen=True)
class Profiled:
    """The profile and what else the driver must know of a workload.

    Attributes:
        search_fidelity, full_fidelity: the recipe's defaults, in training samples.
        has_test: whether there is a test split to report on.
    """

    profile: ModelProfile
    metric: Metric
    backend: str
    device: str
    train_samples: int
    search_fidelity: int
    full_fidelity: int
    batch_size: int
    has_test: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """What a fresh decode of a file gave."""

    size_bytes: int
    sha256: str
    metric: float
    metric_se: float
    metric_samples: int


_worker: "Worker | None" = None


def setup(context: WorkerContext) -> None:
    """Load the workload, or take a changed context over. Called once in each worker process.

    Raises:
        InvalidRequest: the workload or the target cannot be had.
    """
    global _worker  # noqa: PLW0603 -- a process has one worker; this is where it lives
    from evaluators.backends.pytorch.worker import Worker  # noqa: PLC0415 -- torch, in worker processes only

    _worker = Worker(context) if _worker is None else _worker.with_context(context)


def _require_worker() -> "Worker":
    if _worker is None:
        raise RuntimeError("setup(context) must run in this process first")
    return _worker


def make_profile() -> Profiled:
    """See `Worker.make_profile`."""
    return _require_worker().make_profile()


def evaluate(identity: Identity, policy: Policy) -> Measurement | Failure:
    """See `Worker.evaluate`."""
    return _require_worker().evaluate(identity, policy)


def score_test(sha256: str) -> tuple[float, float, int]:
    """See `Worker.score_test`."""
    return _require_worker().score_test(sha256)


def verify(path: str) -> Verified:
    """See `Worker.verify`."""
    return _require_worker().verify(Path(path))
