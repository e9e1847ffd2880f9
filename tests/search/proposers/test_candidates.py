"""What is looked at: vectors of the space, near the parents and far, and at last all of them."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from search.proposers import candidates
from search.proposers.candidates import CROSSES, MUTANTS, STRANGERS, made_then_others
from spaces import SearchSpace
from tests.simulator import simulate
from tests.strategies.spaces import search_spaces, vectors

SPACE = simulate(4).space


def batches(space: SearchSpace, parents: np.ndarray, seed: int) -> list[np.ndarray]:
    return list(made_then_others(space, parents, np.random.default_rng(seed)))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 99))
def test_all_are_vectors_of_the_space_and_the_first_are_distinct(
    data: st.DataObject, seed: int
) -> None:
    space = data.draw(search_spaces)
    drawn = data.draw(st.lists(vectors(space), max_size=3))
    parents = np.array(drawn, dtype=np.int64).reshape(-1, len(space))
    first = next(made_then_others(space, parents, np.random.default_rng(seed)))
    assert ((first >= 0) & (first < space.sizes)).all()
    rows = {tuple(row) for row in first.tolist()}
    assert len(rows) == len(first) <= MUTANTS + CROSSES + STRANGERS
    assert not rows & {tuple(row) for row in parents.tolist()}


def test_mutants_of_one_parent_are_one_to_three_short_steps_away() -> None:
    rng = np.random.default_rng(0)
    parents = rng.integers(0, SPACE.sizes, size=(1, len(SPACE)))
    first = next(made_then_others(SPACE, parents, rng))
    moves = first - parents
    changed = (moves != 0).sum(axis=1)
    # All but the strangers: crossing one parent with itself gives nothing new.
    near = changed <= 3
    assert near[:-STRANGERS].all()
    assert 40 < near.sum() <= MUTANTS
    assert set(changed[near].tolist()) == {1, 2, 3}
    ordered = np.array([knob.ordered for knob in SPACE.knobs])
    assert set(np.abs(moves[near][:, ordered]).ravel().tolist()) == {0, 1, 2}
    assert np.abs(moves[near][:, ~ordered]).max() > 2


def test_crosses_take_each_knob_from_a_parent() -> None:
    parents = np.vstack([np.zeros(len(SPACE), dtype=np.int64), SPACE.sizes - 1])
    first = next(made_then_others(SPACE, parents, np.random.default_rng(1)))
    from_parents = ((first == parents[0]) | (first == parents[1])).all(axis=1)
    both = (first != parents[0]).sum(axis=1) * (first != parents[1]).sum(axis=1)
    assert (from_parents & (both > 100)).sum() > 10


def test_a_small_space_is_gone_through_and_a_large_one_is_drawn_from() -> None:
    fixed = dict.fromkeys(("pattern", "clusters", "bias_bits"), "drop")
    top = ("activation_bits", "cluster_init", "scheme", "granularity", "criterion")
    drop = dict.fromkeys(("kind", "temperature", "weight"), "drop")
    rules = {
        **dict.fromkeys(top, "drop"),
        "order": ["none", "prune", "quantize"],
        "distillation": drop,
        "layers": {"*": {**fixed, "sparsity": [0.0, 0.5, 0.9, 0.95, 0.99]}},
    }
    small = simulate(2, restrictions=rules).space
    assert candidates.BATCH < math.prod(small.sizes.tolist()) < candidates.MOST_REST
    _, *rest = batches(small, np.empty((0, len(small)), dtype=np.int64), 0)
    rows = [tuple(row) for row in np.vstack(rest).tolist()]
    assert sorted(rows) == sorted(itertools.product(*(range(size) for size in small.sizes)))
    _, *rest = batches(SPACE, np.empty((0, len(SPACE)), dtype=np.int64), 0)
    assert sum(map(len, rest)) == candidates.MOST_REST
