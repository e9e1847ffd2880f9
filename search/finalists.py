"""Which searched trials are worth running again at full fidelity, and which front is the answer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spaces import Certificate, Front, Judge, Trial, hypervolume, nondominated
from spaces.front import default_max_drop, pick

__all__ = ["answer_certificate", "answer_front", "choose_finalists", "worth_repeating"]


def choose_finalists(trials: Sequence[Trial], judge: Judge, count: int) -> list[Trial]:
    """The search's pick, its best metric, then a spread subset of the best trials.

    The spread is greedy: each next one adds most hypervolume (subset selection, Guerreiro et al.
    2016). Without a latency budget every other seat goes by metric and bytes alone: few distinct
    latencies exist, and a faster network would otherwise win every seat however large it is.

    The metric limit is loosened by one default drop for the spread: a short fine-tune
    underestimates what a full one reaches, and a trial just under the limit may be the smallest
    one above it afterwards. Where no trial reaches the limit it is loosened to a fifth of that
    drop beyond the best that fits, or small files far from it would take the seats.
    """
    budget = replace(judge.budget, min_metric=None, max_drop=None)
    relaxed = replace(judge, budget=budget)
    fitting = [t for t in trials if relaxed.is_feasible(t)]
    points = judge.points(fitting)
    slack = default_max_drop(judge.metric, judge.profile.baseline_metric)
    missing = judge.missing_loss(points)
    if missing is not None:
        slack = min(slack, missing + slack / 5)
    reference = judge.reference + np.array([slack, 0.0, 0.0])
    keep = nondominated(points) & (points < reference).all(axis=1)
    kept: list[int] = np.flatnonzero(keep).tolist()
    candidates = {fitting[i].number: points[i] for i in kept}
    chosen = _certain(trials, judge)[:count]
    # The pick may lie outside of the volume, e.g. at a latency above the reference: it counts.
    taken = judge.points(chosen)
    both = [[0, 1, 2]] if judge.budget.latency_ms is not None else [[0, 1], [0, 1, 2]]
    for trial in chosen:
        candidates.pop(trial.number, None)
    by_number = {trial.number: trial for trial in fitting}
    while candidates and len(chosen) < count:
        axes = both[len(chosen) % len(both)]
        best = max(
            candidates,
            key=lambda n: hypervolume(
                np.vstack([taken, candidates[n]])[:, axes],
                reference[axes],
            ),
        )
        taken = np.vstack([taken, candidates.pop(best)])
        chosen.append(by_number[best])
    return chosen


def _certain(trials: Sequence[Trial], judge: Judge) -> list[Trial]:
    """What the search itself would answer with: its pick and its best metric."""
    feasible = [trial for trial in trials if judge.is_feasible(trial)]
    if not feasible:
        return []
    points = judge.points(feasible)
    most = feasible[min(range(len(feasible)), key=lambda i: (points[i, 0], points[i, 1]))]
    best = pick(feasible, judge.metric)
    assert best is not None
    return [best] if best is most else [best, most]


def worth_repeating(finalists: Sequence[Trial], judge: Judge, fidelity: int) -> list[Trial]:
    """Finalists whose place in the answer hangs on their random numbers; each first run counts.

    Two runs of one policy differ by about one standard error of the metric (four seeds of LeNet-300
    at 3 % error: 0.1 to 0.2 points). Whoever would come into the front, or fall out of it, if its
    metric were one standard error better or worse, and the pick.
    """
    first = [t for t in finalists if t.measurement is not None and t.identity.repeat == 0]
    front = Front.of(first, judge, fidelity)
    members = {trial.number for trial in front.members}

    def is_member(trial: Trial, errors: float) -> bool:
        values = trial.measurement
        assert values is not None
        metric = values.metric + errors * values.metric_se
        moved = replace(trial, outcome=replace(values, metric=metric))
        others = [moved if other is trial else other for other in first]
        return any(t.number == trial.number for t in Front.of(others, judge, fidelity).members)

    return [
        trial
        for trial in first
        if (front.pick is not None and trial.number == front.pick.number)
        or any(is_member(trial, error) != (trial.number in members) for error in (-1.0, 1.0))
    ]


def answer_front(
    trials: Sequence[Trial], finalists: Sequence[Trial], judge: Judge, fidelities: tuple[int, int]
) -> Front:
    """The finalists' front where it has a member, else the search's own.

    Args:
        trials, finalists: of the two studies.
        judge: the study's.
        fidelities: (search, full).
    """
    full = Front.of(finalists, judge, fidelities[1])
    return full if full.members else Front.of(trials, judge, fidelities[0])


def answer_certificate(
    trials: Sequence[Trial], finalists: Sequence[Trial], judge: Judge, fidelities: tuple[int, int]
) -> Certificate:
    """The certificate of the fidelity that came closest to the budget.

    Args:
        trials, finalists: of the two studies.
        judge: the study's.
        fidelities: (search, full).
    """
    both = (
        Certificate.of(finalists, judge, fidelities[1]),
        Certificate.of(trials, judge, fidelities[0]),
    )
    return min(both, key=lambda certificate: certificate.distance)
