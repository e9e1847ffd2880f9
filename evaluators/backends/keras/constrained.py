"""Our own wrapper for what TFMOT cannot train: embeddings, and an LSTM's two matrices each alone.

A weight's latent values are what the optimiser moves; what the layer computes with is made of them
under what is established: a mask of zeros, shared values with an assignment, a grid of 8 bits.
Gradients go straight through roundings and assignments (Bengio et al. 2013, arXiv 1308.3432).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evaluators.backends.keras.recurrent import PlainLSTM
from evaluators.backends.keras.treatment import Cluster, Kept, Prune, Quantize, Treatment
from evaluators.backends.kmeans import kmeans
from evaluators.backends.schedule import RAMP_SHARE, UPDATE_EVERY

__all__ = ["Constrained", "is_own"]

#: Layer class -> suffix of a part's name -> (attribute that has the variable, its name there).
_WEIGHTS: dict[type, dict[str, tuple[str, str]]] = {
    keras.layers.Embedding: {"": ("", "embeddings")},
    PlainLSTM: {".input": ("cell", "kernel"), ".recurrent": ("cell", "recurrent_kernel")},
}
#: The outermost level of 8 bits, as in `rounding`.
_TOP = 127.0


def is_own(layer: keras.layers.Layer) -> bool:
    """Whether a layer is wrapped here and not by TFMOT."""
    return type(layer) in _WEIGHTS


class Constrained(keras.layers.Wrapper):  # type: ignore[misc]
    """An embedding or an LSTM in a stage."""

    def __init__(self, layer: keras.layers.Layer, treatments: Mapping[str, Treatment]) -> None:
        """Wrap a built layer.

        Args:
            layer: with the values to start from.
            treatments: name of a part ("embed", "lstm.input") -> what happens to it; a part that
                is not named is trained freely.
        """
        super().__init__(layer, name=f"constrained_{layer.name}")
        self._treatments = dict(treatments)
        self._weights: dict[str, _Weight] = {}
        self._steps = 0

    def build(self, input_shape: Any = None) -> None:
        """The variables of each constraint beside the layer's own."""
        super().build(input_shape)
        for name, treatment in self._treatments.items():
            holder, attribute = _WEIGHTS[type(self.layer)][name.removeprefix(self.layer.name)]
            owner = getattr(self.layer, holder) if holder else self.layer
            self._weights[name] = _make(self, name, owner, attribute, treatment)

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """The layer with its constrained weights in the places of its variables."""
        recurs = isinstance(self.layer, PlainLSTM)
        more = {"training": training, "mask": mask} if recurs else {}
        for weight in self._weights.values():
            # Not by Keras' own setter, which would no longer know the variable.
            object.__setattr__(weight.owner, weight.attribute, weight.effective())
        try:
            return self.layer(inputs, **more)
        finally:
            for weight in self._weights.values():
                object.__setattr__(weight.owner, weight.attribute, weight.latent)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The layer's."""
        return self.layer.compute_mask(inputs, mask)

    def advance(self) -> None:
        """Before each step: masks of the ramp and assignments move every few steps."""
        if self._steps % UPDATE_EVERY == 0:
            for weight in self._weights.values():
                weight.update(self._steps)
        self._steps += 1

    def values(self, name: str) -> np.ndarray | None:
        """A part's weight as it was trained, in Keras' order of axes, not yet rounded to a grid.

        None where the part is trained freely.
        """
        weight = self._weights.get(name)
        return None if weight is None else weight.values()


