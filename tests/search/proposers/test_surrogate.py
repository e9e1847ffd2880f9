"""The surrogate learns an additive truth from few trials, and says how sure it is."""

import numpy as np
import pytest

from search.proposers.surrogate import Features, Floor, LossScale, Surrogate
from spaces import LayerPolicy, Policy, Stage
from spaces.policy import CRITERIA
from tests.simulator import simulate


def data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 12))
    return x, x[:, 0] * 2 + x[:, 1] - 0.5 * x[:, 2] + 0.3 * np.sin(2 * x[:, 0])


def test_an_additive_truth_is_learned_from_few() -> None:
    x, y = data(40, 0)
    new, truth = data(200, 1)
    mean, deviation = Surrogate(x, y).predict(new)
    assert np.corrcoef(mean, truth)[0, 1] > 0.97
    # A 95 % band holds about so many; it may be too wide, hardly too narrow.
    assert (np.abs(mean - truth) < 2.5 * deviation + 0.5).mean() > 0.9


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("smooth", [True, False])
def test_each_part_alone_works(linear: bool, smooth: bool) -> None:
    if not (linear or smooth):
        pytest.skip("a prior without any part is none")
    x, y = data(40, 0)
    mean, _ = Surrogate(x, y, linear=linear, smooth=smooth).predict(x)
    assert np.corrcoef(mean, y)[0, 1] > 0.9


def test_equal_trials_break_nothing() -> None:
    x, y = np.ones((5, 3)), np.full(5, 0.3)
    mean, deviation = Surrogate(x, y).predict(x)
    np.testing.assert_allclose(mean, 0.3)
    assert np.isfinite(deviation).all()


def test_the_scale_is_invertible_and_even_near_the_baseline() -> None:
    sim = simulate(3)
    scale = LossScale.of(sim.judge)
    losses = np.array([0.016, 0.03, 0.1, 0.9])
    np.testing.assert_allclose(scale.loss(scale.target(losses)), losses)
    assert scale.target(np.array([0.0]))[0] == 0.0
    assert np.isfinite(scale.loss(np.array([-1.0, 1e4]))).all(), "far from all trials"


def test_features_are_finite_and_tell_policies_apart() -> None:
    sim = simulate(4)
    policies = [trial.policy for trial in sim.random_trials(60)]
    rows = Features(sim.judge).of(policies)
    assert np.isfinite(rows).all()
    assert len(np.unique(rows, axis=0)) > 50
    assert np.array_equal(rows, Features(sim.judge).of(policies))


def test_features_tell_criteria_apart() -> None:
    sim = simulate(4)
    layers = tuple((name, LayerPolicy(sparsity=0.9)) for name in sim.space.layer_names)
    policies = [Policy((Stage.PRUNE,), layers, criterion=criterion) for criterion in CRITERIA]
    rows = Features(sim.judge).of(policies)
    changing = rows[:, rows.std(axis=0) > 0]
    assert changing.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]


def test_nobody_hopes_for_more_than_as_much_harm_has_come_to() -> None:
    floor = Floor(np.array([8.0, 1.0, 5.0, 0.1]), np.array([4.4, 2.0, 4.3, 0.7]))
    hoped = floor.of(np.array([0.0, 0.05, 0.1, 0.19, 0.3, 1.0, 1.9, 3.0, 6.0, 9.0, 1000.0]))
    # Of 0 and 0.05 nobody knows; between trials (0.3, 3) the next milder one's counts too.
    best = np.array([-np.inf, -np.inf, 0.7, 0.7, 0.7, 2.0, 2.0, 2.0, 4.3, 4.3, 4.3])
    luck = 0.7 - hoped[2]
    assert luck > 0
    np.testing.assert_allclose(hoped, best - luck)


def test_a_stronger_policy_that_came_out_better_lowers_the_floor_of_milder_ones() -> None:
    """Harm is no more than a forecast: who was forecast worse and did well shows how far off."""
    without = Floor(np.array([1.0, 2.0]), np.array([3.0, 3.5]))
    beside = Floor(np.array([1.0, 2.0, 9.0]), np.array([3.0, 3.5, 1.0]))
    at = np.array([1.5, 2.5])
    np.testing.assert_allclose(without.of(at) - beside.of(at), [2.0, 2.0])


def test_the_total_harm_is_the_sum_of_the_layers() -> None:
    sim = simulate(4)
    features = Features(sim.judge)
    rows = features.of([trial.policy for trial in sim.random_trials(20)])
    np.testing.assert_allclose(features.total_harm(rows), rows[:, : len(sim.profile.layers)].sum(1))
