"""A `.tflite` file as objects and back: LiteRT's own schema, without any converter."""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.number_types import UOffsetTFlags

from evaluators.artifacts.packed import DamagedArtifact

__all__ = ["add_buffer", "constant", "opcode", "pack", "unpack"]

IDENTIFIER = b"TFL3"
#: Kernels read weights where they lie in the file, so each buffer begins at such a multiple.
ALIGNMENT = 16


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose bytes begin at a multiple of 16; the generated code does not see to it."""

    def __init__(self, data: np.ndarray | None) -> None:
        super().__init__()
        self.data = data

    def Pack(self, builder: flatbuffers.Builder) -> Any:  # noqa: N802 -- the schema's name
        """As the generated one."""
        vector = None
        if self.data is not None and len(self.data):
            size_bytes = len(self.data)
            builder.StartVector(1, size_bytes, ALIGNMENT)
            builder.head = UOffsetTFlags.py_type(builder.Head() - size_bytes)
            builder.Bytes[builder.Head() : builder.Head() + size_bytes] = self.data.tobytes()
            builder.vectorNumElems = size_bytes
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def unpack(data: bytes) -> Any:
    """Bytes -> the schema's `ModelT`.

    Raises:
        DamagedArtifact: no flatbuffer of this kind with one graph, or offsets that lead nowhere.
    """
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise DamagedArtifact("tflite: the file does not begin as a .tflite file does")
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        _check(model)
    except DamagedArtifact:
        raise
    except Exception as error:  # whatever a wrong offset happens to hit
        raise DamagedArtifact(f"tflite: cannot be read: {type(error).__name__}: {error}") from None
    return model


def _check(model: Any) -> None:
    """Every number that names something names something that is there."""
    if not model.subgraphs or len(model.subgraphs) != 1:
        raise DamagedArtifact("tflite: one graph is wanted")
    (graph,) = model.subgraphs
    tensors = len(graph.tensors)
    for tensor in graph.tensors:
        if not 0 <= tensor.buffer < len(model.buffers):
            raise DamagedArtifact("tflite: a tensor names a buffer that is not there")
    named = [*graph.inputs, *graph.outputs]
    for operator in graph.operators:
        named += [*operator.inputs, *operator.outputs]
        if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
            raise DamagedArtifact("tflite: an operator names a code that is not there")
    if any(not -1 <= index < tensors for index in named):
        raise DamagedArtifact("tflite: an operator names a tensor that is not there")


def pack(model: Any) -> bytes:
    """The inverse of `unpack`; the same objects give the same bytes. Unused buffers are dropped."""
    (graph,) = model.subgraphs
    users = [*graph.tensors, *(model.metadata or [])]
    # Buffer 0 is empty, for tensors whose values are computed.
    order = [0, *sorted({int(user.buffer) for user in users} - {0})]
    model.buffers = [_AlignedBuffer(model.buffers[old].data if old else None) for old in order]
    for user in users:
        user.buffer = order.index(int(user.buffer))
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def add_buffer(model: Any, data: np.ndarray) -> int:
    """A new buffer -> its index."""
    model.buffers.append(_AlignedBuffer(np.frombuffer(data.tobytes(), dtype=np.uint8)))
    return len(model.buffers) - 1


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """(bytes,) of a tensor whose values stand in the file; None of any other."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, dtype=np.uint8)


def opcode(model: Any, builtin: int, version: int) -> int:
    """Index of an operator code, added where the model does not have it."""
    for index, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version) == (builtin, version):
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = builtin, version
    # Readers older than 127 operators look here.
    code.deprecatedBuiltinCode = min(builtin, 127)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
