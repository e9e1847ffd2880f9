"""Worker processes on this machine: N executors of one spawned process each.

One executor of N processes would not do: when one of its processes dies, all of its pending
futures break (FACTS), and it could not be said which trial the death belongs to.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, ParamSpec, TypeVar

from search.engines.base import Engine
from spaces import WorkerLost

__all__ = ["LocalEngine"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")


@dataclass
class _Slot:
    """One worker process, started with its first task and again after a death.

    Attributes:
        pool: the executor, None before the first task and after a death.
        pid: of its process, 0 when there is none.
        configured: the configuration its process has taken over.
        pending: tasks not finished.
    """

    pool: ProcessPoolExecutor | None = None
    pid: int = 0
    configured: int = 0
    pending: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class LocalEngine(Engine):
    """Spawned processes on this machine; each loads the workload once."""

    def __init__(self, workers: int) -> None:
        """Args: workers: number of processes, at least 1."""
        if workers < 1:
            raise ValueError(f"workers must be at least 1, but got {workers}")
        self.workers = workers
        self._slots = [_Slot() for _ in range(workers)]
        self._configuration: tuple[int, Callable[[Any], None], Any] | None = None
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [slot.pid for slot in self._slots if slot.pid]

    def configure(self, setup: Callable[[C], None], context: C) -> None:
        """See `Engine.configure`."""
        version = self._configuration[0] + 1 if self._configuration else 1
        self._configuration = (version, setup, context)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Engine.submit`. The task goes to the worker with the fewest pending ones."""
        if self._closed:
            raise RuntimeError("the engine is shut down")
        slot = min(self._slots, key=lambda s: s.pending)
        outer: Future[T] = Future()
        outer.set_running_or_notify_cancel()
        with slot.lock:
            inner, version = self._start(slot, fn, args, kwargs)
            slot.pending += 1
        inner.add_done_callback(lambda done: self._finish(slot, version, done, outer))
        return outer

    def _start(
        self, slot: _Slot, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "tuple[Future[tuple[int, T]], int]":
        configuration = self._configuration
        version = configuration[0] if configuration else 0
        # The context may be large (a profile): it is sent until a task has come back with it.
        sent = configuration if version != slot.configured else None
        for _ in range(2):
            if slot.pool is None:
                context = multiprocessing.get_context("spawn")
                slot.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_become_worker)
                slot.configured, sent = 0, configuration
            try:
                return slot.pool.submit(_run, sent, fn, args, kwargs), version
            except BrokenProcessPool:
                # It died while idle: no task was lost, so none is charged.
                slot.pool.shutdown(wait=False)
                slot.pool, slot.pid = None, 0
        raise WorkerLost("a worker process cannot be started: it dies at once")

    @staticmethod
    def _finish(slot: _Slot, version: int, done: "Future[tuple[int, T]]", outer: Future[T]) -> None:
        error = done.exception() if not done.cancelled() else WorkerLost("the engine was stopped")
        with slot.lock:
            slot.pending -= 1
            if isinstance(error, BrokenProcessPool):
                pid, slot.pid, pool, slot.pool = slot.pid, 0, slot.pool, None
                if pool is not None:
                    pool.shutdown(wait=False)
                error = WorkerLost(f"the worker process {pid or ''} died".replace("  ", " "))
            elif error is None:
                slot.pid, slot.configured = done.result()[0], version
        if error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(done.result()[1])

    def kill(self) -> None:
        """See `Engine.kill`."""
        self._closed = True
        for slot in self._slots:
            pool, slot.pool = slot.pool, None
            if pool is None:
                continue
            # Public names only: each worker told its pid with its first result; one that has not
            # finished any task yet is found among this process's children.
            pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        self._closed = True
        for slot in self._slots:
            if slot.pool is not None:
                slot.pool.shutdown(wait=wait, cancel_futures=cancel_futures)
                slot.pool, slot.pid = None, 0


def _become_worker() -> None:
    """Runs first in a worker process."""
    # Ctrl-C reaches the whole process group; the driver decides what it means for a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_driver, daemon=True, name="die-with-driver").start()


def _die_with_driver() -> None:
    """A killed driver cannot stop its workers: they watch for its end themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


_configured = 0


def _run(
    configuration: tuple[int, Callable[[Any], None], Any] | None,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[int, T]:
    """In a worker process: (its pid, the task's result)."""
    global _configured  # noqa: PLW0603 -- a process is configured once for all its tasks
    if configuration is not None and configuration[0] != _configured:
        version, setup, context = configuration
        setup(context)
        _configured = version
    return os.getpid(), fn(*args, **kwargs)
