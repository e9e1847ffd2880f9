"""Predicted bytes of a `packed` file, before any training.

The closed form is the entropy of what the file must say: where the non-zeros are, which level or
codebook entry each one has, and the tables around that (Deep Compression, arXiv 1510.00149,
section 4, with entropies in the place of Huffman codes). A context model codes trained networks
below that entropy, and fine-tuning moves weights, so finished trials teach a ratio.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from evaluators.cost.distribution import WeightDistribution, entropy_bits, weight_distribution
from evaluators.cost.latency import layer_shares
from spaces import LayerPolicy, LayerProfile, ModelProfile, Policy, kept_channels

__all__ = [
    "KINDS",
    "CalibratedSize",
    "LayerSize",
    "SizeBand",
    "SizeModel",
    "file_kind",
    "layer_kind",
    "predicted_bytes",
]

#: How a layer's bytes may be coded, sorted.
KINDS = tuple(
    f"{density} {values}"
    for density in ("dense", "sparse")
    for values in ("clusters", "float", "grid")
)
#: What a file and a tensor cost before their content: magic, checksums, name, shape, tables.
FILE_OVERHEAD_BYTES = 64
TENSOR_OVERHEAD_BYTES = 16
SCALE_BYTES = 4
#: Bins a density is cut in to run k-means on it, and to find a grid's clipping range.
CELL_BINS = 512
LLOYD_ROUNDS = 50
GRID_BINS = 1024
CLIPPING_RATIOS = np.linspace(1.0, 0.15, 16)
MANTISSA_BITS = {32: 23, 16: 10}
#: Weights lie between these powers of two; what is smaller counts as one exponent.
FLOAT_EXPONENTS = (-24, 8)

#: Real over predicted bytes, before any evidence: 1.0 on random weights, 0.7 to 1.0 on trained
#: ones, whose non-zeros and values have neighbours that a context model learns.
PRIOR_RATIO = 0.87
#: Half-width of the band without evidence, and the least there ever is, as factors.
START_BAND = 1.25
LEAST_BAND = 1.04
#: How many trials weigh as much as what they lean on: a kind's on all kinds', those on the prior.
PRIOR_TRIALS = 2.0
#: How many trials weigh as much as the starting band.
BAND_TRIALS = 8.0


@dataclass(frozen=True, slots=True)
class LayerSize:
    """Predicted bytes of one layer, section by section; the layer "" is the file itself."""

    layer: str
    positions_bytes: float = 0.0
    values_bytes: float = 0.0
    tables_bytes: float = 0.0
    bias_bytes: float = 0.0
    overhead_bytes: float = 0.0

    @property
    def total_bytes(self) -> float:
        """The sum of the sections."""
        return (
            self.positions_bytes
            + self.values_bytes
            + self.tables_bytes
            + self.bias_bytes
            + self.overhead_bytes
        )


class SizeModel:
    """Sizes of one network's policies. Remembers each layer's answers, which repeat.

    Attributes:
        prior_ratio: real over predicted bytes before any evidence.
    """

    prior_ratio = PRIOR_RATIO

    def __init__(self, profile: ModelProfile) -> None:
        self.profile = profile
        self._layers: dict[tuple[str, LayerPolicy, str, str], LayerSize] = {}
        self._totals: dict[str, float] = {}

    def layer(
        self,
        layer: LayerProfile,
        asked: LayerPolicy,
        scheme: str = "symmetric",
        granularity: str = "tensor",
        inputs_kept: float = 1.0,  # noqa: ARG002 -- what nobody reads is all zeros: nearly free
    ) -> LayerSize:
        """One layer under one LayerPolicy.

        Args:
            layer, asked: the layer and its policy.
            scheme, granularity: of the whole policy.
            inputs_kept: share of its input channels that are left, see `layer_shares`.
        """
        key = (layer.name, asked, scheme, granularity)
        if key not in self._layers:
            self._layers[key] = _layer_size(layer, asked, scheme, granularity)
        return self._layers[key]

    def breakdown(self, policy: Policy) -> tuple[LayerSize, ...]:
        """One entry a layer in forward order, then the file's own."""
        shares = layer_shares(policy, self.profile)
        layers = [
            self.layer(
                layer,
                policy.layer(layer.name),
                policy.scheme,
                policy.granularity,
                shares[layer.name][0],
            )
            for layer in self.profile.layers
        ]
        return (*layers, self.rest)

    @cached_property
    def rest(self) -> LayerSize:
        """What belongs to no layer that stages touch."""
        return LayerSize("", 0.0, self.profile.other_bytes, overhead_bytes=FILE_OVERHEAD_BYTES)

    def predict_bytes(self, policy: Policy) -> float:
        """The whole file."""
        total = self._totals.get(policy.digest)
        if total is None:
            total = sum(size.total_bytes for size in self.breakdown(policy))
            self._totals[policy.digest] = total
        return total


