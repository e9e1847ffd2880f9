"""The loop: proposals to workers, finished trials to the record. Knows no framework, no screen.

Only this side writes the record. A worker that dies costs one trial one more try; whatever else
happens, what was recorded stays, and the next session goes on from there.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from evaluators import tasks
from evaluators.artifacts.files import exists
from search.engines import Engine
from search.finalists import choose_finalists, worth_repeating
from search.kept import KeptFiles
from search.optimism import chosen_again, optimism
from search.progress import Progress, ProgressTracker
from search.proposers.base import Proposer
from search.record import Record
from search.spec import StudySpec
from spaces import Failure, Front, Identity, InvalidRequest, Measurement, Policy, Trial, WorkerLost

__all__ = [
    "ATTEMPTS",
    "Job",
    "Observer",
    "SearchPhase",
    "correct_pick",
    "propose_jobs",
    "run_finalists",
    "run_search",
    "score_on_test",
    "trial_of",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds between two looks at the clock while nothing finishes.
TICK_S = 0.5
#: A task whose worker died is run once more.
ATTEMPTS = 2


@dataclass(frozen=True)
class Job:
    """An evaluation to be made, with what the record wants to know of its proposal."""

    identity: Identity
    policy: Policy
    origin: str
    seen: int
    running: tuple[str, ...] = ()
    sampler_attrs: Mapping[str, Any] = field(default_factory=dict)


class Observer(Protocol):
    """Told what happens; draws it or not."""

    def trial_finished(self, trial: Trial, progress: Progress) -> None:
        """A trial is in the record."""
        ...

    def waiting(self, progress: Progress, running: Sequence[Job]) -> None:
        """Nothing has finished for a moment."""
        ...

    def notice(self, text: str) -> None:
        """Something the user should read once."""
        ...


#: (jobs running, how many more are wanted) -> jobs; fewer = there are no more for now.
Source = Callable[[Sequence[Job], int], Sequence[Job]]


def run_search(
    record: Record,
    engine: Engine,
    proposer: Proposer,
    kept: KeptFiles,
    observer: Observer,
    deadline_s: float | None = None,
) -> None:
    """Evaluate proposals until the record holds as many trials as its spec asks for.

    Args:
        record: open for writing.
        engine: its workers set up with the profile.
        proposer: decides what to try.
        kept: follows which files stay.
        observer: is told.
        deadline_s: `time.monotonic()` after which nothing new starts.

    Raises:
        StudyBroken: a file or the record cannot be written. Nothing recorded is lost.
    """
    phase = SearchPhase(record, proposer, kept, observer, deadline_s)
    _pump(record, engine, phase.propose, phase.all_finished, observer, phase.tracker)
    phase.end()


class SearchPhase:
    """What is asked next and what becomes of an answer, whoever evaluates in between.

    Attributes:
        tracker: how the phase stands.
    """

    def __init__(
        self,
        record: Record,
        proposer: Proposer,
        kept: KeptFiles,
        observer: Observer,
        deadline_s: float | None = None,
    ) -> None:
        """Args: see `run_search`."""
        self._record, self._proposer, self._kept = record, proposer, kept
        self._observer, self._deadline_s = observer, deadline_s
        self._history = record.trials()
        self._spec = record.spec
        self.tracker = ProgressTracker("search", self._spec.trials, record.judge, self._history)

    @property
    def is_late(self) -> bool:
        """Whether the time is up: nothing new is asked for."""
        return self._deadline_s is not None and time.monotonic() > self._deadline_s

    def propose(self, running: Sequence[Job], count: int) -> list[Job]:
        """The next evaluations, `count` at most; see `Source`."""
        left = self._spec.trials - len(self._history) - len(running)
        if left <= 0 or self.is_late:
            return []
        count = min(count, left)
        return propose_jobs(self._spec, self._proposer, self._history, running, count)

    def finished(self, trial: Trial) -> None:
        """Record a trial.

        Raises:
            StudyBroken: it cannot be written.
        """
        self.all_finished([trial])

    def all_finished(self, trials: Sequence[Trial]) -> None:
        """Record trials that finished at the same time, in this order.

        Files that lose their place go only when what took it is in the record.

        Raises:
            StudyBroken: one cannot be written.
        """
        for trial in trials:
            self._kept.add(trial)
        for recorded in self._record.append_all(trials):
            self._kept.discard(recorded)
            self._history.append(recorded)
            self._observer.trial_finished(recorded, self.tracker.add(recorded))

    def beat(self, workers: int, running: Sequence[Job]) -> None:
        """Nothing finished for a moment: tell the observer and the record's readers."""
        progress = self.tracker.now()
        self._observer.waiting(progress, running)
        self._record.write_driver(_driver_payload(workers, progress, running))

    def end(self) -> None:
        """Tell the observer why there are fewer trials than asked for, if there are."""
        finished, asked = len(self._history), self._spec.trials
        if finished < asked:
            why = (
                "the time is up"
                if self.is_late
                else "the space has no more distinct policies to try"
            )
            self._observer.notice(f"{why}: {finished} of {asked} trials")


