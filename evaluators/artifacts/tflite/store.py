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
#: Operators that the default delegate leaves to LiteRT's own kernels.
_NOT_XNNPACK = (LSTM, BuiltinOperator.GATHER)
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
    for tensor in artifact.tensors:
        if tensor.name not in positions:
            raise CannotHold(tensor.name, "tflite: the network's graph has no such tensor")
    found = [_found(model, positions[tensor.name], tensor) for tensor in artifact.tensors]
    lonely = _lonely(model, {place.parts[0] for place in found if place.is_integer})
    decoders: list[Any] = []
    for place in found:
        _replace(model, place, decoders, is_lonely=place.parts[0] in lonely)
    graph.operators = [*decoders, *graph.operators]
    return pack(model)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A tensor as it is written: values in the file's order, scales of integers."""

    values: np.ndarray
    type: int
    scale: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a tensor of the artifact goes.

    Attributes:
        plain: all of its values.
        parts: the template's constants that take them, row after row.
        reader: (builtin code, operator) of what computes with it.
    """

    plain: _Plain
    parts: list[int]
    reader: tuple[int, Any] | None

    @property
    def is_integer(self) -> bool:
        return self.plain.type in {int(TensorType.INT8), int(TensorType.INT4)}

    @property
    def code(self) -> int | None:
        return None if self.reader is None else self.reader[0]


def _found(model: Any, index: int, tensor: Tensor) -> _Found:
    (graph,) = model.subgraphs
    reader, parts = consumer(model, index), held_in(model, index)
    shape = [int(size) for size in graph.tensors[index].shape]
    whole = (shape[0] * len(parts), *shape[1:]) if shape else ()
    return _Found(_plain(tensor, None if reader is None else reader[0], whole), parts, reader)


def _lonely(model: Any, integers: set[int]) -> set[int]:
    """First gates of integers whose LSTM has floats for its other matrix."""
    (graph,) = model.subgraphs
    lonely: set[int] = set()
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode == LSTM:
            both = {int(operator.inputs[slot]) for slot in LSTM_MATRICES}
            if not both <= integers:
                lonely |= both & integers
    return lonely


def _replace(model: Any, found: _Found, decoders: list[Any], *, is_lonely: bool) -> None:
    """One tensor of the artifact, in the places of the template's constants."""
    plain = found.plain
    if found.is_integer and not is_lonely:
        assert found.reader is not None
        _make_hybrid(model, *found.reader, plain)
    can_be_sparse = not is_lonely and _can_be_sparse(plain, found.code)
    for part, values in zip(found.parts, np.split(plain.values, len(found.parts)), strict=True):
        piece = _Plain(values, plain.type, plain.scale)
        if found.code in _NOT_XNNPACK and piece.type == TensorType.FLOAT16:
            piece = _wide_if_sparse(piece)
        _place(model, part, piece, decoders, can_be_sparse or piece.type == TensorType.FLOAT32)
        if is_lonely:
            _dequantize_before(model, part, decoders)


def _place(model: Any, index: int, plain: _Plain, decoders: list[Any], can_be_sparse: bool) -> None:
    """Values in the place of a template's constant."""
    (graph,) = model.subgraphs
    target = graph.tensors[index]
    pays = can_be_sparse and _sparse_bytes(plain.values) < plain.values.nbytes
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
        if plain.scale is not None:
            target.type, target.quantization = plain.type, _quantization(plain)
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


def _can_be_sparse(plain: _Plain, code: int | None) -> bool:
    """Whether the runtime computes right with this behind DENSIFY.

    XNNPACK's operators would have to take integers as floats to load them at all, a sixth of the
    bytes at ten times the latency (measured: 45,296 B, 30 us; 269,776 B, 2.3 us). Before the others
    DENSIFY then DEQUANTIZE gives garbage under its delegate (LiteRT 2.3.0), not without it.
    """
    if code in _NOT_XNNPACK:
        return plain.type != int(TensorType.FLOAT16)
    return plain.scale is None


def _wide_if_sparse(halves: _Plain) -> _Plain:
    """The same values as 32-bit floats, where those are smaller as rows than the halves are."""
    wide = halves.values.astype(np.float32)
    is_smaller = _sparse_bytes(wide) < halves.values.nbytes
    return _Plain(wide, TensorType.FLOAT32) if is_smaller else halves


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


def _dequantize_before(model: Any, index: int, decoders: list[Any]) -> None:
    """Floats under a tensor's own number; its levels under a new one."""
    (graph,) = model.subgraphs
    levels = graph.tensors[index]
    graph.tensors[index] = _new_tensor(levels.shape, _Plain(np.zeros(0), TensorType.FLOAT32))
    decoders.append(_operator(model, _DEQUANTIZE_LEVELS, _append(graph, levels), index))


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