def predicted_bytes(policy: Policy, profile: ModelProfile) -> float:
    """Predicted bytes of one file; a search keeps a `SizeModel` instead."""
    return SizeModel(profile).predict_bytes(policy)


@lru_cache(maxsize=1 << 16)
def _layer_size(
    layer: LayerProfile, asked: LayerPolicy, scheme: str, granularity: str
) -> LayerSize:
    channels = layer.weight_shape[0]
    channels_kept = 1.0
    if asked.pattern == "channel":
        channels_kept = kept_channels(channels, asked.sparsity) / channels
        # Whole channels go, so what is left of the layer is as dense as before.
        asked = replace(asked, sparsity=0.0, pattern="element")
    count = layer.weight_count * channels_kept
    values = _values(layer, asked, scheme, granularity)
    positions_bits = count * _yes_no_bits(values.nonzero) + channels * _yes_no_bits(channels_kept)
    bias_scale = SCALE_BYTES if asked.bias_bits < 16 and layer.bias_size else 0
    return LayerSize(
        layer.name,
        positions_bytes=positions_bits / 8,
        values_bytes=count * values.nonzero * values.bits_each / 8,
        tables_bytes=values.tables_bytes,
        bias_bytes=layer.bias_size * channels_kept * asked.bias_bits / 8 + bias_scale,
        overhead_bytes=TENSOR_OVERHEAD_BYTES * (2 if layer.bias_size else 1),
    )


@dataclass(frozen=True, slots=True)
class _Values:
    """How many weights are not zero, what one of those costs, and what they need beside them."""

    nonzero: float
    bits_each: float
    tables_bytes: float


def _values(layer: LayerProfile, asked: LayerPolicy, scheme: str, granularity: str) -> _Values:
    if asked.clusters is not None:
        distinct = _codebook_entries(asked, layer.weight_count)
        bits = _codebook_bits(layer, asked.sparsity, distinct)
        scale_bytes = SCALE_BYTES if asked.bits < 16 else 0
        return _Values(1.0 - asked.sparsity, bits, distinct * asked.bits / 8 + scale_bytes)
    if asked.bits < 16:
        per_channel = granularity == "channel" and not layer.has_one_scale
        scales = layer.weight_shape[0] if per_channel else 1
        nonzero, bits = _grid_bits(layer, asked.sparsity, asked.bits, scheme, scales)
        return _Values(nonzero, bits, SCALE_BYTES * scales)
    return _Values(1.0 - asked.sparsity, _float_bits(layer, asked.sparsity, asked.bits), 0.0)


# The three below are asked with few different arguments and cost up to a millisecond each.


@lru_cache(maxsize=1 << 16)
def _float_bits(layer: LayerProfile, sparsity: float, bits: int) -> float:
    """Entropy of sign and exponent; the mantissa is as good as random."""
    weights = weight_distribution(layer)
    powers = 2.0 ** np.arange(*FLOAT_EXPONENTS)
    edges = np.concatenate((-powers[::-1], powers))
    edges = np.concatenate(([-np.inf], edges, [np.inf]))
    kept = weights.kept_below(edges, weights.magnitude(sparsity))
    return entropy_bits(np.diff(kept)) + MANTISSA_BITS[bits]


def _yes_no_bits(share: float) -> float:
    """As `entropy_bits` of (share, 1 - share), without numpy, which is slow for two numbers."""
    if not 0.0 < share < 1.0:
        return 0.0
    return -(share * math.log2(share) + (1.0 - share) * math.log2(1.0 - share))


