"""Proposers by name."""

from search.proposers.base import Proposer
from search.proposers.filter import BudgetFilter
from search.proposers.greybox import GreyboxProposer
from search.proposers.modelled import ModelledLatency, is_measured
from search.proposers.optuna_samplers import SAMPLERS, OptunaProposer
from search.proposers.warm import WarmProposer
from spaces import Capabilities, InvalidRequest, Judge, SearchSpace, Target

__all__ = ["PROPOSERS", "make_proposer"]

#: `greybox` is the default; `warm` begins like it and goes on with TPE; the others are Optuna's
#: samplers as they are, behind the references.
PROPOSERS = ("greybox", "warm", *SAMPLERS)


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
    begins_warm = name in ("warm", "greybox")
    inner: Proposer
    if name == "greybox":
        inner = GreyboxProposer(space, judge, target, seed, budget_filter)
    else:
        accept = budget_filter.accept if begins_warm else None
        inner = OptunaProposer("tpe" if begins_warm else name, space, judge, seed, accept)
    if is_measured(judge.profile, target):
        inner = ModelledLatency(inner, judge.profile, target)
    return WarmProposer(
        space,
        judge,
        target,
        capabilities,
        inner=inner,
        budget_filter=budget_filter,
        warm_start=begins_warm,
    )
