"""Modelled latency: a roofline for each layer (Williams et al. 2009, CACM 52/4).

    ms = max(MACs / throughput(type), bytes moved / bandwidth) + overhead of one operation

and, where the profile knows them (`search calibrate`), the cost of every element that the layer
writes and, once an inference, the overhead of a call. The elements stand for what follows a
convolution and is no layer here: activation, pooling, a change of layout. In torch on a CPU they
are most of a small convolution's time.

Deliberately pessimistic about compression, because that is what runtimes were measured to do:
zeros inside a channel are multiplied like any other weight, a codebook is decoded to floats before
the first inference, and a grid under 8 bits runs, at best, as 8-bit integers. Only removed
channels and 8-bit integer kernels save time.
"""

from dataclasses import dataclass

from spaces import (
    Latency,
    LayerPolicy,
    LayerProfile,
    ModelProfile,
    Policy,
    Target,
    kept_channels,
)

__all__ = [
    "call_latency_ms",
    "channels",
    "layer_latency_ms",
    "layer_macs",
    "layer_shares",
    "macs",
    "modelled_latency",
]

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
#: An integer convolution that reads so few channels takes another kernel, and a slow one. With
#: three it is slower alone too, but in ResNet-20 a first layer in floats among integer ones cost
#: more: the runtime turned the layout of every block around (0.93 ms for the file, 0.85 without).
_SHALLOW = 1


@dataclass(frozen=True, slots=True)
class _Work:
    """One layer with the (kept, all) channels it reads and writes.

    `inputs` counts the channels of the group it reads, of which its input is a multiple.
    """

    layer: LayerProfile
    inputs: tuple[int, int]
    outputs: tuple[int, int]

    @property
    def inputs_kept(self) -> float:
        return self.inputs[0] / self.inputs[1]

    @property
    def outputs_kept(self) -> float:
        return self.outputs[0] / self.outputs[1]

    @property
    def macs(self) -> int:
        # In integers: exact, because a real layer's MACs are a multiple of both numbers.
        kept = self.inputs[0] * self.outputs[0]
        return max(1, round(self.layer.macs * kept / (self.inputs[1] * self.outputs[1])))


def _work(policy: Policy, profile: ModelProfile) -> list[_Work]:
    """Each layer with the channels it still reads and writes, in forward order.

    What counts is what the prune stage applies, `kept_channels`, not the share that was asked. A
    layer reads fewer channels where its whole input is one channel group's output
    (`LayerProfile.input_group`, from the backend's dependency graph) and that group lost channels.
    So this is exact for chains, parallel branches and residual adds, with batch-norms, activations,
    pooling or a flatten in between. A layer that reads a concatenation of several groups, a part
    of one, or something unknown has no credit for what is pruned before it: there the model says
    more than is computed, never less.
    """
    found = []
    for layer in profile.layers:
        inputs = (1, 1)
        if layer.input_group:
            inputs = channels(profile.layer_map[layer.input_group], policy.layer(layer.input_group))
        found.append(_Work(layer, inputs, channels(layer, policy.layer(layer.name))))
    return found


def channels(layer: LayerProfile, asked: LayerPolicy) -> tuple[int, int]:
    """(kept, all) output channels."""
    count = layer.weight_shape[0]
    return (kept_channels(count, asked.sparsity) if asked.pattern == "channel" else count), count


def layer_macs(policy: Policy, profile: ModelProfile) -> dict[str, int]:
    """Layer -> multiply-accumulates of one inference without pruned channels, at least 1."""
    return {work.layer.name: work.macs for work in _work(policy, profile)}


def layer_shares(policy: Policy, profile: ModelProfile) -> dict[str, tuple[float, float]]:
    """Layer -> shares of its input and of its output channels that are left."""
    return {w.layer.name: (w.inputs_kept, w.outputs_kept) for w in _work(policy, profile)}


def macs(policy: Policy, profile: ModelProfile) -> int:
    """Multiply-accumulates of one inference without pruned channels."""
    return sum(layer_macs(policy, profile).values())


def compute_type(asked: LayerPolicy, activation_bits: int, target: Target) -> str:
    """The data type a layer's kernel computes in on the target.

    A grid of 2 to 8 bits fits int8 levels. Codebook weights are decoded to floats, but for those of
    an `onnx` or `tflite` file whose entries lie on a grid.
    """
    levels = target.artifact_format in ("onnx", "tflite")
    on_grid = asked.bits <= 8 and (asked.clusters is None or levels)
    activations_fit = activation_bits <= 8 or not target.int8_needs_activation_bits
    if on_grid and activations_fit and "int8" in target.throughput_gmacs:
        return "int8"
    return target.compute_dtype


def _layer_ms(work: _Work, asked: LayerPolicy, activation_bits: int, target: Target) -> float:
    layer = work.layer
    kind = compute_type(asked, activation_bits, target)
    weights = layer.weights_read * work.inputs_kept * work.outputs_kept
    activations = (
        layer.input_elements * work.inputs_kept + layer.output_elements * work.outputs_kept
    )
    activation_bytes = (
        1 if activation_bits <= 8 and kind == "int8" else _BYTES[target.compute_dtype]
    )
    moved_bytes = weights * _BYTES[kind] + activations * activation_bytes
    # 10^9 a second is 10^6 a millisecond.
    compute_ms = work.macs / (_gmacs(layer, kind, target) * 1e6)
    memory_ms = moved_bytes / (target.bandwidth_gbps.value * 1e6)
    found_ms = max(compute_ms, memory_ms) + target.overhead_us.value / 1e3
    if target.output_element_ns is not None:
        written = layer.output_elements * work.outputs_kept
        found_ms += written * target.output_element_ns.value / 1e6
    return found_ms


def _gmacs(layer: LayerProfile, kind: str, target: Target) -> float:
    ratio = target.int8_shallow_ratio
    # Behind another layer so few channels a filter are a depthwise kernel, which is another matter.
    is_first = not layer.input_group
    is_shallow = (
        layer.kind in ("Conv1d", "Conv2d") and is_first and layer.weight_shape[1] <= _SHALLOW
    )
    if kind == "int8" and is_shallow and ratio is not None:
        return target.throughput_gmacs[target.compute_dtype].value * ratio.value
    return target.throughput_gmacs[kind].value


def layer_latency_ms(
    layer: LayerProfile,
    asked: LayerPolicy,
    inputs: tuple[int, int],
    activation_bits: int,
    target: Target,
) -> float:
    """One layer's term of `modelled_latency`.

    Args:
        layer, asked: the layer and its policy.
        inputs: (kept, all) channels of its input group, see `channels`; (1, 1) without one.
        activation_bits: of the policy.
        target: the hardware.
    """
    work = _Work(layer, inputs, channels(layer, asked))
    return _layer_ms(work, asked, activation_bits, target)


def call_latency_ms(target: Target) -> float:
    """What one inference costs besides its layers."""
    return 0.0 if target.call_overhead_us is None else target.call_overhead_us.value / 1e3


def modelled_latency(policy: Policy, profile: ModelProfile, target: Target) -> Latency:
    """Milliseconds of one inference; layers that no stage touches are not in it.

    `layers_ms` sum to less than the whole where a call itself costs something.
    """
    layers_ms = {
        work.layer.name: _layer_ms(
            work, policy.layer(work.layer.name), policy.activation_bits, target
        )
        for work in _work(policy, profile)
    }
    total_ms = sum(layers_ms.values()) + call_latency_ms(target)
    return Latency(total_ms, total_ms, "modelled", target.name, layers_ms)
