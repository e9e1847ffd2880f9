"""`.tflite` files with an embedding and a fused LSTM: a hand-made graph, against plain numpy."""

from importlib.util import find_spec

import numpy as np
import pytest

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed import Artifact, DamagedArtifact, FloatTensor, GridTensor, dense
from evaluators.artifacts.packed import Tensor as Stored

pytestmark = pytest.mark.skipif(
    find_spec("ai_edge_litert") is None, reason="the extra litert is not installed"
)

WORDS, FEATURES, UNITS, STEPS = 300, 20, 32, 6
EMBED, INPUT, RECURRENT, BIAS = (
    *("embed.weight", "lstm.input.weight", "lstm.recurrent.weight"),
    "lstm.input.bias",
)
SHAPES = {
    EMBED: (WORDS, FEATURES),
    INPUT: (4 * UNITS, FEATURES),
    RECURRENT: (4 * UNITS, UNITS),
    BIAS: (4 * UNITS,),
}


def converted(values: dict[str, np.ndarray]) -> bytes:
    """What a converter would write of one sample: names of its own, a tensor a gate."""
    from ai_edge_litert import schema_py_generated as schema

    from evaluators.artifacts.tflite.flat import add_buffer, opcode, pack

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, b"hand-made"
    model.subgraphs, model.operatorCodes, model.metadata = [graph], [], []
    model.buffers = [schema.BufferT()]
    graph.tensors, graph.operators, graph.name = [], [], b"main"

    def tensor(shape: tuple[int, ...], data: np.ndarray | None = None, kind: int = 0) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = b"arith.constant", np.array(shape, np.int32), kind
        made.buffer = 0 if data is None else add_buffer(model, data)
        made.hasRank = True
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(kind: str, inputs: list[int], output: int, options: str) -> None:
        made = schema.OperatorT()
        made.opcodeIndex = opcode(model, getattr(schema.BuiltinOperator, kind), 1)
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        made.builtinOptions = getattr(schema, f"{options}T")()
        graph.operators.append(made)

    def gates(name: str) -> list[int]:
        return [tensor(part.shape, part) for part in np.split(values[name], 4)]

    given = tensor((1, STEPS), kind=schema.TensorType.INT32)
    table = tensor(SHAPES[EMBED], values[EMBED])
    state = [tensor((1, UNITS)), tensor((1, UNITS))]
    for index in state:
        graph.tensors[index].isVariable = True
    rows, found = tensor((1, STEPS, FEATURES)), tensor((1, STEPS, UNITS))
    operator("GATHER", [table, given], rows, "GatherOptions")
    parts = [*gates(INPUT), *gates(RECURRENT), -1, -1, -1, *gates(BIAS), -1, -1, *state]
    options = "UnidirectionalSequenceLSTMOptions"
    operator("UNIDIRECTIONAL_SEQUENCE_LSTM", [rows, *parts, -1, -1, -1, -1], found, options)
    graph.operators[-1].builtinOptions.fusedActivationFunction = 4  # tanh
    graph.operators[-1].builtinOptions.cellClip = 10.0
    graph.inputs, graph.outputs = np.array([given], np.int32), np.array([found], np.int32)
    return pack(model)


def built(**changes: Stored) -> tuple[bytes, Artifact]:
    """Floats but for what is given, as `stored`."""
    from evaluators.artifacts.tflite.graph import numbered, template
    from evaluators.artifacts.tflite.store import build

    values = numbered(SHAPES)
    given = {tensor.name: tensor for tensor in changes.values()}
    tensors = [given.get(name) or FloatTensor(name, some(name)) for name in SHAPES]
    artifact = Artifact(tuple(tensors))
    return build(template(converted(values), values), artifact), artifact


