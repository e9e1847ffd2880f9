"""What the sections of a file are made of, whichever coder fills them.

A section's bytes come from a range coder or are plain; its `mode` (0..3), which the container
stores beside the length, says which way. Zeros after the bytes (padding) are accepted, anything
else there is refused.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluators.artifacts.packed import kernels as loops
from evaluators.artifacts.packed.kernels import Kernels
from evaluators.artifacts.packed.model import Integers
from evaluators.artifacts.packed.plain import Reader, varint, zigzag, zigzag_inverse

Mask: TypeAlias = npt.NDArray[np.uint8]

PACKED = 0
"""The mode of integers stored plainly, in every coder."""

MAX_LAG = 128
MAX_PACKED_BITS = 18


@dataclass(frozen=True)
class Section:
    """The content of one section: the way it is coded (0..3) and its bytes."""

    mode: int
    data: bytes


@dataclass(frozen=True)
class Scan:
    """In which order a matrix is walked, and where a second neighbour is.

    Attributes:
        transposed: walk columns instead of rows.
        lag: distance in cells of the second neighbour along the walk; 1 means none.
    """

    transposed: bool = False
    lag: int = 1


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, columns) of a tensor; a vector is one row: (300,) -> (1, 300)."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def write_bits(kernels: Kernels, capacity: int, run: Callable[[Any, Any], None]) -> bytes:
    """Run a loop as a writer and return its bytes, without trailing zeros.

    Args:
        kernels: the loops.
        capacity: bytes expected; more room is made when they do not suffice.
        run: called with (state, buffer); may be called twice.
    """
    while True:
        state = kernels.numbers(np.array([0, loops.FULL, 0, 0], np.int64))
        buffer = kernels.octets(bytes(capacity))
        run(state, buffer)
        kernels.finish(state, buffer)
        size_bytes = int(state[loops.POSITION])
        if size_bytes <= capacity:
            return bytes(buffer[:size_bytes]).rstrip(b"\0")
        capacity = 2 * size_bytes


def read_bits(kernels: Kernels, reader: Reader, run: Callable[[Any, Any], None]) -> None:
    """Run a loop as a reader of all that is left; refuse non-zero bytes it has not looked at."""
    body = reader.rest()
    start = int.from_bytes(body[:4].ljust(4, b"\0"), "big")
    state = kernels.numbers(np.array([start, loops.FULL, 4, 1], np.int64))
    run(state, kernels.octets(body))
    reader.refuse_non_zero(body[int(state[loops.POSITION]) :])


def smallest(candidates: list[Section]) -> Section:
    """Return the section with the fewest bytes, the first of equals."""
    return min(candidates, key=lambda section: len(section.data))


# Matrices --------------------------------------------------------------------------------------


def best_lag(mask: Mask, most: int = MAX_LAG) -> int:
    """Return the distance 2..most along rows at which non-zeros coincide most, or 1 for none.

    Args:
        mask: (rows, columns) zeros and ones.
        most: the largest distance to try.
    """
    columns = mask.shape[1]
    counts = mask.sum(axis=0, dtype=np.int64)
    best, best_excess = 1, 0.0
    for lag in range(2, min(most, columns // 2) + 1):
        hits = int(np.count_nonzero(mask[:, lag:] & mask[:, :-lag]))
        # What independent cells with these column counts would give.
        chance = int((counts[lag:] * counts[:-lag]).sum()) / mask.shape[0]
        excess = (hits - chance) / math.sqrt(chance + 1.0)
        if excess > best_excess:
            best, best_excess = lag, excess
    return best


def live_lines(matrix: Mask) -> tuple[Mask, Mask]:
    """Return which rows and which columns have a non-zero; a single line counts as alive.

    The loop does not code the flags of lines of one cell (they would repeat the mask).
    """
    rows, columns = matrix.shape
    along = matrix.max(axis=1) if columns > 1 else np.ones(rows, np.uint8)
    across = matrix.max(axis=0) if rows > 1 else np.ones(columns, np.uint8)
    return along, across


# Integers, plainly -----------------------------------------------------------------------------


def packed_bits(values: Integers) -> int:
    """Return the bits one value takes between the smallest and the largest."""
    return (int(values.max()) - int(values.min())).bit_length()


def packed_size_bytes(values: Integers) -> int:
    """Return what `pack_integers` would need."""
    low = int(values.min())
    return len(varint(zigzag(low))) + 1 + (values.size * packed_bits(values) + 7) // 8


def pack_integers(values: Integers) -> bytes:
    """Store values as smallest value, bit width, then each offset in that many bits."""
    low, bits = int(values.min()), packed_bits(values)
    offsets = (values.reshape(-1).astype(np.int64) - low)[:, None]
    planes = (offsets >> np.arange(bits - 1, -1, -1)) & 1
    return varint(zigzag(low)) + bytes([bits]) + np.packbits(planes.astype(np.uint8)).tobytes()


def unpack_integers(reader: Reader, count: int) -> Integers:
    """Return `count` values written by `pack_integers`, int32 (count,)."""
    low, bits = zigzag_inverse(reader.varint()), reader.byte()
    if bits > MAX_PACKED_BITS or abs(low) > 1 << MAX_PACKED_BITS:
        raise reader.damaged(f"values from {low} in {bits} bits are out of range")
    body = np.frombuffer(reader.take((count * bits + 7) // 8), np.uint8)
    reader.refuse_non_zero(reader.rest())
    if bits == 0:
        return np.full(count, low, np.int32)
    planes = np.unpackbits(body, count=count * bits).reshape(count, bits)
    weights = np.left_shift(1, np.arange(bits - 1, -1, -1), dtype=np.int32)
    return np.asarray(planes.astype(np.int32) @ weights + low, dtype=np.int32)
