"""Our proposers behind Tune's interface.

Tune asks for one config at a time, and tells what became of it; in between nothing is known but the
history, as everywhere here: same history, same proposals.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from evaluators.messages import WorkerContext
from search.engines import LocalEngine
from search.location import StudyLocation
from search.proposers.base import Proposer
from search.session import Prepared, Request, prepare, proposer_of, worker_context
from search.study import Job, propose_jobs, trial_of
from search.tune.evaluation import Evaluation, config_of, job_parts, outcome_of
from spaces import Failure, Front, InvalidRequest, Measurement, Trial

try:
    import search.engines.ray  # noqa: F401 # isort: skip -- it decides how Ray is imported
    from ray import tune
    from ray.tune.search import Searcher
except ImportError as error:
    raise InvalidRequest(
        f"Ray Tune needs the extra `tune`: pip install 'compression-search[tune]' ({error})"
    ) from None

__all__ = ["JobSource", "PolicySearcher"]

#: Trials a Tuner of one's own may ask for; Tune's `num_samples` is what counts.
NO_LIMIT = 1_000_000


class JobSource(Protocol):
    """Who decides what is tried next and takes the answers; a study's phase, or `_Memory`."""

    def propose(self, running: Sequence[Job], count: int) -> list[Job]:
        """Up to `count` evaluations."""
        ...

    def finished(self, trial: Trial) -> None:
        """Take an answer in."""
        ...


@dataclass
class _Memory:
    """Answers kept in this process, and in Tune's own snapshots."""

    prepared: Prepared
    proposer: Proposer
    history: list[Trial] = field(default_factory=list)

    def propose(self, running: Sequence[Job], count: int) -> list[Job]:
        """See `JobSource`."""
        return propose_jobs(self.prepared.spec, self.proposer, self.history, running, count)

    def finished(self, trial: Trial) -> None:
        """See `JobSource`."""
        self.history.append(replace(trial, number=len(self.history)))


