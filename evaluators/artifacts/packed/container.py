"""The file around the sections: header, section prefixes, checksum, and the byte ledger.

Layout of version 1, in file order::

    header      "PKW", version, coder id, prefix, then: 1 if there are attributes else 0, number of
                tensors, and a tensor: its name, one byte of kind, flags and dimensions, its shape
    attributes  only if there are any: text pairs
    a tensor's sections, those its header byte announces, in this order:
      codebook    number of entries, then floats or levels
      scales      one float, or one a channel
      positions   which elements are non-zero; absent if all are, or if the values say it
      values | levels | indices   of the non-zeros; absent if all are zero (or all are index 1)
    checksum    CRC-32 of all bytes before it, 4 bytes, low byte first

A prefix is the varint 4 * (length in bytes) + mode. A content may be followed by zero bytes within
the announced length. One byte of a file stands for at most 65536 elements, which the writer
keeps by padding and which bounds what a small hostile file can make a reader allocate.
"""

import enum
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from evaluators.artifacts.packed.coders import CODERS, WRITER_ID
from evaluators.artifacts.packed.contexts import ContextCoder
from evaluators.artifacts.packed.kernels import kernels
from evaluators.artifacts.packed.model import (
    MAX_ATTRIBUTES_BYTES,
    MAX_NAME_BYTES,
    Artifact,
    Codebook,
    CodebookTensor,
    DamagedArtifact,
    FloatCodebook,
    Floats,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Integers,
    Tensor,
    max_entries,
    pairs_flat,
)
from evaluators.artifacts.packed.plain import Reader, varint
from evaluators.artifacts.packed.sections import (
    PACKED,
    Mask,
    Scan,
    Section,
    pack_integers,
    packed_size_bytes,
    unpack_integers,
)
from spaces.errors import InvalidRequest
from spaces.trial import LedgerLine

MAGIC = b"PKW"
VERSION = 1
CHECKSUM_BYTES = 4
ELEMENTS_PER_BYTE = 1 << 16
DEFAULT_MAX_ELEMENTS = 1 << 28

# Words a name may use for one byte each. Part of version 1: append nothing, reorder nothing.
KNOWN_WORDS_TEXT = (
    "weight bias kernel fc1 fc2 fc3 conv1 conv2 conv3 layers features classifier dense conv lstm "
    "gru embedding head output fc linear layer1 layer2 layer3 layer4 bn1 bn2 downsample "
    "weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0 running_mean running_var gamma beta "
    "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"
)
KNOWN_WORDS = tuple(KNOWN_WORDS_TEXT.split())


class Kind(enum.IntEnum):
    """What a tensor's header byte says about its content."""

    FLOAT16 = 0
    FLOAT32 = 1
    GRID = 2
    GRID_PER_CHANNEL = 3
    CODEBOOK16 = 4
    CODEBOOK32 = 5
    CODEBOOK_GRID = 6


CODEBOOKS = (Kind.CODEBOOK16, Kind.CODEBOOK32, Kind.CODEBOOK_GRID)
SCALED = (Kind.GRID, Kind.GRID_PER_CHANNEL, Kind.CODEBOOK_GRID)


@dataclass(frozen=True)
class Encoded:
    """A packed file and what each part of it costs."""

    data: bytes
    ledger: tuple[LedgerLine, ...]


