"""Which trials nothing else beats, how much they cover, and which one to ship.

Objectives of a trial are (loss, size, latency), all minimised. Dominance sees MEASURED latency on
a 5 % logarithmic grid: otherwise timing noise would make every trial non-dominated.
"""

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spaces.budget import BYTES_PER_KB, Budget
from spaces.metric import Metric
from spaces.profile import ModelProfile
from spaces.trial import Latency, LedgerLine, Measurement, Trial, violations

__all__ = [
    "Certificate",
    "Front",
    "Judge",
    "Step",
    "default_max_drop",
    "hypervolume",
    "nondominated",
]

LATENCY_GRID = 0.05
#: Latency reference without a latency budget, over the baseline's. It must be above 1: most
#: policies leave the latency as it is, and a reference AT the baseline would give them no volume.
LATENCY_REFERENCE = 1.25
#: A baseline whose error is 0 still needs a reference above it.
SMALLEST_DROP = 1e-3


def nondominated(points: np.ndarray) -> np.ndarray:
    """Which rows no other row dominates; of equal rows the first counts.

    Args:
        points: (n, objectives), minimised, finite.

    Returns:
        (n,) booleans. O(n log n) for 2 or 3 objectives, else O(n * front size): candidates come in
        lexicographic order, so that a row can only be dominated by one already kept.
    """
    keep = np.zeros(len(points), dtype=bool)
    if len(points) == 0:
        return keep
    order = np.lexsort(points.T[::-1])
    find = {2: _kept_of_pairs, 3: _kept_of_triples}.get(points.shape[1], _kept_of_rows)
    keep[order[find(points[order])]] = True
    return keep


def _kept_of_pairs(points: np.ndarray) -> np.ndarray:
    """Positions of the non-dominated rows of (n, 2), which come in lexicographic order."""
    least_before = np.minimum.accumulate(points[:-1, 1])
    return np.flatnonzero(np.append(True, points[1:, 1] < least_before))


def _kept_of_triples(points: np.ndarray) -> np.ndarray:
    """As `_kept_of_pairs` for (n, 3): a staircase of the last two objectives (Kung et al. 1975)."""
    kept = []
    second: list[float] = []  # ascending
    third: list[float] = []  # descending, of the same rows
    for i, (y, z) in enumerate(zip(points[:, 1].tolist(), points[:, 2].tolist(), strict=True)):
        at = bisect_right(second, y)
        if at and third[at - 1] <= z:
            continue
        kept.append(i)
        start = end = bisect_left(second, y, hi=at)
        while end < len(third) and third[end] >= z:
            end += 1
        second[start:end] = [y]
        third[start:end] = [z]
    return np.array(kept)


