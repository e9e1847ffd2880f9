"""Optuna's samplers as proposers: `tpe`, `nsga2`, `nsga3`, `gp`, `random`.

A sampler talks to a study in its storage and learns as it goes; a `Proposer` is a pure function of
its arguments. So every call shows a new sampler, seeded from the arguments, a study rebuilt from
history and running policies. What differs from Optuna's defaults, and why:

* The sampler is told the space. Optuna intersects the parameters of all trials, and one reference
  policy from outside of the space would leave it nothing to model.
* Objectives are those of `Judge.point`: logarithms of bytes and milliseconds, as hypervolume is
  measured. On raw bytes the split into good and bad trials sees only the largest files.
* TPE is independent, not multivariate: over 28 knobs it had twice the hypervolume after 200
  evaluations (tests/simulator.py, mean of 5 seeds; FACTS found .69 against .58), as a product of
  so many narrow kernels is nearly zero everywhere. It sees at most 250 trials: the front and the
  best, and the latest. So a proposal at 5,000 trials costs 0.1 s rather than seconds.
* GP sees the largest excess over any limit as its one constraint, and at most 100 trials. A
  Gaussian process for each limit, most of them constant, took 5 to 50 times as long.
* NSGA breeds 20 a generation rather than 50: a study has hundreds of trials, not thousands.
  It keeps each trial's generation in the trial and each generation's parents in the study. The
  first come back through `Trial.sampler_attrs`; the second are computed here when a generation
  fills up, never later, so that a resumed study has the same ones. Trials without a generation
  (references, another proposer's) join the one that was open when they finished.
"""

import contextlib
import hashlib
import itertools
import json
import operator
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search._optuna_space import distributions, params_at, params_of, vector_of
from search.proposers.base import Proposal
from search.proposers.known import KnownPolicies
from spaces import InvalidRequest, Judge, Policy, SearchSpace, Trial, nondominated

__all__ = ["SAMPLERS", "OptunaProposer"]

#: Names for `--proposer`.
SAMPLERS = ("gp", "nsga2", "nsga3", "random", "tpe")

POPULATION = 20
#: The time of a proposal grows with the trials these see: TPE's in proportion, GP's with the cube.
SEES_TRIALS: Mapping[str, int] = {"tpe": 250, "gp": 100}
#: How often a sampler may answer with what is known or cannot fit, before others choose.
ASKS = 8
RANDOM_TRIES = 200
#: How many vectors are walked before a space counts as exhausted.
WALK_VECTORS = 5_000

#: Attribute with the vector a sampler chose. Knobs of absent stages are not in the policy, but NSGA
#: inherits them: with neutral ones instead, it reached 10 % less hypervolume.
_VECTOR = "search:vector"

#: History comes before the trials of one call, which Optuna numbers from 0.
_FIRST_NUMBER = -1_000_000_000
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  Optuna's times are naive, and none is read here


