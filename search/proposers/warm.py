"""Starts a search where arithmetic says it should: references, then the sensitivity scan's advice.

On a real network nearly all of the early gain over a blank sampler was measured to come from this,
and it costs no training. Afterwards an inner proposer goes on from what these trials showed.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evaluators.cost import SizeModel, layer_latency_ms, modelled_latency
from search.proposers.base import Proposal, Proposer
from search.proposers.filter import BudgetFilter
from search.proposers.known import KnownPolicies
from search.proposers.references import references
from search.proposers.sensitivity import Damage, strength
from spaces import (
    Capabilities,
    Judge,
    LayerPolicy,
    LayerProfile,
    ModelProfile,
    Policy,
    SearchSpace,
    Stage,
    Target,
    Trial,
    format_order,
    parse_order,
)
from spaces.policy import FULL_BITS

__all__ = [
    "Allocation",
    "WarmProposer",
    "ladder",
    "nearest_policy",
    "warm_policies",
]

RUNGS = 10
#: The first rung keeps clear of the budget: the closed form errs to the safe side, mostly.
MARGIN = 0.95
#: Shares of the baseline's bytes where the ladder starts without a size budget, and where it ends.
TOP_SHARE, BOTTOM_SHARE = 0.25, 0.006
#: Under this share of the baseline a budget may be out of reach; what scouts then aim at.
SCOUT_BELOW_SHARE = 0.008
SCOUT_SHARES = (0.01, 0.025, 0.06)
#: With a budget below that, the ladder ends at this share of the budget.
BOTTOM_OF_BUDGET = 0.3
#: How far single zeros go: to this many times the smallest they can make; there all is extreme.
CLEAR_OF_SMALLEST = 1.25
#: Where the ladder ends at the latest, as a multiple of the smallest file there is.
BOTTOM_OF_SMALLEST = 2.0
CODEBOOK_BITS = 8
BIAS_BITS = 8
DISTILLATION_WEIGHT = 0.5
DEFAULT_ORDER = "prune>distill>cluster>quantize"
#: Most rungs run the default order; these (0 is the largest) try others, so that order is explored
#: from the start. They lie where files are small enough to need every stage.
OTHER_ORDERS: Mapping[int, str] = {
    4: "distill>prune>cluster>quantize",
    5: "prune>cluster",
    7: "prune>cluster>distill>quantize",
}
#: A codebook of more costs what 8-bit levels cost.
MOST_CLUSTERS = 64
#: On lenet300 at 12 epochs a quarter fewer bytes than by magnitude, at the same error within noise.
CRITERION = "regrow-rate"
TEMPERATURES = (4.0, 2.0)
#: Origin of the policies that look beyond a tight budget.
SCOUT = "beyond the budget"
FAST_CHANNEL_SPARSITIES = (0.125, 0.25, 0.5, 0.7)
#: After how many rungs the policies for latency come; at once if the budget limits latency.
FAST_AFTER = 4
_NO_CLUSTERS = 65536.0


def _coordinate(knob: str, value: float | None) -> float:
    """Where a knob's value lies, so that equal distances mean about equal effects."""
    if knob == "sparsity":
        return strength(knob, value or 0.0)
    if knob == "distillation.weight":
        return value or 0.0
    return math.log2(_NO_CLUSTERS if value is None else value)


def nearest_policy(space: SearchSpace, wanted: Mapping[str, Any]) -> Policy:
    """The policy of the space whose knobs are nearest to `wanted`; a knob not named stays mild."""
    vector = []
    for knob in space.knobs:
        value = wanted.get(knob.name, knob.choices[0])
        kind = knob.name.rpartition(":")[2]
        index = knob.index(value)
        if kind == "order":
            index = _nearest_order(value, knob.choices)
        elif knob.ordered:
            at = _coordinate(kind, value)
            distances = [abs(_coordinate(kind, choice) - at) for choice in knob.choices]
            index = distances.index(min(distances))
        vector.append(index)
    return space.decode(vector)


