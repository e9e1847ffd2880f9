"""Reference policies: always the same few, and named with a reason where they are impossible."""

from dataclasses import replace

import pytest

from evaluators.capabilities import backend_capabilities
from evaluators.cost import format_capabilities
from search.proposers.references import REFERENCE_NAMES, references
from spaces import Capabilities, LayerCapabilities, LayerPolicy, Stage, build_space
from tests.simulator import CAPABILITIES, simulate

SIM = simulate(layers=4)
ANY = CAPABILITIES.layers["Linear"]
#: References whose weights are no integers.
WITH_FLOATS = {"fp16", "Deep Compression prune>cluster"}


def capabilities(layer: LayerCapabilities = ANY, **changes: object) -> Capabilities:
    return replace(CAPABILITIES, layers={"Linear": layer, "Conv2d": layer}, **changes)


def test_all_of_them_lie_in_the_whole_space():
    made = references(SIM.profile, CAPABILITIES)
    assert tuple(name for name, _ in made.policies) == REFERENCE_NAMES
    assert made.left_out == ()
    assert all(SIM.space.contains(policy) for _, policy in made.policies)
    assert len({policy.digest for _, policy in made.policies}) == len(REFERENCE_NAMES)


def test_what_they_ask_for():
    made = references(SIM.profile, CAPABILITIES)
    fp16, int8, sparse, deep, classic = (policy for _, policy in made.policies)
    assert {layer.bits for _, layer in fp16.layers} == {16}
    assert (int8.granularity, int8.scheme, int8.activation_bits) == ("channel", "symmetric", 32)
    assert {layer.sparsity for _, layer in sparse.layers} == {0.8}
    assert deep.order == (Stage.PRUNE, Stage.CLUSTER)
    assert classic.order == (Stage.PRUNE, Stage.DISTILL, Stage.CLUSTER, Stage.QUANTIZE)
    for policy in (deep, classic):
        assert {(layer.sparsity, layer.clusters) for _, layer in policy.layers} == {(0.9, 16)}


def test_they_shrink_the_network_in_turn():
    sizes = [SIM.measure(p).size_bytes for _, p in references(SIM.profile, CAPABILITIES).policies]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < SIM.profile.baseline_size_bytes


def test_a_layer_without_bias_keeps_its_policy_in_the_space():
    layers = tuple(replace(layer, bias_size=0) for layer in SIM.profile.layers)
    profile = replace(SIM.profile, layers=layers)
    space = build_space(profile, CAPABILITIES)
    assert all(space.contains(p) for _, p in references(profile, CAPABILITIES).policies)


@pytest.mark.parametrize(
    ("reduced", "missing", "reason"),
    [
        (capabilities(replace(ANY, bits=ANY.bits - {16})), {"fp16"}, "Linear bits 16"),
        (
            capabilities(replace(ANY, clusters=frozenset({None}))),
            {"Deep Compression prune>cluster", "classic prune>distill>cluster>quantize"},
            "Linear clusters 16",
        ),
        (
            capabilities(orders=frozenset({(), (Stage.QUANTIZE,)})),
            set(REFERENCE_NAMES) - {"fp16", "uniform int8"},
            "order prune>quantize",
        ),
        (capabilities(activation_bits=frozenset({8})), WITH_FLOATS, "activation bits 32"),
        (
            replace(CAPABILITIES, layers={"Conv2d": ANY}),
            set(REFERENCE_NAMES),
            "layer kind Linear (fc1)",
        ),
    ],
)
def test_what_is_impossible_is_left_out_with_its_reason(reduced, missing, reason):
    made = references(SIM.profile, reduced)
    assert {name for name, _ in made.left_out} == missing
    assert {name for name, _ in made.policies} == set(REFERENCE_NAMES) - missing
    assert reason in made.left_out[0][1]


def test_biases_stay_floats_where_their_bits_are_not_offered():
    made = references(SIM.profile, capabilities(replace(ANY, bias_bits=frozenset({32}))))
    assert made.left_out == ()
    layers = [layer for _, policy in made.policies for _, layer in policy.layers]
    assert {layer.bias_bits for layer in layers} == {32}
    assert {layer.bits for layer in layers} == {8, 16, 32}


def test_keras_has_the_recipe_of_its_own_tutorial():
    profile = replace(SIM.profile, backend="keras")
    offered = backend_capabilities("keras")
    made = dict(references(profile, offered).policies)
    policy = made["TFMOT tutorial PCQAT"]
    assert policy.order == (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE)
    assert {layer for _, layer in policy.layers} == {LayerPolicy(0.5, clusters=8, bits=8)}
    assert build_space(profile, offered).contains(policy)
    assert "TFMOT tutorial PCQAT" not in dict(references(SIM.profile, offered).policies)


def test_the_packed_format_can_do_all():
    assert references(SIM.profile, format_capabilities("packed")).left_out == ()


def test_without_a_teacher_the_classic_recipe_runs_without_it() -> None:
    made = references(SIM.profile, capabilities(distillation_kinds=frozenset({"none"})))
    assert not made.left_out
    name, policy = made.policies[-1]
    assert name == "classic prune>cluster>quantize"
    assert policy.order == (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE)
