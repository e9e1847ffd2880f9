"""An exported graph with stored tensors in the place of its weights, and rounded activations."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.onnx.adds import round_adds
from evaluators.artifacts.onnx.channels import widen_pictures
from evaluators.artifacts.onnx.store import SMALL_OPSET, needs_small_opset, store
from evaluators.artifacts.packed.model import Artifact, CodebookTensor, GridCodebook, GridTensor
from spaces import tensor_name

__all__ = ["ActivationGrids", "build", "open_convolutions", "weight_consumer"]

#: Layer -> (scale, zero point) of its unsigned 8-bit inputs.
ActivationGrids = Mapping[str, tuple[float, int]]

#: Operators through which the runtime moves a rounding backwards to the layer before.
_TRANSPARENT = frozenset(
    ("Relu", "MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Clip")
)
_WEIGHTED = ("Gemm", "MatMul", "Conv")
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_IR_OF_SMALL_OPSET = 13


def build(
    exported: bytes,
    artifact: Artifact,
    grids: ActivationGrids,
    outputs: ActivationGrids | None = None,
) -> bytes:
    """The file's bytes.

    Args:
        exported: a model whose initializers have the tensors' names and shapes, any values.
        artifact: the values to store.
        grids: of the layers whose inputs the policy rounds.
        outputs: grids of convolutions' outputs, where the integer kernel needs one; see
            `calibrate`.

    Raises:
        CannotHold: a tensor is not in the graph as it is, or has no place in the format.
    """
    model = onnx.load_model_from_string(exported)
    graph = model.graph
    _strip(model)
    known = {initializer.name: initializer for initializer in graph.initializer}
    integer_layers = {name for name in grids if _integer_kernel(graph, name)}
    nodes: list[onnx.NodeProto] = []
    for tensor in artifact.tensors:
        given = known.pop(tensor.name, None)
        if given is None:
            if tensor.name.rpartition(".")[2] == "num_batches_tracked":
                continue  # counts training steps; inference has no use for it
            raise CannotHold(tensor.name, "onnx: the exporter folded this tensor into others")
        if tuple(given.dims) != tensor.shape:
            raise CannotHold(
                tensor.name,
                f"onnx: its shape is {tensor.shape}, but {tuple(given.dims)} in the graph",
            )
        layer, _, what = tensor.name.rpartition(".")
        on_grid = isinstance(tensor, GridTensor) or (
            isinstance(tensor, CodebookTensor) and isinstance(tensor.codebook, GridCodebook)
        )
        stored = store(
            tensor, integers=on_grid and layer in integer_layers and what in ("weight", "")
        )
        graph.initializer.remove(given)
        graph.initializer.extend(stored.initializers)
        nodes += stored.nodes
    _round_activations(graph, grids)
    _round_outputs(graph, outputs or {})
    round_adds(graph)
    _drop_double_roundings(graph, outputs or {})
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + body)
    widen_pictures(graph, {tensor.name: tensor.shape for tensor in artifact.tensors})
    if needs_small_opset(list(graph.initializer)):
        _raise_opset(model)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _raise_opset(model: onnx.ModelProto) -> None:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, SMALL_OPSET)
    model.ir_version = max(model.ir_version, _IR_OF_SMALL_OPSET)


def _strip(model: onnx.ModelProto) -> None:
    """Drop what only people read: it would cost bytes."""
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string, node.name = "", ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]


def weight_consumer(graph: onnx.GraphProto, layer: str) -> onnx.NodeProto | None:
    """The Gemm, MatMul or Conv that multiplies by a layer's weight, also through a Transpose."""
    names = {tensor_name(layer, "weight")}
    node: onnx.NodeProto
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in names:
            names.add(node.output[0])
        elif node.op_type in _WEIGHTED and names & set(node.input[1:2]):
            return node
    return None


def _integer_kernel(graph: onnx.GraphProto, layer: str) -> bool:
    """Whether the layer's operator has an 8-bit integer kernel when its inputs are rounded."""
    node = weight_consumer(graph, layer)
    return node is not None and node.input[1] == tensor_name(layer, "weight")


def _round_activations(graph: onnx.GraphProto, grids: ActivationGrids) -> None:
    """Rounds each layer's input: x -> QuantizeLinear -> DequantizeLinear -> the layer."""
    done: dict[tuple[str, float, int], str] = {}
    consumers = [weight_consumer(graph, layer) for layer in grids]
    rounded = {id(node) for node in consumers if node is not None}
    for number, (layer, (scale, zero_point)) in enumerate(sorted(grids.items())):
        consumer = weight_consumer(graph, layer)
        if consumer is None:
            raise CannotHold(layer, "onnx: no Gemm, MatMul or Conv takes its weight")
        key = (consumer.input[0], scale, zero_point)
        if key not in done:
            fence = _is_pooled_as_floats(graph, consumer.input[0], rounded)
            done[key] = _add_pair(graph, consumer.input[0], number, scale, zero_point, fence=fence)
        consumer.input[0] = done[key]
    for layer in grids:
        node = weight_consumer(graph, layer)
        if node is not None and node.op_type == "Gemm" and not _is_rounded_later(graph, node):
            _split_bias(graph, node)


def open_convolutions(graph: onnx.GraphProto, grids: ActivationGrids) -> list[str]:
    """Layers that are convolutions with rounded inputs whose outputs are not rounded at once.

    Args:
        graph: without any rounding.
        grids: of the layers whose inputs will be rounded.
    """
    rounded = [node for layer in grids if (node := weight_consumer(graph, layer)) is not None]
    starts = {node.input[0] for node in rounded}
    return sorted(
        layer
        for layer in grids
        if (node := weight_consumer(graph, layer)) is not None
        and node.op_type == "Conv"
        and not _leads_to(graph, node.output[0], starts, {id(n) for n in rounded})
    )


