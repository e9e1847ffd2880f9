"""The integer loops of coder 2: many small predictions of a bit, mixed by a network that learns.

The method is Mahoney's (M. Mahoney, "Adaptive Weighing of Context Models for Lossless Data
Compression", Florida Tech TR CS-2005-16, and the lpaq and paq8 programs): each context holds an
adaptive chance of a one; the chances are stretched, x = ln(p / (1 - p)), summed with weights, and
squashed back, p = 1 / (1 + exp(-x)); after the bit each weight moves by its input times the error,
which is gradient descent on the coded bits. Sets of weights are chosen by small contexts. A last
table per context (paq's APM, "secondary symbol estimation") mends what the mix gets wrong
systematically.

Everything is an integer: chances are 16-bit fractions (32 bits inside a cell), stretched values are
in 1/256, weights in 1/65536, and the two curves are tables made of integers (`curve_tables`). So
the same functions give the same bytes compiled and as plain Python, as in `kernels`, whose range
coder they write through. Numba's cache on disk notices changes of this file only: after changing
`shift_in` or `carry` (which the format forbids) its folder would have to be cleared.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.artifacts.packed.kernels import (
    COUNT_BITS,
    COUNT_LIMIT,
    DECODING,
    FULL,
    LOW,
    SMALLEST_WIDTH,
    WIDTH,
    Ints,
    Kernels,
    carry,
    compile_loops,
    shift_in,
    size_class,
)

# Tables, one after the other -------------------------------------------------------------------

CHANCES = 1 << 16
STRETCH_LIMIT = 2840
"""256 ln(65535): beyond, a chance would round to 0 or 1."""
STRETCH = 0
SQUASH = CHANCES + STRETCH_LIMIT
"""The place of x = 0; x runs from -STRETCH_LIMIT to STRETCH_LIMIT."""
STEPS = CHANCES + 2 * STRETCH_LIMIT + 1
TABLE_CELLS = STEPS + COUNT_LIMIT + 1

# A model: weight sets, refining tables, then cells. A cell is as in `kernels`, but less one half,
# so that fresh memory, which is all zeros, is a fresh model. ------------------------------------

SET_SIZE = 32
SET_USES = SET_SIZE - 1
"""In a set, after its weights: how often it was used."""
SETS = 40
REFINERS = SETS * SET_SIZE
REFINER_SIZE = 48
REFINER_COUNT = 48
BUCKET_BITS = 7
CELLS = REFINERS + REFINER_COUNT * REFINER_SIZE

# Work: what a loop tells `code_mixed` about the next bit. ---------------------------------------

CELL_COUNT = 0
FIRST_SET = 1
SECOND_SET = 2
FIRST_REFINER = 3
SECOND_REFINER = 4
RATE = 5
FAST_RATE = 6
REFINER_RATE = 7
SLOTS = 8
INPUTS = SLOTS + 16
DIRECT = 5
"""Inputs a loop computes itself: one constant and up to four more."""
CONSTANT_INPUT = 256
FIRST_DIRECT_WEIGHT = 2000

# Contexts of the mask. --------------------------------------------------------------------------

NEAR = 6
"""Neighbours with a bit each in a pattern, at 1, 2, lag, lag - 1, lag + 1 and 2 lag."""
AROUND = 4
"""Those of them next to the cell in a picture: all but the one at 2 and the one at 2 lag."""
WIDE = 8
"""Neighbours that are counted, further off."""
OFFSETS = NEAR + WIDE
NOWHERE = 1 << 40
"""The offset of a neighbour that no cell has."""
NEAR_CLASSES = 6
WIDE_CLASSES = 8
CHANCE_CLASSES = 24
GAP_CLASSES = 24
COLUMN_PRIOR = 3
ROW_PRIOR = 17
AROUND_PRIOR = 20
UNIT_CLASSES = 8
"""What the layer before says about an input: 0 nothing, 1 dead, then by its number of weights."""
UNIT_DEAD = 1
MASK_CONTEXTS = 11
MASK_CELLS = (
    (1 << NEAR)
    + 2 * CHANCE_CLASSES * WIDE_CLASSES
    + 3 * CHANCE_CLASSES * CHANCE_CLASSES
    + CHANCE_CLASSES * (NEAR_CLASSES + 16 + 2 * UNIT_CLASSES)
    + GAP_CLASSES * WIDE_CLASSES
)
"""Without the flags' and those of each line: two a column, one a row."""
FLAG_CONTEXTS = 4
FLAG_CELLS = (1 << NEAR) + UNIT_CLASSES * (16 + 4 + 1)
AGES = 6
FLAG_SET = NEAR_CLASSES + AGES
FLAG_REFINER = WIDE_CLASSES + CHANCE_CLASSES

