"""Modelled latency: only removed channels and 8-bit integer kernels make a network faster."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.cost import layer_macs, list_targets, load_target, macs, modelled_latency
from spaces import Figure, LayerPolicy, Policy, Stage
from spaces.search_space import BITS, CLUSTERS, SPARSITIES
from tests.simulator import simulate

SIM = simulate(layers=6)
PROFILE = SIM.profile
TARGETS = [load_target(name) for name in list_targets()]
ORDER = (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE)
# A target by hand, so that every figure below can be checked on paper.
PAPER = replace(
    load_target("rpi4"),
    throughput_gmacs={"fp32": Figure(1.0, "paper"), "int8": Figure(4.0, "paper")},
    bandwidth_gbps=Figure(1.0, "paper"),
    overhead_us=Figure(10.0, "paper"),
    int8_needs_activation_bits=True,
)


def policy(activation_bits: int = 32, **knobs: object) -> Policy:
    layer = LayerPolicy(**knobs)
    layers = tuple((one.name, layer) for one in PROFILE.layers)
    return Policy(ORDER, layers, activation_bits=activation_bits)


@given(
    st.sampled_from(TARGETS),
    st.sampled_from(SPARSITIES),
    st.sampled_from(CLUSTERS),
    st.sampled_from(BITS),
    st.sampled_from([8, 32]),
)
def test_element_sparsity_never_changes_the_latency(target, sparsity, clusters, bits, activations):
    dense = policy(activations, clusters=clusters, bits=bits)
    sparse = policy(activations, sparsity=sparsity, clusters=clusters, bits=bits)
    assert modelled_latency(sparse, PROFILE, target) == modelled_latency(dense, PROFILE, target)


@given(st.sampled_from(TARGETS), st.sampled_from(CLUSTERS[1:]), st.sampled_from(BITS))
def test_clusters_never_change_the_latency(target, clusters, bits):
    """A codebook is decoded to floats, but for integer entries in an onnx file's table."""
    clustered = modelled_latency(policy(8, clusters=clusters, bits=bits), PROFILE, target)
    as_integers = target.artifact_format == "onnx" and bits <= 8
    plain = policy(8, bits=bits) if as_integers else Policy()
    assert clustered == modelled_latency(plain, PROFILE, target)


@given(st.sampled_from(TARGETS), st.sampled_from([2, 3, 4, 5, 6, 7]), st.sampled_from([8, 32]))
def test_under_eight_bits_nothing_is_gained(target, bits, activations):
    eight = modelled_latency(policy(activations, bits=8), PROFILE, target)
    assert modelled_latency(policy(activations, bits=bits), PROFILE, target) == eight


@given(st.sampled_from(TARGETS), st.sampled_from(SPARSITIES), st.sampled_from(SPARSITIES))
def test_removed_channels_never_slow_down(target, one, other):
    few, many = sorted((one, other))
    slow = modelled_latency(policy(sparsity=few, pattern="channel"), PROFILE, target)
    fast = modelled_latency(policy(sparsity=many, pattern="channel"), PROFILE, target)
    assert fast.median_ms <= slow.median_ms


def test_figures_by_hand():
    layer = PROFILE.layer_map["fc2"]
    moved = 4 * (layer.weight_count + layer.input_elements + layer.output_elements)
    found = modelled_latency(Policy(), PROFILE, PAPER).layers_ms["fc2"]
    assert found == pytest.approx(0.01 + max(layer.macs, moved) / 1e6)


def test_int8_needs_eight_bit_activations_where_the_target_says_so():
    untouched = modelled_latency(Policy(), PROFILE, PAPER)
    weights_only = modelled_latency(policy(bits=8), PROFILE, PAPER)
    integer = modelled_latency(policy(8, bits=8), PROFILE, PAPER)
    assert weights_only == untouched
    assert integer.median_ms < untouched.median_ms
    relaxed = replace(PAPER, int8_needs_activation_bits=False)
    assert modelled_latency(policy(bits=8), PROFILE, relaxed).median_ms < untouched.median_ms


