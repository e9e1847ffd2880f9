"""From a converter's float graph to a template: weights carry the names they have in artifacts.

A converter renames and reorders what it reads. So it is given a network of the same architecture
whose weights are all different, and what it wrote is found again by its values.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed import DamagedArtifact
from evaluators.artifacts.tflite.flat import constant, pack, unpack
from evaluators.artifacts.tflite.layout import LSTM, consumer, held_in, to_file

__all__ = ["numbered", "template"]

_READERS = (BuiltinOperator.FULLY_CONNECTED, BuiltinOperator.CONV_2D, BuiltinOperator.GATHER, LSTM)


def numbered(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Tensor -> random float32 values, no two alike, the same at every call."""
    rng = np.random.default_rng(0)
    # Variances must be positive; nothing here needs a negative value.
    return {n: rng.uniform(0.1, 1.0, shape).astype(np.float32) for n, shape in shapes.items()}


def template(graph: bytes, values: Mapping[str, np.ndarray]) -> bytes:
    """Name the constants of a converted float network.

    Names of all other tensors but inputs and outputs are dropped: they cost bytes.

    Args:
        graph: what the converter wrote of a network with `values`.
        values: from `numbered`, output channels first.

    Raises:
        CannotHold: a tensor that the converter merged into another one.
    """
    try:
        model = unpack(graph)
    except DamagedArtifact as error:  # a loop, as of a recurrent layer without a fused kernel
        raise CannotHold("", f"tflite: what the converter made is not written: {error}") from None
    (subgraph,) = model.subgraphs
    ends = {int(index) for index in (*subgraph.inputs, *subgraph.outputs)}
    left = dict(values)
    for index, tensor in enumerate(subgraph.tensors):
        data = constant(model, tensor)
        found = None
        if data is not None and tensor.type == TensorType.FLOAT32:
            reader = consumer(model, index)
            code = None if reader is None else reader[0]
            parts = [_floats(model, part) for part in held_in(model, index)]
            stored = parts[0] if len(parts) == 1 else np.concatenate(parts)
            found = next((n for n, v in left.items() if _same(v, stored, code)), None)
        if found is not None:
            del left[found]
        if index not in ends:
            tensor.name = (found or "").encode()
    if left:
        name = next(iter(left))
        raise CannotHold(name, "tflite: the converter merged it into another tensor")
    for operator in subgraph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode == LSTM:
            # The converter lets cells grow to 10 only; the network that was trained does not.
            operator.builtinOptions.cellClip = 0.0
    # Who converted when costs more bytes than a small layer.
    model.metadata = [m for m in model.metadata or [] if m.name == b"min_runtime_version"]
    return pack(model)


def _floats(model: Any, index: int) -> np.ndarray:
    (graph,) = model.subgraphs
    tensor = graph.tensors[index]
    data = constant(model, tensor)
    if data is None:
        return np.zeros(0, np.float32)
    return np.asarray(data.view(np.float32).reshape([int(size) for size in tensor.shape]))


def _same(values: np.ndarray, stored: np.ndarray, code: int | None) -> bool:
    if values.size != stored.size or (values.ndim > 1 and code not in _READERS):
        return False
    shape = tuple(int(size) for size in stored.shape)
    if values.ndim > 1 and shape[0] != values.shape[0]:
        return False
    return np.array_equal(to_file(values, code, shape), stored)
