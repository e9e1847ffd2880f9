"""Coder 2: context mixing for positions, indices and levels; the rest as coder 1 has it.

Positions and values know where a layer's inputs are neighbours: a tensor is a matrix of outputs
by inputs, and inputs a `lag` apart are neighbours too (an image's width, or a kernel's). The
matrix is walked along the inputs or across them. A mixed section starts with a byte that says how:
lag - 1 (0: no lag), plus 64 if the walk goes across, plus 128 if the tensor's rows are its inputs.

Whatever coder 1 has without a lag is tried as well, so no section is larger than that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluators.artifacts.packed import mixing_kernels as loops
from evaluators.artifacts.packed.contexts import ContextCoder, encode_mask
from evaluators.artifacts.packed.kernels import Kernels
from evaluators.artifacts.packed.mixing_kernels import mixing_loops
from evaluators.artifacts.packed.model import Floats, Integers
from evaluators.artifacts.packed.plain import Reader
from evaluators.artifacts.packed.sections import (
    Mask,
    Scan,
    Section,
    best_lag,
    live_lines,
    matrix_shape,
    read_bits,
    smallest,
    write_bits,
)

Units: TypeAlias = npt.NDArray[np.int64]

MIXED_POSITIONS = 2
"""Modes 0 and 1 are coder 1's: by rows and by columns, no lag."""
MIXED_INTEGERS = 3
"""Modes 0 to 2 are coder 1's."""

MOST_LAG = 64
ACROSS = 64
TURNED = 128

# What a context's input weighs at first, in 1/65536, in each set of weights.
MASK_WEIGHTS = np.full(loops.SETS, 5000, np.int64)
MASK_WEIGHTS[loops.FLAG_SET : loops.FLAG_SET + 2 + loops.UNIT_CLASSES] = 16000
VALUE_WEIGHTS = np.full(loops.SETS, 7000, np.int64)
# (rate of learning, what a new set of weights adds to it, rate of the refiners)
MASK_RATES = (24, 336, 8)
VALUE_RATES = (60, 384, 4)

# What decides the walk: so many cells, or non-zeros, of the leading rows, walked in each candidate
# way. On the three networks of MNIST twice as many save nothing; half of the values cost 0.5 % of
# a dense layer.
TRIAL_MASK_CELLS = 1 << 17
TRIAL_VALUES = 1 << 15


