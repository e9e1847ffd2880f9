"""What finished trials say: pure functions, for reports, pages and the command line."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from search.running_front import RunningFront
from spaces import Failure, Front, Judge, Measurement, SearchSpace, Stage, Step, Trial, hypervolume
from spaces.front import steps
from spaces.policy import LayerPolicy, Policy, format_order

__all__ = [
    "FailureGroup",
    "KnobImportance",
    "OrderRow",
    "ProgressPoint",
    "failures_by_reason",
    "importance",
    "knee",
    "knob_value",
    "order_table",
    "price_of_kb",
    "progress",
]

#: With fewer trials a knob's share of variance is mostly chance.
LEAST_TRIALS = 12

_LEFT_ALONE = LayerPolicy()


@dataclass(frozen=True, slots=True)
class KnobImportance:
    """How much of what differs between trials goes with one knob.

    Attributes:
        knob: its name in the space.
        on_loss: share of the variance of the loss AT GIVEN SIZE, 0 to 1.
        on_size: share of the variance of ln size, 0 to 1.
        trials: how many stand behind it; with under 12 both shares are 0.
    """

    knob: str
    on_loss: float
    on_size: float
    trials: int


def knob_value(policy: Policy, knob: str) -> Any:
    """The value of a knob by its name in the space, e.g. "order" or "fc1:sparsity"."""
    return _knob_values([policy], knob)[0]


def _knob_values(policies: Iterable[Policy], knob: str) -> list[Any]:
    """`knob_value` of each policy."""
    if ":" in knob:
        layer, _, name = knob.rpartition(":")
        return [getattr(p.layer_map.get(layer, _LEFT_ALONE), name) for p in policies]
    if knob == "order":
        return [format_order(policy.order) for policy in policies]
    return list(map(attrgetter(knob), policies))


def importance(
    trials: Sequence[Trial], space: SearchSpace, judge: Judge
) -> tuple[KnobImportance, ...]:
    """Every knob with a choice, most important for the loss first; () with under 12 trials.

    A one-way analysis of variance per knob, on ranks, so that no outlier decides: epsilon squared
    (Kelley 1935, PNAS 21/9), which is eta squared less what as many groups would explain by chance.
    The loss is first freed of its straight-line dependence on the size: otherwise every knob that
    makes files small would look bad for the loss. A stage's knobs are judged among the trials that
    ran the stage; whether it ran is the order's doing. It describes the trials that were made, in
    which knobs go together; it is not a causal effect.
    """
    finished = _finished(trials)
    if len(finished) < LEAST_TRIALS:
        return ()
    points = judge.points([trial for trial, _ in finished])
    policies = [trial.policy for trial, _ in finished]
    cohorts = {stage: _Cohort.of(policies, points, stage) for stage in (None, *Stage)}
    open_knobs = [knob.name for knob in space.knobs if len(knob.choices) > 1]
    rows = [cohorts[_stage_of(name)].importance_of(name) for name in open_knobs]
    return tuple(sorted(rows, key=lambda row: (-row.on_loss, -row.on_size, row.knob)))


@dataclass(frozen=True, eq=False)
class _Cohort:
    """The trials by which the knobs of one stage are judged.

    Attributes:
        policies: n of them.
        loss: (n,) ranks, freed of their straight-line dependence on the size.
        size: (n,) ranks.
    """

    policies: Sequence[Policy]
    loss: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, policies: Sequence[Policy], points: np.ndarray, stage: Stage | None) -> "_Cohort":
        """Those that ran the stage; None = all. Args: points: (n, 3) of the policies' trials."""
        rows = [i for i, policy in enumerate(policies) if stage is None or stage in policy.order]
        ran = [policies[i] for i in rows]
        if not ran:
            return cls(ran, np.empty(0), np.empty(0))
        loss, size = _ranks(points[rows, 0]), _ranks(points[rows, 1])
        return cls(ran, _ranks(_residual(loss, size)), size)

    def importance_of(self, knob: str) -> KnobImportance:
        """How much of what differs between these trials goes with a knob."""
        count = len(self.policies)
        if count < LEAST_TRIALS:
            return KnobImportance(knob, 0.0, 0.0, count)
        groups = _codes(_knob_values(self.policies, knob))
        on_loss = _epsilon_squared(self.loss, groups)
        return KnobImportance(knob, on_loss, _epsilon_squared(self.size, groups), count)


