"""Where fine-tuning runs and in which precision. Scoring of files is always fp32 on the CPU."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from spaces import InvalidRequest

__all__ = ["DEVICES", "Precision", "choose_device", "choose_precision"]

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Precision:
    """Automatic mixed precision of the forward pass.

    Attributes:
        device: "cpu" or "cuda".
        dtype: of matrix products; None = fp32 throughout.
        scales_loss: fp16's narrow range needs its gradients scaled, bf16's does not.
    """

    device: str
    dtype: torch.dtype | None
    scales_loss: bool

    def autocast(self) -> AbstractContextManager[object]:
        """A context in which the forward pass runs in this precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)


def choose_device(requested: str, cuda_available: bool) -> str:
    """The name to give to torch: "cpu" or "cuda".

    Raises:
        InvalidRequest: an unknown name, or "cuda" where there is none.
    """
    if requested not in DEVICES:
        raise InvalidRequest(f"--device must be one of {', '.join(DEVICES)}, but got {requested}")
    if requested == "cuda" and not cuda_available:
        raise InvalidRequest("--device cuda: this worker's torch sees no CUDA device; use cpu")
    if requested == "auto":
        return "cuda" if cuda_available else "cpu"
    return requested


def choose_precision(device: str, cuda_has_bf16: bool) -> Precision:
    """bf16 on a GPU that has it, else fp16 with scaled gradients; fp32 on a CPU."""
    if device == "cpu":
        return Precision("cpu", None, scales_loss=False)
    if cuda_has_bf16:
        return Precision(device, torch.bfloat16, scales_loss=False)
    return Precision(device, torch.float16, scales_loss=True)