def propose_jobs(
    spec: StudySpec,
    proposer: Proposer,
    history: Sequence[Trial],
    running: Sequence[Job],
    count: int,
) -> list[Job]:
    """Ask a proposer; what comes back knows what it had seen."""
    keys = tuple(job.identity.key for job in running)
    return [
        Job(
            identity=spec.identity(proposal.policy, spec.fidelity),
            policy=proposal.policy,
            origin=proposal.origin,
            seen=len(history),
            running=keys,
            sampler_attrs=proposal.sampler_attrs,
        )
        for proposal in proposer.propose(history, [job.policy for job in running], count)
    ]


def run_finalists(record: Record, engine: Engine, kept: KeptFiles, observer: Observer) -> None:
    """Run distinct members of the search's front again at full fidelity, close calls twice.

    They are chosen from the finished search, so a resumed study chooses the same.
    """
    spec = record.spec
    if spec.full_fidelity == spec.fidelity or spec.finalists == 0:
        return
    done = record.finalists()
    chosen = choose_finalists(record.trials(), record.judge, spec.finalists)
    known = {trial.identity.key for trial in done}
    jobs = [
        Job(
            spec.identity(t.policy, spec.full_fidelity),
            t.policy,
            f"finalist of {t.number}",
            len(done),
        )
        for t in chosen
    ]
    waiting = [job for job in jobs if job.identity.key not in known]
    _run_full(record, engine, kept, observer, waiting, "finalists")
    done = record.finalists()
    known = {trial.identity.key for trial in done}
    again = [
        Job(
            spec.identity(t.policy, spec.full_fidelity, repeat=1),
            t.policy,
            f"new seed of {t.number}",
            len(done),
        )
        for t in worth_repeating(done, record.judge, spec.full_fidelity)
    ]
    waiting = [job for job in again if job.identity.key not in known]
    _run_full(record, engine, kept, observer, waiting, "repeats")


def _run_full(
    record: Record,
    engine: Engine,
    kept: KeptFiles,
    observer: Observer,
    waiting: list[Job],
    phase: str,
) -> None:
    done = record.finalists()
    # After a timeout and a resume, earlier finalists need not be among the chosen ones.
    tracker = ProgressTracker(phase, len(done) + len(waiting), record.judge, done)

    def next_jobs(_: Sequence[Job], count: int) -> list[Job]:
        taken, waiting[:] = waiting[:count], waiting[count:]
        return taken

    def all_finished(trials: Sequence[Trial]) -> None:
        for trial in trials:
            kept.keep(trial)
        for recorded in record.append_all(trials):
            observer.trial_finished(recorded, tracker.add(recorded))

    _pump(record, engine, next_jobs, all_finished, observer, tracker)


def score_on_test(
    record: Record, engine: Engine, kept: KeptFiles, observer: Observer, trials: Sequence[Trial]
) -> None:
    """Score files on the test split, each once for ever. No proposer ever sees the scores.

    A workload without a test split has none: the start of the study said so.
    """
    known = record.test_scores()
    waiting = [t for t in trials if t.measurement and t.identity.key not in known]
    tracker = ProgressTracker("test", len(waiting), record.judge, ())

    def beat() -> None:
        record.write_driver(_driver_payload(engine.workers, tracker.now(), ()))

    for trial in waiting:
        try:
            score = _of_file(engine, kept, beat, tasks.score_test, trial)
        except (InvalidRequest, WorkerLost) as refusal:
            # The search is done and recorded: what cannot be reported on must not undo that.
            observer.notice(f"trial {trial.number} is not scored on the test split: {refusal}")
            continue
        if score is None:
            return
        scores: dict[str, Any] = {
            "metric": score.metric,
            "metric_se": score.metric_se,
            "samples": score.metric_samples,
        }
        if score.secondary:
            scores["secondary"] = {name: asdict(x) for name, x in score.secondary.items()}
        record.write_test_scores(trial.identity.key, {**scores, "scored_at": time.time()})
        tracker.add(trial)


