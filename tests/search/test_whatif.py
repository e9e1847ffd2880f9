"""Every answer under another budget is the front's, the pick's and the certificate's own."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from search.whatif import Candidates, Choice
from spaces import Budget, Certificate, Failure, Front, Judge, Trial
from tests.simulator import FIDELITY, FULL_FIDELITY, simulate
from tests.strategies import spaces as some
from tests.strategies.spaces import measurement, trial

SIM = simulate(layers=4)


def _noisy(one: Trial, rng: np.random.Generator, source: str) -> Trial:
    """With a download of its own, and a latency as a clock gives it."""
    values = one.measurement
    assert values is not None
    latency = values.latency
    median_ms = latency.median_ms * float(rng.lognormal(0, 0.05))
    return replace(
        one,
        outcome=replace(
            values,
            download_bytes=int(values.size_bytes * rng.uniform(0.5, 1.5)),
            latency=replace(latency, median_ms=median_ms, source=source),
        ),
    )


def _histories() -> dict[str, list[Trial]]:
    """What studies look like: modelled, measured with other downloads, and both among each other.

    A trial in ten failed, and the finalists of another fidelity are there.
    """
    plain = [
        SIM.trial(n, t.policy, failure="no memory" if n % 10 == 9 else "")
        for n, t in enumerate(SIM.random_trials(300))
    ]
    rng = np.random.default_rng(0)
    measured = [_noisy(t, rng, "measured") if t.measurement else t for t in plain]
    mixed = [(measured, plain)[n % 2][n] for n in range(len(plain))]
    full = [SIM.trial(n, t.policy, fidelity=FULL_FIDELITY) for n, t in enumerate(plain[:9])]
    # Twins: equal points, of which the first counts.
    twins = [replace(t, number=1000 + n) for n, t in enumerate(plain[:40])]
    return {
        "modelled": [*plain, *full],
        "measured": [*measured, *full],
        "mixed": [*mixed, *twins],
    }


HISTORIES = _histories()
CANDIDATES = {
    name: Candidates.of(trials, SIM.judge, FIDELITY) for name, trials in HISTORIES.items()
}


def check(trials: list[Trial], judge: Judge, candidates: Candidates, choice: Choice) -> None:
    """By definition, from the slow code that the rest of the product uses."""
    there = candidates.trials
    other = replace(judge, budget=choice.budget)
    front = Front.of(trials, other, candidates.fidelity)
    assert tuple(there[i] for i in choice.front) == front.members
    assert (None if choice.pick is None else there[choice.pick]) is front.pick
    assert int(choice.feasible.sum()) == front.feasible
    assert [other.is_feasible(t) for t in there] == choice.feasible.tolist()
    assert len(there) == front.finished
    if front.pick is None:
        closest = Certificate.of(trials, other, candidates.fidelity).closest
        assert (None if choice.closest is None else there[choice.closest]) is closest
        assert (choice.best, choice.near) == (None, 0)
    else:
        assert choice.closest is None
        best = min(front.members, key=lambda t: judge.metric.loss(t.measurement.metric))
        assert choice.best is not None
        assert there[choice.best] is best
        limit = judge.metric.loss(best.measurement.metric) + best.measurement.metric_se
        kept = [t for t in there if other.is_feasible(t)]
        assert choice.near == sum(judge.metric.loss(t.measurement.metric) <= limit for t in kept)
    over = [{k for k, v in other.violations(t.measurement).items() if v > 0} for t in there]
    names = ("size_bytes", "download_bytes", "latency_ms", "metric")
    assert choice.binding == {name: over.count({name}) for name in names}


def _around(values: np.ndarray) -> st.SearchStrategy[float]:
    """A little outside of what there is, and often exactly what a trial has."""
    low, high = float(values.min()), float(values.max())
    return st.sampled_from(sorted({float(v) for v in values})) | st.floats(low / 2, high * 1.2)


def budgets(candidates: Candidates) -> st.SearchStrategy[Budget]:
    """Any subset of limits, in the range where they bind."""
    return st.builds(
        Budget,
        size_bytes=st.none() | _around(candidates.size_bytes).map(math.ceil),
        download_bytes=st.none() | _around(candidates.download_bytes).map(math.ceil),
        latency_ms=st.none() | _around(candidates.latency_ms),
        min_metric=st.none() | _around(candidates.metric),
        max_drop=st.none() | st.floats(0, 0.9),
    )


class TestChoice:
    @pytest.mark.parametrize("name", HISTORIES)
    @given(data=st.data())
    def test_it_is_what_a_judge_with_that_budget_says(self, name: str, data: Any) -> None:
        budget = data.draw(budgets(CANDIDATES[name]))
        choice = CANDIDATES[name].choose(budget)
        assert choice.budget is budget
        check(HISTORIES[name], SIM.judge, CANDIDATES[name], choice)

    @given(some.histories(max_size=12), some.judges, some.budgets, st.integers(0, 1))
    @example([], SIM.judge, Budget(), 0)
    def test_of_any_trials_metric_and_budget(
        self, trials: list[Trial], judge: Judge, budget: Budget, fidelity: int
    ) -> None:
        candidates = Candidates.of(trials, judge, fidelity)
        check(trials, judge, candidates, candidates.choose(budget))

    @settings(max_examples=20)
    @given(st.permutations(range(len(HISTORIES["mixed"]))), st.data())
    def test_the_order_of_trials_does_not_matter(self, order: list[int], data: Any) -> None:
        budget = data.draw(budgets(CANDIDATES["mixed"]))
        shuffled = Candidates.of([HISTORIES["mixed"][i] for i in order], SIM.judge, FIDELITY)
        one, other = shuffled.choose(budget), CANDIDATES["mixed"].choose(budget)
        assert (one.front, one.pick, one.best, one.closest) == (
            other.front,
            other.pick,
            other.best,
            other.closest,
        )

    def test_the_judges_own_budget_plays_no_part(self) -> None:
        tight = replace(SIM.judge, budget=Budget(size_bytes=1))
        candidates = Candidates.of(HISTORIES["modelled"], tight, FIDELITY)
        check(HISTORIES["modelled"], SIM.judge, candidates, candidates.choose(Budget(max_drop=0.2)))


class TestByHand:
    """Four files; the smallest two have the largest downloads."""

    TRIALS = (
        trial(0, measurement(0.90, 4000, 2.0, download_bytes=100)),
        trial(1, measurement(0.89, 1000, 3.0, download_bytes=900, metric_se=0.02)),
        trial(2, measurement(0.90, 2000, 1.0, download_bytes=500, metric_se=0.02)),  # beats 0
        trial(3, measurement(0.50, 500, 1.0, download_bytes=800)),
        trial(4, Failure("a", "prune", "no")),
    )
    CANDIDATES = Candidates.of(TRIALS, SIM.judge, 0)

    def choose(self, **limits: Any) -> Choice:
        return self.CANDIDATES.choose(Budget(**limits))

    def test_candidates_come_by_size(self) -> None:
        assert [t.number for t in self.CANDIDATES.trials] == [3, 1, 2, 0]
        assert self.CANDIDATES.size_bytes.tolist() == [500, 1000, 2000, 4000]
        assert self.CANDIDATES.points.shape == (4, 3)

    def test_who_was_beaten_returns_where_its_better_is_too_large_to_download(self) -> None:
        assert self.choose().front == (0, 1, 2)
        assert self.choose(download_bytes=499).front == (3,)

    def test_pick_best_and_near(self) -> None:
        choice = self.choose(min_metric=0.8)
        assert (choice.pick, choice.best, choice.near) == (1, 2, 3)
        assert choice.feasible.tolist() == [False, True, True, True]

    def test_which_limit_alone_is_in_the_way(self) -> None:
        choice = self.choose(size_bytes=1500, latency_ms=2.5, min_metric=0.8)
        assert choice.binding == {
            "size_bytes": 2,  # 2 and 0
            "download_bytes": 0,
            "latency_ms": 1,  # 1
            "metric": 1,  # 3
        }
        assert choice.front == ()
        assert choice.pick is choice.best is None
        assert choice.closest == 1

    def test_of_equally_near_ones_the_earliest_number_is_closest(self) -> None:
        twins = [trial(n, measurement(0.9, 1300 - n, 0.5)) for n in (5, 3, 4)]
        twins += [replace(t, number=t.number - 3) for t in twins]
        choice = Candidates.of(twins, SIM.judge, 0).choose(Budget(latency_ms=0.1))
        assert choice.closest is not None
        assert Candidates.of(twins, SIM.judge, 0).trials[choice.closest].number == 0

    def test_who_was_beaten_on_the_grid_alone_returns_under_a_latency_between(self) -> None:
        smaller = trial(0, measurement(0.9, 1000, 1.001, source="measured"))
        faster = trial(1, measurement(0.9, 2000, 1.0, source="measured"))
        candidates = Candidates.of([smaller, faster], SIM.judge, 0)
        assert candidates.choose(Budget()).front == (0,)
        assert candidates.choose(Budget(latency_ms=1.0)).front == (1,)

    def test_of_equal_points_the_first_counts_though_the_other_is_smaller_to_download(self) -> None:
        twins = [trial(n, measurement(download_bytes=size)) for n, size in ((0, 900), (1, 500))]
        candidates = Candidates.of(twins, SIM.judge, 0)
        assert candidates.choose(Budget(download_bytes=1000)).front == (0,)
        assert candidates.choose(Budget(download_bytes=600)).front == (1,)

    def test_a_metric_at_its_limit_keeps_it_whatever_rounding_does(self) -> None:
        judge = replace(SIM.judge, profile=replace(SIM.profile, baseline_metric=0.8))
        candidates = Candidates.of([trial(0, measurement(0.7))], judge, 0)
        assert candidates.choose(Budget(max_drop=0.1)).front == (0,)

    def test_no_candidates(self) -> None:
        empty = Candidates.of(self.TRIALS[4:], SIM.judge, 0)
        choice = empty.choose(Budget(size_bytes=1, download_bytes=1))
        assert (choice.front, choice.pick, choice.closest, choice.near) == ((), None, None, 0)
        assert choice.feasible.shape == (0,)
        assert empty.points.shape == (0, 3)
