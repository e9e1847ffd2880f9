"""Everything random in a worker comes from a seed, a user's own code included."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of Python, numpy and torch start from `seed` and are put back after.

    A user's network may draw from any of them, when it is built or when it is trained; unseeded
    it would be another network in every worker.
    """
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the user's may be
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
