"""What a backend can do and what a target format can store; the space uses the intersection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from spaces.policy import ALL_ORDERS, GRANULARITIES, SCHEMES, Stage, format_order

__all__ = ["Capabilities", "LayerCapabilities"]

T = TypeVar("T")
#: Values in the sentence on what one side removed.
MOST_LISTED = 5


@dataclass(frozen=True, slots=True)
class LayerCapabilities:
    """What can be asked of one kind of layer ("Linear", "Conv2d", ...)."""

    bits: frozenset[int]
    clusters: frozenset[int | None]
    patterns: frozenset[str]
    bias_bits: frozenset[int]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one side (a backend, a target's format) can do.

    Attributes:
        name: whose capabilities, as printed: "torch", "packed".
        layers: kind of layer -> what can be asked of it; a kind not named cannot be compressed.
        activation_bits: for the whole network.
        orders: the stage orders it can run.
        distillation_kinds: which distillation losses exist.
        criteria: what can decide which elements are pruned; a format can store them all.
        schemes, granularities: of the quantization grids.
    """

    name: str
    layers: Mapping[str, LayerCapabilities]
    activation_bits: frozenset[int] = frozenset({32})
    orders: frozenset[tuple[Stage, ...]] = frozenset(ALL_ORDERS)
    distillation_kinds: frozenset[str] = frozenset({"none", "logits", "attention"})
    criteria: frozenset[str] = frozenset({"magnitude"})
    schemes: frozenset[str] = frozenset(SCHEMES)
    granularities: frozenset[str] = frozenset(GRANULARITIES)

    def intersect(self, other: "Capabilities") -> tuple["Capabilities", tuple[str, ...]]:
        """What both can do, and one sentence for each thing one side removed from the other."""
        removed: list[str] = []

        def both(what: str, ours: frozenset[T], theirs: frozenset[T]) -> frozenset[T]:
            for side, lost in ((other.name, ours - theirs), (self.name, theirs - ours)):
                if lost:
                    removed.append(f"{side} cannot do {what}: {_listed(lost)}")
            return ours & theirs

        kinds = both("layer kind", frozenset(self.layers), frozenset(other.layers))
        layers = {}
        for kind in sorted(kinds):
            ours, theirs = self.layers[kind], other.layers[kind]
            layers[kind] = LayerCapabilities(
                bits=both(f"{kind} bits", ours.bits, theirs.bits),
                clusters=both(f"{kind} clusters", ours.clusters, theirs.clusters),
                patterns=both(f"{kind} pattern", ours.patterns, theirs.patterns),
                bias_bits=both(f"{kind} bias bits", ours.bias_bits, theirs.bias_bits),
            )
        result = Capabilities(
            name=f"{self.name} and {other.name}",
            layers=layers,
            activation_bits=both("activation bits", self.activation_bits, other.activation_bits),
            orders=both("order", self.orders, other.orders),
            distillation_kinds=both(
                "distillation", self.distillation_kinds, other.distillation_kinds
            ),
            criteria=both("pruning criterion", self.criteria, other.criteria),
            schemes=both("scheme", self.schemes, other.schemes),
            granularities=both("granularity", self.granularities, other.granularities),
        )
        return result, tuple(removed)


def _listed(values: frozenset[T]) -> str:
    """The shortest of them, which say most: `cluster>prune` is in many a longer order."""
    shown = sorted(map(_show, values), key=lambda text: (len(text), text))
    more = len(shown) - MOST_LISTED
    return ", ".join(shown[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _show(value: object) -> str:
    return format_order(value) if isinstance(value, tuple) else str(value)
