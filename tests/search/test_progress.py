"""The running numbers equal what the whole history says."""

from hypothesis import given
from hypothesis import strategies as st

from search.progress import ProgressTracker
from spaces import Budget, Front
from tests.simulator import FIDELITY, simulate


@given(st.integers(0, 99), st.integers(0, 30), st.integers(0, 30))
def test_it_equals_the_front_of_the_whole_history(seed: int, earlier: int, count: int) -> None:
    sim = simulate(2, budget=Budget(size_bytes=60_000, max_drop=0.1), trials=70)
    trials = [
        sim.trial(n, t.policy, failure="killed" if n % 5 == 4 else "")
        for n, t in enumerate(sim.random_trials(earlier + count + 1, seed))
    ]
    tracker = ProgressTracker("search", 70, sim.judge, trials[:earlier])
    for trial in trials[earlier:]:
        progress = tracker.add(trial)
    front = Front.of(trials, sim.judge, FIDELITY)
    assert (progress.phase, progress.asked) == ("search", 70)
    assert progress.finished == len(trials)
    assert progress.failed == sum(trial.measurement is None for trial in trials)
    assert progress.feasible == front.feasible
    assert progress.hypervolume == front.hypervolume
    assert progress.best == front.pick
    assert {t.number for t in tracker.front} == {t.number for t in front.members}


def test_time_left_is_this_sessions_pace() -> None:
    sim = simulate(2)
    trials = sim.random_trials(10)
    tracker = ProgressTracker("search", 12, sim.judge, trials[:9])
    assert tracker.now().eta_s is None, "an earlier session's trials say nothing about this one"
    progress = tracker.add(trials[9])
    assert progress.eta_s is not None
    assert 0 <= progress.eta_s < 60


def test_nothing_is_left_when_more_finished_than_asked() -> None:
    sim = simulate(2)
    trials = sim.random_trials(4)
    tracker = ProgressTracker("finalists", 3, sim.judge, trials[:3])
    assert tracker.add(trials[3]).eta_s == 0
