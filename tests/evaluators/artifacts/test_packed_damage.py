"""Damaged and hostile packed files: one clear DamagedArtifact, never anything else."""

import contextlib
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    DamagedArtifact,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    decode,
    encode,
    ledger,
    pad_section,
)
from evaluators.artifacts.packed.coders import CODERS, WRITER_ID
from evaluators.artifacts.packed.container import (
    MAGIC,
    VERSION,
    Header,
    Kind,
    TensorHeader,
    checked,
    header_bytes,
    prefixed,
)
from evaluators.artifacts.packed.plain import varint
from evaluators.artifacts.packed.sections import Section
from spaces import InvalidRequest

START = MAGIC + bytes([VERSION, WRITER_ID])
MAX_ELEMENTS = 1 << 14


def small_file(coder_id: int) -> bytes:
    random = np.random.default_rng(0)
    mask = random.random((12, 20)) < 0.3
    tensors = (
        GridTensor("fc1.weight", np.where(mask, random.integers(-7, 8, mask.shape), 0), one()),
        GridTensor("fc1.bias", random.integers(-99, 99, 12), np.linspace(0.1, 1, 12, dtype="f4")),
        CodebookTensor(
            "fc2.weight",
            np.where(mask, random.integers(1, 6, mask.shape), 0),
            GridCodebook(np.array([-9, -3, 1, 4, 8]), one()),
        ),
        CodebookTensor("own", np.where(mask, 1, 0), FloatCodebook(one(), 16)),
        FloatTensor("fc2.bias", random.normal(size=30).astype(np.float32) * mask.ravel()[:30]),
    )
    return encode(
        Artifact(tensors, {"scale": "0.1", "other": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}),
        coder_id=coder_id,
    ).data


def one() -> np.ndarray:
    return np.ones(1, np.float32)


SMALL = small_file(WRITER_ID)
SMALL_FILES = [small_file(coder_id) for coder_id in CODERS]


def with_checksum(data: bytes) -> bytes:
    """The same file with its last four bytes made right."""
    return checked(data[:-4])


def check(data: bytes) -> None:
    """Decode; anything but an Artifact or a DamagedArtifact fails the test."""
    try:
        artifact = decode(data, MAX_ELEMENTS)
    except DamagedArtifact as problem:
        text = str(problem)
        assert text.startswith("packed file")
        assert "\n" not in text
    else:
        # Bytes that decode hold a value like any other.
        assert decode(encode(artifact).data, MAX_ELEMENTS) == artifact
    try:
        lines = ledger(data)
    except DamagedArtifact:
        pass
    else:
        assert sum(line.size_bytes for line in lines) == len(data)


def test_damaged_files_are_invalid_requests() -> None:
    assert issubclass(DamagedArtifact, InvalidRequest)


@pytest.mark.parametrize("small", SMALL_FILES, ids=CODERS)
def test_every_truncation_is_noticed(small: bytes) -> None:
    for size_bytes in range(len(small)):
        with pytest.raises(DamagedArtifact, match="packed file"):
            decode(small[:size_bytes])


@pytest.mark.parametrize("small", SMALL_FILES, ids=CODERS)
def test_every_truncation_with_a_right_checksum_is_safe(small: bytes) -> None:
    for size_bytes in range(len(small)):
        check(checked(small[:size_bytes]))


@pytest.mark.parametrize("small", SMALL_FILES, ids=CODERS)
def test_every_changed_byte_is_noticed(small: bytes) -> None:
    for place in range(len(small)):
        changed = bytearray(small)
        changed[place] ^= 0x41
        with pytest.raises(DamagedArtifact):
            decode(bytes(changed))


@pytest.mark.parametrize("small", SMALL_FILES, ids=CODERS)
@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(5, len(SMALL) - 5), st.integers(0, 255)), max_size=4))
def test_mutations_with_a_right_checksum_are_safe(
    small: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(small)
    for place, byte in changes:
        changed[place] = byte
    check(with_checksum(bytes(changed)))


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_content_with_a_right_frame_is_safe(body: bytes) -> None:
    check(checked(START + prefixed(Section(0, body))))
    check(checked(START + body))


@given(st.binary(max_size=100))
@example(b"")
@example(MAGIC)
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedArtifact):
        decode(data)


