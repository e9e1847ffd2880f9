"""A study of the simulator driven by the real loop: an engine whose evaluations take no time."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from evaluators import tasks
from evaluators.messages import Scored
from search.engines import Engine
from search.kept import KeptFiles
from search.location import StudyLocation
from search.progress import Progress
from search.proposers.optuna_samplers import OptunaProposer
from search.record import Record
from search.study import Job, run_search
from spaces import Failure, Identity, Measurement, Policy, Trial, WorkerLost
from tests.simulator import Simulator

__all__ = ["SimulatedEngine", "Watcher", "create", "kept_files", "proposer", "search", "write_file"]


def write_file(folder: Path, sha256: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{sha256}.packed").write_bytes(b"weights")


class SimulatedEngine(Engine):
    """Answers the worker's doors from a simulator, and writes files as a worker does.

    Attributes:
        deaths: policy digest -> how many times its worker still dies.
        broken: policy digest -> what its task raises.
        ran: (door, policy digest or sha256), in the order of submission.
    """

    def __init__(self, workers: int, sim: Simulator, folder: Path) -> None:
        self.workers = workers
        self.sim, self.folder = sim, folder
        self.deaths: Counter[str] = Counter()
        self.broken: dict[str, Exception] = {}
        self.test_split: Exception | bool = True
        self.ran: list[tuple[str, str]] = []

    def configure(self, setup: Callable[..., None], context: object) -> None:
        """Nothing to set up."""

    def kill(self) -> None:
        """Nothing to end."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        answer = {
            tasks.evaluate: self._evaluate,
            tasks.score_samples: self._score_samples,
            tasks.score_test: self._score_test,
        }[fn]
        try:
            future.set_result(answer(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def _evaluate(self, identity: Identity, policy: Policy) -> Measurement | Failure:
        digest = policy.digest
        self.ran.append(("evaluate", digest))
        if self.deaths[digest] > 0:
            self.deaths[digest] -= 1
            raise WorkerLost("the worker process 7 died")
        if digest in self.broken:
            raise self.broken[digest]
        measured = self.sim.measure(policy, identity.fidelity)
        write_file(self.folder, measured.sha256)
        return measured

    def _score_samples(self, sha256: str) -> np.ndarray:
        """Right nine times in ten, each file on samples of its own."""
        self.ran.append(("samples", sha256))
        if sha256 in self.broken:
            raise self.broken[sha256]
        rng = np.random.default_rng(int(sha256[:8], 16))
        return (rng.random(1_000) < 0.9).astype(np.float32)

    def _score_test(self, sha256: str) -> Scored | None:
        self.ran.append(("test", sha256))
        if self.deaths[sha256] > 0:
            self.deaths[sha256] -= 1
            raise WorkerLost("the worker process 7 died")
        if isinstance(self.test_split, Exception):
            raise self.test_split
        return Scored(0.97, 0.001, 10_000) if self.test_split else None


class Watcher:
    """An observer that remembers; `stop_after` trials it is as if Ctrl-C were pressed."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.finished: list[tuple[Trial, Progress]] = []
        self.notices: list[str] = []
        self._stop_after = stop_after

    def trial_finished(self, trial: Trial, progress: Progress) -> None:
        self.finished.append((trial, progress))
        if len(self.finished) == self._stop_after:
            raise KeyboardInterrupt

    def waiting(self, progress: Progress, running: Sequence[Job]) -> None:
        """Nothing to draw."""

    def notice(self, text: str) -> None:
        self.notices.append(text)


def create(sim: Simulator, root: Path) -> Record:
    location = StudyLocation(str(root), sim.spec.name)
    return Record.create(location, sim.spec, sim.profile, sim.space)


def proposer(sim: Simulator) -> OptunaProposer:
    return OptunaProposer("random", sim.space, sim.judge, sim.seed)


def kept_files(record: Record) -> KeptFiles:
    return KeptFiles.replay(
        record.judge,
        record.location.artifacts_dir,
        record.spec.artifact_format,
        record.trials(),
        record.finalists(),
    )


def search(record: Record, sim: Simulator, workers: int = 1) -> Watcher:
    """The whole search of a record, without finalists."""
    watcher = Watcher()
    engine = SimulatedEngine(workers, sim, record.location.artifacts_dir)
    run_search(record, engine, proposer(sim), kept_files(record), watcher)
    return watcher
