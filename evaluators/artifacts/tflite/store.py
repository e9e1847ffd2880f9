"""An artifact's codes -> a `.tflite` file: a template's constants replaced by them.

- levels of 8 bits, one scale a tensor or a channel: int8, read by the integer kernels, which round
  their float inputs as they come ("dynamic range"); of 4 bits: int4, two in a byte;
- half precision: float16 behind DEQUANTIZE, but for biases, which are written as float32;
- zeros, where positions and values are smaller than the dense tensor: TFLite's sparse form behind
  DENSIFY; kernels see the dense tensor again, so it is smaller and not faster;
- shared values: as levels if the codebook is on a grid, else as floats;
- an LSTM's weight: a tensor a gate. Its integer kernel wants both matrices as integers; where only
  one is, that one's levels go through DEQUANTIZE to the float kernel;
- an embedding's levels: GATHER takes rows as they are, and DEQUANTIZE stands behind it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.schema_py_generated import BuiltinOperator, DimensionType, TensorType

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
)
from evaluators.artifacts.tflite.flat import add_buffer, opcode, pack, unpack
from evaluators.artifacts.tflite.layout import LSTM, LSTM_MATRICES, consumer, held_in, to_file

__all__ = ["build"]

#: Operators that take int8 weights with float inputs, and the version that first did by channel.
_HYBRID = {BuiltinOperator.FULLY_CONNECTED: 12, BuiltinOperator.CONV_2D: 5, LSTM: 3}
#: The same with int4 weights.
_HYBRID_OF_4_BITS = {BuiltinOperator.FULLY_CONNECTED: 12, BuiltinOperator.CONV_2D: 7}
#: Operators for which a weight of nothing but zeros is written as floats.
_FLOAT_ZEROS = (BuiltinOperator.FULLY_CONNECTED, BuiltinOperator.CONV_2D)
#: What a sparse tensor costs besides positions and values, about.
SPARSE_BYTES = 270
_DENSIFY = (BuiltinOperator.DENSIFY, 1)
_DEQUANTIZE_HALVES = (BuiltinOperator.DEQUANTIZE, 3)
_DEQUANTIZE_LEVELS = (BuiltinOperator.DEQUANTIZE, 2)
_GATHER_LEVELS = (BuiltinOperator.GATHER, 2)


def build(template: bytes, artifact: Artifact) -> bytes:
    """The file.

    Args:
        template: from `graph.template`, of the artifact's network.
        artifact: every tensor the template names.

    Raises:
        CannotHold: a tensor that is not in the template, or codes no kernel reads.
    """
    model = unpack(template)
    (graph,) = model.subgraphs
    positions = {t.name.decode(): i for i, t in enumerate(graph.tensors) if t.name}
    decoders: list[Any] = []
    integers: set[int] = set()
    for tensor in artifact.tensors:
        if tensor.name not in positions:
            raise CannotHold(tensor.name, "tflite: the network's graph has no such tensor")
        integers.update(_replace(model, positions[tensor.name], tensor, decoders))
    _decode_half_integers(model, integers, decoders)
    graph.operators = [*decoders, *graph.operators]
    return pack(model)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A tensor as it is written: values in the file's order, scales of integers."""

    values: np.ndarray
    type: int
    scale: np.ndarray | None = None


def _replace(model: Any, index: int, tensor: Tensor, decoders: list[Any]) -> list[int]:
    """One tensor of the artifact -> what its reader sees as integers."""
    (graph,) = model.subgraphs
    reader = consumer(model, index)
    code = None if reader is None else reader[0]
    parts = held_in(model, index)
    shape = [int(size) for size in graph.tensors[index].shape]
    plain = _plain(tensor, code, (shape[0] * len(parts), *shape[1:]))
    is_integer = plain.type in (TensorType.INT8, TensorType.INT4)
    if is_integer:
        assert reader is not None
        _make_hybrid(model, *reader, plain)
    for part, values in zip(parts, np.split(plain.values, len(parts)), strict=True):
        _place(model, part, _Plain(values, plain.type, plain.scale), code, decoders)
    return parts if is_integer else []


