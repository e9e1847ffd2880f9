"""Evaluations on one engine, the latency of their files on another: a node that is the target.

    evaluate -> file in the study's folder -> its bytes to the node -> loaded and timed alone there

The node times, so it needs the workload but trains nothing. When no such node is left, what was
asked for happens: latencies are modelled and say so, or the run waits, and then ends.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from evaluators import tasks
from evaluators.artifacts.files import Content, read_content
from evaluators.artifacts.store import open_store
from evaluators.messages import Profiled, WorkerContext
from search.engines.base import Engine
from spaces import Failure, Latency, Measurement, Policy, SearchError, StudyBroken, WorkerLost

__all__ = ["Latencies", "MeasuringEngine", "WhenLost"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

WhenLost = Literal["modelled", "wait"]
#: A node that dies while it times a file is replaced once for that file.
ATTEMPTS = 2
#: A file that has not been timed for so long is talked about.
SILENCE_S = 10.0


class Latencies:
    """Latencies of files, measured by nodes that are the target; what the user asked for without.

    Attributes:
        is_lost: no node is left and none is waited for: results pass as they are.
    """

    def __init__(
        self, times: Engine, target: str, when_lost: WhenLost, notice: Callable[[str], None]
    ) -> None:
        """Args: see `MeasuringEngine`."""
        self._times = times
        self._target, self._when_lost, self._notice = target, when_lost, notice
        self._folder = Path()
        self._suffix = self._store = ""
        self.is_lost = self._is_waiting = False

    def configure(self, setup: Callable[[Any], None], context: WorkerContext) -> None:
        """Where the study's files are, and what the nodes must know to load one."""
        self._folder, self._suffix = Path(context.artifacts_dir), context.artifact_format
        self._store = context.store
        # The file is sent, so the node need not see the folder.
        self._times.configure(setup, replace(context, token=""))

    def of_file(self, outcome: Measurement | Failure, policy: Policy) -> Future[Any]:
        """What came of a policy, with the latency of its file as a node measured it.

        Returns:
            A future of the outcome. It raises StudyBroken where the user wants to wait for a node
            and none came.
        """
        outer = _running_future()
        if isinstance(outcome, Failure):
            outer.set_result(outcome)
            return outer
        path = self._folder / f"{outcome.sha256}.{self._suffix}"
        try:
            content = self._content(path)
        except (OSError, StudyBroken) as error:
            self._unmeasured(outer, outcome, f"cannot read {path}: {error}")
        else:
            self._probe(_Probe(outer, outcome, tasks.probe, (policy, content)))
        return outer

    def of_baseline(self, profiled: Profiled) -> Future[Any]:
        """The profile with the baseline's latency as a node measured it; else as `of_file`."""
        outer = _running_future()
        self._probe(_Probe(outer, profiled, tasks.probe_baseline, ()))
        return outer

    def kill(self) -> None:
        """End the nodes' worker processes; what they time is lost."""
        self._times.kill()

    def _content(self, path: Path) -> Content:
        return open_store(self._store).get(path.name) if self._store else read_content(path)

    def _probe(self, probe: "_Probe", attempt: int = 1) -> None:
        if self.is_lost:
            probe.outer.set_result(probe.result)
            return
        timer = threading.Timer(SILENCE_S, self._say_it_waits)
        timer.daemon = True
        timer.start()
        try:
            timed = self._times.submit(probe.fn, *probe.args)
        except RuntimeError:  # it is shut down
            timed = Future()
            timed.set_exception(WorkerLost("the engine was stopped"))

        def done(future: Future[Latency]) -> None:
            timer.cancel()
            lost = WorkerLost("the engine was stopped")
            error = lost if future.cancelled() else future.exception()
            if error is None:
                self._is_waiting = False
                probe.outer.set_result(probe.with_latency(future.result()))
            elif isinstance(error, WorkerLost) and attempt < ATTEMPTS:
                self._notice(f"the node that times files for {self._target} died: {error}")
                self._probe(probe, attempt + 1)
            elif isinstance(error, SearchError):
                self._lose(probe, error)
            else:
                what = f"{type(error).__name__}: {error}"
                self._unmeasured(probe.outer, probe.result, what)

        timed.add_done_callback(done)

    def _say_it_waits(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            node = f"a node with target:{self._target}"
            self._notice(f"a file has waited {SILENCE_S:g} s to be timed by {node}")

    def _lose(self, probe: "_Probe", error: SearchError) -> None:
        """No node came, or none can do it."""
        if self._when_lost == "wait":
            probe.outer.set_exception(
                StudyBroken(
                    f"no latency from a node with target:{self._target}: {error}; what was "
                    "recorded is intact, `search resume` goes on when there is one again"
                )
                if isinstance(probe.result, Measurement)
                else error
            )
            return
        if not self.is_lost:
            self.is_lost = True
            self._notice(
                f"no latency is measured for {self._target} from here on, they are modelled: "
                f"{error}"
            )
        probe.outer.set_result(probe.result)

    def _unmeasured(self, outer: Future[Any], result: object, why: str) -> None:
        """One file only."""
        self._notice(f"one latency for {self._target} is modelled: {why}")
        outer.set_result(result)


class MeasuringEngine(Engine):
    """An engine whose `make_profile` and `evaluate` give latencies that a node measured.

    Attributes:
        workers: those that train, and one more file may be with the node.
        trains: the engine that evaluates.
        latencies: of its files; for whoever evaluates without this engine.
    """

    def __init__(
        self,
        trains: Engine,
        times: Engine,
        target: str,
        when_lost: WhenLost,
        notice: Callable[[str], None],
    ) -> None:
        """Take two engines over.

        Args:
            trains: evaluates.
            times: its workers are on nodes that are the target.
            target: its name, for messages.
            when_lost: what happens when `times` refuses to wait any longer.
            notice: is told, once each, what the user should know; from any thread.
        """
        self.trains = trains
        self.latencies = Latencies(times, target, when_lost, notice)

    @property
    def workers(self) -> int:  # type: ignore[override]
        """See `Engine.workers`."""
        return self.trains.workers + (0 if self.latencies.is_lost else 1)

    def configure(self, setup: Callable[[C], None], context: C) -> None:
        """See `Engine.configure`; the context must be a study's `WorkerContext`."""
        assert isinstance(context, WorkerContext)
        self.trains.configure(setup, context)
        self.latencies.configure(setup, context)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Engine.submit`."""
        first: Future[Any] = self.trains.submit(fn, *args, **kwargs)
        if fn not in (tasks.evaluate, tasks.make_profile):
            return first
        outer = _running_future()

        def evaluated(done: Future[Any]) -> None:
            error = WorkerLost("the engine was stopped") if done.cancelled() else done.exception()
            if error is not None:
                outer.set_exception(error)
                return
            result = done.result()
            if isinstance(result, Profiled):
                timed = self.latencies.of_baseline(result)
            else:
                policy = next(value for value in args if isinstance(value, Policy))
                timed = self.latencies.of_file(result, policy)
            timed.add_done_callback(lambda answer: _hand_on(answer, outer))

        first.add_done_callback(evaluated)
        return outer

    def kill(self) -> None:
        """See `Engine.kill`."""
        self.trains.kill()
        self.latencies.kill()


def _running_future() -> Future[Any]:
    """One that nobody can cancel."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _hand_on(answer: Future[Any], outer: Future[Any]) -> None:
    error = answer.exception()
    if error is not None:
        outer.set_exception(error)
    else:
        outer.set_result(answer.result())


class _Probe:
    """A result whose latency is being measured."""

    def __init__(
        self,
        outer: Future[Any],
        result: Measurement | Profiled,
        fn: Callable[..., Latency],
        args: tuple[Any, ...],
    ) -> None:
        self.outer, self.result, self.fn, self.args = outer, result, fn, args

    def with_latency(self, latency: Latency) -> Measurement | Profiled:
        """The result, measured."""
        if isinstance(self.result, Measurement):
            return replace(self.result, latency=latency)
        profile = replace(
            self.result.profile,
            baseline_latency_ms=latency.median_ms,
            latency_source=latency.source,
            latency_device=latency.device,
        )
        return replace(self.result, profile=profile)
