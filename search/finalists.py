"""Which searched trials are worth running again at full fidelity, and which front is the answer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spaces import Certificate, Front, Judge, Trial, hypervolume, nondominated
from spaces.front import default_max_drop

__all__ = ["answer_certificate", "answer_front", "choose_finalists"]


def choose_finalists(trials: Sequence[Trial], judge: Judge, count: int) -> list[Trial]:
    """A spread subset of the best trials: greedily the one that adds most hypervolume.

    The metric limit is loosened by one default drop: a short fine-tune underestimates what a full
    one reaches, and a trial just under the limit may be the smallest one above it afterwards
    (greedy subset selection: Guerreiro et al. 2016).
    """
    budget = replace(judge.budget, min_metric=None, max_drop=None)
    relaxed = replace(judge, budget=budget)
    fitting = [t for t in trials if relaxed.is_feasible(t)]
    points = judge.points(fitting)
    slack = default_max_drop(judge.metric, judge.profile.baseline_metric)
    reference = judge.reference + np.array([slack, 0.0, 0.0])
    keep = nondominated(points)
    candidates = [
        (trial, point)
        for trial, point, is_kept in zip(fitting, points, keep, strict=True)
        if is_kept and (point < reference).all()
    ]
    chosen: list[Trial] = []
    taken = np.empty((0, 3))
    while candidates and len(chosen) < count:
        volumes = [hypervolume(np.vstack([taken, p]), reference) for _, p in candidates]
        best = int(np.argmax(volumes))
        trial, point = candidates.pop(best)
        chosen.append(trial)
        taken = np.vstack([taken, point])
    return chosen


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
