"""Which files of a study stay on disk: those non-dominated when they finished, and the finalists.

Any other file can be made again from its trial's identity.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from evaluators.artifacts.files import exists, remove, write_content
from evaluators.artifacts.store import open_store
from search.running_front import RunningFront
from spaces import Judge, StudyBroken, Trial

__all__ = ["KeptFiles"]


class KeptFiles:
    """Follows a study trial by trial; what it keeps depends only on the trials' order.

    With a store, workers put files there; those that stay come into the folder too, for readers.
    """

    def __init__(
        self, judge: Judge, artifacts_dir: Path, artifact_format: str, store: str = ""
    ) -> None:
        """Args: judge: compares trials; artifacts_dir, artifact_format: where files lie.

        store: s3://... of the study; "" = workers write into the folder themselves.
        """
        self._folder = artifacts_dir
        self._suffix = artifact_format
        self._store = open_store(store) if store else None
        self._front = RunningFront(judge)
        self.hashes: set[str] = set()
        self._is_replaying = False

    def path(self, sha256: str) -> Path:
        """Where a file lies, kept or not."""
        return self._folder / f"{sha256}.{self._suffix}"

    def add(self, trial: Trial) -> bool:
        """Take a searched trial in; True if its file stays."""
        measurement = trial.measurement
        if measurement is None:
            return False
        if self._front.add(trial):
            self._stays(measurement.sha256)
        return measurement.sha256 in self.hashes

    def keep(self, trial: Trial) -> None:
        """A finalist's file stays whatever it is worth."""
        if trial.measurement is not None:
            self._stays(trial.measurement.sha256)

    def _stays(self, sha256: str) -> None:
        self.hashes.add(sha256)
        if not self._is_replaying:
            self._fetch(sha256)

    def _fetch(self, sha256: str) -> None:
        """Have a file in the folder that is only in the store so far."""
        path = self.path(sha256)
        if self._store is None or exists(path):
            return
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(partial)
            write_content(partial, self._store.get(path.name))
            partial.replace(path)
        except OSError as error:
            raise StudyBroken(f"cannot write to {path.parent}: {error.strerror}") from error

    def fetch_missing(self) -> None:
        """Have every file that stays, as when another machine drove before.

        Raises:
            StudyBroken: the store does not answer, or lacks one.
        """
        for sha256 in sorted(self.hashes):
            self._fetch(sha256)

    def discard(self, trial: Trial) -> None:
        """Delete a trial's file unless it stays."""
        if trial.measurement is not None and trial.measurement.sha256 not in self.hashes:
            path = self.path(trial.measurement.sha256)
            remove(path)
            if self._store is not None:
                self._store.remove(path.name)

    def sweep(self) -> list[Path]:
        """Delete what no recorded trial stands for, as a killed worker leaves it."""
        known = {self.path(sha256) for sha256 in self.hashes}
        stray = [
            path
            for pattern in (f"*.{self._suffix}", "*.partial")
            for path in self._folder.glob(pattern)
            if path not in known
        ]
        for path in stray:
            remove(path)
        if self._store is not None:
            for name in set(self._store.names()) - {path.name for path in known}:
                self._store.remove(name)
        return stray

    @classmethod
    def replay(
        cls,
        judge: Judge,
        artifacts_dir: Path,
        artifact_format: str,
        trials: Iterable[Trial],
        finalists: Iterable[Trial],
        store: str = "",
    ) -> "KeptFiles":
        """As it stood after these trials; fetches nothing."""
        kept = cls(judge, artifacts_dir, artifact_format, store)
        kept._is_replaying = True
        for trial in trials:
            kept.add(trial)
        for trial in finalists:
            kept.keep(trial)
        kept._is_replaying = False
        return kept
