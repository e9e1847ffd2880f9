"""The file formats as the worker uses them: write, read back, run. One class a format.

A file is written from the `Artifact` of a student (its codes, not its floats), so every format
stores the same codebook entries and levels, each in its own way.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.artifacts.base import CannotHold, Slices, sliced
from evaluators.artifacts.files import Content, plain_file
from evaluators.artifacts.packed import Artifact, FloatTensor, decode, dense, encode
from evaluators.backends.base import FileFormat, Restored
from evaluators.backends.pytorch.channels import remove_channels
from evaluators.backends.pytorch.export import (
    activation_grids,
    load_artifact,
    plain_state,
    rounded_layers,
)
from evaluators.backends.pytorch.progress_bars import lock_in_this_process_only
from evaluators.backends.pytorch.recurrent import lstm_tensors
from evaluators.backends.pytorch.slices import slices_of
from spaces import InvalidRequest, LedgerLine

__all__ = ["Removal", "TorchFormat", "make_format"]

#: Exported graphs kept: one an architecture, and channel pruning makes many.
_MOST_GRAPHS = 8
_CALIBRATION_BATCH = 100


@dataclass(frozen=True)
class Removal:
    """The output channels a policy removed.

    Attributes:
        model: the whole network, on the CPU.
        sample: (1, ...) prepared input.
        dead: first layer of each channel group -> channels; {} for none.
    """

    model: nn.Module
    sample: Tensor
    dead: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @cached_property
    def slices(self) -> Slices:
        """What is left of each tensor that lost elements."""
        return slices_of(self.model, self.sample, self.dead)

    def of(self, model: nn.Module) -> nn.Module:
        """A copy of a network of this architecture without the channels."""
        return remove_channels(model, self.sample, self.dead) if any(self.dead.values()) else model


TorchFormat: TypeAlias = FileFormat[Removal]


class PackedFormat:
    """`packed`: decoded to dense floats and run by torch."""

    name = "packed"
    runtime = "torch-cpu"

    def __init__(self, model: nn.Module) -> None:
        """Args: model: any network of the workload's architecture."""
        self._model = model

    def stored(self, artifact: Artifact) -> Artifact:
        """See `FileFormat.stored`: as it is."""
        return artifact

    def write(self, artifact: Artifact, removal: Removal) -> Content:  # noqa: ARG002 -- zeros cost nothing
        """See `FileFormat.write`; removed channels are zeros, which cost next to nothing."""
        return {"": encode(artifact).data}

    def read(self, content: Content) -> Restored:
        """See `FileFormat.read`."""
        from evaluators.artifacts.packed import ledger  # noqa: PLC0415

        data = plain_file(content)
        artifact = decode(data)
        model = load_artifact(self._model, artifact)
        lines = tuple(LedgerLine(x.layer, x.section, x.size_bytes) for x in ledger(data))
        return Restored(dense(artifact), rounded_layers(artifact), lines, model)

    def timed(self, restored: Restored, removal: Removal) -> Callable[[], object]:
        """See `FileFormat.timed`: without the removed channels, as a user would run it."""
        assert isinstance(restored.run, nn.Module)
        model = removal.of(restored.run)

        def call() -> object:
            with torch.inference_mode():
                return model(removal.sample)

        return call


def _plain_grids(artifact: Artifact) -> dict[str, tuple[float, int]]:
    """Layer -> (scale, zero point) of its unsigned 8-bit inputs; {} where they stay floats."""
    return {n: (g.scale, g.zero_point) for n, g in activation_grids(artifact).items()}


