"""Proposers by name."""

from search.proposers.base import Proposer
from search.proposers.filter import BudgetFilter
from search.proposers.modelled import ModelledLatency
from search.proposers.optuna_samplers import SAMPLERS, OptunaProposer
from search.proposers.warm import WarmProposer
from spaces import Capabilities, InvalidRequest, Judge, SearchSpace, Target

__all__ = ["PROPOSERS", "make_proposer"]

#: `warm` is the default; the others are Optuna's samplers as they are, behind the references.
PROPOSERS = ("warm", *SAMPLERS)


def make_proposer(
    name: str,
    space: SearchSpace,
    judge: Judge,
    target: Target,
    capabilities: Capabilities,
    seed: int,
) -> WarmProposer:
    """The proposer of a study.

    Args:
        name: one of `PROPOSERS`.
        space, judge, target, capabilities: of the study.
        seed: of the study.

    Raises:
        InvalidRequest: an unknown name.
    """
    if name not in PROPOSERS:
        raise InvalidRequest(f"--proposer must be one of {', '.join(PROPOSERS)}, but got {name!r}")
    budget_filter = BudgetFilter(judge, target)
    accept = budget_filter.accept if name == "warm" else None
    sampler = "tpe" if name == "warm" else name
    inner: Proposer = OptunaProposer(sampler, space, judge, seed, accept)
    if target.is_this_machine:
        inner = ModelledLatency(inner, judge.profile, target)
    return WarmProposer(
        space,
        judge,
        target,
        capabilities,
        inner=inner,
        budget_filter=budget_filter,
        warm_start=name == "warm",
    )