def test_a_convolution_of_one_channel_is_slower_in_integers_where_the_target_says_so():
    """The first layer of a network that reads grey images; the others gain as ever."""
    slow = replace(PAPER, int8_shallow_ratio=Figure(0.25, "paper"))
    conv1, conv2 = PROFILE.layer_map["conv1"], PROFILE.layer_map["conv2"]
    assert conv1.weight_shape[1] == 1 < conv2.weight_shape[1]
    floats = modelled_latency(Policy(), PROFILE, slow).layers_ms
    integers = modelled_latency(policy(8, bits=8), PROFILE, slow).layers_ms
    assert integers["conv1"] == pytest.approx(0.01 + conv1.macs / 0.25e6)
    assert integers["conv1"] > floats["conv1"]
    assert integers["conv2"] < floats["conv2"]
    assert modelled_latency(policy(8, bits=8), PROFILE, PAPER).layers_ms["conv1"] < floats["conv1"]
    coloured = replace(conv1, weight_shape=(6, 3, 5, 5))
    profile = replace(PROFILE, layers=(coloured, *PROFILE.layers[1:]))
    assert PROFILE.layers[0] is conv1
    integers, floats = (
        modelled_latency(chosen, profile, slow).layers_ms
        for chosen in (policy(8, bits=8), Policy())
    )
    assert integers["conv1"] < floats["conv1"]


def test_a_removed_channel_saves_in_its_layer_and_the_next():
    half = Policy((Stage.PRUNE,), (("fc1", LayerPolicy(0.5, "channel")),))
    before, after = layer_macs(Policy(), PROFILE), layer_macs(half, PROFILE)
    assert after["fc1"] == before["fc1"] / 2
    assert after["fc2"] == before["fc2"] / 2
    assert {n: after[n] for n in ("conv1", "conv2", "fc3", "out")} == {
        n: before[n] for n in ("conv1", "conv2", "fc3", "out")
    }


def test_a_layer_saves_by_the_group_it_reads_and_by_no_other():
    """fc3 beside fc2, both reading fc1; of out's input nothing is known."""
    inputs = {"fc1": "conv2", "fc2": "fc1", "fc3": "fc1", "out": ""}
    layers = tuple(
        replace(layer, input_group=inputs.get(layer.name, "")) for layer in PROFILE.layers
    )
    profile = replace(PROFILE, layers=layers)
    before = layer_macs(Policy(), profile)
    for pruned, readers in {"fc1": {"fc2", "fc3"}, "fc2": set(), "fc3": set()}.items():
        half = Policy((Stage.PRUNE,), ((pruned, LayerPolicy(0.5, "channel")),))
        after = layer_macs(half, profile)
        saved = {name for name in before if after[name] == before[name] / 2}
        assert saved == {pruned} | readers
        assert all(after[name] == before[name] for name in before.keys() - saved)


def test_element_sparsity_of_the_group_it_reads_saves_a_layer_nothing():
    sparse = Policy((Stage.PRUNE,), (("fc1", LayerPolicy(0.5, "element")),))
    assert layer_macs(sparse, PROFILE) == layer_macs(Policy(), PROFILE)


@pytest.mark.parametrize(
    ("sparsity", "first", "second"), [(0.995, 1, 1), (0.6, 1, 2), (0.85, 1, 1), (0.1, 1, 4)]
)
def test_the_channels_that_go_are_counted_not_the_share_that_was_asked(sparsity, first, second):
    """Conv(1->1), Conv(1->4), Linear, as the stage rounds: a last channel always stays."""
    shapes = {"a": (1, 1, 3, 3), "b": (4, 1, 3, 3), "fc": (10, 4)}
    plain = {"a": 9 * 4, "b": 36 * 4, "fc": 40}
    layers = tuple(
        replace(PROFILE.layers[0], name=name, weight_shape=shape, macs=plain[name], input_group=g)
        for (name, shape), g in zip(shapes.items(), ("", "a", "b"), strict=True)
    )
    profile = replace(PROFILE, layers=layers)
    asked = LayerPolicy(sparsity, "channel")
    policy = Policy((Stage.PRUNE,), (("a", asked), ("b", asked)))
    assert layer_macs(policy, profile) == {
        "a": 36 * first,
        "b": 36 * first * second,
        "fc": 10 * second,
    }
    same = Policy((Stage.PRUNE,), (("b", LayerPolicy(1 - second / 4, "channel")),))
    for target in TARGETS:
        expected = modelled_latency(same, profile, target).layers_ms
        assert modelled_latency(policy, profile, target).layers_ms == expected


def test_untouched_macs_are_the_profiles():
    assert macs(Policy(), PROFILE) == PROFILE.macs


def test_a_modelled_latency_says_so():
    found = modelled_latency(Policy(), PROFILE, load_target("m1"))
    assert (found.source, found.device) == ("modelled", "m1")
    assert found.p95_ms == found.median_ms == pytest.approx(sum(found.layers_ms.values()))
