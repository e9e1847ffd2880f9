"""A worker process for PyTorch: its threads, and a workload loaded under a seed."""

from collections.abc import Callable
from typing import TypeVar

import torch

from evaluators.backends.pytorch.randomness import seeded

__all__ = ["load"]

T = TypeVar("T")


def load(make: Callable[[], T]) -> T:
    """Run the user's code which makes a workload.

    One thread: results do not depend on how a sum was split, and workers do not compete. Set
    before the user's code, which may train, and after it: it may have set the threads too.
    """
    torch.set_num_threads(1)
    try:
        with seeded(0):
            return make()
    finally:
        torch.set_num_threads(1)
