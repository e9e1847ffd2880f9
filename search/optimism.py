"""How much of a chosen file's validation figure is the luck of having been chosen.

Of several candidates scored on one validation split, the chosen one was on average lucky there
(the winner's curse). The bootstrap says how much: choose again on samples drawn with replacement,
look at what the same choice is worth on the samples that were not drawn, and average the difference
(Tsamardinos, Greasidou, Borboudakis 2018, Machine Learning 107:1895, for choices among scored
configurations; Efron 1983, JASA 78:316, for the correction as observed minus optimism). The samples
not drawn are the poorer the better the drawn ones are, so where the candidates are equal the
correction is up to half as much again as the luck: it errs to the safe side.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from spaces import Front, Judge, Measurement, Trial

__all__ = ["chosen_again", "optimism"]

DRAWS = 500
#: Draws at a time: (draws, samples) counts of 10,000 samples stay under 10 MB.
_AT_ONCE = 100
Choice = Callable[[np.ndarray], int | None]


def optimism(scores: np.ndarray, choose: Choice, seed: int = 0) -> float:
    """Mean of (metric where it was chosen - metric where nobody looked), in the metric's unit.

    Args:
        scores: (candidates, samples) each candidate's score of each validation sample.
        choose: (candidates,) metrics -> the index of the chosen one, None where nothing will do.
        seed: of the draws.

    Returns:
        Above 0 where the choice flatters a metric that is to be high, below 0 for one that is to be
        low; 0 when no draw leaves anything to choose.
    """
    rng = np.random.default_rng(seed)
    samples = scores.shape[1]
    differences = []
    for start in range(0, DRAWS, _AT_ONCE):
        draws = min(_AT_ONCE, DRAWS - start)
        counts = rng.multinomial(samples, np.full(samples, 1 / samples), size=draws)
        drawn = counts @ scores.T / samples
        left = (counts == 0).astype(scores.dtype)
        unseen = left @ scores.T / np.maximum(left.sum(axis=1, keepdims=True), 1)
        for seen, other in zip(drawn, unseen, strict=True):
            chosen = choose(seen)
            if chosen is not None:
                differences.append(seen[chosen] - other[chosen])
    return float(np.mean(differences)) if differences else 0.0


def chosen_again(trials: Sequence[Trial], judge: Judge, fidelity: int) -> Choice:
    """The study's own pick among measured trials, as a function of their metrics."""

    def choose(metrics: np.ndarray) -> int | None:
        pretended = [
            replace(trial, outcome=replace(_measured(trial), metric=float(metric)))
            for trial, metric in zip(trials, metrics, strict=True)
        ]
        pick = Front.of(pretended, judge, fidelity).pick
        return None if pick is None else next(i for i, t in enumerate(pretended) if t is pick)

    return choose


def _measured(trial: Trial) -> Measurement:
    assert trial.measurement is not None
    return trial.measurement
