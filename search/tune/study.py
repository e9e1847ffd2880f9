"""A study's search phase under a `ray.tune.Tuner`: Tune places and runs, the record stays ours.

Tune's own restore repeats and doubles trials after a kill (measured), so it is not used: a resumed
study begins another Tuner run with what the record has.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.shared_folder import left_token
from evaluators.workloads.registry import call_user_function
from search.engines import Engine
from search.engines.measuring import MeasuringEngine
from search.engines.ray import RayEngine
from search.kept import KeptFiles
from search.location import StudyLocation, storage_flag
from search.proposers.base import Proposer
from search.record import Record
from search.session import worker_context
from search.study import ATTEMPTS, TICK_S, Job, Observer, SearchPhase
from search.tune.evaluation import Evaluation
from search.tune.searcher import PolicySearcher
from spaces import Failure, InvalidRequest, Measurement, SearchError, StudyBroken

# Tune would answer Ctrl-C itself, and end as if all were well. Its newer output is not silent when
# told to be.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
from ray import tune
from ray.tune.stopper import Stopper

__all__ = ["TuneSearch", "load_callback"]

REFUSED = "refused"


class _Trainable(tune.Trainable):
    """One step a trial; the process is used again for the next."""

    # `tune.with_parameters` adds what it was given to the call.
    def setup(self, config: dict[str, Any], evaluation: Evaluation) -> None:  # type: ignore[override]
        """See `tune.Trainable`."""
        del config
        self._evaluation = evaluation

    def step(self) -> dict[str, Any]:
        """See `tune.Trainable`."""
        try:
            row = self._evaluation(self.config)
        except SearchError as error:  # not this trial's failure: it ends the study
            row = {REFUSED: [isinstance(error, InvalidRequest), str(error)]}
        except Exception as error:  # so that what is left to Tune is only a death
            failure = Failure("", "evaluate", f"{type(error).__name__}: {error}")
            row = self._evaluation.report(failure)
        return {**row, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """See `tune.Trainable`."""
        self.config = new_config
        return True


class _StudySearcher(PolicySearcher):
    """Knows what the study's own trainable says beside results, and has files timed by a node.

    A trial that Tune has finished with is still running here until its file is timed.
    """

    def __init__(
        self,
        phase: SearchPhase,
        location: StudyLocation,
        evaluation: Evaluation,
        engine: MeasuringEngine | None,
    ) -> None:
        """Args: phase, location: of the study; evaluation: of trials; engine: times files."""
        super().__init__(phase, evaluation)
        flag = storage_flag(location.place)
        self.resume_command = f"search resume {location.study}{flag} --engine tune"
        self._engine = engine
        self._timed: dict[str, tuple[Job, Future[Measurement | Failure]]] = {}

    def suggest(self, trial_id: str) -> Any:
        """See `PolicySearcher`; as few files as with every engine wait to be timed."""
        self.take_timed()
        is_full = self._engine is not None and len(self._running) >= self._engine.workers
        if is_full and self._timed and self.error is None:
            return None
        return super().suggest(trial_id)

    def take_timed(self) -> None:
        """Record the trials whose files have been timed meanwhile."""
        for trial_id, (job, future) in [*self._timed.items()]:
            if not future.done():
                continue
            del self._timed[trial_id]
            try:
                outcome = future.result()
            except SearchError as error:
                del self._running[trial_id]
                self.error = self.error or error
                continue
            super()._answered(trial_id, job, outcome)

    def finish_timing(self, beat: Callable[[], None]) -> None:
        """Wait for the files that are being timed when Tune is done; `beat` is called meanwhile."""
        while self._timed and self.error is None:
            wait([future for _, future in self._timed.values()], timeout=TICK_S)
            self.take_timed()
            beat()

    @property
    def is_timing(self) -> bool:
        """Whether a file is with a node, or waits for one."""
        return bool(self._timed)

    def _answered(self, trial_id: str, job: Job, outcome: Measurement | Failure) -> None:
        if self._engine is None or self.error is not None:
            super()._answered(trial_id, job, outcome)
            return
        self._timed[trial_id] = (job, self._engine.latencies.of_file(outcome, job.policy))
        self.take_timed()

    def _outcome(self, result: dict[str, Any] | None) -> Measurement | Failure:
        if result is None:
            return Failure("", "worker", f"its worker process died, {ATTEMPTS} times")
        if REFUSED in result:
            is_request, text = result[REFUSED]
            self.error = InvalidRequest(text) if is_request else StudyBroken(text)
        return super()._outcome(result)

    def __getstate__(self) -> dict[str, Any]:
        """A copy of Tune's times nothing: see `PolicySearcher`."""
        return {**super().__getstate__(), "_engine": None, "_timed": {}}


