"""Keras behind a worker: a workload whose network is a tf_keras model, compressed by TFMOT."""

import gc
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework.func_graph import dismantle_func_graph
from tensorflow.python.framework.ops import gradient_registry
from tf_keras.src.backend import get_graph

from evaluators.artifacts.packed import Artifact, FloatTensor
from evaluators.backends.base import (
    AnyWorkload,
    Compressed,
    Scan,
    Score,
    Seeds,
    SplitName,
    mean_score,
)
from evaluators.backends.keras.distill import Teacher, as_logits
from evaluators.backends.keras.formats import KerasFormat, NoRemoval, make_format
from evaluators.backends.keras.network import Network, load_model
from evaluators.backends.keras.pipeline import compress
from evaluators.backends.keras.process import prepare
from evaluators.backends.keras.profile import layer_profiles
from evaluators.backends.keras.score import Runner, sample_scores, task_loss
from evaluators.backends.keras.train import TrainingData
from evaluators.backends.scan import scan_samples
from evaluators.workloads.keras import ArraySplit, KerasWorkload, as_array_split
from spaces import Failure, InvalidRequest, Metric, Policy

__all__ = ["KerasBackend"]

#: The audit after each stage scores this many validation samples; the file is scored on all.
AUDIT_SAMPLES = 2000
#: Policies between two searches for garbage, which take a third of a second.
COLLECT_EVERY = 4