def _stage_of(knob: str) -> Stage | None:
    """The stage without which a knob does nothing."""
    name = knob.rpartition(":")[2]
    if name.startswith("distillation."):
        return Stage.DISTILL
    if name in ("sparsity", "pattern", "criterion"):
        return Stage.PRUNE
    if name in ("clusters", "cluster_init"):
        return Stage.CLUSTER
    return None if name == "order" else Stage.QUANTIZE


def _finished(trials: Iterable[Trial]) -> list[tuple[Trial, Measurement]]:
    return [(trial, m) for trial in trials if (m := trial.measurement) is not None]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks; equal values share one. Shape (n,)."""
    _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray = (last - (counts - 1) / 2)[groups]
    return ranks


def _residual(values: np.ndarray, explained_by: np.ndarray) -> np.ndarray:
    centred = explained_by - explained_by.mean()
    spread = float((centred**2).sum())
    slope = float((centred * values).sum()) / spread if spread > 0 else 0.0
    residual: np.ndarray = values - slope * centred
    return residual


def _codes(values: Sequence[Any]) -> np.ndarray:
    """(n,) small ints, equal for equal values; None is a value like any other."""
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values])


def _epsilon_squared(values: np.ndarray, groups: np.ndarray) -> float:
    count, group_count = len(values), int(groups.max()) + 1
    total = float(((values - values.mean()) ** 2).sum())
    if group_count < 2 or count <= group_count or total <= 0:
        return 0.0
    sizes = np.bincount(groups)
    means = np.bincount(groups, weights=values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum())
    within_each = (total - between) / (count - group_count)
    return min(1.0, max(0.0, (between - (group_count - 1) * within_each) / total))


def knee(members: Sequence[Trial], judge: Judge) -> Trial:
    """The member nearest the ideal point, each axis from 0 = best of the front to 1 = worst.

    The ideal point has the least loss, the fewest bytes (ln) and the least latency (ln) of any
    member; an axis on which all are equal counts nothing. Of equally near ones the smallest.

    Args:
        members: of a front, at least one.
        judge: of the study.
    """
    points = judge.points(members)
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    distances = np.round(np.linalg.norm(scaled, axis=1), 12)
    order = np.lexsort((points[:, 1], distances))
    return members[int(order[0])]


def price_of_kb(trials: Sequence[Trial], judge: Judge, fidelity: int) -> tuple[Step, ...]:
    """What each step up the front of one fidelity buys, from small to large."""
    return steps(Front.of(trials, judge, fidelity).members, judge.metric)


@dataclass(frozen=True, slots=True)
class OrderRow:
    """What one order of stages was worth.

    Attributes:
        order: e.g. "prune>quantize".
        trials, failed, feasible: counts.
        best_metric: of the feasible trials, or None.
        smallest_bytes: the smallest feasible file, or None.
        on_front: members of the front.
        share_of_front: of all members, 0 to 1.
    """

    order: str
    trials: int
    failed: int
    feasible: int
    best_metric: float | None
    smallest_bytes: int | None
    on_front: int
    share_of_front: float


def order_table(trials: Sequence[Trial], judge: Judge) -> tuple[OrderRow, ...]:
    """One row an order that was tried, most of the front first. Trials of ONE fidelity.

    Raises:
        ValueError: trials of several fidelities, which cannot be compared.
    """
    fidelities = {trial.identity.fidelity for trial in trials}
    if len(fidelities) > 1:
        raise ValueError(f"order_table: one fidelity at a time, but got {sorted(fidelities)}")
    members = Front.of(trials, judge, *fidelities).members if fidelities else ()
    on_front: dict[str, int] = defaultdict(int)
    for trial in members:
        on_front[format_order(trial.policy.order)] += 1
    by_order: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_order[format_order(trial.policy.order)].append(trial)
    rows = [
        _order_row(order, found, judge, on_front[order], len(members))
        for order, found in by_order.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.on_front, -row.feasible, row.order)))


def _order_row(
    order: str, trials: Sequence[Trial], judge: Judge, on_front: int, members: int
) -> OrderRow:
    feasible = [m for trial, m in _finished(trials) if judge.is_feasible(trial)]
    metrics = sorted((m.metric for m in feasible), key=judge.metric.loss)
    return OrderRow(
        order=order,
        trials=len(trials),
        failed=sum(trial.measurement is None for trial in trials),
        feasible=len(feasible),
        best_metric=metrics[0] if metrics else None,
        smallest_bytes=min((m.size_bytes for m in feasible), default=None),
        on_front=on_front,
        share_of_front=on_front / members if members else 0.0,
    )


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """Where a search stood after one trial.

    Attributes:
        number: of the trial.
        seconds: of evaluation spent so far, summed over trials (and so over workers).
        hypervolume: of the feasible trials so far.
        best_metric: of the feasible trials so far, or None.
        smallest_bytes: of the feasible trials so far, or None.
        feasible: how many there are so far.
    """

    number: int
    seconds: float
    hypervolume: float
    best_metric: float | None
    smallest_bytes: int | None
    feasible: int


def progress(trials: Sequence[Trial], judge: Judge) -> tuple[ProgressPoint, ...]:
    """One point a trial, in the order given. A failed trial repeats the point before it.

    The front is kept as trials come, and the hypervolume only computed when the front changes.
    """
    reference = judge.reference
    front = RunningFront(judge)
    seconds = volume = 0.0
    best_metric: float | None = None
    smallest_bytes: int | None = None
    feasible = 0
    found = []
    for trial in trials:
        measurement = trial.measurement
        if measurement is not None:
            seconds += math.fsum(measurement.seconds.values())
        if measurement is not None and judge.is_feasible(trial):
            feasible += 1
            if best_metric is None or judge.metric.drop(measurement.metric, best_metric) < 0:
                best_metric = measurement.metric
            smallest_bytes = min(smallest_bytes or measurement.size_bytes, measurement.size_bytes)
            if front.add(trial):
                volume = hypervolume(front.points, reference)
        found.append(
            ProgressPoint(trial.number, seconds, volume, best_metric, smallest_bytes, feasible)
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Trials that failed for one reason.

    Attributes:
        reason: stage and reason as the failures gave them; the layer is left out.
        count: how many.
        trials: their numbers, ascending.
        example: the first failure in full.
        layers: where it happened, distinct, the first one's first; () where none was named.
    """

    reason: str
    count: int
    trials: tuple[int, ...]
    example: str
    layers: tuple[str, ...]


def failures_by_reason(trials: Sequence[Trial]) -> tuple[FailureGroup, ...]:
    """The commonest reason first."""
    groups: dict[str, list[tuple[int, Failure]]] = defaultdict(list)
    for trial in trials:
        if isinstance(trial.outcome, Failure):
            reason = ": ".join(part for part in (trial.outcome.stage, trial.outcome.reason) if part)
            groups[reason].append((trial.number, trial.outcome))
    found = []
    for reason, failed in groups.items():
        failed.sort(key=lambda pair: pair[0])
        numbers = tuple(number for number, _ in failed)
        layers = tuple(dict.fromkeys(failure.layer for _, failure in failed if failure.layer))
        found.append(FailureGroup(reason, len(failed), numbers, str(failed[0][1]), layers))
    return tuple(sorted(found, key=lambda group: (-group.count, group.reason)))
