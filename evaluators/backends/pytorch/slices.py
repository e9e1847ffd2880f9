"""Which elements of each tensor are left when channels are removed.

A network whose tensors hold their own element numbers loses its channels like any other; the
numbers that are left say where each element came from, whatever the layers between did.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.artifacts.base import Slices
from evaluators.backends.pytorch.channels import remove_channels
from evaluators.backends.pytorch.export import plain_state

__all__ = ["slices_of"]

#: float32 holds every whole number up to 2^24: a number crosses as two halves of 20 bits.
_HALF = 1 << 20


def slices_of(
    model: nn.Module, sample: Tensor, dead: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Tensor -> flat positions in the whole tensor of the elements that are left.

    Args:
        model: the whole network, on the CPU.
        sample: (1, ...) prepared input.
        dead: first layer of each channel group -> output channels to remove.

    Returns:
        Only tensors that lose elements, e.g. for (4, 2) without row 1: [[0, 1], [4, 5], [6, 7]].
    """
    if not any(dead.values()):
        return {}
    low = _numbers_left(model, sample, dead, "low")
    high: Slices = {}
    if any(value.numel() > _HALF for value in plain_state(model).values()):
        high = _numbers_left(model, sample, dead, "high")
    whole = plain_state(model)
    slices: dict[str, np.ndarray] = {}
    for name, numbers in low.items():
        if numbers.shape != tuple(whole[name].shape):
            slices[name] = numbers + _HALF * high.get(name, np.int64(0))
    return slices


def _numbers_left(
    model: nn.Module,
    sample: Tensor,
    dead: Mapping[str, Sequence[int]],
    half: Literal["low", "high"],
) -> Slices:
    numbered = copy.deepcopy(model)
    with torch.no_grad():
        for values in plain_state(numbered).values():
            numbers = torch.arange(values.numel())
            part = numbers % _HALF if half == "low" else numbers // _HALF
            values.copy_(part.view(values.shape))
    left = plain_state(remove_channels(numbered, sample, dead))
    return {name: np.rint(values.numpy()).astype(np.int64) for name, values in left.items()}
