"""What a study knows already, read once a trial: histories only grow."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.proposers.surrogate import Features
from spaces import Judge, Policy, Trial, nondominated

__all__ = ["KnownPolicies", "Measured", "MeasuredTrials"]


class KnownPolicies:
    """Digests of a history's policies. A memo, not a state: another history is read anew."""

    def __init__(self) -> None:
        self._trials: list[Trial] = []
        self._digests: set[str] = set()

    def of(self, history: Sequence[Trial]) -> set[str]:
        """Digests of what was asked and of what ran: at fidelity 0 those differ.

        Returns:
            A set of the caller's own.
        """
        seen = len(self._trials)
        if seen > len(history) or not all(map(operator.is_, self._trials, history)):
            self._trials, self._digests, seen = [], set(), 0
        for trial in history[seen:]:
            self._trials.append(trial)
            self._digests |= {trial.policy.digest, trial.identity.policy_digest}
        return set(self._digests)


@dataclass(frozen=True)
class Measured:
    """The measured trials of a history.

    Attributes:
        trials: m of them, in their order.
        points: (m, 3) `Judge.points`.
        features: (m, d) of their policies.
        front: ascending indices of those that none dominates; of equal points the first.
    """

    trials: Sequence[Trial]
    points: np.ndarray
    features: np.ndarray
    front: np.ndarray


class MeasuredTrials:
    """The trials of a history that have a measurement. A memo likewise: only what is new is read.

    With thousands of trials to look all through again takes longer than all else of a proposal.
    """

    def __init__(self, judge: Judge, features: Features) -> None:
        """Args: judge: of points; features: of rows."""
        self._judge, self._features = judge, features
        self._forget()

    def _forget(self) -> None:
        self._read: list[Trial] = []
        rows = self._features.of([Policy()])[:0]
        self._measured = Measured([], np.empty((0, 3)), rows, np.empty(0, dtype=np.int64))

    def of(self, history: Sequence[Trial]) -> Measured:
        """Those of this history; nothing in it is the caller's to change."""
        seen = len(self._read)
        if seen > len(history) or not all(map(operator.is_, self._read, history)):
            self._forget()
            seen = 0
        fresh = [trial for trial in history[seen:] if trial.measurement is not None]
        self._read += history[seen:]
        if fresh:
            before = self._measured
            points = np.vstack([before.points, self._judge.points(fresh)])
            # What was dominated stays so.
            others = np.concatenate([before.front, np.arange(len(before.points), len(points))])
            self._measured = Measured(
                trials=[*before.trials, *fresh],
                points=points,
                features=np.vstack(
                    [before.features, self._features.of([trial.policy for trial in fresh])]
                ),
                front=others[nondominated(points[others])],
            )
        return self._measured