@dataclass(frozen=True)
class Walk:
    """How a matrix of outputs by inputs is walked.

    Attributes:
        across: each input through all outputs, instead of each output through all inputs.
        lag: inputs so far apart are neighbours too; 1 means none.
        turned: the matrix's rows are the inputs (Keras), not its columns (PyTorch).
    """

    across: bool = False
    lag: int = 1
    turned: bool = False

    def byte(self) -> int:
        """Return the first byte of a section."""
        return self.lag - 1 + ACROSS * self.across + TURNED * self.turned

    @classmethod
    def of_byte(cls, byte: int) -> "Walk":
        """Return the walk a section's first byte means; every byte means one."""
        return cls(bool(byte & ACROSS), byte % MOST_LAG + 1, bool(byte & TURNED))

    def scan(self) -> Scan:
        """Return what coder 1's loops can follow of it."""
        return Scan(self.across != self.turned, 1 if self.across else self.lag)

    def ordered(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a matrix in the order of the walk, or one in that order back."""
        return np.ascontiguousarray(matrix.T) if self.across != self.turned else matrix

    def offsets(self) -> npt.NDArray[np.int64]:
        """Return the distances of the neighbours along the inputs, as the loops want them."""
        lag = self.lag
        offsets = np.full(loops.OFFSETS, loops.NOWHERE, np.int64)
        wide = [3, 4]
        offsets[:2] = 1, 2
        if lag > 1:
            offsets[2 : loops.NEAR] = lag, lag - 1, lag + 1, 2 * lag
            wide += [lag - 2, lag + 2, 2 * lag - 2, 2 * lag - 1, 2 * lag + 1, 2 * lag + 2]
        wide = [offset for offset in wide if offset > 0]
        offsets[loops.NEAR : loops.NEAR + len(wide)] = wide
        return offsets


def fresh_work(kernels: Kernels, rates: tuple[int, int, int]) -> Any:
    """Return the scratch a loop works in, with its rates of learning."""
    work = np.zeros(loops.WORK_CELLS, np.int64)
    work[[loops.RATE, loops.FAST_RATE, loops.REFINER_RATE]] = rates
    return kernels.numbers(work)


def zeros(kernels: Kernels, count: int) -> Any:
    """Return `count` zeros for a loop to count in."""
    return kernels.numbers(np.zeros(count, np.int64))


def walks_of(
    matrix: npt.NDArray[Any], lags_of: Callable[[npt.NDArray[Any]], set[int]]
) -> list[Walk]:
    """Return the walks worth trying on a matrix, with the lags its inputs may have.

    Without a lag, rows as inputs differ little from columns as inputs walked across.
    """
    rows, columns = matrix.shape
    some = sampled(matrix)
    walks = [Walk(False, lag) for lag in sorted({1, *lags_of(some)})]
    if rows == 1 or columns == 1:
        return walks
    walks += [Walk(True, walk.lag) for walk in walks]
    turned = sorted(lags_of(np.ascontiguousarray(some.T)) - {1})
    return walks + [Walk(across, lag, True) for lag in turned for across in (False, True)]


def leading(matrix: npt.NDArray[Any], cells: int) -> npt.NDArray[Any]:
    """Return the leading rows that hold about `cells` cells, at least one."""
    return matrix[: max(1, cells // matrix.shape[1])]


def leading_values(values: Integers, most: int) -> Integers:
    """Return the leading rows that hold at most `most` non-zeros, at least one row.

    A zero costs the value loop next to nothing: a sparse matrix is tried whole.
    """
    upto = np.count_nonzero(values, axis=1).cumsum()
    return values[: max(1, int(np.searchsorted(upto, most, side="right")))]


def best_walk(
    matrix: npt.NDArray[Any],
    part: npt.NDArray[Any],
    walks: list[Walk],
    write: Callable[[npt.NDArray[Any], Walk], bytes],
) -> bytes:
    """Return the bytes of a matrix in the walk that codes its leading rows, `part`, best."""
    if len(walks) == 1 and part.size < matrix.size:
        return write(matrix, walks[0])
    tried = [write(part, walk) for walk in walks]
    best = min(range(len(walks)), key=lambda number: len(tried[number]))
    return tried[best] if part.size == matrix.size else write(matrix, walks[best])


# Positions -------------------------------------------------------------------------------------


def run_mask(
    kernels: Kernels, mask: Any, flags: tuple[Mask, Mask], units: Units, walk: Walk
) -> Callable[[Any, Any], None]:
    """Return the call of the mask loop for `write_bits` and `read_bits`.

    Args:
        kernels: tell compiled from plain.
        mask: in the order of the walk; filled when reading.
        flags: which lines of that order are alive; all, when reading.
        units: the class of each input.
        walk: the walk.
    """
    rows, columns = flags[0].size, flags[1].size
    mixing = mixing_loops(kernels.compiled)
    cells = loops.MASK_CELLS + 2 * loops.FLAG_CELLS + rows + 2 * columns

    def run(state: Any, buffer: Any) -> None:
        mixing.mask(
            state,
            buffer,
            mixing.tables,
            mixing.fresh_model(kernels, cells, MASK_WEIGHTS),
            fresh_work(kernels, MASK_RATES),
            mask,
            kernels.octets(flags[0].tobytes()),
            kernels.octets(flags[1].tobytes()),
            zeros(kernels, rows),
            zeros(kernels, columns),
            kernels.numbers(walk.offsets()),
            kernels.numbers(units),
            int(not walk.across),
        )

    return run


def mixed_positions(kernels: Kernels, matrix: Mask, units: tuple[Units, Units]) -> bytes:
    """Return which cells of a matrix are non-zero, mixed in the best walk.

    Args:
        kernels: tell compiled from plain.
        matrix: zeros and ones.
        units: the class of each column if columns are the inputs, of each row if rows are.
    """

    def write(part: Mask, walk: Walk) -> bytes:
        ordered = walk.ordered(part)
        run = run_mask(
            kernels,
            kernels.octets(ordered.tobytes()),
            live_lines(ordered),
            units[walk.turned],
            walk,
        )
        return bytes([walk.byte()]) + write_bits(kernels, 64 + part.size // 8, run)

    def lags_of(some: Mask) -> set[int]:
        return {best_lag(some, MOST_LAG)}

    part = leading(matrix, TRIAL_MASK_CELLS)
    return best_walk(matrix, part, walks_of(matrix, lags_of), write)


def unmixed_positions(
    kernels: Kernels, reader: Reader, shape: tuple[int, ...], units: tuple[Units, Units]
) -> tuple[Mask, Scan]:
    """Return the mask `mixed_positions` coded, in the tensor's shape, and the scan to go on."""
    walk = Walk.of_byte(reader.byte())
    rows, columns = matrix_shape(shape)
    lines = (columns, rows) if walk.across != walk.turned else (rows, columns)
    flat = kernels.octets(bytes(rows * columns))
    # Alive unless the loop reads otherwise: see `live_lines`.
    flags = (np.ones(lines[0], np.uint8), np.ones(lines[1], np.uint8))
    read_bits(kernels, reader, run_mask(kernels, flat, flags, units[walk.turned], walk))
    mask = walk.ordered(np.frombuffer(flat, np.uint8).reshape(lines))
    return mask.reshape(shape), walk.scan()


def sampled(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return evenly spread rows that hold about as many cells as a trial walks."""
    rows = max(1, TRIAL_MASK_CELLS // matrix.shape[1])
    return matrix[:: -(-matrix.shape[0] // rows)]


# Integers --------------------------------------------------------------------------------------


def run_values(
    kernels: Kernels, values: Any, columns: int, walk: Walk
) -> Callable[[Any, Any], None]:
    """Return the call of the value loop for `write_bits` and `read_bits`.

    Args:
        kernels: tell compiled from plain.
        values: in the order of the walk; where not 0, overwritten when reading.
        columns: of that order.
        walk: the walk.
    """
    mixing = mixing_loops(kernels.compiled)
    lines = columns + len(values) // columns
    cells = loops.VALUE_CELLS + loops.VALUE_LINE_CELLS * lines

    def run(state: Any, buffer: Any) -> None:
        mixing.values(
            state,
            buffer,
            mixing.tables,
            mixing.fresh_model(kernels, cells, VALUE_WEIGHTS),
            fresh_work(kernels, VALUE_RATES),
            values,
            zeros(kernels, columns),
            zeros(kernels, columns),
            kernels.numbers(walk.offsets()),
            int(not walk.across),
        )

    return run


def sign_lag(values: Integers) -> int:
    """Return the distance 2..64 along rows at which signs agree most, or 1 for none.

    Args:
        values: (rows, columns).
    """
    signs = np.sign(values).astype(np.float32)
    best, best_excess = 1, 4.0
    for lag in range(2, min(MOST_LAG, values.shape[1] // 2) + 1):
        products = signs[:, lag:] * signs[:, :-lag]
        # Of independent signs the sum of n products strays by the root of n. Sums of at most
        # 2**18 products of -1, 0 and 1 are exact in float32, so every machine picks the same lag.
        excess = float(products.sum()) / float(np.count_nonzero(products) + 1) ** 0.5
        if excess > best_excess:
            best, best_excess = lag, excess
    return best


def mixed_values(kernels: Kernels, values: Integers) -> Section:
    """Code the non-zeros of a tensor, mixed in the best walk."""
    matrix = values.reshape(matrix_shape(values.shape))

    def write(part: Integers, walk: Walk) -> bytes:
        ordered = walk.ordered(part)
        run = run_values(kernels, kernels.numbers(ordered), ordered.shape[1], walk)
        return bytes([walk.byte()]) + write_bits(kernels, 64 + part.size, run)

    def lags_of(some: Integers) -> set[int]:
        return {best_lag((some != 0).astype(np.uint8), MOST_LAG), sign_lag(some)}

    part = leading_values(matrix, TRIAL_VALUES)
    data = best_walk(matrix, part, walks_of(matrix, lags_of), write)
    return Section(MIXED_INTEGERS, data)


def unmixed_values(kernels: Kernels, reader: Reader, mask: Mask) -> Integers:
    """Return the tensor, int32, whose non-zeros `mixed_values` coded."""
    walk = Walk.of_byte(reader.byte())
    ordered = walk.ordered(mask.reshape(matrix_shape(mask.shape)))
    cells = kernels.numbers(ordered.astype(np.int32))
    read_bits(kernels, reader, run_values(kernels, cells, ordered.shape[1], walk))
    values = np.array(cells, np.int32).reshape(ordered.shape)
    return walk.ordered(values).reshape(mask.shape)


def signed_ranks(entries: Floats) -> Integers:
    """Return what index 0..K is coded as: 0, then each entry's rank by size among its sign.

    Entries -3, -1, 2, 4 give 0, -2, -1, 1, 2: small numbers with a sign, which is what the value
    loop predicts well.
    """
    ranks = np.zeros(entries.size + 1, np.int32)
    order = np.argsort(np.abs(entries), kind="stable")
    for sign, own in ((-1, order[entries[order] < 0]), (1, order[entries[order] >= 0])):
        ranks[own + 1] = sign * np.arange(1, own.size + 1)
    return ranks


def unit_classes(outputs: Units, inputs: int) -> Units:
    """Return the class of each input: 1 for an output with no weight, 2 one, 3 up to three ..."""
    if outputs.size == 0 or inputs % outputs.size:
        return np.zeros(inputs, np.int64)
    classes = np.ones(outputs.size, np.int64)
    for shift in range(loops.UNIT_CLASSES - 2):
        classes += outputs >> shift > 0
    return np.repeat(classes, inputs // outputs.size)


# The coder -------------------------------------------------------------------------------------


class MixingCoder(ContextCoder):
    """Coder 2.

    It remembers how many weights each output of the last matrix has: the next one's inputs, and
    the bias after it, are dead where those are.
    """

    def __init__(self, kernels: Kernels) -> None:
        super().__init__(kernels)
        self.counts = (np.zeros(0, np.int64), np.zeros(0, np.int64))

    def follow(self, mask: Mask) -> None:
        """Take over what a tensor just coded says about the next."""
        if mask.ndim > 1:
            matrix = mask.reshape(matrix_shape(mask.shape))
            rows, columns = (np.count_nonzero(matrix, axis=axis) for axis in (1, 0))
            self.counts = (np.asarray(rows, np.int64), np.asarray(columns, np.int64))

    def units(self, shape: tuple[int, ...]) -> tuple[Units, Units]:
        """Return the class of each input by the outputs before, if columns are inputs, if rows.

        Rows then were the outputs before, or columns. It is 0 where the numbers do not fit;
        several inputs in a row may come from one output, such as the pixels of a channel.
        """
        rows, columns = matrix_shape(shape)
        return unit_classes(self.counts[0], columns), unit_classes(self.counts[1], rows)

    def encode_positions(self, mask: Mask) -> tuple[Section, Scan]:
        """Code which cells are non-zero, mixed in the best walk or by coder 1 without a lag."""
        matrix = mask.reshape(matrix_shape(mask.shape))
        data = mixed_positions(self.kernels, matrix, self.units(mask.shape))
        scans = [Scan(), Scan(transposed=True)] if min(matrix.shape) > 1 else [Scan()]
        ways = [(encode_mask(self.kernels, mask, scan), scan) for scan in scans]
        ways.append((Section(MIXED_POSITIONS, data), Walk.of_byte(data[0]).scan()))
        return min(ways, key=lambda way: len(way[0].data))

    def decode_positions(self, reader: Reader, shape: tuple[int, ...]) -> tuple[Mask, Scan]:
        """Return the mask, in the tensor's shape, and the scan to go on with."""
        if reader.mode == MIXED_POSITIONS:
            return unmixed_positions(self.kernels, reader, shape, self.units(shape))
        if reader.mode > MIXED_POSITIONS:
            raise reader.unknown_mode()
        return super().decode_positions(reader, shape)

    def encode_indices(self, indices: Integers, entries: Floats, scan: Scan) -> Section:
        """Code the codebook index (1..K) of every non-zero cell."""
        mixed = mixed_values(self.kernels, signed_ranks(entries)[indices])
        return smallest([super().encode_indices(indices, entries, scan), mixed])

    def decode_indices(self, reader: Reader, mask: Mask, scan: Scan, entries: Floats) -> Integers:
        """Return the indices, int32, 0 where the mask is zero."""
        if reader.mode != MIXED_INTEGERS:
            return super().decode_indices(reader, mask, scan, entries)
        ranks = signed_ranks(entries)
        low, high = int(ranks.min()), int(ranks.max())
        values = unmixed_values(self.kernels, reader, mask)
        if values.min() < low or values.max() > high:
            raise reader.damaged(
                f"ranks must lie in {low}..{high}, found {values.min()}..{values.max()}"
            )
        index_of = np.zeros(high - low + 1, np.int32)
        index_of[ranks - low] = np.arange(ranks.size)
        return np.asarray(index_of[values - low], dtype=np.int32)

    def encode_levels(self, levels: Integers, scan: Scan) -> Section:
        """Code the level of every non-zero cell."""
        mixed = mixed_values(self.kernels, levels)
        return smallest([super().encode_levels(levels, scan), mixed])

    def decode_levels(self, reader: Reader, mask: Mask, scan: Scan) -> Integers:
        """Return the levels, int32, 0 where the mask is zero."""
        if reader.mode != MIXED_INTEGERS:
            return super().decode_levels(reader, mask, scan)
        return unmixed_values(self.kernels, reader, mask)
