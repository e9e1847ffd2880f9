"""Refuses, untrained, only what finished trials say must exceed a budget."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.cost import CalibratedSize, SizeModel, file_kind, modelled_latency, size_model
from search.proposers.modelled import is_measured
from spaces import Judge, Policy, Target, Trial

__all__ = ["BudgetFilter", "Sizes"]

#: The ratios are medians: the latest trials are enough, and a proposal's cost stays bounded.
LEARNS_FROM_TRIALS = 1000
#: The modelled latency of the worker and of this process may differ in the last digits.
_ROUNDING = 1e-9


#: (kind of file, ln of real over predicted bytes).
_Ratio = tuple[str, float]


@dataclass(frozen=True)
class Sizes:
    """Of n files, in their order, by one `SizeModel`.

    Attributes:
        closed_form_bytes: (n,) its `predict_bytes`.
        kinds: (n,) `evaluators.cost.file_kind`.
    """

    closed_form_bytes: np.ndarray
    kinds: np.ndarray

    def take(self, chosen: np.ndarray) -> "Sizes":
        """Those of the files that (n,) booleans choose."""
        return Sizes(self.closed_form_bytes[chosen], self.kinds[chosen])


class BudgetFilter:
    """`accept(policy)` under the last history it was shown.

    Size: the policy goes when even the low end of its band is over the limit. Latency: only where
    it is modelled, for then the model IS what will be reported; a measured one is never predicted.
    Everything is computed anew from the history, so the same history gives the same answers.
    """

    def __init__(self, judge: Judge, target: Target) -> None:
        self._budget = judge.budget
        self._profile = judge.profile
        self._target = target
        self.model = size_model(judge.profile, target.artifact_format)
        self.download_model = self.model
        if target.artifact_format != "packed":
            self.download_model = size_model(judge.profile, "packed")
        self._trials: list[Trial] = []
        self._ratios: list[tuple[_Ratio, _Ratio] | None] = []
        self.size = CalibratedSize(self.model, ())
        self.download = CalibratedSize(self.download_model, ())

    @property
    def byte_limits(self) -> tuple[tuple[SizeModel, int], ...]:
        """(model, limit) of the file and of the download, of each that the budget limits."""
        limits = (
            (self.model, self._budget.size_bytes),
            (self.download_model, self._budget.download_bytes),
        )
        return tuple((model, limit) for model, limit in limits if limit is not None)

    def update(self, history: Sequence[Trial]) -> None:
        """Learn the ratios of a history, and forget any other; what is known is not read again."""
        seen = len(self._trials)
        if seen > len(history) or not all(map(operator.is_, self._trials, history)):
            self._trials, self._ratios, seen = [], [], 0
        elif seen == len(history):
            return
        first = max(0, len(history) - LEARNS_FROM_TRIALS)
        for at in range(seen, len(history)):
            self._trials.append(history[at])
            self._ratios.append(self._ratio(history[at]) if at >= first else None)
        latest = [ratio for ratio in self._ratios[first:] if ratio is not None]
        self.size = CalibratedSize(self.model, [size for size, _ in latest])
        # In the target's own format a file weighs something else than its download form.
        self.download = CalibratedSize(self.download_model, [down for _, down in latest])

    def _ratio(self, trial: Trial) -> tuple[_Ratio, _Ratio] | None:
        """Of the size and of the download; None without a file."""
        measured = trial.measurement
        if measured is None:
            return None
        return (
            _ratio(self.model, trial.policy, measured.size_bytes),
            _ratio(self.download_model, trial.policy, measured.download_bytes),
        )

    def accept(self, policy: Policy) -> bool:
        """Whether the policy may keep the size, download and latency limits."""
        return not self.reason(policy)

    def accepted(self, size: Sizes, download: Sizes, latency_ms: np.ndarray) -> np.ndarray:
        """As `accept`, for many files at once.

        Args:
            size: n files by `model`.
            download: the same by `download_model`.
            latency_ms: (n,) `modelled_latency`.

        Returns:
            (n,) booleans.
        """
        allowed = np.ones(len(latency_ms), dtype=bool)
        for limit, calibrated, sizes in (
            (self._budget.size_bytes, self.size, size),
            (self._budget.download_bytes, self.download, download),
        ):
            if limit is not None:
                ratios, factors = calibrated.factors_of(sizes.kinds)
                allowed &= sizes.closed_form_bytes * ratios / factors <= limit
        if self._limit_ms is not None:
            allowed &= latency_ms <= self._limit_ms * (1 + _ROUNDING)
        return allowed

    @property
    def _limit_ms(self) -> float | None:
        """The latency limit where the model is what will be reported, else None."""
        measured = is_measured(self._profile, self._target)
        return None if measured else self._budget.latency_ms

    def reason(self, policy: Policy) -> str:
        """Why not; "" when the policy may keep every limit."""
        for what, limit, calibrated in (
            ("size", self._budget.size_bytes, self.size),
            ("download", self._budget.download_bytes, self.download),
        ):
            if limit is not None:
                low_bytes = calibrated.predict(policy).low_bytes
                if low_bytes > limit:
                    return f"{what} at least {low_bytes:.0f} B, over the budget of {limit} B"
        return self._too_slow(policy)

    def _too_slow(self, policy: Policy) -> str:
        limit_ms = self._limit_ms
        if limit_ms is None:
            return ""
        latency_ms = modelled_latency(policy, self._profile, self._target).median_ms
        if latency_ms <= limit_ms * (1 + _ROUNDING):
            return ""
        return f"latency {latency_ms:.4g} ms, over the budget of {limit_ms:.4g} ms"


def _ratio(model: SizeModel, policy: Policy, size_bytes: int) -> _Ratio:
    return file_kind(model, policy), math.log(size_bytes / model.predict_bytes(policy))
