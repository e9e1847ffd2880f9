"""The integer loops of the format: one adaptive binary range coder and the models on top of it.

Every loop runs in both directions. ``code_bit`` either writes the bit it is given or returns the
bit it reads, so writer and reader share one model and cannot drift apart. Only integers below
2**63 occur, so the same functions give the same bytes compiled by numba (`kernels`) and run as
plain Python, which is the reader for machines without numba.

Compiled code is cached on disk by numba, which notices a change of this file only; that is why
the coder and the loops which call it live together.
"""

# Compiled loops take neither objects nor keyword-only arguments, so their arguments are many:

import functools
import importlib
import os
from collections.abc import Callable, Iterable, MutableSequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PURE_PYTHON_VARIABLE = "SEARCH_PURE_PYTHON"

Ints = MutableSequence[int]

# Places in `state`.
LOW = 0
"""Writing: the low end of the interval. Reading: the coded number's distance from it."""
WIDTH = 1
POSITION = 2
DECODING = 3

FULL = 0xFFFFFFFF
SMALLEST_WIDTH = 1 << 24

# A model cell holds P(bit is 1) as a 32-bit fraction, then how often it was used (10 bits).
COUNT_BITS = 10
COUNT_LIMIT = (1 << COUNT_BITS) - 1
FRESH_CELL = (1 << 31) << COUNT_BITS
# A model is the step of each count (a table beats a division a bit), then its cells.
CELLS = COUNT_LIMIT + 1

# Context numbers used by the loops below; sizes follow from them.
DENSITY_CLASSES = 6
NEAR_CLASSES = 5
ROW_FLAG_CONTEXT = DENSITY_CLASSES * NEAR_CLASSES * DENSITY_CLASSES
COLUMN_FLAG_CONTEXT = ROW_FLAG_CONTEXT + 2
MASK_CELLS = COLUMN_FLAG_CONTEXT + 4

SIGN_CLASSES = 5
SIZE_CLASSES = 24
EXPONENTS = 16
TREE_DEPTH = 7
EXPONENT_CONTEXT = SIGN_CLASSES
MANTISSA_CONTEXT = EXPONENT_CONTEXT + SIZE_CLASSES * EXPONENTS
LOW_BIT_CONTEXT = MANTISSA_CONTEXT + EXPONENTS * (1 << TREE_DEPTH)
LEVEL_CELLS = LOW_BIT_CONTEXT + EXPONENTS * EXPONENTS

BYTE_CELLS = 256


def shift_in(state: Ints, buffer: Ints) -> None:
    """Widen the interval to at least 24 bits, moving whole bytes to or from the buffer."""
    while state[WIDTH] < SMALLEST_WIDTH:
        place = state[POSITION]
        inside = place < len(buffer)
        if state[DECODING]:
            # Bytes past the end are zeros: the writer drops trailing zeros.
            byte = buffer[place] if inside else 0
            state[LOW] = ((state[LOW] << 8) | byte) & FULL
        else:
            # A full buffer only counts; the caller sees the count and comes back with room.
            if inside:
                buffer[place] = state[LOW] >> 24
            state[LOW] = (state[LOW] << 8) & FULL
        state[POSITION] = place + 1
        state[WIDTH] <<= 8


def carry(state: Ints, buffer: Ints) -> None:
    """Add the overflow of the interval's low end to the bytes already written."""
    if state[LOW] > FULL:
        state[LOW] &= FULL
        place = state[POSITION] - 1
        if place < len(buffer):
            while buffer[place] == 255:
                buffer[place] = 0
                place -= 1
            buffer[place] += 1


def code_bit(state: Ints, buffer: Ints, model: Ints, context: int, bit: int) -> int:
    """Write `bit`, or read and return it, then move the context's probability towards it."""
    place = CELLS + context
    cell = model[place]
    count = cell & COUNT_LIMIT
    chance = cell >> COUNT_BITS
    # At least one part in 65536 on either side, so both halves of the interval stay non-empty.
    split = (state[WIDTH] * max(chance >> 16, 1)) >> 16
    if state[DECODING]:
        bit = 1 if state[LOW] < split else 0
        if bit == 0:
            state[LOW] -= split
    elif bit == 0:
        state[LOW] += split
        carry(state, buffer)
    state[WIDTH] = split if bit else state[WIDTH] - split
    if state[WIDTH] < SMALLEST_WIDTH:
        shift_in(state, buffer)
    goal = FULL if bit else 0
    chance += ((goal - chance) * model[count]) >> 16
    model[place] = (chance << COUNT_BITS) | min(count + 1, COUNT_LIMIT)
    return bit


