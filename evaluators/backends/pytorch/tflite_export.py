"""A network's graph for LiteRT: torch.export's operators, written one by one.

No converter is needed (litert-torch would bring jax and transformers, and older pins): weights
keep their names and values, and what cannot be translated is refused by the layer's name. Pictures
are (batch, channels, height, width) in torch and (batch, height, width, channels) in the file; they
are turned at the input, and where a network flattens them.
"""

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed import Artifact, FloatTensor
from evaluators.artifacts.tflite.writer import GraphWriter, Value
from spaces import tensor_name

__all__ = ["export_template", "neutral_norms", "neutral_statistics"]

#: What torch writes for "to the end".
_NO_END = 2**63 - 1
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_Pair: TypeAlias = tuple[int, int]


class _Unsupported(Exception):
    """Why an operator has no translation."""


# Batch-norms --------------------------------------------------------------------------------------


def neutral_norms(model: nn.Module, artifact: Artifact) -> Artifact:
    """Each batch-norm as one product and one sum, its statistics inside its weight and bias.

    The file has two operators and two tensors for what are four. Statistics become 0 and
    1 - epsilon, so that the network computes the same with them.

    Args:
        model: of the architecture.
        artifact: of the whole network.
    """
    tensors = {tensor.name: tensor for tensor in artifact.tensors}
    for name, norm in _norms(model).items():
        parts = ("weight", "bias", "running_mean", "running_var")
        names = [tensor_name(name, part) for part in parts]
        if not set(names) <= set(tensors):
            continue  # `export_template` refuses it
        weight, bias, mean, variance = (tensors[each].decode().astype(np.float64) for each in names)
        gain = weight / np.sqrt(variance + norm.eps)
        values = (gain, bias - mean * gain, *_neutral(norm, len(gain)))
        for each, value in zip(names, values, strict=True):
            tensors[each] = FloatTensor(each, value.astype(np.float32), 32)
    return Artifact(tuple(tensors.values()), artifact.attributes)


