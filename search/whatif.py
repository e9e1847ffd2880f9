"""What the answer would be under another budget: fast enough to follow a slider.

    candidates = Candidates.of(record.trials(), record.judge, spec.fidelity)   # once a snapshot
    choice = candidates.choose(Budget(size_bytes=40_000))                      # once a move
    candidates.trials[choice.pick]

The answers are those of `Front.of` and `Certificate.of` under the same budget, to the last trial.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spaces import Budget, Certificate, Judge, Trial, nondominated
from spaces.front import default_max_drop, measured_by_size

__all__ = ["Candidates", "Choice"]

#: How far the same sum in another order of operations may be off, of the size of its terms.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Choice:
    """What a budget leaves of the candidates. Every int is an index into `Candidates.trials`.

    Attributes:
        budget: the limits.
        feasible: (n,) booleans, who keeps every limit.
        front: the feasible ones that no other feasible one dominates, small to large.
        pick: the member to ship, None when nothing is feasible.
        best: the member with the best metric, of equal ones the smallest; None likewise.
        near: how many feasible ones are within one standard error (the best's) of the best metric.
        binding: limit -> how many candidates this limit ALONE excludes; 0 where there is no limit.
        closest: when nothing is feasible, who has the least total excess; else None.
    """

    budget: Budget
    feasible: np.ndarray
    front: tuple[int, ...]
    pick: int | None
    best: int | None
    near: int
    binding: Mapping[str, int]
    closest: int | None


@dataclass(frozen=True, eq=False)
class Candidates:
    """The measured trials of ONE fidelity as arrays, by size, then latency, then number.

    Attributes:
        judge: of the study; its budget plays no part.
        fidelity: of all trials.
        trials: n of them.
        points: (n, 3), `Judge.point` of each: (loss, ln bytes, ln ms on the grid).
        size_bytes, download_bytes: (n,).
        latency_ms: (n,), the median, not on the grid.
        metric, metric_se: (n,), in the metric's unit.
        lasting: ascending indexes of who may be on the front of some budget without a limit on
            downloads; nobody else needs to be looked at for a front.
        lasting_by_download: the same for any budget.
    """

    judge: Judge
    fidelity: int
    trials: tuple[Trial, ...]
    points: np.ndarray
    size_bytes: np.ndarray
    download_bytes: np.ndarray
    latency_ms: np.ndarray
    metric: np.ndarray
    metric_se: np.ndarray
    lasting: np.ndarray
    lasting_by_download: np.ndarray

    @classmethod
    def of(cls, trials: Iterable[Trial], judge: Judge, fidelity: int) -> "Candidates":
        """Those of `trials` with a measurement at this fidelity."""
        found = measured_by_size(trials, fidelity)
        rows = [
            (m.size_bytes, m.download_bytes, m.latency.median_ms, m.metric, m.metric_se)
            for trial in found
            if (m := trial.measurement) is not None
        ]
        size, download, latency, metric, metric_se = np.array(rows, dtype=float).reshape(-1, 5).T
        points = judge.points(found)
        loss, _, on_grid = points.T
        judged = [loss, latency]
        # Measured and modelled latencies among each other: the grid may order them otherwise.
        if not _rises(on_grid, latency):
            judged.append(on_grid)
        lasting = _unbeaten(judged)
        follow_sizes = _rises(download, np.arange(len(found)))
        return cls(
            judge=judge,
            fidelity=fidelity,
            trials=tuple(found),
            points=points,
            size_bytes=size,
            download_bytes=download,
            latency_ms=latency,
            metric=metric,
            metric_se=metric_se,
            lasting=lasting,
            lasting_by_download=lasting if follow_sizes else _unbeaten([*judged, download]),
        )

    def choose(self, budget: Budget) -> Choice:
        """What this budget leaves: O(n) array operations, then a sweep of few candidates.

        Args:
            budget: any limits; those of the study play no part.
        """
        excess = self._excess(budget)
        over = {name: values > 0 for name, values in excess.items()}
        broken = np.sum(list(over.values()), axis=0, dtype=int)
        feasible = broken == 0
        front = self._front(feasible, by_download=budget.download_bytes is not None)
        binding = {name: int((each & (broken == 1)).sum()) for name, each in over.items()}
        pick = best = None
        near = 0
        if len(front):
            loss = self.points[:, 0]
            best = int(front[loss[front].argmin()])
            within = loss <= loss[best] + self.metric_se[best]
            # Members come by size, then latency: the first one near the best is the pick.
            pick = int(front[within[front].argmax()])
            near = int((within & feasible).sum())
        return Choice(
            budget=budget,
            feasible=feasible,
            front=tuple(front.tolist()),
            pick=pick,
            best=best,
            near=near,
            binding=binding,
            closest=None if len(front) else self._closest(budget, excess),
        )

    def _excess(self, budget: Budget) -> dict[str, np.ndarray]:
        """Limit -> (n,), as `spaces.trial.violations` gives it for each trial."""
        metric = self.judge.metric
        none = np.full(len(self.trials), -1.0)

        def relative(values: np.ndarray, limit: float | None) -> np.ndarray:
            return none if limit is None else values / limit - 1.0

        limit = budget.metric_limit(metric, self.judge.profile.baseline_metric)
        return {
            "size_bytes": relative(self.size_bytes, budget.size_bytes),
            "download_bytes": relative(self.download_bytes, budget.download_bytes),
            "latency_ms": relative(self.latency_ms, budget.latency_ms),
            "metric": none if limit is None else self.points[:, 0] - metric.loss(limit) - 1e-9,
        }

    def _front(self, feasible: np.ndarray, *, by_download: bool) -> np.ndarray:
        """(members,) ascending indices of the front of the feasible ones."""
        lasting = self.lasting_by_download if by_download else self.lasting
        left = lasting[feasible[lasting]]
        members: np.ndarray = left[nondominated(self.points[left])]
        return members

    def _closest(self, budget: Budget, excess: Mapping[str, np.ndarray]) -> int | None:
        """As `Certificate.closest`, which is asked about those that cannot be told apart here."""
        if not self.trials:
            return None
        judge = self.judge
        unit = default_max_drop(judge.metric, judge.profile.baseline_metric)
        weights = dict.fromkeys(excess, 1.0) | {"metric": 1 / unit}
        over = {name: np.maximum(each, 0.0) for name, each in excess.items()}
        distance = np.sum([weights[name] * each for name, each in over.items()], axis=0)
        doubt = _ROUNDING * (distance + np.sum(list(over.values()), axis=0))
        nearest = np.flatnonzero(distance - doubt <= (distance + doubt).min())
        if len(nearest) == 1:
            return int(nearest[0])
        asked = [self.trials[i] for i in nearest]
        closest = Certificate.of(asked, replace(judge, budget=budget), self.fidelity).closest
        return int(next(i for i in nearest if self.trials[i] is closest))


def _unbeaten(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Who is on no front whatever the budget is left out; ascending indexes of the others.

    That is whoever is beaten by a trial that keeps every limit it keeps itself: with at most its
    size, its loss, its latency and, if downloads are limited, its download. Beating is transitive,
    so the front of the others is the front. Only the trials before it are asked: they are at most
    as large, and count of equal points.

    Args:
        columns: (n,) each, of candidates in their order.
    """
    numbers = np.arange(len(columns[0]))
    return np.flatnonzero(nondominated(np.column_stack([numbers, *columns])))


def _rises(values: np.ndarray, keys: np.ndarray) -> bool:
    """Whether a smaller key never has the larger value, and equal keys have equal values."""
    along = values[np.lexsort((-values, keys))]
    return bool((np.diff(along) >= 0).all())
