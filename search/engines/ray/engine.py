"""N Ray actors, each a worker process somewhere in the cluster, behind `Engine`.

Actors rather than Ray tasks: each loads the workload once. Placement, sharing of GPUs and starting
new nodes are Ray's; which task a death is charged to is decided here, and that it runs again is
the loop's business, as with every engine.

    asked of Ray, waits for a place -> idle <-> works on one task -> dead: another is asked for
"""

import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

import ray

from search.engines.base import Engine
from search.engines.ray import cluster
from search.engines.ray.actor import (
    Configuration,
    Hello,
    NotConfiguredError,
    Raised,
    WorkerProcess,
    versions,
)
from search.engines.ray.cluster import Needs
from spaces import InvalidRequest, SearchError, WorkerLost

__all__ = ["RayEngine"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

#: Seconds between two looks at the cluster's nodes.
LOOK_S = 1.0
#: So many worker processes in a row that die before they say hello: the nodes cannot run us.
MOST_FAILED_STARTS = 3
#: A task whose process died before it was begun is not charged; but not for ever.
MOST_UNBEGUN = 3
#: A worker that had nothing to do for longer may have died meanwhile, so it is asked whether it
#: began its task. One that gets its task at once, or behind one proposal, is not: the question
#: costs as much as the task. If it dies in between, the task is charged with it.
IDLE_S = 0.1
#: An end waits so long for the dispatcher.
JOIN_S = 5.0


@dataclass
class _Task:
    """A call, and the future its caller holds."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    future: Future[Any]
    unbegun: int = 0


@dataclass(eq=False)
class _Slot:
    """One actor.

    Attributes:
        actor: its handle; the class's methods are Ray's to type.
        hello: None until it has a place and runs.
        configured: the configuration it has taken over.
        free_since_s: when it had its last task behind it.
        task: what it works on.
    """

    actor: Any
    hello: Hello | None = None
    configured: int = 0
    free_since_s: float = float("-inf")
    task: _Task | None = None


@dataclass
class _State:
    """What the caller's thread and the dispatcher share, under one lock."""

    slots: list[_Slot] = field(default_factory=list)
    waiting: deque[_Task] = field(default_factory=deque)
    is_closed: bool = False
    is_killed: bool = False
    is_resting: bool = False
    failed_starts: int = 0
    refusal: SearchError | None = None


class RayEngine(Engine):
    """Worker processes anywhere in a Ray cluster; nodes that join are used.

    Attributes:
        workers: changes with the cluster.
        needs: of each trial.
        patience_s: how long a task waits for any worker process to be there.
    """

    def __init__(
        self,
        workers: int | None = None,
        address: str = "auto",
        needs: Needs | None = None,
        patience_s: float = 120.0,
    ) -> None:
        """Join the cluster and ask it for worker processes.

        Args:
            workers: how many at most; None = as many as the cluster holds, also when it grows.
            address: see `cluster.join`.
            needs: of each trial.
            patience_s: a task waits so long for any worker process to be there; then it is refused.

        Raises:
            InvalidRequest: the cluster cannot be joined.
        """
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, but got {workers}")
        self._asked, self._address, self.needs = workers, address, needs or Needs()
        self.patience_s = patience_s
        cluster.join(address)
        self._state = _State()
        self._changed = threading.Condition(threading.RLock())
        # Ray calls back in threads of its own that must not call Ray: they only leave a message.
        self._messages: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._configuration: Configuration | None = None
        self._sent: Any = None
        self._versions = versions()
        self._count(cluster.nodes())
        self._alive_at_s = time.monotonic()
        self._dispatcher = threading.Thread(target=self._dispatch, daemon=True, name="ray-engine")
        self._has_left = False
        with self._changed:
            self._grow()
        self._dispatcher.start()

    def _count(self, offered: Sequence[Mapping[str, float]]) -> None:
        """How many tasks can run now: those asked for, as far as the nodes can hold them."""
        self._fits = max(1, cluster.places(offered, self.needs))
        self.workers = self._fits if self._asked is None else min(self._asked, self._fits)

    @property
    def pids(self) -> list[int]:
        """Process ids of the worker processes that run, each on its own host."""
        with self._changed:
            return [slot.hello.pid for slot in self._state.slots if slot.hello is not None]

    def configure(self, setup: Callable[[C], None], context: C) -> None:
        """See `Engine.configure`. The context crosses once a node, through the object store."""
        with self._changed:
            number = self._configuration[0] + 1 if self._configuration else 1
            self._configuration = (number, setup, context)
            self._sent = ray.put(self._configuration)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Engine.submit`. More tasks than workers wait for the next free one."""
        future: Future[T] = Future()
        with self._changed:
            if self._state.is_closed:
                raise RuntimeError("the engine is shut down")
            if not self._state.waiting:
                self._alive_at_s = time.monotonic()
            self._state.is_resting = False
            self._state.waiting.append(_Task(fn, args, kwargs, future))
            self._grow()
            self._start_waiting()
        return future

    def rest(self) -> None:
        """End the idle workers: their places are free for others until the next task."""
        with self._changed:
            self._state.is_resting = True
            for slot in [slot for slot in self._state.slots if slot.task is None]:
                self._bury(slot)

    def no_worker(self) -> InvalidRequest:
        """What to say when nothing could run for `patience_s`."""
        reason = cluster.shortage(cluster.nodes(), self.needs)
        return InvalidRequest(
            f"--engine ray: no worker after {self.patience_s:g} s (--ray-wait): {reason}"
        )

    def kill(self) -> None:
        """See `Engine.kill`."""
        self._close(cancel_futures=True)
        with self._changed:
            self._state.is_killed = True
            slots, self._state.slots = self._state.slots, []
            tasks = [slot.task for slot in slots if slot.task is not None]
            for slot in slots:
                slot.task = None
        for slot in slots:
            _kill(slot)
        for task in tasks:
            task.future.set_exception(WorkerLost("the engine was stopped"))
        self._leave()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        self._close(cancel_futures=cancel_futures)
        if wait:
            with self._changed:
                self._changed.wait_for(self._is_over)
            self.kill()
        else:
            threading.Thread(target=self.shutdown, name="ray-engine-end").start()

    # The dispatcher: the only thread that hands tasks out and takes results in ----------------

    def _dispatch(self) -> None:
        looked_s = time.monotonic()
        while True:
            try:
                message = self._messages.get(timeout=LOOK_S)
            except Empty:
                message = self._start_waiting
            if message is None:
                return
            with self._changed:
                if self._state.is_killed:
                    continue
                message()
                if time.monotonic() - looked_s >= LOOK_S:
                    self._look()
                    looked_s = time.monotonic()
                self._changed.notify_all()

    def _look(self) -> None:
        """Follow the cluster as it grows and shrinks; end a wait that nobody can end."""
        offered = cluster.nodes()
        self._count(offered)
        self._grow()
        if any(slot.hello is not None for slot in self._state.slots) or not self._state.waiting:
            self._alive_at_s = time.monotonic()
        elif time.monotonic() - self._alive_at_s > self.patience_s:
            self._refuse(self.no_worker())

    def _grow(self) -> None:
        """Ask for the worker processes that are missing; Ray starts nodes for those that wait."""
        # All that were asked for, not all that fit: an autoscaler sees only what waits.
        wanted = self._fits if self._asked is None else self._asked
        is_over = self._state.is_closed and not self._state.waiting
        may_grow = not (is_over or self._state.is_resting or self._state.refusal is not None)
        while len(self._state.slots) < wanted and may_grow:
            # Ray makes the methods' `.remote` at run time.
            actor: Any = ray.remote(WorkerProcess).options(
                num_cpus=self.needs.cpus,
                num_gpus=self.needs.gpus,
                resources=dict(self.needs.resources),
                max_restarts=0,
                max_task_retries=0,
            )
            slot = _Slot(actor.remote())
            self._state.slots.append(slot)
            self._when_done(slot.actor.hello.remote(), partial(self._met, slot))

    def _when_done(self, reference: Any, then: Callable[["Future[Any]"], None]) -> None:
        future: Future[Any] = reference.future()
        future.add_done_callback(lambda done: self._messages.put(lambda: then(done)))

    def _met(self, slot: _Slot, done: "Future[Any]") -> None:
        if slot not in self._state.slots:
            return
        error = done.exception()
        if error is not None:
            self._bury(slot)
            self._state.failed_starts += 1
            if self._state.failed_starts >= MOST_FAILED_STARTS:
                what = " ".join(str(error).split()) + cluster.token_hint()
                self._refuse(InvalidRequest(f"--engine ray: a worker cannot be started: {what}"))
            self._grow()
            return
        hello: Hello = done.result()
        if hello.versions != self._versions:
            differ = ", ".join(
                f"{name} {hello.versions.get(name)} instead of {ours}"
                for name, ours in self._versions.items()
                if hello.versions.get(name) != ours
            )
            self._refuse(
                InvalidRequest(
                    f"--engine ray: node {hello.host} runs {differ}; every node must run the "
                    "versions of this driver, or files would differ"
                )
            )
            return
        slot.hello = hello
        self._state.failed_starts = 0
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Give the waiting tasks to the idle workers."""
        if self._state.refusal is not None:
            self._refuse(self._state.refusal)
        for slot in self._state.slots:
            while self._state.waiting and slot.hello is not None and slot.task is None:
                task = self._state.waiting.popleft()
                # A task that was not begun by a worker that died is already running to its caller.
                if task.future.running() or task.future.set_running_or_notify_cancel():
                    self._start(slot, task)

    def _start(self, slot: _Slot, task: _Task) -> None:
        number = self._configuration[0] if self._configuration else 0
        was_idle = time.monotonic() - slot.free_since_s > IDLE_S
        slot.task = task
        try:
            whole = (number, task.fn, task.args, task.kwargs)
            call = pickle.dumps(whole, pickle.HIGHEST_PROTOCOL)
            begun = slot.actor.starts.remote() if was_idle else None
            is_new = number != slot.configured
            configured = slot.actor.configure.remote(self._sent) if is_new else None
            ended = slot.actor.run.remote(call)
        except Exception as error:  # what cannot be pickled: the caller's mistake, not a worker's
            slot.task = None
            task.future.set_exception(error)
            return
        self._when_done(ended, lambda done: self._finish(slot, number, (begun, configured), done))

    def _finish(
        self, slot: _Slot, number: int, before: tuple[Any, Any], done: "Future[Any]"
    ) -> None:
        begun, configured = before
        task, slot.task = slot.task, None
        if task is None:
            return
        slot.free_since_s = time.monotonic()
        error, result = done.exception(), None
        if error is None:
            result = done.result()
            if isinstance(result, Raised):
                error = result.error
                if isinstance(error, NotConfiguredError):
                    error = _raised_by(configured) or error
            else:
                slot.configured = number
                try:
                    result = pickle.loads(result)  # noqa: S301 - our own worker's
                except Exception as unreadable:  # its class cannot be made again from a pickle
                    error = unreadable
        elif isinstance(error, ray.exceptions.RayActorError):
            was_begun = begun is None or _has_returned(begun)
            self._bury(slot)
            self._grow()
            task.unbegun += 1
            if not was_begun and task.unbegun < MOST_UNBEGUN:
                # It died while idle: no task was lost, so none is charged.
                self._state.waiting.appendleft(task)
                self._start_waiting()
                return
            assert slot.hello is not None
            error = WorkerLost(f"the worker process {slot.hello.pid} died on {slot.hello.host}")
        self._start_waiting()
        if error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)

    def _bury(self, slot: _Slot) -> None:
        # It may still live behind a broken connection: what it does from now on nobody wants.
        _kill(slot)
        if slot in self._state.slots:
            self._state.slots.remove(slot)

    def _refuse(self, refusal: SearchError) -> None:
        """End what waits and what will: no worker can come."""
        self._state.refusal = refusal
        while self._state.waiting:
            task = self._state.waiting.popleft()
            if task.future.running() or task.future.set_running_or_notify_cancel():
                task.future.set_exception(refusal)

    # The end ----------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        state = self._state
        return not state.waiting and all(slot.task is None for slot in state.slots)

    def _close(self, *, cancel_futures: bool) -> None:
        with self._changed:
            self._state.is_closed = True
            while cancel_futures and self._state.waiting:
                task = self._state.waiting.popleft()
                if task.future.running():
                    task.future.set_exception(WorkerLost("the engine was stopped"))
                else:
                    task.future.cancel()
                    task.future.set_running_or_notify_cancel()  # wakes those who wait for it

    def _leave(self) -> None:
        with self._changed:
            if self._has_left:
                return
            self._has_left = True
        self._messages.put(None)
        self._dispatcher.join(JOIN_S)
        self._sent = None
        cluster.leave()


def _kill(slot: _Slot) -> None:
    # It may be dead already, or the cluster: then nothing is left to stop.
    with suppress(Exception):
        ray.kill(slot.actor, no_restart=True)


def _raised_by(reference: Any) -> Exception | None:
    """What a call that has ended raised, as Ray tells it."""
    try:
        ray.get(reference, timeout=LOOK_S)
    except Exception as error:
        return error
    return None


def _has_returned(reference: Any) -> bool:
    """Whether a call that was sent before one that has ended came back."""
    try:
        ray.get(reference, timeout=LOOK_S)
    except Exception:  # dead before it answered, or no answer in time
        return False
    return True
