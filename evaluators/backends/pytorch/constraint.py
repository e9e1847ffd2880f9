"""The constraints established on a layer, as parametrizations of its weight and bias.

A layer's LATENT weight is what the optimiser moves; its EFFECTIVE weight, which the forward pass
sees and the file stores, satisfies every constraint established so far. Gradients pass straight
through the rounding (Bengio et al. 2013, arXiv 1308.3432).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "BiasConstraint",
    "Grid",
    "NormConstraint",
    "WeightConstraint",
    "channels_last",
    "fit_grid",
]


@dataclass(frozen=True)
class Grid:
    """Values `level * scale` with whole levels `low <= level <= high`; level 0 is exactly 0.

    An asymmetric grid with zero point z has the levels -z .. 2^bits - 1 - z, so no zero point is
    needed beside the levels.

    Attributes:
        scale: (1,) or (channels,).
        low, high: like `scale`, whole numbers.
        bits: of a level.
    """

    scale: Tensor
    low: Tensor
    high: Tensor
    bits: int

    def levels(self, values: Tensor) -> Tensor:
        """The nearest levels, as floats; `values` has the channels first."""
        scale, low, high = (self._along(x, values) for x in (self.scale, self.low, self.high))
        return torch.round(values / scale).clamp(low, high)

    def round(self, values: Tensor) -> Tensor:
        """The nearest values on the grid, gradient passed straight through inside the range."""
        scale, low, high = (self._along(x, values) for x in (self.scale, self.low, self.high))
        clipped = values.clamp(low * scale, high * scale)
        rounded = torch.round(values.detach() / scale).clamp(low, high) * scale
        return _straight_through(clipped, rounded)

    def exact(self, values: Tensor) -> Tensor:
        """As `round`, without a gradient and with exactly the file's arithmetic."""
        return self.levels(values) * self._along(self.scale, values)

    @staticmethod
    def _along(x: Tensor, values: Tensor) -> Tensor:
        return x if x.numel() == 1 else x.view(-1, *[1] * (values.dim() - 1))


def fit_grid(values: Tensor, bits: int, scheme: str, granularity: str) -> Grid:
    """The grid with the least squared rounding error among 32 clipping ranges.

    Clipping the tails costs little and refines every other value; at 2 to 4 bits it halves the
    error (Banner et al. 2019, arXiv 1810.05723, solve the same trade-off in closed form).

    Args:
        values: (channels, ...) effective weights.
        bits: 2 to 8.
        scheme: "symmetric" or "asymmetric".
        granularity: "tensor" or "channel".
    """
    flat = values.detach().reshape(values.shape[0] if granularity == "channel" else 1, -1)
    lowest = flat.amin(dim=1).clamp(max=0.0)
    highest = flat.amax(dim=1).clamp(min=0.0)
    best: Grid | None = None
    best_error = torch.full((len(flat),), float("inf"))
    for ratio in torch.linspace(1.0, 0.15, 32).tolist():
        grid = _grid(lowest * ratio, highest * ratio, bits, scheme)
        error = (grid.exact(flat) - flat).square().sum(dim=1)
        if best is None:
            best, best_error = grid, error
        else:
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best = Grid(
                torch.where(better, grid.scale, best.scale),
                torch.where(better, grid.low, best.low),
                torch.where(better, grid.high, best.high),
                bits,
            )
    assert best is not None
    return best


def _grid(lowest: Tensor, highest: Tensor, bits: int, scheme: str) -> Grid:
    if scheme == "symmetric":
        top = float(2 ** (bits - 1) - 1)
        scale = torch.maximum(-lowest, highest) / top
        high = torch.full_like(scale, top)
        low = -high
    else:
        count = float(2**bits - 1)
        scale = (highest - lowest) / count
        safe = torch.where(scale > 0, scale, torch.ones_like(scale))
        low = torch.round(lowest / safe)
        high = low + count
    # An all-zero channel has no scale; any positive one stores it.
    return Grid(torch.where(scale > 0, scale, torch.ones_like(scale)), low, high, bits)