def _nearest_order(wanted: str, choices: Sequence[str]) -> int:
    """Most stages in common, then most pairs of them the same way round, then fewest others."""
    stages = parse_order(wanted)

    def likeness(index: int) -> tuple[int, int, int, int]:
        other = parse_order(choices[index])
        shared = [stage for stage in other if stage in stages]
        places = [stages.index(stage) for stage in shared]
        agreed = sum(a < b for i, a in enumerate(places) for b in places[i + 1 :])
        return len(shared), agreed, -len(other), -index

    return max(range(len(choices)), key=likeness)


def ladder(
    profile: ModelProfile, limit_bytes: float | None, smallest_bytes: float = 0.0
) -> tuple[float, ...]:
    """Sizes in bytes to aim at, from the largest to the smallest, in equal ratios.

    Equal ratios, because the hypervolume counts ln size. Small networks end far below 1 % of their
    fp32 size, so the ladder goes there even when the budget is loose.

    Args:
        profile: of the network.
        limit_bytes: of the budget, on what these sizes are of.
        smallest_bytes: of the smallest file that the format and the space allow.
    """
    baseline = profile.baseline_size_bytes
    top = TOP_SHARE * baseline
    if limit_bytes is not None:
        top = min(top, MARGIN * limit_bytes)
    bottom = max(BOTTOM_SHARE * baseline, BOTTOM_OF_SMALLEST * smallest_bytes)
    bottom = min(bottom, BOTTOM_OF_BUDGET * top)
    return tuple(float(size) for size in np.geomspace(top, bottom, RUNGS))


def spread(count: int) -> list[int]:
    """0 .. count - 1 so that each next one is the farthest from all before: 0, 9, 4, 2, 6, ..."""
    order = [0]
    while len(order) < count:
        rest = [i for i in range(count) if i not in order]
        order.append(max(rest, key=lambda i: (min(abs(i - j) for j in order), -i)))
    return order[:count]


@dataclass(frozen=True, slots=True)
class _State:
    """One layer under one LayerPolicy."""

    size_bytes: float
    harm: float
    asked: LayerPolicy


@dataclass(frozen=True, slots=True)
class _Move:
    """From one corner of a layer's hull to its next smaller one."""

    harm_per_byte: float
    layer: str
    saved_bytes: float
    asked: LayerPolicy


