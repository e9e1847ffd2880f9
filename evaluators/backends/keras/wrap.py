"""TFMOT's wrappers around layers: put on for a stage, read out after it.

Masks and centroids that earlier stages established are put into new wrappers as they are, never
computed again: TFMOT's own wrappers would start from other centroids, or let a zero come back.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper import (
    ClusterWeights,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import (
    QuantizeWrapper,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
    PruneLowMagnitude,
)

from evaluators.backends.keras.constrained import Constrained, is_own
from evaluators.backends.keras.network import Network
from evaluators.backends.keras.quantizers import WeightConfig, WeightsOnlyScheme, latent_kernel
from evaluators.backends.keras.recurrent import PlainLSTM
from evaluators.backends.keras.treatment import Cluster, Kept, Prune, Quantize, Treatment
from evaluators.backends.schedule import RAMP_SHARE, UPDATE_EVERY
from spaces import tensor_name

__all__ = ["read_out", "wrapped"]

_SCHEDULES = tfmot.sparsity.keras
_INITS = {
    name: getattr(tfmot.clustering.keras.CentroidInitialization, value)
    for name, value in (
        ("linear", "LINEAR"),
        ("density", "DENSITY_BASED"),
        ("random", "RANDOM"),
        ("k-means++", "KMEANS_PLUS_PLUS"),
    )
}
#: A step that no stage reaches: a mask that is never computed again.
_NEVER = 2**31 - 1


def wrapped(
    network: Network, weights: Mapping[str, np.ndarray], treatments: Mapping[str, Treatment]
) -> keras.Model:
    """A trainable network whose layers are wrapped for a stage.

    Args:
        network: the architecture.
        weights: tensor -> values to start from.
        treatments: layer, or part of one -> its wrapper; a layer that is not named is trained
            freely.
    """
    model = network.with_weights(weights)
    model.trainable = True
    own: dict[str, dict[str, Treatment]] = {}
    for name, treatment in treatments.items():
        owner = network.layers[name].owner
        if is_own(model.get_layer(owner)):
            own.setdefault(owner, {})[name] = treatment
    treatments = {n: t for n, t in treatments.items() if network.layers[n].owner not in own}
    quantized = {n: t for n, t in treatments.items() if isinstance(t, Quantize)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras about Keras
        if quantized:
            model = _quantized(model, quantized)

        def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
            if layer.name in own:
                return Constrained(layer, own[layer.name])
            match treatments.get(layer.name):
                case Prune(sparsity, steps):
                    return _prune(layer, sparsity, steps)
                case Cluster(clusters, init):
                    return _cluster(layer, clusters, init)
                case Kept(None):
                    return _prune(layer, 0.5, 0)
                case Kept(int(clusters)):
                    return _cluster(layer, clusters, "linear")
            return layer

        model = keras.models.clone_model(model, clone_function=wrap)
    for name, treatment in treatments.items():
        if isinstance(treatment, Kept):
            weight = network.layers[name].last(weights[tensor_name(name, "weight")])
            _restore(_wrapper_of(model, name), weight)
    return model


def _quantized(model: keras.Model, treatments: Mapping[str, Quantize]) -> keras.Model:
    def annotate(layer: keras.layers.Layer) -> keras.layers.Layer:
        asked = treatments.get(layer.name)
        if asked is None:
            return layer
        config = WeightConfig(asked.per_channel, asked.keeps_zeros, asked.keeps_clusters)
        return tfmot.quantization.keras.quantize_annotate_layer(layer, config)

    annotated = keras.models.clone_model(model, clone_function=annotate)
    known = {"WeightConfig": WeightConfig, "PlainLSTM": PlainLSTM}
    with tfmot.quantization.keras.quantize_scope(known):
        return tfmot.quantization.keras.quantize_apply(annotated, WeightsOnlyScheme())


def _prune(layer: keras.layers.Layer, sparsity: float, steps: int) -> keras.layers.Layer:
    """The mask moves every few steps up to the ramp's end; with no steps it never does."""
    moves = round(RAMP_SHARE * steps) // UPDATE_EVERY
    if moves == 0:
        schedule = _SCHEDULES.ConstantSparsity(sparsity, begin_step=_NEVER)
    else:
        schedule = _SCHEDULES.PolynomialDecay(
            0.0, sparsity, begin_step=0, end_step=moves * UPDATE_EVERY, frequency=UPDATE_EVERY
        )
    return _SCHEDULES.prune_low_magnitude(layer, pruning_schedule=schedule)


