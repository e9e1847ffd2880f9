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
from scipy.linalg.lapack import dpotrf, dtrtrs

from search.proposers.sensitivity import Damage
from spaces import Judge, LayerPolicy, Policy, Stage
from spaces.front import default_max_drop

__all__ = ["Features", "Floor", "LossScale", "Surrogate"]

_PAIRS = tuple(itertools.combinations(Stage, 2))
#: (linear, smooth, length in features' deviations, noise): the evidence chooses among these.
_GRID = tuple(itertools.product((0.5, 2.0), (0.05, 0.5), (2.0, 5.0), (0.01, 0.05, 0.2)))
#: Trials harmed by so large a share, or more, tell what a policy can hope for...
_AS_MUCH = 0.5
#: ...and it may come out better than the best of them by so much of the target, see `Floor`.
_LUCK = 2.0
#: A target that no loss has: e^50 units.
_WORST = 50.0
#: The evidence is looked at for at most so many trials: it costs their cube, 24 times.
EVIDENCE_TRIALS = 120


class Features:
    """Policy -> (d,) numbers; computed once a policy.

    A policy's row is made from one triple a layer (`of_layer`) and what concerns all layers
    (`of_whole`), so that those who propose can look both up and put rows together (`assemble`).
    """

    def __init__(self, judge: Judge) -> None:
        self._damages = {layer.name: Damage(layer) for layer in judge.profile.layers}
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
        layers = [self.of_layer(name, policy.layer(name)) for name in self._damages]
        row: np.ndarray = self.assemble(np.array([layers]), self.of_whole(policy)[None])[0]
        return row

    def of_layer(self, name: str, asked: LayerPolicy) -> tuple[float, float, float]:
        """(harm, channels removed, coarseness of the codebook) of one layer."""
        channels = asked.sparsity if asked.pattern == "channel" else 0.0
        return self._damages[name](asked), channels, 1.0 / asked.clusters if asked.clusters else 0.0

    @staticmethod
    def assemble(layers: np.ndarray, wholes: np.ndarray) -> np.ndarray:
        """(n, layers, 3) and (n, w) -> (n, d)."""
        # One layer after the other: numpy's own sum may group them by how many rows there are.
        totals = np.zeros((len(layers), 3))
        for layer in range(layers.shape[1]):
            totals += layers[:, layer]
        total, channels, coarse = totals.T
        sums = np.column_stack([np.sqrt(total), total, channels, coarse])
        return np.hstack([layers[:, :, 0], sums, wholes])

    def total_harm(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n,): the sum of the layers' harms."""
        total: np.ndarray = features[:, len(self._damages) + 1]
        return total

    @staticmethod
    def of_whole(policy: Policy) -> np.ndarray:
        """(w,): stages, their order, distillation, activations."""
        at = {stage: place for place, stage in enumerate(policy.order)}
        present = [float(stage in at) for stage in Stage]
        before = [float(np.sign(at[b] - at[a])) if a in at and b in at else 0.0 for a, b in _PAIRS]
        distillation = policy.distillation
        soft = math.log(distillation.temperature) if distillation.kind != "none" else 0.0
        return np.array(
            [
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
        """The inverse, of what is believed: the most is far worse than any network, but finite."""
        values: np.ndarray = self.start + self.unit * np.expm1(np.clip(targets, 0.0, _WORST))
        return values


class Floor:
    """What a policy can hope for at best, going by how trials came out that harm about as much.

    The process knows no sign: far from all trials it believes harm to help as easily as to hurt,
    and so the strongest policies, small files of networks that guess, would promise the most. In
    ResNet-20, where next to none of the space works, 16 of 17 proposals were lost so. Of 476 trials
    in ten recorded searches one came out better (by 0.05) than the floor of the trials before it.

    It bites where guessing is far off: two units of the target are 7.4 times in (loss - start), so
    ten classes at 90 % guess well beyond any limit, and two classes at 95 % just at the default's.
    """

    def __init__(self, harms: np.ndarray, targets: np.ndarray) -> None:
        """Args: harms: (n,) `Features.total_harm` of trials, n at least 1; targets: (n,)."""
        order = np.argsort(harms, kind="stable")
        self._harms = harms[order]
        #: The best of those that are harmed so much or more.
        self._best = np.minimum.accumulate(targets[order][::-1])[::-1]

    def of(self, harms: np.ndarray) -> np.ndarray:
        """(n,) harms -> (n,) targets; -inf of what is harmed less than every trial.

        From the trials that are harmed half as much or more, the next milder one among them in any
        case; what is harmed more than all hopes for what the most harmed ones came to.
        """
        most = np.minimum(harms, self._harms[-1])
        half = np.searchsorted(self._harms, _AS_MUCH * most, side="left")
        milder = np.searchsorted(self._harms, most, side="right") - 1
        best = self._best[np.maximum(np.minimum(half, milder), 0)]
        floor: np.ndarray = np.where(milder >= 0, best - _LUCK, -np.inf)
        return floor


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
        self._parts = _most_evident(self._x[few], y[few], sorted(grid))
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
    inner, squares = _products(a, b)
    values: np.ndarray = linear * inner + smooth * _bumps(squares, length)
    return values


def _products(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, m) inner products and squared distances, both over the number of dimensions."""
    inner = a @ b.T
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * inner
    return inner / a.shape[1], np.maximum(squares, 0.0) / a.shape[1]


def _bumps(squares: np.ndarray, length: float) -> np.ndarray:
    values: np.ndarray = np.exp(squares * (-2 / length**2))
    return values


def _variance(x: np.ndarray, parts: _Parts) -> np.ndarray:
    values: np.ndarray = parts[0] * (x**2).sum(axis=1) / x.shape[1] + parts[1]
    return values


def _most_evident(x: np.ndarray, y: np.ndarray, grid: Sequence[_Parts]) -> _Parts:
    """The parts with the largest evidence for y (n,) at x (n, d)."""
    inner, squares = _products(x, x)
    bumps = {length: _bumps(squares, length) for length in {parts[2] for parts in grid}}

    def evidence(parts: _Parts) -> float:
        """Log of p(y) up to a constant (Rasmussen and Williams 2006, equation 5.8)."""
        linear, smooth, length, noise = parts
        covariance = linear * inner + smooth * bumps[length]
        np.fill_diagonal(covariance, covariance.diagonal() + noise)
        lower, failed = dpotrf(covariance, lower=1)
        if failed:
            return -math.inf
        half, _ = dtrtrs(lower, y, lower=1)
        return float(-0.5 * half @ half - np.log(lower.diagonal()).sum())

    return max(grid, key=evidence)
