"""Converters show progress with tqdm, whose lock between processes outlives a killed worker."""

import importlib.util
import threading

__all__ = ["lock_in_this_process_only"]


def lock_in_this_process_only() -> None:
    """Give tqdm a lock of threads before its first bar makes one that the system has to clean up.

    An engine kills its workers; Python then warns of a leaked semaphore for each.
    """
    if importlib.util.find_spec("tqdm") is not None:
        from tqdm import tqdm  # noqa: PLC0415 -- of the converters, not of ours

        tqdm.set_lock(threading.RLock())
