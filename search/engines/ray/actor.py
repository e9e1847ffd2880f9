"""What runs in a Ray worker process. Everything that crosses is a plain value."""

import os
import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["Configuration", "Hello", "Raised", "WorkerProcess", "versions"]

#: (version, setup, its argument)
Configuration = tuple[int, Callable[[Any], None], Any]
#: Files are the same byte for byte only where these are.
PACKAGES = ("compression-search", "torch", "numpy")


def versions() -> dict[str, str]:
    """Of what decides a file's bytes, without importing it."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


@dataclass(frozen=True)
class Hello:
    """A worker process introduces itself."""

    pid: int
    host: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Raised:
    """An exception of a task, as a value: Ray would rewrite one that is raised."""

    error: Exception


class WorkerProcess:
    """The actor's class; one process each, configured once, one task at a time."""

    def __init__(self) -> None:
        self._configured = 0

    def hello(self) -> Hello:
        """The first call: it returns once the process is placed and runs."""
        return Hello(os.getpid(), platform.node(), versions())

    def starts(self) -> None:
        """Sent in front of an idle worker's task: whether it returned tells if that was begun."""

    def run(self, configuration: Configuration | None, call: bytes) -> bytes | Raised:
        """Take a new configuration over, then run the task.

        Both ways Python's pickler is used: Ray's own takes several times as long, and the driver
        pays it for every trial.

        Args:
            configuration: None where it is the last one still.
            call: the function, its arguments and keyword arguments, pickled.

        Returns:
            What it returned, pickled; what it raised.
        """
        try:
            if configuration is not None and configuration[0] != self._configured:
                number, setup, context = configuration
                setup(context)
                self._configured = number
            fn, args, kwargs = pickle.loads(call)  # noqa: S301 - the driver's own
            return pickle.dumps(fn(*args, **kwargs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # an expected outcome: the driver raises it in the future
            return Raised(error)
