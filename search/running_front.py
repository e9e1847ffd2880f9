"""A front that is kept while trials arrive one by one."""

import numpy as np

from spaces import Judge, Trial

__all__ = ["RunningFront"]


class RunningFront:
    """The non-dominated among the trials added so far; of equal points the first counts.

    What may be added, feasible trials or all, is the caller's to decide.

    Attributes:
        members: in the order of their arrival.
        points: (members, 3), `Judge.point` of each.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.members: list[Trial] = []
        self.points = np.empty((0, 3))

    def add(self, trial: Trial) -> bool:
        """Take a measured trial in; True if it is on the front, and those it beats no more.

        Raises:
            ValueError: a failed trial, which has no point.
        """
        if trial.measurement is None:
            raise ValueError(f"trial {trial.number} failed: it has no place on a front")
        point = np.array(self._judge.point(trial.measurement))
        if (self.points <= point).all(axis=1).any():
            return False
        stays = np.flatnonzero(~(self.points >= point).all(axis=1))
        self.members = [*(self.members[i] for i in stays), trial]
        self.points = np.vstack([self.points[stays], point])
        return True
