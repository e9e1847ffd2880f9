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
    """A codebook is decoded to floats, even when its entries are integers."""
    clustered = modelled_latency(policy(8, clusters=clusters, bits=bits), PROFILE, target)
    assert clustered == modelled_latency(Policy(), PROFILE, target)


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


def test_a_removed_channel_saves_in_its_layer_and_the_next():
    half = Policy((Stage.PRUNE,), (("fc1", LayerPolicy(0.5, "channel")),))
    before, after = layer_macs(Policy(), PROFILE), layer_macs(half, PROFILE)
    assert after["fc1"] == before["fc1"] / 2
    assert after["fc2"] == before["fc2"] / 2
    assert {n: after[n] for n in ("conv1", "conv2", "fc3", "out")} == {
        n: before[n] for n in ("conv1", "conv2", "fc3", "out")
    }


def test_depthwise_layers_work_on_their_own_channels():
    depthwise = replace(PROFILE.layers[1], weight_shape=(16, 1, 5, 5))
    profile = replace(PROFILE, layers=(PROFILE.layers[0], depthwise))
    half = Policy((Stage.PRUNE,), (("conv1", LayerPolicy(0.5, "channel")),))
    assert layer_macs(half, profile)["conv2"] == layer_macs(Policy(), profile)["conv2"]


def test_untouched_macs_are_the_profiles():
    assert macs(Policy(), PROFILE) == PROFILE.macs


def test_a_modelled_latency_says_so():
    found = modelled_latency(Policy(), PROFILE, load_target("m1"))
    assert (found.source, found.device) == ("modelled", "m1")
    assert found.p95_ms == found.median_ms == pytest.approx(sum(found.layers_ms.values()))