@dataclass
class _Weight:
    """One constrained weight.

    Attributes:
        owner, attribute: where the layer has it.
        latent: the layer's own variable.
        mask: variable of 0 and 1; None = no zeros.
        centroids, assignments: of shared values, (K,) and one index a weight; None = none.
        is_rounded: whether it is rounded to 8 bits as it is used.
        ramp: (sparsity, steps) of a mask that moves; None = it stays.
        moves: whether assignments follow the latent weights.
    """

    owner: Any
    attribute: str
    latent: Any
    mask: Any = None
    centroids: Any = None
    assignments: Any = None
    is_rounded: bool = False
    ramp: tuple[float, int] | None = None
    moves: bool = False

    def effective(self) -> tf.Tensor:
        """What the layer computes with."""
        if self.centroids is not None:
            shared = self.centroids
            if self.is_rounded:
                # A pruned value is the last entry, and no matter to the largest.
                shared = _rounded(shared)
            found = tf.gather(shared, self.assignments)
            if self.moves:
                found += self.latent - tf.stop_gradient(self.latent)
            return found if self.mask is None else found * self.mask
        values = self.latent if self.mask is None else self.latent * self.mask
        return _rounded(values) if self.is_rounded else tf.convert_to_tensor(values)

    def values(self) -> np.ndarray:
        """As `effective`, without rounding."""
        found = self.latent.numpy()
        if self.centroids is not None:
            found = self.centroids.numpy()[self.assignments.numpy()]
        if self.mask is not None:
            found = found * self.mask.numpy()
        return np.asarray(found, dtype=np.float32)

    def update(self, step: int) -> None:
        """Move what moves."""
        if self.ramp is not None:
            self._prune(step, *self.ramp)
        elif self.moves:
            self.assignments.assign(_nearest(self.latent.numpy(), self.centroids.numpy()))

    def _prune(self, step: int, sparsity: float, end: int) -> None:
        """Zhu & Gupta 2017, arXiv 1710.01878: a cubic ramp, by effective magnitude."""
        if step > end:
            return
        share = sparsity * (1.0 - (1.0 - step / end) ** 3)
        magnitude = np.abs(self.values()).ravel()
        mask = np.ones(magnitude.size, np.float32)
        count = round(share * magnitude.size)
        mask[np.argpartition(magnitude, count)[:count]] = 0
        self.mask.assign(mask.reshape(self.mask.shape))


def _make(
    wrapper: Constrained, name: str, owner: Any, attribute: str, treatment: Treatment
) -> _Weight:
    latent = getattr(owner, attribute)
    values = latent.numpy()
    weight = _Weight(owner, attribute, latent)

    def variable(what: str, start: np.ndarray, *, trains: bool = False) -> Any:
        return wrapper.add_weight(
            f"{name}/{what}",
            shape=start.shape,
            initializer=keras.initializers.Constant(start),
            dtype=start.dtype,
            trainable=trains,
        )

    def masked() -> Any:
        return variable("mask", (values != 0).astype(np.float32))

    def shared(centroids: np.ndarray) -> None:
        weight.mask = masked() if (values == 0).any() else None
        weight.centroids = variable("centroids", centroids, trains=True)
        weight.assignments = variable("assignments", _nearest(values, centroids))

    nonzero = values[values != 0]
    match treatment:
        case Prune(sparsity, steps):
            weight.mask = masked()
            moves = round(RAMP_SHARE * steps) // UPDATE_EVERY
            weight.ramp = (sparsity, moves * UPDATE_EVERY) if moves else None
        case Cluster(clusters, init) if nonzero.size:
            # Of the global generator, which the stage has seeded.
            rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
            shared(kmeans(nonzero, clusters, init, rng).astype(np.float32))
            weight.moves = True
        case Kept(int()) | Quantize(keeps_clusters=True) if nonzero.size:
            shared(np.unique(nonzero))
        case Kept():
            weight.mask = masked()
        case Quantize(keeps_zeros=keeps_zeros):
            weight.mask = masked() if keeps_zeros else None
    weight.is_rounded = isinstance(treatment, Quantize)
    return weight


def _nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of each value's nearest centroid, whatever their order."""
    order = np.argsort(centroids, kind="stable")
    ascending = centroids[order]
    borders = (ascending[1:] + ascending[:-1]) / 2
    return order[np.searchsorted(borders, values)].astype(np.int32)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _rounded(values: tf.Tensor) -> Any:
    """The nearest of 255 levels, the outermost at the largest magnitude; one scale for all."""
    values = tf.convert_to_tensor(values)
    scale = tf.maximum(tf.reduce_max(tf.abs(values)) / _TOP, np.finfo(np.float32).tiny)
    return tf.round(values / scale) * scale, lambda upstream: upstream
