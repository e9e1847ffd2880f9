"""Networks as functions of a batch, and the scores of a split's samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evaluators.workloads.keras import ArraySplit, KerasWorkload, correct
from spaces import InvalidRequest

__all__ = ["BATCH", "Runner", "sample_scores", "task_loss"]

#: Samples a forward pass.
BATCH = 250


class Runner:
    """A plain network, compiled once; its variables may be assigned to afterwards."""

    def __init__(self, model: keras.Model) -> None:
        """Args: model: never trained while this is in use."""
        self.model = model

        def forward(inputs: tf.Tensor) -> tf.Tensor:
            return model(inputs, training=False)

        self.call = tf.function(forward, autograph=False, reduce_retracing=True)

    def __call__(self, batch: Any) -> np.ndarray:
        """(batch, ...) prepared inputs -> outputs."""
        outputs: np.ndarray = self.call(tf.convert_to_tensor(batch)).numpy()
        return outputs


def sample_scores(
    run: Callable[[Any], np.ndarray],
    prepare: Callable[[Any], tf.Tensor],
    workload: KerasWorkload,
    split: ArraySplit,
) -> np.ndarray:
    """(samples,) float64, each sample's score.

    Raises:
        InvalidRequest: `score` does not give one number a sample.
    """
    scores = []
    for at in range(0, len(split), BATCH):
        targets = split.targets[at : at + BATCH]
        outputs = run(prepare(tf.constant(split.inputs[at : at + BATCH])))
        values = np.asarray(workload.score(outputs, targets), dtype=np.float64)
        if values.shape != targets.shape[:1]:
            raise InvalidRequest(
                f"workload {workload.name}: score must give one number a sample, shape "
                f"{targets.shape[:1]}, but gave shape {values.shape}{_hint(workload)}"
            )
        scores.append(values)
    return np.concatenate(scores)


def task_loss(
    run: Callable[[Any], np.ndarray],
    prepare: Callable[[Any], tf.Tensor],
    loss: Callable[[Any, Any], Any],
    split: ArraySplit,
) -> float:
    """The task loss, averaged over a split."""
    total = 0.0
    for at in range(0, len(split), BATCH):
        targets = split.targets[at : at + BATCH]
        outputs = run(prepare(tf.constant(split.inputs[at : at + BATCH])))
        total += float(loss(tf.constant(outputs), tf.constant(targets))) * len(targets)
    return total / len(split)


def _hint(workload: KerasWorkload) -> str:
    if workload.score is not correct:
        return ""
    return "; the default score is accuracy: give one, e.g. lambda o, t: ((o - t) ** 2).mean(1)"
