"""The sensitivity scan: what one treatment of one layer, untrained, does to the task loss."""

from collections.abc import Callable, Mapping

import numpy as np

from evaluators.backends.keras.network import KerasLayer, Network
from evaluators.backends.keras.rounding import stored_tensor
from evaluators.backends.kmeans import kmeans
from evaluators.backends.scan import QUANTILES, SCAN, passes_of
from spaces import LayerPolicy, LayerProfile, Sensitivity, tensor_name

__all__ = ["layer_profiles"]


def layer_profiles(
    network: Network, loss: Callable[[Mapping[str, np.ndarray]], float]
) -> tuple[tuple[LayerProfile, ...], int]:
    """(layers in the order of the network, passes of the scan).

    Args:
        network: the trained one.
        loss: weights -> task loss on samples of the TRAINING split: validation judges trials.
    """
    base = loss(network.weights)
    profiles = []
    for name, layer in network.layers.items():
        weight = tensor_name(name, "weight")
        values = network.weights[weight]
        found = []
        for knob, asked in SCAN:
            treated = network.weights | {weight: _treated(values, knob, asked)}
            value = float(getattr(asked, knob))
            found.append(Sensitivity(knob, value, round(loss(treated) - base, 6)))
        profiles.append(_profile(layer, values, tuple(found)))
    return tuple(profiles), passes_of(len(profiles))


def _profile(
    layer: KerasLayer, weight: np.ndarray, sensitivity: tuple[Sensitivity, ...]
) -> LayerProfile:
    quantiles = np.quantile(weight.ravel(), np.linspace(0, 1, QUANTILES))
    return LayerProfile(
        name=layer.name,
        kind=layer.kind,
        weight_shape=layer.shape,
        bias_size=layer.shape[0] if layer.has_bias else 0,
        macs=layer.macs,
        input_elements=layer.input_elements,
        output_elements=layer.output_elements,
        weight_quantiles=tuple(round(float(q), 7) for q in quantiles),
        can_prune_channels=False,
        sensitivity=sensitivity,
    )


def _treated(values: np.ndarray, knob: str, asked: LayerPolicy) -> np.ndarray:
    match knob:
        case "sparsity":
            cut = np.quantile(np.abs(values), asked.sparsity)
            pruned: np.ndarray = np.where(np.abs(values) < cut, np.float32(0), values)
            return pruned
        case "clusters":
            assert asked.clusters is not None
            flat = values.ravel()
            centroids = kmeans(flat, asked.clusters, "linear", np.random.default_rng(0))
            borders = (centroids[1:] + centroids[:-1]) / 2
            shared = centroids[np.searchsorted(borders, flat)].astype(np.float32)
            return shared.reshape(values.shape)
        case "bits":
            top = 2 ** (asked.bits - 1) - 1
            rounded = stored_tensor("w", values, clusters=False, bits=8, per_channel=False)
            if asked.bits == 8:
                return rounded.decode()
            scale = np.abs(values).max() / top
            coarse: np.ndarray = (np.round(values / scale) * scale).astype(np.float32)
            return coarse
    raise AssertionError(knob)
