"""Grids: where they lie, what they cost, and that the file's arithmetic is the network's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluators.backends.pytorch.constraint import Grid, WeightConstraint, fit_grid

arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=6),
    elements=st.floats(-1e4, 1e4, width=32),
)
schemes = st.sampled_from(["symmetric", "asymmetric"])
granularities = st.sampled_from(["tensor", "channel"])


@given(arrays, st.integers(2, 8), schemes, granularities)
def test_a_grid_is_what_was_asked(
    values: np.ndarray, bits: int, scheme: str, granularity: str
) -> None:
    weight = torch.from_numpy(values)
    grid = fit_grid(weight, bits, scheme, granularity)
    assert grid.scale.shape == ((len(values),) if granularity == "channel" else (1,))
    assert bool((grid.scale > 0).all())
    assert bool((grid.low <= 0).all())
    assert bool((grid.high >= 0).all())  # so level 0 exists, and is exactly 0
    assert bool((grid.high - grid.low <= 2**bits - 1).all())
    if scheme == "symmetric":
        assert torch.equal(grid.low, -grid.high)
    levels = grid.levels(weight)
    assert torch.equal(levels, levels.round())
    assert torch.equal(grid.exact(torch.zeros_like(weight)), torch.zeros_like(weight))
    assert torch.equal(grid.round(weight), grid.exact(weight))
    assert torch.equal(grid.exact(grid.exact(weight)), grid.exact(weight))


@given(arrays, st.integers(2, 8), schemes, granularities)
def test_a_grid_is_no_worse_than_plain_min_max(
    values: np.ndarray, bits: int, scheme: str, granularity: str
) -> None:
    """Against numpy in double precision: the full range, the same number of levels."""
    rows = values.astype(np.float64).reshape(len(values) if granularity == "channel" else 1, -1)
    low, high = np.minimum(rows.min(1), 0), np.maximum(rows.max(1), 0)
    if scheme == "symmetric":
        top = 2 ** (bits - 1) - 1
        scale = np.maximum(-low, high)[:, None] / top
        first, last = -np.full_like(scale, top), np.full_like(scale, top)
    else:
        scale = (high - low)[:, None] / (2**bits - 1)
        first = np.round(low[:, None] / np.where(scale > 0, scale, 1))
        last = first + 2**bits - 1
    scale = np.where(scale > 0, scale, 1)
    plain = (np.clip(np.round(rows / scale), first, last) * scale - rows) ** 2
    grid = fit_grid(torch.from_numpy(values), bits, scheme, granularity)
    ours = (grid.exact(torch.from_numpy(values)).double().numpy().reshape(rows.shape) - rows) ** 2
    # Float32 rounds halves of a step differently; a whole row never differs by more.
    # The 1e-70 is for steps below the smallest normal float.
    slack = 1e-3 * scale[:, 0] ** 2 + 1e-10 * (rows**2).sum(1) + 1e-70
    assert (ours.sum(1) <= plain.sum(1) * (1 + 1e-3) + slack).all()


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_clipping_pays_at_few_bits(scheme: str) -> None:
    """One outlier among a thousand must not decide the step of all the others."""
    weight = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    weight[0, 0] = 12.0
    grid = fit_grid(weight, 3, scheme, "tensor")
    assert float(grid.scale) < 12.0 / (2**2 - 1) / 2


def test_gradients_pass_inside_the_range_and_stop_outside() -> None:
    grid = Grid(torch.tensor([0.5]), torch.tensor([-3.0]), torch.tensor([3.0]), 3)
    values = torch.tensor([[-9.0, -1.5, -0.6, 0.0, 0.2, 1.5, 9.0]], requires_grad=True)
    rounded = grid.round(values)
    assert rounded.tolist() == [[-1.5, -1.5, -0.5, 0.0, 0.0, 1.5, 1.5]]
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]]


def test_gradients_of_shared_values() -> None:
    """Each centroid gets the sum over its members; zeros and masked weights give nothing."""
    constraint = WeightConstraint()
    constraint.centroids = torch.nn.Parameter(torch.tensor([-1.0, 0.5, 2.0]))
    constraint.indices = torch.tensor([[1, 2, 0], [2, 3, 3]])
    constraint.mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    latent = torch.zeros(2, 3, requires_grad=True)
    effective = constraint(latent)
    assert effective.tolist() == [[-1.0, 0.5, 0.0], [0.5, 2.0, 0.0]]
    (effective * torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])).sum().backward()
    assert constraint.centroids.grad is not None
    assert constraint.centroids.grad.tolist() == [1.0, 10.0, 16.0]
    assert latent.grad is not None
    assert latent.grad.tolist() == [[1.0, 2.0, 0.0], [8.0, 16.0, 0.0]]


def test_half_precision_is_exact() -> None:
    constraint = WeightConstraint()
    constraint.bits = 16
    latent = torch.tensor([[1 / 3, -2.0001]])
    assert torch.equal(constraint(latent), latent.half().float())


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=4, max_dims=4, max_side=4),
        elements=st.floats(-9, 9, width=32),
    ),
    st.booleans(),
)
def test_convolutions_get_their_weights_channels_last(values: np.ndarray, is_masked: bool) -> None:
    constraint, latent = WeightConstraint(), torch.from_numpy(values)
    if is_masked:
        constraint.mask = (latent > 0).float()
    effective = constraint(latent)
    assert effective.is_contiguous(memory_format=torch.channels_last)
    expected = latent * constraint.mask if constraint.mask is not None else latent
    assert torch.equal(effective, expected)
