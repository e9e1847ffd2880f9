"""Dominance, hypervolume, the front, the pick, the certificate."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces import (
    ACCURACY,
    Budget,
    Certificate,
    Failure,
    Front,
    Judge,
    LedgerLine,
    Metric,
    ModelProfile,
    Step,
    Trial,
    hypervolume,
    nondominated,
)
from spaces.front import bytes_by_layer, default_max_drop, pick, steps
from tests.strategies import spaces as some
from tests.strategies.spaces import measurement, trial

ERROR = Metric("mae", "s", higher_is_better=False)
PROFILE = ModelProfile((), (), (), 0, 0.9, 0.01, 10_000, 4.0, "modelled")


def judge(metric: Metric = ACCURACY, **limits: Any) -> Judge:
    return Judge(metric, Budget(**limits), PROFILE)


def numbers(trials: Any) -> list[int]:
    return [t.number for t in trials]


def small_points(dimensions: int, max_size: int = 7) -> st.SearchStrategy[np.ndarray]:
    """Integer points in 0..5: ties and duplicates are common, areas are exact."""
    row = st.tuples(*[st.integers(0, 5)] * dimensions)
    rows = st.lists(row, max_size=max_size)
    return rows.map(lambda x: np.array(x, dtype=float).reshape(-1, dimensions))


any_points = st.integers(1, 4).flatmap(lambda d: small_points(d, max_size=12))
plane_or_space = st.sampled_from((2, 3))

# nondominated ------------------------------------------------------------------------------------


def dominates(a: Any, b: Any) -> bool:
    return bool(np.all(np.asarray(a) <= b) and np.any(np.asarray(a) < b))


@given(any_points)
def test_nondominated_agrees_with_comparing_all_pairs(points: np.ndarray) -> None:
    expected = [
        not any(dominates(other, row) for other in points)
        and not any((other == row).all() for other in points[:i])
        for i, row in enumerate(points)
    ]
    assert nondominated(points).tolist() == expected


@given(any_points, st.randoms())
def test_nondominated_rows_are_the_same_in_every_order(points: np.ndarray, random: Any) -> None:
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = points[order]
    rows = {tuple(row) for row in points[nondominated(points)]}
    assert {tuple(row) for row in shuffled[nondominated(shuffled)]} == rows


def test_nondominated_of_nothing() -> None:
    assert nondominated(np.empty((0, 3))).tolist() == []


# Hypervolume -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_area_of_a_staircase(n: int) -> None:
    """The cells (a, b) of an n x n square with a + b >= n - 1."""
    points = np.array([(i, n - 1 - i) for i in range(n)], dtype=float)
    assert hypervolume(points, np.array([n, n])) == n**2 - n * (n - 1) / 2


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_volume_of_a_staircase(n: int) -> None:
    """The cells (a, b, c) of a cube of side n with a + b + c >= n - 1; C(n + 1, 3) are below."""
    points = np.array([(i, j, n - 1 - i - j) for i in range(n) for j in range(n - i)], dtype=float)
    assert hypervolume(points, np.array([n, n, n])) == n**3 - math.comb(n + 1, 3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_volume_of_one_point_is_a_box(dimensions: int) -> None:
    point = np.array([[0.5, 1.0, 2.0]])[:, :dimensions]
    reference = np.array([1.0, 3.0, 5.0])[:dimensions]
    assert hypervolume(point, reference) == math.prod((0.5, 2.0, 3.0)[:dimensions])


def by_inclusion_and_exclusion(points: np.ndarray, reference: np.ndarray) -> float:
    """|union of boxes| = sum over subsets of (-1)^(size + 1) * |their intersection|."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            sides = np.maximum(reference - np.max(subset, axis=0), 0)
            total += (-1) ** (size + 1) * float(np.prod(sides))
    return total


def by_counting_cells(points: np.ndarray, reference: np.ndarray) -> int:
    cells = itertools.product(*(range(int(r)) for r in reference))
    return sum(any((point <= cell).all() for point in points) for cell in cells)