def _kept_of_rows(points: np.ndarray) -> np.ndarray:
    """As `_kept_of_pairs` for any number of objectives."""
    kept = np.empty_like(points)
    found: list[int] = []
    for i, row in enumerate(points):
        if not (kept[: len(found)] <= row).all(axis=1).any():
            kept[len(found)] = row
            found.append(i)
    return np.array(found)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Exact volume dominated by `points` within `reference`, for 2 or 3 minimised objectives.

    Three objectives are swept along the last one, adding 2-D areas (Fonseca et al. 2006, CEC).

    Args:
        points: (n, d), d in {2, 3}.
        reference: (d,).

    Raises:
        ValueError: another number of objectives.
    """
    dimensions = len(reference)
    if dimensions not in (2, 3):
        raise ValueError(f"hypervolume: 2 or 3 objectives, but got {dimensions}")
    inside = points[(points < reference).all(axis=1)] if len(points) else points
    if len(inside) == 0:
        return 0.0
    inside = inside[nondominated(inside)]
    return _area(inside, reference) if dimensions == 2 else _volume(inside, reference)


def _area(points: np.ndarray, reference: np.ndarray) -> float:
    """Of non-dominated points (n, 2) below the reference."""
    points = points[np.argsort(points[:, 0])]
    above = np.concatenate(([reference[1]], points[:-1, 1]))
    return float(((reference[0] - points[:, 0]) * (above - points[:, 1])).sum())


def _volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Of non-dominated points (n, 3) below the reference: slices, each with `_area` of those below.

    From one slice to the next only the strips beside the new point change. None so far can be at
    or below it in the first two objectives: it would dominate.
    """
    points = points[np.argsort(points[:, 2])]
    heights = np.append(points[1:, 2], reference[2]) - points[:, 2]
    right, top = reference[:2].tolist()
    xs: list[float] = []  # ascending
    ys: list[float] = []  # descending, of the same points
    strips = np.empty(len(points))
    volume = 0.0
    for (x, y), height in zip(points[:, :2].tolist(), heights.tolist(), strict=True):
        start = end = bisect_left(xs, x)
        while end < len(ys) and ys[end] >= y:
            end += 1
        xs[start:end] = [x]
        ys[start:end] = [y]
        count = len(xs)
        after = start + 1
        strips[after:count] = strips[end : end + count - after]
        strips[start] = (right - x) * ((ys[start - 1] if start else top) - y)
        if after < count:
            strips[after] = (right - xs[after]) * (y - ys[after])
        if height > 0:
            volume += height * float(strips[:count].sum())
    return volume


def default_max_drop(metric: Metric, baseline: float) -> float:
    """Five points of a share; a tenth of the baseline of anything else, but never nothing."""
    return 0.05 if metric.unit == "share" else max(0.1 * abs(baseline), SMALLEST_DROP)


def _latency_on_grid(latency: Latency) -> float:
    value = math.log(latency.median_ms)
    if latency.source != "measured":
        return value
    step = math.log1p(LATENCY_GRID)
    return round(value / step) * step


