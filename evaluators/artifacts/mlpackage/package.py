"""A Core ML program with stored tensors in it, as the files of a package; reproducible bytes."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.converter import mil_convert
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 -- Core ML's own usage
from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

from evaluators.artifacts.base import CannotHold, sliced
from evaluators.artifacts.files import Content, remove
from evaluators.artifacts.mlpackage.alone import coremltools as ct
from evaluators.artifacts.mlpackage.store import compressed_constant
from evaluators.artifacts.packed.model import Artifact, FloatTensor, Tensor

__all__ = [
    "GATED",
    "MODEL",
    "REMOVED",
    "SPECIFICATION_VERSION",
    "TENSORS",
    "WEIGHTS",
    "build",
    "gates_swapped",
    "pass_pipeline",
    "tensor_label",
]

#: Of iOS 18 and macOS 15, the first with 1- to 6-bit types and sparse tables.
SPECIFICATION_VERSION = 9
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
#: Keys of the model's own metadata: names of the tensors, removed channels, and which tensors have
#: an LSTM's gates in Core ML's order.
TENSORS, REMOVED, GATED = "search.tensors", "search.removed_channels", "search.gated_tensors"
#: Passes that would compute other weights, or merge two layers' equal ones.
_UNWANTED = {
    "common::fuse_conv_batchnorm",
    "common::fuse_conv_scale",
    "common::fuse_linear_bias",
    "common::fuse_conv_bias",
    "common::const_deduplication",
}
_MANIFEST = {
    "fileFormatVersion": "1.0.0",
    "itemInfoEntries": {
        "00000000-0000-4000-8000-000000000001": {
            "author": "com.apple.CoreML",
            "description": "CoreML Model Specification",
            "name": "model.mlmodel",
            "path": "com.apple.CoreML/model.mlmodel",
        },
        "00000000-0000-4000-8000-000000000002": {
            "author": "com.apple.CoreML",
            "description": "CoreML Model Weights",
            "name": "weights",
            "path": "com.apple.CoreML/weights",
        },
    },
    "rootModelIdentifier": "00000000-0000-4000-8000-000000000001",
}


def pass_pipeline() -> Any:
    """Coremltools' default passes without those that would change a stored weight."""
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes(_UNWANTED)
    return pipeline


def tensor_label(number: int) -> str:
    """What the program calls the artifact's tensor of this number."""
    return f"tensor{number}"


def gates_swapped(rows: np.ndarray) -> np.ndarray:
    """(4 * units, ...) with an LSTM's last two gates exchanged, which also undoes itself.

    torch has input, forget, cell, output; Core ML has input, forget, output, cell.
    """
    first, second, third, fourth = np.split(rows, 4)
    return np.concatenate([first, second, fourth, third])


def build(
    program: Any,
    artifact: Artifact,
    removed: Mapping[str, Sequence[int]],
    gated: Collection[str] = (),
) -> Content:
    """The package's files.

    Args:
        program: of the network with the artifact's values, in half precision; changed in place.
        artifact: half precision throughout.
        removed: first layer of each channel group -> the output channels that are gone.
        gated: tensors whose rows are an LSTM's four gates, in torch's order.

    Raises:
        CannotHold: a tensor is not in the program as it is, or has no place in the format.
    """
    (function,) = program.functions.values()
    constants = {op.name: op for op in function.operations if op.op_type == "const"}
    swapped = {
        tensor.name: gates_swapped(np.arange(np.prod(tensor.shape)).reshape(tensor.shape))
        for tensor in artifact.tensors
        if tensor.name in gated
    }
    names: list[str] = []
    with (
        function,
        mb.scope(
            ScopeInfo(source=ScopeSource.TORCHSCRIPT_MODULE_NAME, data=["stored"]),
            ScopeInfo(source=ScopeSource.TORCHSCRIPT_MODULE_TYPE, data=["stored"]),
        ),
    ):
        for tensor in sliced(artifact, swapped).tensors:
            if tensor.name.rpartition(".")[2] == "num_batches_tracked":
                continue  # counts training steps; inference has no use for it
            old = _constant_of(tensor, constants, is_gated=tensor.name in gated)
            values = tensor.decode().astype(np.float16)
            label = tensor_label(len(names))
            # Tables for a handful of biases would cost more than they save.
            is_small = isinstance(tensor, FloatTensor) and len(tensor.shape) < 2
            new = None if is_small else compressed_constant(tensor, old, label)
            if new is None:
                new = mb.const(val=values, before_op=old, name=label)
            function.replace_uses_of_var_after_op(
                anchor_op=old, old_var=old.outputs[0], new_var=new, force_replace=True
            )
            function.remove_ops([old])
            names.append(tensor.name)
    model = mil_convert(
        program,
        convert_to="mlprogram",
        convert_from="milinternal",
        specification_version=SPECIFICATION_VERSION,
        compute_units=ct.ComputeUnit.ALL,
        skip_model_load=True,
        pass_pipeline=pass_pipeline(),
    )
    try:
        return _files(model, names, removed, [name for name in names if name in gated])
    finally:
        # coremltools' own copy would stay until the process ends, and for ever if it is killed.
        remove(Path(model.package_path))


def _constant_of(tensor: Tensor, constants: dict[str, Any], *, is_gated: bool) -> Any:
    """The program's constant of a tensor, taken out of what is left of them.

    Raises:
        CannotHold: it has none.
    """
    values = tensor.decode().astype(np.float16)
    # The converter joins an LSTM's gates anew, so only the values tell which tensor that was.
    names = [*constants] if is_gated else [f"{tensor.name}_to_fp16"]
    for name in names:
        found = constants.get(name)
        if found is not None and np.array_equal(found.outputs[0].val, values):
            return constants.pop(name)
    raise CannotHold(tensor.name, "mlpackage: the converter folded this tensor into others")


def _files(
    model: Any,
    names: Sequence[str],
    removed: Mapping[str, Sequence[int]],
    gated: Sequence[str],
) -> Content:
    spec = model.get_spec()
    metadata = spec.description.metadata.userDefined
    metadata.clear()  # a date of conversion would make every file another one
    metadata[TENSORS] = json.dumps(names, separators=(",", ":"))
    if any(removed.values()):
        channels = {layer: list(map(int, gone)) for layer, gone in removed.items() if len(gone)}
        metadata[REMOVED] = json.dumps(channels, separators=(",", ":"), sort_keys=True)
    if gated:
        metadata[GATED] = json.dumps(gated, separators=(",", ":"))
    weights = Path(model.weights_dir) / "weight.bin"
    return {
        "Manifest.json": json.dumps(_MANIFEST, separators=(",", ":")).encode(),
        MODEL: spec.SerializeToString(deterministic=True),
        WEIGHTS: weights.read_bytes() if weights.is_file() else b"",
    }
