"""The seam between the loop and whatever evaluates: a standard executor that can be configured."""

from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ClassVar, ParamSpec, TypeVar

__all__ = ["Engine"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")


class Engine(Executor):
    """A `concurrent.futures.Executor` whose workers are set up before their first task.

    A task whose worker dies fails alone, with `WorkerLost`; the engine goes on with a new worker.

    Attributes:
        workers: how many tasks run at the same time.
        is_this_process: a task is done when `submit` returns.
    """

    workers: int
    is_this_process: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, workers: int) -> None: ...

    @abstractmethod
    def configure(self, setup: Callable[[C], None], context: C) -> None:
        """From now on every worker, present or future, runs `setup(context)` before its next task.

        What `setup` raises is raised by that task's future.
        """

    @abstractmethod
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a worker; all of them and the result can be pickled."""

    @abstractmethod
    def kill(self) -> None:
        """Stop at once, tasks in the middle of their work included. No task after this."""
