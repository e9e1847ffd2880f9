"""The studies of a storage as pages see them: read once, read again when they grow.

One reader serves every browser, however many look: a study is read at most once in `LEAST_S`
seconds, and never for more than a tenth of the time, so that a long record costs its running study
nothing to speak of.
"""

import contextlib
import logging
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from dashboards import tables
from dashboards.text import plain
from search.location import StudyLocation
from search.record import DriverState, RecordReader
from search.spec import StudySpec
from search.whatif import Candidates
from spaces import (
    Front,
    InvalidRequest,
    Judge,
    ModelProfile,
    SearchError,
    SearchSpace,
    StudyBroken,
    Trial,
)

__all__ = ["Broken", "Library", "Snapshot", "Summary"]

#: A study is looked at this often, at most.
LEAST_S = 1.0
#: Reading takes at most this share of the time.
BUSY_SHARE = 0.1
#: So much of a journal tells who made it, and when.
_HEAD_BYTES = 256


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment. Everything derived is made on first need and kept.

    Attributes:
        version: changes when a trial, a finalist or a test score is added, or all is made anew.
        driver: who is at work, and what it last said.
    """

    location: StudyLocation
    version: str
    spec: StudySpec
    profile: ModelProfile
    space: SearchSpace
    judge: Judge
    trials: tuple[Trial, ...]
    finalists: tuple[Trial, ...]
    test_scores: Mapping[str, Mapping[str, Any]]
    optimism: Mapping[str, float]
    driver: DriverState

    def prepare(self) -> None:
        """Make what every page needs: for a long study it takes longer than reading a trial."""
        _ = self.table, self.final_table, self.candidates, self.final_candidates, self.front

    @property
    def name(self) -> str:
        """Of the study."""
        return self.location.study

    @cached_property
    def table(self) -> pd.DataFrame:
        """`tables.trial_table` of the search's fidelity."""
        return tables.with_test_scores(
            tables.trial_table(self.trials, self.judge), self.test_scores
        )

    @cached_property
    def final_table(self) -> pd.DataFrame:
        """`tables.trial_table` of the finalists."""
        table = tables.trial_table(self.finalists, self.judge, at_full=True)
        return tables.with_test_scores(table, self.test_scores)

    @cached_property
    def candidates(self) -> Candidates:
        """What a moved budget chooses from."""
        return Candidates.of(self.trials, self.judge, self.spec.fidelity)

    @cached_property
    def final_candidates(self) -> Candidates:
        """The same at full fidelity."""
        return Candidates.of(self.finalists, self.judge, self.spec.full_fidelity)

    @cached_property
    def front(self) -> Front:
        """Of the search's fidelity, within the study's own budget."""
        return Front.of(self.trials, self.judge, self.spec.fidelity)

    @cached_property
    def progress(self) -> pd.DataFrame:
        """`tables.progress_table`."""
        return tables.progress_table(self.trials, self.judge)


@dataclass(frozen=True)
class Broken:
    """A study that cannot be shown, and what to do about it."""

    name: str
    words: str


@dataclass(frozen=True)
class Summary:
    """A study's line in the list."""

    name: str
    workload: str
    target: str
    budget: str
    state: str
    trials: int
    asked: int
    feasible: int
    failed: int
    best: float
    smallest_bytes: int | None
    hypervolume: float
    snapshot: Snapshot


class _Shelf:
    """One study: its reader, its last snapshot, and when to look again."""

    def __init__(self, location: StudyLocation) -> None:
        self._location = location
        self._guard = threading.Lock()
        self._reader: RecordReader | None = None
        self._snapshot: Snapshot | None = None
        self._error: SearchError | None = None
        self._head = b""
        self._look_at_s = 0.0

    def get(self) -> Snapshot:
        """The study now. While another thread reads, the last one known.

        Raises:
            SearchError: it cannot be read.
        """
        # The first reader makes the others wait: there is nothing to show them yet.
        if self._guard.acquire(blocking=self._snapshot is None):
            try:
                if time.monotonic() >= self._look_at_s:
                    self._read()
            finally:
                self._guard.release()
        # In this order: whoever reads now sets the error before it drops the snapshot.
        snapshot, error = self._snapshot, self._error
        if error is not None:
            raise error
        assert snapshot is not None
        return snapshot

    def _read(self) -> None:
        started = time.monotonic()
        before, head = self._snapshot, _head_of(self._location)
        if head != self._head:
            # It was deleted and made again: another record under the same name.
            self._reader, self._head, before = None, head, None
        try:
            if self._reader is None:
                self._reader = RecordReader.open(self._location)
            self._snapshot = _look(self._reader, before, head)
            # What every page needs is made here, so that it counts as reading.
            self._snapshot.prepare()
            self._error = None
        except Exception as error:
            # Opened anew next time: the file may have been mended or made again meanwhile.
            self._error = _in_words(self._location, error)
            self._reader, self._snapshot = None, None
        took = time.monotonic() - started
        self._look_at_s = time.monotonic() + max(LEAST_S, took * (1 / BUSY_SHARE - 1))


