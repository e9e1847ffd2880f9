"""Worker processes on this machine: N executors of one spawned process each.

One executor of N processes would not do: when one of its processes dies, all of its pending
futures break (FACTS), and it could not be said which trial the death belongs to.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, ParamSpec, TypeVar

from search.engines.base import Engine
from spaces import WorkerLost

__all__ = ["LocalEngine"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

#: An end waits so long for processes that were told to end.
JOIN_S = 5.0
#: (version, setup, its argument)
_Configuration = tuple[int, Callable[[Any], None], Any]


@dataclass(frozen=True)
class _Task:
    """A call that waits for a worker, and the future its caller holds."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    future: Future[Any]


@dataclass
class _Slot:
    """One worker process, started with its first task and again after a death.

    Attributes:
        pool: the executor, None before the first task and after a death.
        process: its one process.
        configured: the configuration its process has taken over.
        task: what it works on. One at a time: a death would break what waits behind it.
    """

    pool: ProcessPoolExecutor | None = None
    process: BaseProcess | None = None
    configured: int = 0
    task: _Task | None = None

    @property
    def pid(self) -> int | None:
        """Of the live process."""
        return None if self.process is None else self.process.pid


class LocalEngine(Engine):
    """Spawned processes on this machine; each loads the workload once."""

    def __init__(self, workers: int) -> None:
        """Args: workers: number of processes, at least 1."""
        if workers < 1:
            raise ValueError(f"workers must be at least 1, but got {workers}")
        self.workers = workers
        self._slots = [_Slot() for _ in range(workers)]
        self._waiting: deque[_Task] = deque()
        self._dead: list[ProcessPoolExecutor] = []
        self._configuration: _Configuration | None = None
        self._closed = False
        self._threads: list[threading.Thread] = []
        # Tasks come from the caller's thread and end in the executors' threads.
        self._changed = threading.Condition(threading.RLock())

    @property
    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [slot.pid for slot in self._slots if slot.pid is not None]

    def configure(self, setup: Callable[[C], None], context: C) -> None:
        """See `Engine.configure`."""
        version = self._configuration[0] + 1 if self._configuration else 1
        self._configuration = (version, setup, context)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Engine.submit`. More tasks than workers wait for the next free one."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is shut down")
            self._waiting.append(_Task(fn, args, kwargs, future))
            self._start_waiting()
        return future

    def _start_waiting(self) -> None:
        """Give the waiting tasks to the idle workers."""
        for slot in self._slots:
            while self._waiting and slot.task is None:
                task = self._waiting.popleft()
                if task.future.set_running_or_notify_cancel():
                    slot.task = task
                    self._start(slot, task)

    def _start(self, slot: _Slot, task: _Task) -> None:
        configuration = self._configuration
        version = configuration[0] if configuration else 0
        for _ in range(2):
            if slot.pool is None:
                context = multiprocessing.get_context("spawn")
                slot.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_become_worker)
                slot.configured = 0
            # The context may be large (a profile): it is sent until a task has come back with it.
            sent = configuration if version != slot.configured else None
            try:
                inner = _submit(slot, sent, task)
            except BrokenProcessPool:
                # It died while idle: no task was lost, so none is charged.
                self._bury(slot)
            else:
                inner.add_done_callback(lambda done: self._finish(slot, version, done))
                return
        slot.task = None
        task.future.set_exception(WorkerLost("a worker process cannot be started: it dies at once"))

    def _finish(self, slot: _Slot, version: int, done: Future[Any]) -> None:
        error = WorkerLost("the engine was stopped") if done.cancelled() else done.exception()
        with self._changed:
            task, slot.task = slot.task, None
            assert task is not None
            if isinstance(error, BrokenProcessPool):
                error = WorkerLost(f"the worker process {slot.pid} died")
                self._bury(slot)
            elif error is None:
                slot.configured = version
            self._start_waiting()
            if error is not None:
                task.future.set_exception(error)
            else:
                task.future.set_result(done.result())
            self._changed.notify_all()
        self._retire()

    def _bury(self, slot: _Slot) -> None:
        # Kept until the end: an executor may hold its own lock while it breaks, and being
        # collected or shut down inside that callback would wait for it for ever.
        if slot.pool is not None:
            self._dead.append(slot.pool)
        slot.pool, slot.process = None, None

    def kill(self) -> None:
        """See `Engine.kill`."""
        self._close(cancel_futures=True)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.kill()
        self._retire()
        self._join()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        self._close(cancel_futures=cancel_futures)
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting and self._is_idle)
        self._retire()
        for pool in [*(slot.pool for slot in self._slots), *self._dead]:
            if pool is not None:
                pool.shutdown(wait=wait)
        if wait:
            self._join()

    def _join(self) -> None:
        """Wait for the executors' threads, but not for ever: a process may have just been born."""
        # Python 3.11 wakes the threads still there when it exits, and prints a traceback if one
        # closes its pipe in that instant.
        deadline = time.monotonic() + JOIN_S
        for thread in [*self._threads]:
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def _is_idle(self) -> bool:
        return all(slot.task is None for slot in self._slots)

    def _close(self, *, cancel_futures: bool) -> None:
        with self._changed:
            self._closed = True
            while cancel_futures and self._waiting:
                task = self._waiting.popleft()
                task.future.cancel()
                task.future.set_running_or_notify_cancel()  # wakes those who wait for it

    def _retire(self) -> None:
        """Once nothing more will be started, let every process end after its task."""
        with self._changed:
            is_over = self._closed and not self._waiting
            pools = [slot.pool for slot in self._slots if slot.pool is not None and is_over]
        # Outside of our lock: an executor that breaks holds its own while it waits for ours.
        for pool in pools:
            # Executors forget their thread when told to end, and offer no other way to wait for it.
            thread = getattr(pool, "_executor_manager_thread", None)
            if thread is not None:
                self._threads.append(thread)
            pool.shutdown(wait=False)


def _submit(slot: _Slot, sent: _Configuration | None, task: _Task) -> "Future[Any]":
    """Give a task to a slot's executor, which may start its process now."""
    assert slot.pool is not None
    before = set(multiprocessing.active_children())
    # A blocked signal stays blocked in the new process: Ctrl-C reaches the whole process group,
    # and the driver decides what it means for a worker, from its first instant on.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        future = slot.pool.submit(_run, sent, task.fn, task.args, task.kwargs)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for started in set(multiprocessing.active_children()) - before:
        slot.process = started
    return future


def _become_worker() -> None:
    """Runs first in a worker process."""
    os.dup2(2, 1)  # what a user's network prints must not mix with a result on stdout
    threading.Thread(target=_die_with_driver, daemon=True, name="die-with-driver").start()


def _die_with_driver() -> None:
    """A killed driver cannot stop its workers: they watch for its end themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


_configured = 0


def _run(
    configuration: _Configuration | None,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> T:
    """In a worker process: take a new configuration over, then the task."""
    global _configured  # noqa: PLW0603 -- a process is configured once for all its tasks
    if configuration is not None and configuration[0] != _configured:
        version, setup, context = configuration
        setup(context)
        _configured = version
    return fn(*args, **kwargs)
