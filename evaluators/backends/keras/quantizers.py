"""How TFMOT trains weights for 8-bit kernels: one configuration a layer, weights only.

TFMOT's preserving quantizers decide by themselves whether a convolution was clustered per channel,
from how many values its channels have, and then train a codebook a channel: the shared values
multiply by the number of channels (tensorflow/model-optimization#1056). Ours says that it was not.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.clustering.keras import (
    cluster_config,
    clustering_registry,
)
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (  # noqa: E501
    cluster_preserve_quantize_registry as preserve,
)
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve.prune_preserve_quantize_registry import (  # noqa: E501
    PrunePreserveDefaultWeightsQuantizer,
)

__all__ = ["BITS", "WeightConfig", "WeightsOnlyScheme", "latent_kernel"]

BITS = 8


class _KeepsClusters(preserve.ClusterPreserveDefaultWeightsQuantizer):  # type: ignore[misc]
    """CQAT and PCQAT with one codebook a tensor, whatever the layer."""

    preserve_sparsity: bool

    def _build_clusters(self, name: str, layer: keras.layers.Layer) -> dict[str, Any]:
        """As TFMOT's, without its guess about channels."""
        kernel = getattr(layer.layer, name).numpy()
        values = np.unique(kernel)
        self.preserve_sparsity = bool(self.preserve_sparsity and (kernel == 0).any())
        found: dict[str, Any] = {}
        mask = None
        if self.preserve_sparsity:
            found[preserve.SPARSITY_MASK] = tf.constant((kernel != 0).astype(np.float32))
            mask = tf.constant((values != 0).astype(np.float32))
        if len(values) < 2:
            return found  # one value only: nothing to preserve that training could lose

        def weight(suffix: str, start: np.ndarray, *, trains: bool) -> Any:
            return layer.add_weight(
                suffix,
                shape=start.shape,
                initializer=keras.initializers.Constant(start),
                dtype=start.dtype,
                trainable=trains,
            )

        centroids = weight(preserve.CLUSTER_CENTROIDS, values, trains=True)
        original = weight(preserve.ORIGINAL_WEIGHTS, kernel, trains=True)
        registry = clustering_registry.ClusteringLookupRegistry()
        algorithm = registry.get_clustering_impl(layer.layer, name, cluster_per_channel=False)(
            centroids, cluster_config.GradientAggregation.SUM, "channels_last"
        )
        indices = np.searchsorted(values, kernel).astype(np.int64)
        return found | {
            preserve.CLUSTER_CENTROIDS: centroids,
            preserve.ORIGINAL_WEIGHTS: original,
            preserve.PULLING_INDICES: weight(preserve.PULLING_INDICES, indices, trains=False),
            preserve.WEIGHT_NAME: name,
            preserve.CLUSTERING_IMPL: algorithm,
            preserve.CENTROIDS_MASK: mask,
        }


class WeightConfig(tfmot.quantization.keras.QuantizeConfig):  # type: ignore[misc]
    """Weights in 8 bits, symmetric without -128; activations and outputs stay floats."""

    def __init__(self, per_channel: bool, keeps_zeros: bool, keeps_clusters: bool) -> None:
        """Args: see `evaluators.backends.keras.wrap.Quantize`."""
        self.per_channel, self.keeps_zeros = per_channel, keeps_zeros
        self.keeps_clusters = keeps_clusters
        if keeps_clusters:
            self.quantizer = _KeepsClusters(
                BITS,
                per_axis=False,
                symmetric=True,
                narrow_range=True,
                preserve_sparsity=keeps_zeros,
            )
        else:
            kind = tfmot.quantization.keras.quantizers.LastValueQuantizer
            if keeps_zeros:
                kind = PrunePreserveDefaultWeightsQuantizer
            self.quantizer = kind(BITS, per_axis=per_channel, symmetric=True, narrow_range=True)

    def get_weights_and_quantizers(self, layer: keras.layers.Layer) -> list[tuple[Any, Any]]:
        """The kernel."""
        return [(layer.kernel, self.quantizer)]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:  # noqa: ARG002
        """None."""
        return []

    def set_quantize_weights(self, layer: keras.layers.Layer, quantize_weights: list[Any]) -> None:
        """Compute with the rounded kernel."""
        (layer.kernel,) = quantize_weights

    def set_quantize_activations(
        self, layer: keras.layers.Layer, quantize_activations: list[Any]
    ) -> None:
        """Nothing to set."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:  # noqa: ARG002
        """None."""
        return []

    def get_config(self) -> dict[str, Any]:
        """What makes the same configuration again."""
        return {
            "per_channel": self.per_channel,
            "keeps_zeros": self.keeps_zeros,
            "keeps_clusters": self.keeps_clusters,
        }


class _NoDefaults:
    """A registry without a default for any layer: only what is annotated is quantized."""

    def supports(self, layer: Any) -> bool:  # noqa: ARG002
        return False


class WeightsOnlyScheme(tfmot.quantization.keras.QuantizeScheme):  # type: ignore[misc]
    """No layout transforms and no defaults: TFMOT's would round inputs and outputs as well."""

    def get_layout_transformer(self) -> Any:
        """Leaves the network as it is."""
        return _NoTransforms()

    def get_quantize_registry(self) -> Any:
        """Knows no layer."""
        return _NoDefaults()


class _NoTransforms:
    """A layout transform that does nothing."""

    def apply(self, model: keras.Model, layer_quantize_map: Any) -> tuple[keras.Model, Any]:
        return model, layer_quantize_map


def latent_kernel(wrapper: Any) -> np.ndarray:
    """The kernel a `QuantizeWrapper` was trained to, zeros and shared values kept, unrounded."""
    ((kernel, _, found),) = wrapper._weight_vars
    values = kernel.numpy()
    mask = found.get(preserve.SPARSITY_MASK, found.get("sparsity_mask"))
    if preserve.CLUSTER_CENTROIDS in found:
        original = found[preserve.ORIGINAL_WEIGHTS].numpy()
        centroids = found[preserve.CLUSTER_CENTROIDS].numpy()
        if found[preserve.CENTROIDS_MASK] is not None:
            centroids = centroids * found[preserve.CENTROIDS_MASK].numpy()
            original = original * mask.numpy()
        algorithm = found[preserve.CLUSTERING_IMPL]
        indices = algorithm.get_pulling_indices(tf.constant(original), tf.constant(centroids))
        values = centroids[indices.numpy()]
    elif mask is not None:
        values = values * mask.numpy()
    return np.asarray(values, dtype=np.float32)