# Contexts of the values. ------------------------------------------------------------------------

MAX_EXPONENT = 15
TREE_DEPTH = 7
FIRST_TREE = 1 + MAX_EXPONENT
FIRST_LOW_BIT = FIRST_TREE + 254 + 8 * (1 << TREE_DEPTH)
NODES = FIRST_LOW_BIT + (MAX_EXPONENT + 1) * (MAX_EXPONENT + 1)
"""Bits of a value that have contexts of their own: sign, exponent, mantissa tree, low bits."""
FEW_NODES = 64
SIZES = 24
BALANCE_LIMIT = 6
SIGNED_SIZES = 25
VALUE_CONTEXTS = 13
VALUE_CELLS = NODES * (2 + 3 * SIZES + 18 + 36 + 48 + 30 + 2 * SIGNED_SIZES) + FEW_NODES * (
    SIZES * SIZES + 2 * SIGNED_SIZES * SIGNED_SIZES
)
"""Without those of each line."""
VALUE_LINE_CELLS = 8

# What is known about a mask bit, from FACTS on in `work`.
FACTS = INPUTS + 24
HITS = 0
SEEN = 1
ROWS_SEEN = 2
CELLS_SEEN = 3
LAST_HIT = 4
LIVE_COLUMNS = 5

# What is known around a value, at the same places.
NEAR_SIGNS = 0
NEAR_SIZE = 1
SIGN_SUM = 2
MEAN = 3
PLANE = 4
KEPT = 5
BEFORE = 6
LAST = 7
COLUMN_SIZE = 8
COLUMN_BALANCE = 9
ROW_SIZE = 10
ROW_BALANCE = 11
COLUMN_CELLS = 12
ROW_CELLS = 13
WORK_CELLS = FACTS + 14


# Mixing -----------------------------------------------------------------------------------------


def code_chance(state: Ints, buffer: Ints, chance: int, bit: int) -> int:
    """Write `bit`, or read and return it, given the chance of a one, 1..65535 in 65536."""
    split = (state[WIDTH] * chance) >> 16
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
    return bit


def within(x: int) -> int:
    """Clamp a stretched chance."""
    return min(max(x, -STRETCH_LIMIT), STRETCH_LIMIT)


def learn_set(tables: Ints, model: Ints, work: Ints, start: int, x: int, bit: int) -> None:
    """Move one set's weights against its own error; a new set learns faster.

    No weight can overflow: once a weight is large its set's chance is next to 0 or 1, and a step
    is the error, which is then nothing or turns the weight back.
    """
    uses = model[start + SET_USES]
    model[start + SET_USES] = uses + 1
    rate = work[RATE] + (work[FAST_RATE] << 6) // (64 + uses)
    error = ((bit << 16) - tables[SQUASH + x]) * rate
    for place in range(DIRECT + work[CELL_COUNT]):
        model[start + place] += (work[INPUTS + place] * error + (1 << 21)) >> 22


def learn_cells(tables: Ints, model: Ints, work: Ints, bit: int) -> None:
    """Move the chance of every context towards the bit, by 1 / (uses + 1.5)."""
    goal = (FULL if bit else 0) - (1 << 31)
    for number in range(work[CELL_COUNT]):
        place = CELLS + work[SLOTS + number]
        cell = model[place]
        count = cell & COUNT_LIMIT
        chance = cell >> COUNT_BITS
        chance += ((goal - chance) * tables[STEPS + count]) >> 16
        model[place] = (chance << COUNT_BITS) | min(count + 1, COUNT_LIMIT)


