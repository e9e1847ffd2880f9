"""Our spaces and judgements in Optuna's words, for the record and for the samplers alike."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from spaces import InvalidRequest, Knob, Policy, SearchSpace

__all__ = ["FAILED_VIOLATION", "distributions", "params_of", "policy_of"]

# Optuna reports every study it makes on stderr; the product says what matters itself.
optuna.logging.set_verbosity(optuna.logging.WARNING)

#: In Optuna 5 a trial without constraints counts as feasible, so a failed one gets them too.
FAILED_VIOLATION = 1.0


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Knob -> an int range of positions where choices are ordered, else the choices by name."""
    return {
        knob.name: IntDistribution(0, len(knob.choices) - 1)
        if knob.ordered
        else CategoricalDistribution(knob.choices)
        for knob in space.knobs
    }


def params_of(space: SearchSpace, policy: Policy) -> dict[str, Any]:
    """The policy as Optuna parameters; {} for a policy outside of the space, e.g. a reference."""
    try:
        vector = space.encode(policy)
    except InvalidRequest:
        return {}
    return {
        knob.name: index if knob.ordered else knob.choices[index]
        for knob, index in zip(space.knobs, vector, strict=True)
    }


def policy_of(space: SearchSpace, params: Mapping[str, Any]) -> Policy:
    """The inverse of `params_of`; also of knobs that do nothing."""
    return space.decode([_position(knob, params[knob.name]) for knob in space.knobs])


def _position(knob: Knob, value: object) -> int:
    if knob.ordered:
        assert isinstance(value, int)
        return value
    return knob.index(value)
