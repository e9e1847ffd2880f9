"""What is done to a network: a `Policy` is an order of stages and one `LayerPolicy` a layer.

A policy is a plain value. Construction NORMALISES it, so that two policies which ask for the same
computation are equal and have the same digest; a search never pays twice for one computation.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, cached_property
from typing import Any

from spaces.errors import InvalidRequest

__all__ = [
    "ALL_ORDERS",
    "CLUSTER_INITS",
    "CRITERIA",
    "DISTILLATION_KINDS",
    "FULL_BITS",
    "GRANULARITIES",
    "PATTERNS",
    "SCHEMES",
    "WIDTHS",
    "Distillation",
    "LayerPolicy",
    "Policy",
    "Stage",
    "format_order",
    "kept_channels",
    "parse_order",
]

FULL_BITS = 32
PATTERNS = ("element", "channel")
CLUSTER_INITS = ("linear", "density", "random", "k-means++")
#: What decides which elements the prune stage takes. "regrow" lets pruned ones come back.
CRITERIA = ("magnitude", "rate", "regrow", "regrow-rate")
SCHEMES = ("symmetric", "asymmetric")
GRANULARITIES = ("tensor", "channel")
#: What `bits` and `bias_bits` may be.
WIDTHS = (*range(2, 9), 16, 32)
#: Made once: a layer's policy is checked tens of times a trial.
_ONE_PATTERN = f"one of {PATTERNS}"
DISTILLATION_KINDS = ("none", "logits", "attention")
#: Bits of `LayerPolicy.needs`: elements to choose, what a codebook, a grid and its scales are for.
NEEDS_PRUNING, NEEDS_CRITERION, NEEDS_CLUSTERS = 1, 2, 4
NEEDS_ROUNDING, NEEDS_GRID, NEEDS_SCALES = 8, 16, 32


class Stage(StrEnum):
    """One step of a compression pipeline."""

    PRUNE = "prune"
    DISTILL = "distill"
    CLUSTER = "cluster"
    QUANTIZE = "quantize"


#: The empty order and every permutation of every non-empty subset of the stages: 1 + 64.
ALL_ORDERS: tuple[tuple[Stage, ...], ...] = tuple(
    order for count in range(len(Stage) + 1) for order in itertools.permutations(Stage, count)
)


def format_order(order: Iterable[Stage]) -> str:
    """`(PRUNE, QUANTIZE)` -> `"prune>quantize"`; the empty order is `"none"`."""
    return ">".join(stage.value for stage in order) or "none"


@cache
def parse_order(text: str) -> tuple[Stage, ...]:
    """The inverse of `format_order`.

    Raises:
        InvalidRequest: an unknown or repeated stage.
    """
    names = [] if text == "none" else text.split(">")
    try:
        order = tuple(Stage(name.strip()) for name in names)
    except ValueError:
        known = ", ".join(stage.value for stage in Stage)
        raise InvalidRequest(f"order: {text!r} names a stage that is not one of {known}") from None
    if len(set(order)) != len(order):
        raise InvalidRequest(f"order: {text!r} names a stage twice; each stage comes at most once")
    return order


def _require(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise InvalidRequest(f"{name} must be {rule}, but got {value!r}")


def kept_channels(count: int, sparsity: float) -> int:
    """How many of a layer's output channels pattern "channel" leaves: at least one."""
    return count - min(round(sparsity * count), count - 1)