class Allocation:
    """Which layer gives up which bytes first, for the stages of one order.

    The greedy knapsack: of each layer's possible states only the corners of the lower convex hull
    of harm over bytes are worth having; taking all layers' moves along those hulls in the order of
    their harm per byte is optimal at every size it passes through (Shoham and Gersho 1988, IEEE
    Trans. ASSP 36/9). Stepping knob by knob instead would stop before moves that only pay
    together.
    """

    def __init__(
        self,
        space: SearchSpace,
        model: SizeModel,
        stages: Iterable[Stage],
        pattern: str = "element",
    ) -> None:
        """Args: space, model: of the network; stages: that run.

        pattern: of what is pruned, where a layer offers it.
        """
        self._space = space
        self._model = model
        self._pattern = pattern
        self._stages = frozenset(stages)
        starts, moves = {}, []
        for layer in model.profile.layers:
            hull = _lower_hull(self._states(layer))
            starts[layer.name] = hull[0].asked
            moves += [
                _Move(
                    (small.harm - large.harm) / (large.size_bytes - small.size_bytes),
                    layer.name,
                    large.size_bytes - small.size_bytes,
                    small.asked,
                )
                for large, small in itertools.pairwise(hull)
            ]
        self._starts = starts
        # Sorting is stable and a hull's slopes only rise, so a layer's moves stay in order.
        self._moves = sorted(moves, key=lambda move: move.harm_per_byte)

    def at(self, size_bytes: float) -> dict[str, LayerPolicy]:
        """The least harmful layers predicted to fit; the smallest there are if none does."""
        layers = dict(self._starts)
        total = self.predict_bytes(layers)
        for move in self._moves:
            if total <= size_bytes:
                break
            layers[move.layer] = move.asked
            if self._pattern == "channel":
                # Removed channels are removed from whoever reads them too.
                total = self.predict_bytes(layers)
            else:
                total -= move.saved_bytes
        return layers

    @cached_property
    def smallest_bytes(self) -> float:
        """Predicted bytes of the smallest there is."""
        return self.predict_bytes(self.at(0.0))

    def predict_bytes(self, layers: Mapping[str, LayerPolicy]) -> float:
        """Predicted bytes of such layers, with one scale a tensor where that is allowed."""
        return self._model.predict_bytes(
            Policy(tuple(Stage), tuple(layers.items()), granularity=self._granularity)
        )

    @cached_property
    def _granularity(self) -> str:
        """One scale a tensor where allowed: at a few KB a scale a channel is a tenth of a file."""
        return "tensor" if "tensor" in self._space.knob("granularity").choices else "channel"

    @cached_property
    def _scheme(self) -> str:
        return str(self._space.knob("scheme").choices[0])

    def _states(self, layer: LayerProfile) -> Iterator[_State]:
        damage = Damage(layer)
        for asked in self._choices(layer):
            size = self._model.layer(layer, asked, self._scheme, self._granularity)
            yield _State(size.total_bytes, damage(asked), asked)

    def _choices(self, layer: LayerProfile) -> Iterator[LayerPolicy]:
        def choices(knob: str, stage: Stage, neutral: object) -> tuple[Any, ...]:
            offered = self._space.knob(f"{layer.name}:{knob}").choices
            return offered if stage in self._stages else (neutral,)

        patterns = self._space.knob(f"{layer.name}:pattern").choices
        pattern = self._pattern if self._pattern in patterns else patterns[0]
        all_bits = choices("bits", Stage.QUANTIZE, FULL_BITS)
        codebook_bits = min(all_bits, key=lambda bits: abs(math.log2(bits / CODEBOOK_BITS)))
        bias_bits = FULL_BITS
        if layer.bias_size:
            offered = choices("bias_bits", Stage.QUANTIZE, FULL_BITS)
            bias_bits = min(offered, key=lambda bits: abs(math.log2(bits / BIAS_BITS)))
        all_clusters = choices("clusters", Stage.CLUSTER, None)
        few = tuple(clusters for clusters in all_clusters if (clusters or 0) <= MOST_CLUSTERS)
        for sparsity in choices("sparsity", Stage.PRUNE, 0.0):
            where = pattern if sparsity > 0 else "element"
            for clusters in few or all_clusters:
                for bits in all_bits if clusters is None else (codebook_bits,):
                    yield LayerPolicy(sparsity, where, clusters, bits, bias_bits)


def _lower_hull(states: Iterable[_State]) -> list[_State]:
    """Corners from the least harmful to the smallest; harm per byte rises along them.

    Andrew's monotone chain (1979), from large to small.
    """
    hull: list[_State] = []
    for state in sorted(states, key=lambda state: (state.harm, state.size_bytes)):
        if hull and state.size_bytes >= hull[-1].size_bytes:
            continue
        while len(hull) >= 2 and _slope(hull[-2], state) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(state)
    return hull


def _slope(large: _State, small: _State) -> float:
    return (small.harm - large.harm) / (large.size_bytes - small.size_bytes)


def _wanted(
    order: str, layers: Mapping[str, LayerPolicy], temperature: float, granularity: str = "tensor"
) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "order": order,
        "distillation.kind": "logits",
        "distillation.temperature": temperature,
        "distillation.weight": DISTILLATION_WEIGHT,
        "granularity": granularity,
        "criterion": CRITERION,
    }
    for name, layer in layers.items():
        for knob in ("sparsity", "pattern", "clusters", "bits", "bias_bits"):
            wanted[f"{name}:{knob}"] = getattr(layer, knob)
    return wanted