@dataclass(frozen=True)
class TensorHeader:
    """What the header says about one tensor."""

    name: str
    kind: Kind
    has_positions: bool
    has_values: bool
    shape: tuple[int, ...]

    def sections(self) -> Iterator[str]:
        """Yield the names of the tensor's sections in file order."""
        if self.kind in CODEBOOKS:
            yield "codebook"
        if self.kind in SCALED:
            yield "scales"
        if self.has_positions:
            yield "positions"
        if self.has_values:
            yield self.value_section()

    def value_section(self) -> str:
        """Return the name of the section with the non-zeros."""
        if self.kind in CODEBOOKS:
            return "indices"
        return "levels" if self.kind in SCALED else "values"

    def elements(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What the start of a file and its header section say."""

    coder_id: int
    has_attributes: bool
    tensors: tuple[TensorHeader, ...]


@dataclass(frozen=True)
class Placed:
    """A section found in a file, with a reader of its content."""

    layer: str
    section: str
    start: int
    content: Reader

    @property
    def line(self) -> LedgerLine:
        """The section's ledger line."""
        return LedgerLine(self.layer, self.section, self.content.end - self.start)


# Writing ---------------------------------------------------------------------------------------


def encode(artifact: Artifact, *, pure_python: bool = False, coder_id: int = WRITER_ID) -> Encoded:
    """Write a packed file; the same artifact always gives the same bytes.

    Args:
        artifact: what to write.
        pure_python: do without numba; slower, same bytes.
        coder_id: of the coder; an older one only to compare.
    """
    coder = CODERS[coder_id](kernels(pure_python))
    headers: list[TensorHeader] = []
    bodies: list[dict[str, Section]] = []
    for tensor in artifact.tensors:
        header, sections = tensor_sections(coder, tensor)
        headers.append(header)
        bodies.append(sections)
        coder.follow(stored_mask(tensor))
    has_attributes = bool(artifact.attributes)
    parts = [("", "header", header_bytes(Header(coder_id, has_attributes, tuple(headers))))]
    if has_attributes:
        parts.append(("", "attributes", prefixed(attributes_section(coder, artifact))))
    for header, sections in zip(headers, bodies, strict=True):
        parts += [(header.name, name, prefixed(sections[name])) for name in header.sections()]
    data = checked(b"".join(part for _, _, part in parts))
    return padded_to_elements(data, sum(header.elements() for header in headers))


def padded_to_elements(data: bytes, elements: int) -> Encoded:
    """Pad a file that is all but empty to one byte for every 65536 elements."""
    missing = -(-elements // ELEMENTS_PER_BYTE) - len(data)
    if missing > 0:
        data = pad_section(data, "", "header", missing)
    return Encoded(data, ledger(data))


def prefixed(section: Section, prefix_bytes: int = 1) -> bytes:
    """Return a section with its prefix, which takes at least `prefix_bytes`."""
    return varint(4 * len(section.data) + section.mode, prefix_bytes) + section.data


def checked(body: bytes) -> bytes:
    """Return a file's bytes with their checksum appended."""
    return body + zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little")


def header_bytes(header: Header) -> bytes:
    """Return the header section."""
    body = bytearray(varint(int(header.has_attributes)))
    body += varint(len(header.tensors))
    words = list(KNOWN_WORDS)
    for tensor in header.tensors:
        body += name_bytes(tensor.name, words)
        body.append(
            tensor.kind
            | tensor.has_positions << 3
            | tensor.has_values << 4
            | len(tensor.shape) << 5
        )
        for length in tensor.shape:
            body += varint(length)
    return MAGIC + bytes([VERSION, header.coder_id]) + prefixed(Section(0, bytes(body)))


def name_bytes(name: str, words: list[str]) -> bytes:
    """Return a name as its dot-separated words, each by number or spelled out once.

    A word is the varint 2 * (0 if spelled out, else 1 + its number) + (1 if a word follows);
    a spelled-out word is followed by its length and its UTF-8 bytes, and gets the next number.

    Args:
        name: such as "fc1.weight".
        words: the words known so far; extended.
    """
    parts = name.split(".")
    written = bytearray()
    for place, word in enumerate(parts):
        more = int(place + 1 < len(parts))
        if word in words:
            written += varint(2 * (1 + words.index(word)) + more)
            continue
        spelled = word.encode("utf-8")
        written += varint(more) + varint(len(spelled)) + spelled
        words.append(word)
    return bytes(written)


def attributes_section(coder: ContextCoder, artifact: Artifact) -> Section:
    """Return the attributes as text pairs, sorted by key."""
    body = bytearray()
    for text in pairs_flat(artifact.attributes):
        spelled = text.encode("utf-8")
        body += varint(len(spelled)) + spelled
    return coder.encode_text(bytes(body))


def tensor_sections(coder: ContextCoder, tensor: Tensor) -> tuple[TensorHeader, dict[str, Section]]:
    """Return a tensor's header and its sections by name."""
    match tensor:
        case FloatTensor():
            kind = Kind.FLOAT16 if tensor.bits == 16 else Kind.FLOAT32
            sections = float_sections(coder, tensor.values)
        case GridTensor():
            kind = Kind.GRID_PER_CHANNEL if tensor.scale.size > 1 else Kind.GRID
            sections = level_sections(coder, tensor.levels)
            sections["scales"] = coder.encode_floats(tensor.scale)
        case CodebookTensor():
            kind, sections = codebook_sections(coder, tensor.codebook)
            sections |= index_sections(coder, tensor.indices, tensor.codebook.decode())
        case _:
            assert_never(tensor)
    has_values = bool({"values", "levels", "indices"} & sections.keys())
    header = TensorHeader(tensor.name, kind, "positions" in sections, has_values, tensor.shape)
    return header, sections


def stored_mask(tensor: Tensor) -> Mask:
    """Return which stored elements are not 0 (an index is not, even if its entry is)."""
    match tensor:
        case FloatTensor():
            stored = tensor.values != 0
        case GridTensor():
            stored = tensor.levels != 0
        case CodebookTensor():
            stored = tensor.indices != 0
        case _:
            assert_never(tensor)
    return np.asarray(stored, np.uint8)


def smaller(first: dict[str, Section], second: dict[str, Section]) -> dict[str, Section]:
    """Return the sections which take fewer bytes in the file."""

    def size_bytes(sections: dict[str, Section]) -> int:
        return sum(len(prefixed(section)) for section in sections.values())

    return second if size_bytes(second) < size_bytes(first) else first


def positions_of(coder: ContextCoder, mask: Mask) -> tuple[dict[str, Section], Scan]:
    """Return the positions section, none if nothing is zero, and the scan to go on with."""
    if mask.all():
        return {}, Scan()
    section, scan = coder.encode_positions(mask)
    return {"positions": section}, scan


def float_sections(coder: ContextCoder, values: Floats) -> dict[str, Section]:
    """Return the sections of plain floats."""
    mask = (values != 0).astype(np.uint8)
    if not mask.any():
        return {}
    sections, _ = positions_of(coder, mask)
    sections["values"] = coder.encode_floats(values[mask != 0])
    return smaller(sections, {"values": coder.encode_floats(values)})


def level_sections(coder: ContextCoder, levels: Integers) -> dict[str, Section]:
    """Return the sections of grid levels."""
    mask = (levels != 0).astype(np.uint8)
    if not mask.any():
        return {}
    sections, scan = positions_of(coder, mask)
    sections["levels"] = coder.encode_levels(levels, scan)
    return smaller(sections, packed_instead("levels", levels, sections))


def index_sections(coder: ContextCoder, indices: Integers, entries: Floats) -> dict[str, Section]:
    """Return the sections of codebook indices."""
    mask = (indices != 0).astype(np.uint8)
    if not mask.any():
        return {}
    sections, scan = positions_of(coder, mask)
    if sections and int(indices.max()) == 1:
        return sections
    sections["indices"] = coder.encode_indices(indices, entries, scan)
    return smaller(sections, packed_instead("indices", indices, sections))


def packed_instead(name: str, values: Integers, sections: dict[str, Section]) -> dict[str, Section]:
    """Return all elements packed, zeros too, if that may beat the given sections."""
    limit_bytes = sum(len(section.data) + 5 for section in sections.values())
    if packed_size_bytes(values) > limit_bytes:
        return sections
    return {name: Section(PACKED, pack_integers(values))}


def codebook_sections(coder: ContextCoder, codebook: Codebook) -> tuple[Kind, dict[str, Section]]:
    """Return the kind of a codebook tensor and the sections of its codebook."""
    match codebook:
        case FloatCodebook():
            section = coder.encode_floats(codebook.entries)
            kind = Kind.CODEBOOK16 if codebook.bits == 16 else Kind.CODEBOOK32
            head = varint(codebook.entries.size)
            return kind, {"codebook": Section(section.mode, head + section.data)}
        case GridCodebook():
            data = varint(codebook.levels.size) + pack_integers(codebook.levels)
            return Kind.CODEBOOK_GRID, {
                "codebook": Section(PACKED, data),
                "scales": coder.encode_floats(codebook.scale),
            }
        case _:
            assert_never(codebook)


# Reading ---------------------------------------------------------------------------------------


def decode(
    data: bytes, max_elements: int = DEFAULT_MAX_ELEMENTS, *, pure_python: bool = False
) -> Artifact:
    """Read a packed file written by `encode`; bad bytes give one DamagedArtifact.

    Args:
        data: the whole file.
        max_elements: refuse files whose tensors have more elements in total.
        pure_python: do without numba; slower, same result.
    """
    header, placed = sections_of(data)
    coder = CODERS[header.coder_id](kernels(pure_python))
    check_elements(header, len(data), max_elements)
    by_place = {(section.layer, section.section): section for section in placed}
    try:
        attributes = read_attributes(coder, by_place) if header.has_attributes else {}
        tensors: list[Tensor] = []
        for tensor in header.tensors:
            sections = {name: by_place[tensor.name, name] for name in tensor.sections()}
            tensors.append(read_tensor(coder, tensor, sections))
            coder.follow(stored_mask(tensors[-1]))
        return Artifact(tuple(tensors), attributes)
    except DamagedArtifact:
        raise
    except InvalidRequest as problem:
        raise DamagedArtifact(f"packed file: {problem}") from None


def ledger(data: bytes) -> tuple[LedgerLine, ...]:
    """Return what each section of a packed file costs, from the file's own structure."""
    return tuple(section.line for section in sections_of(data)[1])


def pad_section(data: bytes, layer: str, section: str, extra_bytes: int) -> bytes:
    """Return a valid file with one section longer by zero bytes, its ledger line by just those.

    Args:
        data: a packed file.
        layer: as in the ledger line, "" for the whole file.
        section: as in the ledger line; a checksum cannot be padded.
        extra_bytes: 0 or more.
    """
    for placed in sections_of(data)[1]:
        if (placed.layer, placed.section) != (layer, section) or section == "checksum":
            continue
        start, end = placed.content.place, placed.content.end
        prefix_start = len(MAGIC) + 2 if section == "header" else placed.start
        old_prefix_bytes = start - prefix_start
        prefix = varint(4 * (end - start + extra_bytes) + placed.content.mode, old_prefix_bytes)
        grown = len(prefix) - old_prefix_bytes
        if grown:
            # The longer prefix is part of the extra bytes.
            length = end - start + extra_bytes - grown
            prefix = varint(4 * length + placed.content.mode, len(prefix))
        body = data[start:end] + bytes(extra_bytes - grown)
        return checked(data[:prefix_start] + prefix + body + data[end:-CHECKSUM_BYTES])
    raise InvalidRequest(f"no section {section!r} of layer {layer!r} that could be padded")


def sections_of(data: bytes) -> tuple[Header, list[Placed]]:
    """Return the header and where each section is; refuse a wrong checksum or frame."""
    data = bytes(data)
    reader = Reader(data, "header")
    if reader.take(len(MAGIC)) != MAGIC:
        raise reader.damaged('does not start with "PKW"')
    version, coder_id = reader.byte(), reader.byte()
    if version != VERSION:
        raise reader.damaged(f"version {version} is not known, this reader knows {VERSION}")
    if coder_id not in CODERS:
        known = ", ".join(map(str, CODERS))
        raise reader.damaged(f"coder {coder_id} is not known, this reader knows {known}")
    check_sum(data)
    reader.end = len(data) - CHECKSUM_BYTES
    section = next_section(reader, "", "header", 0)
    header = read_header(section, coder_id)
    placed = [section]
    if header.has_attributes:
        placed.append(next_section(reader, "", "attributes"))
    placed += [
        next_section(reader, tensor.name, name)
        for tensor in header.tensors
        for name in tensor.sections()
    ]
    if reader.place != reader.end:
        raise reader.damaged(f"{reader.end - reader.place} bytes follow the last section")
    end = Reader(data, "checksum", reader.end)
    return header, [*placed, Placed("", "checksum", reader.end, end)]


def check_sum(data: bytes) -> None:
    """Refuse a file whose last four bytes are not the CRC-32 of the others."""
    reader = Reader(data, "checksum", max(0, len(data) - CHECKSUM_BYTES))
    body = data[:-CHECKSUM_BYTES]
    if int.from_bytes(reader.take(CHECKSUM_BYTES), "little") != zlib.crc32(body):
        raise reader.damaged("does not match the bytes; the file is cut short or altered")


def check_elements(header: Header, size_bytes: int, max_elements: int) -> None:
    """Refuse more elements than allowed, or than a file of this size may stand for."""
    reader = Reader(b"", "section header")
    elements = sum(tensor.elements() for tensor in header.tensors)
    if elements > max_elements:
        raise reader.damaged(f"{elements} elements, at most {max_elements} are allowed")
    if elements > ELEMENTS_PER_BYTE * size_bytes:
        raise reader.damaged(f"{elements} elements cannot come from {size_bytes} bytes")


def next_section(reader: Reader, layer: str, section: str, start: int | None = None) -> Placed:
    """Step over the next section and return it.

    Args:
        reader: the file's reader, at the section's prefix.
        layer: whose section it is.
        section: its name.
        start: where its ledger line begins, if not at the prefix.
    """
    what = f"section {section}" + (f" of {layer!r}" if layer else "")
    start = reader.place if start is None else start
    reader.what = what
    prefix = reader.varint()
    return Placed(layer, section, start, reader.span(what, prefix >> 2, prefix & 3))


def read_header(section: Placed, coder_id: int) -> Header:
    """Return what the header section says, in a file of this coder."""
    reader = section.content.again()
    if section.content.mode != 0:
        raise reader.unknown_mode()
    has_attributes, count = reader.varint(), reader.varint()
    if has_attributes > 1:
        raise reader.damaged(f"attributes flag must be 0 or 1, is {has_attributes}")
    words = list(KNOWN_WORDS)
    names: set[str] = set()
    tensors: list[TensorHeader] = []
    for _ in range(count):
        tensor = read_tensor_header(reader, words)
        if tensor.name in names:
            raise reader.damaged(f"tensor name {tensor.name!r} occurs twice")
        names.add(tensor.name)
        tensors.append(tensor)
    reader.refuse_non_zero(reader.rest())
    return Header(coder_id, bool(has_attributes), tuple(tensors))


def read_tensor_header(reader: Reader, words: list[str]) -> TensorHeader:
    """Return what the header says about the next tensor."""
    name = read_name(reader, words)
    byte = reader.byte()
    kind = byte & 7
    if kind not in list(Kind):
        raise reader.damaged(f"tensor {name!r} is of unknown kind {kind}")
    shape = tuple(reader.varint() for _ in range(byte >> 5))
    if 0 in shape:
        raise reader.damaged(f"tensor {name!r} of shape {shape} holds no element")
    tensor = TensorHeader(name, Kind(kind), bool(byte & 8), bool(byte & 16), shape)
    if tensor.has_positions and not tensor.has_values and tensor.kind not in CODEBOOKS:
        raise reader.damaged(f"tensor {name!r} has positions but no values")
    return tensor


def read_name(reader: Reader, words: list[str]) -> str:
    """Return a name written by `name_bytes`."""
    parts: list[str] = []
    more, size_bytes = 1, 0
    while more:
        number, more = divmod(reader.varint(), 2)
        if number > len(words):
            raise reader.damaged(f"word {number} of a name is not known")
        if number == 0:
            try:
                words.append(reader.take(reader.varint()).decode("utf-8"))
            except UnicodeDecodeError:
                raise reader.damaged("a name is not UTF-8") from None
        parts.append(words[number - 1])
        size_bytes += len(parts[-1].encode("utf-8")) + 1
        if size_bytes > MAX_NAME_BYTES + 1:
            raise reader.damaged(f"a name takes more than {MAX_NAME_BYTES} bytes")
    return ".".join(parts)


def read_attributes(coder: ContextCoder, by_place: dict[tuple[str, str], Placed]) -> dict[str, str]:
    """Return the attributes."""
    section = by_place["", "attributes"]
    reader = section.content.again()
    text = coder.decode_text(reader, MAX_ATTRIBUTES_BYTES)
    pairs = Reader(text, reader.what)
    attributes: dict[str, str] = {}
    try:
        while pairs.place < pairs.end:
            key = pairs.take(pairs.varint()).decode("utf-8")
            if key in attributes:
                raise reader.damaged(f"key {key!r} occurs twice")
            attributes[key] = pairs.take(pairs.varint()).decode("utf-8")
    except UnicodeDecodeError:
        raise reader.damaged("a text is not UTF-8") from None
    return attributes


def read_tensor(coder: ContextCoder, header: TensorHeader, sections: dict[str, Placed]) -> Tensor:
    """Return a tensor from its sections."""
    match header.kind:
        case Kind.FLOAT16:
            return FloatTensor(header.name, read_values(coder, header, sections), 16)
        case Kind.FLOAT32:
            return FloatTensor(header.name, read_values(coder, header, sections), 32)
        case Kind.GRID:
            return read_grid(coder, header, sections, 1)
        case Kind.GRID_PER_CHANNEL:
            return read_grid(coder, header, sections, header.shape[0] if header.shape else 1)
        case Kind.CODEBOOK16 | Kind.CODEBOOK32 | Kind.CODEBOOK_GRID:
            codebook = read_codebook(coder, header, sections)
            indices = read_indices(coder, header, sections, codebook.decode())
            return CodebookTensor(header.name, indices, codebook)
        case _:
            assert_never(header.kind)


def read_mask(
    coder: ContextCoder, header: TensorHeader, sections: dict[str, Placed]
) -> tuple[Mask, Scan]:
    """Return which elements are non-zero (all, without positions) and the scan of the values."""
    if not header.has_positions:
        return np.ones(header.shape, np.uint8), Scan()
    section = sections["positions"]
    return coder.decode_positions(section.content.again(), header.shape)


def read_values(coder: ContextCoder, header: TensorHeader, sections: dict[str, Placed]) -> Floats:
    """Return the values of a float tensor."""
    values = np.zeros(header.shape, np.float32)
    if not header.has_values:
        return values
    mask, _ = read_mask(coder, header, sections)
    section = sections["values"]
    count = int(np.count_nonzero(mask))
    values[mask != 0] = coder.decode_floats(section.content.again(), count)
    return values


def read_grid(
    coder: ContextCoder, header: TensorHeader, sections: dict[str, Placed], channels: int
) -> GridTensor:
    """Return a grid tensor with one scale for each of `channels`."""
    section = sections["scales"]
    scale = coder.decode_floats(section.content.again(), channels)
    levels = np.zeros(header.shape, np.int32)
    if header.has_values:
        mask, scan = read_mask(coder, header, sections)
        section = sections["levels"]
        levels = coder.decode_levels(section.content.again(), mask, scan)
    return GridTensor(header.name, levels, scale)


def read_codebook(
    coder: ContextCoder, header: TensorHeader, sections: dict[str, Placed]
) -> Codebook:
    """Return the codebook of a codebook tensor."""
    section = sections["codebook"]
    reader = section.content.again()
    count = reader.varint()
    most = max_entries(header.elements())
    if not 1 <= count <= most:
        raise reader.damaged(f"a codebook has 1..{most} entries, not {count}")
    if header.kind is not Kind.CODEBOOK_GRID:
        entries = coder.decode_floats(reader, count)
        return FloatCodebook(entries, 16 if header.kind is Kind.CODEBOOK16 else 32)
    if section.content.mode != PACKED:
        raise reader.unknown_mode()
    levels = unpack_integers(reader, count)
    scales = sections["scales"]
    return GridCodebook(levels, coder.decode_floats(scales.content.again(), 1))


def read_indices(
    coder: ContextCoder, header: TensorHeader, sections: dict[str, Placed], entries: Floats
) -> Integers:
    """Return the indices of a codebook tensor."""
    if not header.has_values and not header.has_positions:
        return np.zeros(header.shape, np.int32)
    mask, scan = read_mask(coder, header, sections)
    if not header.has_values:
        return mask.astype(np.int32)
    section = sections["indices"]
    return coder.decode_indices(section.content.again(), mask, scan, entries)
