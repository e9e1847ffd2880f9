"""What every proposer promises. A new one is one more line in `PROPOSERS`."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from evaluators.cost.targets import load_target
from search.proposers.base import Proposal, Proposer
from search.proposers.filter import BudgetFilter
from search.proposers.greybox import GreyboxProposer
from search.proposers.optuna_samplers import OptunaProposer
from spaces import Policy, Trial
from tests.simulator import Simulator, simulate

TARGET = replace(load_target("m1"), artifact_format="packed")
#: Name -> how it is made for a simulated network.
PROPOSERS: dict[str, Callable[[Simulator], Proposer]] = {
    "random": lambda sim: OptunaProposer("random", sim.space, sim.judge, sim.seed),
    "tpe": lambda sim: OptunaProposer("tpe", sim.space, sim.judge, sim.seed),
    "nsga2": lambda sim: OptunaProposer("nsga2", sim.space, sim.judge, sim.seed),
    "nsga3": lambda sim: OptunaProposer("nsga3", sim.space, sim.judge, sim.seed),
    "gp": lambda sim: OptunaProposer("gp", sim.space, sim.judge, sim.seed),
}
PROPOSERS["greybox"] = lambda sim: GreyboxProposer(
    sim.space, sim.judge, TARGET, sim.seed, BudgetFilter(sim.judge, TARGET)
)
#: Enough for every sampler to leave its random start. But the Gaussian process then takes seconds
#: an answer: tests/search/proposers/test_optuna_samplers.py asks it once, in a smaller space.
STEPS = {"gp": 9}

Make = Callable[[], Proposer]
Study = tuple[Proposer, list[Trial]]

SMALL = {
    "order": ["none", "prune>quantize", "quantize>prune", "prune>cluster"],
    "distillation": {"kind": "drop", "temperature": "drop", "weight": "drop"},
    "cluster_init": "drop",
    "scheme": "drop",
    "granularity": "drop",
    "criterion": "drop",
    "layers": {"*": {"bias_bits": "drop", "pattern": "drop"}},
}


@pytest.fixture(scope="module")
def sim() -> Simulator:
    return simulate(3, restrictions=SMALL)


@pytest.fixture(scope="module", params=sorted(PROPOSERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def make(name: str, sim: Simulator) -> Make:
    return lambda: PROPOSERS[name](sim)


@pytest.fixture(scope="module")
def study(name: str, make: Make, sim: Simulator) -> Study:
    """A proposer that has driven a study, and the study's trials."""
    proposer = make()
    return proposer, driven(sim, proposer, STEPS.get(name, 45))


def finished(sim: Simulator, number: int, proposal: Proposal) -> Trial:
    """Through JSON, as the record gives it back; every seventh evaluation fails."""
    trial = sim.trial(
        number,
        proposal.policy,
        origin=proposal.origin,
        failure="killed" if number % 7 == 6 else "",
        sampler_attrs=proposal.sampler_attrs,
    )
    return Trial.from_dict(json.loads(trial.to_json()))


def driven(sim: Simulator, proposer: Proposer, steps: int) -> list[Trial]:
    """A study with two policies in flight at any time, which finish in order."""
    history: list[Trial] = []
    running: list[Proposal] = []
    while len(history) < steps:
        wanted = 2 - len(running)
        running += proposer.propose(history, [p.policy for p in running], wanted)
        history.append(finished(sim, len(history), running.pop(0)))
    return history


def answer(
    proposer: Proposer, history: list[Trial], running: list[Policy], count: int
) -> list[tuple[str, str, str]]:
    return [
        (p.policy.digest, p.origin, json.dumps(p.sampler_attrs, sort_keys=True))
        for p in proposer.propose(history, running, count)
    ]


def test_same_arguments_same_answer(study: Study, make: Make, sim: Simulator) -> None:
    """Continued, asked twice, and rebuilt from scratch: the record is all there is."""
    proposer, history = study
    running = [trial.policy for trial in sim.random_trials(2, seed=99)]
    continued = answer(proposer, history, running, 2)
    assert answer(proposer, history, running, 2) == continued
    assert answer(make(), history, running, 2) == continued


def test_an_older_history_is_answered_as_it_was(study: Study, make: Make) -> None:
    proposer, history = study
    older = history[: len(history) // 2]
    assert answer(proposer, older, [], 1) == answer(make(), older, [], 1)


def test_nothing_twice_and_as_many_as_wanted(study: Study, make: Make, sim: Simulator) -> None:
    _, history = study
    running = [trial.policy for trial in sim.random_trials(3, seed=5)]
    for count in (0, 1, 4):
        proposals = make().propose(history, running, count)
        assert len(proposals) == count
        known = {t.policy.digest for t in history} | {p.digest for p in running}
        digests = {p.policy.digest for p in proposals}
        assert len(digests) == count
        assert not digests & known
        assert all(sim.space.contains(p.policy) for p in proposals)


def test_a_history_from_elsewhere_is_no_hindrance(name: str, make: Make, sim: Simulator) -> None:
    """References outside of the space, other proposers' attributes, failures, repeats."""
    outside = simulate(3).random_trials(15, seed=3)
    repeats = [sim.trial(15 + i, outside[i].policy, repeat=1) for i in range(3)]
    inside = sim.random_trials(STEPS.get(name, 40) // 2, seed=4)
    foreign = [
        sim.trial(18 + i, t.policy, sampler_attrs={"NSGAIISampler:generation": 999, "other": [1]})
        for i, t in enumerate(inside)
    ]
    history = [*outside, *repeats, *foreign, sim.trial(43, Policy(), failure="killed")]
    assert answer(make(), history, [], 2) == answer(make(), history, [], 2)


def test_attributes_are_json(study: Study, make: Make) -> None:
    for proposal in make().propose(study[1], [], 2):
        assert json.loads(json.dumps(proposal.sampler_attrs)) == proposal.sampler_attrs
        assert proposal.origin


def test_a_space_is_exhausted_without_repeats(name: str, sim: Simulator) -> None:
    fixed = {"*": dict.fromkeys(("pattern", "clusters", "bits", "bias_bits"), "drop")}
    fixed["fc2"] = {"sparsity": [0.0, 0.9]}
    fixed["fc3"] = {"sparsity": [0.0, 0.8]}
    fixed["out"] = {"sparsity": 0.0}
    tiny = simulate(3, restrictions={**SMALL, "order": ["none", "prune"], "layers": fixed})
    proposer = PROPOSERS[name](tiny)
    history: list[Trial] = []
    while proposals := proposer.propose(history, [], 1):
        history.append(tiny.trial(len(history), proposals[0].policy))
    assert len({trial.policy.digest for trial in history}) == len(history) == 4
    assert [p.policy.digest for p in PROPOSERS[name](tiny).propose([], [], 9)] != []
