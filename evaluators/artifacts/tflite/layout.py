"""How a file orders a weight's axes: by the operator that reads it."""

from typing import Any

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator

__all__ = ["LSTM", "LSTM_MATRICES", "consumer", "from_file", "held_in", "to_file"]

LSTM = BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
#: First of four inputs of the fused LSTM, one a gate in the order i f c o, which are one weight or
#: bias everywhere else: of the layer's input, recurrent, bias.
_FIRST_GATES = (1, 5, 12)
#: Its inputs that are the first gates of the two matrices.
LSTM_MATRICES = (1, 5)
_GATES = 4
_PASS_ON = (BuiltinOperator.DENSIFY, BuiltinOperator.DEQUANTIZE)


def consumer(model: Any, index: int) -> tuple[int, Any] | None:
    """(builtin code, operator) that reads a tensor, through what decodes it; None = nothing."""
    (graph,) = model.subgraphs
    for operator in graph.operators:
        if index in operator.inputs:
            code = int(model.operatorCodes[operator.opcodeIndex].builtinCode)
            if code in _PASS_ON:
                return consumer(model, int(operator.outputs[0]))
            return code, operator
    return None


def held_in(model: Any, index: int) -> list[int]:
    """The constants whose rows, one after the other, are a weight: one, or an LSTM's four gates.

    Args:
        model: unpacked.
        index: of the constant which holds the weight, or its first gate.
    """
    (graph,) = model.subgraphs
    for operator in graph.operators:
        if int(model.operatorCodes[operator.opcodeIndex].builtinCode) != LSTM:
            continue
        for first in _FIRST_GATES:
            gates = operator.inputs[first : first + _GATES]
            if gates[0] >= 0 and index == _origin(model, int(gates[0])):
                return [_origin(model, int(gate)) for gate in gates]
    return [index]


def _origin(model: Any, index: int) -> int:
    """The constant that decoders make a tensor of."""
    (graph,) = model.subgraphs
    for operator in graph.operators:
        code = int(model.operatorCodes[operator.opcodeIndex].builtinCode)
        if code in _PASS_ON and index in operator.outputs:
            return _origin(model, int(operator.inputs[0]))
    return index


def from_file(values: np.ndarray, code: int | None) -> np.ndarray:
    """A tensor in the file's order -> output channels first, then inputs, then space.

    Args:
        values: e.g. (outputs, height, width, inputs) of a convolution.
        code: of the operator that reads it.
    """
    if code == BuiltinOperator.CONV_2D and values.ndim == 4:
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    if code == BuiltinOperator.DEPTHWISE_CONV_2D and values.ndim == 4:
        return np.ascontiguousarray(values.transpose(3, 0, 1, 2))
    return values


def to_file(values: np.ndarray, code: int | None, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `from_file`; a one-dimensional convolution becomes one of height 1."""
    if code == BuiltinOperator.CONV_2D and values.ndim in (3, 4):
        whole = values if values.ndim == 4 else values[:, :, None, :]
        values = whole.transpose(0, 2, 3, 1)
    elif code == BuiltinOperator.DEPTHWISE_CONV_2D and values.ndim == 4:
        values = values.transpose(1, 2, 3, 0)
    return np.ascontiguousarray(values.reshape(shape))
