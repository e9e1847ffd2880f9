"""Reads a `.tflite` file back, without the code that wrote it: weights by name, and its bytes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

from evaluators.artifacts.packed import DamagedArtifact
from evaluators.artifacts.tflite.flat import constant, unpack
from evaluators.artifacts.tflite.layout import consumer, from_file, held_in
from spaces import LedgerLine

__all__ = ["TfliteFile", "read"]

_TYPES: dict[int, np.dtype[Any]] = {
    TensorType.FLOAT32: np.dtype("<f4"),
    TensorType.FLOAT16: np.dtype("<f2"),
    TensorType.INT8: np.dtype("i1"),
    TensorType.INT4: np.dtype("i1"),
    TensorType.INT32: np.dtype("<i4"),
}
#: Operators that are layers with weights.
_LAYERS = (
    BuiltinOperator.CONV_2D,
    BuiltinOperator.DEPTHWISE_CONV_2D,
    BuiltinOperator.FULLY_CONNECTED,
)


@dataclass(frozen=True)
class TfliteFile:
    """What a file holds.

    Attributes:
        weights: named constant -> float32 values, output channels first.
        ledger: where its bytes are; the graph is what no named constant takes.
        input_grids: layer -> (scale, zero point) of its inputs as unsigned 8-bit numbers, of every
            layer whose inputs the file rounds to a fixed grid.
    """

    weights: dict[str, np.ndarray]
    ledger: tuple[LedgerLine, ...]
    input_grids: dict[str, tuple[float, int]] = field(default_factory=dict)


def read(data: bytes) -> TfliteFile:
    """Decode every named constant.

    Raises:
        DamagedArtifact: bad bytes.
    """
    model = unpack(data)
    try:
        return _read(model, len(data))
    except DamagedArtifact:
        raise
    except Exception as error:  # whatever a wrong number happens to hit
        raise DamagedArtifact(f"tflite: cannot be read: {type(error).__name__}: {error}") from None


def _read(model: Any, size_bytes: int) -> TfliteFile:
    (graph,) = model.subgraphs
    weights: dict[str, np.ndarray] = {}
    lines: list[LedgerLine] = []
    grids: dict[str, tuple[float, int]] = {}
    for index, tensor in enumerate(graph.tensors):
        held = constant(model, tensor)
        if held is None or not tensor.name:
            continue
        name = tensor.name.decode()
        if name in weights:
            raise DamagedArtifact(f"tflite: tensor {name} occurs twice")
        reader = consumer(model, index)
        parts = [(graph.tensors[part], _held(model, name, part)) for part in held_in(model, index)]
        values = np.concatenate([np.atleast_1d(_values(name, *part)) for part in parts])
        weights[name] = from_file(values, None if reader is None else reader[0])
        layer, _, kind = name.rpartition(".")
        grid = None
        if reader is not None and reader[0] in _LAYERS and kind == "weight":
            grid = _input_grid(model, reader[1])
        if grid is not None:
            grids[layer] = grid
        lines.append(LedgerLine(name, "values", sum(len(data) for _, data in parts)))
        sparse = [part.sparsity for part, _ in parts if part.sparsity is not None]
        if sparse:
            lines.append(LedgerLine(name, "positions", sum(map(_position_bytes, sparse))))
    taken = sum(line.size_bytes for line in lines)
    return TfliteFile(weights, (*lines, LedgerLine("", "graph", size_bytes - taken)), grids)


def _held(model: Any, name: str, index: int) -> np.ndarray:
    (graph,) = model.subgraphs
    data = constant(model, graph.tensors[index])
    if data is None:
        raise DamagedArtifact(f"tflite: a gate of {name} is not in the file")
    return data


def _input_grid(model: Any, operator: Any) -> tuple[float, int] | None:
    """The grid an operator's first input is on, also where it is turned to floats again."""
    (graph,) = model.subgraphs
    index = int(operator.inputs[0])
    for other in graph.operators:
        code = model.operatorCodes[other.opcodeIndex].builtinCode
        if index in other.outputs and code == BuiltinOperator.DEQUANTIZE:
            index = int(other.inputs[0])
    tensor = graph.tensors[index]
    if tensor.type != TensorType.INT8 or tensor.quantization is None:
        return None
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0]) + 128


def _values(name: str, tensor: Any, held: np.ndarray) -> np.ndarray:
    kind = _TYPES.get(tensor.type)
    if kind is None:
        raise DamagedArtifact(f"tflite: {name} has type {tensor.type}, which is not read")
    shape = tuple(int(size) for size in tensor.shape)
    flat = _halves(held, shape) if tensor.type == TensorType.INT4 else held.view(kind)
    if tensor.sparsity is not None:
        flat = _dense(name, tensor.sparsity, flat, shape)
    if flat.size != int(np.prod(shape)):
        raise DamagedArtifact(f"tflite: {name} has {flat.size} values for shape {shape}")
    values = flat.reshape(shape)
    if kind.kind == "f":
        return np.asarray(values, dtype=np.float32)
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        raise DamagedArtifact(f"tflite: {name} holds integers without a scale")
    scale = np.asarray(quantization.scale, dtype=np.float32)
    if not np.isfinite(scale).all() or np.any(np.asarray(quantization.zeroPoint) != 0):
        raise DamagedArtifact(f"tflite: {name} has scales or zero points that no weight has")
    if len(scale) > 1:
        axis = int(quantization.quantizedDimension)
        along = [1] * len(shape)
        along[axis] = len(scale)
        scale = scale.reshape(along)
    # 32-bit numbers times their scale want more than the 24 bits of a float32.
    wide = np.float64 if kind.itemsize == 4 else np.float32
    product = values.astype(wide) * scale.astype(wide) + wide(0.0)
    return np.asarray(product, dtype=np.float32)


def _halves(held: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes of two 4-bit numbers each -> the numbers, sign and all."""
    numbers = np.stack((held & 15, held >> 4), axis=-1).ravel().astype(np.int8)
    numbers[numbers > 7] -= 16
    count = int(np.prod(shape))
    return numbers[:count] if len(numbers) - count in (0, 1) else numbers


def _dense(name: str, sparsity: Any, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The last axis compressed row by row -> all values."""
    axis = sparsity.dimMetadata[-1]
    segments = np.asarray(axis.arraySegments.values, dtype=np.int64)
    indices = np.asarray(axis.arrayIndices.values, dtype=np.int64)
    rows = int(np.prod(shape[:-1]))
    counts = np.diff(segments)
    whole = len(segments) == rows + 1 and len(indices) == len(kept) == segments[-1]
    if not whole or (counts < 0).any() or (indices >= shape[-1]).any() or (indices < 0).any():
        raise DamagedArtifact(f"tflite: {name} has positions outside its shape")
    dense = np.zeros((rows, shape[-1]), dtype=kept.dtype)
    dense[np.repeat(np.arange(rows), counts), indices] = kept
    return dense.ravel()


def _position_bytes(sparsity: Any) -> int:
    axis = sparsity.dimMetadata[-1]
    parts = (axis.arraySegments.values, axis.arrayIndices.values)
    return sum(int(np.asarray(part).nbytes) for part in parts)
