"""Our spaces and judgements in Optuna's words, for the record and for the samplers alike."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from spaces import InvalidRequest, Policy, SearchSpace

__all__ = ["FAILED_VIOLATION", "distributions", "params_at", "params_of", "vector_of"]

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
        return params_at(space, space.encode(policy))
    except InvalidRequest:
        return {}


def params_at(space: SearchSpace, vector: Sequence[int]) -> dict[str, Any]:
    """A vector of the space as Optuna parameters."""
    return {
        knob.name: index if knob.ordered else knob.choices[index]
        for knob, index in zip(space.knobs, vector, strict=True)
    }


def vector_of(space: SearchSpace, params: Mapping[str, Any]) -> list[int]:
    """The inverse of `params_at`."""
    return [
        int(params[knob.name]) if knob.ordered else knob.index(params[knob.name])
        for knob in space.knobs
    ]