def scout_sizes(profile: ModelProfile, limit_bytes: float | None) -> tuple[float, ...]:
    """Sizes beyond a budget so tight that maybe nothing keeps it; () for any other budget.

    If nothing does, these are what the certificate can say about where the metric returns.
    """
    baseline = profile.baseline_size_bytes
    if limit_bytes is None or limit_bytes > SCOUT_BELOW_SHARE * baseline:
        return ()
    return tuple(share * baseline for share in SCOUT_SHARES if share * baseline > limit_bytes)


def _small_policies(space: SearchSpace, model: SizeModel, rungs: Sequence[float]) -> list[Policy]:
    """One policy a size, far apart first; some in another order of stages."""
    allocations: dict[tuple[frozenset[Stage], str], Allocation] = {}
    choices = space.knob("order").choices

    def layers_at(stages: frozenset[Stage], size_bytes: float) -> Mapping[str, LayerPolicy]:
        """By element; by channel where a format stores so much of a zero that it cannot get there.

        Core ML pays a bit for every zero and ONNX Runtime a whole code: single zeros end at a tenth
        of the network.
        """
        for pattern in ("element", "channel"):
            key = stages, pattern
            if key not in allocations:
                allocations[key] = Allocation(space, model, stages, pattern)
            if size_bytes >= CLEAR_OF_SMALLEST * allocations[key].smallest_bytes:
                break
        return allocations[key].at(size_bytes)

    found = []
    for turn, rung in enumerate(spread(len(rungs))):
        order = choices[_nearest_order(OTHER_ORDERS.get(rung, DEFAULT_ORDER), choices)]
        stages = frozenset(parse_order(order)) - {Stage.DISTILL}
        layers = layers_at(stages, rungs[rung])
        temperature = TEMPERATURES[turn % len(TEMPERATURES)]
        found.append(nearest_policy(space, _wanted(order, layers, temperature)))
    return found


def binding_limit(space: SearchSpace, budget_filter: BudgetFilter) -> tuple[SizeModel, int | None]:
    """The byte limit that asks more of a network, and the model of the bytes it is on.

    File and download differ: an LSTM whose DOWNLOAD may have 100 KB needs half of its weights, one
    whose dense `.tflite` may have that a tenth of them. Where both are limited the one binds that
    is aimed at by the policy which keeps both, or comes nearest to that.

    Returns:
        (model, bytes); (model of the file, None) without any limit on bytes.
    """
    limits = budget_filter.byte_limits
    if not limits:
        return budget_filter.model, None

    def worst_excess(aimed: tuple[SizeModel, int]) -> float:
        model, limit = aimed
        (policy,) = _small_policies(space, model, [MARGIN * limit])
        return max(other.predict_bytes(policy) / most for other, most in limits)

    return limits[0] if len(limits) == 1 else min(limits, key=worst_excess)


def _fast_policies(space: SearchSpace, judge: Judge, target: Target) -> list[Policy]:
    """Fewer channels and 8-bit integers: all that makes a network faster, where it does.

    Nothing else in the ladder lowers latency, which is one of the three things a front is judged
    by. Weights are narrower where products of 8 bits may overflow (`Target.int8_weight_bits`).
    """
    profile = judge.profile
    order = format_order((Stage.PRUNE, Stage.DISTILL, Stage.QUANTIZE))
    untouched_ms = modelled_latency(Policy(), profile, target).median_ms
    widths = (target.int8_weight_bits, 16)
    found = []
    for share in FAST_CHANNEL_SPARSITIES:
        layers = {}
        for layer in profile.layers:
            pruned = (share, "channel") if layer.can_prune_channels else (0.0, "element")
            asked = (LayerPolicy(*pruned, None, bits, BIAS_BITS) for bits in widths)
            # The first layer of a network that reads images may be faster in floats.
            layers[layer.name] = min(
                asked, key=lambda x: layer_latency_ms(layer, x, (1, 1), 8, target)
            )
        wanted = {**_wanted(order, layers, TEMPERATURES[0], "channel"), "activation_bits": 8}
        policy = nearest_policy(space, wanted)
        if modelled_latency(policy, profile, target).median_ms < 0.97 * untouched_ms:
            found.append(policy)
    return found


