"""Residual adds in 8-bit integers.

Where a layer reads a value rounded, an add reads it rounded too. Otherwise the runtime turns the
values between the blocks of a residual network to floats and back in every block: of ResNet-20 in
8-bit integers that was 13 % of the time (AVX2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

__all__ = ["round_adds"]


@dataclass(frozen=True)
class _Pair:
    """A value's rounding: its levels, and the node that makes floats of them."""

    levels: str
    back: onnx.NodeProto


def round_adds(graph: onnx.GraphProto) -> None:
    """Let adds behind integer kernels read rounded what layers read rounded.

    An add qualifies where at least one operand has a grid of its own, so comes out of an integer
    kernel, and every other has been rounded for a layer, as it is or before Slices and Pads with
    zeros: those then move levels instead of floats. All other adds stay as they are.

    Args:
        graph: with all roundings of layers' inputs and convolutions' outputs.
    """
    is_rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    pairs, zeros = _pairs(graph), _zeros(graph)
    for add in [node for node in graph.node if node.op_type == "Add"]:
        moves = {n: _moves_before(graph, n, zeros) for n in add.input if n not in is_rounded}
        roots = {name: moved[0].input[0] if moved else name for name, moved in moves.items()}
        if not is_rounded & set(add.input) or not pairs.keys() >= set(roots.values()):
            continue
        for at, name in enumerate(add.input):
            if name in moves:
                pair = pairs[roots[name]]
                moved = moves[name]
                add.input[at] = _move_levels(graph, moved, pair) if moved else pair.back.output[0]


def _pairs(graph: onnx.GraphProto) -> dict[str, _Pair]:
    """Value of floats -> its first rounding."""
    back = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, _Pair] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in back:
            found.setdefault(node.input[0], _Pair(node.output[0], back[node.output[0]]))
    return found


def _moves_before(graph: onnx.GraphProto, name: str, zeros: set[str]) -> list[onnx.NodeProto]:
    """The Slices and Pads with zeros that lead to a value and to nothing else, first to last."""
    by_output = {output: node for node in graph.node for output in node.output}
    given = {value.name for value in graph.output}
    moves: list[onnx.NodeProto] = []
    while (node := by_output.get(name)) is not None and _moves_values(node, zeros):
        if name in given or sum(name in reader.input for reader in graph.node) != 1:
            break
        moves.insert(0, node)
        name = node.input[0]
    return moves


def _zeros(graph: onnx.GraphProto) -> set[str]:
    """Names of constants that are nothing but 0, and of no constant at all."""
    constants: Mapping[str, onnx.TensorProto] = {
        **{tensor.name: tensor for tensor in graph.initializer},
        **{
            node.output[0]: attribute.t
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        },
    }
    small = {name: tensor for name, tensor in constants.items() if len(tensor.dims) == 0}
    return {"", *(name for name, t in small.items() if not numpy_helper.to_array(t).any())}


def _moves_values(node: onnx.NodeProto, zeros: set[str]) -> bool:
    """Whether a node leaves values out or adds zeros, which levels can do as well as floats."""
    if node.op_type == "Pad":
        is_constant = all(a.s == b"constant" for a in node.attribute if a.name == "mode")
        return is_constant and zeros.issuperset(node.input[2:3]) and not any(node.input[3:])
    return node.op_type == "Slice"


def _move_levels(graph: onnx.GraphProto, moves: Sequence[onnx.NodeProto], pair: _Pair) -> str:
    """Moves 8-bit levels instead of floats, and gives the name of their floats behind it."""
    parameters = pair.back.input[1:]
    moves[0].input[0] = pair.levels
    for node in moves:
        if node.op_type == "Pad":  # its default is level 0; the number 0 has another
            del node.input[2:]
            node.input.append(parameters[1])
    moved, result = moves[-1].output[0], f"{moves[-1].output[0]}/rounded"
    back = helper.make_node("DequantizeLinear", [moved, *parameters], [result])
    graph.node.insert(list(graph.node).index(moves[-1]) + 1, back)
    return result