def correct_pick(
    record: Record, engine: Engine, kept: KeptFiles, observer: Observer, fidelity: int
) -> None:
    """Record what having been chosen flatters the pick's validation metric by.

    The pick's rivals are those whose files are kept, that is all that were not dominated when they
    finished: no other could have taken its place but by more luck than a standard error.

    Args:
        record, engine, kept, observer: of the study.
        fidelity: of the answer's front.
    """
    trials = [*record.trials(), *record.finalists()]
    pick = Front.of(trials, record.judge, fidelity).pick
    if pick is None or pick.identity.key in record.optimism():
        return
    # Two policies may give one file: it is one rival.
    by_file = {
        t.measurement.sha256: t
        for t in (*trials, pick)
        if t.measurement is not None
        and t.identity.fidelity == fidelity
        and (t is pick or exists(kept.path(t.measurement.sha256)))
    }
    rivals = list(by_file.values())

    def beat() -> None:
        record.write_driver(_driver_payload(engine.workers, tracker.now(), ()))

    tracker = ProgressTracker("correction", len(rivals), record.judge, ())
    rows = []
    for trial in rivals:
        try:
            rows.append(_of_file(engine, kept, beat, tasks.score_samples, trial))
        except (InvalidRequest, WorkerLost) as refusal:
            observer.notice(f"the pick's validation figure is not corrected: {refusal}")
            return
        tracker.add(trial)
    value = optimism(np.array(rows), chosen_again(rivals, record.judge, fidelity))
    record.write_optimism(pick.identity.key, value)


def _of_file(
    engine: Engine,
    kept: KeptFiles,
    beat: Callable[[], None],
    fn: Callable[[str], T],
    trial: Trial,
) -> T:
    """What a task says of a measured trial's file, which is made again where it is not kept."""
    assert trial.measurement is not None
    sha256 = trial.measurement.sha256
    if not exists(kept.path(sha256)):
        _retried(engine, beat, tasks.evaluate, trial.identity, trial.policy)
    return _retried(engine, beat, fn, sha256)


def _retried(
    engine: Engine,
    beat: Callable[[], None],
    fn: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """A task's result, `beat` called while it runs; it runs once more if its worker dies."""
    for is_last in (False, True):
        future = engine.submit(fn, *args, **kwargs)
        while not wait([future], timeout=TICK_S).done:
            beat()
        beat()
        try:
            return future.result()
        except WorkerLost:
            if is_last:
                raise
    raise AssertionError("unreachable")


def _pump(
    record: Record,
    engine: Engine,
    source: Source,
    all_finished: Callable[[Sequence[Trial]], None],
    observer: Observer,
    tracker: ProgressTracker,
) -> None:
    """Keep every worker busy until the source is dry and nothing runs."""
    futures: dict[Future[Measurement | Failure], Job] = {}
    attempts: dict[str, int] = {}

    def fill() -> None:
        free = engine.workers - len(futures)
        if free > 0:
            for job in source(list(futures.values()), free):
                futures[_submit(engine, job)] = job

    fill()
    while futures:
        done, _ = wait(futures, timeout=TICK_S, return_when=FIRST_COMPLETED)
        # Several may have finished: the order of submission, not of a set, goes into the record.
        with record.together():
            trials = []
            for future in [f for f in futures if f in done]:
                job = futures.pop(future)
                key = job.identity.key
                attempts[key] = attempts.get(key, 0) + 1
                outcome = _outcome(future, attempts[key])
                if outcome is None:
                    observer.notice(f"the worker of {job.policy.digest} died; it is run once more")
                    futures[_submit(engine, job)] = job
                    continue
                trials.append(trial_of(job, outcome))
            all_finished(trials)
            if not engine.is_this_process:
                fill()  # in here, so that the workers go on while the disk takes what has finished
        fill()
        progress = tracker.now()
        observer.waiting(progress, list(futures.values()))
        record.write_driver(_driver_payload(engine.workers, progress, list(futures.values())))


def _submit(engine: Engine, job: Job) -> Future[Measurement | Failure]:
    return engine.submit(tasks.evaluate, job.identity, job.policy)


def _outcome(future: Future[Measurement | Failure], attempt: int) -> Measurement | Failure | None:
    """What came of a task; None = its worker died and it deserves another try."""
    try:
        return future.result()
    except WorkerLost as error:
        if attempt < ATTEMPTS:
            return None
        return Failure("", "worker", f"{error}, {attempt} times")


def trial_of(job: Job, outcome: Measurement | Failure) -> Trial:
    """The finished trial of a job, not yet numbered."""
    return Trial(
        number=0,
        identity=job.identity,
        policy=job.policy,
        outcome=outcome,
        origin=job.origin,
        seen=job.seen,
        running=job.running,
        sampler_attrs=job.sampler_attrs,
        finished_at=time.time(),
    )


def _driver_payload(workers: int, progress: Progress, jobs: Sequence[Job]) -> dict[str, Any]:
    return {
        "phase": progress.phase,
        "finished": progress.finished,
        "asked": progress.asked,
        "eta_s": progress.eta_s,
        "workers": workers,
        "running": [
            {"identity": job.identity.key, "origin": job.origin, "policy": job.policy.digest}
            for job in jobs
        ],
    }