@dataclass(frozen=True)
class Judge:
    """Everything fixed at the start of a study that turns measurements into comparable points.

    Attributes:
        metric, budget, profile: what is compared, with which limits and which baseline.
        secondary: what else was measured. Judges nothing; pages show it beside the metric.
    """

    metric: Metric
    budget: Budget
    profile: ModelProfile
    secondary: tuple[Metric, ...] = ()

    def point(self, measurement: Measurement) -> tuple[float, float, float]:
        """(loss, ln bytes, ln ms on the grid)."""
        return (
            self.metric.loss(measurement.metric),
            math.log(measurement.size_bytes),
            _latency_on_grid(measurement.latency),
        )

    def violations(self, measurement: Measurement) -> dict[str, float]:
        """See `spaces.trial.violations`."""
        return violations(measurement, self.budget, self.metric, self.profile.baseline_metric)

    def guiding_violations(self, measurement: Measurement) -> dict[str, float]:
        """As `violations`, but without a metric limit the hypervolume's reference stands in.

        For proposers: a network that guesses is the smallest of all, so without any limit it is
        non-dominated for ever and a sampler would chase its like; it adds no hypervolume.
        """
        found = self.violations(measurement)
        if self.budget.metric_limit(self.metric, self.profile.baseline_metric) is None:
            found["metric"] = self.metric.loss(measurement.metric) - float(self.reference[0])
        return found

    def is_feasible(self, trial: Trial) -> bool:
        """Whether a trial finished and keeps every limit."""
        measurement = trial.measurement
        return measurement is not None and max(self.violations(measurement).values()) <= 0

    @property
    def reference(self) -> np.ndarray:
        """Hypervolume's reference point: the budget where set, else the baseline. Shape (3,)."""
        found = self.unlimited_reference
        if self.budget.size_bytes:
            found[1] = math.log(self.budget.size_bytes)
        if self.budget.latency_ms:
            found[2] = math.log(self.budget.latency_ms)
        return found

    @property
    def unlimited_reference(self) -> np.ndarray:
        """`reference` of a budget with the same metric limit, but none of size and latency."""
        profile = self.profile
        limit = self.budget.metric_limit(self.metric, profile.baseline_metric)
        if limit is None:
            loss = self.metric.loss(profile.baseline_metric)
            loss += default_max_drop(self.metric, profile.baseline_metric)
        else:
            loss = self.metric.loss(limit)
        latency_ms = LATENCY_REFERENCE * profile.baseline_latency_ms
        return np.array([loss, math.log(profile.baseline_size_bytes), math.log(latency_ms)])

    def points(self, trials: Iterable[Trial]) -> np.ndarray:
        """(trials, 3); every trial must have a measurement."""
        rows = [self.point(m) for t in trials if (m := t.measurement) is not None]
        return np.array(rows, dtype=float).reshape(-1, 3)

    def fits(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) points -> (n,) which lie within the reference in bytes and latency."""
        found: np.ndarray = np.all(points[:, 1:] < self.reference[1:], axis=1)
        return found

    def missing_loss(self, points: np.ndarray) -> float | None:
        """What the best that fits lacks to the reference's loss; None where one reaches it.

        Args:
            points: (n, 3). Without any that fits in bytes and latency nothing can be said: None.
        """
        fits = points[self.fits(points)]
        missing = float(fits[:, 0].min() - self.reference[0]) if len(fits) else -1.0
        return missing if missing >= 0 else None

    def hypervolume(self, trials: Iterable[Trial]) -> float:
        """Of the feasible ones among `trials`."""
        feasible = [trial for trial in trials if self.is_feasible(trial)]
        return hypervolume(self.points(feasible), self.reference)


@dataclass(frozen=True)
class Front:
    """The non-dominated feasible trials of ONE fidelity.

    Attributes:
        fidelity: training samples seen by each of them.
        members: from the smallest to the largest file.
        pick: the member to ship: among those within one standard error of the best metric, the
            smallest, then the fastest. None when nothing is feasible.
        hypervolume: over (loss, ln bytes, ln ms), within the budget.
        feasible, finished: how many trials kept the budget, of how many with a measurement.
    """

    fidelity: int
    members: tuple[Trial, ...]
    pick: Trial | None
    hypervolume: float
    feasible: int
    finished: int

    @classmethod
    def of(cls, trials: Sequence[Trial], judge: Judge, fidelity: int) -> "Front":
        """The front of the trials of one fidelity."""
        finished = measured_by_size(trials, fidelity)
        feasible = [t for t in finished if judge.is_feasible(t)]
        points = judge.points(feasible)
        members = [t for t, keep in zip(feasible, nondominated(points), strict=True) if keep]
        return cls(
            fidelity=fidelity,
            members=tuple(members),
            pick=pick(members, judge.metric),
            hypervolume=hypervolume(points, judge.reference),
            feasible=len(feasible),
            finished=len(finished),
        )


def _measured(trial: Trial) -> Measurement:
    """The measurement of a trial known to have one."""
    assert trial.measurement is not None
    return trial.measurement


def _by_size(trial: Trial) -> tuple[float, float, int]:
    measurement = _measured(trial)
    return measurement.size_bytes, measurement.latency.median_ms, trial.number


def measured_by_size(trials: Iterable[Trial], fidelity: int) -> list[Trial]:
    """The trials of one fidelity with a measurement, by size, then latency, then number.

    In this order the same one of equal points counts, whatever the order they came in.
    """
    finished = [t for t in trials if t.identity.fidelity == fidelity and t.measurement]
    return sorted(finished, key=_by_size)


def pick(feasible: Sequence[Trial], metric: Metric) -> Trial | None:
    """Within one standard error of the best metric the smallest, then the fastest."""
    if not feasible:
        return None
    best = min(feasible, key=lambda t: metric.loss(_measured(t).metric))
    limit = metric.loss(_measured(best).metric) + _measured(best).metric_se
    near = [t for t in feasible if metric.loss(_measured(t).metric) <= limit]
    return min(near, key=_by_size)


@dataclass(frozen=True, slots=True)
class Step:
    """What the next bytes buy: from one member of a front to its larger neighbour."""

    from_trial: int
    to_trial: int
    extra_bytes: int
    gain: float

    @property
    def gain_per_10_kb(self) -> float:
        """Metric gained per 10 KB more."""
        return self.gain * 10 * BYTES_PER_KB / max(self.extra_bytes, 1)


@dataclass(frozen=True)
class Certificate:
    """Why nothing met the budget, and what could be had instead.

    Attributes:
        smallest: trials, each the smallest found at its metric or better, small to large.
        fastest: the same for latency, fast to slow.
        closest: the trial with the least total excess over the limits (the metric's in units of
            the default drop).
        excess: limit -> how far `closest` is over it (relative; the metric in its unit).
        bottleneck: (layer, bytes) of `closest`, most bytes first.
        steps: what the next bytes buy along `smallest`.
        fidelity: of all these trials.
        distance: total excess of `closest`; infinite without one.
    """

    smallest: tuple[Trial, ...] = ()
    fastest: tuple[Trial, ...] = ()
    closest: Trial | None = None
    excess: Mapping[str, float] = field(default_factory=dict)
    bottleneck: tuple[tuple[str, int], ...] = ()
    steps: tuple[Step, ...] = ()
    fidelity: int = 0
    distance: float = math.inf

    @classmethod
    def of(cls, trials: Sequence[Trial], judge: Judge, fidelity: int) -> "Certificate":
        """The certificate from every finished trial of one fidelity."""
        finished = measured_by_size(trials, fidelity)
        if not finished:
            return cls(fidelity=fidelity)
        points = judge.points(finished)
        smallest = _staircase(finished, points[:, [1, 0]])
        fastest = _staircase(finished, points[:, [2, 0]])

        def excess(trial: Trial) -> dict[str, float]:
            return {k: v for k, v in judge.violations(_measured(trial)).items() if v > 0}

        # Five points of accuracy weigh as much as twice the bytes: in its own unit, a share, the
        # metric would weigh next to nothing.
        unit = default_max_drop(judge.metric, judge.profile.baseline_metric)

        def distance(trial: Trial) -> float:
            over = excess(trial)
            return sum(over.values()) + over.get("metric", 0.0) * (1 / unit - 1)

        closest = min(finished, key=lambda t: (distance(t), t.number))
        return cls(
            smallest=smallest,
            fastest=fastest,
            closest=closest,
            excess=excess(closest),
            bottleneck=bytes_by_layer(_measured(closest).ledger),
            steps=steps(smallest, judge.metric),
            fidelity=fidelity,
            distance=distance(closest),
        )


def _staircase(trials: Sequence[Trial], points: np.ndarray) -> tuple[Trial, ...]:
    kept: list[int] = np.flatnonzero(nondominated(points)).tolist()
    return tuple(trials[i] for i in sorted(kept, key=lambda i: tuple(points[i])))


def steps(members: Sequence[Trial], metric: Metric) -> tuple[Step, ...]:
    """What each step up a front (small to large) buys; only steps that gain are listed."""
    found = []
    for small, large in itertools.pairwise(members):
        gain = -metric.drop(_measured(large).metric, _measured(small).metric)
        extra = _measured(large).size_bytes - _measured(small).size_bytes
        if gain > 0 and extra > 0:
            found.append(Step(small.number, large.number, extra, gain))
    return tuple(found)


def bytes_by_layer(ledger: Iterable[LedgerLine]) -> tuple[tuple[str, int], ...]:
    """(layer, bytes of all its tensors), most bytes first; "" is what the whole file shares.

    A tensor "fc1.weight" belongs to the layer "fc1".
    """
    totals: dict[str, int] = {}
    for line in ledger:
        layer = line.layer.rpartition(".")[0] or line.layer
        totals[layer] = totals.get(layer, 0) + line.size_bytes
    return tuple(sorted(totals.items(), key=lambda item: (-item[1], item[0])))