def code_mixed(state: Ints, buffer: Ints, tables: Ints, model: Ints, work: Ints, bit: int) -> int:
    """Write `bit`, or read and return it, by the mix of the predictions `work` names; learn it.

    Args:
        state: the interval, the place in the buffer, and the direction.
        buffer: the coded bytes.
        tables: of `curve_tables`.
        model: weights, refining tables and cells.
        work: how many cells and which, two sets, two refiners, rates, and the direct inputs.
        bit: to write; ignored when reading.
    """
    cells = work[CELL_COUNT]
    for number in range(cells):
        chance = (model[CELLS + work[SLOTS + number]] >> (COUNT_BITS + 16)) + (CHANCES >> 1)
        work[INPUTS + DIRECT + number] = tables[STRETCH + chance]
    first = work[FIRST_SET] * SET_SIZE
    second = work[SECOND_SET] * SET_SIZE
    first_x = 0
    second_x = 0
    for place in range(DIRECT + cells):
        value = work[INPUTS + place]
        first_x += model[first + place] * value
        second_x += model[second + place] * value
    first_x = within(first_x >> 16)
    second_x = within(second_x >> 16)
    x = (first_x + second_x) >> 1
    # Each refiner maps stretched chances to chances between two of its points.
    bucket = (x + STRETCH_LIMIT) >> BUCKET_BITS
    part = (x + STRETCH_LIMIT) & ((1 << BUCKET_BITS) - 1)
    low = REFINERS + work[FIRST_REFINER] * REFINER_SIZE + bucket
    high = REFINERS + work[SECOND_REFINER] * REFINER_SIZE + bucket
    refined = (model[low] + model[high]) * ((1 << BUCKET_BITS) - part)
    refined = (refined + (model[low + 1] + model[high + 1]) * part) >> BUCKET_BITS
    chance = min(max((2 * tables[SQUASH + x] + refined) >> 2, 1), CHANCES - 1)
    bit = code_chance(state, buffer, chance, bit)
    nearer = part >> (BUCKET_BITS - 1)
    goal = CHANCES - 1 if bit else 0
    model[low + nearer] += ((goal - model[low + nearer]) * work[REFINER_RATE]) >> 10
    model[high + nearer] += ((goal - model[high + nearer]) * work[REFINER_RATE]) >> 10
    learn_set(tables, model, work, first, first_x, bit)
    learn_set(tables, model, work, second, second_x, bit)
    learn_cells(tables, model, work, bit)
    return bit


# Positions --------------------------------------------------------------------------------------


def chance_class(x: int) -> int:
    """Put a stretched chance into one of 24 classes, half a nat each: 0.00005 -> 0, 0.5 -> 20."""
    return min(max((x >> 7) + 20, 0), CHANCE_CLASSES - 1)


def gap_class(gap: int) -> int:
    """Put a distance into one of 24 classes: each up to 15, then eights, the last open."""
    return gap if gap < 16 else 16 + min((gap - 16) >> 3, 7)


def value_at(values: Ints, place: int, unit: int, step: int, offset: int) -> int:
    """Return the neighbour `offset` lines before this one, number `unit`; 0 outside."""
    return values[place - offset * step] if unit >= offset else 0


def near_pattern(mask: Ints, place: int, unit: int, step: int, offsets: Ints) -> int:
    """Return the known neighbours of a cell along the inputs, a bit each."""
    pattern = 0
    for number in range(NEAR):
        if unit >= offsets[number]:
            pattern |= mask[place - offsets[number] * step] << number
    return pattern


def wide_count(mask: Ints, place: int, unit: int, step: int, offsets: Ints) -> int:
    """Count the non-zeros among the neighbours further off."""
    count = 0
    for number in range(NEAR, OFFSETS):
        if unit >= offsets[number]:
            count += mask[place - offsets[number] * step]
    return count


def near_weight(pattern: int) -> int:
    """Weigh neighbours: the next ones (bits 0 and 2) count double."""
    weight = 0
    for number in range(NEAR):
        weight += (pattern >> number) & 1
    return weight + (pattern & 1) + ((pattern >> 2) & 1)


def hits_around(
    row_hits: Ints, column_hits: Ints, row: int, column: int, along: int, offsets: Ints
) -> int:
    """Return the non-zeros so far of the inputs around this one (1, lag, lag -+ 1 away).

    Walking along the inputs, those ahead count too, with what they had in the rows before.
    """
    hits = 0
    for number in range(AROUND + 1):
        offset = offsets[number]
        if number == 1:
            continue
        if along == 0:
            if row >= offset:
                hits += row_hits[row - offset]
            continue
        if column >= offset:
            hits += column_hits[column - offset]
        if column + offset < len(column_hits):
            hits += column_hits[column + offset]
    return hits


def code_line_flags(
    state: Ints,
    buffer: Ints,
    tables: Ints,
    model: Ints,
    work: Ints,
    flags: Ints,
    offsets: Ints,
    units: Ints,
    are_outputs: int,
) -> None:
    """Write or read which lines have a non-zero, by their neighbours.

    Args:
        state: as in `code_mixed`, like the next four.
        buffer: same.
        tables: same.
        model: same.
        work: same.
        flags: one a line; filled when reading.
        offsets: distances of neighbours; outputs have only the two before.
        units: the class of each input.
        are_outputs: 1 for outputs, 0 for inputs.
    """
    start = MASK_CELLS + are_outputs * FLAG_CELLS
    work[CELL_COUNT] = FLAG_CONTEXTS
    work[FIRST_SET] = FLAG_SET + are_outputs
    work[FIRST_REFINER] = FLAG_REFINER + are_outputs
    work[SECOND_REFINER] = FLAG_REFINER + are_outputs
    for direct in range(DIRECT):
        work[INPUTS + direct] = 0
    for line in range(len(flags)):
        pattern = near_pattern(flags, line, line, 1, offsets)
        unit = 0
        if are_outputs:
            pattern &= 3
        else:
            unit = units[line]
        work[SECOND_SET] = FLAG_SET + 2 + unit
        work[SLOTS] = start + pattern
        place = start + (1 << NEAR)
        work[SLOTS + 1] = place + 16 * unit + (pattern & 15)
        place += 16 * UNIT_CLASSES
        work[SLOTS + 2] = place + 4 * unit + (pattern & 3)
        work[SLOTS + 3] = place + 4 * UNIT_CLASSES + unit
        flags[line] = code_mixed(state, buffer, tables, model, work, flags[line])


