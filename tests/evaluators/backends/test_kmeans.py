"""k-means against brute force, and its three beginnings."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.backends.kmeans import initial_centroids, kmeans

INITS = ["linear", "density", "random", "k-means++"]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def cost(values: np.ndarray, centroids: np.ndarray) -> float:
    return float(((values[:, None] - centroids) ** 2).min(axis=1).sum())


def best_cost(values: np.ndarray, clusters: int) -> float:
    """Over every way to cut the sorted values into consecutive groups."""
    ordered = np.sort(values)
    cuts = itertools.combinations(range(1, len(ordered)), min(clusters, len(ordered)) - 1)
    return min(
        sum(float(((part - part.mean()) ** 2).sum()) for part in np.split(ordered, list(cut)))
        for cut in cuts
    )


def lloyd(values: np.ndarray, start: np.ndarray, rounds: int) -> np.ndarray:
    """The textbook: n * K distances, then means; an empty cluster stays."""
    centroids = np.sort(start.astype(np.float64))
    for _ in range(rounds):
        nearest = np.abs(values[:, None] - centroids).argmin(axis=1)
        members = [values[nearest == k] for k in range(len(centroids))]
        centroids = np.sort(
            [m.mean() if len(m) else c for m, c in zip(members, centroids, strict=True)]
        )
    return centroids


def test_linear_spaces_evenly() -> None:
    ordered = np.array([0.0, 0.1, 0.2, 6.0])
    assert initial_centroids(ordered, 4, "linear", rng()).tolist() == [0.0, 2.0, 4.0, 6.0]


def test_density_has_as_many_values_around_each() -> None:
    ordered = np.concatenate([np.linspace(0, 1, 900), np.linspace(1, 10, 100)])
    centroids = initial_centroids(ordered, 10, "density", rng())
    assert (np.histogram(ordered, [-1, *((centroids[1:] + centroids[:-1]) / 2), 11])[0] >= 50).all()
    assert (centroids < 1).sum() == 9


def test_random_draws_distinct_values() -> None:
    ordered = np.arange(50.0)
    centroids = initial_centroids(ordered, 50, "random", rng())
    assert centroids.tolist() == ordered.tolist()
    assert initial_centroids(np.array([3.0]), 4, "random", rng()).tolist() == [3.0] * 4


def test_k_means_plus_plus_draws_what_is_far_from_what_it_has() -> None:
    """900 values at 0, ten at 1 and one at 100: Forgy would almost surely miss the one."""
    ordered = np.sort(np.concatenate([np.zeros(900), np.ones(10), [100.0]]))
    drawn = [
        initial_centroids(ordered, 2, "k-means++", np.random.default_rng(s)) for s in range(50)
    ]
    assert sum(100.0 in centroids for centroids in drawn) > 45
    assert all((np.diff(centroids) > 0).all() for centroids in drawn), "never the same twice"
    assert initial_centroids(np.array([3.0]), 4, "k-means++", rng()).tolist() == [3.0] * 4


def test_another_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="linear, density, random or k-means"):
        initial_centroids(np.zeros(1), 1, "forgy", rng())


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("clusters", [1, 2, 3, 5])
def test_separated_groups_are_found(init: str, clusters: int) -> None:
    groups = np.arange(clusters) * 10.0
    values = (groups[:, None] + rng().normal(scale=0.1, size=(clusters, 30))).ravel()
    if init in (
        "random",
        "k-means++",
    ):  # Forgy may start two in one group: the best of a few is the truth
        tries = [kmeans(values, clusters, init, np.random.default_rng(s)) for s in range(40)]
        found = min(tries, key=lambda c: cost(values, c))
    else:
        found = kmeans(rng().permutation(values), clusters, init, rng())
    expected = values.reshape(clusters, -1).mean(axis=1)
    assert np.allclose(found, expected)


floats = st.floats(-100, 100, width=16)


@given(st.lists(floats, min_size=3, max_size=9), st.integers(1, 3), st.sampled_from(INITS))
def test_between_the_best_of_all_and_its_own_beginning(
    numbers: list[float], clusters: int, init: str
) -> None:
    values = np.array(numbers)
    found = kmeans(values, clusters, init, rng())
    assert found.shape == (clusters,)
    assert (np.diff(found) >= 0).all()
    start = initial_centroids(np.sort(values), clusters, init, rng())
    assert best_cost(values, clusters) - 1e-6 <= cost(values, found) <= cost(values, start) + 1e-6


@given(st.lists(floats, min_size=2, max_size=40), st.integers(1, 6), st.sampled_from(INITS))
def test_is_lloyds_algorithm(numbers: list[float], clusters: int, init: str) -> None:
    values = np.array(numbers)
    start = initial_centroids(np.sort(values), clusters, init, rng())
    expected = lloyd(values, start, 50)
    found = kmeans(values, clusters, init, rng())
    # A value in the very middle may go either way: then the costs are compared.
    assert np.allclose(found, expected) or cost(values, found) <= cost(values, start) + 1e-6


def test_more_clusters_than_values_is_allowed() -> None:
    found = kmeans(np.array([1.0, 2.0]), 5, "density", rng())
    assert cost(np.array([1.0, 2.0]), found) == pytest.approx(0.0)