def neutral_statistics(
    model: nn.Module, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The means and variances that `neutral_norms` left, of a file's batch-norms.

    Args:
        model: of the architecture.
        weights: that the file holds.
    """
    found: dict[str, np.ndarray] = {}
    for name, norm in _norms(model).items():
        bias = weights.get(tensor_name(name, "bias"))
        if bias is not None:
            mean, variance = _neutral(norm, len(bias))
            found[tensor_name(name, "running_mean")] = mean
            found[tensor_name(name, "running_var")] = variance
    return found


def _norms(model: nn.Module) -> dict[str, Any]:
    kind = nn.modules.batchnorm._BatchNorm
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def _neutral(norm: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(count, np.float32), np.full(count, 1.0 - norm.eps, np.float32)


# The graph ----------------------------------------------------------------------------------------


def export_template(model: nn.Module, sample: Tensor) -> bytes:
    """The network as a `.tflite` file whose weights are zeros under their own names.

    Args:
        model: in eval mode, on the CPU.
        sample: (1, ...) prepared input; the file's input has these axes, in torch's order.

    Raises:
        CannotHold: torch cannot export the network, or an operator has no translation.
    """
    if not sample.is_floating_point():
        raise CannotHold("", f"tflite: inputs must be floats, but are {sample.dtype}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Two samples: a batch of one would be taken for a constant.
            batch = torch.cat([sample, sample])
            dynamic = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(model, (batch,), dynamic_shapes=dynamic)
            # Nothing is decomposed; it is only what writes in place that goes.
            program = program.run_decompositions({})
    except Exception as error:  # the exporter's own classes have no common base
        reason = str(error).strip().partition("\n")[0]
        raise CannotHold("", f"tflite: torch cannot export the network: {reason}") from error
    return _Translation(model, program, tuple(sample.shape)).run()


@dataclass(frozen=True)
class _Call:
    """One operator of the network, its arguments by name."""

    node: fx.Node
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result of one sample, in torch's order."""
        return _shape_of(self.node)


class _Translation:
    """From an exported program to a template."""

    def __init__(
        self, model: nn.Module, program: torch.export.ExportedProgram, shape: tuple[int, ...]
    ) -> None:
        self._program, self._graph = program, GraphWriter(shape)
        self._values: dict[fx.Node, Value] = {}
        signature = program.graph_signature
        given = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        # A parameter that several modules share has one tensor, under its first name.
        first: dict[int, str] = {}
        alias: dict[str, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            alias[name] = first.setdefault(id(parameter), name)
        self._names = {node: alias.get(name, name) for node, name in given.items()}

    def run(self) -> bytes:
        """The template."""
        signature = self._program.graph_signature
        if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
            raise CannotHold("", "tflite: the network must have one input and one output")
        result: fx.Node | None = None
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                if node.name in signature.user_inputs:
                    self._values[node] = self._first_axis_to_last(self._graph.input)
            elif node.op == "output":
                (result,) = node.args[0]
            elif isinstance(node.meta.get("val"), Tensor | tuple):
                self._translate(node)
        if result is None or result not in self._values:
            raise CannotHold("", "tflite: the network's output is none of its operators'")
        output = self._values[result]
        if len(output.shape) == 4:
            output = self._graph.transpose(output, _TO_FIRST)
        return self._graph.finish(output)

    def _translate(self, node: fx.Node) -> None:
        try:
            self._values[node] = self._translated(node)
        except _Unsupported as reason:
            raise CannotHold(_layer_of(node), f"tflite: {reason}") from None

    def _translated(self, node: fx.Node) -> Value:
        if node.target is operator.getitem:
            if node.args[1] != 0:
                raise _Unsupported("only the first result of an operator can be used")
            return self.value(node.args[0])
        target = node.target
        translate = _TRANSLATIONS.get(target)
        if translate is None:
            raise _Unsupported(f"operator {target} is not translated")
        assert isinstance(target, torch._ops.OpOverload)
        return translate(self, _Call(node, _arguments(target, node)))

    # Arguments

    def value(self, node: object) -> Value:
        """A computed tensor."""
        found = self._values.get(_as_node(node))
        if found is None:
            raise _Unsupported(f"{node} is a tensor that the graph does not compute")
        return found

    def name(self, node: object) -> str:
        """A weight's name."""
        found = self._names.get(_as_node(node).name)
        if found is None:
            raise _Unsupported("a weight that the network computes has no place in the file")
        return str(found)

    def bias(self, node: object) -> list[int]:
        """[index] of a bias, [] of none."""
        return [] if node is None else [self._graph.weight(self.name(node), _full_shape(node))]

    def _first_axis_to_last(self, value: Value) -> Value:
        return self._graph.transpose(value, _TO_LAST) if len(value.shape) == 4 else value

    # Operators

    def linear(self, call: _Call) -> Value:
        given, weight = self.value(call["input"]), call["weight"]
        if len(given.shape) not in (2, 3):
            raise _Unsupported("a Linear on pictures is not translated")
        index = self._graph.weight(self.name(weight), _full_shape(weight))
        bias = self.bias(call["bias"]) or [-1]
        fields = {"keepNumDims": len(given.shape) > 2}
        return self._graph.apply(
            "FULLY_CONNECTED",
            [given.index, index, *bias],
            call.shape,
            ("FullyConnectedOptions", fields),
        )

    def conv2d(self, call: _Call) -> Value:
        given, weight = self.value(call["input"]), call["weight"]
        outputs, inputs, *kernel = _full_shape(weight)
        stride, dilation = _pair(call["stride"]), _pair(call["dilation"])
        given, same = self._padded(given, call["padding"], kernel, stride, dilation)
        fields = {
            "padding": self._graph.padding(same=same),
            "strideH": stride[0], "strideW": stride[1],
            "dilationHFactor": dilation[0], "dilationWFactor": dilation[1],
        }  # fmt: skip
        name, groups, channels = self.name(weight), call["groups"], given.shape[3]
        if groups == 1:
            kind, shape = "CONV_2D", (outputs, *kernel, inputs)
        elif groups == channels:
            kind, shape = "DEPTHWISE_CONV_2D", (1, *kernel, outputs)
            fields["depthMultiplier"] = outputs // channels
        else:
            raise _Unsupported(f"a convolution of {groups} groups is not translated")
        table = "Conv2DOptions" if groups == 1 else "DepthwiseConv2DOptions"
        # The kernels want a bias; where there is none, zeros that belong to no tensor.
        bias = self.bias(call["bias"]) or [self._graph.numbers(np.zeros(outputs, np.float32))]
        parts = [given.index, self._graph.weight(name, shape), *bias]
        return self._graph.apply(kind, parts, _last(call.shape), (table, fields))

    def _padded(
        self, given: Value, asked: object, kernel: Sequence[int], stride: _Pair, dilation: _Pair
    ) -> tuple[Value, bool]:
        """(the picture, padded where the operator cannot do it itself; whether it does itself)."""
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if asked == "same":
            around = [(total // 2, total - total // 2) for total in reach]
        elif asked == "valid":
            around = [(0, 0), (0, 0)]
        else:
            around = [(each, each) for each in _pair(asked)]
        if not any(map(any, around)):
            return given, False
        # With a stride, SAME puts the odd pixel behind, torch puts as many on either side.
        if stride == (1, 1) and all(
            pair == (total // 2, total - total // 2)
            for pair, total in zip(around, reach, strict=True)
        ):
            return given, True
        return self._graph.pad(given, [*around, (0, 0)]), False

    def pool(self, kind: str, given: Value, kernel: _Pair, stride: _Pair, call: _Call) -> Value:
        if len(given.shape) != 4:
            raise _Unsupported("pooling is translated of pictures only")
        fields = {
            "padding": self._graph.padding(same=False),
            "filterHeight": kernel[0], "filterWidth": kernel[1],
            "strideH": stride[0], "strideW": stride[1],
        }  # fmt: skip
        sizes = [
            (size - k) // s + 1 for size, k, s in zip(given.shape[1:3], kernel, stride, strict=True)
        ]
        if tuple(sizes) != call.shape[2:]:
            raise _Unsupported("pooling with ceil_mode is not translated where sizes are rounded")
        return self._graph.apply(kind, [given.index], _last(call.shape), ("Pool2DOptions", fields))

    def max_pool2d(self, call: _Call) -> Value:
        if any(_pair(call["padding"])) or _pair(call["dilation"]) != (1, 1):
            raise _Unsupported("max-pooling with padding or dilation is not translated")
        kernel = _pair(call["kernel_size"])
        stride = _pair(call["stride"] or kernel)
        return self.pool("MAX_POOL_2D", self.value(call["self"]), kernel, stride, call)

    def avg_pool2d(self, call: _Call) -> Value:
        if any(_pair(call["padding"])) or call["divisor_override"] is not None:
            raise _Unsupported("average-pooling with padding or a divisor is not translated")
        kernel = _pair(call["kernel_size"])
        stride = _pair(call["stride"] or kernel)
        return self.pool("AVERAGE_POOL_2D", self.value(call["self"]), kernel, stride, call)

    def adaptive_avg_pool2d(self, call: _Call) -> Value:
        given = self.value(call["self"])
        if len(given.shape) != 4:
            raise _Unsupported("pooling is translated of pictures only")
        rows, columns = call.shape[2:]
        if (rows, columns) == (1, 1):
            return self._mean(given, (1, 2), call.shape, keep=True)
        if given.shape[1] % rows or given.shape[2] % columns:
            raise _Unsupported("adaptive pooling is translated where sizes divide evenly")
        kernel = (given.shape[1] // rows, given.shape[2] // columns)
        return self.pool("AVERAGE_POOL_2D", given, kernel, kernel, call)

    def mean(self, call: _Call) -> Value:
        given = self.value(call["self"])
        rank = len(given.shape)
        axes = {axis % rank for axis in call["dim"] or ()}
        if rank != 4 or axes != {2, 3}:
            raise _Unsupported("a mean is translated over the height and width of pictures only")
        return self._mean(given, (1, 2), call.shape, keep=call["keepdim"])

    def _mean(
        self, given: Value, axes: tuple[int, ...], shape: tuple[int, ...], *, keep: bool
    ) -> Value:
        parts = [given.index, self._graph.numbers(np.array(axes, np.int32))]
        result = _last(shape) if keep else shape
        return self._graph.apply("MEAN", parts, result, ("ReducerOptions", {"keepDims": keep}))

    def batch_norm(self, call: _Call) -> Value:
        given = self.value(call["input"])
        if len(given.shape) not in (2, 4):
            raise _Unsupported("a batch-norm is translated of pictures and of rows only")
        if call["weight"] is None or call["bias"] is None:
            raise _Unsupported("a batch-norm without weight and bias is not translated")
        value = given
        for kind, part in (("MUL", "weight"), ("ADD", "bias")):
            node = call[part]
            index = self._graph.weight(self.name(node), _full_shape(node))
            options: tuple[str, dict[str, Any]] = (f"{kind.capitalize()}Options", {})
            value = self._graph.apply(kind, [value.index, index], given.shape, options)
        return value

    def arithmetic(self, kind: str, call: _Call) -> Value:
        if call.arguments.get("alpha", 1) != 1:
            raise _Unsupported("a sum with a factor is not translated")
        given, other = self.value(call["self"]), call["other"]
        if isinstance(other, int | float):
            index = self._graph.numbers(np.array(other, np.float32))
        else:
            second = self.value(other)
            if len(second.shape) != len(given.shape):
                raise _Unsupported("operands must have as many axes as each other")
            index = second.index
        options: tuple[str, dict[str, Any]] = (f"{kind.capitalize()}Options", {})
        shape = _last(call.shape) if len(call.shape) == 4 else call.shape
        return self._graph.apply(kind, [given.index, index], shape, options)

    def clamp(self, call: _Call, low: object, high: object) -> Value:
        kinds: dict[object, str] = {(0, None): "RELU", (0, 6): "RELU6"}
        kind = kinds.get((low, high))
        if kind is None:
            raise _Unsupported(f"a clamp to [{low}, {high}] is not translated")
        return self.activate(kind, call)

    def activate(self, kind: str, call: _Call) -> Value:
        source = _as_node(call["self"])
        alone = _has_one_reader(source)
        return self._graph.activate(kind, self.value(source), is_only_reader=alone)

    def simple(self, kind: str, call: _Call) -> Value:
        given = self.value(call["self"])
        return self._graph.apply(kind, [given.index], given.shape)

    def silu(self, call: _Call) -> Value:
        given, gate = self.value(call["self"]), self.simple("LOGISTIC", call)
        parts = [given.index, gate.index]
        return self._graph.apply("MUL", parts, given.shape, ("MulOptions", {}))

    def softmax(self, call: _Call) -> Value:
        given = self.value(call["self"])
        rank = len(given.shape)
        if rank == 4 or call["dim"] % rank != rank - 1:
            raise _Unsupported("a softmax is translated along the last axis only")
        return self._graph.apply(
            "SOFTMAX", [given.index], given.shape, ("SoftmaxOptions", {"beta": 1.0})
        )

    def reshape(self, call: _Call) -> Value:
        value, shape = self.value(call["self"]), call.shape
        batch = _full_shape(call.node)[0]
        if not isinstance(batch, torch.SymInt):
            raise _Unsupported("a reshape must leave the batch as it is")
        if len(value.shape) == 4:
            value = self._graph.transpose(value, _TO_FIRST)
        if value.shape != shape:
            value = self._graph.reshape(value, shape)
        return self._first_axis_to_last(value)

    def pad(self, call: _Call) -> Value:
        given, value = self.value(call["self"]), call.arguments.get("value") or 0
        if call.arguments.get("mode", "constant") != "constant" or value != 0:
            raise _Unsupported("padding is translated with zeros only")
        rank, amounts = len(given.shape), list(call["pad"])
        around = [(0, 0)] * rank  # torch names the last axis first
        for number in range(len(amounts) // 2):
            around[rank - 1 - number] = (amounts[2 * number], amounts[2 * number + 1])
        if any(size < 0 for pair in around for size in pair) or any(around[0]):
            raise _Unsupported("padding that cuts, or of the batch, is not translated")
        if rank == 4:
            around = [around[axis] for axis in _TO_LAST]
        return self._graph.pad(given, around[1:])

    def slice(self, call: _Call) -> Value:
        given, rank = self.value(call["self"]), len(call.shape)
        axis = call["dim"] % rank
        start, stop, step = call["start"] or 0, call["end"], call["step"]
        if axis == 0:
            if (start, step) != (0, 1) or stop not in (None, _NO_END):
                raise _Unsupported("a slice of the batch is not translated")
            return given
        place = _TO_LAST.index(axis) if rank == 4 else axis
        start, stop, step = slice(start, stop, step).indices(given.shape[place])
        return self._graph.slice(given, place, start, stop, step)

    def same(self, call: _Call) -> Value:
        return self.value(call["self"])

    def cat(self, call: _Call) -> Value:
        values = [self.value(each) for each in call["tensors"]]
        rank = len(call.shape)
        axis = call["dim"] % rank
        if axis == 0 or any(len(value.shape) != rank for value in values):
            raise _Unsupported("a concatenation along the batch is not translated")
        fields = {"axis": _TO_LAST.index(axis) if rank == 4 else axis}
        shape = _last(call.shape) if rank == 4 else call.shape
        return self._graph.apply(
            "CONCATENATION", [v.index for v in values], shape, ("ConcatenationOptions", fields)
        )


#: Operators that give what they take.
_SAME = (
    torch.ops.aten.clone.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.detach.default,
    torch.ops.aten.contiguous.default,
)
_Translate: TypeAlias = Callable[[_Translation, _Call], Value]
_ATEN = torch.ops.aten
_TRANSLATIONS: dict[object, _Translate] = {
    _ATEN.linear.default: _Translation.linear,
    _ATEN.conv2d.default: _Translation.conv2d,
    _ATEN.conv2d.padding: _Translation.conv2d,
    _ATEN.max_pool2d.default: _Translation.max_pool2d,
    _ATEN.avg_pool2d.default: _Translation.avg_pool2d,
    _ATEN.adaptive_avg_pool2d.default: _Translation.adaptive_avg_pool2d,
    _ATEN.mean.dim: _Translation.mean,
    _ATEN._native_batch_norm_legit_no_training.default: _Translation.batch_norm,
    _ATEN.batch_norm.default: _Translation.batch_norm,
    _ATEN.add.Tensor: lambda t, call: t.arithmetic("ADD", call),
    _ATEN.sub.Tensor: lambda t, call: t.arithmetic("SUB", call),
    _ATEN.mul.Tensor: lambda t, call: t.arithmetic("MUL", call),
    _ATEN.relu.default: lambda t, call: t.activate("RELU", call),
    _ATEN.relu6.default: lambda t, call: t.activate("RELU6", call),
    _ATEN.hardtanh.default: lambda t, call: t.clamp(call, call["min_val"], call["max_val"]),
    _ATEN.clamp.default: lambda t, call: t.clamp(call, call["min"], call["max"]),
    _ATEN.sigmoid.default: lambda t, call: t.simple("LOGISTIC", call),
    _ATEN.tanh.default: lambda t, call: t.simple("TANH", call),
    _ATEN.hardswish.default: lambda t, call: t.simple("HARD_SWISH", call),
    _ATEN.silu.default: _Translation.silu,
    _ATEN.softmax.int: _Translation.softmax,
    _ATEN._softmax.default: _Translation.softmax,
    _ATEN.flatten.using_ints: _Translation.reshape,
    _ATEN.view.default: _Translation.reshape,
    _ATEN.reshape.default: _Translation.reshape,
    _ATEN.unsqueeze.default: _Translation.reshape,
    _ATEN.squeeze.dim: _Translation.reshape,
    _ATEN.squeeze.dims: _Translation.reshape,
    **dict.fromkeys(_SAME, _Translation.same),
    _ATEN.pad.default: _Translation.pad,
    _ATEN.constant_pad_nd.default: _Translation.pad,
    _ATEN.slice.Tensor: _Translation.slice,
    _ATEN.cat.default: _Translation.cat,
}


def _arguments(target: torch._ops.OpOverload, node: fx.Node) -> dict[str, Any]:
    """Every argument by its name, defaults among them."""
    found: dict[str, Any] = {}
    for number, argument in enumerate(target._schema.arguments):
        if number < len(node.args):
            found[argument.name] = node.args[number]
        else:
            found[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return found


def _has_one_reader(node: fx.Node) -> bool:
    """Whether nothing else reads a value, also under the names it had before."""
    while True:
        if len(node.users) != 1:
            return False
        if node.target is not operator.getitem and node.target not in _SAME:
            return True
        node = _as_node(node.args[0])


def _as_node(given: object) -> fx.Node:
    if not isinstance(given, fx.Node):
        raise _Unsupported(f"{given} stands where a tensor is wanted")
    return given


def _full_shape(node: object) -> tuple[Any, ...]:
    return tuple(_as_node(node).meta["val"].shape)


def _shape_of(node: fx.Node) -> tuple[int, ...]:
    """Of one sample: what is no plain number is the batch."""
    value = node.meta["val"]
    shape = (value[0] if isinstance(value, tuple) else value).shape
    if any(isinstance(size, torch.SymInt) for size in shape[1:]):
        raise _Unsupported("the batch must stay the first axis")
    return (1, *(int(size) for size in shape[1:]))


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(batch, channels, height, width) -> (batch, height, width, channels)."""
    return tuple(shape[axis] for axis in _TO_LAST)


def _pair(given: Any) -> _Pair:
    if isinstance(given, int):
        return given, given
    return int(given[0]), int(given[-1])


def _layer_of(node: fx.Node) -> str:
    """The module that calls an operator, "" of the network itself."""
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return str(paths[-1]) if paths else ""
