"""What a study knows already, read once a trial: histories only grow."""

import operator
from collections.abc import Sequence

import numpy as np

from spaces import Judge, Trial

__all__ = ["KnownPolicies", "MeasuredTrials"]


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


class MeasuredTrials:
    """The trials of a history that have a measurement, and their points. A memo likewise."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._read: list[Trial] = []
        self._measured: list[Trial] = []
        self._points = np.empty((0, 3))

    def of(self, history: Sequence[Trial]) -> tuple[list[Trial], np.ndarray]:
        """(the m measured trials, (m, 3) `Judge.points`); neither is the caller's to change."""
        seen = len(self._read)
        if seen > len(history) or not all(map(operator.is_, self._read, history)):
            self._read, self._measured, self._points, seen = [], [], np.empty((0, 3)), 0
        fresh = [trial for trial in history[seen:] if trial.measurement is not None]
        self._read += history[seen:]
        if fresh:
            self._measured = [*self._measured, *fresh]
            self._points = np.vstack([self._points, self._judge.points(fresh)])
        return self._measured, self._points
