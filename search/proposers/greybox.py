"""Proposes what the arithmetic and the finished trials together expect to move the front most.

Size and latency of any policy are predicted before training (`forecast`); only the metric is
learned (`surrogate`). Of some 280 vectors (`candidates`) the one with the largest expected
hypervolume improvement (`improvement`) goes next, and only then becomes a policy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.cost import modelled_latency
from search.proposers import candidates
from search.proposers.base import Proposal
from search.proposers.filter import BudgetFilter
from search.proposers.forecast import Forecast, Forecasts
from search.proposers.improvement import at_nodes, expected_improvement
from search.proposers.known import KnownPolicies, Measured, MeasuredTrials
from search.proposers.surrogate import Features, Floor, LossScale, Surrogate
from spaces import InvalidRequest, Judge, Policy, SearchSpace, Target, Trial
from spaces.front import default_max_drop, nondominated

__all__ = ["GreyboxParts", "GreyboxProposer"]

#: Fewer trials than this say nothing about a network; random policies come until then.
LEAST_TRIALS = 4
#: The trials learned from: the nearest to the front among all, the cost of a proposal is bounded.
MOST_TRIALS = 400
PARENTS = 16
#: Random vectors are drawn in so many batches; if none of them fits the budget, no more are drawn.
HOPELESS_BATCHES = 3
#: What still counts while nothing reaches the metric limit: so many points under the best.
NEAR = 0.25
#: One proposal of so many goes to what might be far better than believed.
EXPLORE_EVERY = 8
EXPLORE_DEVIATIONS = 2.0


@dataclass(frozen=True)
class GreyboxParts:
    """Which parts take part; a bench switches them off in turn.

    Attributes:
        linear: the additive model of harm.
        smooth: the Gaussian process' smooth remainder.
        floor: whether what as much harm has come to bounds what is hoped for.
        explores: whether some proposals go to the uncertain, whatever the floor.
    """

    linear: bool = True
    smooth: bool = True
    floor: bool = True
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
        models = budget_filter.model, budget_filter.download_model
        self._forecast = Forecast(space, target, models, self._features)
        self._scale = LossScale.of(judge)
        self._known = KnownPolicies()
        self._finished = MeasuredTrials(judge, self._features)
        self._vectors: dict[str, tuple[int, ...] | None] = {}
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
        measured = self._finished.of(history)
        beliefs = None
        if len(measured.trials) >= LEAST_TRIALS:
            beliefs = self._beliefs(measured, running, len(history) + len(running))
        proposals: list[Proposal] = []
        for vectors, forecasts in self._batches(self._parents(measured), rng):
            wanted = count - len(proposals)
            if beliefs is None:
                proposals += self._first(vectors, known, wanted)
            else:
                proposals += self._best(beliefs, vectors, forecasts, known, wanted)
            if len(proposals) == count:
                break
        return proposals

    def _batches(
        self, parents: np.ndarray, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, Forecasts]]:
        """What to choose from, the best bets first and what is over the budget last."""
        beyond = []
        found, is_sampled = 0, candidates.is_sampled(self._space)
        for turn, vectors in enumerate(candidates.made_then_others(self._space, parents, rng)):
            forecasts = self._forecast.of(vectors)
            accepted = self._filter.accepted(
                forecasts.size, forecasts.download, forecasts.latency_ms
            )
            over = ~accepted
            if turn == 0:
                # Neighbours of the front that fail by rule are not worth even the last place.
                accepted, over = accepted & forecasts.works, over & forecasts.works
            beyond.append((vectors[over], forecasts.take(over)))
            yield vectors[accepted], forecasts.take(accepted)
            found += int(accepted.sum())
            if is_sampled and turn == HOPELESS_BATCHES and found == 0:
                break
        yield from beyond

    def _fresh(self, vector: np.ndarray, known: set[str]) -> Policy | None:
        """The policy of a vector, from then on known; None for one that was known before."""
        policy = self._space.decode([int(i) for i in vector])
        if policy.digest in known:
            return None
        known.add(policy.digest)
        return policy

    def _first(self, vectors: np.ndarray, known: set[str], wanted: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        for vector in vectors:
            if len(proposals) == wanted:
                break
            if (policy := self._fresh(vector, known)) is not None:
                proposals.append(Proposal(policy, "greybox (random)"))
        return proposals

    def _beliefs(self, measured: Measured, running: Sequence[Policy], turn: int) -> "_Beliefs":
        reference = self._reference(measured.points)
        surrogate, floor = self._learned(measured, reference)
        front = measured.points[measured.front]
        if running:
            # What runs is believed to come out as predicted, so that nobody repeats it.
            features = self._features.of(running)
            mean = np.maximum(surrogate.predict(features)[0], self._floor_of(floor, features))
            sizes = [self._filter.size.predict(policy).mid_bytes for policy in running]
            profile = self._judge.profile
            latencies = [modelled_latency(x, profile, self._target).median_ms for x in running]
            costs = self._costs(np.array(sizes), np.array(latencies))
            front = np.vstack([front, np.column_stack([self._scale.loss(mean), costs])])
        return _Beliefs(surrogate, floor, reference, front[nondominated(front)], turn)

    def _best(
        self,
        beliefs: "_Beliefs",
        vectors: np.ndarray,
        forecasts: Forecasts,
        known: set[str],
        wanted: int,
    ) -> list[Proposal]:
        if len(vectors) == 0:
            return []
        mean, deviation = beliefs.surrogate.predict(forecasts.features)
        ratios, _ = self._filter.size.factors_of(forecasts.size.kinds)
        costs = self._costs(forecasts.size.closed_form_bytes * ratios, forecasts.latency_ms)
        hopeful = self._scale.loss((mean - EXPLORE_DEVIATIONS * deviation)[:, None])
        floor = self._floor_of(beliefs.floor, forecasts.features)
        expected = self._scale.loss(np.maximum(at_nodes(mean, deviation), floor[:, None]))
        believed = np.maximum(mean, floor)
        free = np.ones(len(vectors), dtype=bool)
        proposals: list[Proposal] = []
        while len(proposals) < wanted and free.any():
            explores = self._parts.explores and beliefs.turn % EXPLORE_EVERY == EXPLORE_EVERY - 1
            losses = np.repeat(hopeful, expected.shape[1], axis=1) if explores else expected
            gains = expected_improvement(beliefs.front, losses, costs, beliefs.reference)
            # Nobody expects to gain: then whoever comes nearest in what is believed.
            for best in np.lexsort((believed, -gains)):
                if not free[best]:
                    continue
                free[best] = False
                policy = self._fresh(vectors[best], known)
                if policy is not None:
                    origin = "greybox (explores)" if explores else "greybox"
                    proposals.append(Proposal(policy, origin))
                    beliefs.expect(self._scale.loss(believed[best : best + 1]), costs[best])
                    break
        return proposals

    def _floor_of(self, floor: Floor, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n,) targets below which nothing is hoped for; -inf without this part."""
        if not self._parts.floor:
            return np.full(len(features), -np.inf)
        return floor.of(self._features.total_harm(features))

    def _costs(self, size_bytes: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
        """(n,) predicted bytes and (n,) modelled milliseconds -> (n, 2) their logarithms."""
        costs: np.ndarray = np.log(np.column_stack([size_bytes, latency_ms * self._latency_scale]))
        return costs

    def _reference(self, points: np.ndarray) -> np.ndarray:
        """The hypervolume's; while no trial lies within it, one that tells good from bad beyond.

        Nothing keeps the metric: a little worse than the best that fits. Only a little: with much
        room small files far from the limit cover more than any that comes nearer to it. (With a
        whole point a search for 98.43 % in 5.5 KB stayed at 97.3 % in 3 KB.)
        """
        reference = self._costs_reference(points)
        missing = self._judge.missing_loss(points)
        if missing is not None:
            reference = reference + np.array([missing + NEAR * self._scale.unit, 0.0, 0.0])
        return reference

    def _costs_reference(self, points: np.ndarray) -> np.ndarray:
        """The hypervolume's; while nothing fits in bytes and time, as if without those limits.

        So a budget that nothing can keep is answered by the smallest that keeps the metric. With
        the limits in place no file gains anything, and the most accurate, the largest, went next.
        """
        if self._judge.fits(points).any():
            return self._judge.reference
        return self._judge.unlimited_reference

    def _learned(self, measured: Measured, reference: np.ndarray) -> tuple[Surrogate, Floor]:
        points, features = measured.points, measured.features
        chosen = np.arange(len(points))
        if len(points) > MOST_TRIALS:
            # How far each is from the best loss at its size or less: 0 on the front.
            excess = np.maximum(points - reference, 0.0).sum(axis=1)
            by_size = np.argsort(points[:, 1], kind="stable")
            best = np.empty(len(points))
            best[by_size] = np.minimum.accumulate(points[by_size, 0])
            chosen = np.sort(np.lexsort((points[:, 0] - best, excess))[:MOST_TRIALS])
        targets = self._scale.target(points[:, 0])
        parts = self._parts
        surrogate = Surrogate(
            features[chosen], targets[chosen], linear=parts.linear, smooth=parts.smooth
        )
        # Of all trials: the first to be left out above are those that tell what does not work.
        return surrogate, Floor(self._features.total_harm(features), targets)

    def _parents(self, measured: Measured) -> np.ndarray:
        """(p, knobs): members of the front with the looser metric, spread over its sizes."""
        points = measured.points
        slack = default_max_drop(self._judge.metric, self._judge.profile.baseline_metric)
        reference = self._costs_reference(points) + np.array([2 * slack, 0.5, 0.5])
        near = measured.front[(points[measured.front] < reference).all(axis=1)]
        near = near[np.argsort(points[near, 1], kind="stable")]
        if len(near) > PARENTS:
            near = near[np.linspace(0, len(near) - 1, PARENTS).round().astype(int)]
        found = [self._vector(measured.trials[int(i)].policy) for i in near]
        inside = [vector for vector in found if vector is not None]
        return np.array(inside, dtype=np.int64).reshape(-1, len(self._space))

    def _vector(self, policy: Policy) -> tuple[int, ...] | None:
        """Of a policy; None outside of the space. Remembered: the front changes seldom."""
        if policy.digest not in self._vectors:
            try:
                self._vectors[policy.digest] = self._space.encode(policy)
            except InvalidRequest:
                self._vectors[policy.digest] = None
        return self._vectors[policy.digest]


@dataclass
class _Beliefs:
    """What one call of `propose` goes by.

    Attributes:
        surrogate, floor, reference: of the history.
        front: (m, 3) non-dominated points so far; what was proposed is believed as predicted.
        turn: number of the next proposal, which decides whether it explores.
    """

    surrogate: Surrogate
    floor: Floor
    reference: np.ndarray
    front: np.ndarray
    turn: int

    def expect(self, loss: np.ndarray, costs: np.ndarray) -> None:
        """Go on as if a proposal had come out with this (1,) loss and these (2,) costs."""
        self.front = np.vstack([self.front, np.concatenate([loss, costs])])
        self.turn += 1
