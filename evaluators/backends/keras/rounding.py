"""Float weights -> what a file stores: grid levels, codebook indices, half-precision floats."""

import numpy as np

from evaluators.artifacts.packed import (
    Codebook,
    CodebookTensor,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
)
from evaluators.artifacts.packed import Tensor as Stored

__all__ = ["stored_tensor"]

#: Levels of 8 bits, symmetric: the integer kernels have no use for -128.
TOP = 127


def stored_tensor(
    name: str, values: np.ndarray, *, clusters: bool, bits: int, per_channel: bool
) -> Stored:
    """One tensor as its constraints have it.

    Args:
        name: of the tensor.
        values: float32, output channels first.
        clusters: whether its non-zero values are shared ones: then a codebook.
        bits: 8 = a grid; 16 = half precision; 32 = as they are.
        per_channel: one scale an output channel, else one for the tensor; never with `clusters`.
    """
    if clusters:
        return _codebook_tensor(name, values, bits)
    if bits < 16:
        levels, scale = _grid(values, per_channel=per_channel)
        return GridTensor(name, levels, scale)
    if bits == 16:
        return FloatTensor(name, _halves(values), bits=16)
    return FloatTensor(name, values, bits=32)


def _codebook_tensor(name: str, values: np.ndarray, bits: int) -> Stored:
    entries = np.unique(values[values != 0])
    codebook: Codebook
    if bits < 16:
        levels, scale = _grid(entries[None], per_channel=False)
        kept = np.unique(levels[levels != 0])
        shown = levels[0]
        codebook = GridCodebook(kept, scale) if len(kept) else FloatCodebook(np.ones(1, np.float32))
    else:
        shown = _halves(entries) if bits == 16 else entries
        kept = np.unique(shown[shown != 0])
        codebook = (
            FloatCodebook(kept, bits=16 if bits == 16 else 32)
            if len(kept)
            else (FloatCodebook(np.ones(1, np.float32)))
        )
    if not len(kept):
        return GridTensor(name, np.zeros(values.shape, np.int32), np.ones(1, np.float32))
    # Entries that rounding made equal become one, and those that it made 0 are zeros.
    index_of = np.where(shown == 0, 0, np.searchsorted(kept, shown) + 1)
    positions = np.minimum(np.searchsorted(entries, values), len(entries) - 1)
    indices = np.where(values == 0, 0, index_of[positions])
    return CodebookTensor(name, indices.astype(np.int32), codebook)


def _grid(values: np.ndarray, *, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """(levels, scale) of the grid whose outermost level is the largest magnitude, as TFLite's."""
    rows = np.abs(values.reshape(len(values) if per_channel else 1, -1))
    largest = rows.max(axis=1, initial=0.0)
    # An all-zero channel has no scale; any positive one stores it.
    scale = np.where(largest > 0, largest / np.float32(TOP), 1.0).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    along = scale.reshape(-1, *[1] * (values.ndim - 1)) if per_channel else scale
    levels = np.clip(np.round(values / along), -TOP, TOP).astype(np.int32)
    return levels, scale


def _halves(values: np.ndarray) -> np.ndarray:
    top = np.float32(np.finfo(np.float16).max)
    halves: np.ndarray = np.clip(values, -top, top).astype(np.float16).astype(np.float32)
    return halves
