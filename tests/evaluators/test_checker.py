"""The checker finds each kind of violation, and only those."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.checker import broken_constraints, unrounded_activations
from spaces import LayerPolicy, Policy, Stage

EVERYTHING = ("prune", "cluster", "quantize")


def broken(
    weight: np.ndarray, asked: LayerPolicy, bias: np.ndarray | None = None, **knobs: str
) -> list[str]:
    weights = {"fc.weight": weight.astype(np.float32)}
    if bias is not None:
        weights["fc.bias"] = bias.astype(np.float32)
    return broken_constraints(Policy(EVERYTHING, (("fc", asked),), **knobs), weights)


def levels(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


NOISE = np.random.default_rng(0).normal(size=(8, 40)).astype(np.float32)


def test_too_few_zeros() -> None:
    weight = NOISE.copy()
    weight.ravel()[:160] = 0
    assert broken(weight, LayerPolicy(sparsity=0.5)) == []
    weight.ravel()[3] = 1e-30
    (sentence,) = broken(weight, LayerPolicy(sparsity=0.5))
    assert sentence == "fc: 159 of 320 weights are zero, sparsity 0.5 asks for 160"


def test_zeros_that_fill_no_channel() -> None:
    asked = LayerPolicy(sparsity=0.5, pattern="channel")
    weight = NOISE.copy()
    weight[:4] = 0
    assert broken(weight, asked) == []
    weight[3, 7] = 1.0
    weight[5, 1:] = 0
    (sentence,) = broken(weight, asked)
    assert "3 of 8 output channels" in sentence


def test_one_channel_may_always_stay() -> None:
    asked = LayerPolicy(sparsity=0.99, pattern="channel")
    weight = NOISE.copy()
    weight[1:] = 0
    assert broken(weight, asked) == []
    weight[1] = 1
    assert broken(weight, asked)


def test_one_value_too_many() -> None:
    weight = np.resize([0.0, 0.5, -0.25, 0.7], (8, 40))
    assert broken(weight, LayerPolicy(clusters=3)) == []
    weight[2, 2] = 0.71
    assert "4 distinct non-zero values" in broken(weight, LayerPolicy(clusters=3))[0]


def test_a_value_that_is_not_half_precision() -> None:
    half = NOISE.astype(np.float16)
    assert broken(half, LayerPolicy(bits=16)) == []
    off = half.astype(np.float32)
    off[0, 0] = np.nextafter(off[0, 0], np.float32(9))
    assert "half precision" in broken(off, LayerPolicy(bits=16))[0]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_a_value_between_two_levels(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    grid = np.arange(-top, top + 1) * np.float32(0.0371)
    weight = np.resize(grid, (4, 512))
    assert broken(weight, LayerPolicy(bits=bits)) == []
    assert broken(weight, LayerPolicy(bits=bits), scheme="asymmetric") == []
    weight[2, 2] = 0.0371 * 0.5
    assert broken(weight, LayerPolicy(bits=bits))


def test_evenly_spaced_values_that_miss_zero() -> None:
    weight = np.resize(np.array([-1.5, -0.5, 0.5, 1.5]) + 0.1, (4, 8))
    assert "no symmetric grid" in broken(weight, LayerPolicy(bits=2 + 1))[0]


def test_more_levels_than_the_bits_hold() -> None:
    weight = np.resize(np.arange(-4, 5), (9, 9))
    assert "9 distinct values on one scale, 3 bits hold 8" in broken(weight, LayerPolicy(bits=3))[0]


def test_levels_too_far_apart_for_the_bits() -> None:
    weight = np.resize([0.0, 1.0, 7.0, 8.0], (2, 8))  # few values, but 9 levels from 0 to 8
    assert broken(weight, LayerPolicy(bits=3), scheme="asymmetric")
    assert not broken(weight, LayerPolicy(bits=4), scheme="asymmetric")


@pytest.mark.parametrize("off", [2.4, 2.01, 1.999])
def test_uneven_spacing(off: float) -> None:
    """Few values, within the range of the bits, but not on its levels."""
    asked = LayerPolicy(bits=4)
    assert not broken(np.resize([0.0, 1.0, 2.0, -5.0], (2, 8)), asked)
    assert broken(np.resize([0.0, 1.0, off, -5.0], (2, 8)), asked)


def test_a_lopsided_grid_is_not_symmetric() -> None:
    weight = np.resize([0.0, -1.0, 2.0, 5.0], (2, 8))
    assert not broken(weight, LayerPolicy(bits=3), scheme="asymmetric")
    assert broken(weight, LayerPolicy(bits=3), scheme="symmetric")


def test_per_channel_scales_where_one_was_asked() -> None:
    weight = np.resize([0.0, 1.0, -2.0, 3.0], (2, 8)) * np.array([[1.0], [0.37]])
    assert not broken(weight, LayerPolicy(bits=3), granularity="channel")
    assert broken(weight, LayerPolicy(bits=3), granularity="tensor")
    # A codebook has one scale, whatever was asked of the other layers.
    assert broken(weight, LayerPolicy(bits=3, clusters=6), granularity="channel")


def test_a_broken_channel_is_found_among_good_ones() -> None:
    weight = np.resize([0.0, 1.0, -2.0, 3.0], (5, 8)).astype(np.float32)
    weight[3] = NOISE[0, :8]
    assert len(broken(weight, LayerPolicy(bits=4), granularity="channel")) == 1


def test_bias_bits() -> None:
    weight = np.ones((4, 2))
    half = np.array([0.5, 0.25, -1.0, 0.0])
    assert not broken(weight, LayerPolicy(bias_bits=16), half)
    assert not broken(weight, LayerPolicy(bias_bits=4), half)
    assert "bias is not half" in broken(weight, LayerPolicy(bias_bits=16), half / 3)[0]
    assert "bias: " in broken(weight, LayerPolicy(bias_bits=4), NOISE[0, :9])[0]
    # The grid of a bias is symmetric.
    assert "bias: " in broken(weight, LayerPolicy(bias_bits=2), np.array([1.0, 2.0, 3.0]))[0]


def test_every_layer_is_looked_at() -> None:
    policy = Policy(("cluster",), (("a", LayerPolicy(clusters=1)), ("b", LayerPolicy(clusters=2))))
    found = broken_constraints(policy, {"a.weight": NOISE, "b.weight": NOISE})
    assert [sentence[0] for sentence in found] == ["a", "b"]


@given(
    bits=st.integers(2, 8),
    scale=st.floats(2.0**-20, 2.0**10, width=32),
    asymmetric=st.booleans(),
    data=st.data(),
)
def test_every_grid_is_accepted(
    bits: int, scale: float, asymmetric: bool, data: st.DataObject
) -> None:
    """level * scale in float32, as the file's reader computes it, whichever levels are used."""
    top = 2 ** (bits - 1) - 1
    low = data.draw(st.integers(-(2**bits) + 1, 0)) if asymmetric else -top
    high = low + 2**bits - 1 if asymmetric else top
    chosen = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=40))
    weight = (np.array(chosen, np.float32) * np.float32(scale))[None]
    scheme = "asymmetric" if asymmetric else "symmetric"
    assert broken(weight, LayerPolicy(bits=bits), scheme=scheme) == []


def test_activations_that_the_file_does_not_round_are_named() -> None:
    layers = (
        ("fc1", LayerPolicy(bits=8)),
        ("fc2", LayerPolicy(bits=4)),
        ("fc3", LayerPolicy(bits=16)),
    )
    asked = Policy((Stage.QUANTIZE,), layers, activation_bits=8)
    names = ["fc1", "fc2", "fc3", "fc4"]
    assert unrounded_activations(asked, names, {"fc1", "fc2"}) == [], "the others read floats"
    assert unrounded_activations(asked, names, {"fc1", "fc2", "fc3"}) == []
    assert unrounded_activations(asked, names, {"fc1"}) == [
        "fc2: activation_bits 8 is not in the file"
    ]
    assert unrounded_activations(Policy(), ["fc1"], set()) == []
