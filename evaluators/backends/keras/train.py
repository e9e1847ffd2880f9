"""The fine-tuning loop of every stage: a number of samples, a loss, TFMOT's callback."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow.python.framework.func_graph import dismantle_func_graph

from evaluators.backends.keras.constrained import Constrained
from evaluators.backends.schedule import CHECK_EVERY, Diverged, learning_rate_factor, steps_of
from evaluators.workloads.keras import ArraySplit
from evaluators.workloads.recipe import Recipe

__all__ = ["Diverged", "Loss", "TrainingData", "fine_tune", "release"]

#: (outputs, targets, the teacher's logits or an empty tensor) -> scalar
Loss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class TrainingData:
    """What is fine-tuned on.

    Attributes:
        split: samples and targets; whole sets of the training split, one after the other.
        prepare: stored inputs -> network input.
        set_size: samples of the training split itself.
    """

    split: ArraySplit
    prepare: Callable[[Any], tf.Tensor]
    set_size: int


def fine_tune(
    model: keras.Model,
    data: TrainingData,
    recipe: Recipe,
    samples: int,
    loss: Loss,
    soft_targets: np.ndarray | None,
    rng: np.random.Generator,
) -> None:
    """Train every trainable variable.

    Args:
        model: wrapped for its stage; changed in place.
        data: where batches come from, in random order without replacement within a pass.
        recipe: batch size and learning rate.
        samples: how many training samples to see, rounded to whole steps.
        loss: see `Loss`.
        soft_targets: (samples of the split, classes) logits; None where the loss needs none.
        rng: of the sample order.

    Raises:
        Diverged: the loss or a weight became NaN or infinite.
    """
    batch_size = min(recipe.batch_size, data.set_size)
    steps = steps_of(samples, batch_size)
    if steps == 0:
        return
    variables = model.trainable_variables
    optimiser = keras.optimizers.legacy.Adam(recipe.learning_rate, beta_2=0.99)

    def step(inputs: tf.Tensor, targets: tf.Tensor, soft: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(model(data.prepare(inputs), training=True), targets, soft)
        gradients = tape.gradient(value, variables)
        # A kernel whose values come from centroids has no gradient of its own.
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        optimiser.apply_gradients(pairs)
        return value

    compiled = tf.function(step, autograph=False)
    # Made before the first step, or it would be traced a second time without making them.
    optimiser._create_all_weights(variables)
    model.optimizer = optimiser
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    ours = [layer for layer in model.layers if isinstance(layer, Constrained)]
    nothing = np.zeros((0,), np.float32)
    for number, indices in enumerate(_batches(data, batch_size, steps, rng)):
        optimiser.learning_rate = recipe.learning_rate * learning_rate_factor(number, steps, recipe)
        for layer in ours:
            layer.advance()
        value = compiled(
            tf.constant(data.split.inputs[indices]),
            tf.constant(data.split.targets[indices]),
            tf.constant(nothing if soft_targets is None else soft_targets[indices]),
        )
        if number % CHECK_EVERY == 0 or number == steps - 1:
            _require_finite(float(value), number)
    callback.on_epoch_end(0)
    release(compiled)
    if not all(np.isfinite(v.numpy()).all() for v in variables):
        raise Diverged("a weight is no longer a finite number")


def release(function: Any) -> None:
    """Take a compiled function's graphs apart; it cannot be called any more.

    They are cycles through C++ objects that Python's collector does not see: some 5 MB a trial.
    """
    for concrete in function._list_all_concrete_functions():
        graph = concrete.graph
        dismantle_func_graph(graph)
        # It leaves a second list of what was captured: every variable with its moments.
        graph._function_captures._recompute_cached_properties()
        graph.inputs, graph.outputs = [], []


def _require_finite(value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"the loss became {value} at step {step}")


def _batches(
    data: TrainingData, batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """`steps` arrays of indices; each pass sees every training sample once, from a random set.

    Each pass is a new permutation, tails dropped.
    """
    count, sets = data.set_size, len(data.split) // data.set_size
    given = 0
    while given < steps:
        order = rng.permutation(count)
        if sets > 1:
            order = order + count * rng.integers(sets, size=count)
        for start in range(0, count - batch_size + 1, batch_size):
            if given == steps:
                return
            given += 1
            yield order[start : start + batch_size]
