"""The range coder under the packed format: exact, close to entropy, the same in both forms."""

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.artifacts.packed import Artifact, DamagedArtifact, GridTensor, decode, encode
from evaluators.artifacts.packed.contexts import run_bytes
from evaluators.artifacts.packed.kernels import (
    PURE,
    Kernels,
    code_bit,
    code_magnitude,
    code_plain_byte,
    compiled_kernels,
    density_class,
)
from evaluators.artifacts.packed.plain import Reader, varint, zigzag, zigzag_inverse
from evaluators.artifacts.packed.sections import read_bits, write_bits

BOTH = [PURE, compiled_kernels()]


def bits_to_bytes(bits: list[tuple[int, int]], capacity: int = 1000) -> bytes:
    """Code (context, bit) pairs; context 3 is a plain byte."""

    def run(state: Any, buffer: Any) -> None:
        model = PURE.fresh_model(3)
        for context, bit in bits:
            if context == 3:
                code_plain_byte(state, buffer, bit)
            else:
                code_bit(state, buffer, model, context, bit)

    return write_bits(PURE, capacity, run)


def bits_from_bytes(data: bytes, contexts: list[int]) -> list[int]:
    bits: list[int] = []

    def run(state: Any, buffer: Any) -> None:
        model = PURE.fresh_model(3)
        for context in contexts:
            if context == 3:
                bits.append(code_plain_byte(state, buffer, 0))
            else:
                bits.append(code_bit(state, buffer, model, context, 0))

    read_bits(PURE, Reader(data, "test"), run)
    return bits


symbols = st.one_of(
    st.tuples(st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.just(3), st.sampled_from([0, 1, 127, 254, 255])),
)


@given(st.lists(symbols, max_size=300), st.integers(0, 40))
def test_bits_and_plain_bytes_come_back(bits: list[tuple[int, int]], padding: int) -> None:
    data = bits_to_bytes(bits)
    assert not data.endswith(b"\0")
    assert bits_from_bytes(data + bytes(padding), [context for context, _ in bits]) == [
        bit for _, bit in bits
    ]


@given(st.lists(symbols, max_size=100), st.integers(0, 20))
def test_a_buffer_too_small_changes_nothing(bits: list[tuple[int, int]], capacity: int) -> None:
    assert bits_to_bytes(bits, capacity) == bits_to_bytes(bits)


def test_carries_run_through_bytes_of_255() -> None:
    # Plain 255s pin the interval to the top; the last zeros push it over, byte after byte.
    for length in range(1, 12):
        bits = [(0, 0), *[(3, 255)] * length, *[(0, 0)] * 40, (3, 255), (0, 1)]
        assert bits_from_bytes(bits_to_bytes(bits), [c for c, _ in bits]) == [b for _, b in bits]


def test_bytes_after_the_last_one_read_must_be_zero() -> None:
    data = bits_to_bytes([(3, 7)] * 5)
    with pytest.raises(DamagedArtifact, match="test: has non-zero bytes after its content"):
        bits_from_bytes(data + bytes(8) + b"\1", [3] * 5)


@pytest.mark.parametrize("chance", [0.5, 0.1, 0.01, 0.001])
def test_steady_bits_cost_their_entropy(chance: float) -> None:
    ones = np.random.default_rng(1).random(20_000) < chance
    share = ones.mean()
    ideal = -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) * ones.size / 8
    assert len(bits_to_bytes([(0, int(bit)) for bit in ones])) <= 1.01 * ideal + 4


@pytest.mark.parametrize("kernels", BOTH, ids=["plain", "compiled"])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_records_come_back(kernels: Kernels, width: int) -> None:
    data = np.random.default_rng(width).integers(0, 256, 40 * width, dtype=np.uint8).tobytes()
    written = write_bits(kernels, 0, run_bytes(kernels, kernels.octets(data), width))
    back = kernels.octets(bytes(len(data)))
    read_bits(kernels, Reader(written, "test"), run_bytes(kernels, back, width))
    assert bytes(back) == data


@given(st.lists(st.integers(1, 65535), max_size=20))
def test_magnitudes_come_back(magnitudes: list[int]) -> None:
    back: list[int] = []

    def write(state: Any, buffer: Any) -> None:
        model = PURE.fresh_model(5000)
        for magnitude in magnitudes:
            code_magnitude(state, buffer, model, 0, magnitude)

    def read(state: Any, buffer: Any) -> None:
        model = PURE.fresh_model(5000)
        back.extend(code_magnitude(state, buffer, model, 0, 1) for _ in magnitudes)

    read_bits(PURE, Reader(write_bits(PURE, 100, write), "test"), read)
    assert back == magnitudes


def test_density_classes_by_hand() -> None:
    seen = [density_class(hits, 100) for hits in (0, 1, 2, 7, 25, 100)]
    assert seen == [0, 2, 3, 4, 5, 5]
    assert density_class(1, 300) == 1


@given(st.integers(0, 2**35 - 1), st.integers(1, 5))
def test_varints_come_back_at_any_length(number: int, size_bytes: int) -> None:
    data = varint(number, size_bytes)
    assert len(data) >= size_bytes
    assert Reader(data, "test").varint() == number


@given(st.integers(-(2**30), 2**30))
def test_zigzag_is_its_own_way_back(number: int) -> None:
    assert zigzag_inverse(zigzag(number)) == number
    assert zigzag(number) >= 0


def test_a_network_of_266k_weights_takes_a_blink() -> None:
    # About 0.5 s and 0.3 s on an idle core, dense and 8 bits being the most there is to say; the
    # bound leaves room for a loaded machine.
    levels = np.rint(np.random.default_rng(0).normal(0, 30, (340, 784))).astype(np.int32)
    artifact = Artifact((GridTensor("w", levels, np.ones(1, np.float32)),))
    data = encode(artifact).data
    start_s = time.process_time()
    assert encode(artifact).data == data
    assert decode(data) == artifact
    assert time.process_time() - start_s < 3.0
