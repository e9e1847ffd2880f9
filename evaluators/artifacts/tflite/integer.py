"""A `.tflite` file that computes in 8-bit integers throughout: what microcontrollers run.

    given int8 -> [layer: int8 weights, int32 bias] -> int8 -> pooling -> int8 -> ... -> found int8

Every computed tensor has a scale and a zero point in the file. Layers take their inputs on the
grids that the policy trained with; for what lies between (sums, the network's outputs) the range is
seen on training inputs, in the runtime. An operator without an integer kernel (a batch-norm that
nobody folded, a layer of floats) computes in float32 between DEQUANTIZE and QUANTIZE.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
    dense,
)
from evaluators.artifacts.tflite.flat import add_buffer, constant, opcode, pack, unpack
from evaluators.artifacts.tflite.layout import to_file
from evaluators.artifacts.tflite.runtime import value_ranges
from spaces import tensor_name

__all__ = ["LayerGrids", "build_integer", "with_integer_biases"]

#: Layer -> (scale, zero point) of its inputs as unsigned 8-bit numbers.
LayerGrids = Mapping[str, tuple[float, int]]

#: Layers with integer kernels -> the axis of their weights that scales a channel go along.
_CHANNEL_AXES = {
    BuiltinOperator.FULLY_CONNECTED: 0,
    BuiltinOperator.CONV_2D: 0,
    BuiltinOperator.DEPTHWISE_CONV_2D: 3,
}
#: Operators with integer kernels -> the version that first had them.
_VERSIONS = {
    BuiltinOperator.CONV_2D: 3,
    BuiltinOperator.DEPTHWISE_CONV_2D: 3,
    BuiltinOperator.FULLY_CONNECTED: 4,
    BuiltinOperator.ADD: 2,
    BuiltinOperator.AVERAGE_POOL_2D: 2,
    BuiltinOperator.CONCATENATION: 2,
    BuiltinOperator.LOGISTIC: 2,
    BuiltinOperator.MAX_POOL_2D: 2,
    BuiltinOperator.MEAN: 2,
    BuiltinOperator.MUL: 2,
    BuiltinOperator.PAD: 2,
    BuiltinOperator.RELU: 2,
    BuiltinOperator.RELU6: 2,
    BuiltinOperator.RESHAPE: 1,
    BuiltinOperator.SOFTMAX: 2,
    BuiltinOperator.STRIDED_SLICE: 2,
    BuiltinOperator.SUB: 2,
    BuiltinOperator.TANH: 2,
    BuiltinOperator.TRANSPOSE: 2,
}
#: The version of FULLY_CONNECTED with a scale a channel.
_FULLY_CONNECTED_BY_CHANNEL = 12
#: What only moves or picks numbers, so that inputs and outputs are on one grid.
_PICKING = frozenset(
    getattr(BuiltinOperator, name)
    for name in ("CONCATENATION", "MAX_POOL_2D", "PAD", "RESHAPE", "STRIDED_SLICE", "TRANSPOSE")
)
_QUANTIZE, _REQUANTIZE = (BuiltinOperator.QUANTIZE, 1), (BuiltinOperator.QUANTIZE, 2)
_DEQUANTIZE = (BuiltinOperator.DEQUANTIZE, 2)
#: Sums of products are 32-bit integers; a bias must leave room for them.
_LARGEST_BIAS = 2**30
#: Scale of a channel without any weight: what its bias is rounded to, in steps of its inputs.
_EMPTY_SCALE = np.float32(2.0**-8)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Values (q - zero_point) * scale with -128 <= q <= 127."""

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "_Grid":
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / 255 or 1.0))
        return cls(scale, int(np.clip(round(-low / scale), 0, 255)) - 128)

    @classmethod
    def of_layer(cls, grid: tuple[float, int]) -> "_Grid":
        return cls(float(np.float32(grid[0])), grid[1] - 128)


#: Outputs of these have the range that the kernels want.
_FIXED = {
    BuiltinOperator.LOGISTIC: _Grid(1 / 256, -128),
    BuiltinOperator.SOFTMAX: _Grid(1 / 256, -128),
    BuiltinOperator.TANH: _Grid(1 / 128, 0),
}


# Biases -------------------------------------------------------------------------------------------


