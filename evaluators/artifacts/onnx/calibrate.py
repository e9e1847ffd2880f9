"""Grids for convolution outputs that meet no rounded input, as before a residual add.

An 8-bit convolution kernel gives 8-bit outputs. Where the next layer's rounding does not follow at
once, the output needs a grid of its own; its range is seen on training inputs, in the runtime.
"""

from collections.abc import Iterable

import numpy as np
import onnx

from evaluators.artifacts.onnx.graph import ActivationGrids, open_convolutions, weight_consumer
from evaluators.artifacts.onnx.runtime import Session

__all__ = ["output_grids"]


def output_grids(
    data: bytes, grids: ActivationGrids, batches: Iterable[np.ndarray]
) -> dict[str, tuple[float, int]]:
    """Layer -> (scale, zero point) of its unsigned 8-bit outputs.

    Args:
        data: the file without any rounding.
        grids: of the layers whose inputs will be rounded.
        batches: of prepared training inputs.
    """
    model = onnx.load_model_from_string(data)
    wanted: dict[str, str] = {}
    for layer in open_convolutions(model.graph, grids):
        node = weight_consumer(model.graph, layer)
        assert node is not None
        wanted[layer] = node.output[0]
    if not wanted:
        return {}
    del model.graph.output[:]
    for name in wanted.values():
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = Session(model.SerializeToString())
    ranges = dict.fromkeys(wanted, (0.0, 0.0))
    for batch in batches:
        for layer, values in zip(wanted, session.all_outputs(batch), strict=True):
            low, high = ranges[layer]
            ranges[layer] = (min(low, float(values.min())), max(high, float(values.max())))
    found = {}
    for layer, (low, high) in ranges.items():
        scale = (high - low) / 255 or 1.0
        found[layer] = (scale, round(-low / scale))
    return found
