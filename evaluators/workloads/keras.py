"""What a Keras workload is: as `evaluators.workloads.base.Workload`, in tf_keras and arrays.

A user's own workload is a function which returns a `KerasWorkload`; README.md shows one in ten
lines. Importing this module imports no TensorFlow; a workload's own code may.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evaluators.workloads.recipe import Recipe
from spaces import ACCURACY, InvalidRequest, Metric

__all__ = ["ArraySplit", "KerasWorkload", "as_array_split", "correct"]


@dataclass(frozen=True)
class ArraySplit:
    """Samples and targets.

    Attributes:
        inputs: (samples, ...) in any dtype; `KerasWorkload.prepare` turns a batch into network
            input.
        targets: (samples, ...), e.g. class indices.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


def correct(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(batch, classes), (batch,) -> (batch,) of 0.0 or 1.0: the accuracy of each sample."""
    scores: np.ndarray = (outputs.argmax(axis=1) == targets).astype(np.float64)
    return scores


@dataclass(frozen=True)
class KerasWorkload:
    """A trained network with all that is needed to judge and fine-tune a compressed copy.

    Attributes:
        name: shown to people.
        model: the trained tf_keras network, Sequential or Functional, never changed; or the path
            of its .keras or .h5 file or its SavedModel folder.
        train, validation: splits as (inputs, targets) pairs of arrays; validation chooses.
        test: reports, never chooses; None when there is none.
        metric: what is measured; accuracy is the default.
        score: (outputs, targets), arrays -> one score a sample; their mean is the metric.
        loss: (outputs, targets), tensors -> scalar, for fine-tuning; None = the cross-entropy of
            class numbers, from logits or, where the last layer is a softmax, from probabilities.
        prepare: batch of stored inputs -> network input, tensor to tensor, e.g. uint8 images to
            floats; None = as float32.
        recipe: how to fine-tune.
        fine_tuning: gives the split to fine-tune on, where it is not `train` itself: whole sets of
            its samples, set after set in `train`'s order. Called at first need.
        teacher: another Keras network for distillation, taking the same prepared input; None = the
            uncompressed network itself.
        soft_targets: gives the teacher's (samples, classes) logits on the fine-tuning split, where
            they are kept; else they are computed from `teacher` at first need.
    """

    backend: ClassVar[str] = "keras"

    name: str
    model: Any
    train: Any
    validation: Any
    test: Any = None
    metric: Metric = ACCURACY
    score: Callable[[np.ndarray, np.ndarray], np.ndarray] = correct
    loss: Callable[[Any, Any], Any] | None = None
    prepare: Callable[[Any], Any] | None = None
    recipe: Recipe = field(default_factory=Recipe)
    fine_tuning: Callable[[], Any] | None = None
    teacher: Any = None
    soft_targets: Callable[[], np.ndarray] | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            value = getattr(self, name)
            if value is not None or name != "test":
                object.__setattr__(self, name, as_array_split(name, value))
        if isinstance(self.model, str | Path) and not Path(self.model).exists():
            raise InvalidRequest(f"workload model: there is no file or folder {self.model}")


def as_array_split(name: str, value: object) -> ArraySplit:
    """Whatever a user gives as a split -> an `ArraySplit`; float64 becomes float32.

    Raises:
        InvalidRequest: not a pair, of different lengths, or empty.
    """
    if isinstance(value, ArraySplit):
        split = value
    elif isinstance(value, tuple | list) and len(value) == 2:
        split = ArraySplit(*(np.asarray(part) for part in value))
    else:
        raise InvalidRequest(
            f"workload {name} must be a pair (inputs, targets) of arrays, "
            f"but got {type(value).__name__}"
        )
    if object in (split.inputs.dtype, split.targets.dtype):
        raise InvalidRequest(f"workload {name} must be arrays of numbers of one shape a sample")
    if len(split.inputs) != len(split.targets) or len(split) == 0:
        raise InvalidRequest(
            f"workload {name} must have as many inputs as targets and at least one, "
            f"but got {len(split.inputs)} and {len(split.targets)}"
        )
    inputs, targets = (
        x.astype(np.float32) if x.dtype == np.float64 else x for x in (split.inputs, split.targets)
    )
    return ArraySplit(inputs, targets)
