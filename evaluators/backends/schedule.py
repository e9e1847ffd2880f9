"""When a stage takes which step, whichever framework takes it."""

import math

from evaluators.workloads.recipe import Recipe

__all__ = [
    "CHECK_EVERY",
    "RAMP_SHARE",
    "UPDATE_EVERY",
    "Diverged",
    "learning_rate_factor",
    "steps_of",
]

#: Share of the prune stage over which the sparsity grows (FACTS: .3 to .85 differ little).
RAMP_SHARE = 0.6
#: Steps between two moves of the mask or of the cluster assignments.
UPDATE_EVERY = 8
#: Losses are read every so many steps: reading each would stall a GPU.
CHECK_EVERY = 20


class Diverged(Exception):
    """The loss or a weight is no longer a finite number."""


def learning_rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """Share of the peak: linear warm-up, then a cosine down to `final_share`."""
    warmup = max(1, round(recipe.warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.final_share + (1 - recipe.final_share) * cosine


def steps_of(samples: int, batch_size: int) -> int:
    """Optimiser steps that see `samples`, rounded with halves up.

    `round` goes to the even neighbour, so that steps taken off in whole batches would not always
    be steps taken off the total.
    """
    return (2 * samples + batch_size) // (2 * batch_size)