def with_integer_biases(artifact: Artifact, grids: LayerGrids) -> Artifact:
    """What such a file holds: biases on the grid of the sums they are added to.

    A 32-bit bias has the scale (scale of the inputs) * (scale of the weights).

    Raises:
        CannotHold: a bias that does not fit beside the sums.
    """
    tensors = {tensor.name: tensor for tensor in artifact.tensors}
    for layer, (input_scale, _) in grids.items():
        name = tensor_name(layer, "weight")
        integers = _integers(tensors[name])
        if integers is None:
            continue
        if isinstance(tensors[name], GridTensor):
            tensors[name] = integers = _with_empty_scales(integers)
        bias = tensors.get(tensor_name(layer, "bias"))
        if isinstance(bias, FloatTensor):
            scale = _bias_scale(input_scale, integers.scale)
            levels = np.rint(bias.values.astype(np.float64) / scale)
            if np.abs(levels).max() > _LARGEST_BIAS:
                raise CannotHold(layer, "tflite: a bias is too large beside such small weights")
            for _ in range(
                2
            ):  # float32 holds 24 bits: what it cannot hold is rounded to what it can
                values = (levels * scale).astype(np.float32)
                levels = np.rint(values.astype(np.float64) / scale)
            tensors[bias.name] = FloatTensor(bias.name, values, 32)
    return Artifact(tuple(tensors.values()), artifact.attributes)


def _bias_scale(input_scale: float, weight_scale: np.ndarray) -> np.ndarray:
    """(1,) or (channels,) float64, as the file's float32 says it."""
    product = np.float32(input_scale) * weight_scale.astype(np.float32)
    return product.astype(np.float32).astype(np.float64)


def _integers(tensor: Tensor) -> GridTensor | None:
    """The tensor as 8-bit levels; None of floats."""
    match tensor:
        case CodebookTensor(codebook=GridCodebook(levels=levels, scale=scale), indices=indices):
            table = np.concatenate((np.zeros(1, np.int32), levels))
            found = GridTensor(tensor.name, table[indices], scale)
        case GridTensor():
            found = tensor
        case _:
            return None
    if np.abs(found.levels).max() > 127:
        raise CannotHold(tensor.name, "tflite: levels must be at most 127")
    return found


def _with_empty_scales(tensor: GridTensor) -> GridTensor:
    """Channels of nothing but zeros get a scale that their bias can be rounded with."""
    rows = tensor.levels.reshape(tensor.scale.size, -1)
    scale = np.where(rows.any(axis=1), tensor.scale, _EMPTY_SCALE).astype(np.float32)
    return GridTensor(tensor.name, tensor.levels, scale)


# The file -----------------------------------------------------------------------------------------


def build_integer(
    template: bytes, artifact: Artifact, grids: LayerGrids, batches: Iterable[np.ndarray]
) -> bytes:
    """The file.

    Args:
        template: from `graph.template` or `writer.GraphWriter`, of the artifact's network.
        artifact: every tensor that the template names; biases as `with_integer_biases` gave them.
        grids: of the compressible layers.
        batches: of prepared training inputs, to see ranges on.

    Raises:
        CannotHold: a tensor that is not in the template, or values that no kernel reads.
    """
    model = unpack(template)
    named = {t.name.decode(): i for i, t in enumerate(model.subgraphs[0].tensors) if t.name}
    for tensor in artifact.tensors:
        if tensor.name not in named:
            raise CannotHold(tensor.name, "tflite: the network's graph has no such tensor")
    _fill(model, named, dense(artifact))
    (graph,) = model.subgraphs
    computed = {int(index) for operator in graph.operators for index in operator.outputs}
    computed |= {int(index) for index in graph.inputs}
    ranges = value_ranges(pack(model), computed, batches)
    return _Integers(model, artifact, grids, ranges).run()


def _fill(model: Any, named: Mapping[str, int], weights: Mapping[str, np.ndarray]) -> None:
    """Every named constant as dense floats."""
    (graph,) = model.subgraphs
    for name, values in weights.items():
        tensor = graph.tensors[named[name]]
        code = _reader(model, named[name])
        shape = tuple(int(size) for size in tensor.shape)
        tensor.buffer = add_buffer(model, to_file(values.astype(np.float32), code, shape))


def _reader(model: Any, index: int) -> int | None:
    for operator in model.subgraphs[0].operators:
        if index in operator.inputs:
            return int(model.operatorCodes[operator.opcodeIndex].builtinCode)
    return None


