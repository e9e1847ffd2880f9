"""What is particular to Optuna's samplers; tests/contracts/test_proposers.py holds the rest."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest

from search._optuna_space import distributions, params_of, vector_of
from search.proposers import optuna_samplers
from search.proposers.optuna_samplers import SAMPLERS, OptunaProposer
from spaces import Budget, InvalidRequest, Policy, Trial
from tests.simulator import Simulator, simulate

GENERATION = "NSGAIISampler:generation"


def driven(
    sim: Simulator,
    name: str,
    count: int,
    *,
    seed: int = 0,
    rebuilt: bool = False,
    keep: bool = True,
) -> list[Trial]:
    """A study with one trial at a time; `rebuilt` after every trial, `keep` the attributes."""
    proposer = OptunaProposer(name, sim.space, sim.judge, seed)
    history: list[Trial] = []
    for number in range(count):
        if rebuilt:
            proposer = OptunaProposer(name, sim.space, sim.judge, seed)
        (proposal,) = proposer.propose(history, [], 1)
        attributes = proposal.sampler_attrs if keep else {}
        history.append(sim.trial(number, proposal.policy, sampler_attrs=attributes))
    return history


def native_nsga2(sim: Simulator, count: int, seed: int) -> list[Trial]:
    """Optuna alone, in one process that never restarts; a repeated policy is one evaluation."""
    study = optuna.create_study(
        directions=["minimize"] * 3,
        sampler=optuna.samplers.NSGAIISampler(
            seed=seed, population_size=optuna_samplers.POPULATION
        ),
    )
    known = distributions(sim.space)
    found: dict[str, Trial] = {}
    while len(found) < count:
        asked = study.ask(known)
        policy = sim.space.decode(vector_of(sim.space, asked.params))
        trial = found.setdefault(policy.digest, sim.trial(len(found), policy))
        assert trial.measurement
        for key, excess in sim.judge.violations(trial.measurement).items():
            asked.set_constraint(key, excess)
        study.tell(asked, sim.judge.point(trial.measurement))
    return list(found.values())


def front_quality(sim: Simulator, trials: Sequence[Trial]) -> float:
    return sim.judge.hypervolume(trials)


@pytest.fixture(scope="module")
def wide() -> list[Simulator]:
    """Networks with a budget that leaves much room, so that 240 evaluations show differences."""
    budget = Budget(size_bytes=200_000, max_drop=0.3)
    return [simulate(3, seed=seed, budget=budget) for seed in range(6)]


@pytest.fixture(scope="module")
def bred(wide: list[Simulator]) -> np.ndarray:
    """Hypervolumes of our NSGA-II after 240 evaluations: 12 generations."""
    return np.array([front_quality(s, driven(s, "nsga2", 240, seed=s.seed)) for s in wide])


def test_rebuilt_nsga2_is_as_good_as_native(wide: list[Simulator], bred: np.ndarray) -> None:
    """Equal within the noise of the seeds; random search is far off."""
    native = np.array([front_quality(s, native_nsga2(s, 240, s.seed)) for s in wide])
    blind = np.array([front_quality(s, driven(s, "random", 240, seed=s.seed)) for s in wide])
    ratios = np.log(bred / native)
    assert ratios.mean() > -2 * ratios.std(ddof=1) / np.sqrt(len(wide))
    assert ratios.mean() > -0.06
    gains = np.log(bred / blind)
    assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(wide))


def test_nsga2_without_its_attributes_is_worse(wide: list[Simulator], bred: np.ndarray) -> None:
    """Why they are in the record: idle knobs are inherited, and a policy does not show them."""
    lost = [front_quality(s, driven(s, "nsga2", 240, seed=s.seed, keep=False)) for s in wide]
    assert np.log(np.array(lost) / bred).mean() < -0.02


def test_a_resumed_nsga2_is_the_same_as_one_that_never_stopped(wide: list[Simulator]) -> None:
    straight = driven(wide[0], "nsga2", 70)
    resumed = driven(wide[0], "nsga2", 70, rebuilt=True)
    assert [t.policy for t in resumed] == [t.policy for t in straight]


def test_generations_travel_with_the_trials() -> None:
    history = driven(simulate(3), "nsga2", 3 * optuna_samplers.POPULATION)
    generations = [trial.sampler_attrs[GENERATION] for trial in history]
    expected = [g for g in range(3) for _ in range(optuna_samplers.POPULATION)]
    assert generations == expected


def test_generations_in_the_record_decide() -> None:
    """Late finishers of an old generation are not counted in the open one."""
    sim = simulate(3)
    population = optuna_samplers.POPULATION
    trials = sim.random_trials(2 * population)

    def generation(late: int) -> int:
        history = [
            dataclasses.replace(t, sampler_attrs={GENERATION: 0 if i < population + late else 1})
            for i, t in enumerate(trials)
        ]
        (proposal,) = OptunaProposer("nsga2", sim.space, sim.judge, 0).propose(history, [], 1)
        value = proposal.sampler_attrs[GENERATION]
        assert isinstance(value, int)
        return value

    assert generation(late=0) == 2
    assert generation(late=1) == 1


def test_references_breed_too() -> None:
    """Trials without attributes join the generation that is open."""
    sim = simulate(3)
    history = sim.random_trials(optuna_samplers.POPULATION)
    (proposal,) = OptunaProposer("nsga2", sim.space, sim.judge, 0).propose(history, [], 1)
    assert proposal.sampler_attrs[GENERATION] == 1


def test_tpe_beats_random_search(wide: list[Simulator]) -> None:
    tpe = [front_quality(s, driven(s, "tpe", 60, seed=s.seed)) for s in wide[:4]]
    blind = [front_quality(s, driven(s, "random", 60, seed=s.seed)) for s in wide[:4]]
    assert np.mean(tpe) > np.mean(blind)


def test_running_policies_are_kept_away_from() -> None:
    """The constant liar: TPE answers otherwise when its answer is in flight already."""
    sim = simulate(3)
    history = sim.random_trials(40)
    proposer = OptunaProposer("tpe", sim.space, sim.judge, 0)
    (first,) = proposer.propose(history, [], 1)
    (second,) = proposer.propose(history, [first.policy], 1)
    assert second.policy != first.policy


def test_what_tpe_sees_is_bounded_and_has_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = simulate(3)
    history = sim.random_trials(120)
    monkeypatch.setattr(optuna_samplers, "SEES_TRIALS", {"tpe": 40})
    proposer = OptunaProposer("tpe", sim.space, sim.judge, 0)
    proposer.propose(history, [], 1)
    seen = proposer._visible()
    assert len(seen) == 40
    points = {tuple(trial.values) for trial in seen}
    feasible = [t for t in history if sim.judge.is_feasible(t)]
    best = min(feasible, key=lambda t: t.measurement.size_bytes)
    assert tuple(float(v) for v in sim.judge.point(best.measurement)) in points
    assert seen[-1].params == params_of(sim.space, history[-1].policy)


def test_a_filter_is_obeyed_while_anything_passes_it() -> None:
    sim = simulate(3)

    def accept(policy: Policy) -> bool:
        return sim.measure(policy).size_bytes < 30_000

    proposer = OptunaProposer("random", sim.space, sim.judge, 0, accept)
    proposals = proposer.propose([], [], 20)
    assert len(proposals) == 20
    assert all(accept(p.policy) for p in proposals)
    assert proposer.rejections > 0


def test_a_filter_that_refuses_all_does_not_stop_the_search() -> None:
    sim = simulate(3)
    proposer = OptunaProposer("random", sim.space, sim.judge, 0, lambda policy: False)
    assert len(proposer.propose([], [], 2)) == 2


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_constraints_have_one_set_of_names(name: str) -> None:
    sim = simulate(3)
    proposer = OptunaProposer(name, sim.space, sim.judge, 0)
    proposer.propose(sim.random_trials(5), [], 1)
    names = {tuple(trial.constraints) for trial in proposer._visible()}
    assert len(names) == 1
    assert names != {()}


def test_the_gaussian_process_is_a_function_of_its_arguments() -> None:
    """Its kernels' last fit would be remembered, if the sampler lived on."""
    drop: dict[str, Any] = dict.fromkeys(("pattern", "clusters", "bits", "bias_bits"), "drop")
    restrictions = {
        "order": "prune",
        "distillation": {"kind": "drop", "temperature": "drop", "weight": "drop"},
        "cluster_init": "drop",
        "scheme": "drop",
        "granularity": "drop",
        "criterion": "drop",
        "layers": {"*": drop},
    }
    sim = simulate(3, restrictions=restrictions)
    history = sim.random_trials(11)
    proposer = OptunaProposer("gp", sim.space, sim.judge, 0)
    proposer.propose(history[:-1], [], 1)
    continued = proposer.propose(history, [], 1)
    rebuilt = OptunaProposer("gp", sim.space, sim.judge, 0).propose(history, [], 1)
    assert continued == rebuilt


def test_an_unknown_sampler_is_named_with_the_known_ones() -> None:
    sim = simulate(3)
    with pytest.raises(InvalidRequest, match="one of gp, nsga2, nsga3, random, tpe, but got 'cma'"):
        OptunaProposer("cma", sim.space, sim.judge, 0)


def test_the_driver_does_not_import_torch() -> None:
    """Only the `gp` sampler may, when it is made."""
    program = (
        "import sys; import search.record; from search.proposers.optuna_samplers import *;"
        "from tests.simulator import simulate; sim = simulate(3);"
        "OptunaProposer('tpe', sim.space, sim.judge, 0).propose(sim.random_trials(15), [], 1);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
