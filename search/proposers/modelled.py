"""Keeps measured latency away from whoever proposes: it judges, it never steers.

A measured latency differs a little from run to run. A sampler that saw it would propose something
else each time, and neither a resumed nor a repeated study could be replayed.
"""

from collections.abc import Sequence
from dataclasses import replace

from evaluators.cost import modelled_latency
from search.proposers.base import Proposal, Proposer
from spaces import ModelProfile, Policy, Target, Trial

__all__ = ["ModelledLatency", "is_measured"]


def is_measured(profile: ModelProfile, target: Target) -> bool:
    """Whether the study's latencies are a clock's: here, or on a node of the cluster."""
    return target.is_this_machine or profile.latency_source != "modelled"


class ModelledLatency:
    """Shows its inner proposer every trial with the modelled latency of its policy.

    The model is scaled so that it is right for the baseline: what is measured there is in the
    profile, and the limits and references of the judge are in measured milliseconds.
    """

    def __init__(self, inner: Proposer, profile: ModelProfile, target: Target) -> None:
        """Args: inner: proposes; profile, target: of the study."""
        self._inner = inner
        self._profile = profile
        self._target = target
        untouched_ms = modelled_latency(Policy(), profile, target).median_ms
        self._scale = profile.baseline_latency_ms / untouched_ms
        self._shown: dict[str, tuple[Trial, Trial]] = {}

    def propose(
        self, history: Sequence[Trial], running: Sequence[Policy], count: int
    ) -> list[Proposal]:
        """See `Proposer.propose`."""
        return self._inner.propose([self._show(trial) for trial in history], running, count)

    def _show(self, trial: Trial) -> Trial:
        key = trial.identity.key
        known = self._shown.get(key)
        if known is None or known[0] is not trial:
            known = self._shown[key] = (trial, self._with_model(trial))
        return known[1]

    def _with_model(self, trial: Trial) -> Trial:
        measurement = trial.measurement
        if measurement is None:
            return trial
        latency = modelled_latency(trial.policy, self._profile, self._target)
        median_ms = latency.median_ms * self._scale
        latency = replace(latency, median_ms=median_ms, p95_ms=median_ms)
        return replace(trial, outcome=replace(measurement, latency=latency))