class _Integers:
    """From a float graph whose values' ranges are known to one of integers."""

    def __init__(
        self,
        model: Any,
        artifact: Artifact,
        grids: LayerGrids,
        ranges: Mapping[int, tuple[float, float]],
    ) -> None:
        self._model, self._ranges = model, ranges
        (self._graph,) = model.subgraphs
        self._grids = {layer: _Grid.of_layer(grid) for layer, grid in grids.items()}
        self._weights = {
            t.name: _integers(t) for t in artifact.tensors if t.name.endswith("weight")
        }
        self._constants = {
            i for i, t in enumerate(self._graph.tensors) if constant(model, t) is not None
        }
        self._grid_of: dict[int, _Grid] = {}
        self._changed: dict[tuple[int, _Grid | None], int] = {}
        self._floats: set[int] = set()

    def run(self) -> bytes:
        """The file."""
        operators = list(self._graph.operators)
        self._choose_grids(operators)
        self._graph.operators = []
        for index in self._graph.inputs:
            self._as_integer(int(index), self._grid_of[int(index)])
        for operator in operators:
            if self._is_integer(operator):
                self._integer(operator)
            else:
                self._floating(operator)
        outputs = []
        for index in map(int, self._graph.outputs):
            found = self._on(index, self._grid_of[index])
            if found != index:  # its name is what a user sees
                tensors = self._graph.tensors
                tensors[found].name, tensors[index].name = tensors[index].name, b""
            outputs.append(found)
        self._graph.outputs = np.array(outputs, np.int32)
        return pack(self._model)

    # What is on which grid

    def _choose_grids(self, operators: Sequence[Any]) -> None:
        """From the outputs to the inputs: what the next layer rounds to, else the range seen."""
        wanted: dict[int, list[_Grid]] = {}
        for operator in reversed(operators):
            code, output = self._code(operator), int(operator.outputs[0])
            if self._is_integer(operator) and code == BuiltinOperator.AVERAGE_POOL_2D:
                grid = self._seen(
                    int(operator.inputs[0])
                )  # means are on the grid of what they are of
            elif self._is_integer(operator) and code in _FIXED:
                grid = _FIXED[code]
            else:
                grid = self._chosen(output, wanted.get(output, ()))
            self._grid_of[output] = grid
            for index in self._computed(operator):
                if (demand := self._demand(operator)) is not None:
                    wanted.setdefault(index, []).append(demand)
        for index in map(int, self._graph.inputs):
            self._grid_of[index] = self._chosen(index, wanted.get(index, ()))

    def _demand(self, operator: Any) -> _Grid | None:
        """The grid that an operator wants its inputs on; None = any."""
        layer = self._layer(operator)
        if layer is not None:
            return self._grids.get(layer)
        code = self._code(operator)
        if self._is_integer(operator) and (code in _PICKING or code == _AVERAGE):
            return self._grid_of[int(operator.outputs[0])]
        return None

    def _chosen(self, index: int, wanted: Sequence[_Grid]) -> _Grid:
        return wanted[0] if len(set(wanted)) == 1 else self._seen(index)

    def _seen(self, index: int) -> _Grid:
        return _Grid.of_range(*self._ranges[index])

    # Operators

    def _integer(self, operator: Any) -> None:
        code, demand = self._code(operator), self._demand(operator)
        inputs = [int(index) for index in operator.inputs]
        version = _VERSIONS[code]
        for place, index in enumerate(inputs):
            if index >= 0 and index not in self._constants:
                inputs[place] = self._on(index, demand or self._grid_of[index])
        layer = self._layer(operator)
        if layer is not None:
            scale = self._store_weight(code, inputs[1])
            if len(inputs) > 2 and inputs[2] >= 0:
                inputs[2] = self._store_bias(
                    inputs[2], _bias_scale(self._grids[layer].scale, scale)
                )
            if code == BuiltinOperator.FULLY_CONNECTED and scale.size > 1:
                version = _FULLY_CONNECTED_BY_CHANNEL
        operator.inputs = np.array(inputs, np.int32)
        operator.opcodeIndex = opcode(self._model, code, version)
        output = int(operator.outputs[0])
        self._as_integer(output, self._grid_of[output])
        self._graph.operators.append(operator)

    def _floating(self, operator: Any) -> None:
        inputs, demand = [], self._demand(operator)
        for index in map(int, operator.inputs):
            if index < 0 or index in self._constants:
                inputs.append(index)
            else:
                # A layer of floats sees the values that it was trained with.
                rounded = index if demand is None else self._on(index, demand)
                inputs.append(self._on(rounded, None))
        operator.inputs = np.array(inputs, np.int32)
        self._floats.add(int(operator.outputs[0]))
        self._graph.operators.append(operator)

    def _is_integer(self, operator: Any) -> bool:
        code = self._code(operator)
        if code not in _VERSIONS:
            return False
        if code in _CHANNEL_AXES:
            layer = self._layer(operator)
            return layer in self._grids and self._weight_of(operator) is not None
        floats = (self._graph.tensors[i].type == TensorType.FLOAT32 for i in self._held(operator))
        return not any(floats)

    def _layer(self, operator: Any) -> str | None:
        """Name of the layer whose weights an operator reads."""
        if self._code(operator) not in _CHANNEL_AXES:
            return None
        name = str(self._graph.tensors[int(operator.inputs[1])].name.decode())
        return name.removesuffix(".weight") if name != "weight" else ""

    def _weight_of(self, operator: Any) -> GridTensor | None:
        name = self._graph.tensors[int(operator.inputs[1])].name.decode()
        return self._weights.get(name)

    def _code(self, operator: Any) -> int:
        return int(self._model.operatorCodes[operator.opcodeIndex].builtinCode)

    def _computed(self, operator: Any) -> list[int]:
        return [int(i) for i in operator.inputs if i >= 0 and int(i) not in self._constants]

    def _held(self, operator: Any) -> list[int]:
        return [int(i) for i in operator.inputs if int(i) in self._constants]

    # Tensors

    def _on(self, index: int, grid: _Grid | None) -> int:
        """A computed tensor on a grid, or as floats (None) -> the tensor that is."""
        is_float = index in self._floats
        if (grid is None and is_float) or (
            grid is not None and not is_float and self._grid_of[index] == grid
        ):
            return index
        key = index, grid
        if key not in self._changed:
            old = self._graph.tensors[index]
            made = schema.TensorT()
            made.shape, made.shapeSignature = old.shape, old.shapeSignature
            made.type, made.name, made.buffer, made.hasRank = TensorType.FLOAT32, b"", 0, True
            self._graph.tensors.append(made)
            found = len(self._graph.tensors) - 1
            kind = _DEQUANTIZE if grid is None else _QUANTIZE if is_float else _REQUANTIZE
            if grid is None:
                self._floats.add(found)
            else:
                self._grid_of[found] = grid
                self._as_integer(found, grid)
            operator = schema.OperatorT()
            operator.opcodeIndex = opcode(self._model, *kind)
            operator.inputs, operator.outputs = (np.array([i], np.int32) for i in (index, found))
            self._graph.operators.append(operator)
            self._changed[key] = found
        return self._changed[key]

    def _as_integer(self, index: int, grid: _Grid) -> None:
        tensor = self._graph.tensors[index]
        tensor.type = TensorType.INT8
        tensor.quantization = _quantization(np.array([grid.scale]), 0, grid.zero_point)

    def _store_weight(self, code: int, index: int) -> np.ndarray:
        """Put the levels in, as the operator reads them -> their scale."""
        tensor = self._graph.tensors[index]
        stored = self._weights[tensor.name.decode()]
        assert stored is not None
        if tensor.type != TensorType.INT8:
            shape = tuple(int(size) for size in tensor.shape)
            levels = to_file(stored.levels, code, shape)
            tensor.buffer = add_buffer(self._model, levels.astype(np.int8))
            tensor.type = TensorType.INT8
            axis = _CHANNEL_AXES[code] if stored.scale.size > 1 else 0
            tensor.quantization = _quantization(stored.scale, axis)
        return np.asarray(stored.scale)

    def _store_bias(self, index: int, scale: np.ndarray) -> int:
        """Put the levels in -> their tensor."""
        tensor = self._graph.tensors[index]
        if not tensor.name:  # zeros that several layers may share
            made = schema.TensorT()
            made.shape, made.name, made.hasRank = tensor.shape, b"", True
            made.type, made.quantization = TensorType.INT32, _quantization(scale, 0)
            zeros = np.zeros(tuple(int(size) for size in tensor.shape), np.int32)
            made.buffer = add_buffer(self._model, zeros)
            self._graph.tensors.append(made)
            self._constants.add(len(self._graph.tensors) - 1)
            return len(self._graph.tensors) - 1
        if tensor.type != TensorType.INT32:
            held = constant(self._model, tensor)
            assert held is not None
            levels = np.rint(held.view(np.float32).astype(np.float64) / scale).astype(np.int32)
            tensor.buffer = add_buffer(self._model, levels)
            tensor.type, tensor.quantization = TensorType.INT32, _quantization(scale, 0)
        return index


_AVERAGE = BuiltinOperator.AVERAGE_POOL_2D


def _quantization(scale: np.ndarray, axis: int, zero_point: int = 0) -> Any:
    parameters = schema.QuantizationParametersT()
    parameters.scale = scale.astype(np.float32)
    parameters.zeroPoint = np.full(len(scale), zero_point, np.int64)
    parameters.quantizedDimension = axis
    return parameters