def warm_policies(
    space: SearchSpace,
    judge: Judge,
    target: Target,
    model: SizeModel,
    limit_bytes: float | None,
) -> tuple[Policy, ...]:
    """Distinct policies of the space worth trying before anything was learned, best bet first.

    Args:
        space: they are of.
        judge: of the study.
        target: that latency is modelled for.
        model: of the bytes that the sizes to aim at are of.
        limit_bytes: on those.
    """
    smallest_bytes = Allocation(space, model, Stage, "channel").smallest_bytes
    small = _small_policies(space, model, ladder(judge.profile, limit_bytes, smallest_bytes))
    fast = _fast_policies(space, judge, target)
    at = 1 if judge.budget.latency_ms is not None else FAST_AFTER
    distinct = {p.digest: p for p in (*small[:at], *fast, *small[at:]) if p.order}
    return tuple(distinct.values())


class WarmProposer:
    """References, then warm policies, then the inner proposer under the budget filter.

    References that may keep the budget are the first of all.

    A pure function of (history, running, count), if the inner proposer is one: what was proposed
    already is recognised by its digest, so a resumed study goes on where it was.

    Attributes:
        left_out: (name, reason) of the references that are not tried.
    """

    def __init__(
        self,
        space: SearchSpace,
        judge: Judge,
        target: Target,
        capabilities: Capabilities,
        *,
        inner: Proposer,
        budget_filter: BudgetFilter,
        warm_start: bool = True,
    ) -> None:
        """Put together what proposes.

        Args:
            space: the choices; every proposal lies in it.
            judge: metric, budget and profile.
            target: what latency is modelled for.
            capabilities: of backend and format, for the references.
            inner: goes on after the opening. Its own filter should be `budget_filter.accept`.
            budget_filter: shown each history before it is asked.
            warm_start: False leaves only the references before the inner proposer.
        """
        self._filter = budget_filter
        self._inner = inner
        self._known = KnownPolicies()
        made = references(judge.profile, capabilities)
        outside = "not in the restricted space"
        self.left_out = made.left_out + tuple(
            (name, outside) for name, policy in made.policies if not space.contains(policy)
        )
        opening = [
            Proposal(policy, f"reference: {name}")
            for name, policy in made.policies
            if space.contains(policy)
        ]
        # Who waits for a first answer wants one that may keep the budget.
        opening.sort(key=lambda proposal: not budget_filter.accept(proposal.policy))
        if warm_start:
            model, limit_bytes = binding_limit(space, budget_filter)
            opening += [
                Proposal(policy, "warm start")
                for policy in warm_policies(space, judge, target, model, limit_bytes)
            ]
            sizes = scout_sizes(judge.profile, limit_bytes)
            scouts = {
                policy.digest: Proposal(policy, SCOUT)
                for policy in _small_policies(space, model, sizes)
            }
            # Also one that is a rung: as such the filter would refuse it.
            opening = [scouts.get(proposal.policy.digest, proposal) for proposal in opening]
            opening += scouts.values()
        distinct: dict[str, Proposal] = {}
        for proposal in opening:
            distinct.setdefault(proposal.policy.digest, proposal)
        self.opening = tuple(distinct.values())

    def propose(
        self, history: Sequence[Trial], running: Sequence[Policy], count: int
    ) -> list[Proposal]:
        """See `Proposer.propose`. References and scouts run whatever the budget says."""
        self._filter.update(history)
        known = self._known.of(history) | {policy.digest for policy in running}
        proposals = [
            proposal
            for proposal in self.opening
            if proposal.policy.digest not in known
            and (self._is_exempt(proposal) or self._filter.accept(proposal.policy))
        ][:count]
        if len(proposals) < count:
            pending = [*running, *(proposal.policy for proposal in proposals)]
            proposals += self._inner.propose(history, pending, count - len(proposals))
        return proposals

    @staticmethod
    def _is_exempt(proposal: Proposal) -> bool:
        return proposal.origin == SCOUT or proposal.origin.startswith("reference")