def _place(model: Any, index: int, plain: _Plain, code: int | None, decoders: list[Any]) -> None:
    """Values in the place of a template's constant."""
    (graph,) = model.subgraphs
    target = graph.tensors[index]
    # Integers stay dense: behind DENSIFY they would have to become floats to load at all, a sixth
    # of the bytes at ten times the latency (measured: 45,296 B, 30 us; 269,776 B, 2.3 us).
    # The LSTM and the look-up are not XNNPACK's, and take them.
    can = plain.scale is None or code in (LSTM, BuiltinOperator.GATHER)
    pays = can and _sparse_bytes(plain.values) < plain.values.nbytes
    is_sparse = pays and bool(plain.values.any())  # without a value there is no buffer to name
    decoding: list[tuple[int, int]] = []
    if is_sparse:
        decoding.append(_DENSIFY)
    if plain.type == TensorType.FLOAT16:
        decoding.append(_DEQUANTIZE_HALVES)
    stored = target
    if decoding:
        # The reader keeps the tensor it names; new ones lead to it.
        stored = _new_tensor(target.shape, plain, target.name)
        target.name, target.buffer = b"", 0
        source = _append(graph, stored)
        for step, kind in enumerate(decoding):
            last = step == len(decoding) - 1
            goal = index if last else _append(graph, _new_tensor(target.shape, plain))
            decoders.append(_operator(model, kind, source, goal))
            source = goal
    else:
        stored.type, stored.quantization = plain.type, _quantization(plain)
    values = plain.values
    if is_sparse:
        stored.sparsity, values = _sparse(values)
    if plain.type == TensorType.INT4:
        values = _nibbles(values)
    stored.buffer = add_buffer(model, values)


def _nibbles(levels: np.ndarray) -> np.ndarray:
    """Two 4-bit numbers in a byte, the first in its low half."""
    halves = np.append(levels.ravel().astype(np.uint8) & 15, np.zeros(levels.size % 2, np.uint8))
    return np.asarray(halves[0::2] | halves[1::2] << 4, dtype=np.uint8)


def _plain(tensor: Tensor, code: int | None, shape: tuple[int, ...]) -> _Plain:
    match tensor:
        # A bias must be a constant float where the weights are integers, and is small anyway.
        case FloatTensor(values=values, bits=16) if values.ndim > 1:
            return _Plain(to_file(values, code, shape).astype(np.float16), TensorType.FLOAT16)
        case CodebookTensor(codebook=GridCodebook(levels=levels, scale=scale), indices=indices):
            table = np.concatenate((np.zeros(1, np.int32), levels))
            return _integers(tensor.name, table[indices], scale, code, shape)
        case CodebookTensor(codebook=codebook) if getattr(codebook, "bits", 32) == 16:
            return _Plain(
                to_file(tensor.decode(), code, shape).astype(np.float16), TensorType.FLOAT16
            )
        case GridTensor(levels=levels, scale=scale):
            if not levels.any() and code in _FLOAT_ZEROS:  # nothing but zeros needs no grid
                return _Plain(to_file(tensor.decode(), code, shape), TensorType.FLOAT32)
            return _integers(tensor.name, levels, scale, code, shape)
    return _Plain(to_file(tensor.decode(), code, shape), TensorType.FLOAT32)


def _integers(
    name: str, levels: np.ndarray, scale: np.ndarray, code: int | None, shape: tuple[int, ...]
) -> _Plain:
    kernels = (*_HYBRID, BuiltinOperator.GATHER)
    if code not in kernels or levels.ndim < 2:  # a bias is the same operator's, but a float
        raise CannotHold(name, "tflite: no kernel reads it as integers")
    largest = int(np.abs(levels).max())
    if largest > 127:
        raise CannotHold(name, "tflite: levels must be at most 127")
    if len(scale) > 1 and code in (LSTM, BuiltinOperator.GATHER):
        raise CannotHold(name, "tflite: its kernel takes one scale a weight")
    is_small = largest <= 7 and code in _HYBRID_OF_4_BITS
    kind = TensorType.INT4 if is_small else TensorType.INT8
    return _Plain(to_file(levels, code, shape).astype(np.int8), kind, scale)


def _make_hybrid(model: Any, code: int, operator: Any, plain: _Plain) -> None:
    """The operator as the integer kernels want it."""
    if code == BuiltinOperator.GATHER:
        _dequantize_behind(model, operator, plain)
        return
    versions = _HYBRID_OF_4_BITS if plain.type == TensorType.INT4 else _HYBRID
    operator.opcodeIndex = opcode(model, code, versions[code])
    if code in (BuiltinOperator.FULLY_CONNECTED, LSTM):
        operator.builtinOptions.asymmetricQuantizeInputs = True


def _dequantize_behind(model: Any, gather: Any, plain: _Plain) -> None:
    """Rows that are looked up in levels, as the floats that their readers know."""
    (graph,) = model.subgraphs
    gather.opcodeIndex = opcode(model, *_GATHER_LEVELS)
    (floats,) = (int(index) for index in gather.outputs)
    known = graph.tensors[floats]
    rows = _append(graph, _new_tensor(known.shape, plain))
    graph.tensors[rows].shapeSignature = known.shapeSignature
    gather.outputs = np.array([rows], np.int32)
    at = next(n for n, operator in enumerate(graph.operators) if operator is gather)
    graph.operators.insert(at + 1, _operator(model, _DEQUANTIZE_LEVELS, rows, floats))


