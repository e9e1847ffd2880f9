"""Measured latency judges; it never steers a proposal."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from evaluators.cost import load_target
from search.proposers import make_proposer
from search.proposers.base import Proposal
from search.proposers.modelled import ModelledLatency
from spaces import Latency, Policy, Trial
from tests.simulator import CAPABILITIES, simulate

SIMULATOR = simulate(layers=3, seed=0)
HOST = load_target("host")


def timed(trial: Trial, factor: float) -> Trial:
    """The trial as another run would have measured it."""
    measured = trial.measurement
    assert measured is not None
    median_ms = measured.latency.median_ms * factor
    latency = Latency(median_ms, 1.2 * median_ms, "measured", "torch-cpu on here")
    return replace(trial, outcome=replace(measured, latency=latency))


def runs() -> tuple[list[Trial], list[Trial]]:
    trials = [t for t in SIMULATOR.random_trials(40) if t.measurement is not None]
    return [timed(t, 1.0) for t in trials], [
        timed(t, 1 + 0.1 * (i % 7)) for i, t in enumerate(trials)
    ]


@pytest.mark.parametrize("name", ["greybox", "warm", "tpe", "nsga2", "random"])
def test_noise_of_the_clock_changes_no_proposal(name: str) -> None:
    proposals = []
    for history in runs():
        proposer = make_proposer(name, SIMULATOR.space, SIMULATOR.judge, HOST, CAPABILITIES, 0)
        proposals.append([p.policy for p in proposer.propose(history, [], 25)])
    assert proposals[0] == proposals[1]
    assert len(proposals[0]) == 25


class Remembers:
    """Proposes nothing, keeps what it is shown."""

    history: Sequence[Trial] = ()

    def propose(
        self, history: Sequence[Trial], running: Sequence[Policy], count: int
    ) -> list[Proposal]:
        self.history = history
        return []


def test_the_model_is_right_for_the_baseline() -> None:
    inner = Remembers()
    untouched = timed(SIMULATOR.trial(0, Policy()), 3.0)
    ModelledLatency(inner, SIMULATOR.profile, HOST).propose([untouched], [], 1)
    shown = inner.history[0].measurement
    assert shown is not None
    assert shown.latency.source == "modelled"
    assert shown.latency.median_ms == pytest.approx(SIMULATOR.profile.baseline_latency_ms)


def test_the_same_trial_is_shown_as_the_same_object() -> None:
    """The samplers recognise a history by its trials and then read only what is new."""
    inner = Remembers()
    proposer = ModelledLatency(inner, SIMULATOR.profile, HOST)
    history, _ = runs()
    proposer.propose(history, [], 1)
    first = list(inner.history)
    proposer.propose(history, [], 1)
    assert all(a is b for a, b in zip(first, inner.history, strict=True))
