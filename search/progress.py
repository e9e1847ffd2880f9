"""How a running study stands: counts, front, hypervolume, time left. For screens and readers."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search.running_front import RunningFront
from spaces import Judge, Trial, hypervolume
from spaces.front import pick

__all__ = ["Progress", "ProgressTracker"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a phase.

    Attributes:
        phase: "search", "finalists", "repeats", "correction" or "test".
        finished, asked: trials of this phase.
        failed, feasible: of the finished ones.
        best: the pick so far, None while nothing is feasible.
        hypervolume: of the feasible ones.
        eta_s: seconds left at the pace of this session's trials, None before the first.
    """

    phase: str
    finished: int
    asked: int
    failed: int
    feasible: int
    best: Trial | None
    hypervolume: float
    eta_s: float | None


class ProgressTracker:
    """Takes finished trials one by one; computes anew only what a moving front changes."""

    def __init__(self, phase: str, asked: int, judge: Judge, history: Iterable[Trial]) -> None:
        """Args: history: trials of this phase that finished in an earlier session."""
        self.phase, self.asked = phase, asked
        self._judge = judge
        self._finished = self._failed = self._feasible = self._fresh = 0
        self._front = RunningFront(judge)
        self._hypervolume = 0.0
        self._best: Trial | None = None
        self._started = time.monotonic()
        for trial in history:
            self._count(trial)
        self._fresh = 0

    def add(self, trial: Trial) -> Progress:
        """Take a finished trial in."""
        self._count(trial)
        return self.now()

    def now(self) -> Progress:
        """How it stands."""
        elapsed = time.monotonic() - self._started
        left = max(0, self.asked - self._finished)
        return Progress(
            phase=self.phase,
            finished=self._finished,
            asked=self.asked,
            failed=self._failed,
            feasible=self._feasible,
            best=self._best,
            hypervolume=self._hypervolume,
            eta_s=elapsed / self._fresh * left if self._fresh else None,
        )

    @property
    def front(self) -> Sequence[Trial]:
        """The feasible non-dominated trials so far."""
        return tuple(self._front.members)

    def _count(self, trial: Trial) -> None:
        self._finished += 1
        self._fresh += 1
        if trial.measurement is None:
            self._failed += 1
        elif self._judge.is_feasible(trial):
            self._feasible += 1
            if self._front.add(trial):
                self._hypervolume = hypervolume(self._front.points, self._judge.reference)
                self._best = pick(self._front.members, self._judge.metric)