def _decode_half_integers(model: Any, integers: set[int], decoders: list[Any]) -> None:
    """Float kernels for LSTMs of which one matrix is integers and the other one is not."""
    (graph,) = model.subgraphs
    for lstm in graph.operators:
        if model.operatorCodes[lstm.opcodeIndex].builtinCode != LSTM:
            continue
        gates = [int(lstm.inputs[slot]) for slot in LSTM_MATRICES]
        found = [gate for gate in gates if gate in integers]
        if len(found) in (0, len(gates)):
            continue
        lstm.opcodeIndex = opcode(model, LSTM, 1)
        lstm.builtinOptions.asymmetricQuantizeInputs = False
        for gate in found:
            _dequantize_before(model, gate, decoders)


def _dequantize_before(model: Any, index: int, decoders: list[Any]) -> None:
    """Floats under a tensor's own number; its levels under a new one."""
    (graph,) = model.subgraphs
    levels = graph.tensors[index]
    floats = schema.TensorT()
    floats.shape, floats.type, floats.name = levels.shape, TensorType.FLOAT32, b""
    floats.buffer, floats.hasRank = 0, True
    graph.tensors[index] = floats
    moved = _append(graph, levels)
    for operator in decoders:  # what made the levels
        operator.outputs = np.where(operator.outputs == index, moved, operator.outputs)
    decoders.append(_operator(model, _DEQUANTIZE_LEVELS, moved, index))


def _new_tensor(shape: np.ndarray, plain: _Plain, name: bytes = b"") -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.name, tensor.buffer = shape, plain.type, name, 0
    tensor.hasRank, tensor.quantization = True, _quantization(plain)
    return tensor


def _quantization(plain: _Plain) -> Any:
    if plain.scale is None:
        return None
    parameters = schema.QuantizationParametersT()
    parameters.scale = plain.scale.astype(np.float32)
    parameters.zeroPoint = np.zeros(len(plain.scale), np.int64)
    parameters.quantizedDimension = 0
    return parameters


def _append(graph: Any, tensor: Any) -> int:
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(model: Any, kind: tuple[int, int], source: int, goal: int) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = opcode(model, *kind)
    operator.inputs = np.array([source], np.int32)
    operator.outputs = np.array([goal], np.int32)
    return operator


# Sparse tensors: every axis dense but the last, which is compressed row by row -------------------

_WIDTHS = (
    (np.uint8, schema.Uint8VectorT, schema.SparseIndexVector.Uint8Vector),
    (np.uint16, schema.Uint16VectorT, schema.SparseIndexVector.Uint16Vector),
    (np.int32, schema.Int32VectorT, schema.SparseIndexVector.Int32Vector),
)


def _narrowest(values: np.ndarray) -> tuple[Any, Any, int]:
    top = int(values.max(initial=0))
    return next(width for width in _WIDTHS if top <= np.iinfo(width[0]).max)


def _rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(segments, indices, kept values) of the last axis."""
    rows = values.reshape(-1, values.shape[-1])
    kept = rows != 0
    segments = np.concatenate(([0], np.cumsum(kept.sum(axis=1))))
    return segments, np.nonzero(kept)[1], rows[kept]


def _sparse_bytes(values: np.ndarray) -> int:
    """Positions, values, and the tables, tensor and operator around them."""
    if values.ndim < 2:
        return values.nbytes
    segments, indices, kept = _rows(values)
    sizes = [np.dtype(_narrowest(part)[0]).itemsize * part.size for part in (segments, indices)]
    return int(sum(sizes)) + kept.nbytes + SPARSE_BYTES


def _sparse(values: np.ndarray) -> tuple[Any, np.ndarray]:
    segments, indices, kept = _rows(values)
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = np.arange(values.ndim, dtype=np.int32)
    parameters.blockMap = np.zeros(0, np.int32)
    parameters.dimMetadata = []
    for size in values.shape[:-1]:
        axis = schema.DimensionMetadataT()
        axis.format, axis.denseSize = DimensionType.DENSE, size
        parameters.dimMetadata.append(axis)
    axis = schema.DimensionMetadataT()
    axis.format = DimensionType.SPARSE_CSR
    axis.arraySegmentsType, axis.arraySegments = _vector(segments)
    axis.arrayIndicesType, axis.arrayIndices = _vector(indices)
    parameters.dimMetadata.append(axis)
    return parameters, kept


def _vector(values: np.ndarray) -> tuple[int, Any]:
    kind, make, code = _narrowest(values)
    vector = make()
    vector.values = values.astype(kind)
    return code, vector