def _cluster(layer: keras.layers.Layer, clusters: int, init: str) -> keras.layers.Layer:
    has_zeros = bool((layer.kernel.numpy() == 0).any())
    return tfmot.clustering.keras.cluster_weights(
        layer,
        # With zeros preserved TFMOT counts them as one of its clusters.
        number_of_clusters=clusters + 1 if has_zeros else clusters,
        cluster_centroids_init=_INITS[init],
        preserve_sparsity=has_zeros,
    )


def _wrapper_of(model: keras.Model, name: str) -> keras.layers.Layer:
    wrappers = (layer for layer in model.layers if isinstance(layer, keras.layers.Wrapper))
    return next(wrapper for wrapper in wrappers if wrapper.layer.name == name)


def _restore(wrapper: keras.layers.Layer, kernel: np.ndarray) -> None:
    """Put the established zeros, or the shared values, into a new wrapper."""
    if isinstance(wrapper, PruneLowMagnitude):
        ((_, mask, _),) = wrapper.pruning_vars
        mask.assign((kernel != 0).astype(np.float32))
        return
    assert isinstance(wrapper, ClusterWeights)
    centroids = wrapper.cluster_centroids["kernel"]
    values = np.unique(kernel)
    # Fewer than there is room for: the last one stands several times, which changes nothing.
    filled = np.resize(values, centroids.shape[0])
    filled[len(values) :] = values[-1]
    centroids.assign(filled)
    if wrapper.preserve_sparsity:
        wrapper.zero_idx["kernel"] = tf.constant(int(np.argmin(np.abs(filled))), tf.int64)
        wrapper.sparsity_masks["kernel"] = tf.constant((kernel != 0).astype(np.float32))


def read_out(network: Network, model: keras.Model) -> dict[str, np.ndarray]:
    """Tensor -> float32 values a wrapped network was trained to, before any rounding to a grid."""
    tensors: dict[str, np.ndarray] = {}
    for layer in model.layers:
        inner = layer.layer if isinstance(layer, keras.layers.Wrapper) else layer
        described = network.layers.get(inner.name)
        if isinstance(layer, Constrained):
            tensors |= network.read_layer(inner) | _constrained(network, layer)
            continue
        if inner is layer or described is None:
            tensors |= network.read_layer(inner)
            continue
        tensors[tensor_name(inner.name, "weight")] = described.first(_kernel(layer))
        if described.has_bias:
            tensors[tensor_name(inner.name, "bias")] = inner.bias.numpy()
    return tensors


def _constrained(network: Network, wrapper: Constrained) -> dict[str, np.ndarray]:
    tensors = {}
    for name, described in network.layers.items():
        values = wrapper.values(name)
        if values is not None:
            tensors[tensor_name(name, "weight")] = described.first(values)
    return tensors


def _kernel(wrapper: keras.layers.Layer) -> np.ndarray:
    values: Any
    match wrapper:
        case PruneLowMagnitude():
            ((weight, mask, _),) = wrapper.pruning_vars
            values = weight.numpy() * mask.numpy()
        case ClusterWeights():
            wrapper.update_clustered_weights_associations()
            values = wrapper.layer.kernel.numpy()
        case QuantizeWrapper():
            values = latent_kernel(wrapper)
        case _:
            raise AssertionError(f"{wrapper.name} is no wrapper of ours")
    return np.asarray(values, dtype=np.float32)
