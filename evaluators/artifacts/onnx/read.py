"""Reading a file back without the runtime: its weights, its rounded layers, its byte ledger.

Shares no code with the writer. A file may come from anywhere, so it is bounds-checked, and one
that keeps its data in other files is refused.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from evaluators.artifacts.packed import DamagedArtifact
from spaces import LedgerLine

__all__ = ["OnnxFile", "read"]

MAX_ELEMENTS = 1 << 28
#: Each takes part in a few steps of decoding.
MAX_COMPUTED = 4 * MAX_ELEMENTS
#: Input channels of a weight that the runtime may add when it loads the file.
MOST_CHANNELS_ADDED = 3


@dataclass(frozen=True)
class OnnxFile:
    """What a file says.

    Attributes:
        weights: tensor -> float32 values.
        rounded_layers: layers whose inputs are rounded.
        ledger: where the bytes are; sums to the file's size.
    """

    weights: dict[str, np.ndarray]
    rounded_layers: frozenset[str]
    ledger: tuple[LedgerLine, ...]


def read(data: bytes) -> OnnxFile:
    """Read a file.

    Raises:
        DamagedArtifact: not an ONNX model, or one this reader cannot trust.
    """
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
        constants = _constants(model.graph)
        weights = {n: v for n, v in constants.items() if v.dtype == np.float32 and "/" not in n}
        weights |= _without_padding(model.graph, constants)
    except (
        DecodeError, onnx.checker.ValidationError, IndexError, KeyError, TypeError, ValueError,
    ) as error:  # fmt: skip
        reason = str(error).strip().partition("\n")[0]
        raise DamagedArtifact(f"not a usable ONNX model: {reason}") from None
    return OnnxFile(weights, _rounded_layers(model.graph, constants), _ledger(model, len(data)))


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Every tensor that the file alone decides: initializers, and what is computed from those."""
    known: dict[str, np.ndarray] = {}
    elements = 0
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise DamagedArtifact(f"{tensor.name}: its data is in another file")
        elements += int(np.prod(np.array(tensor.dims, dtype=np.float64)))
        if elements > MAX_ELEMENTS:
            raise DamagedArtifact(f"more than {MAX_ELEMENTS} elements")
        known[tensor.name] = numpy_helper.to_array(tensor)
    for node in graph.node:
        is_known = node.domain in ("", "ai.onnx")
        if is_known and node.input and all(name in known for name in node.input):
            inputs = [known[name] for name in node.input]
            values = _computed(node, inputs)
            if values is not None:
                elements += values.size
                if elements > MAX_COMPUTED:
                    raise DamagedArtifact(f"more than {MAX_COMPUTED} elements when decoded")
                known[node.output[0]] = values
    return known


def _computed(node: onnx.NodeProto, inputs: list[np.ndarray]) -> np.ndarray | None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "Cast":
            return np.asarray(inputs[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"])))
        case "Gather" if attributes.get("axis", 0) == 0 and inputs[0].ndim == 1:
            table, indices = inputs
            if indices.size and not (int(indices.min()) >= 0 and int(indices.max()) < len(table)):
                raise DamagedArtifact(f"{node.output[0]}: an index is beyond its table")
            return np.asarray(table[indices])
        case "Pad" if attributes.get("mode", b"constant") == b"constant" and len(inputs) == 2:
            levels, pads = inputs
            more = int(pads[levels.ndim + 1]) if pads.shape == (2 * levels.ndim,) else 0
            if not 1 <= more <= MOST_CHANNELS_ADDED or np.count_nonzero(pads) != 1:
                raise DamagedArtifact(f"{node.output[0]}: its padding is not one this reader knows")
            zeros = np.zeros((levels.shape[0], more, *levels.shape[2:]), levels.dtype)
            return np.concatenate((levels, zeros), axis=1)
        case "Mul" if inputs[0].shape == np.broadcast_shapes(*(v.shape for v in inputs)):
            return np.asarray(inputs[0] * inputs[1] + np.float32(0))
        case "DequantizeLinear":
            levels, scale = inputs[0], inputs[1]
            zero_point = inputs[2] if len(inputs) > 2 else np.zeros(1, np.int8)
            shape = [1] * levels.ndim
            if scale.size > 1:
                shape[attributes.get("axis", 1)] = scale.size
            centred = levels.astype(np.int32) - zero_point.astype(np.int32).reshape(shape)
            # A negative level times a zero scale would be -0.0.
            return np.asarray(
                centred.astype(np.float32) * scale.reshape(shape) + np.float32(0), np.float32
            )
    return None


def _without_padding(
    graph: onnx.GraphProto, constants: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Weights that the file widens with channels of zeros, as they are without those.

    Raises:
        DamagedArtifact: what is added is not 0, or not for inputs that are widened as well.
    """
    by_output = {output: node for node in graph.node for output in node.output}

    def padding(name: str) -> tuple[int, ...]:
        """Of the levels behind a value."""
        back = by_output.get(name)
        pad = by_output.get(back.input[0]) if back is not None and back.input else None
        if pad is None or pad.op_type != "Pad" or pad.input[1] not in constants:
            return ()
        return tuple(int(size) for size in constants[pad.input[1]])

    found = {}
    for node in graph.node:
        name = node.output[0]
        if node.op_type != "DequantizeLinear" or name not in constants or not padding(name):
            continue
        stored = constants[by_output[node.input[0]].input[0]]
        wide = constants[name]
        weight = wide[:, : stored.shape[1]]
        readers = [reader for reader in graph.node if name in reader.input]
        fits = all(
            reader.op_type == "Conv"
            and list(reader.input).index(name) == 1
            and padding(reader.input[0]) == padding(name)
            for reader in readers
        )
        if wide[:, stored.shape[1] :].any() or not fits:
            raise DamagedArtifact(f"{name}: it is widened by more than zeros for widened inputs")
        found[name] = weight
    return found


def _rounded_layers(graph: onnx.GraphProto, constants: dict[str, np.ndarray]) -> frozenset[str]:
    by_output = {output: node for node in graph.node for output in node.output}
    rounded = set()
    for node in graph.node:
        if node.op_type not in ("Gemm", "MatMul", "Conv") or len(node.input) < 2:
            continue
        weight = node.input[1]
        behind = by_output.get(weight)
        if behind is not None and behind.op_type == "Transpose":
            weight = behind.input[0]
        source = by_output.get(node.input[0])
        is_rounded = source is not None and source.op_type == "DequantizeLinear"
        if is_rounded and weight in constants:
            rounded.add(weight.removesuffix("weight").removesuffix("."))
    return frozenset(rounded)


def _ledger(model: onnx.ModelProto, size_bytes: int) -> tuple[LedgerLine, ...]:
    """A line for each initializer as it lies in the file; the rest is the graph."""
    lines = []
    for tensor in model.graph.initializer:
        name, _, section = tensor.name.partition("/")
        length = tensor.ByteSize()
        # One byte of tag, then the length as a varint.
        in_file = 1 + max(1, -(-length.bit_length() // 7)) + length
        lines.append(LedgerLine(name, section or "values", in_file))
    rest = size_bytes - sum(line.size_bytes for line in lines)
    return (LedgerLine("", "graph", rest), *lines)
