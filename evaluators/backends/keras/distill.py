"""Distillation: the teacher's logits, computed once, and the loss that draws towards them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from evaluators.backends.keras.train import Loss, TrainingData
from spaces import Distillation

__all__ = ["CannotDistill", "Teacher", "as_logits", "distilled_loss", "task_only"]

BATCH = 250


class CannotDistill(Exception):
    """The network and its teacher have nothing that softened logits could compare."""


def as_logits(outputs: tf.Tensor, *, are_probabilities: bool) -> tf.Tensor:
    """A softmax of log(p) is p again, so the logarithm of probabilities are logits of them."""
    return tf.math.log(tf.maximum(outputs, 1e-9)) if are_probabilities else outputs


class Teacher:
    """The network to imitate."""

    def __init__(
        self,
        logits: Callable[[tf.Tensor], tf.Tensor],
        data: TrainingData,
        soft_targets: Callable[[], np.ndarray] | None,
    ) -> None:
        """Wrap a trained network.

        Args:
            logits: prepared inputs -> logits.
            data: whose samples are asked for.
            soft_targets: gives the (samples, classes) logits, where somebody keeps them.
        """
        self._logits_of, self._data, self._soft_targets = logits, data, soft_targets
        self._logits: np.ndarray | None = None

    def logits(self) -> np.ndarray:
        """(samples of the fine-tuning split, classes) float32.

        Raises:
            CannotDistill: kept soft targets of another number of samples.
        """
        if self._logits is None:
            self._logits = self._all_logits()
        return self._logits

    def _all_logits(self) -> np.ndarray:
        split = self._data.split
        if self._soft_targets is not None:
            kept = np.asarray(self._soft_targets(), dtype=np.float32)
            if len(kept) != len(split):
                raise CannotDistill(
                    f"soft_targets must give one row for each of the {len(split)} samples that "
                    f"are fine-tuned on, but gave {len(kept)}"
                )
            return kept
        parts = [
            self._logits_of(self._data.prepare(tf.constant(split.inputs[at : at + BATCH]))).numpy()
            for at in range(0, len(split), BATCH)
        ]
        return np.concatenate(parts)


def distilled_loss(
    task: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    distillation: Distillation,
    *,
    are_probabilities: bool,
) -> Loss:
    """(1 - weight) * task loss + weight * temperature^2 * KL(teacher || student).

    The softened logits of Hinton et al. (arXiv 1503.02531), as in the PyTorch backend.
    """
    temperature, weight = distillation.temperature, distillation.weight

    def loss(outputs: tf.Tensor, targets: tf.Tensor, soft: tf.Tensor) -> tf.Tensor:
        _require_comparable(outputs, soft)
        student = as_logits(outputs, are_probabilities=are_probabilities) / temperature
        teacher = soft / temperature
        terms = tf.nn.softmax(teacher) * (tf.nn.log_softmax(teacher) - tf.nn.log_softmax(student))
        imitation = tf.reduce_mean(tf.reduce_sum(terms, axis=1)) * temperature**2
        return (1 - weight) * task(outputs, targets) + weight * imitation

    return loss


def task_only(task: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Loss:
    """The workload's own loss."""
    return lambda outputs, targets, _: task(outputs, targets)


def _require_comparable(outputs: Any, soft: Any) -> None:
    ours, theirs = tuple(outputs.shape[1:]), tuple(soft.shape[1:])
    if len(ours) != 1 or ours[0] < 2:
        raise CannotDistill(f"softened logits need 2 classes or more, but outputs have {ours}")
    if ours != theirs:
        raise CannotDistill(f"the network's outputs have shape {ours}, its teacher's {theirs}")