@dataclass(frozen=True, slots=True)
class LayerPolicy:
    """What one layer's weights must satisfy when the pipeline is over.

    Attributes:
        sparsity: share of the layer's weights that are zero, in [0, 1).
        pattern: "element" or "channel" (whole output channels; coupled channels go together).
        clusters: K shared NON-ZERO values, or None.
        bits: bits of the weights, or of the codebook's entries after clustering; 32 = leave.
        bias_bits: bits of the bias; 32 = leave.
    """

    sparsity: float = 0.0
    pattern: str = "element"
    clusters: int | None = None
    bits: int = FULL_BITS
    bias_bits: int = FULL_BITS

    def __post_init__(self) -> None:
        _require(0.0 <= self.sparsity < 1.0, "sparsity", "at least 0 and under 1", self.sparsity)
        _require(self.pattern in PATTERNS, "pattern", _ONE_PATTERN, self.pattern)
        clusters_ok = self.clusters is None or self.clusters in range(1, 65536)
        _require(clusters_ok, "clusters", "none or 1 to 65535", self.clusters)
        for name, bits in (("bits", self.bits), ("bias_bits", self.bias_bits)):
            _require(bits in WIDTHS, name, "2 to 8, 16 or 32", bits)
            object.__setattr__(self, name, int(bits))
        # 8 and 8.0 are equal, but not as text: the digest needs one type a knob.
        object.__setattr__(self, "sparsity", float(self.sparsity))
        if self.clusters is not None:
            object.__setattr__(self, "clusters", int(self.clusters))

    def without(self, absent: Iterable[Stage]) -> "LayerPolicy":
        """The same policy with the knobs of `absent` stages neutral."""
        gone = set(absent)
        bits, bias_bits = self.bits, self.bias_bits
        if Stage.QUANTIZE in gone:
            bits = bias_bits = FULL_BITS
        sparsity = 0.0 if Stage.PRUNE in gone else self.sparsity
        pattern = self.pattern if sparsity > 0 else "element"
        clusters = None if Stage.CLUSTER in gone else self.clusters
        wanted = (sparsity, pattern, clusters, bits, bias_bits)
        # A study makes tens of policies a trial, of many layers each: most need no copy.
        own = (self.sparsity, self.pattern, self.clusters, self.bits, self.bias_bits)
        return self if wanted == own else LayerPolicy(*wanted)

    @property
    def needs(self) -> int:
        """What the layer asks of its policy, as a set of the `NEEDS_*` bits.

        Which stages and knobs of a policy have anything to do is decided by these bits alone, those
        of all its layers together: one with an OR of the same bits is normalised the same way.
        """
        needs = 0
        if self.sparsity > 0:
            needs |= NEEDS_PRUNING
            if self.pattern == "element":
                needs |= NEEDS_CRITERION
        if self.clusters is not None:
            needs |= NEEDS_CLUSTERS
        if self.bits < FULL_BITS or self.bias_bits < FULL_BITS:
            needs |= NEEDS_ROUNDING
        if self.bits <= 8:
            needs |= NEEDS_GRID
            if self.clusters is None:
                needs |= NEEDS_SCALES
        return needs

    def to_dict(self) -> dict[str, Any]:
        """Only the knobs that are not neutral; `{}` leaves the layer alone."""
        names = ("sparsity", "pattern", "clusters", "bits", "bias_bits")
        return {n: value for n in names if (value := getattr(self, n)) != getattr(_UNTOUCHED, n)}


_UNTOUCHED = LayerPolicy()


@dataclass(frozen=True, slots=True)
class Distillation:
    """A loss that draws the student towards a teacher.

    loss = (1 - weight) * task loss + weight * distillation loss.  "logits" is Hinton's softened
    cross-entropy, temperature^2 * KL (arXiv 1503.02531); "attention" is attention transfer
    (arXiv 1612.03928), for convolutional nets, where the temperature plays no part.
    """

    kind: str = "none"
    temperature: float = 1.0
    weight: float = 0.0

    def __post_init__(self) -> None:
        kinds = DISTILLATION_KINDS
        _require(self.kind in kinds, "distillation kind", f"one of {kinds}", self.kind)
        _require(0.5 <= self.temperature <= 100, "temperature", "0.5 to 100", self.temperature)
        _require(0.0 <= self.weight <= 1.0, "distillation weight", "0 to 1", self.weight)
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "weight", float(self.weight))

    @property
    def is_neutral(self) -> bool:
        """True when it changes no loss."""
        return self.kind == "none" or self.weight == 0.0


