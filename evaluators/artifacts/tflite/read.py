"""Reads a `.tflite` file back, without the code that wrote it: weights by name, and its bytes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from evaluators.artifacts.packed import DamagedArtifact
from evaluators.artifacts.tflite.flat import constant, unpack
from evaluators.artifacts.tflite.layout import consumer, from_file, held_in
from spaces import LedgerLine

__all__ = ["TfliteFile", "read"]

_TYPES: dict[int, np.dtype[Any]] = {
    TensorType.FLOAT32: np.dtype("<f4"),
    TensorType.FLOAT16: np.dtype("<f2"),
    TensorType.INT8: np.dtype("i1"),
    TensorType.INT32: np.dtype("<i4"),
}


@dataclass(frozen=True)
class TfliteFile:
    """What a file holds.

    Attributes:
        weights: named constant -> float32 values, output channels first.
        ledger: where its bytes are; the graph is what no named constant takes.
    """

    weights: dict[str, np.ndarray]
    ledger: tuple[LedgerLine, ...]


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
    for index, tensor in enumerate(graph.tensors):
        held = constant(model, tensor)
        if held is None or not tensor.name:
            continue
        name = tensor.name.decode()
        if name in weights:
            raise DamagedArtifact(f"tflite: tensor {name} occurs twice")
        reader = consumer(model, index)
        parts = [
            (graph.tensors[part], constant(model, graph.tensors[part]))
            for part in held_in(model, index)
        ]
        if any(data is None for _, data in parts):
            raise DamagedArtifact(f"tflite: a gate of {name} is not in the file")
        values = np.concatenate([np.atleast_1d(_values(name, *part)) for part in parts])
        weights[name] = from_file(values, None if reader is None else reader[0])
        lines.append(LedgerLine(name, "values", sum(len(data) for _, data in parts)))
        sparse = [part.sparsity for part, _ in parts if part.sparsity is not None]
        if sparse:
            lines.append(LedgerLine(name, "positions", sum(map(_position_bytes, sparse))))
    taken = sum(line.size_bytes for line in lines)
    return TfliteFile(weights, (*lines, LedgerLine("", "graph", size_bytes - taken)))


def _values(name: str, tensor: Any, held: np.ndarray) -> np.ndarray:
    kind = _TYPES.get(tensor.type)
    if kind is None:
        raise DamagedArtifact(f"tflite: {name} has type {tensor.type}, which is not read")
    shape = tuple(int(size) for size in tensor.shape)
    flat = held.view(kind)
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
    return np.asarray(values.astype(np.float32) * scale + np.float32(0.0), dtype=np.float32)


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
