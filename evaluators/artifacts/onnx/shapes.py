"""Numbers that an exported graph computes from shapes that never change, made constants, each once.

torch's exporter cuts a recurrent layer's gates out of its weights at places that it computes from
the shape of a state, whose batch is open. The runtime folds none of that when it loads a file, so
it would cut and join the weights again in every call, and could not pack them for its kernels.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

__all__ = ["fold_shapes"]

#: What shapes are computed with. Anything else may be a weight's, which stays as it is stored.
_ARITHMETIC = {
    "Add", "Cast", "Concat", "Constant", "Div", "Gather", "Identity", "Mul", "Reshape", "Slice",
    "Squeeze", "Sub", "Unsqueeze",
}  # fmt: skip
#: A shape's number of elements; constants of more are no shapes.
_MOST_ELEMENTS = 16


def fold_shapes(model: onnx.ModelProto) -> None:
    """Fold in place; nothing that depends on an input or an initializer changes.

    Args:
        model: as exported; its value shapes are inferred anew.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    dims = {v.name: _dims(v) for v in (*inferred.graph.input, *inferred.graph.value_info)}
    graph = model.graph
    dims |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    known: dict[str, np.ndarray] = {}
    for node in graph.node:
        if node.op_type == "CastLike" and types.get(node.output[0]):
            # The zeros of an LSTM's second bias; the runtime folds the one, but not the other.
            cast = helper.make_node("Cast", node.input[:1], node.output, to=types[node.output[0]])
            node.CopyFrom(cast)
        values = _values(node, dims, known)
        if values is not None:
            known[node.output[0]] = values
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    same: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = same.get(name, name)
        (name, *_) = node.output
        values = known.get(name)
        if values is not None and name not in outputs:
            same[name] = first.setdefault((str(values.dtype), values.shape, values.tobytes()), name)
            constant = numpy_helper.from_array(values)
            node.CopyFrom(helper.make_node("Constant", [], [name], value=constant))
    _remove_unused(graph)


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """The sizes of a value's axes; None where one is open."""
    shape = value.type.tensor_type.shape
    return [axis.dim_value if axis.HasField("dim_value") else None for axis in shape.dim]


def _values(
    node: onnx.NodeProto, dims: dict[str, list[int | None]], known: dict[str, np.ndarray]
) -> np.ndarray | None:
    """What a node gives, where that is a small whole number or a few that no input decides."""
    if node.op_type == "Shape":
        if node.input[0] not in dims:
            return None
        bounds = {a.name: a.i for a in node.attribute}
        sizes = dims[node.input[0]][slice(bounds.get("start"), bounds.get("end"))]
        return None if None in sizes else np.array(sizes, np.int64)
    if node.op_type not in _ARITHMETIC or not all(name in known for name in node.input if name):
        return None
    feeds = {name: known[name] for name in node.input if name}
    (values,) = ReferenceEvaluator(node).run(None, feeds)
    values = np.asarray(values)
    is_small = values.size <= _MOST_ELEMENTS and values.dtype in (np.int64, np.int32)
    return values if is_small else None


def _remove_unused(graph: onnx.GraphProto) -> None:
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
