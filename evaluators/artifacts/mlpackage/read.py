"""Reading a package back: the stored tensors, what Core ML would compute with, the byte ledger.

The exact values (levels times a half-precision scale, in float32) come from this module's own
decoding; coremltools' independent one must agree to the last bit after rounding to halves.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.milproto.load import load as load_program
from coremltools.proto import Model_pb2
from google.protobuf.message import DecodeError

from evaluators.artifacts.files import Content
from evaluators.artifacts.mlpackage.package import (
    GATED,
    MODEL,
    REMOVED,
    SPECIFICATION_VERSION,
    TENSORS,
    WEIGHTS,
    gates_swapped,
    tensor_label,
)
from evaluators.artifacts.packed import DamagedArtifact
from spaces import LedgerLine

__all__ = ["MlPackage", "read"]


@dataclass(frozen=True)
class MlPackage:
    """What a package says.

    Attributes:
        weights: tensor -> float32, exactly as stored.
        computed: tensor -> float16, what Core ML computes with.
        removed: first layer of each channel group -> output channels that are gone.
        ledger: where the bytes are; sums to those of all files.
    """

    weights: dict[str, np.ndarray]
    computed: dict[str, np.ndarray]
    removed: dict[str, list[int]]
    ledger: tuple[LedgerLine, ...]


def read(content: Content) -> MlPackage:
    """Read a package.

    Raises:
        DamagedArtifact: not a package of ours.
    """
    try:
        return _read(content)
    except DamagedArtifact:
        raise
    except (DecodeError, *_WRONG) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DamagedArtifact(f"not a usable Core ML package: {reason}") from None


#: What coremltools and a wrong content raise; no memory is taken on the content's word.
_WRONG = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, OSError,
          RuntimeError, TypeError, ValueError)  # fmt: skip


def _read(content: Content) -> MlPackage:
    spec = Model_pb2.Model()
    spec.ParseFromString(content[MODEL])
    metadata = spec.description.metadata.userDefined
    names = json.loads(metadata[TENSORS])
    removed = json.loads(metadata[REMOVED]) if REMOVED in metadata else {}
    gated = json.loads(metadata[GATED]) if GATED in metadata else []
    with tempfile.TemporaryDirectory(prefix="search-mlpackage-") as folder:
        (Path(folder) / "weight.bin").write_bytes(content[WEIGHTS])
        program = load_program(
            spec, specification_version=SPECIFICATION_VERSION, file_weights_dir=folder
        )
    (function,) = program.functions.values()
    found = {output.name: output for op in function.operations for output in op.outputs}
    weights, computed = {}, {}
    for number, name in enumerate(names):
        variable = found[tensor_label(number)]
        weights[name] = _value(variable)
        computed[name] = _decoded_by_coremltools(variable)
        if not np.array_equal(computed[name], weights[name].astype(np.float16)):
            raise DamagedArtifact(f"{name}: coremltools decodes other values")
        if name in gated:  # the network's own order of gates
            weights[name], computed[name] = map(gates_swapped, (weights[name], computed[name]))
    return MlPackage(weights, computed, removed, tuple(_ledger(spec, content, names)))


def _decoded_by_coremltools(variable: Any) -> np.ndarray:
    """(shape) float16, by coremltools' own decoder of each operator.

    It knows no operator whose input is another one, as a table of levels times its scale is: there
    the inner one is decoded by it, and only looked up here.
    """
    op = variable.op
    inner = op.inputs.get("lut") or op.inputs.get("nonzero_data")
    if op.op_type == "const":
        return np.asarray(variable.val, np.float16)
    if inner is None or inner.op.op_type == "const":
        decoded = op.materialized_val_inference()
        return np.asarray(decoded[1] if isinstance(decoded, tuple) else decoded, np.float16)
    values = _decoded_by_coremltools(inner).ravel()
    match op.op_type:
        case "constexpr_lut_to_dense":
            return np.asarray(values[_integers(op.inputs["indices"])])
        case "constexpr_lut_to_sparse":
            return np.asarray(values[_integers(op.inputs["indices_nonzero_data"])])
    mask = _integers(_mask(op.inputs["mask"])) != 0
    dense = np.zeros(mask.shape, np.float16)
    dense[mask] = values
    return dense


def _value(variable: Any) -> np.ndarray:
    """A constant's exact float32 values."""
    op = variable.op
    inputs = {name: each for name, each in op.inputs.items() if each is not None}
    match op.op_type:
        case "const":
            return np.asarray(variable.val).astype(np.float32)
        case "constexpr_lut_to_dense":
            table = _value(inputs["lut"]).ravel()
            return np.asarray(table[_integers(inputs["indices"])])
        case "constexpr_blockwise_shift_scale":
            return np.asarray(_value(inputs["data"]) * _value(inputs["scale"]) + np.float32(0))
        case "constexpr_lut_to_sparse":
            table = _value(inputs["lut"]).ravel()
            return np.asarray(table[_integers(inputs["indices_nonzero_data"])])
        case "constexpr_sparse_to_dense":
            mask = _integers(_mask(inputs["mask"])) != 0
            dense = np.zeros(mask.shape, np.float32)
            dense[mask] = _value(inputs["nonzero_data"])
            return dense
    raise DamagedArtifact(f"{variable.name}: a weight behind {op.op_type} is none of ours")


def _mask(variable: Any) -> Any:
    """Sparse tables hand their mask on."""
    if variable.op.op_type == "constexpr_lut_to_sparse":
        return variable.op.inputs["indices_mask"]
    return variable


def _integers(variable: Any) -> np.ndarray:
    return np.asarray(variable.val).astype(np.int64)


def _ledger(spec: Any, content: Content, names: list[str]) -> Iterator[LedgerLine]:
    """A line for each blob of the weight file, with its header and padding; then the rest."""
    starts = dict(_blobs(spec))
    size = len(content[WEIGHTS])
    order = sorted(starts)
    counted = 0
    # Small tensors are in the graph itself: there may be none here.
    for start, end in zip(order, [*order, size][1:], strict=True):
        label, section = starts[start]
        number = label.removeprefix("tensor").partition("_")[0]
        name = names[int(number)] if number.isdigit() else ""
        yield LedgerLine(name, section, end - start)
        counted += end - start
    if size > counted:
        yield LedgerLine("", "weight file header", size - counted)
    yield LedgerLine("", "graph", len(content[MODEL]))
    rest = sum(len(data) for name, data in content.items() if name not in (MODEL, WEIGHTS))
    yield LedgerLine("", "manifest", rest)


def _blobs(spec: Any) -> Iterator[tuple[int, tuple[str, str]]]:
    """(offset in the weight file, (operator, what of it))."""
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for op in block.operations:
                label = op.outputs[0].name if op.outputs else ""
                for key, value in _values(op):
                    if value.HasField("blobFileValue"):
                        section = "values" if key == "val" else key
                        yield value.blobFileValue.offset, (label, section)


def _values(op: Any) -> Iterator[tuple[str, Any]]:
    attributes: Mapping[str, Any] = op.attributes
    yield from attributes.items()
    for key, argument in op.inputs.items():
        for binding in argument.arguments:
            if binding.HasField("value"):
                yield key, binding.value
