"""What every file format has in common: how it says no, and tensors without removed channels."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from evaluators.artifacts.packed.model import (
    Artifact,
    CodebookTensor,
    FloatTensor,
    GridTensor,
    Tensor,
)
from spaces import InvalidRequest

__all__ = ["CannotHold", "Slices", "expanded", "sliced"]

#: Tensor -> the flat positions of the elements that are left, in the shape that is left.
Slices = Mapping[str, npt.NDArray[np.int64]]


class CannotHold(InvalidRequest):
    """A format cannot store what a policy asks of a layer. Never stored as something else."""

    def __init__(self, layer: str, reason: str) -> None:
        """Args: layer: a module's or a tensor's name; reason: a sentence."""
        super().__init__(f"{layer}: {reason}" if layer else reason)
        self.layer, self.reason = layer, reason


def sliced(artifact: Artifact, slices: Slices) -> Artifact:
    """The artifact of the smaller network, the codes of what is left as they were.

    Args:
        artifact: of the whole network.
        slices: from removing channels; a tensor it does not name is left whole.
    """
    tensors = tuple(
        _sliced(tensor, slices[tensor.name]) if tensor.name in slices else tensor
        for tensor in artifact.tensors
    )
    return Artifact(tensors, artifact.attributes)


def _sliced(tensor: Tensor, left: npt.NDArray[np.int64]) -> Tensor:
    match tensor:
        case FloatTensor():
            return replace(tensor, values=tensor.values.ravel()[left])
        case CodebookTensor():
            return replace(tensor, indices=tensor.indices.ravel()[left])
        case GridTensor():
            scale = tensor.scale
            if scale.size > 1:
                # The elements of a channel lie together, so the first one tells the channel.
                width = tensor.levels.size // tensor.levels.shape[0]
                scale = scale[left.reshape(len(left), -1)[:, 0] // width]
            return GridTensor(tensor.name, tensor.levels.ravel()[left], scale)


def expanded(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], slices: Slices
) -> dict[str, np.ndarray]:
    """The decoded tensors in the whole network's shapes, zeros where channels were removed.

    Args:
        weights: decoded from a file.
        shapes: of the whole network.
        slices: as `sliced` used them.
    """
    whole = {}
    for name, values in weights.items():
        if name not in slices or values.shape != slices[name].shape:
            whole[name] = values
            continue
        flat = np.zeros(int(np.prod(shapes[name])), dtype=values.dtype)
        flat[slices[name].ravel()] = values.ravel()
        whole[name] = flat.reshape(shapes[name])
    return whole
