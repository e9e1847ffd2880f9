"""Hypothesis strategies for what a packed file holds: small tensors of every kind."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluators.artifacts.packed import (
    Artifact,
    Codebook,
    CodebookTensor,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
)

names = st.one_of(
    st.sampled_from(["fc1.weight", "fc1.bias", "features.0.weight", "a..b", ".", "weight"]),
    st.text(min_size=1, max_size=12),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=9)
finite32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
finite16 = st.floats(allow_nan=False, allow_infinity=False, width=16)


@st.composite
def sparse(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any, elements: Any) -> Any:
    """Draw an array some of whose elements, rows and columns are zero."""
    values = draw(hnp.arrays(dtype, shape, elements=elements, fill=elements))
    mask = draw(hnp.arrays(np.bool_, shape)) if draw(st.booleans()) else np.ones(shape, np.bool_)
    values = np.where(mask, values, np.zeros((), dtype)).astype(dtype)
    for axis in range(values.ndim):
        if draw(st.booleans()):
            dead = draw(hnp.arrays(np.bool_, (shape[axis],)))
            values[(slice(None),) * axis + (dead,)] = 0
    return values


@st.composite
def float_tensors(draw: st.DrawFn, name: str) -> FloatTensor:
    """Draw a tensor of float16 or float32 values."""
    bits = draw(st.sampled_from([16, 32]))
    elements = finite16 if bits == 16 else finite32
    return FloatTensor(name, draw(sparse(draw(shapes), np.float32, elements)), bits)


@st.composite
def grid_tensors(draw: st.DrawFn, name: str) -> GridTensor:
    """Draw a tensor of levels of 1 to 16 bits, with one scale or one a channel."""
    shape = draw(shapes)
    low = draw(st.sampled_from([-65535, -128, -7, -1, 0]))
    high = draw(st.sampled_from([0, 1, 7, 255, 65535]))
    levels = draw(sparse(shape, np.int32, st.integers(low, high)))
    channels = draw(st.sampled_from([1, shape[0] if shape else 1]))
    scale = draw(hnp.arrays(np.float32, (channels,), elements=st.floats(0, 2.0**100, width=32)))
    return GridTensor(name, levels, scale)


@st.composite
def codebooks(draw: st.DrawFn) -> Codebook:
    """Draw a codebook of floats or of levels."""
    count = draw(st.integers(1, 40))
    bits = draw(st.sampled_from([0, 16, 32]))
    if bits == 0:
        levels = draw(hnp.arrays(np.int32, (count,), elements=st.integers(-65535, 65535)))
        return GridCodebook(levels, np.array([draw(st.floats(0, 4, width=32))], np.float32))
    elements = finite16 if bits == 16 else finite32
    return FloatCodebook(draw(hnp.arrays(np.float32, (count,), elements=elements)), bits)


@st.composite
def codebook_tensors(draw: st.DrawFn, name: str) -> CodebookTensor:
    """Draw a tensor of shared values."""
    codebook = draw(codebooks())
    high = draw(st.integers(0, codebook.decode().size))
    indices = draw(sparse(draw(shapes), np.int32, st.integers(0, high)))
    return CodebookTensor(name, indices, codebook)


def tensors(name: str) -> st.SearchStrategy[Tensor]:
    """Draw a tensor of any kind with the given name."""
    return st.one_of(float_tensors(name), grid_tensors(name), codebook_tensors(name))


@st.composite
def artifacts(draw: st.DrawFn) -> Artifact:
    """Draw an artifact of up to four tensors."""
    drawn = draw(st.lists(names, max_size=4, unique=True))
    attributes = draw(st.dictionaries(st.text(max_size=8), st.text(max_size=30), max_size=3))
    return Artifact(tuple(draw(tensors(name)) for name in drawn), attributes)