@lru_cache(maxsize=1 << 16)
def _grid_bits(
    layer: LayerProfile, sparsity: float, bits: int, scheme: str, scales: int
) -> tuple[float, float]:
    """(share of the weights that do not round to 0, entropy of their levels)."""
    weights = weight_distribution(layer)
    masses = _grid_masses(weights, sparsity, bits, scheme, layer.weight_count // scales)
    return float(masses.sum()), entropy_bits(masses)


def _grid_masses(
    weights: WeightDistribution, sparsity: float, bits: int, scheme: str, per_scale: int
) -> np.ndarray:
    """Share of all weights on each NON-ZERO level of a uniform grid, pruned ones left out.

    The grid is the one the backends fit: of several clipping ranges the one with the least squared
    rounding error (Banner et al. 2019, arXiv 1810.05723). Survivors near 0 may round to 0.

    Args:
        weights: the layer's distribution.
        sparsity: share of the weights that are pruned.
        bits: of the grid.
        scheme: of the grid.
        per_scale: how many weights share a scale. The largest of n stands near the quantile
            1 - 1/n, so a channel's grid is finer than its tensor's.
    """
    threshold = weights.magnitude(sparsity)
    largest = weights.magnitude(1.0 - 1.0 / max(per_scale, 2))
    low = max(-largest, float(weights.knots[0]))
    high = min(largest, float(weights.knots[-1]))
    edges = np.linspace(low, high, GRID_BINS + 1)
    middles, masses = (edges[:-1] + edges[1:]) / 2, np.diff(weights.kept_below(edges, threshold))
    best, best_error = np.zeros(0), math.inf
    for ratio in CLIPPING_RATIOS:
        step, levels = _grid(low * ratio, high * ratio, bits, scheme)
        if step <= 0:
            continue
        rounded = np.clip(np.round(middles / step), levels[0], levels[-1]) * step
        error = float((masses * (rounded - middles) ** 2).sum())
        if error < best_error:
            borders = np.concatenate(([-np.inf], (levels[:-1] + 0.5) * step, [np.inf]))
            kept = weights.kept_below(borders, threshold)
            best, best_error = np.diff(kept)[levels != 0], error
    return best


def _grid(low: float, high: float, bits: int, scheme: str) -> tuple[float, np.ndarray]:
    """(step, levels): level * step are the grid's values, 0 among them."""
    if scheme == "symmetric":
        top = 2 ** (bits - 1) - 1
        return max(-low, high) / top, np.arange(-top, top + 1)
    # A pruned weight must stay 0, so the range is stretched to hold it.
    step = (max(high, 0.0) - min(low, 0.0)) / (2**bits - 1)
    first = round(min(low, 0.0) / step) if step > 0 else 0
    return step, np.arange(first, first + 2**bits)


def _codebook_entries(asked: LayerPolicy, count: int) -> int:
    """Distinct non-zero values of a clustered layer with `count` weights."""
    assert asked.clusters is not None
    distinct = min(asked.clusters, max(1, round(count * (1 - asked.sparsity))))
    if asked.bits < 16:
        # After cluster, quantize rounds the entries to a grid that cannot hold more values.
        distinct = min(distinct, 2**asked.bits - 1)
    return distinct


@lru_cache(maxsize=1 << 16)
def _codebook_bits(layer: LayerProfile, sparsity: float, distinct: int) -> float:
    """Entropy of the cluster indices.

    Lloyd's algorithm on the density, from evenly spaced centroids as the backends start it. Cells
    hold unequal shares, and with many clusters it stops early, so this is under log2(K).
    """
    weights = weight_distribution(layer)
    threshold = weights.magnitude(sparsity)
    low, high = float(weights.knots[0]), float(weights.knots[-1])
    edges = np.linspace(low, high, CELL_BINS + 1)
    # The border of the pruned gap matters when all that survives lies in few bins.
    edges = np.sort(np.clip(np.append(edges, [-threshold, threshold]), low, high))
    kept = weights.kept_below(edges, threshold)
    if distinct < 2 or kept[-1] <= kept[0] or high <= low:
        return 0.0
    middles = (edges[1:] + edges[:-1]) / 2
    moments = np.concatenate(([0.0], np.cumsum(np.diff(kept) * middles)))
    centroids = np.linspace(low, high, distinct)
    for _ in range(LLOYD_ROUNDS):
        borders = np.concatenate(([low], (centroids[1:] + centroids[:-1]) / 2, [high]))
        masses = np.diff(np.interp(borders, edges, kept))
        means = np.diff(np.interp(borders, edges, moments)) / np.maximum(masses, 1e-12)
        moved = np.sort(np.where(masses > 1e-12, means, centroids))
        shift, centroids = float(np.abs(moved - centroids).max()), moved
        if shift < 5e-3 * (high - low) / distinct:
            break
    return entropy_bits(masses)


@dataclass(frozen=True, slots=True)
class SizeBand:
    """Predicted bytes with what they may well be instead."""

    low_bytes: float
    mid_bytes: float
    high_bytes: float


class CalibratedSize:
    """The closed form times what finished trials taught. A pure function of those trials.

    A ratio real / predicted is kept for each kind of file (how its values are coded, whether it
    is sparse), as a median, which one odd trial cannot move. Few trials of a kind lean on those of
    every kind, and few trials at all on the model's `prior_ratio`.
    """

    def __init__(self, model: SizeModel, ratios: Sequence[tuple[str, float]]) -> None:
        """Args: model: the closed form; ratios: (kind of file, ln(real / predicted))."""
        self.model = model
        self._all = _shrunk_median([ratio for _, ratio in ratios], math.log(model.prior_ratio))
        by_kind: dict[str, list[float]] = defaultdict(list)
        for kind, ratio in ratios:
            by_kind[kind].append(ratio)
        self._ratio = {kind: _shrunk_median(found, self._all) for kind, found in by_kind.items()}
        self._half_width = {
            kind: _half_width(found, self._ratio[kind]) for kind, found in by_kind.items()
        }

    @classmethod
    def fit(cls, model: SizeModel, finished: Iterable[tuple[Policy, int]]) -> "CalibratedSize":
        """From (policy, real bytes) of finished trials."""
        ratios = [
            (file_kind(model, policy), math.log(size_bytes / model.predict_bytes(policy)))
            for policy, size_bytes in finished
        ]
        return cls(model, ratios)

    def predict(self, policy: Policy) -> SizeBand:
        """The band of a policy's bytes."""
        ratio, factor = self.factors(file_kind(self.model, policy))
        mid = self.model.predict_bytes(policy) * ratio
        return SizeBand(mid / factor, mid, mid * factor)

    def factors(self, kind: str) -> tuple[float, float]:
        """(real over predicted, the band's half-width as a factor) of a kind of file."""
        ratio = math.exp(self._ratio.get(kind, self._all))
        return ratio, math.exp(self._half_width.get(kind, math.log(START_BAND)))

    def factors_of(self, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) kinds of file -> (n,) and (n,), each the `factors` of its kind."""
        distinct, inverse = np.unique(kinds, return_inverse=True)
        both = np.array([self.factors(str(kind)) for kind in distinct]).reshape(-1, 2)
        return both[inverse, 0], both[inverse, 1]


def file_kind(model: SizeModel, policy: Policy) -> str:
    """How most of the bytes are coded, e.g. "sparse clusters": files of a kind err alike."""
    votes: dict[str, float] = defaultdict(float)
    for size in model.breakdown(policy)[:-1]:
        votes[layer_kind(policy.layer(size.layer))] += size.total_bytes
    return max(votes, key=lambda kind: (votes[kind], kind)) if votes else "empty"


def layer_kind(asked: LayerPolicy) -> str:
    """Which of `KINDS` a layer is; a file is of the kind that most of its bytes are."""
    values = "clusters" if asked.clusters else "grid" if asked.bits < 16 else "float"
    return f"{'sparse' if asked.sparsity >= 0.5 else 'dense'} {values}"


def _shrunk_median(ratios: Sequence[float], towards: float) -> float:
    if not ratios:
        return towards
    weight = len(ratios) / (len(ratios) + PRIOR_TRIALS)
    return weight * float(np.median(ratios)) + (1 - weight) * towards


def _half_width(ratios: Sequence[float], centre: float) -> float:
    """The starting band gives way to the 95 % quantile of the misses, never under 4 %; as a ln.

    A normal spread is kept under it too: twice 1.4826 times the median miss is its 95 % quantile,
    which a handful of misses cannot show directly.
    """
    misses = np.abs(np.asarray(ratios) - centre)
    seen = max(float(np.quantile(misses, 0.95)), 2 * 1.4826 * float(np.median(misses)))
    weight = len(ratios) / (len(ratios) + BAND_TRIALS)
    return max(math.log(LEAST_BAND), weight * seen + (1 - weight) * math.log(START_BAND))