@dataclass(frozen=True)
class Policy:
    """An order of distinct stages and what each layer must satisfy. Frozen and normalised.

    Attributes:
        order: the stages, in the order they run.
        layers: (layer name, LayerPolicy), sorted by name, without the layers left alone.
        distillation: used from the distill stage to the end.
        activation_bits: bits of what layers of 8 bits or fewer read; 32 = leave. Set by quantize.
            Layers of more bits read floats: integer kernels take integers on both sides.
        cluster_init: how k-means starts; see `evaluators.backends.kmeans`.
        scheme: "symmetric" or "asymmetric" grids of the quantize stage.
        granularity: one scale a "tensor" or an output "channel". Layers which also have clusters
            always use one scale a tensor: per-channel scales would multiply their distinct values.
        criterion: which elements pattern "element" prunes. "magnitude": the smallest; "rate": the
            smallest for what the file pays for their positions; "regrow" and "regrow-rate": the
            same of the dense weights, which go on learning, so that what was pruned may come back
            until the ramp ends (Lin et al. 2020, arXiv 2006.07253).
    """

    order: tuple[Stage, ...] = ()
    layers: tuple[tuple[str, LayerPolicy], ...] = ()
    distillation: Distillation = field(default_factory=Distillation)
    activation_bits: int = FULL_BITS
    cluster_init: str = "linear"
    scheme: str = "symmetric"
    granularity: str = "tensor"
    criterion: str = "magnitude"

    def __post_init__(self) -> None:
        order = tuple(Stage(stage) for stage in self.order)
        _require(len(set(order)) == len(order), "order", "distinct stages", format_order(order))
        names = [name for name, _ in self.layers]
        _require(len(set(names)) == len(names), "layers", "named once each", sorted(names))
        bits = self.activation_bits
        _require(bits in (8, 32), "activation_bits", "8 or 32", bits)
        inits = CLUSTER_INITS
        _require(self.cluster_init in inits, "cluster_init", f"one of {inits}", self.cluster_init)
        _require(self.scheme in SCHEMES, "scheme", f"one of {SCHEMES}", self.scheme)
        grains = GRANULARITIES
        _require(self.granularity in grains, "granularity", f"one of {grains}", self.granularity)
        criteria = CRITERIA
        _require(self.criterion in criteria, "criterion", f"one of {criteria}", self.criterion)
        self._normalise(order)

    def _normalise(self, order: tuple[Stage, ...]) -> None:
        absent = [stage for stage in Stage if stage not in order]
        layers = {name: layer.without(absent) for name, layer in self.layers}
        distillation = self.distillation
        needs = 0
        for layer in layers.values():
            needs |= layer.needs
        activation_bits = int(self.activation_bits) if needs & NEEDS_GRID else FULL_BITS
        if Stage.DISTILL not in order or distillation.is_neutral:
            distillation = Distillation()
        elif distillation.kind == "attention":
            distillation = replace(distillation, temperature=1.0)
        does_work = {
            Stage.PRUNE: needs & NEEDS_PRUNING,
            Stage.CLUSTER: needs & NEEDS_CLUSTERS,
            Stage.QUANTIZE: needs & NEEDS_ROUNDING,
            Stage.DISTILL: not distillation.is_neutral,
        }
        kept = {name: layer for name, layer in layers.items() if layer != _UNTOUCHED}
        normalised = {
            "order": tuple(stage for stage in order if does_work[stage]),
            "layers": tuple(sorted(kept.items())),
            "distillation": distillation,
            "activation_bits": activation_bits,
            "cluster_init": self.cluster_init if does_work[Stage.CLUSTER] else "linear",
            "scheme": self.scheme if needs & NEEDS_GRID else "symmetric",
            # Per-channel scales exist only where a layer has a grid and no codebook.
            "granularity": self.granularity if needs & NEEDS_SCALES else "tensor",
            "criterion": self.criterion if needs & NEEDS_CRITERION else "magnitude",
        }
        for name, value in normalised.items():
            object.__setattr__(self, name, value)

    @cached_property
    def layer_map(self) -> Mapping[str, LayerPolicy]:
        """Layer name -> LayerPolicy, for the layers which are not left alone."""
        return dict(self.layers)

    def layer(self, name: str) -> LayerPolicy:
        """The policy of a layer; neutral when the policy does not name it."""
        return self.layer_map.get(name, _UNTOUCHED)

    def rounds_input(self, name: str) -> bool:
        """Whether what a layer reads is rounded to `activation_bits`."""
        return self.activation_bits < FULL_BITS and self.layer(name).bits <= 8

    def post_training(self) -> "Policy":
        """The policy as it computes without any fine-tuning.

        Distillation changes nothing, and neither do the criteria: from a dense mask every position
        costs the same and nothing was pruned that could come back.
        """
        return replace(self, distillation=Distillation(), criterion="magnitude")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; neutral knobs are left out. `Policy.from_dict` reads it."""
        result: dict[str, Any] = {
            "order": [stage.value for stage in self.order],
            "layers": {name: layer.to_dict() for name, layer in self.layers},
        }
        if not self.distillation.is_neutral:
            distillation = self.distillation
            result["distillation"] = {
                "kind": distillation.kind,
                "temperature": distillation.temperature,
                "weight": distillation.weight,
            }
        # Digests name policies in records: a knob added later is left out where it is neutral.
        for name in ("activation_bits", "cluster_init", "scheme", "granularity", "criterion"):
            if getattr(self, name) != getattr(_NEUTRAL, name):
                result[name] = getattr(self, name)
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Policy":
        """The inverse of `to_dict`.

        Raises:
            InvalidRequest: an unknown key, or a value out of its range.
        """
        try:
            layers = tuple((name, LayerPolicy(**x)) for name, x in data.get("layers", {}).items())
            rest = {k: v for k, v in data.items() if k not in ("order", "layers", "distillation")}
            order = tuple(Stage(name) for name in data.get("order", ()))
            distillation = Distillation(**data.get("distillation", {}))
            return cls(order=order, layers=layers, distillation=distillation, **rest)
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(f"policy: cannot be read: {error}") from None

    @cached_property
    def canonical_json(self) -> str:
        """Sorted keys, no spaces: equal computation, equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the canonical JSON's sha256: the policy's name in records."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()[:16]


_NEUTRAL = Policy()
