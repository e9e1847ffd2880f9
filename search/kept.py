"""Which files of a study stay on disk: those non-dominated when they finished, and the finalists.

Any other file can be made again from its trial's identity.
"""

from collections.abc import Iterable
from pathlib import Path

from evaluators.artifacts.files import remove
from search.running_front import RunningFront
from spaces import Judge, Trial

__all__ = ["KeptFiles"]


class KeptFiles:
    """Follows a study trial by trial; what it keeps depends only on the trials' order."""

    def __init__(self, judge: Judge, artifacts_dir: Path, artifact_format: str) -> None:
        """Args: judge: compares trials; artifacts_dir, artifact_format: where files lie."""
        self._folder = artifacts_dir
        self._suffix = artifact_format
        self._front = RunningFront(judge)
        self.hashes: set[str] = set()

    def path(self, sha256: str) -> Path:
        """Where a file lies, kept or not."""
        return self._folder / f"{sha256}.{self._suffix}"

    def add(self, trial: Trial) -> bool:
        """Take a searched trial in; True if its file stays."""
        measurement = trial.measurement
        if measurement is None:
            return False
        if self._front.add(trial):
            self.hashes.add(measurement.sha256)
        return measurement.sha256 in self.hashes

    def keep(self, trial: Trial) -> None:
        """A finalist's file stays whatever it is worth."""
        if trial.measurement is not None:
            self.hashes.add(trial.measurement.sha256)

    def discard(self, trial: Trial) -> None:
        """Delete a trial's file unless it stays."""
        if trial.measurement is not None and trial.measurement.sha256 not in self.hashes:
            remove(self.path(trial.measurement.sha256))

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
        return stray

    @classmethod
    def replay(
        cls,
        judge: Judge,
        artifacts_dir: Path,
        artifact_format: str,
        trials: Iterable[Trial],
        finalists: Iterable[Trial],
    ) -> "KeptFiles":
        """As it stood after these trials."""
        kept = cls(judge, artifacts_dir, artifact_format)
        for trial in trials:
            kept.add(trial)
        for trial in finalists:
            kept.keep(trial)
        return kept
