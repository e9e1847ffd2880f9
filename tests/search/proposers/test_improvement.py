"""The expected improvement against the hypervolume itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.proposers.improvement import at_nodes, expected_improvement
from spaces.front import hypervolume

REFERENCE = np.array([1.0, 1.0, 1.0])


def points(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3)) * 1.2


@given(st.integers(0, 12), st.integers(0, 10**6))
def test_without_doubt_it_is_what_the_candidate_adds(count: int, seed: int) -> None:
    front, candidates = points(count, seed), points(5, seed + 1)
    losses = at_nodes(candidates[:, 0], np.zeros(5))
    found = expected_improvement(front, losses, candidates[:, 1:], REFERENCE)
    before = hypervolume(front, REFERENCE)
    expected = [hypervolume(np.vstack([front, c]), REFERENCE) - before for c in candidates]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_with_doubt_it_is_the_mean_over_draws() -> None:
    front, known = points(8, 3), np.array([[0.3, 0.4], [0.1, 0.8]])
    mean, deviation = np.array([0.5, 0.7]), np.array([0.1, 0.3])
    found = expected_improvement(front, at_nodes(mean, deviation), known, REFERENCE)
    draws = np.random.default_rng(0).normal(mean, deviation, (20_000, 2))
    before = hypervolume(front, REFERENCE)
    for i in range(2):
        losses = np.sort(draws[:, i])[::20]
        gains = [
            hypervolume(np.vstack([front, [x, *known[i]]]), REFERENCE) - before for x in losses
        ]
        assert found[i] == pytest.approx(np.mean(gains), rel=0.05)


@given(st.integers(1, 10), st.integers(0, 10**6))
def test_dominated_members_change_nothing(count: int, seed: int) -> None:
    front, candidates = points(count, seed), points(4, seed + 1)
    losses = at_nodes(candidates[:, 0], np.full(4, 0.1))
    worse = front + 0.05
    alone = expected_improvement(front, losses, candidates[:, 1:], REFERENCE)
    both = expected_improvement(np.vstack([worse, front]), losses, candidates[:, 1:], REFERENCE)
    np.testing.assert_allclose(both, alone, atol=1e-12)


def test_an_empty_front_and_nothing_within_reach() -> None:
    empty = np.empty((0, 3))
    known = np.array([[0.5, 0.5], [1.5, 0.5]])
    found = expected_improvement(
        empty, at_nodes(np.array([0.5, 0.5]), np.zeros(2)), known, REFERENCE
    )
    np.testing.assert_allclose(found, [0.125, 0.0])
