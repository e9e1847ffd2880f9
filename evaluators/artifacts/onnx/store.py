"""One stored tensor as initializers and the few operators that turn them into its float values.

    float32           initializer
    float16           initializer -> Cast
    levels (grid)     initializer -> Cast -> Mul(scale), or DequantizeLinear where the runtime
                      should compute with the integers themselves
    codebook          indices -> Cast -> Gather(table of the entries)

Indices and levels take 2, 4 or 8 bits, the fewest that hold them. Everything but DequantizeLinear
has constant inputs and is folded when the runtime loads the file, so a small file is no slower.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed.model import (
    CodebookTensor,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
)

__all__ = ["SMALL_OPSET", "StoredTensor", "needs_small_opset", "store"]

#: The first operator set with 2-bit integers.
SMALL_OPSET = 25
#: Width in bits -> the smallest signed type, and its range.
_LEVELS = (
    (2, TensorProto.INT2, -2, 1),
    (4, TensorProto.INT4, -8, 7),
    (8, TensorProto.INT8, -128, 127),
)
_INDICES = ((2, TensorProto.UINT2, 4), (4, TensorProto.UINT4, 16), (8, TensorProto.UINT8, 256))


@dataclass
class StoredTensor:
    """What stands for one tensor in the graph; the last node's output has the tensor's name."""

    initializers: list[onnx.TensorProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """True when the initializer alone has the name."""
        return not self.nodes


def store(tensor: Tensor, *, integers: bool) -> StoredTensor:
    """The graph's part for one tensor.

    Args:
        tensor: what to store.
        integers: let a weight on a grid reach its operator through DequantizeLinear.

    Raises:
        CannotHold: more levels or entries than 8 bits hold.
    """
    made = StoredTensor()
    match tensor:
        case FloatTensor(bits=32):
            made.initializers.append(numpy_helper.from_array(tensor.values, tensor.name))
        case FloatTensor():
            half = _initializer(made, tensor, "values", tensor.values.astype(np.float16))
            _cast(made, half, tensor.name, TensorProto.FLOAT)
        case GridTensor():
            small = _small_levels(made, tensor)
            _on_grid(made, tensor, small, tensor.scale, integers=integers)
        case CodebookTensor():
            indices = _small_indices(made, tensor)
            _looked_up(made, tensor, indices, integers=integers)
    return made


def _looked_up(made: StoredTensor, tensor: CodebookTensor, indices: str, *, integers: bool) -> None:
    match tensor.codebook:
        case GridCodebook(levels=levels, scale=scale):
            _require_int8(tensor.name, levels)
            table = np.concatenate(([0], levels)).astype(np.int8)
            codebook = _initializer(made, tensor, "codebook", table)
            gathered = f"{tensor.name}/int8"
            made.nodes.append(helper.make_node("Gather", [codebook, indices], [gathered]))
            _on_grid(made, tensor, gathered, scale, integers=integers)
        case FloatCodebook(entries=entries, bits=16):
            halves = np.concatenate(([0], entries)).astype(np.float16)
            codebook = _initializer(made, tensor, "codebook", halves)
            wide = f"{tensor.name}/table"
            _cast(made, codebook, wide, TensorProto.FLOAT)
            made.nodes.append(helper.make_node("Gather", [wide, indices], [tensor.name]))
        case FloatCodebook(entries=entries):
            floats = np.concatenate(([0], entries)).astype(np.float32)
            codebook = _initializer(made, tensor, "codebook", floats)
            made.nodes.append(helper.make_node("Gather", [codebook, indices], [tensor.name]))


def _on_grid(
    made: StoredTensor, tensor: Tensor, small: str, scale: np.ndarray, *, integers: bool
) -> None:
    """Levels of up to 8 bits -> floats. Both ways are one float32 multiplication an element."""
    if integers:
        int8 = small
        if not small.endswith("/int8"):
            int8 = f"{tensor.name}/int8"
            _cast(made, small, int8, TensorProto.INT8)
        per_tensor = scale.size == 1
        # The integer kernels are chosen only where the zero point is spelled out.
        zeros = np.zeros(scale.shape, np.int8)
        shape: tuple[int, ...] = () if per_tensor else scale.shape
        scales = _initializer(made, tensor, "scales", scale.reshape(shape))
        zero_point = _initializer(made, tensor, "zero_point", zeros.reshape(shape))
        inputs = [int8, scales, zero_point]
        # One scale for all makes the axis meaningless, but the operator has one anyway.
        node = helper.make_node("DequantizeLinear", inputs, [tensor.name], axis=0)
        made.nodes.append(node)
        return
    wide = f"{tensor.name}/float"
    _cast(made, small, wide, TensorProto.FLOAT)
    along = scale if scale.size == 1 else scale.reshape(-1, *[1] * (len(tensor.shape) - 1))
    scales = _initializer(made, tensor, "scales", along)
    made.nodes.append(helper.make_node("Mul", [wide, scales], [tensor.name]))


def _small_levels(made: StoredTensor, tensor: GridTensor) -> str:
    low, high = int(tensor.levels.min()), int(tensor.levels.max())
    for bits, kind, least, most in _LEVELS:
        if least <= low and high <= most:
            return _integers(made, tensor, "levels", tensor.levels, bits, kind)
    raise CannotHold(
        tensor.name, f"onnx: levels must lie in -128..127, but they lie in {low}..{high}"
    )


def _require_int8(name: str, levels: np.ndarray) -> None:
    low, high = int(levels.min()), int(levels.max())
    if low < -128 or high > 127:
        raise CannotHold(name, f"onnx: levels must lie in -128..127, but they lie in {low}..{high}")


def _small_indices(made: StoredTensor, tensor: CodebookTensor) -> str:
    entries = tensor.codebook.decode().size + 1
    for bits, kind, most in _INDICES:
        if entries <= most:
            small = _integers(made, tensor, "indices", tensor.indices, bits, kind)
            wide = f"{tensor.name}/wide"
            _cast(made, small, wide, TensorProto.INT32)
            return wide
    raise CannotHold(
        tensor.name, f"onnx: a table has at most 255 values besides 0, but there are {entries - 1}"
    )


def _integers(
    made: StoredTensor, tensor: Tensor, section: str, values: np.ndarray, bits: int, kind: int
) -> str:
    """An initializer of packed integers: the lowest bits of a byte come first."""
    codes = values.astype(np.int64).ravel() & (2**bits - 1)
    each = 8 // bits
    padded = np.zeros(-(-codes.size // each) * each, dtype=np.uint8)
    padded[: codes.size] = codes
    packed = np.zeros(padded.size // each, dtype=np.uint8)
    for place in range(each):
        packed |= padded[place::each] << (bits * place)
    name = f"{tensor.name}/{section}"
    made.initializers.append(
        helper.make_tensor(name, kind, values.shape, packed.tobytes(), raw=True)
    )
    return name


def _initializer(made: StoredTensor, tensor: Tensor, section: str, values: np.ndarray) -> str:
    name = f"{tensor.name}/{section}"
    made.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def _cast(made: StoredTensor, given: str, result: str, kind: int) -> None:
    made.nodes.append(helper.make_node("Cast", [given], [result], to=kind))


def needs_small_opset(tensors: list[onnx.TensorProto]) -> bool:
    """Whether any of them has 2-bit integers."""
    return any(t.data_type in (TensorProto.INT2, TensorProto.UINT2) for t in tensors)