class KerasBackend:
    """See `evaluators.backends.base.Backend`."""

    name = "keras"

    def __init__(self, workload: AnyWorkload, device: str) -> None:
        """Take a loaded workload.

        Args:
            workload: a `KerasWorkload`.
            device: "auto" or "cpu".

        Raises:
            InvalidRequest: a network that cannot be held, or a device that is not built.
        """
        assert isinstance(workload, KerasWorkload)
        if device == "cuda":
            raise InvalidRequest("--device cuda: the Keras backend computes on the CPU only")
        prepare()
        self.workload, self.device = workload, "cpu"
        self.network = Network(load_model(workload.model))
        self._compressed = 0

    def prepare(self, batch: Any) -> tf.Tensor:
        """A batch of stored inputs -> network input."""
        if self.workload.prepare is None:
            wanted = self.network.model.inputs[0].dtype
            return tf.cast(batch, wanted)
        return tf.convert_to_tensor(self.workload.prepare(batch))

    @cached_property
    def loss(self) -> Callable[[Any, Any], Any]:
        """(outputs, targets) -> scalar."""
        if self.workload.loss is not None:
            return self.workload.loss
        from_logits = not self.network.gives_probabilities

        def cross_entropy(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
            losses = keras.losses.sparse_categorical_crossentropy(
                targets, outputs, from_logits=from_logits
            )
            return tf.reduce_mean(losses)

        return cross_entropy

    @cached_property
    def _plain(self) -> Runner:
        """One compiled network for everything that only needs other weights for a moment."""
        return Runner(self.network.with_weights(self.network.weights))

    def _with(self, weights: Mapping[str, np.ndarray]) -> Runner:
        self.network.write(self._plain.model, weights)
        return self._plain

    @cached_property
    def data(self) -> TrainingData:
        """What is fine-tuned on.

        Raises:
            InvalidRequest: `fine_tuning` does not give whole sets of the training split.
        """
        train, give = self.workload.train, self.workload.fine_tuning
        split = train if give is None else as_array_split("fine_tuning", give())
        if len(split) % len(train):
            raise InvalidRequest(
                f"workload {self.workload.name}: fine_tuning must give whole sets of the "
                f"{len(train)} training samples, but gave {len(split)}"
            )
        return TrainingData(split, self.prepare, len(train))

    @cached_property
    def teacher(self) -> Teacher:
        """The workload's teacher, or the uncompressed network."""
        given = self.workload.teacher
        network = self.network if given is None else Network(load_model(given))
        run = Runner(network.model)

        def logits(inputs: tf.Tensor) -> tf.Tensor:
            return as_logits(run.call(inputs), are_probabilities=network.gives_probabilities)

        return Teacher(logits, self.data, self.workload.soft_targets)

    @cached_property
    def _audit_split(self) -> ArraySplit:
        split = self.workload.validation
        return ArraySplit(split.inputs[:AUDIT_SAMPLES], split.targets[:AUDIT_SAMPLES])

    def baseline_artifact(self) -> Artifact:
        """See `Backend.baseline_artifact`."""
        return Artifact(tuple(FloatTensor(n, v) for n, v in self.network.weights.items()), {})

    def whole(self) -> NoRemoval:
        """See `Backend.whole`."""
        return NoRemoval()

    def file_format(self, name: str) -> KerasFormat:
        """See `Backend.file_format`."""
        return make_format(name, self.network, self._sample)

    @cached_property
    def _sample(self) -> tf.Tensor:
        return self.prepare(tf.constant(self.workload.validation.inputs[:1]))

    def scan(self) -> Scan:
        """See `Backend.scan`."""
        train = self.workload.train
        found = self.network.layers.values()
        count = scan_samples(sum(layer.macs for layer in found), len(found))
        split = ArraySplit(train.inputs[:count], train.targets[:count])
        layers, passes = layer_profiles(
            self.network,
            lambda weights: task_loss(self._with(weights), self.prepare, self.loss, split),
        )
        own = sum(layer.weight_count + layer.bias_size for layer in layers)
        total = sum(values.size for values in self.network.weights.values())
        return Scan(
            layers=layers,
            excluded=self.network.excluded,
            passes=passes,
            channel_groups=(),
            other_bytes=4 * (total - own),
            gives_logits=self._gives_logits(),
            has_attention=False,
        )

    def _gives_logits(self) -> bool:
        """Outputs (batch, classes >= 2) for targets that are class numbers."""
        shape, targets = self.network.model.output_shape, self.workload.validation.targets
        classes = len(shape) == 2 and shape[1] is not None and shape[1] >= 2
        return classes and targets.ndim == 1 and targets.dtype.kind in "iu"

    def compress(self, policy: Policy, seeds: Seeds) -> Compressed | Failure:
        """See `Backend.compress`."""
        try:
            done = compress(
                self.network,
                self.workload.recipe,
                self.loss,
                policy,
                seeds,
                lambda: self.teacher,
                self.data,
                self._audit_score,
            )
        finally:
            self._tidy()
        if isinstance(done, Failure):
            return done
        student, audit = done
        effective = self.network.read(self._with(student.weights).model)
        layers = tuple(self.network.layers)
        return Compressed(student.artifact, effective, layers, lambda _: NoRemoval(), audit)

    def removal(self, policy: Policy, weights: Mapping[str, np.ndarray]) -> NoRemoval:  # noqa: ARG002 -- none here
        """See `Backend.removal`."""
        return NoRemoval()

    def call(self, run: Callable[[Any], Any]) -> Callable[[], object]:
        """See `Backend.call`."""
        return lambda: run(self._sample)

    def _tidy(self) -> None:
        """Keras keeps names of every layer it ever made, and their graphs refer to themselves."""
        scratch = get_graph()
        keras.backend.clear_session()
        dismantle_func_graph(scratch)
        _forget_gradients()
        self._compressed += 1
        if self._compressed % COLLECT_EVERY == 0:
            gc.collect()

    def _audit_score(self, weights: Mapping[str, np.ndarray]) -> float:
        scores = sample_scores(self._with(weights), self.prepare, self.workload, self._audit_split)
        return mean_score(scores, self.workload.name)[0]

    def baseline_score(self) -> Score:
        """See `Backend.baseline_score`."""
        run = self._with(self.network.weights)
        return mean_score(self.sample_scores(run, "validation"), self.workload.name)

    def sample_scores(self, run: Callable[[Any], Any], split: SplitName) -> np.ndarray:
        """See `Backend.sample_scores`."""
        samples = self.workload.validation if split == "validation" else self.workload.test
        assert samples is not None
        return sample_scores(run, self.prepare, self.workload, samples)

    @property
    def secondary(self) -> tuple[Metric, ...]:
        """See `Backend.secondary`: a `KerasWorkload` has one metric."""
        return ()

    def secondary_scores(
        self,
        run: Callable[[Any], Any],  # noqa: ARG002 -- there are none
        split: SplitName,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """See `Backend.secondary_scores`."""
        return {}


def _forget_gradients() -> None:
    """Drop the gradients of what was traced: TensorFlow keeps every one for ever, with its tensors.

    TFMOT's clustering has a gradient of its own, which registers itself anew in each trace.
    """
    registered = gradient_registry._registry
    for name in [name for name in registered if name.startswith("CustomGradient-")]:
        del registered[name]