def density(tables: Ints, hits: int, seen: int, layer: int, prior: int) -> int:
    """Return the stretched density of a line; one seen little counts as dense as the layer.

    Args:
        tables: of `curve_tables`.
        hits: non-zeros in the line.
        seen: cells of it seen.
        layer: the layer's density, in 1/65536.
        prior: cells the layer's density stands for.
    """
    return tables[STRETCH + min(((hits << 16) + prior * layer) // (seen + prior), CHANCES - 1)]


def name_mask_cells(
    work: Ints,
    pattern: int,
    near: int,
    wide: int,
    before: int,
    by_column: int,
    by_row: int,
    by_around: int,
    gap: int,
    unit: int,
) -> None:
    """Choose a mask bit's cells, but those of its lines, and its refiners.

    Args:
        work: as in `code_mixed`.
        pattern: the near neighbours, a bit each.
        near: their weight.
        wide: weight of all neighbours.
        before: whether the two outputs before have this input, a bit each.
        by_column: class of the column's density.
        by_row: same of the row.
        by_around: same of the inputs around.
        gap: class of the distance to the last non-zero.
        unit: class of the input.
    """
    any_near = 1 if near else 0
    work[SLOTS] = pattern
    start = 1 << NEAR
    work[SLOTS + 1] = start + by_column * WIDE_CLASSES + wide
    start += CHANCE_CLASSES * WIDE_CLASSES
    work[SLOTS + 2] = start + by_row * WIDE_CLASSES + wide
    start += CHANCE_CLASSES * WIDE_CLASSES
    work[SLOTS + 3] = start + by_column * CHANCE_CLASSES + by_row
    start += CHANCE_CLASSES * CHANCE_CLASSES
    work[SLOTS + 4] = start + by_around * NEAR_CLASSES + min(near, NEAR_CLASSES - 1)
    start += CHANCE_CLASSES * NEAR_CLASSES
    work[SLOTS + 5] = start + (by_around * CHANCE_CLASSES + by_column) * 2 + any_near
    start += CHANCE_CLASSES * CHANCE_CLASSES * 2
    # The next neighbours (bits 0 and 2 of the pattern) with the same input's before.
    four = before * 4 + (pattern & 1) + ((pattern >> 1) & 2)
    work[SLOTS + 6] = start + four * CHANCE_CLASSES + by_column
    start += 16 * CHANCE_CLASSES
    work[SLOTS + 7] = start + (by_row * 2 + any_near) * UNIT_CLASSES + unit
    start += CHANCE_CLASSES * 2 * UNIT_CLASSES
    work[SLOTS + 8] = start + gap * WIDE_CLASSES + wide
    work[FIRST_REFINER] = wide
    work[SECOND_REFINER] = WIDE_CLASSES + by_column


def choose_mask_sets(work: Ints, near: int, rows_seen: int, unit: int) -> None:
    """Choose the weights by the neighbours, and by how much the columns can have told yet."""
    work[FIRST_SET] = min(near, NEAR_CLASSES - 1)
    age = 0
    while rows_seen > 0 and age < AGES - 2:
        rows_seen >>= 2
        age += 1
    # The flags have named the dead inputs, unless there is one row: then this is news.
    work[SECOND_SET] = NEAR_CLASSES + (AGES - 1 if unit == UNIT_DEAD else age)


def describe_mask_cell(
    tables: Ints,
    work: Ints,
    mask: Ints,
    row_hits: Ints,
    column_hits: Ints,
    offsets: Ints,
    units: Ints,
    row: int,
    column: int,
    along: int,
) -> None:
    """Set the inputs, cells, weights and refiners of a mask bit; arguments as below."""
    columns = len(column_hits)
    place = row * columns + column
    unit = column if along else row
    other = row if along else column
    step = 1 if along else columns
    other_step = columns if along else 1
    pattern = near_pattern(mask, place, unit, step, offsets)
    near = near_weight(pattern)
    wide = near + wide_count(mask, place, unit, step, offsets)
    before = value_at(mask, place, other, other_step, 1)
    before += 2 * value_at(mask, place, other, other_step, 2)
    rows_seen = work[FACTS + ROWS_SEEN]
    layer = (work[FACTS + HITS] << 16) // work[FACTS + SEEN]
    layer_x = tables[STRETCH + min(layer, CHANCES - 1)]
    column_x = density(tables, column_hits[column], rows_seen, layer, COLUMN_PRIOR)
    row_x = density(tables, row_hits[row], work[FACTS + CELLS_SEEN], layer, ROW_PRIOR)
    around = hits_around(row_hits, column_hits, row, column, along, offsets)
    cells = 2 * rows_seen if along else work[FACTS + LIVE_COLUMNS]
    cells *= AROUND if offsets[2] < NOWHERE else 1
    around_x = density(tables, around, cells, layer, AROUND_PRIOR)
    work[INPUTS] = CONSTANT_INPUT
    work[INPUTS + 1] = column_x - layer_x
    work[INPUTS + 2] = row_x - layer_x
    work[INPUTS + 3] = around_x - layer_x
    work[INPUTS + 4] = layer_x
    name_mask_cells(
        work,
        pattern,
        near,
        min(wide, WIDE_CLASSES - 1),
        before,
        chance_class(column_x),
        chance_class(row_x),
        chance_class(around_x),
        gap_class(column - work[FACTS + LAST_HIT]),
        units[unit],
    )
    lines = MASK_CELLS + 2 * FLAG_CELLS
    work[SLOTS + 9] = lines + 2 * column + (1 if near else 0)
    work[SLOTS + 10] = lines + 2 * columns + row
    choose_mask_sets(work, near, rows_seen, units[unit])


def code_mask_mixed(
    state: Ints,
    buffer: Ints,
    tables: Ints,
    model: Ints,
    work: Ints,
    mask: Ints,
    row_flags: Ints,
    column_flags: Ints,
    row_hits: Ints,
    column_hits: Ints,
    offsets: Ints,
    units: Ints,
    along: int,
) -> None:
    """Write or read which cells of a (rows, columns) matrix, walked row by row, are non-zero.

    Dead lines are named first and then cost nothing. One side of the matrix is the layer's inputs
    (pixels, or kernel positions within channels), which have neighbours; the other its outputs.
    A live cell is predicted from its neighbours along the inputs (for the same output), from the
    outputs before (for the same input), from how dense its row, its column and the inputs around
    have been, and from the distance to the last non-zero.

    Args:
        state: as in `code_mixed`, like the next four.
        buffer: same.
        tables: same.
        model: same, fresh.
        work: same.
        mask: rows * columns zeros and ones; filled when reading.
        row_flags: which rows have a non-zero; filled when reading.
        column_flags: which columns have a non-zero; filled when reading.
        row_hits: a zero a row, to count in (compiled loops cannot allocate).
        column_hits: a zero a column.
        offsets: distances of neighbours along the inputs, NEAR + WIDE; huge where there is none.
        units: the class of each input.
        along: 1 if a row runs along the inputs, 0 if a column does.
    """
    rows = len(row_flags)
    columns = len(column_flags)
    # A single line's flags would only repeat the mask.
    if columns > 1:
        code_line_flags(state, buffer, tables, model, work, row_flags, offsets, units, along)
    if rows > 1:
        code_line_flags(state, buffer, tables, model, work, column_flags, offsets, units, 1 - along)
    live_columns = 0
    for column in range(columns):
        live_columns += column_flags[column]
    work[FACTS + LIVE_COLUMNS] = live_columns
    work[CELL_COUNT] = MASK_CONTEXTS
    # At first a layer counts as one in 64 dense.
    work[FACTS + HITS] = 1
    work[FACTS + SEEN] = 64
    work[FACTS + ROWS_SEEN] = 0
    for row in range(rows):
        if row_flags[row] == 0:
            continue
        work[FACTS + CELLS_SEEN] = 0
        work[FACTS + LAST_HIT] = 0
        for column in range(columns):
            if column_flags[column] == 0:
                continue
            describe_mask_cell(
                tables, work, mask, row_hits, column_hits, offsets, units, row, column, along
            )
            place = row * columns + column
            bit = code_mixed(state, buffer, tables, model, work, mask[place])
            mask[place] = bit
            if bit:
                work[FACTS + LAST_HIT] = column
            work[FACTS + HITS] += bit
            work[FACTS + SEEN] += 1
            work[FACTS + CELLS_SEEN] += 1
            row_hits[row] += bit
            column_hits[column] += bit
        work[FACTS + ROWS_SEEN] += 1


# Values -----------------------------------------------------------------------------------------


def sign_of(value: int) -> int:
    """Return -1, 0 or 1."""
    return 1 if value > 0 else (-1 if value < 0 else 0)


def magnitude_class(value: int) -> int:
    """Put a magnitude into one of 8 classes: 0, 1, 2, 3, up to 7, 15, 47, beyond."""
    size = abs(value)
    if size < 4:
        return size
    if size < 8:
        return 4
    return 5 if size < 16 else (6 if size < 48 else 7)


def signed_size(value: int) -> int:
    """Put a number in 1/64 into one of 25 classes by size, 12 for 0."""
    if value == 0:
        return SIGNED_SIZES // 2
    size = size_class(abs(value)) // 2 + 1
    return SIGNED_SIZES // 2 + (size if value > 0 else -size)


def kept_around(values: Ints, place: int, unit: int, units: int, step: int, offsets: Ints) -> int:
    """Count the non-zeros among the next neighbours, on both sides: the mask is known already."""
    count = 0
    for number in range(AROUND + 1):
        offset = offsets[number]
        if number != 1:
            if unit >= offset and values[place - offset * step] != 0:
                count += 1
            if unit + offset < units and values[place + offset * step] != 0:
                count += 1
    return count


def name_value_cells(work: Ints, node: int, own: int) -> None:
    """Choose the cells of one bit of a value by its node and what `describe_value` found.

    Args:
        work: as in `code_mixed`; the value's neighbourhood stands at FACTS.
        node: which bit of the value: sign, a step of its exponent, a node of its mantissa.
        own: 1 if the value is known to be negative.
    """
    is_sign = 1 if node == 0 else 0
    signed = 2 * node + own
    few = node if node < 48 else 48 + (node & 15)
    column = work[FACTS + (COLUMN_BALANCE if is_sign else COLUMN_SIZE)]
    row = work[FACTS + (ROW_BALANCE if is_sign else ROW_SIZE)]
    near = work[FACTS + (NEAR_SIGNS if is_sign else NEAR_SIZE)]
    start = 0
    work[SLOTS] = signed
    start += 2 * NODES
    work[SLOTS + 1] = start + node * SIZES + near
    start += SIZES * NODES
    work[SLOTS + 2] = start + node * SIZES + column
    start += SIZES * NODES
    work[SLOTS + 3] = start + node * SIZES + row
    start += SIZES * NODES
    work[SLOTS + 4] = start + signed * 9 + work[FACTS + KEPT]
    start += 18 * NODES
    work[SLOTS + 5] = start + signed * 18 + work[FACTS + BEFORE]
    start += 36 * NODES
    work[SLOTS + 6] = start + signed * 24 + work[FACTS + LAST]
    start += 48 * NODES
    work[SLOTS + 7] = start + signed * 15 + work[FACTS + SIGN_SUM]
    start += 30 * NODES
    work[SLOTS + 8] = start + signed * SIGNED_SIZES + work[FACTS + MEAN]
    start += 2 * SIGNED_SIZES * NODES
    work[SLOTS + 9] = start + (few * SIZES + column) * SIZES + row
    start += FEW_NODES * SIZES * SIZES
    pair = work[FACTS + PLANE] * SIGNED_SIZES + work[FACTS + MEAN]
    work[SLOTS + 10] = start + (2 * few + own) * SIGNED_SIZES * SIGNED_SIZES + pair
    line_node = min(node, 3) * 2 + own
    work[SLOTS + 11] = work[FACTS + COLUMN_CELLS] + line_node
    work[SLOTS + 12] = work[FACTS + ROW_CELLS] + line_node
    work[INPUTS + 1] = (work[FACTS + SIGN_SUM] - 7) * 64 if is_sign else 0
    work[INPUTS + 2] = (column - BALANCE_LIMIT) * 64 if is_sign else 0
    work[INPUTS + 3] = (row - BALANCE_LIMIT) * 64 if is_sign else 0
    work[FIRST_SET] = min(node, 23)
    kept = work[FACTS + KEPT]
    work[SECOND_SET] = 24 + (kept if is_sign else 9 + min(near, 13) // 2)
    work[FIRST_REFINER] = min(node, 40)
    work[SECOND_REFINER] = min(node, 40)


def describe_value(
    work: Ints, values: Ints, place: int, unit: int, units: int, step: int, offsets: Ints
) -> None:
    """Note at FACTS what the neighbours along the inputs say about a value."""
    left = value_at(values, place, unit, step, offsets[0])
    left_left = value_at(values, place, unit, step, offsets[1])
    above = value_at(values, place, unit, step, offsets[2])
    above_right = value_at(values, place, unit, step, offsets[3])
    above_left = value_at(values, place, unit, step, offsets[4])
    signs = 2 * (sign_of(left) + sign_of(above))
    signs += sign_of(left_left) + sign_of(above_right) + sign_of(above_left)
    total = 2 * (left + above) + left_left + above_right + above_left
    sizes = 2 * (abs(left) + abs(above)) + abs(left_left) + abs(above_right) + abs(above_left)
    weight = 2 * (abs(sign_of(left)) + abs(sign_of(above))) + abs(sign_of(left_left))
    weight += abs(sign_of(above_right)) + abs(sign_of(above_left))
    work[FACTS + NEAR_SIGNS] = 3 * sign_of(left) + sign_of(above) + 4
    work[FACTS + SIGN_SUM] = signs + 7
    work[FACTS + NEAR_SIZE] = 0
    work[FACTS + MEAN] = SIGNED_SIZES // 2
    if weight > 0:
        work[FACTS + NEAR_SIZE] = min(size_class((sizes << 6) // weight) + 1, SIZES - 1)
        mean = (abs(total) << 6) // weight
        work[FACTS + MEAN] = signed_size(mean if total > 0 else -mean)
    # The plane through three neighbours, as picture coders predict (JPEG-LS); on a line, the line.
    plane = left + above - above_left if unit >= offsets[2] else 2 * left - left_left
    work[FACTS + PLANE] = signed_size(plane << 6)
    work[FACTS + KEPT] = kept_around(values, place, unit, units, step, offsets)


def code_value(state: Ints, buffer: Ints, tables: Ints, model: Ints, work: Ints, value: int) -> int:
    """Write or read a value other than 0: sign, exponent in steps, mantissa from its top bit."""
    magnitude = abs(value)
    name_value_cells(work, 0, 0)
    own = code_mixed(state, buffer, tables, model, work, 1 if value < 0 else 0)
    exponent = 0
    while exponent < MAX_EXPONENT:
        name_value_cells(work, 1 + exponent, own)
        more = 1 if magnitude >> (exponent + 1) else 0
        if code_mixed(state, buffer, tables, model, work, more) == 0:
            break
        exponent += 1
    coded = 1
    for shift in range(exponent - 1, -1, -1):
        node = FIRST_LOW_BIT + exponent * (MAX_EXPONENT + 1) + shift
        if coded < 1 << TREE_DEPTH:
            low = (1 << min(exponent, 8)) - 2 + max(exponent - 8, 0) * (1 << TREE_DEPTH)
            node = FIRST_TREE + low + coded
        name_value_cells(work, node, own)
        bit = code_mixed(state, buffer, tables, model, work, (magnitude >> shift) & 1)
        coded = 2 * coded + bit
    return -coded if own else coded


def code_values_mixed(
    state: Ints,
    buffer: Ints,
    tables: Ints,
    model: Ints,
    work: Ints,
    values: Ints,
    column_means: Ints,
    column_balances: Ints,
    offsets: Ints,
    along: int,
) -> None:
    """Write or read the non-zeros of a (rows, columns) matrix, walked row by row.

    A value is predicted from the values around it along the inputs, from the same input's of the
    outputs before, from the value before in the walk, from the sizes and the balance of signs of
    its row and column so far, and from how many neighbours on all sides are kept.

    Args:
        state: as in `code_mixed`, like the next four.
        buffer: same.
        tables: same.
        model: same, fresh.
        work: same.
        values: rows * columns; 0 where the mask is zero, else overwritten when reading. A reader
            sets them non-zero where the mask is.
        column_means: a zero a column, to keep running means of magnitudes in.
        column_balances: a zero a column, to keep positives less negatives in.
        offsets: as in `code_mask_mixed`.
        along: same.
    """
    columns = len(column_means)
    rows = len(values) // columns
    step = 1 if along else columns
    other_step = columns if along else 1
    units = columns if along else rows
    work[CELL_COUNT] = VALUE_CONTEXTS
    work[INPUTS] = CONSTANT_INPUT
    last = 0
    for row in range(rows):
        mean = 0
        balance = 0
        shift = 1
        for column in range(columns):
            place = row * columns + column
            if values[place] == 0:
                continue
            unit = column if along else row
            other = row if along else column
            describe_value(work, values, place, unit, units, step, offsets)
            sum_before = 3 * sign_of(value_at(values, place, other, other_step, 1)) + 4
            sum_before += sign_of(value_at(values, place, other, other_step, 2))
            work[FACTS + BEFORE] = 2 * sum_before + (1 if work[FACTS + SIGN_SUM] > 7 else 0)
            work[FACTS + LAST] = (sign_of(last) + 1) * 8 + magnitude_class(last)
            work[FACTS + COLUMN_SIZE] = size_class(column_means[column])
            work[FACTS + ROW_SIZE] = size_class(mean)
            work[FACTS + COLUMN_BALANCE] = column_balances[column] + BALANCE_LIMIT
            work[FACTS + ROW_BALANCE] = balance + BALANCE_LIMIT
            work[FACTS + COLUMN_CELLS] = VALUE_CELLS + VALUE_LINE_CELLS * column
            work[FACTS + ROW_CELLS] = VALUE_CELLS + VALUE_LINE_CELLS * (columns + row)
            last = code_value(state, buffer, tables, model, work, values[place])
            values[place] = last
            size = abs(last) << 6
            mean = mean + ((size - mean) >> shift) if mean else size
            shift = min(shift + 1, 4)
            column_mean = column_means[column]
            column_means[column] = (
                column_mean + ((size - column_mean) >> 2) if column_mean else size
            )
            balance = moved_balance(balance, last)
            column_balances[column] = moved_balance(column_balances[column], last)


def moved_balance(balance: int, value: int) -> int:
    """Count a value's sign, within the limit."""
    return min(max(balance + sign_of(value), -BALANCE_LIMIT), BALANCE_LIMIT)


HELPERS = (
    code_chance,
    within,
    learn_set,
    learn_cells,
    code_mixed,
    chance_class,
    gap_class,
    near_pattern,
    wide_count,
    near_weight,
    hits_around,
    code_line_flags,
    density,
    name_mask_cells,
    choose_mask_sets,
    describe_mask_cell,
    sign_of,
    magnitude_class,
    signed_size,
    value_at,
    kept_around,
    name_value_cells,
    describe_value,
    code_value,
    moved_balance,
)


def curve_tables() -> npt.NDArray[np.int64]:
    """Return the stretch and squash curves and the steps of counts, from integers alone.

    squash[x] = 65536 / (1 + exp(-x / 256)), by powers of exp(1 / 256) in 64-bit fixed point;
    stretch is its inverse: the middle of the x whose chance is not on either side of p.
    """
    one = 1 << 64
    base, term = one, one
    for order in range(1, 20):
        term //= 256 * order
        base += term
    rising = [one]
    for _ in range(STRETCH_LIMIT):
        rising.append((rising[-1] * base) >> 64)
    upper = [(CHANCES * e + (one + e) // 2) // (one + e) for e in rising]
    squash = np.array([CHANCES - p for p in upper[:0:-1]] + upper, np.int64)
    squash = np.clip(squash, 1, CHANCES - 1)
    chances = np.arange(CHANCES)
    stretch = np.searchsorted(squash, chances, "left") + np.searchsorted(squash, chances, "right")
    stretch = np.clip(stretch // 2, 0, 2 * STRETCH_LIMIT) - STRETCH_LIMIT
    # Step 1 / (uses + 1.5): a running mean at first, a slow drift once the count is full.
    steps = 2 * CHANCES // (2 * np.arange(COUNT_LIMIT + 1) + 3)
    return np.concatenate((stretch, squash, steps))


@dataclass(frozen=True)
class MixingLoops:
    """The two loops, compiled or not, and the tables they read."""

    mask: Callable[..., None]
    values: Callable[..., None]
    tables: Any
    head: npt.NDArray[np.int64]

    def fresh_model(self, kernels: Kernels, cells: int, weights: npt.NDArray[np.int64]) -> Any:
        """Return a model that has seen nothing.

        Args:
            kernels: tell which kind of sequence is wanted.
            cells: how many contexts.
            weights: what a context's input weighs at first in each set, in 1/65536.
        """
        head = self.head.copy()
        sets = head[:REFINERS].reshape(SETS, SET_SIZE)
        sets[:, 1:DIRECT] = FIRST_DIRECT_WEIGHT
        sets[:, DIRECT:SET_USES] = weights[:, None]
        if not kernels.compiled:
            return head.tolist() + [0] * cells
        model = np.zeros(CELLS + cells, np.int64)
        model[:CELLS] = head
        return model


@functools.cache
def mixing_loops(compiled: bool) -> MixingLoops:
    """Return the loops, compiled (or loaded from numba's cache on disk) or plain."""
    tables = curve_tables()
    head = np.zeros(CELLS, np.int64)
    points = np.minimum(np.arange(REFINER_SIZE) << BUCKET_BITS, 2 * STRETCH_LIMIT)
    head[REFINERS:] = np.tile(tables[CHANCES + points], REFINER_COUNT)
    if not compiled:
        return MixingLoops(code_mask_mixed, code_values_mixed, tables.tolist(), head)
    mask, values = compile_loops(HELPERS, (code_mask_mixed, code_values_mixed))
    return MixingLoops(mask, values, tables, head)
