"""Which policies a study knows already, read once a trial: histories only grow."""

import operator
from collections.abc import Sequence

from spaces import Trial

__all__ = ["KnownPolicies"]


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