class PolicySearcher(Searcher):
    """Suggests compression policies to a `ray.tune.Tuner`; a trial reports what `Evaluation` gives.

    Attributes:
        evaluation: to be called with a trial's config, in the trial.
        error: what a trial or the source could not go on with; nothing is suggested any more.
        resume_command: goes on with a study, which `Tuner.restore` does not.
    """

    def __init__(self, source: JobSource, evaluation: Evaluation) -> None:
        """Args: source: of what to try; evaluation: what trials run. See also `of`."""
        super().__init__()
        self._source = source
        self._running: dict[str, Job] = {}
        self.evaluation = evaluation
        self.error: Exception | None = None
        self.resume_command = "search resume --engine tune"

    @classmethod
    def of(
        cls,
        workload: str,
        *,
        target: str = "host",
        budget_kb: float | None = None,
        max_latency_ms: float | None = None,
        max_drop: float | None = None,
        proposer: str = "greybox",
        seed: int = 0,
        fidelity: int | None = None,
        artifact_format: str | None = None,
        device: str = "auto",
        folder: str | Path = "search-runs/tune",
    ) -> "PolicySearcher":
        """A searcher for a Tuner of one's own. A worker process scans the network first.

        Args:
            workload: a name of `search workloads`, or "path/to/file.py:function".
            target: a name of `search targets`, or a .toml file.
            budget_kb, max_latency_ms, max_drop: as the flags of `search run`; 1 KB = 1000 bytes.
            proposer, seed, fidelity, artifact_format, device: as the flags of `search run`.
            folder: where trials write their files; all nodes must see it. None is ever deleted.

        Raises:
            InvalidRequest: one of them is wrong.
        """
        place = Path(folder).resolve()
        location = StudyLocation(str(place.parent), place.name)
        request = Request(
            workload=workload,
            target=target,
            budget_kb=budget_kb,
            budget_download_kb=None,
            max_latency_ms=max_latency_ms,
            min_accuracy_percent=None,
            max_drop_points=max_drop,
            proposer=proposer,
            seed=seed,
            trials=NO_LIMIT,
            fidelity=fidelity,
            full_fidelity=None,
            finalists=0,
            device=device,
            restrictions={},
            artifact_format=artifact_format,
        )
        engine = LocalEngine(1)
        try:
            prepared = prepare(request, engine, location)
        finally:
            engine.kill()
        context = worker_context(prepared.spec, location, prepared.profiled.profile)
        return cls(_memory(prepared), _evaluation(prepared, context))

    def front(self, results: Iterable[tune.Result] | None = None) -> Front:
        """The non-dominated trials within the budget, of a Tuner of one's own.

        Args:
            results: what `Tuner.fit` gave; None = what this very searcher has learned. After
                `Tuner.restore` Tune has a copy of the searcher, and this one has learned nothing.

        Raises:
            InvalidRequest: the searcher belongs to a study, whose record has the front; or the
                results are of other trials.
        """
        memory = self._memory()
        prepared = memory.prepared
        trials = memory.history if results is None else _trials_of(results)
        return Front.of(trials, prepared.judge, prepared.spec.fidelity)

    # What Tune calls ---------------------------------------------------------------------------

    def set_search_properties(
        self, metric: object, mode: object, config: dict[str, Any], **spec: object
    ) -> bool:
        """Metric and mode are Tune's own business (its best result); the space is ours."""
        del metric, mode, spec
        if config:
            raise InvalidRequest(
                f"param_space must be empty with a PolicySearcher, but has {', '.join(config)}: "
                "the space is what the network, the target and the format allow"
            )
        return True

    def suggest(self, trial_id: str) -> Any:
        """The config of one more trial; None = not now, "FINISHED" = there are no more."""
        if self.error is not None:
            return Searcher.FINISHED
        try:
            jobs = self._source.propose(list(self._running.values()), 1)
        except Exception as error:  # Tune would log it and go on
            self.error = error
            return Searcher.FINISHED
        if not jobs:
            return None if self._running else Searcher.FINISHED
        job = self._running[trial_id] = jobs[0]
        return config_of(job.identity, job.policy, job.origin)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn from a finished trial."""
        job = self._running.get(trial_id)
        if job is None:
            return
        if self.error is not None:
            del self._running[trial_id]
            return
        self._answered(trial_id, job, self._outcome(None if error else result))

    def _answered(self, trial_id: str, job: Job, outcome: Measurement | Failure) -> None:
        """A trial ends with this."""
        del self._running[trial_id]
        try:
            self._source.finished(trial_of(job, outcome))
        except Exception as broken:  # Tune would take it for the trial's own
            self.error = broken

    def _outcome(self, result: dict[str, Any] | None) -> Measurement | Failure:
        return outcome_of(result)

    @property
    def running(self) -> list[Job]:
        """What Tune works on."""
        return list(self._running.values())

    # Tune's snapshots --------------------------------------------------------------------------

    def save(self, checkpoint_path: str) -> None:
        """What has been learned, as JSON; a study's record has it already."""
        if isinstance(self._source, _Memory):
            running = {key: _job_dict(job) for key, job in self._running.items()}
            content = {"history": [t.to_dict() for t in self._source.history], "running": running}
            Path(checkpoint_path).write_text(json.dumps(content), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Go on from a snapshot, for `Tuner.restore`."""
        content = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        self._memory().history[:] = [Trial.from_dict(data) for data in content["history"]]
        self._running = {key: _job_of(data) for key, data in content["running"].items()}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles the searcher; a proposer is made anew from what it stands for."""
        memory = self._source if isinstance(self._source, _Memory) else None
        return {
            **{k: v for k, v in self.__dict__.items() if k not in ("_source", "error")},
            "prepared": None if memory is None else memory.prepared,
            "history": [] if memory is None else memory.history,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of `__getstate__`."""
        prepared, history = state.pop("prepared"), state.pop("history")
        if prepared is None:
            # Here, because what is raised any later Tune logs, and begins anew without trials.
            raise InvalidRequest(
                "Tuner.restore cannot go on with a study, whose record has what Tune may have "
                f"forgotten; use `{state['resume_command']}`"
            )
        self.__dict__.update(state, error=None)
        self._source = _memory(prepared, history)

    def _memory(self) -> _Memory:
        if not isinstance(self._source, _Memory):
            raise InvalidRequest(
                "this searcher belongs to a study: its record has the trials and the front, and "
                f"`{self.resume_command}` goes on with it"
            )
        return self._source


def _memory(prepared: Prepared, history: Sequence[Trial] = ()) -> _Memory:
    profile = prepared.profiled.profile
    proposer = proposer_of(prepared.spec, profile, prepared.space, prepared.target)
    return _Memory(prepared, proposer, list(history))


def _evaluation(prepared: Prepared, context: WorkerContext) -> Evaluation:
    return Evaluation(context, prepared.spec.metric.name)


def _job_dict(job: Job) -> dict[str, Any]:
    """A job as a trial that has not happened: one format for both."""
    return trial_of(job, Failure("", "tune", "not finished")).to_dict()


def _job_of(data: dict[str, Any]) -> Job:
    trial = Trial.from_dict(data)
    return Job(
        trial.identity,
        trial.policy,
        trial.origin,
        trial.seen,
        trial.running,
        trial.sampler_attrs,
    )


def _trials_of(results: Iterable[tune.Result]) -> list[Trial]:
    """What Tune's results say, in their order."""
    trials: list[Trial] = []
    for result in results:
        identity, policy, origin = job_parts(result.config or {})
        job = Job(identity, policy, origin, seen=len(trials))
        outcome = outcome_of(None if result.error else result.metrics)
        trials.append(replace(trial_of(job, outcome), number=len(trials)))
    return trials
