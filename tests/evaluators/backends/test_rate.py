"""The estimate of what a position costs: what it must be by hand, and what it must rank how."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluators.backends.pytorch.rate import VALUE_BITS, position_bits, rate_importance


def mask_of(shape: tuple[int, ...], kept: list[tuple[int, ...]]) -> torch.Tensor:
    mask = torch.zeros(shape)
    for place in kept:
        mask[place] = 1.0
    return mask


@given(
    st.sampled_from([((5, 7), None), ((3, 18), (2, 3, 3)), ((4, 2, 3, 3), None), ((2, 3, 5), None)])
)
def test_in_a_mask_of_ones_every_position_costs_the_same(
    case: tuple[tuple[int, ...], tuple[int, ...] | None],
) -> None:
    shape, picture = case
    bits = position_bits(torch.ones(shape), picture)
    assert bits.shape == shape
    assert torch.allclose(bits, bits.flatten()[0].expand(shape), atol=1e-4)


def test_without_any_evidence_it_is_the_density_s_surprise() -> None:
    """Rows and columns that each are as full as the whole, and no geometry."""
    mask = torch.eye(64).roll(3, 0)
    away = mask == 0
    # A kept cell's own line holds one other fewer; an empty cell's lines hold exactly one in 63.
    assert torch.allclose(position_bits(mask)[away], torch.tensor(math.log2(64.0)), atol=0.05)


def test_full_rows_and_columns_are_cheap() -> None:
    mask = mask_of((20, 20), [(2, c) for c in range(0, 20, 2)] + [(r, 5) for r in range(0, 20, 3)])
    bits = position_bits(mask)
    assert bits[2, 5] < bits[2, 7] < bits[11, 13]
    assert bits[2, 5] < bits[4, 5] < bits[11, 13]


def test_a_cell_is_no_evidence_for_itself() -> None:
    """Otherwise what is kept would look cheap for being kept, and nothing would ever move."""
    lone = position_bits(mask_of((30, 30), [(4, 4)]))
    assert lone[4, 4] >= lone[20, 20]


def test_neighbours_of_a_picture_are_near_in_height_and_width() -> None:
    """Input 10 * row + column of a 10 x 10 picture: 55 is beside 45, far from 59 and 95."""
    mask = mask_of((6, 100), [(1, 44), (1, 45), (1, 54)])
    bits = position_bits(mask, (1, 10, 10))
    assert bits[1, 55] < bits[1, 59]
    assert bits[1, 55] < bits[1, 95]
    # Pictures do not wrap: 50 and 49 are neighbours only as numbers.
    edge = position_bits(mask_of((6, 100), [(1, 49)]), (1, 10, 10))
    assert edge[1, 50] > edge[1, 48]
    # In another row, by what the columns around say.
    assert bits[3, 55] < bits[3, 95]


def test_without_a_geometry_a_number_apart_is_nothing() -> None:
    bits = position_bits(mask_of((6, 100), [(1, 44)]))
    assert bits[1, 45] == bits[1, 99]


def test_kernels_are_pictures() -> None:
    bits = position_bits(mask_of((4, 3, 7, 7), [(1, 2, 0, 0), (1, 2, 0, 1)]))
    assert bits[1, 2, 1, 1] < bits[1, 2, 6, 6]
    assert bits[1, 2, 1, 1] < bits[1, 0, 1, 1]


@given(st.floats(0.01, 100.0))
def test_the_order_does_not_depend_on_the_scale(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    magnitude = torch.rand(12, 9, generator=generator)
    mask = (torch.rand(12, 9, generator=generator) < 0.3).float()
    plain = rate_importance(magnitude, mask, None)
    scaled = rate_importance(scale * magnitude, mask, None)
    assert torch.allclose(scaled, plain * scale**2, rtol=1e-4)


def test_importance_is_energy_a_bit() -> None:
    magnitude, mask = torch.full((4, 4), 3.0), torch.ones(4, 4)
    bits = position_bits(mask)[0, 0]
    assert torch.allclose(rate_importance(magnitude, mask, None)[0, 0], 9.0 / (VALUE_BITS + bits))
