"""Modelled latency: a roofline for each layer (Williams et al. 2009, CACM 52/4).

    ms = max(MACs / throughput(type), bytes moved / bandwidth) + overhead of one operation

Deliberately pessimistic about compression, because that is what runtimes were measured to do:
zeros inside a channel are multiplied like any other weight, a codebook is decoded to floats before
the first inference, and a grid under 8 bits runs, at best, as 8-bit integers. Only removed
channels and 8-bit integer kernels save time.
"""

from dataclasses import dataclass

from spaces import Latency, LayerPolicy, LayerProfile, ModelProfile, Policy, Target

__all__ = ["layer_macs", "macs", "modelled_latency"]

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class _Work:
    """One layer's share of channels that are left, and its MACs with those."""

    layer: LayerProfile
    inputs_kept: float
    outputs_kept: float

    @property
    def macs(self) -> float:
        return self.layer.macs * self.inputs_kept * self.outputs_kept


def _work(policy: Policy, profile: ModelProfile) -> list[_Work]:
    """Each layer with the channels it still reads and writes, in forward order.

    A layer reads what the layer before it in forward order writes: exact for chains, and for
    residual nets as good as their coupled groups, which lose the same channels. A depthwise layer
    (one input channel a group) works on its own channels only.
    """
    found: list[_Work] = []
    before = 1.0
    for layer in profile.layers:
        asked = policy.layer(layer.name)
        outputs_kept = 1.0 - asked.sparsity if asked.pattern == "channel" else 1.0
        reads_all_channels = len(layer.weight_shape) > 1 and layer.weight_shape[1] > 1
        found.append(_Work(layer, before if reads_all_channels else 1.0, outputs_kept))
        before = outputs_kept
    return found


def layer_macs(policy: Policy, profile: ModelProfile) -> dict[str, int]:
    """Layer -> multiply-accumulates of one inference without pruned channels, at least 1."""
    return {work.layer.name: max(1, round(work.macs)) for work in _work(policy, profile)}


def macs(policy: Policy, profile: ModelProfile) -> int:
    """Multiply-accumulates of one inference without pruned channels."""
    return sum(layer_macs(policy, profile).values())


def compute_type(asked: LayerPolicy, activation_bits: int, target: Target) -> str:
    """The data type a layer's kernel computes in on the target.

    A grid of 2 to 8 bits fits int8 levels. Codebook weights do not: they are decoded to floats.
    """
    on_grid = asked.clusters is None and asked.bits <= 8
    activations_fit = activation_bits <= 8 or not target.int8_needs_activation_bits
    if on_grid and activations_fit and "int8" in target.throughput_gmacs:
        return "int8"
    return target.compute_dtype


def _layer_ms(work: _Work, asked: LayerPolicy, activation_bits: int, target: Target) -> float:
    layer = work.layer
    kind = compute_type(asked, activation_bits, target)
    weights = layer.weight_count * work.inputs_kept * work.outputs_kept
    activations = (
        layer.input_elements * work.inputs_kept + layer.output_elements * work.outputs_kept
    )
    activation_bytes = (
        1 if activation_bits <= 8 and kind == "int8" else _BYTES[target.compute_dtype]
    )
    moved_bytes = weights * _BYTES[kind] + activations * activation_bytes
    # 10^9 a second is 10^6 a millisecond.
    compute_ms = work.macs / (target.throughput_gmacs[kind].value * 1e6)
    memory_ms = moved_bytes / (target.bandwidth_gbps.value * 1e6)
    return max(compute_ms, memory_ms) + target.overhead_us.value / 1e3


def modelled_latency(policy: Policy, profile: ModelProfile, target: Target) -> Latency:
    """Milliseconds of one inference; layers that no stage touches are not in it."""
    layers_ms = {
        work.layer.name: _layer_ms(
            work, policy.layer(work.layer.name), policy.activation_bits, target
        )
        for work in _work(policy, profile)
    }
    total_ms = sum(layers_ms.values())
    return Latency(total_ms, total_ms, "modelled", target.name, layers_ms)
