"""Coder 1: how the sections of a file become bytes, by adaptive models or plainly.

Each ``encode_*`` tries the few ways it knows and keeps the smallest; the way is the `mode` (0..3)
which the container stores beside the section's length. Each ``decode_*`` accepts zeros after its
bytes (padding) and refuses anything else there. This module is all a later coder has to replace:
the container stores `CODER_ID` and never looks inside a section.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluators.artifacts.packed import kernels as loops
from evaluators.artifacts.packed.kernels import Kernels
from evaluators.artifacts.packed.model import Floats, Integers, half_exact
from evaluators.artifacts.packed.plain import Reader, varint, zigzag, zigzag_inverse

Mask: TypeAlias = npt.NDArray[np.uint8]

CODER_ID = 1

# Modes of a section of integers.
PACKED = 0
PLAIN_CONTEXT = 1
NEIGHBOUR_CONTEXT = 2
# Modes of a section of floats: bit 0 = float16, bit 1 = modelled.
HALF = 1
MODELLED = 2

MAX_LAG = 128
MAX_PACKED_BITS = 18
TRIAL_CELLS = 1 << 16
MAX_NEIGHBOUR_DEPTH = 8


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


@dataclass(frozen=True)
class Grid:
    """A tensor seen as a matrix (first dimension by all others) in the order of a scan."""

    rows: int
    columns: int
    row_stride: int
    column_stride: int
    lag: int

    def leading(self, cells: int) -> "Grid":
        """Return the leading rows that hold about `cells` cells, at least one."""
        rows = min(self.rows, max(1, cells // self.columns))
        return Grid(rows, self.columns, self.row_stride, self.column_stride, self.lag)

    def array(self) -> npt.NDArray[np.int64]:
        """Return the five numbers as the loops want them."""
        return np.array(
            [self.rows, self.columns, self.row_stride, self.column_stride, self.lag], np.int64
        )


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, columns) of a tensor; a vector is one row: (300,) -> (1, 300)."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def grid_of(shape: tuple[int, ...], scan: Scan) -> Grid:
    """Return the matrix of a tensor's shape as the scan walks it."""
    rows, columns = matrix_shape(shape)
    if scan.transposed:
        return Grid(columns, rows, 1, columns, scan.lag)
    return Grid(rows, columns, columns, 1, scan.lag)


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


# Positions -------------------------------------------------------------------------------------


def run_mask(
    kernels: Kernels, mask: Any, flags: tuple[Mask, Mask], grid: Grid
) -> Callable[[Any, Any], None]:
    """Return the call of the mask loop for `write_bits` and `read_bits`."""

    def run(state: Any, buffer: Any) -> None:
        kernels.mask(
            state,
            buffer,
            kernels.fresh_model(loops.MASK_CELLS),
            mask,
            kernels.octets(flags[0].tobytes()),
            kernels.octets(flags[1].tobytes()),
            kernels.numbers(np.zeros(grid.columns, np.int64)),
            grid.row_stride,
            grid.column_stride,
            grid.lag,
        )

    return run


