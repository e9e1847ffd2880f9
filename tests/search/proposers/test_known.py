"""The memo answers as if it had read the whole history."""

from hypothesis import given
from hypothesis import strategies as st

from search.proposers.known import KnownPolicies
from spaces import Trial
from tests.simulator import simulate

TRIALS = simulate(layers=3).random_trials(12)


def plain(history: list[Trial]) -> set[str]:
    asked = {trial.policy.digest for trial in history}
    return asked | {trial.identity.policy_digest for trial in history}


@given(st.lists(st.lists(st.sampled_from(TRIALS), max_size=8), max_size=6))
def test_any_sequence_of_histories(histories: list[list[Trial]]) -> None:
    known = KnownPolicies()
    for history in histories:
        assert known.of(history) == plain(history)


def test_the_answer_is_the_callers_own() -> None:
    known = KnownPolicies()
    known.of(TRIALS).clear()
    assert known.of(TRIALS) == plain(TRIALS)
