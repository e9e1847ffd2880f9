"""Predicted size: monotone where it must be, right on known entropies, and calibrated by trials."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.artifacts import packed
from evaluators.cost import CalibratedSize, SizeModel, predicted_bytes
from evaluators.cost.distribution import WeightDistribution, entropy_bits, weight_distribution
from spaces import Distillation, LayerPolicy, LayerProfile, Policy, Stage
from spaces.search_space import BITS, CLUSTERS, SPARSITIES
from tests.simulator import simulate

SIM = simulate(layers=4)
MODEL = SizeModel(SIM.profile)
FC1 = SIM.profile.layers[1]
SOME_SPARSE = [s for s in SPARSITIES if s >= 0.5]


def gauss(count: int = 50_000, quantiles: int = 257) -> LayerProfile:
    values = np.random.default_rng(0).normal(size=count)
    found = tuple(np.quantile(values, np.linspace(0, 1, quantiles)).tolist())
    return LayerProfile("fc", "Linear", (100, count // 100), 0, count, 1, 1, found, True)


def size_of(layer: LayerPolicy, **rest: str) -> float:
    return MODEL.layer(FC1, layer, **rest).total_bytes


@given(
    st.sampled_from(SPARSITIES),
    st.sampled_from(SPARSITIES),
    st.sampled_from([32, 16, 8, 7, 6, 5]),
    st.sampled_from(["element", "channel"]),
)
def test_more_zeros_make_a_smaller_file(one, other, bits, pattern):
    low, high = sorted((one, other))
    dense, sparse = LayerPolicy(low, pattern, None, bits), LayerPolicy(high, pattern, None, bits)
    assert size_of(sparse) <= size_of(dense) + 1e-6


@given(st.sampled_from(SOME_SPARSE), st.sampled_from(SOME_SPARSE), st.sampled_from(CLUSTERS[1:]))
def test_more_zeros_among_clusters_make_a_smaller_file(one, other, clusters):
    """From 50 % on. Before it, positions may cost more than a one-bit index saves."""
    low, high = sorted((one, other))
    sparse = LayerPolicy(high, "element", clusters, 8)
    assert size_of(sparse) <= size_of(replace(sparse, sparsity=low)) + 1e-6


@given(
    st.sampled_from(SPARSITIES),
    st.sampled_from(["symmetric", "asymmetric"]),
    st.sampled_from(["tensor", "channel"]),
)
def test_size_rises_with_bits(sparsity, scheme, granularity):
    sizes = [
        size_of(LayerPolicy(sparsity, bits=bits), scheme=scheme, granularity="tensor")
        for bits in sorted(BITS)
    ]
    assert sizes == sorted(sizes)


@given(st.sampled_from(SPARSITIES))
def test_size_rises_with_clusters(sparsity):
    sizes = [
        size_of(LayerPolicy(sparsity, "element", clusters, 16))
        for clusters in sorted(k for k in CLUSTERS if k)
    ]
    # K-means sees few distinct survivors in the profile's quantiles: one centroid more may even
    # out how they are shared a little less, and entropy then falls a trifle.
    assert all(more >= 0.995 * fewer for fewer, more in itertools.pairwise(sizes))


def test_breakdown_sums_to_the_prediction():
    policy = SIM.space.sample(np.random.default_rng(3))
    parts = MODEL.breakdown(policy)
    assert [part.layer for part in parts] == [*SIM.space.layer_names, ""]
    assert sum(part.total_bytes for part in parts) == pytest.approx(MODEL.predict_bytes(policy))
    assert predicted_bytes(policy, SIM.profile) == pytest.approx(MODEL.predict_bytes(policy))


def test_positions_are_the_entropy_of_a_yes_or_no():
    asked = LayerPolicy(0.9, "element", 16, 8)
    entropy = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    positions = MODEL.layer(FC1, asked).positions_bytes
    assert positions == pytest.approx(FC1.weight_count * entropy / 8)


def test_removed_channels_need_one_position_each():
    by_channel = MODEL.layer(FC1, LayerPolicy(0.5, "channel", 16, 8))
    by_element = MODEL.layer(FC1, LayerPolicy(0.5, "element", 16, 8))
    assert by_channel.positions_bytes == pytest.approx(FC1.weight_shape[0] / 8)
    assert by_channel.bias_bytes == pytest.approx(by_element.bias_bytes / 2)


def test_a_last_channel_stays_and_is_paid_for():
    """What goes is a whole number of channels: 3 of 4 at 0.995, none of 1."""
    one, four = (replace(FC1, name="x", weight_shape=(n, 8), bias_size=n) for n in (1, 4))
    for bits in (32, 8):
        asked = LayerPolicy(0.995, "channel", bits=bits)
        assert MODEL.layer(four, asked) == MODEL.layer(four, replace(asked, sparsity=0.75))
        assert MODEL.layer(four, replace(asked, sparsity=0.85)) == MODEL.layer(four, asked)
        dense = replace(asked, sparsity=0.0, pattern="element")
        narrow = SizeModel(SIM.profile)
        assert narrow.layer(one, asked).total_bytes == narrow.layer(one, dense).total_bytes


def test_excluded_parameters_are_stored_as_they_are():
    profile = replace(SIM.profile, other_bytes=1000)
    policy = Policy()
    more = predicted_bytes(policy, profile) - predicted_bytes(policy, SIM.profile)
    assert more == pytest.approx(1000)


@pytest.mark.parametrize(("clusters", "bits_each"), [(2, 1.0), (4, 1.911), (8, 2.825)])
def test_clusters_of_a_gaussian_have_the_entropy_of_max(clusters, bits_each):
    """Max 1960, IRE Trans. Inf. Theory 6, table I: entropies of the least-squares quantisers."""
    layer = gauss()
    size = SizeModel(replace(SIM.profile, layers=(layer,))).layer(
        layer, LayerPolicy(0.0, "element", clusters, 16)
    )
    assert size.values_bytes * 8 / layer.weight_count == pytest.approx(bits_each, rel=0.02)


def test_the_prediction_of_random_weights_is_what_the_coder_writes():
    """Independent weights leave a context model nothing to learn: the closed form must be met."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(100, 400)).astype(np.float32)
    weights[np.abs(weights) <= np.quantile(np.abs(weights), 0.9)] = 0
    scale = float(np.abs(weights).max()) / 127
    levels = np.round(weights / scale).astype(np.int32)
    found = packed.encode(
        packed.Artifact((packed.GridTensor("fc", levels, np.array([scale], np.float32)),))
    )
    quantiles = tuple(np.quantile(rng.normal(size=40_000), np.linspace(0, 1, 257)).tolist())
    layer = LayerProfile("fc", "Linear", (100, 400), 0, 40_000, 400, 100, quantiles, True)
    profile = replace(SIM.profile, layers=(layer,))
    policy = Policy((Stage.PRUNE, Stage.QUANTIZE), (("fc", LayerPolicy(0.9, bits=8)),))
    assert len(found.data) == pytest.approx(predicted_bytes(policy, profile), rel=0.05)


