"""`.tflite` files without TensorFlow: a hand-made graph, every way a tensor is stored, damage."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    DamagedArtifact,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
    dense,
)

pytestmark = pytest.mark.skipif(
    find_spec("ai_edge_litert") is None, reason="the extra litert is not installed"
)

INPUTS, OUTPUTS = 40, 24
SHAPES = {"fc.weight": (OUTPUTS, INPUTS), "fc.bias": (OUTPUTS,)}


def converted(values: dict[str, np.ndarray]) -> bytes:
    """What a converter would write of one dense layer: names and order of its own."""
    from ai_edge_litert import schema_py_generated as schema

    from evaluators.artifacts.tflite.flat import add_buffer, opcode, pack

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, b"hand-made"
    model.subgraphs, model.operatorCodes, model.metadata = [graph], [], []
    model.buffers = [schema.BufferT()]
    graph.tensors, graph.operators, graph.name = [], [], b"main"

    def tensor(name: bytes, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, np.array(shape, np.int32), 0
        made.buffer = 0 if data is None else add_buffer(model, data)
        made.hasRank = True
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    given = tensor(b"given", (1, INPUTS))
    bias = tensor(b"arith.constant", (OUTPUTS,), values["fc.bias"])
    weight = tensor(b"net/MatMul", (OUTPUTS, INPUTS), values["fc.weight"])
    found = tensor(b"found", (1, OUTPUTS))
    operator = schema.OperatorT()
    operator.opcodeIndex = opcode(model, schema.BuiltinOperator.FULLY_CONNECTED, 1)
    operator.inputs = np.array([given, weight, bias], np.int32)
    operator.outputs = np.array([found], np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators = [operator]
    graph.inputs, graph.outputs = np.array([given], np.int32), np.array([found], np.int32)
    return pack(model)


def built(weight: Tensor, bias: Tensor | None = None) -> tuple[bytes, Artifact]:
    from evaluators.artifacts.tflite.graph import numbered, template
    from evaluators.artifacts.tflite.store import build

    values = numbered(SHAPES)
    bias = bias or FloatTensor("fc.bias", np.linspace(-1, 1, OUTPUTS).astype(np.float32))
    artifact = Artifact((weight, bias))
    return build(template(converted(values), values), artifact), artifact


def some(sparsity: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(OUTPUTS, INPUTS)).astype(np.float32)
    values[rng.random(values.shape) < sparsity] = 0
    return values


def halves(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def stored() -> dict[str, Tensor]:
    rng, name = np.random.default_rng(2), "fc.weight"
    levels = rng.integers(-127, 128, (OUTPUTS, INPUTS)).astype(np.int32)
    indices = rng.integers(0, 4, (OUTPUTS, INPUTS)).astype(np.int32)
    one, many = np.float32([0.01]), rng.uniform(0.01, 0.02, OUTPUTS).astype(np.float32)
    entries = np.float32([-0.5, 0.25, 0.75])
    return {
        "floats": FloatTensor(name, some()),
        "sparse floats": FloatTensor(name, some(0.95)),
        "halves": FloatTensor(name, halves(some()), bits=16),
        "sparse halves": FloatTensor(name, halves(some(0.95)), bits=16),
        "a scale": GridTensor(name, levels, one),
        "a scale a channel": GridTensor(name, levels, many),
        "a scale of 4 bits": GridTensor(name, levels % 15 - 7, one),
        "a scale of 4 bits a channel": GridTensor(name, levels % 15 - 7, many),
        "shared floats": CodebookTensor(name, indices, FloatCodebook(entries)),
        "shared levels": CodebookTensor(name, indices, GridCodebook(np.int32([-100, 3, 127]), one)),
        "nothing but zeros": GridTensor(name, 0 * levels, one),
    }


KINDS = (
    *("floats", "sparse floats", "halves", "sparse halves", "a scale", "a scale a channel"),
    *("a scale of 4 bits", "a scale of 4 bits a channel"),
    *("shared floats", "shared levels", "nothing but zeros"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_read_back_and_computed_with(kind: str) -> None:
    from evaluators.artifacts.tflite.read import read
    from evaluators.artifacts.tflite.runtime import Session

    data, artifact = built(stored()[kind])
    file, weights = read(data), dense(artifact)
    assert set(file.weights) == set(weights)
    assert all(np.array_equal(file.weights[name], values) for name, values in weights.items())
    assert sum(line.size_bytes for line in file.ledger) == len(data)
    inputs = np.random.default_rng(3).normal(size=(5, INPUTS)).astype(np.float32)
    expected = inputs @ weights["fc.weight"].T + weights["fc.bias"]
    # The integer kernels round their inputs to 8 bits.
    loose = 0.02 * np.abs(expected).max() if "scale" in kind or kind == "shared levels" else 1e-4
    assert np.allclose(Session(data)(inputs), expected, atol=loose)


def test_every_way_is_smaller_than_the_floats() -> None:
    sizes = {kind: len(built(tensor)[0]) for kind, tensor in stored().items()}
    assert sizes["shared floats"] == sizes["floats"] == max(sizes.values())
    assert sizes["sparse floats"] < sizes["halves"] < sizes["floats"]
    assert sizes["a scale of 4 bits"] < sizes["a scale"]
    assert sizes["a scale"] < sizes["a scale a channel"] < sizes["halves"]


def test_weights_begin_at_multiples_of_16() -> None:
    """Kernels of microcontrollers read them where they lie."""
    weight = some()
    data, _ = built(FloatTensor("fc.weight", weight))
    assert data.index(weight.tobytes()) % 16 == 0


def test_what_no_kernel_reads_is_refused() -> None:
    levels = np.full((OUTPUTS, INPUTS), 200, np.int32)
    with pytest.raises(CannotHold, match=r"fc\.weight: tflite: levels must be at most 127"):
        built(GridTensor("fc.weight", levels, np.float32([0.1])))
    bias = GridTensor("fc.bias", np.ones(OUTPUTS, np.int32), np.float32([0.1]))
    with pytest.raises(CannotHold, match=r"fc\.bias: tflite: no kernel reads it as integers"):
        built(FloatTensor("fc.weight", some()), bias)


def test_a_weight_that_the_converter_changed_is_named() -> None:
    from evaluators.artifacts.tflite.graph import numbered, template

    values = numbered(SHAPES)
    graph = converted(values)
    values["fc.weight"] = 2 * values["fc.weight"]
    with pytest.raises(CannotHold, match=r"fc\.weight: tflite: the converter merged it"):
        template(graph, values)


@pytest.mark.parametrize("kind", ["sparse halves", "a scale a channel"])
def test_damaged_bytes_give_one_clear_error_or_other_weights(kind: str) -> None:
    from evaluators.artifacts.tflite.read import read

    data, _ = built(stored()[kind])
    rng, refused = np.random.default_rng(4), 0
    for _ in range(150):
        broken = bytearray(data)
        broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
        try:
            file = read(bytes(broken))
        except DamagedArtifact:
            refused += 1
        else:
            assert all(values.size <= 10 * OUTPUTS * INPUTS for values in file.weights.values())
    assert refused > 0
    for length in (0, 7, 8, 100, len(data) // 2):
        with pytest.raises(DamagedArtifact):
            read(data[:length])


def test_litert_says_no_to_what_is_no_file() -> None:
    from evaluators.artifacts.tflite.runtime import Session
    from spaces import InvalidRequest

    garbage: Any = b"\x00" * 64
    with pytest.raises(InvalidRequest, match="LiteRT cannot load the file"):
        Session(garbage)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 4), (7, 3, 3, 3), (4, 5, 5, 1)])
def test_levels_of_4_bits_come_back_from_any_shape(shape: tuple[int, ...]) -> None:
    from evaluators.artifacts.tflite.read import _halves
    from evaluators.artifacts.tflite.store import _nibbles

    levels = np.random.default_rng(5).integers(-7, 8, shape).astype(np.int8)
    assert np.array_equal(_halves(_nibbles(levels), shape).reshape(shape), levels)
    assert len(_nibbles(levels)) == (levels.size + 1) // 2
