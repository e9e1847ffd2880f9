"""What anybody would try first: every study evaluates these, so a user sees what searching adds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from spaces import (
    Capabilities,
    Distillation,
    LayerPolicy,
    LayerProfile,
    ModelProfile,
    Policy,
    Stage,
    format_order,
)
from spaces.policy import FULL_BITS

__all__ = ["REFERENCE_NAMES", "References", "references"]

_ALL_STAGES = (Stage.PRUNE, Stage.DISTILL, Stage.CLUSTER, Stage.QUANTIZE)


@dataclass(frozen=True)
class References:
    """The reference policies of a network.

    Attributes:
        policies: (name, policy), the order they are tried in.
        left_out: (name, reason) of those that backend or target format cannot do.
    """

    policies: tuple[tuple[str, Policy], ...]
    left_out: tuple[tuple[str, str], ...]


def _uniform(profile: ModelProfile, asked: LayerPolicy) -> tuple[tuple[str, LayerPolicy], ...]:
    """The same for every layer; a bias that does not exist keeps its neutral bits."""
    without_bias = replace(asked, bias_bits=FULL_BITS)
    return tuple(
        (layer.name, asked if layer.bias_size else without_bias) for layer in profile.layers
    )


def _fp16(profile: ModelProfile) -> Policy:
    layers = _uniform(profile, LayerPolicy(bits=16, bias_bits=16))
    return Policy((Stage.QUANTIZE,), layers)


def _uniform_int8(profile: ModelProfile) -> Policy:
    """Weights only, symmetric, one scale a channel: what runtimes call weight-only int8.

    Activations stay floats, because fully integer inference needs calibration that not every
    backend offers; the search may add 8-bit activations. Where nothing else runs, they have 8 bits.
    """
    return Policy((Stage.QUANTIZE,), _uniform(profile, LayerPolicy(bits=8)), granularity="channel")


def _pruned_int8(profile: ModelProfile) -> Policy:
    layers = _uniform(profile, LayerPolicy(sparsity=0.8, bits=8))
    return Policy((Stage.PRUNE, Stage.QUANTIZE), layers, granularity="channel")


def _deep_compression(profile: ModelProfile) -> Policy:
    """Deep Compression (arXiv 1510.00149): prune, cluster; the file's coder is its last step."""
    layers = _uniform(profile, LayerPolicy(sparsity=0.9, clusters=16))
    return Policy((Stage.PRUNE, Stage.CLUSTER), layers)


def _classic(profile: ModelProfile) -> Policy:
    """The same with a teacher and 8-bit values: prune, distill, cluster, quantize."""
    layers = _uniform(profile, LayerPolicy(sparsity=0.9, clusters=16, bits=8, bias_bits=8))
    return Policy(_ALL_STAGES, layers, Distillation("logits", temperature=4.0, weight=0.5))


def _tfmot_pcqat(profile: ModelProfile) -> Policy:
    """TFMOT's collaborative-optimisation tutorial: half the weights, 8 clusters, 8 bits.

    The tutorial counts zero among its 8 clusters; here it is 8 besides zero, as the space has it.
    """
    layers = _uniform(profile, LayerPolicy(sparsity=0.5, clusters=8, bits=8))
    return Policy((Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE), layers)


_MAKERS: Mapping[str, Callable[[ModelProfile], Policy]] = {
    "fp16": _fp16,
    "uniform int8": _uniform_int8,
    "uniform 80% sparse int8": _pruned_int8,
    "Deep Compression prune>cluster": _deep_compression,
    "classic prune>distill>cluster>quantize": _classic,
}
REFERENCE_NAMES = tuple(_MAKERS)
#: Backend -> what its users would try besides.
_OF_BACKEND: Mapping[str, Mapping[str, Callable[[ModelProfile], Policy]]] = {
    "keras": {"TFMOT tutorial PCQAT": _tfmot_pcqat}
}


def references(profile: ModelProfile, capabilities: Capabilities) -> References:
    """The reference policies that these capabilities allow, and why not the others."""
    policies, left_out = [], []
    makers = {**_MAKERS, **_OF_BACKEND.get(profile.backend, {})}
    for title, make in makers.items():
        name, policy = title, make(profile)
        if policy.distillation.kind not in capabilities.distillation_kinds:
            # Better the recipe without its teacher than no classic recipe to compare with.
            name, policy = title.replace(">distill", ""), policy.post_training()
        policy = _with_offered_biases(policy, profile, capabilities)
        policy = _with_offered_activations(policy, capabilities)
        reason = _refusal(policy, profile, capabilities)
        if reason:
            left_out.append((name, reason))
        else:
            policies.append((name, policy))
    return References(tuple(policies), tuple(left_out))


def _with_offered_biases(
    policy: Policy, profile: ModelProfile, capabilities: Capabilities
) -> Policy:
    """Float biases where the asked bits are not offered: they are hardly any of the bytes."""
    layers = []
    for name, asked in policy.layers:
        can = capabilities.layers.get(profile.layer_map[name].kind)
        keeps = can is None or asked.bias_bits in can.bias_bits
        layers.append((name, asked if keeps else replace(asked, bias_bits=FULL_BITS)))
    return replace(policy, layers=tuple(layers))


def _with_offered_activations(policy: Policy, capabilities: Capabilities) -> Policy:
    """8-bit activations beside 8-bit weights where the target runs integers only."""
    integers = all(asked.bits <= 8 for _, asked in policy.layers)
    return (
        replace(policy, activation_bits=8)
        if (integers and capabilities.activation_bits == {8})
        else policy
    )


def _refusal(policy: Policy, profile: ModelProfile, capabilities: Capabilities) -> str:
    """Why a policy is impossible; "" when it is not."""
    if policy.order not in capabilities.orders:
        return f"{capabilities.name} cannot do order {format_order(policy.order)}"
    if policy.activation_bits not in capabilities.activation_bits:
        return f"{capabilities.name} cannot do activation bits {policy.activation_bits}"
    if policy.scheme not in capabilities.schemes:
        return f"{capabilities.name} cannot do scheme {policy.scheme}"
    if policy.granularity not in capabilities.granularities:
        return f"{capabilities.name} cannot do granularity {policy.granularity}"
    refusals = (_layer_refusal(layer, policy, capabilities) for layer in profile.layers)
    return next((refusal for refusal in refusals if refusal), "")


def _layer_refusal(layer: LayerProfile, policy: Policy, capabilities: Capabilities) -> str:
    asked, can = policy.layer(layer.name), capabilities.layers.get(layer.kind)
    if can is None:
        return f"{capabilities.name} cannot do layer kind {layer.kind} ({layer.name})"
    wrong = [
        f"{what} {value}"
        for what, value, allowed in (
            ("bits", asked.bits, asked.bits in can.bits),
            ("clusters", asked.clusters, asked.clusters in can.clusters),
            ("pattern", asked.pattern, asked.sparsity == 0 or asked.pattern in can.patterns),
            ("bias bits", asked.bias_bits, not layer.bias_size or asked.bias_bits in can.bias_bits),
        )
        if not allowed
    ]
    return f"{capabilities.name} cannot do {layer.kind} {wrong[0]} ({layer.name})" if wrong else ""
