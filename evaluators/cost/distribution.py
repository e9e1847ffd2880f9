"""The distribution of a layer's weights, rebuilt from the profile's quantiles."""

from functools import lru_cache

import numpy as np

from spaces import LayerProfile

__all__ = ["WeightDistribution", "entropy_bits", "weight_distribution"]

TAIL_KNOTS = 16


def entropy_bits(masses: np.ndarray) -> float:
    """Shannon entropy of unnormalised masses, bits a symbol; 0 when there is nothing."""
    total = float(masses.sum())
    if total <= 0:
        return 0.0
    shares = masses[masses > 0] / total
    return float(max(0.0, -(shares * np.log2(shares)).sum()))


class WeightDistribution:
    """A piecewise uniform density; every question about it has a closed answer.

    Between the given quantiles the density is flat. The two outermost bins get an exponential tail
    instead: networks' weights have one, and at 95 % sparsity all that survives lies in those bins.

    Attributes:
        knots: (m,) weights, ascending.
        shares: (m,) share of the weights at or below each knot, from 0 to 1.
    """

    def __init__(self, quantiles: tuple[float, ...], count: int) -> None:
        values = np.asarray(quantiles, dtype=float)
        if len(values) < 4 or count < 4 * len(values):
            self.knots, self.shares = values, np.linspace(0.0, 1.0, len(values))
            if len(values) == 1:
                self.knots, self.shares = np.repeat(values, 2), np.array([0.0, 1.0])
        else:
            # The largest of n weights stands near the quantile 1 - 1/n: from the last inner
            # quantile to there, an exponential tail is a straight line in ln(1 - share).
            edge = 1.0 / (len(values) - 1)
            beyond = np.geomspace(edge, 1.0 / count, TAIL_KNOTS)
            along = np.log(edge / beyond) / np.log(edge * count)
            low = values[1] + (values[0] - values[1]) * along
            high = values[-2] + (values[-1] - values[-2]) * along
            inner = np.linspace(0.0, 1.0, len(values))[2:-2]
            self.knots = np.concatenate([low[::-1], values[2:-2], high])
            self.shares = np.concatenate([beyond[::-1], inner, 1.0 - beyond])
            self.shares[0], self.shares[-1] = 0.0, 1.0
        self._magnitudes = np.unique(np.append(np.abs(self.knots), 0.0))
        self._within = self.cdf(self._magnitudes) - self.cdf(-self._magnitudes)

    def cdf(self, values: np.ndarray) -> np.ndarray:
        """Share of the weights at or below each value; same shape."""
        shares: np.ndarray = np.interp(values, self.knots, self.shares)
        return shares

    def magnitude(self, share: float) -> float:
        """The magnitude which `share` of the weights do not exceed: the threshold of pruning."""
        return float(np.interp(share, self._within, self._magnitudes))

    def kept_below(self, values: np.ndarray, threshold: float) -> np.ndarray:
        """Share of ALL weights at or below each value and not pruned; same shape."""
        below = self.cdf(np.minimum(values, -threshold))
        above = self.cdf(np.maximum(values, threshold)) - self.cdf(np.array(threshold))
        kept: np.ndarray = below + above
        return kept

    def energy_below(self, share: float) -> float:
        """Share of the sum of squared weights that the `share` smallest magnitudes hold."""
        edges = np.interp(np.linspace(0.0, 1.0, 513), self._within, self._magnitudes)
        squares = (edges[:-1] ** 2 + edges[:-1] * edges[1:] + edges[1:] ** 2) / 3
        held = np.concatenate(([0.0], np.cumsum(squares)))
        if held[-1] <= 0:
            return share
        return float(np.interp(share, np.linspace(0.0, 1.0, 513), held / held[-1]))


@lru_cache(maxsize=4096)
def weight_distribution(layer: LayerProfile) -> WeightDistribution:
    """Made once a layer: a search asks for it thousands of times."""
    return WeightDistribution(layer.weight_quantiles, layer.weight_count)
