"""A fourth channel of zeros for pictures of three, where an integer convolution reads them.

ONNX Runtime's direct integer convolution wants channels in fours and at least 16 outputs; anything
else is copied patch by patch into a matrix product, which made the first layer of ResNet-20 as slow
as one of five times its multiplications. Zeros change no result. The file does not hold them: the
weight's are added when the runtime loads it.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["widen_pictures"]

_CHANNELS = 3
_LEAST_OUTPUTS = 16
#: (batch, channel, row, column) before, then after.
_ONE_MORE_CHANNEL = (0, 0, 0, 0, 0, 1, 0, 0)


def widen_pictures(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Pad in place; only where nothing but the convolution reads the rounded picture.

    Other numbers of channels stay: one padded to four made LeNet-5 slower, and between two
    convolutions the padding takes the time that it saves.

    Args:
        graph: whole, with all roundings.
        shapes: weight -> (outputs, inputs of a group, height, width).
    """
    makers = {output: node for node in graph.node for output in node.output}
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        weight = makers.get(conv.input[1])
        picture = makers.get(conv.input[0])
        groups = next((a.i for a in conv.attribute if a.name == "group"), 1)
        shape = shapes.get(conv.input[1], ())
        if (
            len(shape) == 4
            and shape[1] == _CHANNELS
            and shape[0] >= _LEAST_OUTPUTS
            and groups == 1
            and weight is not None
            and weight.op_type == "DequantizeLinear"
            and picture is not None
            and picture.op_type == "DequantizeLinear"
            and sum(picture.output[0] in node.input for node in graph.node) == 1
        ):
            pads = f"{weight.output[0]}/pads"
            sizes = np.array(_ONE_MORE_CHANNEL, np.int64)
            graph.initializer.append(numpy_helper.from_array(sizes, pads))
            _pad(graph, weight, pads)
            _pad(graph, picture, pads, picture.input[2])


def _pad(graph: onnx.GraphProto, back: onnx.NodeProto, pads: str, *zero: str) -> None:
    """Pads the levels that a DequantizeLinear reads with level 0, or another where 0 has another.

    A weight's zero points are all 0, one for each output or one for all; Pad takes one for all.
    """
    padded = f"{back.output[0]}/padded"
    at = list(graph.node).index(back)
    graph.node.insert(at, helper.make_node("Pad", [back.input[0], pads, *zero], [padded]))
    back.input[0] = padded