def best_lag(mask: Mask) -> int:
    """Return the distance 2..128 along rows at which non-zeros coincide most, or 1 for none.

    Args:
        mask: (rows, columns) zeros and ones.
    """
    columns = mask.shape[1]
    counts = mask.sum(axis=0, dtype=np.int64)
    best, best_excess = 1, 0.0
    for lag in range(2, min(MAX_LAG, columns // 2) + 1):
        hits = int(np.count_nonzero(mask[:, lag:] & mask[:, :-lag]))
        # What independent cells with these column counts would give.
        chance = int((counts[lag:] * counts[:-lag]).sum()) / mask.shape[0]
        excess = (hits - chance) / math.sqrt(chance + 1.0)
        if excess > best_excess:
            best, best_excess = lag, excess
    return best


def encode_positions(kernels: Kernels, mask: Mask) -> tuple[Section, Scan]:
    """Code which cells are non-zero, in the best of up to four scans.

    Args:
        kernels: the loops.
        mask: zeros and ones in the tensor's shape.
    """
    rows, columns = matrix_shape(mask.shape)
    matrix = mask.reshape(rows, columns)
    scans = [Scan()]
    if rows > 1 and columns > 1:
        scans.append(Scan(transposed=True))
        for transposed, view in ((False, matrix), (True, np.ascontiguousarray(matrix.T))):
            lag = best_lag(view)
            if lag > 1:
                scans.append(Scan(transposed, lag))
    sections = [encode_mask(kernels, mask, scan) for scan in scans]
    section = smallest(sections)
    return section, scans[sections.index(section)]


def live_lines(matrix: Mask) -> tuple[Mask, Mask]:
    """Return which rows and which columns have a non-zero; a single line counts as alive.

    The loop does not code the flags of lines of one cell (they would repeat the mask).
    """
    rows, columns = matrix.shape
    along = matrix.max(axis=1) if columns > 1 else np.ones(rows, np.uint8)
    across = matrix.max(axis=0) if rows > 1 else np.ones(columns, np.uint8)
    return along, across


def encode_mask(kernels: Kernels, mask: Mask, scan: Scan) -> Section:
    """Code which cells are non-zero in one scan; mode bit 0 = transposed, bit 1 = has a lag."""
    grid = grid_of(mask.shape, scan)
    matrix = mask.reshape(matrix_shape(mask.shape))
    flags = live_lines(matrix.T if scan.transposed else matrix)
    run = run_mask(kernels, kernels.octets(mask.tobytes()), flags, grid)
    head = bytes([scan.lag]) if scan.lag > 1 else b""
    data = head + write_bits(kernels, 64 + mask.size // 4, run)
    return Section(int(scan.transposed) + 2 * int(scan.lag > 1), data)


def decode_positions(kernels: Kernels, reader: Reader, shape: tuple[int, ...]) -> tuple[Mask, Scan]:
    """Return the mask, in the tensor's shape, and the scan it was coded in."""
    lag = reader.byte() if reader.mode & 2 else 1
    if reader.mode & 2 and not 2 <= lag <= MAX_LAG:
        raise reader.damaged(f"lag must lie in 2..{MAX_LAG}, is {lag}")
    scan = Scan(bool(reader.mode & 1), lag)
    grid = grid_of(shape, scan)
    flat = kernels.octets(bytes(math.prod(shape)))
    # Alive unless the loop reads otherwise: see `live_lines`.
    flags = (np.ones(grid.rows, np.uint8), np.ones(grid.columns, np.uint8))
    read_bits(kernels, reader, run_mask(kernels, flat, flags, grid))
    return np.frombuffer(flat, np.uint8).reshape(shape), scan


# Integers --------------------------------------------------------------------------------------


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


def run_indices(
    kernels: Kernels, indices: Any, entry_signs: npt.NDArray[np.int8], grid: Grid, mode: int
) -> Callable[[Any, Any], None]:
    """Return the call of the index loop for `write_bits` and `read_bits`."""
    depth = (entry_signs.size - 2).bit_length()
    contexts = loops.SIGN_CLASSES if mode == NEIGHBOUR_CONTEXT else 1
    table = np.zeros((1 << depth) + 1, np.int8)
    table[: entry_signs.size] = entry_signs

    def run(state: Any, buffer: Any) -> None:
        kernels.indices(
            state,
            buffer,
            kernels.fresh_model(contexts << depth),
            indices,
            kernels.numbers(np.zeros(len(indices), np.int8)),
            kernels.numbers(table),
            kernels.numbers(grid.array()),
            depth,
            contexts,
        )

    return run


def run_levels(kernels: Kernels, levels: Any, grid: Grid, mode: int) -> Callable[[Any, Any], None]:
    """Return the call of the level loop for `write_bits` and `read_bits`."""
    contexts = 2 if mode == NEIGHBOUR_CONTEXT else 1

    def run(state: Any, buffer: Any) -> None:
        kernels.levels(
            state,
            buffer,
            kernels.fresh_model(loops.LEVEL_CELLS),
            levels,
            kernels.numbers(np.zeros(grid.columns, np.int64)),
            kernels.numbers(grid.array()),
            contexts,
        )

    return run


RunLoop: TypeAlias = Callable[[Any, Grid, int], Callable[[Any, Any], None]]


def encode_integers(
    kernels: Kernels, values: Integers, scan: Scan, run_loop: RunLoop, modes: list[int]
) -> Section:
    """Code the non-zeros of a tensor, modelled in the best of the modes or packed.

    Args:
        kernels: the loops.
        values: the tensor; cells that are 0 are known to the reader.
        scan: the scan its positions were coded in.
        run_loop: gives the loop call for (working copy, grid, mode).
        modes: the modelled modes to try.
    """
    grid = grid_of(values.shape, scan)
    cells = kernels.numbers(values)

    def written(part: Grid, mode: int) -> Section:
        room = 64 + 2 * part.rows * part.columns
        return Section(mode, write_bits(kernels, room, run_loop(cells, part, mode)))

    # The better mode shows on the leading rows; trying both on a large tensor would double the
    # time for nothing.
    trial = grid.leading(TRIAL_CELLS)
    best = smallest([written(trial, mode) for mode in modes])
    if trial != grid:
        best = written(grid, best.mode)
    non_zeros = values[values != 0]
    if packed_size_bytes(non_zeros) < len(best.data):
        return Section(PACKED, pack_integers(non_zeros))
    return best


def decode_integers(
    kernels: Kernels, reader: Reader, mask: Mask, scan: Scan, run_loop: RunLoop
) -> Integers:
    """Return the tensor, int32, whose non-zeros `encode_integers` coded."""
    if reader.mode == PACKED:
        values = np.zeros(mask.shape, np.int32)
        values[mask != 0] = unpack_integers(reader, int(np.count_nonzero(mask)))
        return values
    if reader.mode not in (PLAIN_CONTEXT, NEIGHBOUR_CONTEXT):
        raise reader.unknown_mode()
    cells = kernels.numbers(mask.astype(np.int32))
    read_bits(kernels, reader, run_loop(cells, grid_of(mask.shape, scan), reader.mode))
    return np.array(cells, np.int32).reshape(mask.shape)


def indices_loop(kernels: Kernels, entries: Floats) -> RunLoop:
    """Return the index loop for a codebook with these entries."""
    signs = np.concatenate((np.zeros(1), np.sign(entries))).astype(np.int8)
    return lambda cells, grid, mode: run_indices(kernels, cells, signs, grid, mode)


def encode_indices(kernels: Kernels, indices: Integers, entries: Floats, scan: Scan) -> Section:
    """Code the codebook index (1..K) of every non-zero cell."""
    modes = [PLAIN_CONTEXT, NEIGHBOUR_CONTEXT]
    if (entries.size - 1).bit_length() > MAX_NEIGHBOUR_DEPTH:
        modes = [PLAIN_CONTEXT]
    return encode_integers(kernels, indices, scan, indices_loop(kernels, entries), modes)


def decode_indices(
    kernels: Kernels, reader: Reader, mask: Mask, scan: Scan, entries: Floats
) -> Integers:
    """Return the indices, int32, 0 where the mask is zero."""
    return decode_integers(kernels, reader, mask, scan, indices_loop(kernels, entries))


def encode_levels(kernels: Kernels, levels: Integers, scan: Scan) -> Section:
    """Code the level of every non-zero cell."""
    modes = [PLAIN_CONTEXT, NEIGHBOUR_CONTEXT]
    return encode_integers(kernels, levels, scan, levels_loop(kernels), modes)


def decode_levels(kernels: Kernels, reader: Reader, mask: Mask, scan: Scan) -> Integers:
    """Return the levels, int32, 0 where the mask is zero."""
    return decode_integers(kernels, reader, mask, scan, levels_loop(kernels))


def levels_loop(kernels: Kernels) -> RunLoop:
    """Return the level loop."""
    return lambda cells, grid, mode: run_levels(kernels, cells, grid, mode)


# Floats and text -------------------------------------------------------------------------------


def float_records(values: Floats, half: bool) -> npt.NDArray[np.uint8]:
    """Return the bytes of floats, most telling first: exponent, mantissa, sign last.

    Args:
        values: any shape.
        half: 2 bytes a value instead of 4.
    """
    flat = values.reshape(-1)
    if half:
        words = flat.astype(np.float16).view(np.uint16)
        turned = ((words << 1) | (words >> 15)).astype(">u2")
    else:
        wide = flat.view(np.uint32)
        turned = ((wide << 1) | (wide >> 31)).astype(">u4")
    return turned.view(np.uint8)


def floats_of(records: bytes, half: bool) -> Floats:
    """Return the floats of `float_records`, float32 (count,)."""
    if half:
        words = np.frombuffer(records, ">u2").astype(np.uint16)
        # A signalling NaN of a damaged file is refused later, without a warning here.
        with np.errstate(invalid="ignore"):
            return ((words >> 1) | (words << 15)).view(np.float16).astype(np.float32)
    wide = np.frombuffer(records, ">u4").astype(np.uint32)
    return ((wide >> 1) | (wide << 31)).view(np.float32)


def run_bytes(kernels: Kernels, data: Any, width: int) -> Callable[[Any, Any], None]:
    """Return the call of the byte loop; the first two bytes of a record have a model each."""
    modelled = min(width, 2)

    def run(state: Any, buffer: Any) -> None:
        model = kernels.fresh_model(modelled * loops.BYTE_CELLS)
        kernels.records(state, buffer, model, data, width, modelled)

    return run


def encode_floats(kernels: Kernels, values: Floats) -> Section:
    """Code floats exactly: as float16 if that holds them all, modelled if that is smaller."""
    half = half_exact(values)
    records = float_records(values, half).tobytes()
    run = run_bytes(kernels, kernels.octets(records), 2 if half else 4)
    modelled = write_bits(kernels, 64 + len(records), run)
    mode = HALF if half else 0
    return smallest([Section(mode, records), Section(mode | MODELLED, modelled)])


def decode_floats(kernels: Kernels, reader: Reader, count: int) -> Floats:
    """Return `count` floats, float32 (count,); they may be NaN in damaged files."""
    half = bool(reader.mode & HALF)
    size_bytes = count * (2 if half else 4)
    if not reader.mode & MODELLED:
        records = reader.take(size_bytes)
        reader.refuse_non_zero(reader.rest())
        return floats_of(records, half)
    data = kernels.octets(bytes(size_bytes))
    read_bits(kernels, reader, run_bytes(kernels, data, 2 if half else 4))
    return floats_of(bytes(data), half)


def encode_text(kernels: Kernels, text: bytes) -> Section:
    """Code bytes: their number, then the bytes, modelled (mode 2) if that is smaller."""
    run = run_bytes(kernels, kernels.octets(text), 1)
    head = varint(len(text))
    modelled = head + write_bits(kernels, 64 + len(text), run)
    return smallest([Section(0, head + text), Section(MODELLED, modelled)])


def decode_text(kernels: Kernels, reader: Reader, max_bytes: int) -> bytes:
    """Return the bytes of `encode_text`; refuse more than `max_bytes`."""
    size_bytes = reader.varint()
    if size_bytes > max_bytes:
        raise reader.damaged(f"{size_bytes} bytes of text, at most {max_bytes} are allowed")
    if reader.mode == 0:
        text = reader.take(size_bytes)
        reader.refuse_non_zero(reader.rest())
        return text
    if reader.mode != MODELLED:
        raise reader.unknown_mode()
    data = kernels.octets(bytes(size_bytes))
    read_bits(kernels, reader, run_bytes(kernels, data, 1))
    return bytes(data)
