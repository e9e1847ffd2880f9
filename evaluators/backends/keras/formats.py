"""The file formats as a Keras worker uses them: write, read back, run. One class a format."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evaluators.artifacts.base import CannotHold, Slices
from evaluators.artifacts.files import Content, plain_file
from evaluators.artifacts.packed import Artifact, decode, dense, encode, ledger
from evaluators.backends.base import FileFormat, Restored
from evaluators.backends.keras.network import Network
from evaluators.backends.keras.process import quiet
from evaluators.backends.keras.score import Runner
from spaces import InvalidRequest, LedgerLine

__all__ = ["KerasFormat", "NoRemoval", "make_format"]


@dataclass(frozen=True)
class NoRemoval:
    """TFMOT prunes no channels, so every file holds every element."""

    slices: Slices = field(default_factory=dict)


KerasFormat: TypeAlias = FileFormat[NoRemoval]


class PackedFormat:
    """`packed`: decoded to dense floats and run by TensorFlow."""

    name = "packed"
    runtime = "tensorflow-cpu"

    def __init__(self, network: Network, sample: tf.Tensor) -> None:
        """Args: network: the workload's; sample: (1, ...) prepared input."""
        self._network, self._sample = network, sample

    def stored(self, artifact: Artifact) -> Artifact:
        """See `FileFormat.stored`: as it is."""
        return artifact

    def write(self, artifact: Artifact, removal: NoRemoval) -> Content:  # noqa: ARG002
        """See `FileFormat.write`."""
        return {"": encode(artifact).data}

    def read(self, content: Content) -> Restored:
        """See `FileFormat.read`."""
        data = plain_file(content)
        artifact = decode(data)
        if artifact.attributes:
            raise InvalidRequest(
                f"the file has attributes {', '.join(artifact.attributes)}, "
                "which no Keras network has"
            )
        weights = dense(artifact)
        run = Runner(self._network.with_weights(weights))
        lines = tuple(LedgerLine(x.layer, x.section, x.size_bytes) for x in ledger(data))
        return Restored(weights, frozenset(), lines, run)

    def timed(self, restored: Restored, removal: NoRemoval) -> Callable[[], object]:  # noqa: ARG002
        """See `FileFormat.timed`."""
        assert isinstance(restored.run, Runner)
        call, sample = restored.run.call, self._sample
        call(sample)
        return lambda: call(sample)


class TfliteFormat:
    """`tflite`: run by LiteRT, from the file's bytes."""

    name = "tflite"
    runtime = "LiteRT"

    def __init__(self, network: Network, sample: tf.Tensor) -> None:
        """Args: network: the workload's; sample: (1, ...) prepared input."""
        self._network, self._sample = network, sample.numpy()

    @cached_property
    def _template(self) -> bytes:
        """The network's graph, from the converter; one conversion serves every policy."""
        from evaluators.artifacts.tflite.graph import numbered, template  # noqa: PLC0415

        shapes = {name: values.shape for name, values in self._network.weights.items()}
        values = numbered(shapes)
        model = self._network.for_converter(values)
        return template(convert(model), values)

    def stored(self, artifact: Artifact) -> Artifact:
        """See `FileFormat.stored`: as it is."""
        return artifact

    def write(self, artifact: Artifact, removal: NoRemoval) -> Content:  # noqa: ARG002
        """See `FileFormat.write`."""
        from evaluators.artifacts.tflite.store import build  # noqa: PLC0415 -- the extra `keras`

        return {"": build(self._template, artifact)}

    def read(self, content: Content) -> Restored:
        """See `FileFormat.read`."""
        from evaluators.artifacts.tflite.read import read  # noqa: PLC0415 -- the extra `keras`
        from evaluators.artifacts.tflite.runtime import Session  # noqa: PLC0415

        data = plain_file(content)
        file = read(data)
        weights = {}
        for name, values in self._network.weights.items():
            # A one-dimensional convolution is one of height 1 there.
            if name not in file.weights or file.weights[name].size != values.size:
                raise InvalidRequest(f"the file has no tensor {name} of shape {values.shape}")
            weights[name] = file.weights[name].reshape(values.shape)
        if unknown := set(file.weights) - set(weights):
            raise InvalidRequest(f"the network has no tensor {min(unknown)}")
        return Restored(weights, frozenset(), file.ledger, _LiteRtNetwork(Session(data)))

    def timed(self, restored: Restored, removal: NoRemoval) -> Callable[[], object]:  # noqa: ARG002
        """See `FileFormat.timed`."""
        assert isinstance(restored.run, _LiteRtNetwork)
        call: Callable[[], object] = restored.run.session.timed(self._sample)
        return call


class _LiteRtNetwork:
    """A session that takes tensors."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, batch: tf.Tensor) -> np.ndarray:
        outputs: np.ndarray = self.session(batch.numpy())
        return outputs


def convert(model: keras.Model) -> bytes:
    """A plain float network -> the bytes of its float `.tflite` file.

    Raises:
        CannotHold: the converter has no operator for something in it.
    """
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            converted: bytes = _converter(model).convert()
    except Exception as error:  # the converter's many kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CannotHold("", f"tflite: the converter fails: {first}") from None
    return converted


def _converter(model: keras.Model) -> Any:
    """A recurrent layer has a fused kernel for a batch of known size only."""
    if not any(isinstance(layer, keras.layers.RNN) for layer in model.layers):
        return tf.lite.TFLiteConverter.from_keras_model(model)
    (given,) = model.inputs
    single = tf.TensorSpec([1, *given.shape[1:]], given.dtype)
    call = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function(single)], model
    )


def make_format(name: str, network: Network, sample: tf.Tensor) -> KerasFormat:
    """A format by its name.

    Args:
        name: one that `evaluators.formats` lists.
        network: the workload's.
        sample: (1, ...) prepared input.

    Raises:
        InvalidRequest: Keras networks are not written in it.
    """
    match name:
        case "packed":
            return PackedFormat(network, sample)
        case "tflite":
            return TfliteFormat(network, sample)
    raise InvalidRequest(f"--format {name} is not written from Keras networks")
