"""Who runs again at full fidelity, and whose front is the answer."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from search.finalists import answer_front, choose_finalists, worth_repeating
from spaces import Budget, Front, Trial, hypervolume, nondominated
from spaces.front import default_max_drop, pick
from tests.simulator import FIDELITY, FULL_FIDELITY, Simulator, simulate


@pytest.fixture
def sim() -> Simulator:
    return simulate(3, budget=Budget(size_bytes=100_000))


@pytest.fixture
def trials(sim: Simulator) -> list[Trial]:
    return sim.random_trials(80)


def reference(sim: Simulator) -> np.ndarray:
    slack = default_max_drop(sim.judge.metric, sim.profile.baseline_metric)
    return sim.judge.reference + np.array([slack, 0, 0])


def test_they_are_distinct_front_members_within_the_bytes(
    sim: Simulator, trials: list[Trial]
) -> None:
    chosen = choose_finalists(trials, sim.judge, 5)
    assert len(chosen) == 5
    assert len({trial.policy.digest for trial in chosen}) == 5
    points = sim.judge.points(trials)
    front = {t.number for t, keep in zip(trials, nondominated(points), strict=True) if keep}
    for trial in chosen:
        assert trial.measurement is not None
        assert trial.measurement.size_bytes <= 100_000
        assert trial.number in front


def test_more_finalists_only_add(sim: Simulator, trials: list[Trial]) -> None:
    volumes = [
        hypervolume(sim.judge.points(choose_finalists(trials, sim.judge, n)), reference(sim))
        for n in range(6)
    ]
    assert volumes[0] == 0
    assert all(less <= more for less, more in itertools.pairwise(volumes))
    for fewer, more in itertools.pairwise(range(1, 6)):
        shorter = choose_finalists(trials, sim.judge, fewer)
        assert choose_finalists(trials, sim.judge, more)[:fewer] == shorter


def test_what_the_search_would_answer_is_always_among_them(
    sim: Simulator, trials: list[Trial]
) -> None:
    feasible = [trial for trial in trials if sim.judge.is_feasible(trial)]
    answer = pick(feasible, sim.judge.metric)
    best = max(t.measurement.metric for t in feasible if t.measurement)
    chosen = choose_finalists(trials, sim.judge, 2)
    assert answer in chosen
    assert max(t.measurement.metric for t in chosen if t.measurement) == best
    assert choose_finalists(trials, sim.judge, 1) == [answer]


def test_without_a_latency_budget_bytes_and_metric_get_their_seats() -> None:
    """A faster network must not win every seat however large it is."""
    sim = simulate(3, budget=Budget(size_bytes=100_000))
    trials = sim.random_trials(80)
    chosen = choose_finalists(trials, sim.judge, 8)
    points = sim.judge.points(trials)[:, :2]
    on_front = {t.number for t, keep in zip(trials, nondominated(points), strict=True) if keep}
    assert sum(trial.number in on_front for trial in chosen) >= 4


def test_a_trial_just_under_the_accuracy_is_given_a_chance() -> None:
    """A short fine-tune underestimates what a full one reaches."""
    sim = simulate(3, budget=Budget(size_bytes=100_000, max_drop=0.02))
    trials = sim.random_trials(80)
    chosen = choose_finalists(trials, sim.judge, 20)
    limit = sim.profile.baseline_metric - 0.02
    metrics = [t.measurement.metric for t in chosen if t.measurement]
    slack = default_max_drop(sim.judge.metric, sim.profile.baseline_metric)
    assert all(metric > limit - slack for metric in metrics)
    assert any(metric < limit for metric in metrics)


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_to_choose_from(sim: Simulator, count: int) -> None:
    assert choose_finalists([], sim.judge, count) == []
    failed = [sim.trial(0, sim.random_trials(1)[0].policy, failure="killed")]
    assert choose_finalists(failed, sim.judge, count) == []
    tight = simulate(3, budget=Budget(size_bytes=10))
    assert choose_finalists(tight.random_trials(9), tight.judge, count) == []


def test_the_answer_is_the_finalists_front_where_it_has_a_member(
    sim: Simulator, trials: list[Trial]
) -> None:
    fidelities = (FIDELITY, FULL_FIDELITY)
    chosen = choose_finalists(trials, sim.judge, 3)
    full = [sim.trial(n, t.policy, fidelity=FULL_FIDELITY) for n, t in enumerate(chosen)]
    searched = answer_front(trials, [], sim.judge, fidelities)
    assert searched == Front.of(trials, sim.judge, FIDELITY)
    answered = answer_front(trials, full, sim.judge, fidelities)
    assert answered == Front.of(full, sim.judge, FULL_FIDELITY)
    failed = [sim.trial(0, chosen[0].policy, fidelity=FULL_FIDELITY, failure="killed")]
    assert answer_front(trials, failed, sim.judge, fidelities) == searched


def test_only_close_calls_and_the_pick_are_repeated() -> None:
    sim = simulate(3)
    trials = sim.random_trials(30)
    fidelity = trials[0].identity.fidelity
    again = worth_repeating(trials, sim.judge, fidelity)
    front = Front.of(trials, sim.judge, fidelity)
    assert front.pick in again
    assert len(again) < len(trials)
    # With no doubt at all about a metric only the pick is left.
    sure = [
        replace(t, outcome=replace(t.measurement, metric_se=0.0)) for t in trials if t.measurement
    ]
    pick = Front.of(sure, sim.judge, fidelity).pick
    assert worth_repeating(sure, sim.judge, fidelity) == [pick]


def test_repeats_are_not_repeated() -> None:
    sim = simulate(3)
    trials = sim.random_trials(10)
    repeats = [replace(t, identity=replace(t.identity, repeat=1)) for t in trials]
    assert worth_repeating(repeats, sim.judge, trials[0].identity.fidelity) == []


def test_while_nothing_reaches_the_limit_the_seats_go_to_what_comes_near() -> None:
    sim = simulate(3, budget=Budget(size_bytes=100_000))
    trials = sim.random_trials(60)
    best = max(t.measurement.metric for t in trials if t.measurement and sim.judge.is_feasible(t))
    judge = replace(sim.judge, budget=Budget(size_bytes=100_000, min_metric=best + 0.005))
    chosen = choose_finalists(trials, judge, 8)
    assert chosen
    unit = default_max_drop(judge.metric, judge.profile.baseline_metric) / 5
    assert all(t.measurement.metric > best - unit for t in chosen if t.measurement)
