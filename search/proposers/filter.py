"""Refuses, untrained, only what finished trials say must exceed a budget."""

import math
from collections.abc import Sequence

from evaluators.cost import (
    CalibratedSize,
    SizeModel,
    file_kind,
    modelled_latency,
    size_model,
)
from spaces import Judge, Policy, Target, Trial

__all__ = ["BudgetFilter"]

#: The ratios are medians: the latest trials are enough, and a proposal's cost stays bounded.
LEARNS_FROM_TRIALS = 1000
#: The modelled latency of the worker and of this process may differ in the last digits.
_ROUNDING = 1e-9


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
        self._download_model = size_model(judge.profile, "packed")
        self._closed_form: dict[tuple[SizeModel, str], tuple[str, float]] = {}
        self.update(())

    def update(self, history: Sequence[Trial]) -> None:
        """Learn the ratios of a history, and forget any other."""
        size, download = [], []
        for trial in history[-LEARNS_FROM_TRIALS:]:
            if (measured := trial.measurement) is not None:
                kind, predicted = self._predicted(self.model, trial.policy)
                size.append((kind, math.log(measured.size_bytes / predicted)))
                kind, predicted = self._predicted(self._download_model, trial.policy)
                download.append((kind, math.log(measured.download_bytes / predicted)))
        self.size = CalibratedSize(self.model, size)
        # In the target's own format a file weighs something else than its download form.
        self.download = CalibratedSize(self._download_model, download)

    def _predicted(self, model: SizeModel, policy: Policy) -> tuple[str, float]:
        """Kind of file and closed form, computed once a policy: histories only grow."""
        key = (model, policy.digest)
        found = self._closed_form.get(key)
        if found is None:
            found = file_kind(model, policy), model.predict_bytes(policy)
            self._closed_form[key] = found
        return found

    def accept(self, policy: Policy) -> bool:
        """Whether the policy may keep the size, download and latency limits."""
        return not self.reason(policy)

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
        limit_ms = self._budget.latency_ms
        if limit_ms is None or self._target.is_this_machine:
            return ""
        latency_ms = modelled_latency(policy, self._profile, self._target).median_ms
        if latency_ms <= limit_ms * (1 + _ROUNDING):
            return ""
        return f"latency {latency_ms:.4g} ms, over the budget of {limit_ms:.4g} ms"
