"""A stored tensor as Core ML's compile-time operators, in the place of a program's constant.

codebook          constexpr_lut_to_dense
levels (grid)     constexpr_blockwise_shift_scale of 4- or 8-bit levels, or of a table of levels
with many zeros   the same on the non-zeros alone, then constexpr_sparse_to_dense
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 -- Core ML's own usage
from coremltools.converters.mil.mil import Operation, Var
from coremltools.converters.mil.mil.types.type_mapping import string_to_nptype

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed.model import (
    Artifact,
    CodebookTensor,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
)

__all__ = ["compressed_constant", "halved"]

_INDEX_BITS = (1, 2, 3, 4, 6, 8)
#: Tables and masks cost a constant of their own each: 64 bytes of header and alignment.
_BLOB_BYTES = 128


def halved(artifact: Artifact) -> Artifact:
    """The artifact with every float, codebook entry and scale rounded to half precision.

    Raises:
        CannotHold: a value is too large for half precision.
    """
    return Artifact(tuple(_halved(tensor) for tensor in artifact.tensors), artifact.attributes)


def _halved(tensor: Tensor) -> Tensor:
    match tensor:
        case FloatTensor(name=name, values=values):
            return FloatTensor(name, _half(name, values), 16)
        case GridTensor(name=name, scale=scale):
            return replace(tensor, scale=_half(name, scale))
        case CodebookTensor(name=name, codebook=FloatCodebook(entries=entries)):
            return replace(tensor, codebook=FloatCodebook(_half(name, entries), 16))
        case CodebookTensor(name=name, codebook=GridCodebook() as codebook):
            scale = _half(name, codebook.scale)
            return replace(tensor, codebook=replace(codebook, scale=scale))
    raise AssertionError("unreachable")


def _half(name: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise CannotHold(
            name, "mlpackage: half precision ends at 65504, but its largest value is "
            f"{np.abs(values).max():g}"
        )  # fmt: skip
    return rounded


def compressed_constant(tensor: Tensor, before: Operation, name: str) -> Var | None:
    """The operators of a tensor, or None where a plain half-precision constant is as small.

    Args:
        tensor: half precision throughout.
        before: the constant they replace.
        name: of the result.

    Raises:
        CannotHold: more levels or entries than 8 bits hold.
    """
    match tensor:
        case FloatTensor():
            return _floats(tensor, before, name)
        case GridTensor():
            return _levels(tensor, before, name)
        case CodebookTensor(indices=indices, codebook=GridCodebook() as codebook):
            table = np.concatenate(([0], _int8(tensor.name, codebook.levels))).astype(np.int8)
            scaled = _table_and_scale(table, codebook.scale)
            return _looked_up(tensor.name, indices, table, before, name, scaled)
        case CodebookTensor(indices=indices, codebook=codebook):
            entries = np.concatenate(([0], codebook.decode())).astype(np.float16)
            return _looked_up(tensor.name, indices, entries, before, name, _plain)


#: (nonzero codes' table, name, before) -> a variable usable as a table
_Table = Callable[[np.ndarray, str, Operation], object]


def _plain(table: np.ndarray, name: str, before: Operation) -> object:  # noqa: ARG001 -- as a _Table
    return table


def _table_and_scale(_: np.ndarray, scale: np.ndarray) -> _Table:
    def make(table: np.ndarray, name: str, before: Operation) -> object:
        along = scale.astype(np.float16).reshape([1] * table.ndim)
        return mb.constexpr_blockwise_shift_scale(
            data=table, scale=along, before_op=before, name=f"{name}_table"
        )

    return make


def _floats(tensor: FloatTensor, before: Operation, name: str) -> Var | None:
    values = tensor.values.astype(np.float16)
    mask = values != 0
    nonzero = int(mask.sum())
    if nonzero == 0 or mask.size / 8 + 2 * nonzero + _BLOB_BYTES >= 2 * mask.size:
        return None
    return mb.constexpr_sparse_to_dense(
        nonzero_data=values[mask], mask=_bits(mask), before_op=before, name=name
    )


def _levels(tensor: GridTensor, before: Operation, name: str) -> Var:
    levels = _int8(tensor.name, tensor.levels)
    if tensor.scale.size == 1:
        used = np.unique(levels[levels != 0])
        table = np.concatenate(([0], used)).astype(np.int8)
        indices = np.where(levels == 0, 0, np.searchsorted(used, levels) + 1)
        if _width(tensor.name, len(table)) not in (4, 8) or _is_sparse(indices, len(table)):
            scaled = _table_and_scale(table, tensor.scale)
            return _looked_up(tensor.name, indices, table, before, name, scaled)
    bits = 4 if levels.min() >= -8 and levels.max() <= 7 else 8
    data = levels.astype(np.int8).astype(string_to_nptype(f"int{bits}"))
    scale = tensor.scale.astype(np.float16).reshape(-1, *[1] * (levels.ndim - 1))
    return mb.constexpr_blockwise_shift_scale(data=data, scale=scale, before_op=before, name=name)


def _is_sparse(indices: np.ndarray, entries: int) -> bool:
    """Whether a mask and the non-zeros' indices take fewer bytes than an index each."""
    nonzero = int((indices != 0).sum())
    if nonzero == 0:
        return False
    sparse = indices.size / 8 + nonzero * _least_width(entries - 1) / 8 + _BLOB_BYTES
    return sparse < indices.size * _least_width(entries) / 8


def _looked_up(
    tensor: str,
    indices: np.ndarray,
    table: np.ndarray,
    before: Operation,
    name: str,
    make: _Table,
) -> Var:
    """Indices 0..K into a table whose entry 0 is 0."""
    if _is_sparse(indices, len(table)):
        mask = indices != 0
        codes, entries = indices[mask] - 1, table[1:]
    else:
        mask, codes, entries = None, indices, table
    bits = _width(tensor, len(entries))
    padded = np.zeros(2**bits, table.dtype)
    padded[: len(entries)] = entries
    padded = padded.reshape(*[1] * indices.ndim, -1, 1)
    small = codes.astype(np.uint8).astype(string_to_nptype(f"uint{bits}"))
    lut = make(padded, name, before)
    if mask is None:
        return mb.constexpr_lut_to_dense(indices=small, lut=lut, before_op=before, name=name)
    kept, values = mb.constexpr_lut_to_sparse(
        indices_mask=_bits(mask),
        indices_nonzero_data=small,
        lut=lut,
        before_op=before,
        name=f"{name}_values",
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=kept, before_op=before, name=name)


def _bits(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8).astype(string_to_nptype("uint1"))


def _least_width(entries: int) -> int:
    need = max(1, math.ceil(math.log2(max(entries, 2))))
    return next((bits for bits in _INDEX_BITS if bits >= need), 16)


def _width(tensor: str, entries: int) -> int:
    bits = _least_width(entries)
    if bits > _INDEX_BITS[-1]:
        raise CannotHold(
            tensor,
            f"mlpackage: a table has at most 255 values besides 0, but there are {entries - 1}",
        )
    return bits


def _int8(tensor: str, levels: np.ndarray) -> np.ndarray:
    low, high = int(levels.min()), int(levels.max())
    if low < -128 or high > 127:
        raise CannotHold(
            tensor, f"mlpackage: levels must lie in -128..127, but they lie in {low}..{high}"
        )
    return levels