@settings(max_examples=200)
@given(
    st.sampled_from(list(Kind)),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 40), max_size=3),
    st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40)), min_size=4, max_size=4),
)
def test_random_sections_of_every_kind_are_safe(
    kind: Kind,
    has_positions: bool,
    has_values: bool,
    shape: list[int],
    contents: list[tuple[int, bytes]],
) -> None:
    tensor = TensorHeader("w", kind, has_positions, has_values, tuple(shape))
    parts = [prefixed(Section(*content)) for content in contents]
    count = len(list(tensor.sections()))
    check(checked(header_bytes(Header(WRITER_ID, False, (tensor,))) + b"".join(parts[:count])))


def file_of(tensor: TensorHeader, *sections: Section, coder_id: int = WRITER_ID) -> bytes:
    parts = [prefixed(section) for section in sections]
    return checked(header_bytes(Header(coder_id, False, (tensor,))) + b"".join(parts))


def header_only(body: bytes) -> bytes:
    return checked(START + prefixed(Section(0, body)))


def grid(shape: tuple[int, ...], has_positions: bool = False) -> TensorHeader:
    return TensorHeader("w", Kind.GRID, has_positions, True, shape)


FLOAT_ONE = Section(1, b"\x78\x00")
WORD = b"\x02"  # "weight", the first known word
CASES = {
    "wrong magic": (b"XYZ" + SMALL[3:], 'header: does not start with "PKW"'),
    "version": (checked(MAGIC + b"\x09" + SMALL[4:-4]), "header: version 9 is not known"),
    "coder": (checked(MAGIC + b"\x01\x63" + SMALL[5:-4]), "header: coder 99 is not known"),
    "checksum": (SMALL[:-1] + b"x", "checksum: does not match"),
    "no sections": (checked(START), "section header: needs 1 more bytes where 0 are left"),
    "after the end": (checked(SMALL[:-4] + b"\0"), "1 bytes follow the last section"),
    "header mode": (checked(START + prefixed(Section(1, b"\0\0"))), "unknown mode 1"),
    "attributes flag": (header_only(b"\2\0"), "attributes flag must be 0 or 1, is 2"),
    "many tensors": (header_only(b"\0\xff\xff\xff\xff\x0f"), "section header: needs 1 more"),
    "long number": (header_only(b"\0\xff\xff\xff\xff\xff\x0f"), "more than 5 bytes"),
    "header padding": (header_only(b"\0\0\0\1"), "section header: has non-zero bytes after"),
    "kind": (header_only(b"\0\1" + WORD + b"\x07"), "'weight' is of unknown kind 7"),
    "no element": (header_only(b"\0\1" + WORD + b"\x20\0"), "'weight' .* holds no element"),
    "positions only": (header_only(b"\0\1" + WORD + b"\x08"), "positions but no values"),
    "same name": (header_only(b"\0\2" + (WORD + b"\x01") * 2), "'weight' occurs twice"),
    "word": (header_only(b"\0\1\x7e\x01"), "word 63 of a name is not known"),
    "name bytes": (header_only(b"\0\1\0\1\xff\x01"), "a name is not UTF-8"),
    "no name": (header_only(b"\0\1\0\0\x01"), "must take 1..255 bytes, takes 0"),
    "long name": (header_only(b"\0\1" + b"\x03" * 99 + WORD + b"\x01"), "more than 255 bytes"),
    "elements": (file_of(grid((1 << 28, 9)), FLOAT_ONE, Section(0, b"")), "at most 268435456"),
    "absurd": (file_of(grid((1 << 34,) * 7), FLOAT_ONE, Section(0, b"")), "at most 268435456"),
    "amplified": (file_of(grid((1 << 28,)), FLOAT_ONE, Section(0, b"")), "cannot come from"),
    "no levels": (file_of(grid((9,)), FLOAT_ONE), "section levels of 'w': needs 1 more"),
    "cut levels": (
        file_of(grid((9,)), FLOAT_ONE, Section(0, b"\0\x08ab")),
        "section levels of 'w': needs 9 more bytes where 2 are left",
    ),
    "levels mode": (
        file_of(grid((9,)), FLOAT_ONE, Section(3, b""), coder_id=1),
        "levels .*unknown mode 3",
    ),
    "wide levels": (file_of(grid((1,)), FLOAT_ONE, Section(0, b"\0\x20abcd")), "out of range"),
    "large level": (
        file_of(grid((1,)), FLOAT_ONE, Section(0, varint(2 * 65536) + b"\0")),
        "tensor 'w': values must lie in -65535..65535",
    ),
    "level padding": (
        file_of(grid((1,)), FLOAT_ONE, Section(0, b"\2\0\1")),
        "section levels of 'w': has non-zero bytes after its content",
    ),
    "coded padding": (
        file_of(grid((1,)), FLOAT_ONE, Section(1, b"abcdefgh\1")),
        "section levels of 'w': has non-zero bytes after its content",
    ),
    "scale": (file_of(grid((1,)), Section(1, b"\xf8\0"), Section(0, b"\2\0")), "finite"),
    "half NaN": (file_of(grid((1,)), Section(1, b"\xf8\2"), Section(0, b"\2\0")), "finite"),
    "NaN": (file_of(grid((1,)), Section(0, b"\xff\0\0\2"), Section(0, b"\2\0")), "finite"),
    "negative": (file_of(grid((1,)), Section(1, b"\x78\1"), Section(0, b"\2\0")), "negative"),
    "lag": (
        file_of(
            grid((9, 9), True), FLOAT_ONE, Section(2, b"\1abc"), Section(1, b"abc"), coder_id=1
        ),
        "section positions of 'w': lag must lie in 2..128, is 1",
    ),
    "entries": (
        file_of(TensorHeader("w", Kind.CODEBOOK16, False, False, (5,)), Section(0, b"\xff\x7f")),
        "section codebook of 'w': a codebook has 1..256 entries, not 16383",
    ),
    "index": (
        file_of(
            TensorHeader("w", Kind.CODEBOOK16, False, True, (1,)),
            Section(1, b"\1\x78\0"),
            Section(0, b"\4\0"),
        ),
        "tensor 'w': indices: values must lie in 0..1, found 2..2",
    ),
    "half": (
        file_of(
            TensorHeader("w", Kind.FLOAT16, False, True, (1,)), Section(0, b"\x7f\x7f\x7f\x7f")
        ),
        "tensor 'w': bits=16 needs values that float16 holds exactly",
    ),
    "text": (
        checked(
            header_bytes(Header(WRITER_ID, True, ()))
            + prefixed(Section(2, b"\xff\xff\xff\x7f" + b"abc"))
        ),
        "section attributes: 268435455 bytes of text, at most 1048576",
    ),
    "text mode": (
        checked(header_bytes(Header(WRITER_ID, True, ())) + prefixed(Section(1, b"\0"))),
        "section attributes: unknown mode 1",
    ),
    "key twice": (
        checked(
            header_bytes(Header(WRITER_ID, True, ())) + prefixed(Section(0, b"\x06\1a\0\1a\0\0"))
        ),
        "section attributes: key 'a' occurs twice",
    ),
    "text bytes": (
        checked(header_bytes(Header(WRITER_ID, True, ())) + prefixed(Section(0, b"\2\1\xff"))),
        "section attributes: a text is not UTF-8",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_says_where_and_what(case: str) -> None:
    data, message = CASES[case]
    with pytest.raises(DamagedArtifact, match=message):
        decode(data)


@pytest.mark.parametrize("modes", [(0, 1), (2, 3)], ids=["contexts", "mixed"])
def test_a_small_file_cannot_take_much_memory_or_time(modes: tuple[int, int]) -> None:
    tensor = grid((65536 * 90,), True)
    parts = (FLOAT_ONE, Section(modes[0], b"\xff" * 30), Section(modes[1], b"\xff" * 30))
    data = file_of(tensor, *parts)
    data = pad_section(data, "", "header", 100 - len(data))
    check(data)  # compiles outside the measurement
    tracemalloc.start()
    start_s = time.perf_counter()
    with contextlib.suppress(DamagedArtifact):
        decode(data)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 300e6
    assert time.perf_counter() - start_s < 20


def test_the_limit_of_elements_is_the_callers() -> None:
    data = encode(Artifact((FloatTensor("w", np.ones((4, 4), np.float32)),))).data
    assert decode(data, 16).tensors[0].shape == (4, 4)
    with pytest.raises(DamagedArtifact, match="16 elements, at most 15 are allowed"):
        decode(data, 15)
