"""Arrays that are made once a machine and shared by its workers: augmented data, soft targets."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spaces import InvalidRequest

__all__ = ["cache_folder", "cached_array"]

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
    folder = cache_folder()
    path = folder / f"{name}.npy"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    _write(path, make())
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"{path}: the cache of training data cannot be used: {error}; "
            f"set {FOLDER_VARIABLE} to a folder that can be written to, or delete the file"
        ) from None
    return array


def _write(path: Path, array: np.ndarray) -> None:
    """The final name appears only with whole bytes, whenever this process dies."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