class OnnxFormat:
    """`onnx`: run by ONNX Runtime, from the file's bytes."""

    name = "onnx"
    runtime = "onnxruntime"

    def __init__(self, calibration: Callable[[], Tensor]) -> None:
        """Args: calibration: gives prepared training inputs, on the CPU."""
        self._calibration = calibration
        self._graphs: OrderedDict[object, bytes] = OrderedDict()

    def stored(self, artifact: Artifact) -> Artifact:
        """See `FileFormat.stored`: as it is."""
        return artifact

    def write(self, artifact: Artifact, removal: Removal) -> Content:
        """See `FileFormat.write`."""
        from evaluators.artifacts.onnx.calibrate import output_grids  # noqa: PLC0415
        from evaluators.artifacts.onnx.graph import build  # noqa: PLC0415 -- the extra `onnx`

        small = sliced(artifact, removal.slices)
        key = tuple((tensor.name, tensor.shape) for tensor in small.tensors)
        if key not in self._graphs:
            self._graphs[key] = self._exported(removal)
            while len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
        grids = _plain_grids(artifact)
        outputs = {}
        if grids:
            plain = build(self._graphs[key], small, {})
            batches = self._calibration().split(_CALIBRATION_BATCH)
            outputs = output_grids(plain, grids, (batch.numpy() for batch in batches))
        return {"": build(self._graphs[key], small, grids, outputs)}

    @staticmethod
    def _exported(removal: Removal) -> bytes:
        from evaluators.backends.pytorch.onnx_export import export_graph  # noqa: PLC0415

        return export_graph(removal.of(removal.model).eval(), removal.sample)

    def read(self, content: Content) -> Restored:
        """See `FileFormat.read`."""
        from evaluators.artifacts.onnx.read import read  # noqa: PLC0415 -- the extra `onnx`
        from evaluators.artifacts.onnx.runtime import Session  # noqa: PLC0415

        data = plain_file(content)
        file = read(data)
        return Restored(
            file.weights, file.rounded_layers, file.ledger, _RuntimeNetwork(Session(data))
        )

    def timed(self, restored: Restored, removal: Removal) -> Callable[[], object]:
        """See `FileFormat.timed`."""
        assert isinstance(restored.run, _RuntimeNetwork)
        session, inputs = restored.run.session, removal.sample.numpy()
        return lambda: session(inputs)


class _RuntimeNetwork:
    """A session that takes and gives tensors."""

    def __init__(self, session: Callable[[np.ndarray], np.ndarray]) -> None:
        self.session = session

    def __call__(self, batch: Tensor) -> Tensor:
        return torch.from_numpy(self.session(batch.numpy()))


class MlPackageFormat:
    """`mlpackage`: Core ML runs it on a Mac or a phone; elsewhere its weights run in torch."""

    name = "mlpackage"
    runtime = "Core ML"

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        """Args: model: of the workload's architecture; sample: (1, ...) prepared input."""
        self._model, self._sample = model, sample

    def stored(self, artifact: Artifact) -> Artifact:
        """See `FileFormat.stored`: floats and scales in half precision."""
        from evaluators.backends.pytorch.coreml_export import quiet  # noqa: PLC0415

        with quiet():
            from evaluators.artifacts.mlpackage.store import halved  # noqa: PLC0415

            return halved(artifact)

    def write(self, artifact: Artifact, removal: Removal) -> Content:
        """See `FileFormat.write`; `artifact` is one that `stored` gave."""
        from evaluators.backends.pytorch.coreml_export import (  # noqa: PLC0415
            export_program,
            quiet,
        )

        with quiet():
            from evaluators.artifacts.mlpackage.package import build  # noqa: PLC0415

            if activation_grids(artifact):
                raise CannotHold("", "mlpackage: activations stay half precision, not 8 bits")
            small = sliced(artifact, removal.slices)
            model = removal.of(load_artifact(self._model, artifact)).eval()
            gated = lstm_tensors(model)
            return build(export_program(model, self._sample), small, removal.dead, gated)

    def read(self, content: Content) -> Restored:
        """See `FileFormat.read`. The network computes with the weights as Core ML rounds them."""
        from evaluators.backends.pytorch.coreml_export import quiet  # noqa: PLC0415

        with quiet():
            from evaluators.artifacts.mlpackage.read import read  # noqa: PLC0415

            package = read(content)
        model = Removal(self._model, self._sample, package.removed).of(self._model)
        computed = {n: FloatTensor(n, v.astype(np.float32)) for n, v in package.computed.items()}
        # Step counters of batch-norms are not in the file, and no inference reads them.
        for name, values in plain_state(model).items():
            if name not in computed and name.endswith("num_batches_tracked"):
                computed[name] = FloatTensor(name, values.float().numpy())
        network = load_artifact(model, Artifact(tuple(computed.values())))
        return Restored(package.weights, frozenset(), package.ledger, network, content)

    def timed(self, restored: Restored, removal: Removal) -> Callable[[], object]:
        """See `FileFormat.timed`."""
        from evaluators.artifacts.mlpackage.runtime import load  # noqa: PLC0415

        sample = removal.sample.numpy()  # Core ML takes whole numbers of 32 bits alone
        whole = np.issubdtype(sample.dtype, np.integer)
        return load(restored.content, sample.astype(np.int32) if whole else sample)