def _head_of(location: StudyLocation) -> bytes:
    """The first bytes of a journal, which no other has; b"" of a database, or without a file."""
    if location.is_database:
        return b""
    try:
        with location.journal_path.open("rb") as journal:
            return journal.read(_HEAD_BYTES)
    except OSError:
        return b""


def _in_words(location: StudyLocation, error: Exception) -> SearchError:
    """A record may hold anything, so reading it may raise anything."""
    if isinstance(error, SearchError):
        return error
    logging.getLogger(__name__).warning("study %s cannot be shown", location, exc_info=error)
    return StudyBroken(
        f"study {location}: what its record holds cannot be understood ({type(error).__name__}: "
        f"{plain(error)[:200]}). It was damaged, or something else wrote it: put back a copy of "
        "its folder, or delete it and run the study again. No other study is affected."
    )


def _look(reader: RecordReader, before: Snapshot | None, head: bytes) -> Snapshot:
    trials, finalists = reader.trials(), reader.finalists()
    scores, driver, spec = reader.test_scores(), reader.driver_state(), reader.spec
    optimism = reader.optimism()
    counts = (len(trials), len(finalists), len(scores), len(optimism), spec.trials)
    version = f"{zlib.crc32(head):x}." + ".".join(map(str, counts))
    if before is not None and before.version == version and before.driver == driver:
        return before
    snapshot = Snapshot(
        location=reader.location,
        version=version,
        spec=spec,
        profile=reader.profile,
        space=reader.space,
        judge=reader.judge,
        trials=tuple(trials),
        finalists=tuple(finalists),
        test_scores=scores,
        optimism=optimism,
        driver=driver,
    )
    if before is not None and before.version == version:
        # Only the driver's beat is new: what was derived from the trials stays.
        derived = {k: v for k, v in vars(before).items() if k not in vars(snapshot)}
        vars(snapshot).update(derived)
    return snapshot


class Library:
    """The studies of one storage; or only those named."""

    def __init__(self, storage: str, names: Sequence[str] = ()) -> None:
        """Args: storage: a folder or a database URL; names: of studies, () for all of them."""
        self.storage = storage
        self._only = tuple(names)
        self._shelves: dict[str, _Shelf] = {}
        self._guard = threading.Lock()

    @property
    def place(self) -> str:
        """The storage as a page may show it: without a password."""
        return StudyLocation(self.storage, "any").place

    def names(self) -> list[str]:
        """Of the studies there are now, sorted.

        Raises:
            InvalidRequest: the database cannot be read.
        """
        found = StudyLocation.list_studies(self.storage)
        if not self._only:
            return found
        # A named study that is missing is listed, so that its page can say so.
        return list(self._only)

    def get(self, name: str) -> Snapshot:
        """A study now.

        Raises:
            SearchError: there is none of this name, or it cannot be read.
        """
        if self._only and name not in self._only:
            offered = ", ".join(self._only)
            raise InvalidRequest(f"study {name} is not among those this dashboard shows: {offered}")
        location = StudyLocation(self.storage, name)
        with self._guard:
            shelf = self._shelves.setdefault(location.study, _Shelf(location))
        try:
            return shelf.get()
        except SearchError:
            if name not in StudyLocation.list_studies(self.storage):
                with self._guard, contextlib.suppress(KeyError):
                    # Names come from URLs: shelves of studies that never were would pile up.
                    del self._shelves[name]
                if self._only:
                    # The reader's own words would name the studies that are not offered.
                    raise InvalidRequest(
                        f"study {name} is not in {self.place} (any more)"
                    ) from None
            raise

    def summaries(self) -> list[Summary | Broken]:
        """Every study's line, the broken ones too.

        Raises:
            InvalidRequest: the database cannot be read.
        """
        return [self._summary(name) for name in self.names()]

    def _summary(self, name: str) -> Summary | Broken:
        try:
            snapshot = self.get(name)
        except SearchError as error:
            return Broken(name, str(error))
        spec, table = snapshot.spec, snapshot.table
        counts = table["status"].value_counts()
        feasible = table[table["status"].isin([tables.FRONT, tables.DOMINATED])]
        losses = feasible["metric"].map(spec.metric.loss)
        sizes = feasible["size_bytes"].dropna()
        return Summary(
            name=name,
            workload=spec.workload,
            target=spec.target,
            budget=tables.budget_words(spec.budget, spec.metric, snapshot.profile),
            state=snapshot.driver.state,
            trials=len(table),
            asked=spec.trials,
            feasible=len(feasible),
            failed=int(counts.get(tables.FAILED, 0)),
            best=float(feasible["metric"].iloc[int(losses.to_numpy().argmin())])
            if len(feasible)
            else float("nan"),
            smallest_bytes=int(sizes.min()) if len(sizes) else None,
            hypervolume=snapshot.front.hypervolume,
            snapshot=snapshot,
        )
