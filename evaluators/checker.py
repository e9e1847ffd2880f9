"""An independent check of asked = applied: reads only the decoded weights, never the training.

It shares no code with the stages. What it counts: zeros, all-zero output channels, distinct
values, equal spacing of a grid, half precision.
"""

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from spaces import LayerPolicy, Policy, tensor_name

__all__ = ["broken_constraints", "unrounded_activations"]


def broken_constraints(policy: Policy, weights: Mapping[str, np.ndarray]) -> list[str]:
    """One sentence for each constraint of the policy that the weights do not satisfy.

    Args:
        policy: what was asked.
        weights: "LAYER.weight" and "LAYER.bias" -> decoded float32 arrays, channels first.
    """
    broken = []
    for name, asked in policy.layers:
        weight = weights[tensor_name(name, "weight")]
        checks = [
            *_check_sparsity(asked, weight),
            *_check_values(asked, weight, policy),
            *_check_bias(asked, weights.get(tensor_name(name, "bias"))),
        ]
        broken += [f"{name}: {sentence}" for sentence in checks]
    return broken


def unrounded_activations(
    policy: Policy, layers: Iterable[str], rounded: Collection[str]
) -> list[str]:
    """One sentence for each layer whose input the file does not round though the policy asks.

    Args:
        policy: what was asked.
        layers: the compressible layers that read activations.
        rounded: the layers the file holds an activation grid for.
    """
    return [
        f"{name}: activation_bits {policy.activation_bits} is not in the file"
        for name in layers
        if policy.rounds_input(name) and name not in rounded
    ]


def _check_sparsity(asked: LayerPolicy, weight: np.ndarray) -> list[str]:
    channels = weight.reshape(len(weight), -1)
    if asked.pattern == "channel":
        zeros, count = int((channels == 0).all(axis=1).sum()), len(channels)
        what, most = "output channels", count - 1
    else:
        zeros, count = int((weight == 0).sum()), weight.size
        what, most = "weights", count
    wanted = min(math.floor(asked.sparsity * count), most)
    if zeros >= wanted:
        return []
    return [f"{zeros} of {count} {what} are zero, sparsity {asked.sparsity} asks for {wanted}"]


def _check_values(asked: LayerPolicy, weight: np.ndarray, policy: Policy) -> list[str]:
    values = np.unique(weight[weight != 0])
    broken = []
    if asked.clusters is not None and len(values) > asked.clusters:
        broken.append(f"{len(values)} distinct non-zero values, clusters asks for {asked.clusters}")
    if asked.bits == 16 and not np.array_equal(values, values.astype(np.float16)):
        broken.append("a value is not half precision, bits asks for 16")
    if asked.bits < 16:
        whole = asked.clusters is not None or policy.granularity == "tensor"
        rows = [weight.ravel()] if whole else weight.reshape(len(weight), -1)
        broken += [s for row in rows for s in _check_grid(row, asked.bits, policy.scheme)][:1]
    return broken


def _check_grid(values: np.ndarray, bits: int, scheme: str) -> list[str]:
    """Whether the values lie on one grid of 2^bits equally spaced levels through zero.

    A symmetric grid has no level on one side that the other lacks: 2^(bits - 1) - 1 on each.
    """
    distinct = np.unique(values).astype(np.float64)
    if 0.0 not in distinct:
        distinct = np.append(distinct, 0.0)
    if len(distinct) > 2**bits:
        return [f"{len(distinct)} distinct values on one scale, {bits} bits hold {2**bits}"]
    nonzero = distinct[distinct != 0]
    if len(nonzero) == 0:
        return []
    # The step divides the smallest magnitude: try every level that value could be.
    smallest = np.abs(nonzero).min()
    for level in range(1, 2**bits):
        ratios = nonzero * level / smallest
        levels = np.round(ratios)
        low, high = min(levels.min(), 0), max(levels.max(), 0)
        most = 2 ** (bits - 1) - 1 if scheme == "symmetric" else 2**bits - 1
        if (max(high, -low) if scheme == "symmetric" else high - low) > most:
            break
        # A level of at most 255 and its float32 product are within 3e-5 of one another.
        if np.allclose(ratios, levels, rtol=0, atol=1e-4):
            return []
    return [f"the values lie on no {scheme} grid of {2**bits} equally spaced levels"]


def _check_bias(asked: LayerPolicy, bias: np.ndarray | None) -> list[str]:
    if bias is None or asked.bias_bits == 32:
        return []
    if asked.bias_bits == 16:
        exact = np.array_equal(bias, bias.astype(np.float16))
        return [] if exact else ["a bias is not half precision, bias_bits asks for 16"]
    return [f"bias: {sentence}" for sentence in _check_grid(bias, asked.bias_bits, "symmetric")]