def code_plain_byte(state: Ints, buffer: Ints, byte: int) -> int:
    """Write or read eight bits that no model would predict."""
    width = state[WIDTH] >> 8
    if state[DECODING]:
        byte = min(state[LOW] // width, 255)
        state[LOW] -= width * byte
    else:
        state[LOW] += width * byte
        carry(state, buffer)
    state[WIDTH] = width
    shift_in(state, buffer)
    return byte


def code_tree(state: Ints, buffer: Ints, model: Ints, start: int, depth: int, symbol: int) -> int:
    """Write or read a `depth`-bit symbol, most significant bit first, one cell a tree node."""
    node = 1
    for shift in range(depth - 1, -1, -1):
        bit = code_bit(state, buffer, model, start + node, (symbol >> shift) & 1)
        node = 2 * node + bit
    return node - (1 << depth)


def finish(state: Ints, buffer: Ints) -> None:
    """Write the shortest byte string that lies in the final interval (writer only)."""
    shift = 32
    while True:
        tail = (1 << shift) - 1
        value = ((state[LOW] + tail) >> shift) << shift
        if value < state[LOW] + state[WIDTH]:
            break
        shift -= 8
    state[LOW] = value
    carry(state, buffer)
    for _ in range(4 - shift // 8):
        if state[POSITION] < len(buffer):
            buffer[state[POSITION]] = state[LOW] >> 24
        state[LOW] = (state[LOW] << 8) & FULL
        state[POSITION] += 1


def density_class(hits: int, seen: int) -> int:
    """How dense a line has been: 0 never hit, 1 under 1/256 ... 5 from 1/4, in factors of 4."""
    if hits == 0:
        return 0
    level = DENSITY_CLASSES - 1
    while level > 1 and 4 * hits < seen:
        hits *= 4
        level -= 1
    return level


def code_flags(state: Ints, buffer: Ints, model: Ints, flags: Ints, start: int, lag: int) -> None:
    """Write or read a line of flags; contexts: the previous flag, and the one `lag` back if > 0."""
    last = 1
    for place in range(len(flags)):
        context = last
        if lag > 0:
            context += 2 * (flags[place - lag] if place >= lag else 1)
        last = code_bit(state, buffer, model, start + context, flags[place])
        flags[place] = last


def near_class(mask: Ints, base: int, column: int, column_stride: int, lag: int) -> int:
    """Weigh the known neighbours of a cell in its row: one and two back, and around `lag` back."""
    near = 0
    if column >= 1:
        near += 2 * mask[base + (column - 1) * column_stride]
    if column >= 2:
        near += mask[base + (column - 2) * column_stride]
    if lag > 1:
        if column >= lag:
            near += 2 * mask[base + (column - lag) * column_stride]
            near += mask[base + (column - lag + 1) * column_stride]
        if column > lag:
            near += mask[base + (column - lag - 1) * column_stride]
        if column >= 2 * lag:
            near += mask[base + (column - 2 * lag) * column_stride]
    return min(near, NEAR_CLASSES - 1)


def code_mask(
    state: Ints,
    buffer: Ints,
    model: Ints,
    mask: Ints,
    row_flags: Ints,
    column_flags: Ints,
    hits: Ints,
    row_stride: int,
    column_stride: int,
    lag: int,
) -> None:
    """Write or read which cells of a (rows, columns) matrix are non-zero.

    Dead rows and columns are named first and then cost nothing; a live cell's context is the
    density of its column so far, the density of its row so far, and its neighbours in the row.

    Args:
        state: the interval, the place in the buffer, and the direction.
        buffer: the coded bytes.
        model: fresh contexts.
        mask: rows * columns zeros and ones, in memory order; filled when reading.
        row_flags: which rows have a non-zero; filled when reading.
        column_flags: which columns have a non-zero; filled when reading.
        hits: a zero a column, to count in (compiled loops cannot allocate).
        row_stride: cells from a row to the next.
        column_stride: cells from a column to the next.
        lag: distance in columns of a second neighbour (an image's width); 1 means none.
    """
    rows = len(row_flags)
    columns = len(column_flags)
    # A single line's flags would only repeat the mask.
    if columns > 1:
        code_flags(state, buffer, model, row_flags, ROW_FLAG_CONTEXT, 0)
    if rows > 1:
        code_flags(state, buffer, model, column_flags, COLUMN_FLAG_CONTEXT, lag)
    rows_seen = 0
    for row in range(rows):
        if row_flags[row] == 0:
            continue
        base = row * row_stride
        row_hits = 0
        cells_seen = 0
        for column in range(columns):
            if column_flags[column] == 0:
                continue
            context = density_class(hits[column], rows_seen)
            context = context * NEAR_CLASSES + near_class(mask, base, column, column_stride, lag)
            context = context * DENSITY_CLASSES + density_class(row_hits, cells_seen)
            place = base + column * column_stride
            bit = code_bit(state, buffer, model, context, mask[place])
            mask[place] = bit
            cells_seen += 1
            row_hits += bit
            hits[column] += bit
        rows_seen += 1


def sign_class(signs: Ints, base: int, column: int, column_stride: int, lag: int) -> int:
    """Sum the signs (-1, 0, 1) of the neighbours one and `lag` back: 0 both negative ... 4."""
    total = 2
    if column >= 1:
        total += signs[base + (column - 1) * column_stride]
    if lag > 1 and column >= lag:
        total += signs[base + (column - lag) * column_stride]
    return total


def code_indices(
    state: Ints,
    buffer: Ints,
    model: Ints,
    indices: Ints,
    signs: Ints,
    entry_signs: Ints,
    shape: Ints,
    depth: int,
    contexts: int,
) -> None:
    """Write or read the codebook index (1..K) of every non-zero cell.

    Args:
        state: the interval, the place in the buffer, and the direction.
        buffer: the coded bytes.
        model: fresh contexts.
        indices: one a cell in memory order; 0 where the mask is zero, else overwritten by 1..K
            when reading. A reader sets them non-zero where the mask is.
        signs: same size, all zero; filled with the sign of each cell's value.
        entry_signs: the sign of entry 0 (zero) and of entries 1..K, padded to 2**depth + 1.
        shape: (rows, columns, row stride, column stride, lag).
        depth: bits of K - 1.
        contexts: 1 for one model, 5 for one a neighbourhood of signs.
    """
    rows, columns, row_stride, column_stride, lag = shape[0], shape[1], shape[2], shape[3], shape[4]
    for row in range(rows):
        base = row * row_stride
        for column in range(columns):
            place = base + column * column_stride
            if indices[place] == 0:
                continue
            start = 0
            if contexts > 1:
                start = sign_class(signs, base, column, column_stride, lag) << depth
            symbol = code_tree(state, buffer, model, start, depth, indices[place] - 1)
            indices[place] = symbol + 1
            signs[place] = entry_signs[symbol + 1]


def code_magnitude(state: Ints, buffer: Ints, model: Ints, size: int, magnitude: int) -> int:
    """Write or read a magnitude 1..65535: its exponent by size class, then its mantissa."""
    exponent = 0
    start = EXPONENT_CONTEXT + size * EXPONENTS
    while exponent < EXPONENTS - 1:
        more = 1 if magnitude >> (exponent + 1) else 0
        if code_bit(state, buffer, model, start + exponent, more) == 0:
            break
        exponent += 1
    # The first bits below the leading one have a cell a prefix, the last ones a cell a position.
    deep = min(exponent, TREE_DEPTH)
    rest = exponent - deep
    start = MANTISSA_CONTEXT + exponent * (1 << TREE_DEPTH)
    top = (magnitude >> rest) & ((1 << deep) - 1)
    value = (1 << deep) + code_tree(state, buffer, model, start, deep, top)
    for shift in range(rest - 1, -1, -1):
        context = LOW_BIT_CONTEXT + exponent * EXPONENTS + shift
        value = 2 * value + code_bit(state, buffer, model, context, (magnitude >> shift) & 1)
    return value


def size_class(mean: int) -> int:
    """Put a running mean of magnitudes (in 1/64) into classes a factor of 1.6 apart."""
    size = 0
    mean >>= 3
    while mean > 1 and size < SIZE_CLASSES - 1:
        mean = (mean * 5) >> 3
        size += 1
    return size


def code_levels(
    state: Ints,
    buffer: Ints,
    model: Ints,
    levels: Ints,
    column_means: Ints,
    shape: Ints,
    contexts: int,
) -> None:
    """Write or read the level (never 0) of every non-zero cell: sign, then magnitude.

    Args:
        state: the interval, the place in the buffer, and the direction.
        buffer: the coded bytes.
        model: fresh contexts.
        levels: one a cell in memory order; 0 where the mask is zero, else overwritten when
            reading. A reader sets them non-zero where the mask is.
        column_means: a zero a column, to keep running means in.
        shape: (rows, columns, row stride, column stride, lag).
        contexts: 1 for one model; 2 to use the signs and sizes seen in the row and column.
    """
    rows, columns, row_stride, column_stride, lag = shape[0], shape[1], shape[2], shape[3], shape[4]
    for row in range(rows):
        base = row * row_stride
        row_mean = 0
        row_shift = 1
        column_shift = min(row + 1, 4)
        for column in range(columns):
            place = base + column * column_stride
            level = levels[place]
            magnitude = 0
            if level != 0:
                sign = 0
                size = 0
                if contexts > 1:
                    if column >= 1:
                        near = levels[base + (column - 1) * column_stride]
                        sign += 1 if near > 0 else (-1 if near < 0 else 0)
                    if lag > 1 and column >= lag:
                        near = levels[base + (column - lag) * column_stride]
                        sign += 1 if near > 0 else (-1 if near < 0 else 0)
                    size = size_class(column_means[column] + row_mean)
                negative = code_bit(state, buffer, model, sign + 2, 1 if level < 0 else 0)
                magnitude = code_magnitude(state, buffer, model, size, abs(level))
                levels[place] = -magnitude if negative else magnitude
            if contexts > 1:
                row_mean += ((magnitude << 6) - row_mean) >> row_shift
                row_shift = min(row_shift + 1, 4)
                mean = column_means[column]
                column_means[column] = mean + (((magnitude << 6) - mean) >> column_shift)


def code_records(
    state: Ints, buffer: Ints, model: Ints, data: Ints, width: int, modelled: int
) -> None:
    """Write or read records of `width` bytes: one model for each of the first `modelled` bytes."""
    for place in range(len(data)):
        column = place % width
        if column < modelled:
            symbol = code_tree(state, buffer, model, column * BYTE_CELLS, 8, data[place])
        else:
            symbol = code_plain_byte(state, buffer, data[place])
        data[place] = symbol


HELPERS = (
    shift_in,
    carry,
    code_bit,
    code_plain_byte,
    code_tree,
    density_class,
    code_flags,
    near_class,
    sign_class,
    code_magnitude,
    size_class,
)


@dataclass(frozen=True)
class Kernels:
    """The loops above, compiled or not, and the kind of sequence they want."""

    compiled: bool
    mask: Callable[..., None]
    indices: Callable[..., None]
    levels: Callable[..., None]
    records: Callable[..., None]
    finish: Callable[..., None]

    def numbers(self, values: npt.NDArray[Any]) -> Any:
        """Return a flat working copy: an array (compiled) or a list (pure Python)."""
        return values.flatten() if self.compiled else values.reshape(-1).tolist()

    def octets(self, values: bytes | bytearray) -> Any:
        """Return a writable copy: a uint8 array (compiled) or a bytearray (pure Python)."""
        copy = bytearray(values)
        return np.frombuffer(copy, dtype=np.uint8) if self.compiled else copy

    def fresh_model(self, cells: int) -> Any:
        """Return `cells` contexts which have seen nothing: both bits equally likely."""
        model = np.full(CELLS + cells, FRESH_CELL, np.int64)
        # Step 1 / (uses + 1.5): a running mean at first, a slow drift once the count is full.
        model[:CELLS] = 131072 // (2 * np.arange(CELLS) + 3)
        return self.numbers(model)


LOOPS = (code_mask, code_indices, code_levels, code_records, finish)
PURE = Kernels(False, *LOOPS)


def kernels(pure_python: bool = False) -> Kernels:
    """Return the compiled loops, or the plain ones when asked for or when numba is missing.

    Args:
        pure_python: use the plain loops; the environment variable SEARCH_PURE_PYTHON (any value
            but empty and 0) asks for the same.
    """
    if pure_python or os.environ.get(PURE_PYTHON_VARIABLE, "0") not in ("", "0"):
        return PURE
    return compiled_kernels()


@functools.cache
def compiled_kernels() -> Kernels:
    """Compile the loops, or load them from numba's cache on disk; plain ones without numba."""
    try:
        loops = compile_loops(HELPERS, LOOPS)
    except ImportError:
        return PURE
    return Kernels(True, *loops)


def compile_loops(
    helpers: Iterable[Callable[..., Any]], loops: Iterable[Callable[..., None]]
) -> list[Callable[..., None]]:
    """Return the loops compiled; numba is imported only here.

    Args:
        helpers: what the loops call, which are compiled into them.
        loops: functions that take and change sequences.
    """
    numba = importlib.import_module("numba")
    extending = importlib.import_module("numba.extending")
    for helper in helpers:
        extending.register_jitable(helper)

    def compiled(function: Callable[..., None]) -> Any:
        # Without `_nrt` every call counts references to its arrays atomically: 41 ns a bit, not 5.
        # The price is that nothing may be allocated inside a loop.
        options = {"error_model": "numpy", "_nrt": False}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            # Neither the package's folder nor the user's can hold the cache: compile each time.
            return numba.njit(**options)(function)

    return [compiled(loop) for loop in loops]
