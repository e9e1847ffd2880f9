"""The finite choices of every knob, for one network and what backend and target can do."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from spaces.capabilities import Capabilities, LayerCapabilities
from spaces.errors import InvalidRequest
from spaces.policy import (
    ALL_ORDERS,
    CLUSTER_INITS,
    CRITERIA,
    DISTILLATION_KINDS,
    GRANULARITIES,
    PATTERNS,
    SCHEMES,
    WIDTHS,
    Distillation,
    LayerPolicy,
    Policy,
    Stage,
    format_order,
    parse_order,
)
from spaces.profile import ModelProfile

__all__ = ["DROP", "Knob", "SearchSpace", "build_space"]

#: Fine near 1, because bytes fall with the density 1 - sparsity.
# fmt: off
SPARSITIES = (
    0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.9825, 0.985,
    0.9875, 0.99, 0.9925, 0.995,
)
# fmt: on
#: Where whole channels can go too: a network without slack never recovers from losing half of them.
MILD_SPARSITIES = (0.125, 0.25, 0.375)
CLUSTERS = (None, 256, 128, 64, 32, 16, 12, 8, 6, 5, 4, 3, 2)
BITS = WIDTHS[::-1]
TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 20.0)
WEIGHTS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
#: In a restriction: leave this knob at its neutral value.
DROP = "drop"

_NEUTRAL: Mapping[str, Any] = {
    "sparsity": 0.0,
    "pattern": "element",
    "clusters": None,
    "bits": 32,
    "bias_bits": 32,
    "order": "none",
    "distillation.kind": "none",
    "distillation.temperature": 1.0,
    "distillation.weight": 0.5,
    "activation_bits": 32,
    "cluster_init": "linear",
    "scheme": "symmetric",
    "granularity": "tensor",
    "criterion": "magnitude",
}
_ORDERED = {
    "sparsity",
    "clusters",
    "bits",
    "bias_bits",
    "distillation.temperature",
    "distillation.weight",
}
_LAYER_KNOBS = ("sparsity", "pattern", "clusters", "bits", "bias_bits")
#: What says nothing where nothing is distilled.
_DISTILLATION_KNOBS = ("distillation.temperature", "distillation.weight")
#: Of a kind that backend and target do not both know: such a layer is left alone.
_NOTHING = LayerCapabilities(frozenset({32}), frozenset({None}), frozenset(), frozenset({32}))


@dataclass(frozen=True, slots=True)
class Knob:
    """One coordinate of the space.

    Attributes:
        name: "order", "distillation.temperature", or LAYER:KNOB such as "fc1:sparsity".
        choices: the finite values, from mild to strong where they are ordered.
        ordered: whether neighbouring choices compute similar things.
    """

    name: str
    choices: tuple[Any, ...]
    ordered: bool

    def index(self, value: object) -> int:
        """Position of a value; 0 for a value that is not offered (an absent stage's knob)."""
        try:
            return self.choices.index(value)
        except ValueError:
            return 0


class SearchSpace:
    """Policies as vectors of small ints, one entry a knob.

    Different vectors may decode to one policy (knobs of an absent stage do nothing); policies are
    normalised, so compare policies, never vectors.
    """

    def __init__(self, knobs: Sequence[Knob], profile: ModelProfile) -> None:
        self.knobs = tuple(knobs)
        self.layer_names = tuple(layer.name for layer in profile.layers)
        self._groups = profile.channel_groups
        self._position = {knob.name: i for i, knob in enumerate(self.knobs)}
        self._layer_names = frozenset(self.layer_names)
        self._layer_knobs = {
            name: [(f"{name}:{knob}", knob) for knob in _LAYER_KNOBS] for name in self.layer_names
        }

    @cached_property
    def sizes(self) -> np.ndarray:
        """Choices per knob, shape (knobs,)."""
        return np.array([len(knob.choices) for knob in self.knobs])

    def __len__(self) -> int:
        return len(self.knobs)

    def knob(self, name: str) -> Knob:
        """The knob of that name."""
        return self.knobs[self._position[name]]

    def decode(self, vector: Sequence[int]) -> Policy:
        """(knobs,) ints -> the normalised policy.

        A knob that the space does not have, as those of older records, is neutral.
        Coupled layers lose the same channels, or none: see `_couple`.

        Raises:
            InvalidRequest: wrong length, or an entry that names no choice.
        """
        if len(vector) != len(self.knobs):
            raise InvalidRequest(f"vector must have {len(self.knobs)} entries, got {len(vector)}")
        values = {}
        for knob, index in zip(self.knobs, vector, strict=True):
            if not 0 <= index < len(knob.choices):
                last = len(knob.choices) - 1
                raise InvalidRequest(f"{knob.name}: index must be 0 to {last}, got {index}")
            values[knob.name] = knob.choices[index]
        layers: dict[str, LayerPolicy] = {}
        for block in self.blocks:
            layers |= self.layer_policies(block, values)
        return self.policy(values, layers)

    @staticmethod
    def policy(values: Mapping[str, Any], layers: Mapping[str, LayerPolicy]) -> Policy:
        """From the values of the knobs that concern all layers, and the layers."""
        values = {**_NEUTRAL, **values}
        return Policy(
            order=parse_order(values["order"]),
            layers=tuple(layers.items()),
            distillation=Distillation(
                values["distillation.kind"],
                values["distillation.temperature"],
                values["distillation.weight"],
            ),
            activation_bits=values["activation_bits"],
            cluster_init=values["cluster_init"],
            scheme=values["scheme"],
            granularity=values["granularity"],
            criterion=values["criterion"],
        )

    @cached_property
    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Layers that are decoded together: the channel groups, and each other layer alone."""
        grouped = {name for group in self._groups for name in group}
        alone = ((name,) for name in self.layer_names if name not in grouped)
        return (*map(tuple, self._groups), *alone)

    @cached_property
    def block_positions(self) -> tuple[tuple[int, ...], ...]:
        """For each of `blocks` the entries of a vector that decide on its layers."""
        return tuple(
            tuple(self._position[f"{name}:{knob}"] for name in block for knob in _LAYER_KNOBS)
            for block in self.blocks
        )

    def layer_policies(
        self, block: Sequence[str], values: Mapping[str, Any]
    ) -> dict[str, LayerPolicy]:
        """The layers of one of `blocks`, coupled; `values` holds at least its knobs' values."""
        layers = {
            name: LayerPolicy(**{k: values[f"{name}:{k}"] for k in _LAYER_KNOBS}) for name in block
        }
        if block in self._groups:
            self._couple(layers, block)
        return layers

    def _couple(self, layers: dict[str, LayerPolicy], group: Sequence[str]) -> None:
        """The group's first layer decides for all, if each member offers what it asks for."""
        leader = layers[group[0]]
        offered = (self.knob(f"{name}:sparsity").choices for name in group)
        together = leader.pattern == "channel" and leader.sparsity > 0
        if together and all(leader.sparsity in choices for choices in offered):
            for name in group:
                layers[name] = replace(layers[name], pattern="channel", sparsity=leader.sparsity)
            return
        for name in group:
            if layers[name].pattern == "channel":
                can_turn = "element" in self.knob(f"{name}:pattern").choices
                change = {"pattern": "element"} if can_turn else {"sparsity": 0.0}
                layers[name] = replace(layers[name], **change)

    def encode(self, policy: Policy) -> tuple[int, ...]:
        """The vector of a policy of this space: `decode(encode(p)) == p`.

        Raises:
            InvalidRequest: the policy is not in this space.
        """
        values: dict[str, Any] = {
            "order": format_order(policy.order),
            "distillation.kind": policy.distillation.kind,
            "distillation.temperature": policy.distillation.temperature,
            "distillation.weight": policy.distillation.weight,
            "activation_bits": policy.activation_bits,
            "cluster_init": policy.cluster_init,
            "scheme": policy.scheme,
            "granularity": policy.granularity,
            "criterion": policy.criterion,
        }
        for name in self.layer_names:
            layer = policy.layer(name)
            for key, knob in self._layer_knobs[name]:
                values[key] = getattr(layer, knob)
        vector = [knob.index(values.get(knob.name)) for knob in self.knobs]
        if self._is_verbatim(vector, values, policy):
            return tuple(vector)
        at = self._position["order"]
        for index in self._order_candidates(policy):
            vector[at] = index
            if self.decode(vector) == policy:
                return tuple(vector)
        raise InvalidRequest(f"policy {policy.canonical_json} is not in this search space")

    def _is_verbatim(
        self, vector: Sequence[int], values: Mapping[str, Any], policy: Policy
    ) -> bool:
        """Whether a vector names each of the policy's own values, so that it surely decodes to it.

        Saves most policies the decoding: they are normalised, so there is nothing to normalise.
        """
        is_coupled = bool(self._groups) and any(x.pattern == "channel" for _, x in policy.layers)
        is_ours = policy.layer_map.keys() <= self._layer_names
        is_whole = values.keys() <= self._position.keys()  # older records lack knobs
        says_nothing = _DISTILLATION_KNOBS if policy.distillation.is_neutral else ()
        return (
            is_ours
            and is_whole
            and not is_coupled
            and all(
                knob.choices[index] == values.get(knob.name) or knob.name in says_nothing
                for knob, index in zip(self.knobs, vector, strict=True)
            )
        )

    def _order_candidates(self, policy: Policy) -> Iterator[int]:
        """Order choices that may normalise to the policy's order, the exact one first."""
        wanted = policy.order
        for index, order in self._orders:  # the exact one is the shortest that can
            if tuple(stage for stage in order if stage in wanted) == wanted:
                yield index

    @cached_property
    def _orders(self) -> tuple[tuple[int, tuple[Stage, ...]], ...]:
        """(choice of the knob "order", its stages), the shortest first."""
        parsed = enumerate(map(parse_order, self.knob("order").choices))
        return tuple(sorted(parsed, key=lambda pair: len(pair[1])))

    def contains(self, policy: Policy) -> bool:
        """Whether some vector decodes to the policy."""
        try:
            self.encode(policy)
        except InvalidRequest:
            return False
        return True

    def sample(self, rng: np.random.Generator) -> Policy:
        """A policy whose vector is uniform."""
        return self.decode([int(i) for i in rng.integers(0, self.sizes)])

    def neighbours(self, policy: Policy) -> list[Policy]:
        """Every distinct policy one knob away: one step if ordered, else any other choice."""
        vector = self.encode(policy)
        found: dict[str, Policy] = {}
        for at, knob in enumerate(self.knobs):
            here = vector[at]
            steps = (here - 1, here + 1) if knob.ordered else range(len(knob.choices))
            for index in steps:
                if index != here and 0 <= index < len(knob.choices):
                    other = self.decode([*vector[:at], index, *vector[at + 1 :]])
                    if other != policy:
                        found[other.digest] = other
        return list(found.values())

    def describe(self) -> list[dict[str, Any]]:
        """One row a knob, for tables and JSON."""
        return [{"knob": k.name, "choices": list(k.choices)} for k in self.knobs]


def build_space(
    profile: ModelProfile,
    capabilities: Capabilities,
    restrictions: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """The space of a network under what backend and target can both do.

    Args:
        profile: the network.
        capabilities: the intersection of the backend's and the target format's.
        restrictions: the parsed TOML of `--space`; see docs/space.md. A knob maps to one value
            (fix), a list (restrict), a table with `min` and/or `max`, or "drop" (leave neutral).

    Raises:
        InvalidRequest: a restriction names an unknown knob, a layer pattern that matches nothing,
            or a value that is not allowed; or a knob has no choice left.
    """
    choices: dict[str, tuple[Any, ...]] = {
        "order": tuple(format_order(o) for o in ALL_ORDERS if o in capabilities.orders),
        "distillation.kind": tuple(
            k for k in DISTILLATION_KINDS if k in capabilities.distillation_kinds
        ),
        "distillation.temperature": TEMPERATURES,
        "distillation.weight": WEIGHTS,
        "activation_bits": _keep(BITS, capabilities.activation_bits),
        "cluster_init": CLUSTER_INITS,
        "scheme": _keep(SCHEMES, capabilities.schemes),
        "granularity": _keep(GRANULARITIES, capabilities.granularities),
        "criterion": _keep(CRITERIA, capabilities.criteria),
    }
    layer_patterns = _layer_patterns(profile, capabilities)
    for layer in profile.layers:
        can = capabilities.layers.get(layer.kind, _NOTHING)
        patterns = layer_patterns[layer.name]
        choices |= {
            f"{layer.name}:sparsity": _sparsities(patterns),
            f"{layer.name}:pattern": _keep(PATTERNS, patterns) or ("element",),
            f"{layer.name}:clusters": _keep(CLUSTERS, can.clusters),
            f"{layer.name}:bits": _keep(BITS, can.bits),
            f"{layer.name}:bias_bits": _keep(BITS, can.bias_bits) if layer.bias_size else (32,),
        }
    for name, values in choices.items():
        if not values:
            raise InvalidRequest(f"space: {name} has no choice that {capabilities.name} can do")
    _restrict(choices, restrictions or {}, [layer.name for layer in profile.layers])
    for group in profile.channel_groups:
        _share(choices, group)
    knobs = [
        Knob(name, values, name.rpartition(":")[2] in _ORDERED) for name, values in choices.items()
    ]
    return SearchSpace(knobs, profile)


def _sparsities(patterns: frozenset[str]) -> tuple[float, ...]:
    if not patterns:
        return (0.0,)
    return tuple(sorted((*SPARSITIES, *MILD_SPARSITIES))) if "channel" in patterns else SPARSITIES


def _layer_patterns(profile: ModelProfile, capabilities: Capabilities) -> dict[str, frozenset[str]]:
    """Layer name -> patterns. Coupled layers lose channels only if every one of them can."""
    patterns = {}
    for layer in profile.layers:
        can = capabilities.layers.get(layer.kind, _NOTHING).patterns
        patterns[layer.name] = can if layer.can_prune_channels else can - {"channel"}
    for group in profile.channel_groups:
        if any("channel" not in patterns[name] for name in group):
            patterns |= {name: patterns[name] - {"channel"} for name in group}
    return patterns


def _share(choices: dict[str, tuple[Any, ...]], group: Sequence[str]) -> None:
    """A restriction of one coupled layer's pattern, or of its channels, holds for its group."""

    def share(knob: str) -> tuple[Any, ...]:
        names = [f"{name}:{knob}" for name in group]
        common = tuple(c for c in choices[names[0]] if all(c in choices[n] for n in names))
        if not common:
            rule = f"coupled layers {', '.join(group)} must share a {knob}"
            raise InvalidRequest(f"space: {rule}, but the restrictions leave none")
        choices.update(dict.fromkeys(names, common))
        return common

    if share("pattern") == ("channel",):
        share("sparsity")


def _keep(values: Sequence[Any], allowed: frozenset[Any]) -> tuple[Any, ...]:
    return tuple(value for value in values if value in allowed)


def _restrict(
    choices: dict[str, tuple[Any, ...]], restrictions: Mapping[str, Any], layers: Sequence[str]
) -> None:
    offered = dict(choices)
    for key, value in restrictions.items():
        if key == "layers":
            for pattern, knobs in _table("layers", value).items():
                matched = fnmatch.filter(layers, pattern)
                if not matched:
                    raise InvalidRequest(
                        f"space: layer pattern {pattern!r} matches nothing; "
                        f"the layers are {', '.join(layers)}"
                    )
                for knob, rule in _table(f"layers.{pattern!r}", knobs).items():
                    if knob not in _LAYER_KNOBS:
                        raise _unknown_knob(f"layers.{pattern!r}.{knob}", _LAYER_KNOBS)
                    for name in matched:
                        full, shown = f"{name}:{knob}", f"layers.{pattern!r}.{knob}"
                        choices[full] = _apply(shown, offered[full], choices[full], rule)
        elif key == "distillation":
            for knob, rule in _table(key, value).items():
                full = f"distillation.{knob}"
                if full not in choices:
                    raise _unknown_knob(full, ("kind", "temperature", "weight"))
                choices[full] = _apply(full, offered[full], choices[full], rule)
        elif key in choices and ":" not in key:
            choices[key] = _apply(key, offered[key], choices[key], value)
        else:
            top = [name for name in choices if ":" not in name and "." not in name]
            raise _unknown_knob(key, [*top, "distillation", "layers"])


def _table(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"space: {name} must be a table, but got {value!r}")
    return value


def _unknown_knob(name: str, known: Sequence[str]) -> InvalidRequest:
    return InvalidRequest(f"space: unknown knob {name}; the known ones are {', '.join(known)}")


def _apply(
    name: str, offered: tuple[Any, ...], choices: tuple[Any, ...], rule: object
) -> tuple[Any, ...]:
    """The choices a rule leaves of `choices`, in their order; `offered` knows no restriction."""
    knob = name.rpartition(".")[2] if name.startswith("layers.") else name
    if rule == DROP:
        if _NEUTRAL[knob] not in offered:
            raise _refused(name, DROP, offered)
        return (_NEUTRAL[knob],)
    if isinstance(rule, Mapping):
        if not rule or set(rule) - {"min", "max"} or knob not in _ORDERED:
            raise InvalidRequest(f"space: {name} cannot take {dict(rule)!r}; min and max only")
        return _between(name, choices, rule)
    wanted: list[Any] = [None if v == "none" and knob == "clusters" else v for v in _as_list(rule)]
    if knob == "order":
        wanted = [format_order(parse_order(str(v))) for v in wanted]
    if not wanted:
        raise InvalidRequest(f"space: {name} must keep at least one choice, but got []")
    if knob == "sparsity" and offered != (0.0,):
        # Sparsity is continuous: any legal value may be asked for, not only the default grid.
        for value in wanted:
            if not 0.0 <= _number(name, value) < 1.0:
                raise InvalidRequest(f"space: {name} must be at least 0 and under 1, got {value}")
        return tuple(sorted({float(value) for value in wanted}))
    for value in wanted:
        if value not in choices:
            raise _refused(name, value, choices)
    return tuple(c for c in choices if c in wanted)


def _between(name: str, choices: tuple[Any, ...], rule: Mapping[str, Any]) -> tuple[Any, ...]:
    low = _number(name, rule.get("min", float("-inf")))
    high = _number(name, rule.get("max", float("inf")))
    kept = tuple(c for c in choices if c is not None and low <= c <= high)
    if not kept:
        raise InvalidRequest(f"space: {name} has no choice from {low} to {high} in {choices}")
    return kept


def _refused(name: str, value: object, choices: tuple[Any, ...]) -> InvalidRequest:
    allowed = ", ".join("none" if c is None else str(c) for c in choices)
    return InvalidRequest(f"space: {name} cannot be {value!r}; allowed: {allowed}")


def _as_list(rule: object) -> list[Any]:
    return list(rule) if isinstance(rule, list | tuple) else [rule]


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"space: {name} must be a number, but got {value!r}")
    return float(value)
