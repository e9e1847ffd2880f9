"""Arrays that are made once a machine and shared by its workers: augmented data, soft targets."""

import contextlib
import fcntl
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from spaces import InvalidRequest

__all__ = ["cache_folder", "cached_array", "cached_parts"]

FOLDER_VARIABLE = "SEARCH_CACHE"


def cache_folder() -> Path:
    """$SEARCH_CACHE, else compression-search under the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "compression-search"


def cached_array(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from the cache, made at the first call on this machine.

    Its pages are mapped, not read: workers of one machine share them. Writing to it changes a copy.

    Args:
        name: of the file, without its ending; must say all that the array depends on.
        make: gives the array; runs in one process only, others wait for it.

    Raises:
        InvalidRequest: the folder cannot be written to.
    """
    path = cache_folder() / f"{name}.npy"
    with _told(path):
        _ensure(path, make, waits=True)
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    return array


def cached_parts(name: str, count: int, make: Callable[[int], np.ndarray]) -> np.ndarray:
    """As `cached_array`, in parts: processes that want it at the same time share the work.

    Args:
        name: of the files; must say all that the array depends on.
        count: of parts.
        make: gives the part of a number; each runs in one process only.

    Returns:
        The parts, one after the other along the first axis.

    Raises:
        InvalidRequest: the folder cannot be written to.
    """
    for part in range(count):
        path = cache_folder() / f"{name}-{part}.npy"
        # One that another process is at is left to it; whoever is done with the rest waits below.
        with _told(path), contextlib.suppress(BlockingIOError):
            _ensure(path, functools.partial(make, part), waits=False)
    return np.concatenate(
        [cached_array(f"{name}-{part}", functools.partial(make, part)) for part in range(count)]
    )


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong with the file, as the user's to mend."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"{path}: the cache of training data cannot be used: {error}; "
            f"set {FOLDER_VARIABLE} to a folder that can be written to, or delete the file"
        ) from None


def _ensure(path: Path, make: Callable[[], np.ndarray], *, waits: bool) -> None:
    """Make a file that is not there, unless another process is at it and this one does not wait."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists():
            _write(path, make())


def _write(path: Path, array: np.ndarray) -> None:
    """The final name appears only with whole bytes, whenever this process dies."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
