import numpy as np
import pytest

from dashboards.figures.thinning import thin

WHOLE = ((1.0, 100.0), (0.0, 1.0))


def test_the_best_of_a_cell_stands_for_all_of_it() -> None:
    indexes, counts = thin(np.array([1.0, 1, 100]), np.array([0.8, 0.801, 0.9]), *WHOLE, (10, 10))
    assert indexes.tolist() == [1, 2]
    assert counts.tolist() == [2, 1]


def test_where_lower_is_better_the_lowest_is_kept_and_of_equals_the_first() -> None:
    x, y = np.ones(3), np.array([0.52, 0.51, 0.51])
    indexes, counts = thin(x, y, *WHOLE, (10, 10), higher_is_better=False)
    assert indexes.tolist() == [1]
    assert counts.tolist() == [3]


def test_cells_are_equally_wide_on_the_axis_that_is_drawn() -> None:
    x, y = np.array([1.0, 9, 11, 99]), np.full(4, 0.5)
    assert thin(x, y, *WHOLE, (2, 1))[0].tolist() == [0, 2]
    assert thin(x, y, *WHOLE, (2, 1), is_log_x=False)[0].tolist() == [0, 3]


def test_every_point_is_counted_once_and_what_is_far_apart_is_kept() -> None:
    rng = np.random.default_rng(0)
    x, y = 10 ** rng.uniform(0, 2, 5000), rng.uniform(0, 1, 5000)
    indexes, counts = thin(x, y, *WHOLE, (20, 10))
    assert counts.sum() == 5000
    assert len(indexes) == 200  # every cell of 25 expected points is hit
    assert (np.diff(indexes) > 0).all()
    grid = np.array([1.0, 3, 10, 31]), np.full(4, 0.5)
    assert thin(*grid, *WHOLE, (10, 10))[0].tolist() == [0, 1, 2, 3]


def test_outside_of_the_view_the_grid_is_that_of_the_whole_range() -> None:
    x = np.array([1.0, 1.01, 10.0, 10.1, 99.0, 100.0])
    y = np.full(6, 0.5)
    # The view holds 10 and 10.1 far apart; of the ends two neighbours each share a mark.
    indexes, counts = thin(x, y, (9.9, 10.2), (0.0, 1.0), (10, 10))
    assert indexes.tolist() == [0, 2, 3, 4]
    assert counts.tolist() == [2, 1, 1, 2]


def test_what_is_far_apart_outside_of_the_view_stays_apart() -> None:
    x = np.array([1.0, 3, 30, 100])
    assert thin(x, np.full(4, 0.5), (9.9, 10.2), (0.0, 1.0), (10, 10))[0].tolist() == [0, 1, 2, 3]
    y = np.array([0.0, 0.3, 0.7, 1.0])
    assert thin(np.full(4, 9.0), y, (9.9, 10.2), (0.49, 0.51), (10, 10))[1].tolist() == [1] * 4


def test_a_point_outside_never_stands_for_one_inside() -> None:
    # Both are in the first cell of their own grid.
    indexes, counts = thin(np.array([1.0, 2.0]), np.array([0.5, 0.5]), (2.0, 3.0), (0.5, 1), (1, 1))
    assert indexes.tolist() == [0, 1]
    assert counts.tolist() == [1, 1]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_nothing_and_equal_points(count: int) -> None:
    indexes, counts = thin(np.full(count, 7.0), np.full(count, 0.5), (7.0, 7.0), (0.5, 0.5))
    assert indexes.tolist() == ([0] if count else [])
    assert counts.sum() == count