@pytest.mark.parametrize("quantiles", [(0.0,), (0.5, 0.5), (0.0,) * 33, (-1.0, 0.0, 1.0)])
def test_odd_layers_are_predicted_too(quantiles):
    layer = LayerProfile("fc", "Linear", (4, 8), 4, 32, 8, 4, quantiles, True)
    model = SizeModel(replace(SIM.profile, layers=(layer,)))
    for asked in (
        LayerPolicy(),
        LayerPolicy(0.5, bits=4),
        LayerPolicy(0.9, "channel", 4, 8),
        LayerPolicy(0.995, "element", 256, 2, 2),
    ):
        assert 0 < model.layer(layer, asked).total_bytes < 1000


class TestDistribution:
    def test_threshold_leaves_the_asked_share(self):
        weights = weight_distribution(gauss())
        for sparsity in (0.5, 0.9, 0.99):
            threshold = weights.magnitude(sparsity)
            kept = float(weights.kept_below(np.array([np.inf]), threshold)[0])
            assert kept == pytest.approx(1 - sparsity, abs=1e-9)

    def test_tails_of_a_gaussian(self):
        assert weight_distribution(gauss()).magnitude(0.99) == pytest.approx(2.576, rel=0.02)

    def test_energy_of_a_gaussian(self):
        """The smaller half of the magnitudes holds 7.2 % of the energy: 0.5 - 2 * 0.6745 * phi."""
        assert weight_distribution(gauss()).energy_below(0.5) == pytest.approx(0.0717, rel=0.05)

    def test_entropy(self):
        assert entropy_bits(np.array([1.0, 1.0, 1.0, 1.0])) == 2.0
        assert entropy_bits(np.array([3.0, 0.0])) == 0.0
        assert entropy_bits(np.zeros(0)) == 0.0

    def test_constant_weights(self):
        assert WeightDistribution((0.5, 0.5, 0.5), 100).magnitude(0.5) <= 0.5


