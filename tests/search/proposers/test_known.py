"""The memos answer as if they had read the whole history."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evaluators.cost.targets import load_target
from search.proposers.filter import BudgetFilter
from search.proposers.known import KnownPolicies, MeasuredTrials
from search.proposers.surrogate import Features
from spaces import Policy, Trial, nondominated
from tests.simulator import simulate

SIM = simulate(layers=3)
TRIALS = SIM.random_trials(12)
TRIALS[4] = SIM.trial(4, TRIALS[4].policy, failure="killed")


def plain(history: list[Trial]) -> set[str]:
    asked = {trial.policy.digest for trial in history}
    return asked | {trial.identity.policy_digest for trial in history}


@given(st.lists(st.lists(st.sampled_from(TRIALS), max_size=8), max_size=6))
def test_any_sequence_of_histories(histories: list[list[Trial]]) -> None:
    known = KnownPolicies()
    for history in histories:
        assert known.of(history) == plain(history)


@given(st.lists(st.lists(st.sampled_from(TRIALS), max_size=8), max_size=6))
def test_measured_trials_of_any_sequence_of_histories(histories: list[list[Trial]]) -> None:
    finished = MeasuredTrials(SIM.judge, Features(SIM.judge))
    for history in histories:
        found = finished.of(history)
        expected = [trial for trial in history if trial.measurement is not None]
        points = SIM.judge.points(expected)
        assert [*found.trials] == expected
        np.testing.assert_array_equal(found.points, points)
        np.testing.assert_array_equal(found.front, np.flatnonzero(nondominated(points)))
        policies = [trial.policy for trial in expected]
        rows = Features(SIM.judge).of([*policies, Policy()])[:-1]
        np.testing.assert_array_equal(found.features, rows)


@given(st.lists(st.lists(st.sampled_from(TRIALS), max_size=8), max_size=6))
def test_a_filter_after_any_sequence_of_histories(histories: list[list[Trial]]) -> None:
    target = load_target("m1")
    used = BudgetFilter(SIM.judge, target)
    for history in histories:
        used.update(history)
        new = BudgetFilter(SIM.judge, target)
        new.update(history)
        for trial in TRIALS[:3]:
            assert used.size.predict(trial.policy) == new.size.predict(trial.policy)
            assert used.download.predict(trial.policy) == new.download.predict(trial.policy)


def test_the_answer_is_the_callers_own() -> None:
    known = KnownPolicies()
    known.of(TRIALS).clear()
    assert known.of(TRIALS) == plain(TRIALS)
