"""The seam between the loop and whatever decides what to try next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from spaces import Policy, Trial

__all__ = ["Proposal", "Proposer"]


@dataclass(frozen=True)
class Proposal:
    """A policy to evaluate.

    Attributes:
        policy: what to try.
        origin: who asked and why, e.g. "reference: uniform int8", "warm start", "tpe".
        sampler_attrs: what the proposer wants to find on the finished trial; kept in the record.
    """

    policy: Policy
    origin: str
    sampler_attrs: Mapping[str, Any] = field(default_factory=dict)


class Proposer(Protocol):
    """Decides what to try next.

    Same arguments and seed, same answer: an instance may memoise, never drift. So a killed study
    proposes on resume what it would have proposed.
    """

    def propose(
        self, history: Sequence[Trial], running: Sequence[Policy], count: int
    ) -> list[Proposal]:
        """Up to `count` policies that are neither in `history` nor `running`.

        Args:
            history: finished trials of the search fidelity, in record order.
            running: policies in flight.
            count: how many are wanted. Fewer come back only when the space is exhausted.
        """
        ...