def some(name: str, sparsity: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(sorted(SHAPES).index(name))
    values = (0.4 * rng.normal(size=SHAPES[name])).astype(np.float32)
    values[rng.random(values.shape) < sparsity] = 0
    return values


def floats(name: str, sparsity: float) -> Stored:
    return FloatTensor(name, some(name, sparsity))


def halves(name: str, sparsity: float = 0.0) -> Stored:
    values = some(name, sparsity).astype(np.float16).astype(np.float32)
    return FloatTensor(name, values, bits=16)


def levels(name: str, sparsity: float = 0.0) -> Stored:
    values = some(name, sparsity)
    scale = np.float32([max(np.abs(values).max(), 0.1) / 127])
    return GridTensor(name, np.round(values / scale).astype(np.int32), scale)


def expected(weights: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """(n, STEPS) ids -> (n, STEPS, UNITS) outputs of an LSTM whose gates stand i f c o."""
    found, h, c = [], np.zeros((len(ids), UNITS)), np.zeros((len(ids), UNITS))
    for step in range(STEPS):
        x = weights[EMBED][ids[:, step]]
        z = x @ weights[INPUT].T + h @ weights[RECURRENT].T + weights[BIAS]
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        found.append(h)
    return np.stack(found, axis=1)


CASES = {
    "floats": {},
    "an embedding of levels": {"e": levels(EMBED)},
    "sparse levels in an embedding": {"e": levels(EMBED, 0.8)},
    "both matrices of levels": {"i": levels(INPUT), "r": levels(RECURRENT)},
    "sparse levels in both": {"i": levels(INPUT, 0.9), "r": levels(RECURRENT, 0.9)},
    "levels in one": {"r": levels(RECURRENT)},
    "sparse levels in one, halves": {"i": levels(INPUT, 0.9), "r": halves(RECURRENT)},
    "halves": {"e": halves(EMBED), "i": halves(INPUT), "r": halves(RECURRENT)},
    "sparse halves": {
        "e": halves(EMBED, 0.9),
        "i": halves(INPUT, 0.9),
        "r": halves(RECURRENT, 0.9),
    },
    "sparse floats": {
        "e": floats(EMBED, 0.9),
        "i": floats(INPUT, 0.9),
        "r": floats(RECURRENT, 0.9),
    },
    "nothing but zeros": {
        "e": levels(EMBED, 1.0),
        "i": levels(INPUT, 1.0),
        "r": levels(RECURRENT, 1.0),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_stored_is_read_back_and_computed_with(case: str) -> None:
    from evaluators.artifacts.tflite.read import read
    from evaluators.artifacts.tflite.runtime import Session

    data, artifact = built(**CASES[case])
    file, weights = read(data), dense(artifact)
    assert set(file.weights) == set(weights)
    assert all(np.array_equal(file.weights[name], values) for name, values in weights.items())
    assert sum(line.size_bytes for line in file.ledger) == len(data)
    ids = np.random.default_rng(7).integers(WORDS, size=(5, STEPS)).astype(np.int32)
    # Only the integer kernel rounds what it reads.
    tolerance = 0.05 if "both" in case else 1e-5
    session = Session(data)
    assert np.allclose(session(ids), expected(weights, ids), atol=tolerance)
    # Each sample from a new state, whatever ran before it.
    assert np.array_equal(session(ids[3:4])[0], session(ids)[3])
    session.timed(ids[:1])()


def test_every_way_is_smaller_than_the_floats() -> None:
    sizes = {case: len(built(**changes)[0]) for case, changes in CASES.items()}
    assert sizes["floats"] == max(sizes.values())
    assert sizes["sparse levels in both"] < sizes["both matrices of levels"]
    assert sizes["sparse levels in an embedding"] < sizes["an embedding of levels"]
    assert sizes["sparse halves"] < sizes["halves"]


def test_a_scale_a_row_is_refused() -> None:
    rows = GridTensor(EMBED, np.ones(SHAPES[EMBED], np.int32), np.ones(WORDS, np.float32))
    with pytest.raises(CannotHold, match=r"embed\.weight: tflite: its kernel takes one scale"):
        built(e=rows)
    bias = GridTensor(BIAS, np.ones(SHAPES[BIAS], np.int32), np.ones(1, np.float32))
    with pytest.raises(CannotHold, match=r"lstm\.input\.bias: tflite: no kernel reads it as int"):
        built(b=bias)


def test_damaged_bytes_give_one_clear_error_or_other_weights() -> None:
    from evaluators.artifacts.tflite.read import read

    data, _ = built(**CASES["sparse levels in both"])
    rng, refused = np.random.default_rng(4), 0
    for _ in range(80):
        broken = bytearray(data)
        # Where the graph stands: the weights take the front of the file or its end.
        broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
        try:
            read(bytes(broken))
        except DamagedArtifact:
            refused += 1
    assert refused > 0
