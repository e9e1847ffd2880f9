"""The backends by name, and how a worker gets the one that its workload asks for."""

from typing import TYPE_CHECKING

from evaluators.messages import WorkerContext
from evaluators.workloads.registry import backend_of, load_workload
from spaces import InvalidRequest

if TYPE_CHECKING:
    from evaluators.backends.base import AnyWorkload, Backend

__all__ = ["open_backend"]


def open_backend(context: WorkerContext) -> "Backend":
    """Load the context's workload in its framework.

    The framework is prepared (threads, seeds) before the user's code runs, which may train.

    Raises:
        InvalidRequest: the workload or the device cannot be had, or the framework is missing.
    """
    match backend_of(context.workload):
        case "keras":
            from evaluators.backends.keras.process import load  # noqa: PLC0415 -- TensorFlow
        case _:
            from evaluators.backends.pytorch.process import load  # noqa: PLC0415 -- torch
    return _backend(load(lambda: load_workload(context.workload)), context.device)


def _backend(workload: "AnyWorkload", device: str) -> "Backend":
    match workload.backend:
        case "torch":
            from evaluators.backends.pytorch.backend import TorchBackend  # noqa: PLC0415

            return TorchBackend(workload, device)
        case "keras":
            from evaluators.backends.keras.backend import KerasBackend  # noqa: PLC0415

            return KerasBackend(workload, device)
    raise InvalidRequest(f"workload {workload.name}: there is no backend {workload.backend!r}")