@given(plane_or_space.flatmap(lambda d: st.tuples(small_points(d), st.just([4, 5, 3][:d]))))
def test_hypervolume_agrees_with_two_slow_ways(case: tuple[np.ndarray, list[int]]) -> None:
    points, reference = case[0], np.array(case[1], dtype=float)
    expected = by_counting_cells(points, reference)
    assert by_inclusion_and_exclusion(points, reference) == expected
    assert hypervolume(points, reference) == expected


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_hypervolume_agrees_with_optunas(dimensions: int, seed: int) -> None:
    module = pytest.importorskip("optuna._hypervolume")
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(60, dimensions))
    points[::7] = points[::-7][: len(points[::7])]  # duplicates
    reference = np.full(dimensions, 1.0)
    inside = points[(points < reference).all(axis=1)]  # Optuna wants every point inside
    expected = module.compute_hypervolume(inside, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-12)


@given(plane_or_space.flatmap(small_points), st.randoms())
def test_hypervolume_does_not_depend_on_the_order(points: np.ndarray, random: Any) -> None:
    order = list(range(len(points)))
    random.shuffle(order)
    reference = np.full(points.shape[1], 4.0)
    assert hypervolume(points[order], reference) == hypervolume(points, reference)


@given(plane_or_space.flatmap(lambda d: st.tuples(small_points(d), small_points(d, 1))))
def test_hypervolume_only_grows_and_only_by_what_is_not_dominated(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    points, extra = case
    reference = np.full(points.shape[1], 6.0)  # every point is inside
    before, after = (hypervolume(x, reference) for x in (points, np.vstack([points, extra])))
    covered = all(any((point <= row).all() for point in points) for row in extra)
    assert (after == before) if covered else (after > before)


def test_points_on_or_beyond_the_reference_cover_nothing() -> None:
    points = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert hypervolume(points, np.ones(3)) == 0.0
    assert hypervolume(np.empty((0, 3)), np.ones(3)) == 0.0


@pytest.mark.parametrize("dimensions", [1, 4])
def test_hypervolume_is_for_two_or_three_objectives(dimensions: int) -> None:
    with pytest.raises(ValueError, match=f"2 or 3 objectives, but got {dimensions}"):
        hypervolume(np.zeros((1, dimensions)), np.ones(dimensions))


# The judge ---------------------------------------------------------------------------------------


def test_point_is_loss_and_two_logarithms() -> None:
    loss, size, latency = judge().point(measurement(0.75, 1000, 2.0))
    assert (loss, size, latency) == (0.25, math.log(1000), math.log(2.0))


@given(some.numbers(0.01, 100), some.numbers(0.01, 100))
def test_measured_latency_is_judged_on_a_grid(a: float, b: float) -> None:
    """A cell is 5 % wide; within a cell latencies are equal, across cells they keep their order."""
    at_a, at_b = (judge().point(measurement(median_ms=ms, source="measured"))[2] for ms in (a, b))
    assert abs(at_a - math.log(a)) <= math.log(1.05) / 2 + 1e-9
    assert (at_a <= at_b) or (a >= b)


def test_only_measured_latency_is_judged_on_a_grid() -> None:
    def latencies(source: str) -> list[float]:
        return [judge().point(measurement(median_ms=x, source=source))[2] for x in (1.0, 1.01)]

    assert len(set(latencies("measured"))) == 1
    assert len(set(latencies("modelled"))) == len(set(latencies("calibrated"))) == 2


@pytest.mark.parametrize(
    ("one", "reference"),
    [
        (judge(), (0.15, 10_000, 5.0)),  # 5 points under 0.9; 1.25 * 4 ms
        (judge(max_drop=0.2), (0.3, 10_000, 5.0)),
        (judge(min_metric=0.8, max_drop=0.2), (0.2, 10_000, 5.0)),
        (judge(size_bytes=500, latency_ms=2.0), (0.15, 500, 2.0)),
        (judge(download_bytes=500), (0.15, 10_000, 5.0)),
        (judge(ERROR), (0.99, 10_000, 5.0)),  # a tenth over 0.9
        (judge(ERROR, max_drop=0.3), (1.2, 10_000, 5.0)),
    ],
)
def test_reference_is_the_budget_or_the_baseline(
    one: Judge, reference: tuple[float, float, float]
) -> None:
    loss, size, latency = reference
    assert one.reference == pytest.approx([loss, math.log(size), math.log(latency)])


def test_default_max_drop() -> None:
    assert default_max_drop(ACCURACY, 0.9) == 0.05
    assert default_max_drop(ERROR, -2.0) == pytest.approx(0.2)


def test_a_failed_trial_is_not_feasible() -> None:
    assert not judge().is_feasible(trial(0, Failure("a", "prune", "no")))
    assert judge().is_feasible(trial(0, measurement()))
    assert judge().points([trial(0, Failure("a", "prune", "no"))]).shape == (0, 3)


@st.composite
def budgets_and_looser_ones(draw: st.DrawFn, metric: Metric) -> tuple[Budget, Budget]:
    tight = draw(some.budgets)
    loose: dict[str, Any] = {}
    for name, value in tight.to_dict().items():
        if draw(st.booleans()):
            continue  # no limit any more
        more = draw(st.integers(0, 100) if isinstance(value, int) else some.numbers(0, 0.5))
        lowers = name == "min_metric" and metric.higher_is_better
        loose[name] = value - more if lowers else value + more
    return tight, Budget(**loose)


@given(st.data(), some.metrics, some.histories())
def test_loosening_a_budget_never_shrinks_the_feasible_set(
    data: st.DataObject, metric: Metric, trials: list[Trial]
) -> None:
    tight, loose = data.draw(budgets_and_looser_ones(metric))
    strict, lenient = (Judge(metric, budget, PROFILE) for budget in (tight, loose))
    for one in trials:
        assert lenient.is_feasible(one) or not strict.is_feasible(one)
    assert Front.of(trials, lenient, 0).feasible >= Front.of(trials, strict, 0).feasible


# The front ---------------------------------------------------------------------------------------


@given(some.histories(), some.judges, st.integers(0, 1))
def test_no_member_dominates_another_and_every_other_is_beaten(
    trials: list[Trial], by: Judge, fidelity: int
) -> None:
    front = Front.of(trials, by, fidelity)
    points = by.points(front.members)
    for a, b in itertools.permutations(points, 2):
        assert not (a <= b).all()
    judged = [t for t in trials if t.identity.fidelity == fidelity and by.is_feasible(t)]
    for point in by.points(judged):
        assert any((member <= point).all() for member in points)
    assert set(numbers(front.members)) <= set(numbers(judged))
    assert front.feasible == len(judged)
    assert front.fidelity == fidelity
    assert front.hypervolume == pytest.approx(by.hypervolume(judged))
    assert front.hypervolume == pytest.approx(by.hypervolume(front.members))


@given(some.histories(), some.judges, st.randoms())
def test_the_order_of_trials_does_not_matter(trials: list[Trial], by: Judge, random: Any) -> None:
    """Also among equal points: the smaller or faster of them counts, then the earlier."""
    shuffled = list(trials)
    random.shuffle(shuffled)
    assert Front.of(shuffled, by, 0) == Front.of(trials, by, 0)
    assert Certificate.of(shuffled, by, 0) == Certificate.of(trials, by, 0)


@given(some.histories(), some.judges, st.data())
def test_a_dominated_trial_changes_nothing(
    trials: list[Trial], by: Judge, data: st.DataObject
) -> None:
    front = Front.of(trials, by, 0)
    if not front.members:
        return
    better = data.draw(st.sampled_from(front.members)).measurement
    assert better is not None
    worse = replace(
        better,
        metric=better.metric + (-0.01 if by.metric.higher_is_better else 0.01),
        size_bytes=better.size_bytes + 1,
        latency=replace(better.latency, median_ms=better.latency.median_ms * 2),
    )
    after = Front.of([*trials, trial(len(trials), worse)], by, 0)
    assert after.members == front.members
    assert after.pick == front.pick
    assert after.hypervolume == front.hypervolume
    assert after.finished == front.finished + 1


@given(some.histories(), some.judges)
def test_the_pick_is_a_member_near_the_best(trials: list[Trial], by: Judge) -> None:
    front = Front.of(trials, by, 0)
    assert (front.pick is None) == (front.members == ())
    if front.pick is not None:
        assert front.pick in front.members
        sizes = [t.measurement.size_bytes for t in front.members if t.measurement]
        assert sizes == sorted(sizes)


def test_a_front_is_of_one_fidelity() -> None:
    trials = [trial(0, measurement(0.5)), trial(1, measurement(0.9), fidelity=100)]
    assert numbers(Front.of(trials, judge(), 0).members) == [0]
    assert numbers(Front.of(trials, judge(), 100).members) == [1]
    assert Front.of(trials, judge(), 7).members == ()


def test_a_front_by_hand() -> None:
    trials = [
        trial(0, measurement(0.90, 4000)),
        trial(1, measurement(0.80, 1000)),
        trial(2, measurement(0.80, 2000)),  # beaten by 1
        trial(3, measurement(0.80, 2000, 0.5)),  # but not this: it is faster
        trial(4, measurement(0.95, 9000)),  # over the budget
        trial(5, Failure("a", "prune", "no")),
    ]
    front = Front.of(trials, judge(size_bytes=8000), 0)
    assert numbers(front.members) == [1, 3, 0]
    assert (front.feasible, front.finished) == (4, 5)
    assert front.pick is trials[0]


def test_of_equal_points_the_faster_counts() -> None:
    slow, fast = (
        trial(n, measurement(median_ms=ms, source="measured")) for n, ms in ((0, 1.001), (1, 1.0))
    )
    assert numbers(Front.of([slow, fast], judge(), 0).members) == [1]
    assert numbers(Front.of([fast, slow], judge(), 0).members) == [1]


# The pick ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "picked"),
    [
        # (metric, bytes, ms, standard error)
        ([(0.90, 4000, 1.0, 0.02), (0.89, 1000, 1.0, 0.02)], 1),  # within, and smaller
        ([(0.90, 4000, 1.0, 0.005), (0.89, 1000, 1.0, 0.02)], 0),  # the BEST one's error counts
        ([(0.875, 4000, 1.0, 0.125), (0.75, 1000, 1.0, 0.0)], 1),  # exactly one error away
        ([(0.90, 1000, 2.0, 0.02), (0.89, 1000, 1.0, 0.02)], 1),  # as small, and faster
        ([(0.90, 1000, 2.0, 0.02), (0.89, 1001, 0.1, 0.02)], 0),  # size comes before latency
        ([(0.90, 1000, 1.0, 0.0)], 0),
        ([(0.90, 1000, 1.0, 0.02), (0.90, 1000, 1.0, 0.02)], 0),  # the earlier of equals
    ],
)
def test_the_pick_rule(rows: list[tuple[float, int, float, float]], picked: int) -> None:
    trials = [
        trial(number, measurement(metric, size, ms, metric_se=se))
        for number, (metric, size, ms, se) in enumerate(rows)
    ]
    for order in itertools.permutations(trials):
        chosen = pick(order, ACCURACY)
        assert chosen is not None
        assert chosen.number == picked


