"""The file formats as a Keras worker uses them: write, read back, run. One class a format."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import tensorflow as tf

from evaluators.artifacts.base import Slices
from evaluators.artifacts.files import Content, plain_file
from evaluators.artifacts.packed import Artifact, decode, dense, encode, ledger
from evaluators.backends.base import FileFormat, Restored
from evaluators.backends.keras.network import Network
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
    raise InvalidRequest(f"--format {name} is not written from Keras networks")
