"""Coder 1: adaptive contexts. Small files of small networks, and the fallbacks of later coders.

Each ``encode_*`` tries the few ways it knows and keeps the smallest; each ``decode_*`` reads what
the section's mode says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluators.artifacts.packed import kernels as loops
from evaluators.artifacts.packed.kernels import Kernels
from evaluators.artifacts.packed.model import Floats, Integers, half_exact
from evaluators.artifacts.packed.plain import Reader, varint
from evaluators.artifacts.packed.sections import (
    MAX_LAG,
    PACKED,
    Mask,
    Scan,
    Section,
    best_lag,
    live_lines,
    matrix_shape,
    pack_integers,
    packed_size_bytes,
    read_bits,
    smallest,
    unpack_integers,
    write_bits,
)

# Modes of a section of integers, beside PACKED.
PLAIN_CONTEXT = 1
NEIGHBOUR_CONTEXT = 2
# Modes of a section of floats: bit 0 = float16, bit 1 = modelled.
HALF = 1
MODELLED = 2

TRIAL_CELLS = 1 << 16
MAX_NEIGHBOUR_DEPTH = 8


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


def grid_of(shape: tuple[int, ...], scan: Scan) -> Grid:
    """Return the matrix of a tensor's shape as the scan walks it."""
    rows, columns = matrix_shape(shape)
    if scan.transposed:
        return Grid(columns, rows, 1, columns, scan.lag)
    return Grid(rows, columns, columns, 1, scan.lag)


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
    flat = kernels.octets(bytes(grid.rows * grid.columns))
    # Alive unless the loop reads otherwise: see `live_lines`.
    flags = (np.ones(grid.rows, np.uint8), np.ones(grid.columns, np.uint8))
    read_bits(kernels, reader, run_mask(kernels, flat, flags, grid))
    return np.frombuffer(flat, np.uint8).reshape(shape), scan


# Integers --------------------------------------------------------------------------------------


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


# The coder -------------------------------------------------------------------------------------


class ContextCoder:
    """How sections become bytes and back. Later coders inherit what they do not do better.

    A coder serves one file, in file order.

    Args:
        kernels: the loops, compiled or plain.
    """

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels

    def follow(self, mask: Mask) -> None:
        """Take over what a tensor just coded says about the next; here nothing.

        Args:
            mask: which elements are non-zero, in the tensor's shape.
        """

    def encode_positions(self, mask: Mask) -> tuple[Section, Scan]:
        """Code which cells are non-zero; return the scan to go on with."""
        return encode_positions(self.kernels, mask)

    def decode_positions(self, reader: Reader, shape: tuple[int, ...]) -> tuple[Mask, Scan]:
        """Return the mask, in the tensor's shape, and the scan to go on with."""
        return decode_positions(self.kernels, reader, shape)

    def encode_indices(self, indices: Integers, entries: Floats, scan: Scan) -> Section:
        """Code the codebook index (1..K) of every non-zero cell."""
        return encode_indices(self.kernels, indices, entries, scan)

    def decode_indices(self, reader: Reader, mask: Mask, scan: Scan, entries: Floats) -> Integers:
        """Return the indices, int32, 0 where the mask is zero."""
        return decode_indices(self.kernels, reader, mask, scan, entries)

    def encode_levels(self, levels: Integers, scan: Scan) -> Section:
        """Code the level of every non-zero cell."""
        return encode_levels(self.kernels, levels, scan)

    def decode_levels(self, reader: Reader, mask: Mask, scan: Scan) -> Integers:
        """Return the levels, int32, 0 where the mask is zero."""
        return decode_levels(self.kernels, reader, mask, scan)

    def encode_floats(self, values: Floats) -> Section:
        """Code floats exactly."""
        return encode_floats(self.kernels, values)

    def decode_floats(self, reader: Reader, count: int) -> Floats:
        """Return `count` floats, float32 (count,); they may be NaN in damaged files."""
        return decode_floats(self.kernels, reader, count)

    def encode_text(self, text: bytes) -> Section:
        """Code bytes and their number."""
        return encode_text(self.kernels, text)

    def decode_text(self, reader: Reader, max_bytes: int) -> bytes:
        """Return the bytes of `encode_text`; refuse more than `max_bytes`."""
        return decode_text(self.kernels, reader, max_bytes)