class TestCalibration:
    def policies(self, count: int) -> list[Policy]:
        rng = np.random.default_rng(7)
        return [SIM.space.sample(rng) for _ in range(count)]

    def test_without_evidence_the_band_is_a_quarter_either_way(self):
        policy = self.policies(1)[0]
        band = CalibratedSize.fit(MODEL, []).predict(policy)
        assert band.high_bytes / band.mid_bytes == pytest.approx(1.25)
        assert band.mid_bytes / band.low_bytes == pytest.approx(1.25)
        assert band.low_bytes < MODEL.predict_bytes(policy) < band.high_bytes

    @pytest.mark.parametrize(("ratio", "spread"), [(0.75, 0.03), (1.0, 0.08), (1.3, 0.02)])
    def test_the_band_contains_the_truth(self, ratio, spread):
        rng = np.random.default_rng(1)
        policies = self.policies(260)
        real = [
            round(MODEL.predict_bytes(p) * ratio * float(rng.lognormal(0, spread)))
            for p in policies
        ]
        calibrated = CalibratedSize.fit(MODEL, list(zip(policies, real, strict=True))[:60])
        bands = [calibrated.predict(policy) for policy in policies[60:]]
        held = [b.low_bytes <= r <= b.high_bytes for b, r in zip(bands, real[60:], strict=True)]
        assert np.mean(held) > 0.9

    def test_the_band_narrows_with_evidence_but_never_closes(self):
        policies = self.policies(80)
        widths = []
        for count in (0, 10, 80):
            pairs = [(p, round(0.8 * MODEL.predict_bytes(p))) for p in policies[:count]]
            band = CalibratedSize.fit(MODEL, pairs).predict(policies[0])
            widths.append(band.high_bytes / band.mid_bytes)
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] >= 1.04

    def test_the_order_of_trials_does_not_matter(self):
        policies = self.policies(30)
        pairs = [
            (p, round(MODEL.predict_bytes(p) * (0.7 + i / 50))) for i, p in enumerate(policies)
        ]
        one, other = CalibratedSize.fit(MODEL, pairs), CalibratedSize.fit(MODEL, pairs[::-1])
        assert one.predict(policies[0]) == other.predict(policies[0])

    def test_a_kind_that_was_never_seen_borrows_from_the_others(self):
        layers = tuple((name, LayerPolicy(bits=8)) for name in SIM.space.layer_names)
        grid = Policy((Stage.QUANTIZE,), layers, Distillation())
        calibrated = CalibratedSize.fit(MODEL, [(grid, round(2 * MODEL.predict_bytes(grid)))] * 50)
        assert calibrated.predict(Policy()).mid_bytes > 1.8 * MODEL.predict_bytes(Policy())