def test_the_pick_of_an_error_is_within_one_standard_error_above_the_least() -> None:
    rows = [(0.50, 4000), (0.515, 1000), (0.53, 500)]
    trials = [trial(n, measurement(m, s, metric_se=0.02)) for n, (m, s) in enumerate(rows)]
    chosen = pick(trials, ERROR)
    assert chosen is not None
    assert chosen.number == 1


def test_nothing_feasible_no_pick() -> None:
    assert pick([], ACCURACY) is None
    assert Front.of([trial(0, measurement(0.5))], judge(max_drop=0.1), 0).pick is None


# The certificate ---------------------------------------------------------------------------------


def test_a_certificate_by_hand() -> None:
    ledger = (
        LedgerLine("fc1", "positions", 300),
        LedgerLine("fc2", "codebook", 500),
        LedgerLine("", "header", 100),
        LedgerLine("fc1", "codebook", 300),
    )
    trials = [
        trial(0, measurement(0.90, 40_000, 4.0)),
        trial(1, measurement(0.80, 20_000, 2.0)),
        trial(2, measurement(0.70, 12_000, 3.0, ledger=ledger)),
        trial(3, measurement(0.60, 30_000, 1.0)),
        trial(4, measurement(0.75, 25_000, 2.5)),  # beaten by 1
        trial(5, Failure("a", "prune", "no")),
        trial(6, measurement(0.99, 1, 0.1), fidelity=9),  # of another fidelity
    ]
    found = Certificate.of(trials, judge(size_bytes=10_000, latency_ms=3.0), 0)
    assert numbers(found.smallest) == [2, 1, 0]
    assert numbers(found.fastest) == [3, 1, 0]
    assert found.closest is trials[2]
    assert found.excess == pytest.approx({"size_bytes": 0.2})
    assert found.bottleneck == (("fc1", 600), ("fc2", 500), ("", 100))
    assert [(s.from_trial, s.to_trial, s.extra_bytes) for s in found.steps] == [
        (2, 1, 8_000),
        (1, 0, 20_000),
    ]
    assert [s.gain for s in found.steps] == pytest.approx([0.1, 0.1])
    assert [s.gain_per_10_kb for s in found.steps] == pytest.approx([0.125, 0.05])


