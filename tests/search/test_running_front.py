"""A front kept while trials arrive is the front of all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.running_front import RunningFront
from spaces import Failure, Judge, Trial, nondominated
from tests.simulator import simulate
from tests.strategies import spaces as some
from tests.strategies.spaces import measurement, trial

JUDGE = simulate(2).judge


@given(some.histories(max_size=20), some.judges)
def test_it_is_the_front_of_what_has_arrived(trials: list[Trial], judge: Judge) -> None:
    measured = [t for t in trials if t.measurement]
    front = RunningFront(judge)
    for at, one in enumerate(measured, 1):
        was_added = front.add(one)
        keep = nondominated(judge.points(measured[:at]))
        expected = [t for t, is_kept in zip(measured, keep, strict=False) if is_kept]
        assert front.members == expected, "of equal points the first, in the order of arrival"
        assert was_added == (one in expected)
        assert np.array_equal(front.points, judge.points(expected))


@given(st.permutations(range(4)))
def test_by_hand(order: list[int]) -> None:
    rows = [(0.9, 4000), (0.8, 1000), (0.8, 2000), (0.7, 900)]  # the third is beaten
    trials = [trial(n, measurement(*row)) for n, row in enumerate(rows)]
    front = RunningFront(JUDGE)
    for i in order:
        front.add(trials[i])
    assert [t.number for t in front.members] == [i for i in order if i != 2]


def test_a_failed_trial_is_refused() -> None:
    with pytest.raises(ValueError, match="trial 7 failed"):
        RunningFront(JUDGE).add(trial(7, Failure("a", "prune", "no")))
