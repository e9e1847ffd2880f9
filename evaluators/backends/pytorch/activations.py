"""8-bit activations: the input of each compressible layer is rounded to a per-tensor grid."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ActivationGrid", "add_activation_grid", "calibrate"]


@dataclass(frozen=True, slots=True)
class ActivationGrid:
    """Values (q - zero_point) * scale with 0 <= q <= 255; zero is exact.

    Attributes:
        scale: of one step.
        zero_point: the q that stands for 0.
    """

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.zero_point <= 255):
            raise ValueError(f"not an 8-bit grid: scale {self.scale}, zero point {self.zero_point}")

    def round(self, values: Tensor) -> Tensor:
        """The nearest value on the grid; gradient straight through inside the range."""
        low, high = -self.zero_point * self.scale, (255 - self.zero_point) * self.scale
        clipped = values.clamp(low, high)
        rounded = torch.round(clipped.detach() / self.scale) * self.scale
        return clipped + (rounded - clipped).detach()


def add_activation_grid(module: nn.Module, grid: ActivationGrid) -> None:
    """From now on the module's first input is rounded."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (grid.round(inputs[0]), *inputs[1:])

    module.register_forward_pre_hook(hook)


@torch.no_grad()
def calibrate(
    model: nn.Module, layers: dict[str, nn.Module], batch: Tensor
) -> dict[str, ActivationGrid]:
    """Grids from the range each layer's input takes on one batch.

    Args:
        model: in eval mode.
        layers: name -> module whose input is wanted.
        batch: prepared training inputs.
    """
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = inputs[0].amin().item(), inputs[0].amax().item()
            before = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(low, before[0]), max(high, before[1]))

        return module.register_forward_pre_hook(hook)

    handles = [watch(name, module) for name, module in layers.items()]
    try:
        model(batch.clone())
    finally:
        for handle in handles:
            handle.remove()
    return {name: _grid(low, high) for name, (low, high) in ranges.items()}


def _grid(low: float, high: float) -> ActivationGrid:
    scale = (high - low) / 255 or 1.0
    return ActivationGrid(scale, round(-low / scale))