def _leads_to(graph: onnx.GraphProto, name: str, starts: set[str], rounded: set[int]) -> bool:
    """Whether every way on from a value leads through simple operators into rounded inputs."""
    readers = [n for n in graph.node if name in n.input]
    if not readers or name in {value.name for value in graph.output}:
        return False
    return all(
        (name in starts and id(reader) in rounded)
        or (reader.op_type in _TRANSPARENT and _leads_to(graph, reader.output[0], starts, rounded))
        for reader in readers
    )


def _round_outputs(graph: onnx.GraphProto, outputs: ActivationGrids) -> None:
    """Conv -> y becomes Conv -> QuantizeLinear -> DequantizeLinear -> y."""
    for number, (layer, (scale, zero_point)) in enumerate(sorted(outputs.items())):
        node = weight_consumer(graph, layer)
        assert node is not None
        stem, result = _output_stem(number), node.output[0]
        node.output[0] = f"{stem}/float"
        parameters = [f"{stem}/scale", f"{stem}/zero_point"]
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(scale, np.float32), parameters[0]),
                numpy_helper.from_array(np.array(zero_point, np.uint8), parameters[1]),
            ]
        )
        at = list(graph.node).index(node)
        pair = [
            helper.make_node("QuantizeLinear", [node.output[0], *parameters], [f"{stem}/uint8"]),
            helper.make_node("DequantizeLinear", [f"{stem}/uint8", *parameters], [result]),
        ]
        for offset, each in enumerate(pair, start=1):
            graph.node.insert(at + offset, each)


def _drop_double_roundings(graph: onnx.GraphProto, outputs: ActivationGrids) -> None:
    """Takes a convolution's own grid away again where all that reads it rounds it once more.

    So it may be once adds read what layers read: they were what else read the floats.
    """
    readers = {node.input[0]: node for node in graph.node if node.op_type in _ROUNDING}
    makers = {node.output[0]: node for node in graph.node}
    for number in range(len(outputs)):
        stem = _output_stem(number)
        quantize = readers[f"{stem}/float"]
        back = readers[quantize.output[0]]
        if _is_rounded_later(graph, back):
            makers[f"{stem}/float"].output[0] = back.output[0]
            for node in (quantize, back):
                graph.node.remove(node)
            for tensor in [t for t in graph.initializer if t.name.startswith(f"{stem}/")]:
                graph.initializer.remove(tensor)


def _output_stem(number: int) -> str:
    """Of the names that belong to a convolution's own grid."""
    return f"output{number}"


def _is_pooled_as_floats(graph: onnx.GraphProto, name: str, rounded: set[int]) -> bool:
    """Whether a value comes through a pooling from a layer that gives floats."""
    by_output = {output: node for node in graph.node for output in node.output}
    is_pooled = False
    while (node := by_output.get(name)) is not None and node.op_type in _TRANSPARENT:
        is_pooled |= node.op_type == "MaxPool"
        name = node.input[0]
    return is_pooled and (node is None or id(node) not in rounded)


def _add_pair(
    graph: onnx.GraphProto,
    value: str,
    number: int,
    scale: float,
    zero_point: int,
    *,
    fence: bool,
) -> str:
    """Rounds what a layer reads.

    Args:
        graph, value: what it reads, a value of the graph.
        number: of the pair.
        scale, zero_point: its grid.
        fence: whether to keep the runtime from moving the rounding backwards, in front of a pooling
            of floats: one of bytes outside of integer kernels takes several times as long. Twice
            the value is rounded on twice the scale, which is the same to the last bit.
    """
    given, stem = value, f"activation{number}"
    scales = [f"{stem}/scale", f"{stem}/scale"]
    doubled = []
    if fence:
        two, scales[0] = f"{stem}/two", f"{stem}/doubled_scale"
        for factor, constant in ((2.0, two), (2.0 * np.float32(scale), scales[0])):
            values = np.array(factor, np.float32)
            graph.initializer.append(numpy_helper.from_array(values, constant))
        doubled = [helper.make_node("Mul", [given, two], [f"{stem}/doubled"])]
        given = f"{stem}/doubled"
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(scale, np.float32), f"{stem}/scale"),
            numpy_helper.from_array(np.array(zero_point, np.uint8), f"{stem}/zero_point"),
        ]
    )
    zero = f"{stem}/zero_point"
    levels, result = f"{stem}/uint8", f"{stem}/rounded"
    pair = [
        helper.make_node("QuantizeLinear", [given, scales[0], zero], [levels]),
        helper.make_node("DequantizeLinear", [levels, scales[1], zero], [result]),
    ]
    # Right behind what makes the value: whatever else reads it may read this instead.
    at = next((i + 1 for i, node in enumerate(graph.node) if value in node.output), 0)
    for offset, node in enumerate([*doubled, *pair]):
        graph.node.insert(at + offset, node)
    return result


def _is_rounded_later(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether every way on from a node's output leads through simple operators to a rounding."""
    readers = [n for n in graph.node if node.output[0] in n.input]
    if not readers or node.output[0] in {value.name for value in graph.output}:
        return False
    return all(
        reader.op_type == "QuantizeLinear"
        or (reader.op_type in _TRANSPARENT and _is_rounded_later(graph, reader))
        for reader in readers
    )


def _split_bias(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Gemm(x, w, b) -> Gemm(x, w) + b: with floats out, the integer kernel takes no float bias."""
    if len(node.input) < 3:
        return
    bias, result = node.input[2], node.output[0]
    del node.input[2:]
    node.output[0] = f"{result}/product"
    at = list(graph.node).index(node)
    graph.node.insert(at + 1, helper.make_node("Add", [node.output[0], bias], [result]))
