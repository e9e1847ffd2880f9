"""A Gaussian process on the metric alone, over what a policy does to each layer.

Its prior is an additive model: a weight a layer on that layer's predicted harm, one for each stage
and each pair of stages in their order, and those of distillation. The weights are not fitted first
and subtracted; they are integrated out (a linear kernel), which is the same model with its own
doubt. A smooth remainder (a squared-exponential kernel) holds what no sum can say.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from search.proposers.sensitivity import Damage
from spaces import Judge, Policy, Stage
from spaces.front import default_max_drop

__all__ = ["Features", "LossScale", "Surrogate"]

_PAIRS = tuple(itertools.combinations(Stage, 2))
#: (linear, smooth, length in features' deviations, noise): the evidence chooses among these.
_GRID = tuple(itertools.product((0.5, 2.0), (0.05, 0.5), (2.0, 5.0), (0.01, 0.05, 0.2)))
#: The evidence is looked at for at most so many trials: it costs their cube, 24 times.
EVIDENCE_TRIALS = 120


class Features:
    """Policy -> (d,) numbers; computed once a policy."""

    def __init__(self, judge: Judge) -> None:
        self._layers = [(layer.name, Damage(layer)) for layer in judge.profile.layers]
        self._known: dict[str, np.ndarray] = {}

    def of(self, policies: Sequence[Policy]) -> np.ndarray:
        """(n, d): harm a layer and its square root's total, stages, their order, distillation.

        And the pruning criterion, as two of 0 or 1: whether by rate, whether it regrows.
        """
        rows = []
        for policy in policies:
            row = self._known.get(policy.digest)
            if row is None:
                row = self._known[policy.digest] = self._row(policy)
            rows.append(row)
        return np.array(rows)

    def _row(self, policy: Policy) -> np.ndarray:
        harms, channels, coarse = [], 0.0, 0.0
        for name, damage in self._layers:
            asked = policy.layer(name)
            harms.append(damage(asked))
            channels += asked.sparsity if asked.pattern == "channel" else 0.0
            coarse += 1.0 / asked.clusters if asked.clusters else 0.0
        at = {stage: place for place, stage in enumerate(policy.order)}
        present = [float(stage in at) for stage in Stage]
        before = [float(np.sign(at[b] - at[a])) if a in at and b in at else 0.0 for a, b in _PAIRS]
        distillation = policy.distillation
        soft = math.log(distillation.temperature) if distillation.kind != "none" else 0.0
        total = sum(harms)
        return np.array(
            [
                *harms,
                math.sqrt(total),
                total,
                channels,
                coarse,
                *present,
                *before,
                distillation.weight,
                soft,
                float(policy.activation_bits < 32),
                float("rate" in policy.criterion),
                float("regrow" in policy.criterion),
            ]
        )


@dataclass(frozen=True)
class LossScale:
    """Loss <-> the surrogate's target, ln(1 + (loss - start) / unit): even where it matters.

    A point of loss matters near the baseline and means nothing for a network that guesses.

    Attributes:
        start: a loss that no candidate is expected to fall below.
        unit: one point where the metric is a share.
    """

    start: float
    unit: float

    @classmethod
    def of(cls, judge: Judge) -> "LossScale":
        """Starts one unit under the baseline's loss."""
        baseline = judge.profile.baseline_metric
        unit = default_max_drop(judge.metric, baseline) / 5
        return cls(judge.metric.loss(baseline) - unit, unit)

    def target(self, losses: np.ndarray) -> np.ndarray:
        """(n,) -> (n,)."""
        values: np.ndarray = np.log1p(np.maximum(losses - self.start, 0.0) / self.unit)
        return values

    def loss(self, targets: np.ndarray) -> np.ndarray:
        """The inverse."""
        values: np.ndarray = self.start + self.unit * np.expm1(np.maximum(targets, 0.0))
        return values


class Surrogate:
    """The process after some trials."""

    def __init__(
        self,
        features: np.ndarray,
        targets: np.ndarray,
        *,
        linear: bool = True,
        smooth: bool = True,
    ) -> None:
        """Choose the variances by the evidence, then condition on all trials.

        Args:
            features: (n, d).
            targets: (n,) from `LossScale.target`.
            linear, smooth: which parts of the prior are there; at least one.
        """
        self._centre, deviation = features.mean(axis=0), features.std(axis=0)
        self._scale = np.where(deviation > 1e-9, deviation, 1.0)
        self._x = self._standard(features)
        self._offset, spread = float(targets.mean()), float(targets.std())
        self._spread = spread if spread > 1e-9 else 1.0
        y = (targets - self._offset) / self._spread
        grid = {
            (a if linear else 0.0, b if smooth else 0.0, length, noise)
            for a, b, length, noise in _GRID
        }
        few = slice(-EVIDENCE_TRIALS, None)
        x, y_few = self._x[few], y[few]
        self._parts = max(sorted(grid), key=lambda parts: _evidence(x, y_few, parts))
        noise = self._parts[3]
        covariance = _kernel(self._x, self._x, self._parts) + noise * np.eye(len(y))
        self._factor = cho_factor(covariance, lower=True)
        self._weights = cho_solve(self._factor, y)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) -> means (n,) and deviations (n,) of the targets, the trials' noise left out."""
        x = self._standard(features)
        cross = _kernel(x, self._x, self._parts)
        mean = cross @ self._weights
        explained = solve_triangular(self._factor[0], cross.T, lower=True)
        variance = _variance(x, self._parts) - (explained**2).sum(axis=0)
        deviation = np.sqrt(np.maximum(variance, 1e-9))
        return self._offset + self._spread * mean, self._spread * deviation

    def _standard(self, features: np.ndarray) -> np.ndarray:
        values: np.ndarray = (features - self._centre) / self._scale
        return values


_Parts = tuple[float, float, float, float]


def _kernel(a: np.ndarray, b: np.ndarray, parts: _Parts) -> np.ndarray:
    linear, smooth, length, _ = parts
    dimensions = a.shape[1]
    inner = a @ b.T
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * inner
    bumps = np.exp(-0.5 * np.maximum(squares, 0.0) / (length**2 * dimensions / 4))
    values: np.ndarray = linear * inner / dimensions + smooth * bumps
    return values


def _variance(x: np.ndarray, parts: _Parts) -> np.ndarray:
    values: np.ndarray = parts[0] * (x**2).sum(axis=1) / x.shape[1] + parts[1]
    return values


def _evidence(x: np.ndarray, y: np.ndarray, parts: _Parts) -> float:
    """Log of p(y) up to a constant (Rasmussen and Williams 2006, equation 5.8)."""
    lower = np.linalg.cholesky(_kernel(x, x, parts) + parts[3] * np.eye(len(y)))
    half = solve_triangular(lower, y, lower=True)
    return float(-0.5 * half @ half - np.log(np.diag(lower)).sum())