class _StraightThrough(torch.autograd.Function):
    """Forward: the rounded values, to the last bit. Backward: as if nothing was rounded."""

    @staticmethod
    def forward(_: Any, __: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    result: Tensor = _StraightThrough.apply(values, rounded)  # type: ignore[no-untyped-call]
    return result


def channels_last(weight: Tensor) -> Tensor:
    """The same values, a Conv2d's in the layout its kernels are fastest in, also on CPUs.

    On one thread of an AMD EPYC a training step of LeNet-5 takes 0.62 of the time, of the tutorial
    CNN 0.67, of ResNet-20 0.89; outputs differ by the order of sums alone.
    """
    return weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight


def _through_half(values: Tensor) -> Tensor:
    return _straight_through(values, values.detach().half().float())


class WeightConstraint(nn.Module):
    """latent weight -> effective weight, under what the stages so far have established.

    Attributes:
        mask: (weight shape) of 0.0 and 1.0, or None before prune.
        indices: (weight shape) int64, 0 = zero, 1..K = centroid, or None before cluster.
        centroids: (K,) parameter, or None before cluster.
        grid: of the weights, or of the centroids where there are any; None before quantize.
        bits: 32; 16 = half precision; less = `grid`.
        regrows: whether masked weights are 0 in the forward pass but get their gradients (during
            the prune stage's ramp only).
        moving: whether indices follow the latent weight (during the cluster stage only).
    """

    mask: Tensor | None
    indices: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", None)
        self.register_buffer("indices", None)
        self.centroids: nn.Parameter | None = None
        self.grid: Grid | None = None
        self.bits = 32
        self.regrows = False
        self.moving = False

    def forward(self, latent: Tensor) -> Tensor:
        """(weight shape) -> (weight shape)."""
        if self.centroids is not None:
            assert self.indices is not None
            values: Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
                latent, self.codebook(), self.indices
            )
        else:
            values = self._stored(latent)
        if self.mask is not None and self.regrows:
            values = _straight_through(values, values.detach() * self.mask)
        elif self.mask is not None:
            values = values * self.mask
        return channels_last(values)

    def dense(self, latent: Tensor) -> Tensor:
        """As `forward` would be without the mask, before cluster. (weight shape)."""
        return self._stored(latent)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The latent weight starts as the weight."""
        return weight

    def codebook(self) -> Tensor:
        """(K,) non-zero values as stored: rounded to the grid or half precision, if any."""
        assert self.centroids is not None
        return self._stored(self.centroids)

    def _stored(self, values: Tensor) -> Tensor:
        if self.grid is not None:
            return self.grid.round(values)
        return _through_half(values) if self.bits == 16 else values

    @torch.no_grad()
    def reassign(self, latent: Tensor) -> None:
        """Each surviving weight goes to the nearest centroid of its latent value."""
        assert self.centroids is not None
        ordered, order = self.centroids.sort()
        middles = (ordered[1:] + ordered[:-1]) / 2
        indices = order[torch.bucketize(latent, middles)] + 1
        self.indices = indices if self.mask is None else indices * self.mask.long()


class _Lookup(torch.autograd.Function):
    """indices -> codebook values; gradient to the codebook (summed) and straight to the latent."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, codebook: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.entries = len(codebook)
        table = torch.cat([codebook.new_zeros(1), codebook])
        return table[indices]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (indices,) = ctx.saved_tensors
        gradient = gradients[0]
        # bincount sums in a fixed order, faster than the scatter of a plain index's backward.
        sums = torch.bincount(
            indices.flatten(), weights=gradient.flatten(), minlength=ctx.entries + 1
        )
        return gradient, sums[1:].to(gradient.dtype), None


class BiasConstraint(nn.Module):
    """latent bias -> effective bias: zero on removed channels, rounded to `grid` or halves.

    Attributes:
        mask: (channels,) of 0.0 and 1.0, or None.
        grid, bits: as of `WeightConstraint`.
    """

    mask: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", None)
        self.grid: Grid | None = None
        self.bits = 32

    def forward(self, latent: Tensor) -> Tensor:
        """(channels,) -> (channels,)."""
        values = latent
        if self.grid is not None:
            values = self.grid.round(latent)
        elif self.bits == 16:
            values = _through_half(latent)
        return values if self.mask is None else values * self.mask

    def right_inverse(self, bias: Tensor) -> Tensor:
        """The latent bias starts as the bias."""
        return bias


class NormConstraint(nn.Module):
    """Keeps a batch-norm's weight and bias at zero on removed channels."""

    mask: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(channels))

    def forward(self, latent: Tensor) -> Tensor:
        """(channels,) -> (channels,)."""
        return latent * self.mask

    def right_inverse(self, values: Tensor) -> Tensor:
        """The latent values start as the values."""
        return values
