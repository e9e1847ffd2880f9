"""A float `.tflite` graph written operator by operator, without any converter.

The result is a template as `graph.template` gives one: every weight is a constant of zeros under
its own name, for `store.build` to fill. Values with four axes are (batch, height, width, channels),
as LiteRT's kernels want them; all others keep the axes they are given with. The batch may be
resized in the runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.schema_py_generated import (
    ActivationFunctionType,
    BuiltinOperator,
    BuiltinOptions,
    Padding,
    TensorType,
)

from evaluators.artifacts.tflite.flat import add_buffer, opcode, pack

__all__ = ["GraphWriter", "Value"]

_FUSED = {
    "RELU": ActivationFunctionType.RELU,
    "RELU6": ActivationFunctionType.RELU6,
}
#: Operators that apply a simple activation themselves.
_FUSING = frozenset(
    getattr(BuiltinOperator, name)
    for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL")
)


@dataclass(frozen=True, slots=True)
class Value:
    """A computed tensor.

    Attributes:
        index: in the graph.
        shape: in the file's order, of one sample: the batch is 1.
    """

    index: int
    shape: tuple[int, ...]


class GraphWriter:
    """Takes operators in the order of execution; `finish` gives the file."""

    def __init__(self, shape: Sequence[int]) -> None:
        """Args: shape: of the input, as a user gives it, with a batch of 1."""
        self._model = schema.ModelT()
        self._graph = schema.SubGraphT()
        self._model.version, self._model.description = 3, b""
        self._model.subgraphs, self._model.operatorCodes = [self._graph], []
        self._model.buffers, self._model.metadata = [schema.BufferT()], []
        self._graph.tensors, self._graph.operators, self._graph.name = [], [], b"main"
        self._weights: dict[str, int] = {}
        self._small: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self.input = self._value(tuple(shape))
        self._graph.tensors[self.input.index].name = b"input"
        self._graph.inputs = np.array([self.input.index], np.int32)

    def finish(self, output: Value) -> bytes:
        """The template whose result is `output`."""
        self._graph.outputs = np.array([output.index], np.int32)
        self._graph.tensors[output.index].name = b"output"
        return pack(self._model)

    def weight(self, name: str, shape: Sequence[int]) -> int:
        """A named constant in the file's order -> its index; the same at every call."""
        if name not in self._weights:
            index = self._tensor(tuple(shape), TensorType.FLOAT32)
            self._graph.tensors[index].name = name.encode()
            zeros = np.zeros(tuple(shape), np.float32)
            self._graph.tensors[index].buffer = add_buffer(self._model, zeros)
            self._weights[name] = index
        return self._weights[name]

    def numbers(self, values: np.ndarray) -> int:
        """A constant without a name, int32 or float32 -> its index."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._small:
            kind = TensorType.INT32 if values.dtype == np.int32 else TensorType.FLOAT32
            index = self._tensor(values.shape, kind)
            self._graph.tensors[index].buffer = add_buffer(self._model, values)
            self._small[key] = index
        return self._small[key]

    def apply(
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        options: tuple[str, dict[str, Any]] | None = None,
        version: int = 1,
    ) -> Value:
        """One operator.

        Args:
            kind: name of a builtin operator.
            inputs: indices; -1 = left out.
            shape: of its result, in the file's order, with a batch of 1.
            options: name of the options' table, its fields.
            version: of the operator.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = opcode(self._model, getattr(BuiltinOperator, kind), version)
        value = self._value(tuple(shape))
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([value.index], np.int32)
        if options is not None:
            table, fields = options
            operator.builtinOptionsType = getattr(BuiltinOptions, table)
            operator.builtinOptions = getattr(schema, f"{table}T")()
            for name, field in fields.items():
                setattr(operator.builtinOptions, name, field)
        self._graph.operators.append(operator)
        return value

    def activate(self, kind: str, value: Value, *, is_only_reader: bool) -> Value:
        """RELU or RELU6: inside the operator before it where that can, else behind it."""
        last = self._graph.operators[-1] if self._graph.operators else None
        if last is not None and is_only_reader and int(last.outputs[0]) == value.index:
            code = self._model.operatorCodes[last.opcodeIndex].builtinCode
            if code in _FUSING and last.builtinOptions.fusedActivationFunction == 0:
                last.builtinOptions.fusedActivationFunction = _FUSED[kind]
                return value
        return self.apply(kind, [value.index], value.shape)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """To another shape of the same elements, whatever the batch."""
        target = np.array([-1, *shape[1:]], np.int32)
        # The constant alone says where to: a table with the shape would only repeat it.
        return self.apply("RESHAPE", [value.index, self.numbers(target)], shape)

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """Axis i of the result is axis `axes[i]` of the value; a reshape where that is the same."""
        shape = tuple(value.shape[axis] for axis in axes)
        moved = [axis for axis in axes if value.shape[axis] > 1 and axis > 0]
        if moved == sorted(moved):
            return value if shape == value.shape else self.reshape(value, shape)
        order = self.numbers(np.array(axes, np.int32))
        options: tuple[str, dict[str, Any]] = ("TransposeOptions", {})
        return self.apply("TRANSPOSE", [value.index, order], shape, options)

    def pad(self, value: Value, around: Sequence[tuple[int, int]]) -> Value:
        """Zeros around a value: (before, after) on each axis but the batch."""
        amounts = np.array([(0, 0), *around], np.int32)
        sizes = zip(value.shape[1:], around, strict=True)
        shape = (value.shape[0], *(size + before + after for size, (before, after) in sizes))
        return self.apply("PAD", [value.index, self.numbers(amounts)], shape, ("PadOptions", {}))

    def slice(self, value: Value, axis: int, start: int, stop: int, step: int) -> Value:
        """Every `step`-th position of an axis from `start` to before `stop`."""
        rank = len(value.shape)
        begin, end, strides = (np.full(rank, each, np.int32) for each in (0, 0, 1))
        begin[axis], end[axis], strides[axis] = start, stop, step
        whole = sum(1 << each for each in range(rank) if each != axis)
        shape = list(value.shape)
        shape[axis] = len(range(start, stop, step))
        parts = [value.index, *(self.numbers(each) for each in (begin, end, strides))]
        fields = {"beginMask": whole, "endMask": whole}
        return self.apply("STRIDED_SLICE", parts, shape, ("StridedSliceOptions", fields))

    @staticmethod
    def padding(*, same: bool) -> int:
        """The schema's number of "SAME" or "VALID"."""
        return int(Padding.SAME if same else Padding.VALID)

    def _value(self, shape: tuple[int, ...]) -> Value:
        return Value(self._tensor(shape, TensorType.FLOAT32), shape)

    def _tensor(self, shape: tuple[int, ...], kind: int) -> int:
        """A tensor -> its index."""
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.name = np.array(shape, np.int32), kind, b""
        tensor.buffer, tensor.hasRank = 0, True
        if not self._graph.tensors:  # the input: its signature is what a user sees
            tensor.shapeSignature = np.array([-1, *shape[1:]], np.int32)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1