class _Watch(tune.Callback, Stopper):
    """Shows readers what runs, and stops all when the study cannot go on."""

    def __init__(
        self,
        searcher: _StudySearcher,
        phase: SearchPhase,
        observer: Observer,
        engine: RayEngine,
    ) -> None:
        self._searcher, self._phase, self._observer = searcher, phase, observer
        self._engine = engine
        self._workers = 1
        self._ran_at_s = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """See `Stopper`: each trial ends by itself."""
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        """See `Stopper`."""
        return self._searcher.error is not None

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        """See `tune.Callback`; about ten times a second."""
        del iteration, info
        self._searcher.take_timed()
        is_running = any(trial.status == "RUNNING" for trial in trials)
        if not trials or is_running or self._searcher.is_timing:
            self._ran_at_s = time.monotonic()
        elif time.monotonic() - self._ran_at_s > self._engine.patience_s:
            # Tune itself would wait for ever.
            self._searcher.error = self._engine.no_worker()
        self.beat()

    def beat(self) -> None:
        """Show readers what runs."""
        running = self._searcher.running
        self._workers = max(self._workers, len(running))
        try:
            self._phase.beat(self._workers, running)
        except StudyBroken as error:  # Tune would log it and go on
            self._searcher.error = error

    def on_trial_recover(
        self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any
    ) -> None:
        """See `tune.Callback`."""
        del iteration, trials, info
        digest = trial.config["identity"]["policy_digest"]
        self._observer.notice(f"the worker of {digest} died; it is run once more")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its run's configuration; only this process watches."""
        return {}


def load_callback(name: str) -> Any:
    """A user's Tune callback.

    Args:
        name: "path/to/file.py:function"; the function returns a `ray.tune.Callback`.

    Raises:
        InvalidRequest: it does not.
    """
    callback = call_user_function(name, "--tune-callback")
    if not isinstance(callback, tune.Callback):
        raise InvalidRequest(
            f"--tune-callback {name} must return a ray.tune.Callback, "
            f"but got {type(callback).__name__}"
        )
    return callback


@dataclass(frozen=True)
class TuneSearch:
    """`search.study.run_search` with a Tuner between proposer and workers.

    Attributes:
        callbacks: the user's own `ray.tune.Callback` objects, e.g. loggers.
        folder: where Tune writes its logs; None = `tune` beside the study's record.
        evaluation: what a trial runs.
    """

    callbacks: Sequence[Any] = ()
    folder: Path | None = None
    evaluation: type[Evaluation] = Evaluation

    def __call__(
        self,
        record: Record,
        engine: Engine,
        proposer: Proposer,
        kept: KeptFiles,
        observer: Observer,
        deadline_s: float | None = None,
    ) -> None:
        """See `run_search`; the engine's cluster and resources are used, its workers are not.

        Files are timed as `engine` would have them timed, where it is a `MeasuringEngine`.

        Raises:
            StudyBroken: Tune ended without an answer, or a file cannot be written.
        """
        times = engine if isinstance(engine, MeasuringEngine) else None
        engine = engine if times is None else times.trains
        assert isinstance(engine, RayEngine)
        spec, location = record.spec, record.location
        phase = SearchPhase(record, proposer, kept, observer, deadline_s)
        token = left_token(location.folder)
        context = worker_context(spec, location, record.profile, token)
        evaluation = self.evaluation(context, spec.metric.name)
        searcher = _StudySearcher(phase, location, evaluation, times)
        left = spec.trials - phase.tracker.now().finished
        if left > 0:
            engine.rest()
            folder = self.folder or location.folder / "tune"
            watch = _Watch(searcher, phase, observer, engine)
            self._fit(searcher, watch, engine, left, folder)
            searcher.finish_timing(watch.beat)
        if searcher.error is not None:
            raise searcher.error
        phase.end()

    def _fit(
        self,
        searcher: _StudySearcher,
        watch: _Watch,
        engine: RayEngine,
        left: int,
        folder: Path,
    ) -> None:
        # Its errors are traces of what the record says in a line.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        trainable = tune.with_resources(
            tune.with_parameters(_Trainable, evaluation=searcher.evaluation),
            engine.needs.by_name,
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=left,
                max_concurrent_trials=engine.workers,
                reuse_actors=True,  # a worker loads the workload once
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
                storage_path=str(folder.resolve()),
                callbacks=[watch, *self.callbacks],
                stop=watch,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
                verbose=0,
            ),
        )
        try:
            with redirect_stdout(sys.stderr):  # a result on stdout stays alone
                tuner.fit()
        except (tune.TuneError, RuntimeError) as error:
            what = " ".join(str(error.__cause__ or error).split())
            raise StudyBroken(
                f"--engine tune: Ray Tune ended: {what}; nothing recorded is lost, so repair the "
                "cause and resume"
            ) from error