class TfliteFormat:
    """`tflite`: run by LiteRT, from the file's bytes."""

    name = "tflite"
    runtime = "LiteRT"

    def __init__(self, model: nn.Module, calibration: Callable[[], Tensor]) -> None:
        """Take what files are written from.

        Args:
            model: of the workload's architecture.
            calibration: gives prepared training inputs, on the CPU.
        """
        lock_in_this_process_only()  # LiteRT's package brings tqdm
        self._model, self._calibration = model, calibration
        self._graphs: OrderedDict[object, bytes] = OrderedDict()

    def stored(self, artifact: Artifact) -> Artifact:
        """See `FileFormat.stored`: with each batch-norm's statistics inside its weight and bias.

        With 8-bit activations biases are 32-bit integers.
        """
        from evaluators.backends.pytorch.tflite_export import neutral_norms  # noqa: PLC0415

        neutral = neutral_norms(self._model, artifact)
        if not (grids := _plain_grids(artifact)):
            return neutral
        from evaluators.artifacts.tflite.integer import with_integer_biases  # noqa: PLC0415

        return with_integer_biases(neutral, grids)

    def write(self, artifact: Artifact, removal: Removal) -> Content:
        """See `FileFormat.write`; `artifact` is one that `stored` gave."""
        from evaluators.artifacts.tflite.integer import build_integer  # noqa: PLC0415
        from evaluators.artifacts.tflite.store import build  # noqa: PLC0415 -- the extra `litert`
        from evaluators.backends.pytorch.tflite_export import (  # noqa: PLC0415
            export_template,
            neutral_statistics,
        )

        small = sliced(artifact, removal.slices)
        key = tuple((tensor.name, tensor.shape) for tensor in small.tensors)
        if key not in self._graphs:
            model = removal.of(removal.model).eval()
            self._graphs[key] = export_template(model, removal.sample)
            while len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
        # Statistics are inside the weights, and step counters are read by no inference.
        implied = neutral_statistics(self._model, dense(small))
        tensors = tuple(
            tensor
            for tensor in small.tensors
            if tensor.name not in implied and not tensor.name.endswith("num_batches_tracked")
        )
        held = Artifact(tensors)
        if not (grids := _plain_grids(artifact)):
            return {"": build(self._graphs[key], held)}
        batches = (batch.numpy() for batch in self._calibration().split(_CALIBRATION_BATCH))
        return {"": build_integer(self._graphs[key], held, grids, batches)}

    def read(self, content: Content) -> Restored:
        """See `FileFormat.read`."""
        from evaluators.artifacts.tflite.read import read  # noqa: PLC0415 -- the extra `litert`
        from evaluators.artifacts.tflite.runtime import Session  # noqa: PLC0415
        from evaluators.backends.pytorch.tflite_export import neutral_statistics  # noqa: PLC0415

        data = plain_file(content)
        file = read(data)
        weights = {**file.weights, **neutral_statistics(self._model, file.weights)}
        wanted = {n for n in plain_state(self._model) if not n.endswith("num_batches_tracked")}
        for name in sorted(wanted ^ set(weights)):
            where = "file" if name in wanted else "network"
            raise InvalidRequest(f"the {where} has no tensor {name}")
        rounded = frozenset(file.input_grids)
        return Restored(weights, rounded, file.ledger, _RuntimeNetwork(Session(data)))

    def timed(self, restored: Restored, removal: Removal) -> Callable[[], object]:
        """See `FileFormat.timed`."""
        from evaluators.artifacts.tflite.runtime import Session  # noqa: PLC0415

        assert isinstance(restored.run, _RuntimeNetwork)
        session = restored.run.session
        assert isinstance(session, Session)
        return session.timed(removal.sample.numpy())


def make_format(
    name: str, model: nn.Module, sample: Tensor, calibration: Callable[[], Tensor]
) -> TorchFormat:
    """A format by its name.

    Args:
        name: one that `evaluators.formats` lists.
        model: of the workload's architecture.
        sample: (1, ...) prepared input.
        calibration: gives prepared training inputs, on the CPU; called at need.
    """
    match name:
        case "packed":
            return PackedFormat(model)
        case "onnx":
            return OnnxFormat(calibration)
        case "mlpackage":
            return MlPackageFormat(model, sample)
        case "tflite":
            return TfliteFormat(model, calibration)
    raise InvalidRequest(f"--format {name} is not written from PyTorch networks")
