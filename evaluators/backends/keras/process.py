"""A worker process for TensorFlow: its switches, its threads, seeds, and a workload loaded."""

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TypeVar

import numpy as np

from spaces import InvalidRequest

__all__ = ["LIBRARIES", "check_installed", "load", "prepare", "quiet", "seeded"]

T = TypeVar("T")

LIBRARIES = ("tensorflow", "tf_keras", "tensorflow_model_optimization")


def check_installed() -> None:
    """Refuse a Keras workload where the extra is not installed.

    Raises:
        InvalidRequest: naming the extra.
    """
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise InvalidRequest(
            f"a Keras workload needs {', '.join(missing)}, not installed here: "
            "pip install 'compression-search[keras]'"
        )


def prepare() -> None:
    """Import TensorFlow as every worker has it: Keras 2, one thread, no log lines.

    One thread: results do not depend on how a sum was split, and workers do not compete.

    Raises:
        InvalidRequest: the extra is not installed, or the user's code has already set the threads.
    """
    check_installed()
    # TFMOT knows Keras 2 only, also where `tf.keras` would be Keras 3.
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # of libraries about each other
        import tensorflow as tf  # noqa: PLC0415 -- in worker processes only
        import tensorflow_model_optimization  # noqa: F401, PLC0415
    tf.get_logger().setLevel("ERROR")
    _hide_gpus()
    threads = tf.config.threading
    if threads.get_intra_op_parallelism_threads() != 1:
        try:
            threads.set_intra_op_parallelism_threads(1)
            threads.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            raise InvalidRequest(
                "workload: its file runs TensorFlow before the workload is made; import "
                "evaluators.workloads.keras in the file itself, so that one thread can be set first"
            ) from None


def _hide_gpus() -> None:
    """Unless the user chose some: TensorFlow takes a GPU's whole memory, which trials share.

    Not by the environment, which other libraries of this process read too.
    """
    import tensorflow as tf  # noqa: PLC0415

    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        with suppress(RuntimeError):  # it runs already, on what it found
            tf.config.set_visible_devices([], "GPU")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of Python, numpy and TensorFlow start from `seed`.

    Python's and numpy's are put back after; TensorFlow's cannot be read, so it is set anew before
    everything that draws from it.
    """
    import tensorflow as tf  # noqa: PLC0415

    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the user's may be
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        tf.random.set_seed(seed)
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def quiet() -> Iterator[None]:
    """What C++ writes to the process's own standard error is dropped in here."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def load(make: Callable[[], T]) -> T:
    """Run the user's code which makes a workload.

    Raises:
        InvalidRequest: see `prepare`.
    """
    prepare()
    with seeded(0):
        return make()
