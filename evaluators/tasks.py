"""The worker's doors: functions an engine can send by name.

Importing this module imports no framework; the first call in a worker does.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluators.artifacts.files import Content
from evaluators.messages import Profiled, Scored, Verified, WorkerContext
from evaluators.shared_folder import check_token
from spaces import Failure, Identity, Latency, Measurement, Policy

if TYPE_CHECKING:
    from evaluators.calibration import ProbeTime
    from evaluators.worker import Worker

__all__ = [
    "baseline_sha256",
    "evaluate",
    "make_profile",
    "probe",
    "probe_baseline",
    "score_samples",
    "score_test",
    "setup",
    "time_probe",
    "verify",
]


_worker: "Worker | None" = None


def setup(context: WorkerContext) -> None:
    """Load the workload, or take a changed context over. Called once in each worker process.

    Raises:
        InvalidRequest: the workload or the target cannot be had, or the study's folder is not
            the driver's.
    """
    global _worker  # noqa: PLW0603 -- a process has one worker; this is where it lives
    if context.token:
        check_token(Path(context.artifacts_dir).parent, context.token)
    from evaluators.worker import Worker  # noqa: PLC0415 -- numba, in worker processes only

    _worker = Worker(context) if _worker is None else _worker.with_context(context)


def _require_worker() -> "Worker":
    if _worker is None:
        raise RuntimeError("setup(context) must run in this process first")
    return _worker


def make_profile() -> Profiled:
    """See `Worker.make_profile`."""
    return _require_worker().make_profile()


def baseline_sha256() -> str:
    """See `Worker.baseline_sha256`."""
    return _require_worker().baseline_sha256()


def evaluate(identity: Identity, policy: Policy) -> Measurement | Failure:
    """See `Worker.evaluate`."""
    return _require_worker().evaluate(identity, policy)


def score_test(sha256: str) -> Scored | None:
    """See `Worker.score_test`."""
    return _require_worker().score_test(sha256)


def score_samples(sha256: str) -> np.ndarray:
    """See `Worker.score_samples`."""
    return _require_worker().score_samples(sha256)


def probe(policy: Policy, content: Content) -> Latency:
    """See `Worker.probe`."""
    return _require_worker().probe(policy, content)


def probe_baseline() -> Latency:
    """See `Worker.probe_baseline`."""
    return _require_worker().probe_baseline()


def verify(path: str) -> Verified:
    """See `Worker.verify`."""
    return _require_worker().verify(Path(path))


def time_probe(number: int, artifact_format: str, kinds: tuple[str, ...]) -> "list[ProbeTime]":
    """See `evaluators.backends.pytorch.probes.time_probe`; needs no `setup`."""
    from evaluators.backends.pytorch import probes, process  # noqa: PLC0415 -- torch

    return process.load(lambda: probes.time_probe(number, artifact_format, kinds))
