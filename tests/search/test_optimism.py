"""The winner's curse, measured against what is known of made-up candidates."""

import numpy as np
import pytest

from search.optimism import chosen_again, optimism
from spaces import Front
from tests.simulator import simulate

SAMPLES = 2_000


def equals(count: int, seed: int, samples: int = SAMPLES) -> np.ndarray:
    """(count, samples) scores of candidates that are all right nine times in ten."""
    scores = np.random.default_rng(seed).random((count, samples)) < 0.9
    return scores.astype(np.float32)


def best(metrics: np.ndarray) -> int:
    return int(np.argmax(metrics))


def test_the_correction_is_what_the_choice_gained() -> None:
    """Of equal candidates the best looks better than 90 %; corrected, it does not, on average.

    Equal candidates are where the correction errs most: by half of what was gained, to the safe
    side.
    """
    gained, corrected = [], []
    for seed in range(20):
        scores = equals(10, seed)
        metrics = scores.mean(axis=1)
        gained.append(metrics.max() - 0.9)
        corrected.append(metrics.max() - optimism(scores, best, seed) - 0.9)
    assert np.mean(gained) > 0.008
    assert -0.6 * np.mean(gained) < np.mean(corrected) < 0.1 * np.mean(gained)


def test_a_choice_that_does_not_look_at_the_samples_flatters_nothing() -> None:
    assert optimism(equals(5, 0), lambda _: 3) == pytest.approx(0.0, abs=2e-3)


def test_a_clear_winner_is_hardly_corrected() -> None:
    scores = equals(4, 1)
    scores[2] = 1.0
    assert optimism(scores, best) == 0.0


def test_a_metric_that_is_to_be_low_is_flattered_below() -> None:
    assert optimism(equals(10, 2), lambda m: int(np.argmin(m))) < -0.003


def test_nothing_to_choose_corrects_nothing() -> None:
    assert optimism(equals(3, 0), lambda _: None) == 0.0


def test_the_same_draws_come_twice() -> None:
    scores = equals(6, 3)
    assert optimism(scores, best, 5) == optimism(scores, best, 5)
    assert optimism(scores, best, 5) != optimism(scores, best, 6)


def test_the_study_chooses_as_its_front_does() -> None:
    sim = simulate(3)
    trials = sim.random_trials(30)
    fidelity = trials[0].identity.fidelity
    metrics = np.array([t.measurement.metric for t in trials if t.measurement])
    chosen = chosen_again(trials, sim.judge, fidelity)(metrics)
    pick = Front.of(trials, sim.judge, fidelity).pick
    assert pick is not None
    assert chosen is not None
    assert trials[chosen] == pick
    assert chosen_again(trials, sim.judge, fidelity)(np.zeros(len(trials))) is None
