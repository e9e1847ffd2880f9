"""What runs in a Ray worker process. Everything that crosses is a plain value."""

import os
import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = [
    "Configuration",
    "Hello",
    "NotConfiguredError",
    "Raised",
    "WorkerProcess",
    "versions",
]

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


class NotConfiguredError(Exception):
    """A task's configuration has not arrived: Ray knows why."""


class WorkerProcess:
    """The actor's class; one process each, configured once, one task at a time."""

    def __init__(self) -> None:
        self._configured = 0
        self._refusal: Exception | None = None

    def hello(self) -> Hello:
        """The first call: it returns once the process is placed and runs."""
        return Hello(os.getpid(), platform.node(), versions())

    def starts(self) -> None:
        """Sent in front of an idle worker's task: whether it returned tells if that was begun."""

    def configure(self, configuration: Configuration) -> None:
        """Take a new configuration over; what that raises, the next task raises."""
        number, setup, context = configuration
        self._refusal = None
        if number == self._configured:
            return
        try:
            setup(context)
            self._configured = number
        except Exception as error:
            # Without its traceback, whose frames would keep half a network alive.
            self._refusal = error.with_traceback(None)

    def run(self, call: bytes) -> bytes | Raised:
        """Run a task.

        Both ways Python's pickler is used: Ray's own takes several times as long, and the driver
        pays it for every trial, once for each argument.

        Args:
            call: number of the configuration it needs, the function, its arguments and keyword
                arguments, pickled.

        Returns:
            What it returned, pickled; what it raised, or what `configure` did.
        """
        try:
            number, fn, args, kwargs = pickle.loads(call)  # noqa: S301 - the driver's own
            if number != self._configured:
                return Raised(self._refusal or NotConfiguredError(f"configuration {number}"))
            return pickle.dumps(fn(*args, **kwargs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # an expected outcome: the driver raises it in the future
            return Raised(error)