class OptunaProposer:
    """One of Optuna's samplers behind the `Proposer` interface.

    Args:
        name: one of `SAMPLERS`.
        space: what may be proposed.
        judge: what trials are worth.
        seed: of the study.
        accept: False for a policy that cannot fit; such are asked for again, a bounded number of
            times. If nothing else is found they are proposed all the same.

    Attributes:
        rejections: how many policies `accept` turned down, for reports.
    """

    def __init__(
        self,
        name: str,
        space: SearchSpace,
        judge: Judge,
        seed: int,
        accept: Callable[[Policy], bool] | None = None,
    ) -> None:
        if name not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise InvalidRequest(f"--proposer must be one of {known}, but got {name!r}")
        self.rejections = 0
        self._name = name
        self._space = space
        self._judge = judge
        self._seed = seed
        self._accept = accept
        self._distributions = distributions(space)
        self._memory = _Memory()
        self._known = KnownPolicies()

    def propose(
        self, history: Sequence[Trial], running: Sequence[Policy], count: int
    ) -> list[Proposal]:
        """See `Proposer.propose`."""
        self._remember(history)
        known = self._known.of(history) | {policy.digest for policy in running}
        study = _Study(self._visible(), self._running(running), self._memory.parents)
        proposals: list[Proposal] = []
        for index in range(count):
            rng_seed = self._derive_seed(len(history), len(running), index)
            proposal = self._propose_one(study, known, rng_seed)
            if proposal is None:
                break
            known.add(proposal.policy.digest)
            proposals.append(proposal)
        return proposals

    def _propose_one(
        self, study: "_Study", known: Container[str], rng_seed: int
    ) -> Proposal | None:
        """Ask the sampler; if it repeats itself, look around its last answer, then anywhere."""
        spare: Policy | None = None
        sampler = self._sampler(rng_seed)
        policy: Policy | None = None
        for _ in range(ASKS):
            asked = study.ask(sampler, self._distributions)
            policy = self._space.decode(vector_of(self._space, asked.params))
            if policy.digest not in known:
                if self._accepts(policy):
                    attributes = study.kept_attributes(asked)
                    attributes[_VECTOR] = vector_of(self._space, asked.params)
                    return Proposal(policy, self._name, attributes)
                spare = spare or policy
            study.forget(asked)
        assert policy is not None
        for other in self._others(policy, rng_seed):
            if other.digest not in known:
                if self._accepts(other):
                    spare = other
                    break
                spare = spare or other
        if spare is None:
            return None
        attributes = study.take(params_of(self._space, spare), self._distributions)
        return Proposal(spare, f"{self._name} (neighbour)", attributes)

    def _others(self, policy: Policy, rng_seed: int) -> Iterator[Policy]:
        rng = np.random.default_rng(rng_seed)
        neighbours = self._space.neighbours(policy)
        yield from (neighbours[i] for i in rng.permutation(len(neighbours)))
        yield from (self._space.sample(rng) for _ in range(RANDOM_TRIES))
        vectors = itertools.product(*(range(size) for size in self._space.sizes))
        yield from map(self._space.decode, itertools.islice(vectors, WALK_VECTORS))

    def _accepts(self, policy: Policy) -> bool:
        if self._accept is None or self._accept(policy):
            return True
        self.rejections += 1
        return False

    def _derive_seed(self, *parts: int) -> int:
        text = "/".join(map(str, (self._name, self._seed, *parts)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def _sampler(self, seed: int) -> BaseSampler:
        """A new sampler: one that lived on would remember more than its arguments."""
        space = {n: d for n, d in sorted(self._distributions.items()) if not d.single()}
        match self._name:
            case "tpe":
                return TPESampler(seed=seed, multivariate=False, constant_liar=True)
            case "nsga2" | "nsga3":
                return _KnownSpace(self._genetic(seed), space, RandomSampler(seed + 1))
            case "gp":
                # It imports torch and scipy, which no other proposer needs.
                from optuna.samplers import GPSampler  # noqa: PLC0415

                return _KnownSpace(GPSampler(seed=seed), space, RandomSampler(seed + 1))
            case _:
                return RandomSampler(seed=seed)

    def _genetic(self, seed: int) -> NSGAIISampler | NSGAIIISampler:
        if self._name == "nsga2":
            return NSGAIISampler(seed=seed, population_size=POPULATION)
        with warnings.catch_warnings():
            # NSGA-III has been "experimental" since Optuna 3.2.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return NSGAIIISampler(seed=seed, population_size=POPULATION)

    def _remember(self, history: Sequence[Trial]) -> None:
        """Add what is new to the memory; start again if the history is another one."""
        if not self._memory.is_prefix_of(history):
            self._memory = _Memory()
        for trial in history[len(self._memory.trials) :]:
            self._memory.trials.append(trial)
            seen = self._seen(trial, _FIRST_NUMBER + len(self._memory.trials))
            if seen is None:
                continue
            self._memory.seen.append(seen)
            if self._name in ("nsga2", "nsga3"):
                self._place_in_generation(seen)

    def _seen(self, trial: Trial, number: int) -> "_Seen | None":
        """None of a policy outside of the space: it says nothing about any knob."""
        params = self._params(trial)
        if not params:
            return None
        measurement = trial.measurement
        if measurement is None:
            return self._without_values(number, TrialState.FAIL, params)
        violations = self._judge.guiding_violations(measurement)
        if self._name == "gp":
            violations = {"excess": max(violations.values())}
        return _Seen(
            number,
            TrialState.COMPLETE,
            values=[float(value) for value in self._judge.point(measurement)],
            params=params,
            known=self._distributions,
            violations=violations,
            system_attrs=dict(trial.sampler_attrs),
        )

    def _params(self, trial: Trial) -> dict[str, Any]:
        """As the sampler chose them, where it did; a policy does not tell its idle knobs."""
        vector = trial.sampler_attrs.get(_VECTOR)
        if vector is not None:
            with contextlib.suppress(InvalidRequest):  # of another space
                if self._space.decode(vector) == trial.policy:
                    return params_at(self._space, vector)
        return params_of(self._space, trial.policy)

    def _without_values(self, number: int, state: TrialState, params: dict[str, Any]) -> "_Seen":
        return _Seen(
            number,
            state,
            values=None,
            params=params,
            known=self._distributions,
            violations={},
            system_attrs={},
        )

    def _place_in_generation(self, seen: "_Seen") -> None:
        """Count it in its generation; choose the next one's parents when that fills up."""
        if seen.state != TrialState.COMPLETE:
            return
        memory = self._memory
        sampler = self._genetic(self._derive_seed(memory.generation))
        key = sampler._get_generation_key()
        # Not above the open one: the record may come from another population size.
        generation = min(seen.system_attrs.get(key, memory.generation), memory.generation)
        seen.system_attrs[key] = generation
        memory.members[generation] = memory.members.get(generation, 0) + 1
        while memory.members.get(memory.generation, 0) >= POPULATION:
            memory.generation += 1
            # Caches the parents' ids in memory.parents, before anyone later can join.
            study = _Study(memory.seen, [], memory.parents)
            sampler.get_parent_population(study.study, memory.generation)

    def _visible(self) -> Sequence["_Seen"]:
        seen = self._memory.seen
        limit = SEES_TRIALS.get(self._name, len(seen))
        return seen if len(seen) <= limit else _most_telling(seen, limit)

    def _running(self, policies: Sequence[Policy]) -> list["_Seen"]:
        """Running policies of the space; numbered after all history, in a fixed order."""
        numbers = itertools.count(_FIRST_NUMBER // 2)
        ordered = sorted(policies, key=lambda policy: policy.digest)
        return [
            self._without_values(number, TrialState.RUNNING, params)
            for number, policy in zip(numbers, ordered, strict=False)
            if (params := params_of(self._space, policy))
        ]


def _most_telling(seen: Sequence["_Seen"], count: int) -> list["_Seen"]:
    """Half: the best there is, front first; the rest: the latest. In the order they came."""
    finished = [i for i, trial in enumerate(seen) if trial.state == TrialState.COMPLETE]
    feasible = [i for i in finished if seen[i].penalty == 0.0]
    front: list[int] = []
    if feasible:
        points = np.array([seen[i].values for i in feasible])
        front = [feasible[at] for at in np.flatnonzero(nondominated(points))]
    in_front = set(front)
    others = [i for i in finished if i not in in_front]
    others.sort(key=lambda i: (seen[i].penalty, -i))
    # The latest of a front too large are its most refined.
    best = (front[::-1] + others)[: count // 2]
    chosen = set(best)
    for i in reversed(finished):
        if len(chosen) >= count:
            break
        chosen.add(i)
    return [seen[i] for i in sorted(chosen)]


class _Memory:
    """What is remembered between calls: nothing but a function of the history's prefix."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.seen: list[_Seen] = []
        self.parents: dict[str, Any] = {}
        self.members: dict[int, int] = {}
        self.generation = 0

    def is_prefix_of(self, history: Sequence[Trial]) -> bool:
        if len(self.trials) > len(history):
            return False
        if all(map(operator.is_, self.trials, history)):
            return True
        return all(map(operator.eq, self.trials, history))


class _Seen(FrozenTrial):
    """A trial whose constraints are ready: Optuna's are parsed from attributes at every look.

    That was half of TPE's time (FACTS.md, section 9).
    """

    def __init__(
        self,
        number: int,
        state: TrialState,
        *,
        values: list[float] | None,
        params: dict[str, Any],
        known: dict[str, BaseDistribution],
        violations: Mapping[str, float],
        system_attrs: dict[str, Any],
    ) -> None:
        super().__init__(
            number=number,
            trial_id=number,
            state=state,
            value=None,
            values=values,
            datetime_start=_EPOCH,
            datetime_complete=_EPOCH if state.is_finished() else None,
            params=params,
            distributions=known,
            user_attrs={},
            system_attrs=system_attrs,
            intermediate_values={},
        )
        self._violations = dict(violations)
        self.penalty = sum(excess for excess in violations.values() if excess > 0)

    @property
    def constraints(self) -> dict[str, float]:
        """Limit -> excess."""
        return self._violations


class _Study:
    """An Optuna study of given trials, to which one call adds the trials it asks for."""

    def __init__(
        self, seen: Sequence[_Seen], running: Sequence[_Seen], parents: dict[str, Any]
    ) -> None:
        self._storage = _Scratch([*seen, *running], parents)
        self.study: Study = optuna.create_study(
            storage=self._storage, directions=["minimize"] * 3, sampler=RandomSampler()
        )

    def ask(self, sampler: BaseSampler, known: dict[str, BaseDistribution]) -> FrozenTrial:
        """What the sampler tries next; it runs from now on."""
        self.study.sampler = sampler
        asked = self.study.ask(known)
        return self._storage.get_trial(asked._trial_id)

    def forget(self, asked: FrozenTrial) -> None:
        """Of failed trials samplers take no notice."""
        self._storage.set_trial_state_values(asked._trial_id, TrialState.FAIL)

    def take(self, params: Mapping[str, Any], known: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Run what no sampler chose; it has no attributes."""
        self.study.enqueue_trial(dict(params))
        self.ask(RandomSampler(seed=0), known)
        return {}

    @staticmethod
    def kept_attributes(asked: FrozenTrial) -> dict[str, Any]:
        """The sampler's, without what only concerns unfinished trials."""
        kept = {k: v for k, v in asked.system_attrs.items() if ":relative_params:" not in k}
        result: dict[str, Any] = json.loads(json.dumps(kept))
        return result


class _Scratch(InMemoryStorage):
    """A storage in memory that begins with trials it need not copy."""

    def __init__(self, before: Sequence[FrozenTrial], parents: dict[str, Any]) -> None:
        super().__init__()
        self._before = before
        self._parents = parents

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """What was there, then what was asked for."""
        asked = super().get_all_trials(study_id, deepcopy=deepcopy, states=states)
        if states is None:
            return [*self._before, *asked]
        return [t for t in self._before if t.state in states] + asked

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: ARG002
        """Those of the study's history."""
        return self._parents

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ARG002
        """Outlives this storage."""
        self._parents[key] = value


class _KnownSpace(BaseSampler):
    """A sampler that is told its search space instead of inferring it from all trials.

    It also draws what is not modelled (NSGA's mutations) from random numbers of its own. NSGA
    seeds both of its generators alike: in its first proposal, and ours are all first ones, the
    number that decides on crossover would also be the mutated value.
    """

    def __init__(
        self, sampler: BaseSampler, space: dict[str, BaseDistribution], random: RandomSampler
    ) -> None:
        self._sampler = sampler
        self._space = space
        self._random = random

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """All knobs with a choice, once there is something to learn from."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Uniform."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)
