"""Vectors worth a look: the parents' neighbours, crosses of them, and strangers.

Vectors, not policies: see `SearchSpace`. Made in bulk, because a proposal looks at hundreds.
"""

import math
from collections.abc import Iterator

import numpy as np

from spaces import SearchSpace

__all__ = ["CROSSES", "MUTANTS", "STRANGERS", "is_sampled", "made_then_others"]

MUTANTS, CROSSES, STRANGERS = 160, 60, 60
#: A space of at most so many vectors is gone through; in a larger one as many are drawn.
MOST_REST = 20_000
BATCH = 500
#: How often so many knobs change, and an ordered one by so much: most steps are small and few.
_CHANGES = np.array((1, 1, 1, 2, 2, 3))
_STEPS = np.array((-2, -1, -1, 1, 1, 2))


def is_sampled(space: SearchSpace) -> bool:
    """Whether a space has too many vectors to go through them all."""
    return math.prod(int(size) for size in space.sizes) > MOST_REST


def made_then_others(
    space: SearchSpace, parents: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """What is worth a look, then batches of everything else, for whom all that is known.

    Args:
        space: of the vectors.
        parents: (p, knobs) vectors; p may be 0.
        rng: drawn from.

    Yields:
        (n, knobs): first mutants, crosses and strangers, each once; then all vectors of a small
        space, or `MOST_REST` random ones of a large one.
    """
    yield _made(space, parents, rng)
    sampled = is_sampled(space)
    total = MOST_REST if sampled else math.prod(int(size) for size in space.sizes)
    for start in range(0, total, BATCH):
        count = min(BATCH, total - start)
        if sampled:
            yield rng.integers(0, space.sizes, size=(count, len(space)))
        else:
            numbers = np.arange(start, start + count)
            yield np.column_stack(np.unravel_index(numbers, space.sizes))


def _made(space: SearchSpace, parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    strangers = rng.integers(0, space.sizes, size=(STRANGERS, len(space)))
    if len(parents) == 0:
        return _distinct(strangers, parents)
    mutants = _mutated(space, parents[rng.integers(len(parents), size=MUTANTS)], rng)
    mothers, fathers = parents[rng.integers(len(parents), size=(2, CROSSES))]
    crosses = np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)
    return _distinct(np.vstack([mutants, crosses, strangers]), parents)


def _mutated(space: SearchSpace, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, knobs) -> the same with one to three knobs moved: a step if ordered, else anywhere."""
    movable = np.flatnonzero(space.sizes > 1)
    changes = rng.choice(_CHANGES, size=len(vectors))
    most = min(len(movable), int(_CHANGES.max()))
    at = movable[np.argsort(rng.random((len(vectors), len(movable))), axis=1)[:, :most]]
    last = space.sizes[at] - 1
    ordered = np.array([knob.ordered for knob in space.knobs])[at]
    here = np.take_along_axis(vectors, at, axis=1)
    stepped = np.clip(here + rng.choice(_STEPS, size=at.shape), 0, last)
    moved = np.where(ordered, stepped, rng.integers(0, last + 1))
    moved = np.where(np.arange(most) < changes[:, None], moved, here)
    changed = vectors.copy()
    np.put_along_axis(changed, at, moved, axis=1)
    return changed


def _distinct(vectors: np.ndarray, without: np.ndarray) -> np.ndarray:
    """The rows in their order, each once and none of `without`."""
    seen = {row.tobytes() for row in np.ascontiguousarray(without, dtype=np.int64)}
    keep = []
    for i, row in enumerate(np.ascontiguousarray(vectors, dtype=np.int64)):
        key = row.tobytes()
        if key not in seen:
            seen.add(key)
            keep.append(i)
    return vectors[keep]
