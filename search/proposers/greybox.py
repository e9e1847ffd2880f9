"""Proposes what the arithmetic and the finished trials together expect to move the front most.

Size and latency of any policy are predicted before training; only the metric is learned
(`surrogate`). Candidates are the front's neighbours, crosses of its members and random policies;
the one with the largest expected hypervolume improvement goes next.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.cost import modelled_latency
from search.proposers.base import Proposal
from search.proposers.filter import BudgetFilter
from search.proposers.improvement import at_nodes, expected_improvement
from search.proposers.known import KnownPolicies
from search.proposers.surrogate import Features, LossScale, Surrogate
from spaces import Judge, Policy, SearchSpace, Target, Trial
from spaces.front import default_max_drop, nondominated

__all__ = ["GreyboxParts", "GreyboxProposer"]

#: Fewer trials than this say nothing about a network; random policies come until then.
LEAST_TRIALS = 4
#: The trials learned from: the nearest to the front among all, the cost of a proposal is bounded.
MOST_TRIALS = 400
PARENTS = 16
MUTANTS, CROSSES, STRANGERS = 160, 60, 60
#: One proposal of so many goes to what might be far better than believed.
EXPLORE_EVERY = 8
EXPLORE_DEVIATIONS = 2.0
#: A space of at most so many vectors is gone through; in a larger one as many are drawn.
MOST_REST = 20_000
#: How often each kind of step is taken: most changes are small and few.
_CHANGES = (1, 1, 1, 2, 2, 3)


@dataclass(frozen=True)
class GreyboxParts:
    """Which parts take part; a bench switches them off in turn.

    Attributes:
        linear: the additive model of harm.
        smooth: the Gaussian process' smooth remainder.
        explores: whether some proposals go to the uncertain.
    """

    linear: bool = True
    smooth: bool = True
    explores: bool = True


class GreyboxProposer:
    """A pure function of (history, running, count) and the seed."""

    def __init__(
        self,
        space: SearchSpace,
        judge: Judge,
        target: Target,
        seed: int,
        budget_filter: BudgetFilter,
        parts: GreyboxParts | None = None,
    ) -> None:
        """Args: space, judge, target, seed: of the study; budget_filter: also knows the sizes."""
        self._space, self._judge, self._target, self._seed = space, judge, target, seed
        self._filter = budget_filter
        self._parts = parts or GreyboxParts()
        self._features = Features(judge)
        self._scale = LossScale.of(judge)
        self._known = KnownPolicies()
        self._ln_ms: dict[str, float] = {}
        untouched_ms = modelled_latency(Policy(), judge.profile, target).median_ms
        #: What is measured on this machine is shown to proposers as the model, scaled so.
        self._latency_scale = judge.profile.baseline_latency_ms / untouched_ms

    def propose(
        self, history: Sequence[Trial], running: Sequence[Policy], count: int
    ) -> list[Proposal]:
        """See `Proposer.propose`."""
        if count == 0:
            return []
        self._filter.update(history)
        known = self._known.of(history) | {policy.digest for policy in running}
        rng = np.random.default_rng([self._seed, len(history), len(running)])
        measured = [trial for trial in history if trial.measurement is not None]
        points = self._judge.points(measured)
        parents = self._parents(measured, points)
        candidates = self._candidates(parents, known, rng)
        if len(candidates) < count:
            candidates += self._rest(known | {p.digest for p in candidates}, count, rng)
        if len(measured) < LEAST_TRIALS or not candidates:
            return [Proposal(policy, "greybox (random)") for policy in candidates[:count]]
        return self._best(measured, points, candidates, running, len(history), count)

    def _best(
        self,
        measured: Sequence[Trial],
        points: np.ndarray,
        candidates: list[Policy],
        running: Sequence[Policy],
        seen: int,
        count: int,
    ) -> list[Proposal]:
        reference = self._reference(points)
        surrogate = self._surrogate(measured, points, reference)
        front = points
        if running:
            # What runs is believed to come out as predicted, so that nobody repeats it.
            mean, _ = surrogate.predict(self._features.of(running))
            believed = np.column_stack([self._scale.loss(mean), self._costs(running)])
            front = np.vstack([front, believed])
        mean, deviation = surrogate.predict(self._features.of(candidates))
        known = self._costs(candidates)
        hopeful = self._scale.loss((mean - EXPLORE_DEVIATIONS * deviation)[:, None])
        expected = self._scale.loss(at_nodes(mean, deviation))
        free = np.ones(len(candidates), dtype=bool)
        proposals: list[Proposal] = []
        while len(proposals) < min(count, len(candidates)):
            turn = seen + len(running) + len(proposals)
            explores = self._parts.explores and turn % EXPLORE_EVERY == EXPLORE_EVERY - 1
            losses = np.repeat(hopeful, expected.shape[1], axis=1) if explores else expected
            gains = expected_improvement(front, losses, known, reference)
            # Nobody expects to gain: then whoever comes nearest in what is believed.
            order = np.lexsort((mean, -gains))
            best = int(next(i for i in order if free[i]))
            free[best] = False
            origin = "greybox (explores)" if explores else "greybox"
            proposals.append(Proposal(candidates[best], origin))
            believed = np.array([[self._scale.loss(mean[best : best + 1])[0], *known[best]]])
            front = np.vstack([front, believed])
        return proposals

    def _reference(self, points: np.ndarray) -> np.ndarray:
        """The hypervolume's; while no trial lies within it, a little worse than the best that fits.

        Only a little: with much room small files that guess would cover more than good ones.
        """
        missing, reference = self._judge.missing_loss(points), self._judge.reference
        if missing is not None:
            reference = reference + np.array([missing + self._scale.unit, 0.0, 0.0])
        return reference

    def _surrogate(
        self, measured: Sequence[Trial], points: np.ndarray, reference: np.ndarray
    ) -> Surrogate:
        chosen = np.arange(len(measured))
        if len(measured) > MOST_TRIALS:
            # How far each is from the best loss at its size or less: 0 on the front.
            excess = np.maximum(points - reference, 0.0).sum(axis=1)
            by_size = np.argsort(points[:, 1], kind="stable")
            best = np.empty(len(points))
            best[by_size] = np.minimum.accumulate(points[by_size, 0])
            chosen = np.sort(np.lexsort((points[:, 0] - best, excess))[:MOST_TRIALS])
        features = self._features.of([measured[int(i)].policy for i in chosen])
        targets = self._scale.target(points[chosen, 0])
        parts = self._parts
        return Surrogate(features, targets, linear=parts.linear, smooth=parts.smooth)

    def _costs(self, policies: Sequence[Policy]) -> np.ndarray:
        """(n, 2) predicted ln size and ln latency."""
        rows = []
        for policy in policies:
            ln_ms = self._ln_ms.get(policy.digest)
            if ln_ms is None:
                latency = modelled_latency(policy, self._judge.profile, self._target)
                ln_ms = math.log(latency.median_ms * self._latency_scale)
                self._ln_ms[policy.digest] = ln_ms
            rows.append((math.log(self._filter.size.predict(policy).mid_bytes), ln_ms))
        return np.array(rows)

    def _parents(self, measured: Sequence[Trial], points: np.ndarray) -> list[Policy]:
        """Members of the front with the looser metric, spread over its sizes."""
        if not measured:
            return []
        slack = default_max_drop(self._judge.metric, self._judge.profile.baseline_metric)
        reference = self._judge.reference + np.array([2 * slack, 0.5, 0.5])
        near = np.flatnonzero(nondominated(points) & (points < reference).all(axis=1))
        near = near[np.argsort(points[near, 1], kind="stable")]
        if len(near) > PARENTS:
            near = near[np.linspace(0, len(near) - 1, PARENTS).round().astype(int)]
        policies = [measured[int(i)].policy for i in near]
        return [policy for policy in policies if self._space.contains(policy)]

    def _candidates(
        self, parents: Sequence[Policy], known: set[str], rng: np.random.Generator
    ) -> list[Policy]:
        found: dict[str, Policy] = {}
        for policy in self._made(parents, rng):
            fresh = policy.digest not in known and policy.digest not in found
            if fresh and policy.order and self._filter.accept(policy):
                found[policy.digest] = policy
        return list(found.values())

    def _made(self, parents: Sequence[Policy], rng: np.random.Generator) -> Iterator[Policy]:
        vectors = [np.array(self._space.encode(policy)) for policy in parents]
        if vectors:
            for _ in range(MUTANTS):
                yield self._space.decode(self._mutated(vectors[rng.integers(len(vectors))], rng))
            for _ in range(CROSSES):
                a, b = (vectors[i] for i in rng.integers(len(vectors), size=2))
                crossed = np.where(rng.random(len(a)) < 0.5, a, b)
                yield self._space.decode([int(i) for i in crossed])
        for _ in range(STRANGERS):
            yield self._space.sample(rng)

    def _mutated(self, vector: np.ndarray, rng: np.random.Generator) -> list[int]:
        changed = [int(i) for i in vector]
        movable = [at for at, knob in enumerate(self._space.knobs) if len(knob.choices) > 1]
        if not movable:
            return changed
        for at in rng.choice(movable, size=min(len(movable), int(rng.choice(_CHANGES)))):
            knob, last = self._space.knobs[at], len(self._space.knobs[at].choices) - 1
            if knob.ordered:
                step = int(rng.choice((-2, -1, -1, 1, 1, 2)))
                changed[at] = min(max(changed[at] + step, 0), last)
            else:
                changed[at] = int(rng.integers(last + 1))
        return changed

    def _rest(self, known: set[str], count: int, rng: np.random.Generator) -> list[Policy]:
        """Where all that was made is known: what the space still has, over the budget last."""
        within: dict[str, Policy] = {}
        beyond: dict[str, Policy] = {}
        sizes = self._space.sizes
        total = math.prod(int(size) for size in sizes)
        for at in range(min(total, MOST_REST)):
            if total <= MOST_REST:
                policy = self._space.decode([int(i) for i in np.unravel_index(at, sizes)])
            else:
                policy = self._space.sample(rng)
            if policy.digest not in known:
                found = within if self._filter.accept(policy) else beyond
                found.setdefault(policy.digest, policy)
            if len(within) >= count:
                break
        return [*within.values(), *beyond.values()][:count]
