"""How much harm a LayerPolicy does, predicted from the sensitivity scan. No training."""

import math
from collections.abc import Mapping

import numpy as np

from evaluators.cost.distribution import weight_distribution
from spaces import LayerPolicy, LayerProfile
from spaces.policy import FULL_BITS

__all__ = ["Damage", "strength"]

#: Losses above this (nats) count by their logarithm. A layer pruned to 95 % without training may
#: cost ten nats, of which fine-tuning gives nearly all back: raw losses would freeze such a layer.
RECOVERABLE_NATS = 0.05
#: Knobs that the scan left out count by the energy they take from the weights, at this exchange.
NATS_PER_ENERGY = 1.0
#: Keeps treatments apart that the scan, on its few samples, calls equally harmless.
TIE_BREAK = 0.02
#: Where a knob does nothing, as `strength`.
_NEUTRAL_STRENGTH: Mapping[str, float] = {"sparsity": 0.0, "clusters": -10.0, "bits": -10.0}
#: Where to look instead, when the scan left a knob out.
_UNSCANNED: Mapping[str, tuple[float, ...]] = {
    "sparsity": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99),
    "clusters": (256, 64, 16, 8, 4, 2),
    "bits": (8, 6, 5, 4, 3, 2),
}


def strength(knob: str, value: float) -> float:
    """A coordinate that grows with the treatment, along which harm grows smoothly.

    Bytes fall with the density, hence its logarithm; a codebook's and a grid's distortion falls
    by 4 with each bit.
    """
    if knob == "sparsity":
        return -math.log1p(-value)
    return -math.log2(value) if knob == "clusters" else -float(value)


class Damage:
    """Predicted harm of treating one layer; additive over knobs and over layers.

    Harm starts as ln(1 + nats / 0.05), interpolated along `strength`, with two corrections to the
    scan. It never falls: noise must not make a stronger treatment look milder. And its slope never
    falls: an untrained loss levels off at guessing, but what fine-tuning cannot repair does not
    (errors of a fine-tuned network were measured to rise as bytes^-0.7, a straight line here).
    Without the second a layer that is hurt at all would seem best pruned to the last weight.
    """

    def __init__(self, layer: LayerProfile) -> None:
        self._layer = layer
        self._curves = {knob: self._curve(knob) for knob in _UNSCANNED}
        self._known: dict[tuple[str, float], float] = {}

    def __call__(self, asked: LayerPolicy) -> float:
        """Of one LayerPolicy; 0 when it leaves the layer alone. Entries of a codebook are free."""
        harm = 0.0
        if asked.sparsity > 0:
            harm += self._of("sparsity", asked.sparsity)
        if asked.clusters is not None:
            harm += self._of("clusters", asked.clusters)
        elif asked.bits < FULL_BITS:
            harm += self._of("bits", asked.bits)
        return harm

    def _of(self, knob: str, value: float) -> float:
        harm = self._known.get((knob, value))
        if harm is None:
            harm = self._known[knob, value] = self._at(knob, value)
        return harm

    def _curve(self, knob: str) -> tuple[np.ndarray, np.ndarray]:
        """(strength, harm) where the scan looked, from where the knob does nothing."""
        nats_at = {
            strength(knob, entry.value): entry.loss_increase
            for entry in self._layer.sensitivity
            if entry.knob == knob
        }
        if not nats_at:
            nats_at = {
                strength(knob, value): NATS_PER_ENERGY * self._energy(knob, value)
                for value in _UNSCANNED[knob]
            }
        points = sorted(nats_at.items())
        x = np.array([_NEUTRAL_STRENGTH[knob], *(at for at, _ in points)])
        nats = np.maximum.accumulate([0.0, *(nats for _, nats in points)])
        runs = np.diff(x)
        slopes = np.maximum.accumulate(np.diff(np.log1p(nats / RECOVERABLE_NATS)) / runs)
        return x, np.concatenate(([0.0], np.cumsum(slopes * runs)))

    def _at(self, knob: str, value: float) -> float:
        x, harm = self._curves[knob]
        at = strength(knob, value)
        beyond = max(0.0, at - float(x[-1])) * float((harm[-1] - harm[-2]) / (x[-1] - x[-2]))
        return float(np.interp(at, x, harm)) + beyond + TIE_BREAK * self._energy(knob, value)

    def _energy(self, knob: str, value: float) -> float:
        """Share of the sum of squared weights that the treatment changes, roughly."""
        if knob == "sparsity":
            return weight_distribution(self._layer).energy_below(value)
        # Rounding to n levels: about 1/n^2; a uniform grid over the range wastes a factor of 12.
        return 1.0 / value**2 if knob == "clusters" else min(1.0, 12.0 * 4.0 ** -float(value))
