"""Who decides what to try next."""

from search.proposers.base import Proposal, Proposer
from search.proposers.registry import PROPOSERS, make_proposer

__all__ = ["PROPOSERS", "Proposal", "Proposer", "make_proposer"]