def test_a_certificate_of_nothing() -> None:
    empty = Certificate()
    assert Certificate.of([], judge(), 0) == empty
    assert Certificate.of([trial(0, Failure("a", "prune", "no"))], judge(), 0) == empty


def test_closest_adds_all_excesses_and_takes_the_earlier_of_equals() -> None:
    trials = [
        trial(0, measurement(0.9, 1300, 1.0)),  # 30 % over in bytes
        trial(1, measurement(0.9, 1200, 1.2)),  # 20 % and 20 %
        trial(2, measurement(0.9, 1300, 0.5)),
    ]
    found = Certificate.of(trials, judge(size_bytes=1000, latency_ms=1.0), 0)
    assert found.closest is trials[0]


@given(some.histories(), some.judges)
def test_a_certificate_is_two_staircases(trials: list[Trial], by: Judge) -> None:
    found = Certificate.of(trials, by, 0)
    finished = [t for t in trials if t.measurement and t.identity.fidelity == 0]
    points = by.points(finished)
    for stairs, axis in ((found.smallest, 1), (found.fastest, 2)):
        seen = by.points(stairs)
        assert (np.diff(seen[:, axis]) > 0).all()
        assert (np.diff(seen[:, 0]) < 0).all()
        for row in points:
            assert any(s[axis] <= row[axis] and s[0] <= row[0] for s in seen)
    if found.closest is not None:
        worst = max(by.violations(found.closest.measurement).values())  # type: ignore[arg-type]
        assert (found.excess == {}) == (worst <= 0)
        assert all(value > 0 for value in found.excess.values())
    if any(by.is_feasible(t) for t in finished):
        assert found.closest is not None
        assert by.is_feasible(found.closest)


@given(st.lists(some.ledger_lines))
def test_bytes_by_layer_loses_no_byte(ledger: list[LedgerLine]) -> None:
    totals = bytes_by_layer(ledger)
    assert sum(size for _, size in totals) == sum(line.size_bytes for line in ledger)
    assert [size for _, size in totals] == sorted((size for _, size in totals), reverse=True)


def test_steps_of_an_error_gain_where_it_falls() -> None:
    members = [trial(0, measurement(0.5, 1000)), trial(1, measurement(0.25, 6000))]
    assert steps(members, ERROR) == (Step(0, 1, 5000, 0.25),)
    assert steps(members, ERROR)[0].gain_per_10_kb == 0.5
    assert steps(members, ACCURACY) == ()
