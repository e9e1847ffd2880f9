"""A fourth channel of zeros for pictures of three, where an integer convolution reads them.

ONNX Runtime's direct integer convolution wants channels in fours and outputs in eights, at least 16
(AVX2); anything else is copied patch by patch into a matrix product. The first layer of ResNet-20
took 83 us of the runtime's profile so, and takes 53 in the direct one. Zeros change no result. The
file does not hold them: the weight's are added when the runtime loads it.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["widen_pictures"]

_CHANNELS, _LEAST_OUTPUTS, _OUTPUTS_IN = 3, 16, 8
#: (batch, channel, row, column) before, then after.
_ONE_MORE_CHANNEL = (0, 0, 0, 0, 0, 1, 0, 0)
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def widen_pictures(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Pad in place; only where nothing but the convolution reads the rounded picture and weight.

    Other numbers of channels stay: one padded to four made LeNet-5 slower, and behind another layer
    the padding takes the time that it saves.

    Args:
        graph: whole, with all roundings.
        shapes: weight -> (outputs, inputs of a group, height, width).
    """
    makers = {output: node for node in graph.node for output in node.output}
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        picture, weight = (makers.get(name) for name in conv.input[:2])
        if (
            picture is not None
            and weight is not None
            and _has_direct_kernel(conv, shapes.get(conv.input[1], ()))
            and all(_is_read_once_as_levels(graph, node) for node in (picture, weight))
            and not _is_behind_a_layer(picture, makers)
        ):
            pads = f"{weight.output[0]}/pads"
            sizes = np.array(_ONE_MORE_CHANNEL, np.int64)
            graph.initializer.append(numpy_helper.from_array(sizes, pads))
            _pad(graph, weight, pads)
            _pad(graph, picture, pads, picture.input[2])


def _has_direct_kernel(conv: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether it would have the direct kernel with one more channel, and has not without."""
    if len(shape) != 4 or any(a.name == "group" and a.i != 1 for a in conv.attribute):
        return False
    outputs, inputs = shape[:2]
    return inputs == _CHANNELS and outputs >= _LEAST_OUTPUTS and outputs % _OUTPUTS_IN == 0


def _is_read_once_as_levels(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    if node.op_type != "DequantizeLinear" or any(node.output[0] == v.name for v in graph.output):
        return False
    return sum(list(reader.input).count(node.output[0]) for reader in graph.node) == 1


def _is_behind_a_layer(picture: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a layer had a hand in a value; normalisation alone leaves it a picture."""
    waiting, seen = [picture], {picture.output[0]}
    while waiting:
        node = waiting.pop()
        if node.op_type in _LAYERS:
            return True
        new = [name for name in node.input if name in makers and name not in seen]
        seen.update(new)
        waiting += [makers[name] for name in new]
    return False


def _pad(graph: onnx.GraphProto, back: onnx.NodeProto, pads: str, *zero: str) -> None:
    """Pads the levels that a DequantizeLinear reads with level 0, or another where 0 has another.

    A weight's zero points are all 0, one for each output or one for all; Pad takes one for all.
    """
    padded = f"{back.output[0]}/padded"
    at = list(graph.node).index(back)
    graph.node.insert(at, helper.make_node("Pad", [back.input[0], pads, *zero], [padded]))
    back.input[0] = padded
