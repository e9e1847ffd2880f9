"""One task at a time, in this very process: for debugging and for tests."""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import redirect_stdout
from typing import Any, ParamSpec, TypeVar

from search.engines.base import Engine

__all__ = ["InProcessEngine"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")


class InProcessEngine(Engine):
    """`submit` runs the task and returns a finished future; a debugger sees every frame."""

    is_this_process = True

    def __init__(self, workers: int = 1) -> None:
        """Args: workers: must be 1; more would not run at the same time."""
        if workers != 1:
            raise ValueError(f"the in-process engine has 1 worker, but got {workers}")
        self.workers = 1
        self._setup: Callable[[], None] | None = None

    def configure(self, setup: Callable[[C], None], context: C) -> None:
        """See `Engine.configure`."""
        self._setup = lambda: setup(context)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Engine.submit`. KeyboardInterrupt is not kept in the future: it goes up."""
        future: Future[Any] = Future()
        try:
            # What a user's network prints must not mix with a result on stdout.
            with redirect_stdout(sys.stderr):
                if self._setup is not None:
                    self._setup()
                    self._setup = None
                result = fn(*args, **kwargs)
            future.set_result(result)
        except Exception as error:
            future.set_exception(error)
        return future

    def kill(self) -> None:
        """Nothing runs outside `submit`."""
