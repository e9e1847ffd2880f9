"""What a PyTorch workload is: a trained network, its data splits, its metric and its recipe.

A user's own workload is a function which returns a `Workload`; README.md shows one in ten lines.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.workloads.recipe import Recipe
from spaces import ACCURACY, InvalidRequest, Metric

__all__ = ["Recipe", "SecondaryScore", "Split", "Workload", "as_split", "correct", "identity"]


@dataclass(frozen=True)
class Split:
    """Samples and targets.

    Attributes:
        inputs: (samples, ...) in any dtype; `Workload.prepare` turns a batch into network input.
        targets: (samples, ...), e.g. class indices.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: str) -> "Split":
        """The split on a device; the same object where it already is there."""
        if str(self.inputs.device) == device:
            return self
        return Split(self.inputs.to(device), self.targets.to(device))


def identity(batch: Tensor) -> Tensor:
    """The batch as it is."""
    return batch


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """(batch, classes), (batch,) -> (batch,) of 0.0 or 1.0: the accuracy of each sample."""
    return (outputs.argmax(dim=1) == targets).float()


@dataclass(frozen=True)
class SecondaryScore:
    """A further figure of a network, measured in every trial beside the metric.

    Attributes:
        metric: its name, unit and direction.
        score: (outputs, targets) -> one score a sample; their mean is the figure.
    """

    metric: Metric
    score: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Workload:
    """A trained network with all that is needed to judge and fine-tune a compressed copy.

    Attributes:
        name: shown to people.
        model: the trained network; never changed. In its compressed copies every parameter is
            fine-tuned, also one that is frozen here.
        train, validation: splits; validation chooses. A (inputs, targets) pair of tensors or
            arrays, or a map-style dataset of such pairs, is converted.
        test: reports, never chooses; None when there is none.
        metric: what is measured; accuracy is the default.
        score: (outputs, targets) -> one score a sample; their mean is the metric.
        secondary: further figures, e.g. of a second head: shown beside the metric, but budgets,
            front and pick are the metric's alone.
        loss: (outputs, targets) -> scalar, for fine-tuning.
        imitation: (outputs, soft targets, temperature) -> scalar, for the distill stage of a
            network whose outputs are not just logits; None = softened logits.
        prepare: batch of stored inputs -> network input, e.g. uint8 images to floats.
        recipe: how to fine-tune.
        fine_tuning: gives the split to fine-tune on, where it is not `train` itself: whole sets of
            its samples, distorted or not, set after set in `train`'s order. Called at first need.
        teacher: a stronger network for distillation, taking the same prepared input and giving
            logits (any callable); None = the uncompressed network itself.
        soft_targets: gives the teacher's (samples, classes) logits, or whatever `imitation`
            takes, on the fine-tuning split, where they are kept; else they are computed from
            `teacher` at first need.
    """

    backend: ClassVar[str] = "torch"

    name: str
    model: nn.Module
    train: Split
    validation: Split
    test: Split | None = None
    metric: Metric = ACCURACY
    score: Callable[[Tensor, Tensor], Tensor] = correct
    secondary: tuple[SecondaryScore, ...] = ()
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    imitation: Callable[[Tensor, Tensor, float], Tensor] | None = None
    prepare: Callable[[Tensor], Tensor] = identity
    recipe: Recipe = field(default_factory=Recipe)
    fine_tuning: Callable[[], Split] | None = None
    teacher: Callable[[Tensor], Tensor] | None = None
    soft_targets: Callable[[], Tensor] | None = None

    def __post_init__(self) -> None:
        model: object = self.model
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise InvalidRequest(f"workload model must be a torch.nn.Module, but got {kind}")
        names = [self.metric.name, *(each.metric.name for each in self.secondary)]
        if len(set(names)) < len(names):
            raise InvalidRequest(
                f"workload {self.name}: each metric must have a name of its own, but got "
                f"{', '.join(names)}"
            )
        for name in ("train", "validation", "test"):
            value = getattr(self, name)
            if value is not None or name != "test":
                object.__setattr__(self, name, as_split(name, value))

    def fidelity(self, epochs: float) -> int:
        """Passes over the training split -> training samples."""
        return round(epochs * len(self.train))


def as_split(name: str, value: object) -> Split:
    """Whatever a user gives as a split -> a `Split`.

    float64, numpy's default, becomes float32; whole targets of any width become int64, which is
    what torch's losses take.

    Raises:
        InvalidRequest: not a pair, of different lengths, or empty.
    """
    if isinstance(value, Split):
        split = value
    elif isinstance(value, tuple | list) and len(value) == 2:
        split = Split(_tensor(name, value[0]), _tensor(name, value[1]))
    elif hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        # A map-style dataset, e.g. torchvision's: read once, kept as tensors.
        pairs = [value[i] for i in range(len(value))]
        columns = ([_tensor(name, pair[i]) for pair in pairs] for i in (0, 1))
        split = Split(*(torch.stack(column) if column else torch.empty(0) for column in columns))
    else:
        raise InvalidRequest(
            f"workload {name} must be a pair (inputs, targets) of tensors or arrays, or a dataset "
            f"of pairs, but got {type(value).__name__}"
        )
    if len(split.inputs) != len(split.targets) or len(split) == 0:
        raise InvalidRequest(
            f"workload {name} must have as many inputs as targets and at least one, "
            f"but got {len(split.inputs)} and {len(split.targets)}"
        )
    inputs, targets = (
        x.float() if x.dtype == torch.float64 else x for x in (split.inputs, split.targets)
    )
    return Split(inputs, targets if targets.is_floating_point() else targets.long())


def _tensor(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        return torch.tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"workload {name} cannot be made a tensor: {error}") from None
