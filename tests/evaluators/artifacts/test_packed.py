"""The format `packed`: exact both ways, a byte-true ledger, small, same without numba."""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.artifacts import packed
from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
    decode,
    dense,
    encode,
    kernels,
    ledger,
    pad_section,
)
from evaluators.artifacts.packed.coders import CODERS
from evaluators.artifacts.packed.kernels import PURE, PURE_PYTHON_VARIABLE, compiled_kernels
from spaces import InvalidRequest
from tests.strategies import artifacts as some

ONE = np.ones(1, np.float32)


def one(tensor: Tensor) -> Artifact:
    return Artifact((tensor,))


def size_bytes(tensor: Tensor) -> int:
    return len(encode(one(tensor)).data)


def entropy_bytes(values: np.ndarray) -> float:
    """What an ideal coder needs that knows the frequencies and nothing else."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


# Round trip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("coder_id", CODERS)
@given(some.artifacts())
def test_what_is_written_is_read(coder_id: int, artifact: Artifact) -> None:
    encoded = encode(artifact, coder_id=coder_id)
    back = decode(encoded.data)
    assert back == artifact
    assert list(dense(back)) == [tensor.name for tensor in artifact.tensors]
    for tensor in artifact.tensors:
        assert dense(back)[tensor.name].tobytes() == tensor.decode().tobytes()
        assert dense(back)[tensor.name].shape == tensor.shape
        assert dense(back)[tensor.name].dtype == np.float32
    assert encode(back, coder_id=coder_id).data == encoded.data


@given(some.artifacts())
def test_the_ledger_adds_up_to_the_file(artifact: Artifact) -> None:
    encoded = encode(artifact)
    assert sum(line.size_bytes for line in encoded.ledger) == len(encoded.data)
    assert ledger(encoded.data) == encoded.ledger
    assert all(line.size_bytes > 0 for line in encoded.ledger)
    assert encoded.ledger[0].section == "header"
    assert encoded.ledger[-1] == packed.LedgerLine("", "checksum", 4)
    assert {line.layer for line in encoded.ledger} - {""} <= {t.name for t in artifact.tensors}


@settings(max_examples=40)
@given(some.artifacts())
def test_plain_python_writes_and_reads_the_same_bytes(artifact: Artifact) -> None:
    data = encode(artifact).data
    assert encode(artifact, pure_python=True).data == data
    assert decode(data, pure_python=True) == artifact


def test_plain_python_and_compiled_agree_on_a_structured_net() -> None:
    artifact = structured_net(1)
    data = encode(artifact).data
    assert compiled_kernels().compiled
    assert encode(artifact, pure_python=True).data == data
    assert decode(data, pure_python=True) == decode(data) == artifact


@given(some.artifacts(), st.data())
def test_padding_moves_one_ledger_line(artifact: Artifact, data: st.DataObject) -> None:
    encoded = encode(artifact)
    line = data.draw(st.sampled_from(encoded.ledger[:-1]))
    extra_bytes = data.draw(st.sampled_from([0, 1, 2, 31, 127, 5000]))
    longer = pad_section(encoded.data, line.layer, line.section, extra_bytes)
    assert len(longer) == len(encoded.data) + extra_bytes
    assert decode(longer) == artifact
    moved = dataclasses.replace(line, size_bytes=line.size_bytes + extra_bytes)
    assert ledger(longer) == tuple(moved if old == line else old for old in encoded.ledger)


def test_only_sections_that_exist_can_be_padded() -> None:
    data = encode(Artifact(())).data
    for layer, section in (("", "checksum"), ("fc1", "levels")):
        with pytest.raises(InvalidRequest, match="no section"):
            pad_section(data, layer, section, 1)


def test_artifacts_travel_between_processes() -> None:
    artifact = Artifact((FloatTensor("w", np.arange(3, dtype=np.float32)),), {"a": "b"})
    assert pickle.loads(pickle.dumps(artifact)) == artifact == copy.deepcopy(artifact)


# Values ----------------------------------------------------------------------------------------


def test_decoded_values_by_hand() -> None:
    levels = np.array([[0, 1], [-2, 3]])
    grid = GridTensor("g", levels, np.array([0.5, 0.25], np.float32))
    shared = CodebookTensor("c", np.array([[0, 2], [1, 2]]), FloatCodebook(np.float32([-1.5, 4])))
    on_grid = CodebookTensor("d", np.array([2, 0, 1]), GridCodebook(np.array([-7, 3]), ONE / 4))
    plain = FloatTensor("f", np.float16([1.5, 0, -2]), 16)
    values = dense(decode(encode(Artifact((grid, shared, on_grid, plain))).data))
    assert values["g"].tolist() == [[0, 0.5], [-0.5, 0.75]]
    assert values["c"].tolist() == [[0, 4], [-1.5, 4]]
    assert values["d"].tolist() == [0.75, 0, -1.75]
    assert values["f"].tolist() == [1.5, 0, -2]


def test_a_zero_has_no_sign() -> None:
    zero = np.float32([0.0, -0.0])
    assert FloatTensor("w", zero).values.tobytes() == bytes(8)
    assert dense(decode(encode(one(FloatTensor("w", zero))).data))["w"].tobytes() == bytes(8)
    assert GridTensor("w", np.array([-3, 0]), 0 * ONE).decode().tobytes() == bytes(8)
    assert FloatCodebook(zero).decode().tobytes() == bytes(8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(value: float) -> None:
    bad = np.float32([1, value])
    with pytest.raises(InvalidRequest, match=r"tensor 'w': every value must be finite"):
        FloatTensor("w", bad)
    with pytest.raises(InvalidRequest, match=r"tensor 'w': scale: every value must be finite"):
        GridTensor("w", np.zeros((2, 1), np.int32), bad)
    with pytest.raises(InvalidRequest, match=r"codebook: every value must be finite"):
        FloatCodebook(bad)


def refusals() -> Iterator[tuple[str, object]]:
    book = FloatCodebook(ONE)
    some_levels = np.array([[1, 2], [3, 4]])
    yield "float16 holds exactly", lambda: FloatTensor("w", np.float32([0.1]), 16)
    yield "float16 holds exactly", lambda: FloatTensor("w", np.float32([1e6]), 16)
    yield "bits must be 16 or 32", lambda: FloatTensor("w", ONE, 8)
    yield "float16 or float32, not float64", lambda: FloatTensor("w", np.ones(1))
    yield "holds no element", lambda: FloatTensor("w", np.ones((2, 0), np.float32))
    yield "at most 7 dimensions", lambda: FloatTensor("w", np.ones((1,) * 8, np.float32))
    yield "must take 1..255 bytes", lambda: FloatTensor("", ONE)
    yield "must take 1..255 bytes", lambda: FloatTensor("x" * 256, ONE)
    yield "not valid Unicode", lambda: FloatTensor("\ud800", ONE)
    yield "must be integers, not float32", lambda: GridTensor("w", ONE, ONE)
    yield "-65535..65535", lambda: GridTensor("w", np.array([65536]), ONE)
    yield "must have shape", lambda: GridTensor("w", some_levels, np.ones(3, np.float32))
    yield "must not be negative", lambda: GridTensor("w", some_levels, -ONE)
    yield "beyond float32", lambda: GridTensor("w", some_levels, np.float32([3e38]))
    yield "values must lie in 0..1", lambda: CodebookTensor("w", np.array([2]), book)
    yield "list of 1..65535", lambda: FloatCodebook(np.ones((0,), np.float32))
    yield "list of 1..65535", lambda: GridCodebook(np.ones((2, 2), np.int32), ONE)
    yield "shape", lambda: GridCodebook(np.ones(2, np.int32), np.ones(2, np.float32))
    large = FloatCodebook(np.ones(257, np.float32))
    yield "at most 256 entries", lambda: CodebookTensor("w", np.array([1]), large)
    yield "occurs twice", lambda: Artifact((FloatTensor("w", ONE), FloatTensor("w", ONE)))
    yield "must be text", lambda: Artifact((), {"a": 1})
    yield "not valid Unicode", lambda: Artifact((), {"a": "\ud800"})
    yield "at most 1048576", lambda: Artifact((), {"a": "x" * (1 << 20)})


@pytest.mark.parametrize(("rule", "build"), list(refusals()))
def test_what_cannot_be_stored_cannot_be_built(rule: str, build: object) -> None:
    with pytest.raises(InvalidRequest, match=rule):
        build()


def test_stored_arrays_are_private_copies() -> None:
    levels = np.array([1, 2])
    tensor = GridTensor("w", levels, ONE)
    levels[0] = 9
    assert tensor.levels.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        tensor.levels[0] = 9


# Size ------------------------------------------------------------------------------------------

ROWS, COLUMNS = 100, 300


def independent(kind: str) -> tuple[Tensor, np.ndarray]:
    """30,000 independent symbols, as a tensor and as they are."""
    random = np.random.default_rng(7)
    shape = (ROWS, COLUMNS)
    if kind.startswith("gauss"):
        levels = np.rint(random.normal(0, float(kind[5:]), shape)).astype(np.int32)
        return GridTensor("w", levels, ONE), levels
    count, sparsity = (int(part) for part in kind[8:].split("/"))
    indices = random.choice(count, shape, p=np.arange(1, count + 1) / (count * (count + 1) / 2))
    indices = np.where(random.random(shape) < sparsity / 100, 0, indices + 1)
    book = FloatCodebook(np.linspace(-1, 1, count).astype(np.float16), 16)
    return CodebookTensor("w", indices, book), indices


@pytest.mark.parametrize(
    "kind",
    [
        "gauss0.3",
        "gauss2",
        "gauss30",
        "codebook2/0",
        "codebook15/0",
        "codebook15/50",
        "codebook15/90",
        "codebook15/99",
        "codebook100/90",
    ],
)
def test_independent_symbols_cost_their_entropy(kind: str) -> None:
    tensor, symbols = independent(kind)
    lines = encode(one(tensor)).ledger
    coded = sum(line.size_bytes for line in lines if line.layer and line.section != "codebook")
    assert coded <= 1.02 * entropy_bytes(symbols) + 32
    assert sum(line.size_bytes for line in lines if not line.layer) <= 24


def structured_net(scale: int = 10) -> Artifact:
    """A first layer with dead border pixels and image-like columns, and a dense bias."""
    random = np.random.default_rng(3)
    side = 28
    across = np.abs(np.arange(side) - side / 2) / (side / 2)
    alive = np.clip(1 - np.hypot(*np.meshgrid(across, across)), 0, None).ravel() * 0.15
    mask = random.random((30 * scale, side * side)) < alive
    mask[random.random(30 * scale) < 0.3] = False
    indices = np.where(mask, random.integers(1, 16, mask.shape), 0)
    book = FloatCodebook(np.sort(random.normal(0, 1, 15)).astype(np.float16), 16)
    bias = GridTensor("fc1.bias", random.integers(-7, 8, 30 * scale), ONE / 8)
    return Artifact((CodebookTensor("fc1.weight", indices, book), bias))


def test_structure_costs_less_than_entropy() -> None:
    artifact = structured_net()
    weight = artifact.tensors[0]
    assert isinstance(weight, CodebookTensor)
    mask = weight.indices != 0
    lines = {(line.layer, line.section): line.size_bytes for line in encode(artifact).ledger}
    assert lines["fc1.weight", "positions"] < 0.85 * entropy_bytes(mask)


def test_a_transposed_tensor_costs_about_the_same() -> None:
    weight = structured_net().tensors[0]
    assert isinstance(weight, CodebookTensor)
    turned = CodebookTensor(weight.name, weight.indices.T, weight.codebook)
    assert size_bytes(turned) == pytest.approx(size_bytes(weight), rel=0.03)


def test_dead_channels_are_almost_free() -> None:
    random = np.random.default_rng(5)
    levels = random.integers(1, 16, (100, 400)).astype(np.int32)
    alive = random.random(100) < 0.5
    whole = size_bytes(GridTensor("w", levels[alive], ONE))
    with_dead = size_bytes(GridTensor("w", np.where(alive[:, None], levels, 0), ONE))
    assert with_dead - whole <= 100 / 8 + 24


def test_an_all_zero_tensor_takes_no_section() -> None:
    zeros = np.zeros((300, 784), np.int32)
    assert size_bytes(GridTensor("fc1.weight", zeros, ONE)) <= 24
    assert size_bytes(FloatTensor("fc1.weight", zeros.astype(np.float32))) <= 20


def test_a_pruned_half_precision_layer_gets_smaller() -> None:
    random = np.random.default_rng(5)
    values = random.normal(0, 0.05, (100, 300)).astype(np.float16)
    whole = size_bytes(FloatTensor("w", values, 16))
    pruned = np.where(random.random(values.shape) < 0.95, 0, values).astype(np.float16)
    assert whole < 2 * values.size
    assert size_bytes(FloatTensor("w", pruned, 16)) < 0.1 * whole


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_short_bias_costs_its_bits(bits: int) -> None:
    high = (1 << (bits - 1)) - 1
    levels = np.random.default_rng(bits).integers(-high - 1, high + 1, 10)
    lines = encode(one(GridTensor("fc3.bias", levels, ONE))).ledger
    costs = {line.section: line.size_bytes for line in lines}
    assert costs["levels"] <= 10 * bits / 8 + 5
    assert costs["scales"] <= 5
    assert costs["header"] <= 14


def test_six_tensors_of_a_usual_net_have_a_short_header() -> None:
    shapes = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
    tensors: list[Tensor] = []
    for name, shape in shapes.items():
        tensors.append(GridTensor(f"{name}.weight", np.zeros(shape, np.int32), ONE))
        tensors.append(GridTensor(f"{name}.bias", np.zeros(shape[0], np.int32), ONE))
    assert encode(Artifact(tuple(tensors))).ledger[0].size_bytes <= 44


def test_a_huge_empty_tensor_is_padded_until_a_reader_trusts_it() -> None:
    artifact = one(GridTensor("w", np.zeros((4000, 4000), np.int32), ONE))
    encoded = encode(artifact)
    assert len(encoded.data) == -(-16_000_000 // 65536)
    assert sum(line.size_bytes for line in encoded.ledger) == len(encoded.data)
    assert decode(encoded.data) == artifact


def test_attributes_cost_nothing_when_absent_and_are_compressed() -> None:
    tensor = FloatTensor("w", ONE)
    scales = {f"fc{i}.input_scale": f"{1 / (i + 3):.6g}" for i in range(20)}
    lines = encode(Artifact((tensor,), scales)).ledger
    sizes = {line.section: line.size_bytes for line in lines}
    assert sizes["attributes"] < 0.8 * sum(len(k) + len(v) for k, v in scales.items())
    assert "attributes" not in {line.section for line in encode(one(tensor)).ledger}


# Compiled and not ------------------------------------------------------------------------------


def test_importing_the_package_does_not_import_numba() -> None:
    script = "import sys, evaluators.artifacts.packed; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_environment_asks_for_plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PURE_PYTHON_VARIABLE, "1")
    assert kernels.kernels() is PURE
    monkeypatch.setenv(PURE_PYTHON_VARIABLE, "0")
    assert kernels.kernels().compiled
    assert kernels.kernels(pure_python=True) is PURE


def test_without_numba_the_plain_loops_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert compiled_kernels.__wrapped__() is PURE


def test_compiling_works_where_no_cache_can_be_written() -> None:
    script = (
        "import numba\n"
        "from numba.core import caching\n"
        "caching.FunctionCache._impl_class._locator_classes = []\n"
        "import numpy as np\n"
        "from evaluators.artifacts.packed import *\n"
        "from evaluators.artifacts.packed.kernels import compiled_kernels\n"
        "assert compiled_kernels().compiled\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ})


# The bytes themselves --------------------------------------------------------------------------

GOLDEN = Artifact(
    (
        GridTensor("fc1.weight", np.array([[0, 3, -2], [0, 0, 1]]), np.array([0.5], np.float32)),
        FloatTensor("fc1.bias", np.array([0.25, -1.0], np.float32), 16),
        CodebookTensor(
            "conv.weight",
            np.arange(48).reshape(6, 8) % 5 % 3,
            FloatCodebook(np.array([-0.1, 0.1], np.float32)),
        ),
    ),
    {"input_scale": "0.0125"},
)
GOLDEN_HEX = (
    "504b57010140010309025a0203090430021d025d060850130b696e7075745f7363616c6506302e30"
    "3132350970000835e409a235116800780122028466999a5a960e180c6cd2f4690c0a9b63397c4da5"
)


def test_version_1_stays_readable_and_unchanged() -> None:
    """A change of these bytes is a new version or coder id; the old one must stay readable."""
    assert decode(bytes.fromhex(GOLDEN_HEX)) == GOLDEN
    assert encode(GOLDEN, coder_id=1).data.hex() == GOLDEN_HEX


def test_public_names_are_sorted_and_exist() -> None:
    assert packed.__all__ == sorted(packed.__all__)
    assert all(hasattr(packed, name) for name in packed.__all__)
