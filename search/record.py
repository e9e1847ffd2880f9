"""The study's durable store: an Optuna storage, written by one driver, read by anyone.

    with Record.create(location, spec, profile, space) as record:   # or Record.open(location)
        trial = record.append(trial)          # one journal line; durable when it returns
        record.write_driver({"running": [...]})
    reader = RecordReader.open(location)      # no lock, writes nothing, sees what is appended
    reader.trials()

NAME holds the searched trials and NAME@full the finalists, both as ordinary Optuna studies:
optuna.load_study and optuna-dashboard show them with objectives, constraints and attributes.
"""

import contextlib
import gc
import json
import os
import platform
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from search._journal import GuardedJournal, clear_stale_lock, trim_torn_tail
from search._lock import DriverLock, FileLock, Held, LockLost, NoLock, PostgresLock
from search._optuna_space import FAILED_VIOLATION, distributions, params_of
from search._storage import (
    FORMAT_ATTRIBUTE,
    StorageUnreadable,
    drive_database,
    drive_journal,
    read_database,
    read_journal,
    sqlite_path,
)
from search.location import StudyLocation, storage_flag
from search.spec import StudySpec
from spaces import (
    InvalidRequest,
    Judge,
    Knob,
    ModelProfile,
    SearchSpace,
    StorageLost,
    StudyBroken,
    Trial,
    format_order,
)

__all__ = ["DriverState", "Record", "RecordReader", "refuse_taken"]

FORMAT_VERSION = 1
#: The driver shows what runs at most this often.
BEAT_S = 5.0
#: Without a beat for this long the driver is taken for dead.
DEAD_AFTER_S = 30.0
#: What may differ when a study is resumed: how much of the same is asked for, and what is said.
_MAY_CHANGE = ("trials", "notes")

#: The keys of `Judge.violations`.
_CONSTRAINTS = ("size_bytes", "download_bytes", "latency_ms", "metric")

#: How Optuna kept constraints before 5.0. optuna-dashboard 0.21 looks at no others, and would draw
#: every trial as feasible. Optuna 5 reads both: each excess counted twice changes no comparison.
_OLD_CONSTRAINTS = "constraints"

_SPEC, _PROFILE, _SPACE, _FORMAT = "spec", "profile", "space", FORMAT_ATTRIBUTE
_DRIVER, _TEST_PREFIX, _TRIAL = "driver", "test:", "trial"
_OPTIMISM_PREFIX = "optimism:"
_FINALISTS_OF = "finalists_of"

State = Literal["running", "finished", "resumable"]


@dataclass(frozen=True)
class DriverState:
    """What a reader knows of the driver.

    Attributes:
        state: "running", "finished", or "resumable": it stopped, or no beat for 30 s.
        beat_age_s: seconds since the last beat; None if it never wrote one.
        payload: what it last wrote: pid, host, beat (seconds since the epoch) and its own keys.
    """

    state: State
    beat_age_s: float | None
    payload: Mapping[str, Any]


class RecordReader:
    """A study as others see it; every call sees what has been written meanwhile. Thread-safe."""

    def __init__(self, location: StudyLocation, storage: BaseStorage) -> None:
        self.location = location
        self._storage = storage
        self._guard = threading.Lock()
        self._parsed: dict[str, list[Trial]] = {}
        #: What this process wrote itself and has not seen in the storage yet: not parsed again.
        self._written: dict[tuple[str, int], Trial] = {}
        with _reading(location):
            self._studies = {
                name: storage.get_study_id_from_name(name)
                for name in (location.study, location.full_study)
            }
        attrs = self._attributes()
        version = attrs[_FORMAT]
        if version != FORMAT_VERSION:
            raise StudyBroken(
                f"study {location}: its record has format {version}, this version reads "
                f"{FORMAT_VERSION}; open it with the version that wrote it"
            )
        self.profile = ModelProfile.from_dict(attrs[_PROFILE])
        self.space = _space_from(attrs[_SPACE], self.profile)

    @classmethod
    def open(cls, location: StudyLocation) -> "RecordReader":
        """Open a study for reading.

        Raises:
            InvalidRequest: no such study; the message lists the known ones.
            StudyBroken: the record is damaged, or of another version.
        """
        try:
            with _without_collector():
                storage = _read_storage(location)
        except StorageUnreadable as error:
            _refuse_missing(location)
            raise StudyBroken(f"study {location}: {error}") from None
        if not _is_complete(storage, location):
            raise _missing(location)
        return cls(location, storage)

    @property
    def spec(self) -> StudySpec:
        """What was asked for; `trials` grows when a resumed study asks for more."""
        return StudySpec.from_dict(self._attributes()[_SPEC])

    @property
    def judge(self) -> Judge:
        """What makes the study's trials comparable."""
        spec = self.spec
        return Judge(spec.metric, spec.budget, self.profile, spec.secondary)

    def trials(self) -> list[Trial]:
        """Of the search fidelity, failed ones included, in record order."""
        return self._trials(self.location.study)

    def finalists(self) -> list[Trial]:
        """Of the full fidelity, in record order; numbered on their own."""
        return self._trials(self.location.full_study)

    def counts(self) -> tuple[int, int]:
        """(searched trials, finalists) written so far, without reading what is in them."""
        searched, full = (self._studies[n] for n in (self.location.study, self.location.full_study))
        with _reading(self.location):
            return self._storage.get_n_trials(searched), self._storage.get_n_trials(full)

    def test_scores(self) -> dict[str, Mapping[str, Any]]:
        """Identity key -> test scores of that trial, for those which were asked for."""
        return {
            key.removeprefix(_TEST_PREFIX): value
            for key, value in self._attributes().items()
            if key.startswith(_TEST_PREFIX)
        }

    def optimism(self) -> dict[str, float]:
        """Identity key of a pick -> what its choice flatters its validation metric by."""
        return {
            key.removeprefix(_OPTIMISM_PREFIX): float(value)
            for key, value in self._attributes().items()
            if key.startswith(_OPTIMISM_PREFIX)
        }

    def driver_state(self) -> DriverState:
        """Whether a driver is at work."""
        payload = self._attributes().get(_DRIVER)
        if payload is None:
            return DriverState("resumable", None, {})
        age_s = max(0.0, time.time() - payload["beat"])
        state: State = payload["state"]
        if state == "running" and age_s > DEAD_AFTER_S:
            state = "resumable"
        return DriverState(state, age_s, payload)

    def _attributes(self) -> dict[str, Any]:
        # The storage, not Study.user_attrs: that deep-copies profile and scores at every call.
        with _reading(self.location):
            return self._storage.get_study_user_attrs(self._studies[self.location.study])

    def _trials(self, name: str) -> list[Trial]:
        with self._guard:
            return list(self._caught_up(name))

    def _count(self, name: str) -> int:
        """How many trials there are by now."""
        with self._guard:
            return len(self._caught_up(name))

    def _caught_up(self, name: str) -> list[Trial]:
        """All that are written by now; not to be kept nor changed. The caller has the guard."""
        with _reading(self.location), _present(self.location):
            parsed = self._parsed.setdefault(name, [])
            with _without_collector():
                for trial in self._unread(self._studies[name], len(parsed)):
                    own = self._written.pop((name, trial.number), None)
                    parsed.append(own or self._parse(name, trial))
                    # The storage keeps its trials for ever, and this was most of each.
                    del trial.user_attrs[_TRIAL]
            return parsed

    def _unread(self, study_id: int, known: int) -> list[FrozenTrial]:
        """The trials from number `known` on, as the storage has them."""
        storage = self._storage
        if known == 0 or self.location.is_database:
            # No copies: copying 5,000 trials takes longer than reading them.
            return storage.get_all_trials(study_id, deepcopy=False)[known:]
        # Asked one by one a journal need not go through all it knows, which takes longer than
        # writing a trial does; a database would answer each with a query.
        found: list[FrozenTrial] = []
        with contextlib.suppress(KeyError):
            while True:
                number = known + len(found)
                trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
                found.append(storage.get_trial(trial_id))
        return found

    def _parse(self, name: str, frozen: FrozenTrial) -> Trial:
        if _TRIAL not in frozen.user_attrs:
            raise StudyBroken(
                f"study {self.location}: trial {frozen.number} of {name} was not written by this "
                "product; a record takes no trials from elsewhere"
            )
        return Trial.from_dict(frozen.user_attrs[_TRIAL])


class Record(RecordReader):
    """A study as its one driver has it: open until `close`, or to the end of its `with` block.

    Attributes:
        notices: what opening it repaired or could not guarantee, for the user.
    """

    def __init__(self, location: StudyLocation, storage: BaseStorage, access: "_Access") -> None:
        super().__init__(location, storage)
        self.notices: Sequence[str] = tuple(access.notices)
        self._access = access
        self._spec = super().spec
        self._last_beat_s = float("-inf")
        self._is_closed = False
        self._distributions = distributions(self.space)
        self._optuna = {
            name: optuna.load_study(
                study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler()
            )
            for name in (self._studies if access.journal is None else ())
        }
        self._keys = {t.identity.key for t in [*self.trials(), *self.finalists()]}

    @property
    def spec(self) -> StudySpec:
        """What was asked for."""
        return self._spec

    @classmethod
    def create(
        cls,
        location: StudyLocation,
        spec: StudySpec,
        profile: ModelProfile,
        space: SearchSpace,
    ) -> "Record":
        """Make a study and drive it.

        Raises:
            InvalidRequest: it exists already, ours or not, or its folder or database cannot be
                written.
            StudyBroken: another driver is making it, or the disk failed.
        """
        if spec.name != location.study:
            raise ValueError(f"spec.name is {spec.name!r}, but the study is {location.study!r}")
        try:
            if not location.is_database:
                location.folder.mkdir(parents=True, exist_ok=True)
            access = _Access(location)
        except StorageUnreadable as error:
            raise InvalidRequest(f"--storage {location.place}: {error}") from None
        except OSError as error:
            raise InvalidRequest(
                f"--storage {location.place}: cannot be written: {error.strerror}"
            ) from None
        with access.released_on_error(), _writing(location, "make the study"):
            storage = access.storage
            _refuse_taken(storage, location)
            _write_head(storage, location, spec, profile, space)
            return cls(location, storage, access)

    @classmethod
    def open(cls, location: StudyLocation, spec: StudySpec | None = None) -> "Record":
        """Drive a study that exists.

        Args:
            location: where it is.
            spec: what is asked for now, if anything new. Only `trials` may differ.

        Raises:
            InvalidRequest: no such study; the message lists the known ones.
            StudyBroken: another driver has it, it belongs to another spec, or the disk failed.
        """
        _refuse_missing(location)
        with _writing(location, "open it"):
            try:
                access = _Access(location)
            except StorageUnreadable as error:
                raise StudyBroken(f"study {location}: {error}") from None
            with access.released_on_error():
                if not _is_complete(access.storage, location):
                    raise _missing(location)
                record = cls(location, access.storage, access)
                if spec is not None:
                    record._take_spec(spec)
                return record

    def append(self, trial: Trial) -> Trial:
        """Write a finished trial; when this returns, no crash can lose it.

        The fidelity says which of the two studies takes it.

        Returns:
            The trial with its number in that study (whatever number it came with).

        Raises:
            StudyBroken: the disk or the database failed; everything before is kept. Or somebody
                has deleted the study.
            ValueError: the identity is recorded already, or the fidelity is not the study's.
        """
        key = trial.identity.key
        if key in self._keys:
            raise ValueError(f"{key} is recorded already; no identity is evaluated twice")
        name = self._study_of(trial)
        numbered = replace(trial, number=self._count(name))
        with _writing(self.location, f"write trial {numbered.number}"), _present(self.location):
            frozen = self._freeze(numbered)
            if self._access.journal is None:
                self._optuna[name].add_trial(frozen)
            else:
                self._access.journal.append_trial(self._studies[name], frozen)
        self._written[name, numbered.number] = numbered
        self._keys.add(key)
        # A database has said so itself; asking it takes a query of all trials.
        if self._access.journal is not None and self._count(name) <= numbered.number:
            raise _deleted(self.location)
        return numbered

    def append_all(self, trials: Sequence[Trial]) -> list[Trial]:
        """As `append`, one after the other, with no other writer in between."""
        journal = self._access.journal
        locked = contextlib.nullcontext() if journal is None else journal.locked()
        with _writing(self.location, "write trials"), locked:
            return [self.append(trial) for trial in trials]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Trials appended in the block are safe from any kill at once, and on the disk at its end.

        Raises:
            StudyBroken: the disk failed.
        """
        journal = self._access.journal
        if journal is None:  # a database has its own transactions
            yield
            return
        try:
            journal.begin_together()
            yield
        finally:
            with _writing(self.location, "write trials"):
                journal.end_together()

    def write_driver(self, payload: Mapping[str, Any], *, force: bool = False) -> None:
        """Show readers what runs. Writes at most every 5 s, unless forced; call it freely.

        Args:
            payload: JSON-ready, small; pid, host, beat and state are added.
            force: write now.
        """
        now_s = time.monotonic()
        if force or now_s - self._last_beat_s >= BEAT_S:
            self._last_beat_s = now_s
            self._write_driver_state("running", payload)

    def write_test_scores(self, identity_key: str, scores: Mapping[str, Any]) -> None:
        """Keep a trial's test scores: beside the trial, because a finished trial never changes."""
        if identity_key not in self._keys:
            raise ValueError(f"{identity_key} is not recorded, so it has no test scores")
        self._set_attribute(_TEST_PREFIX + identity_key, dict(scores))

    def write_optimism(self, identity_key: str, value: float) -> None:
        """Keep what a pick's choice flatters its validation metric by."""
        if identity_key not in self._keys:
            raise ValueError(f"{identity_key} is not recorded, so it was not chosen")
        self._set_attribute(_OPTIMISM_PREFIX + identity_key, value)

    def close(self, *, is_finished: bool = False) -> None:
        """Say how it ended and let the next driver in. A second call does nothing.

        Args:
            is_finished: the asked number of trials and the finalists are there; readers see
                "finished", otherwise "resumable" at once.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._write_driver_state("finished" if is_finished else "resumable", {})
        finally:
            self._access.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        # What broke the block must not be hidden by what it also breaks here.
        with contextlib.suppress(StudyBroken):
            self.close()

    def _take_spec(self, spec: StudySpec) -> None:
        recorded, asked = (json.loads(each.to_json()) for each in (self._spec, spec))
        differing = [key for key in recorded if recorded[key] != asked[key]]
        refused = [key for key in differing if key not in _MAY_CHANGE]
        if refused:
            key = refused[0]
            raise StudyBroken(
                f"study {self.location}: belongs to another request: {', '.join(refused)} "
                f"changed ({key} was {recorded[key]!r}, is {asked[key]!r}); resume it unchanged "
                "or choose another --study"
            )
        if differing:
            self._set_attribute(_SPEC, spec.to_dict())
            self._spec = spec

    def _study_of(self, trial: Trial) -> str:
        spec, fidelity = self.spec, trial.identity.fidelity
        if fidelity == spec.fidelity:
            return self.location.study
        if fidelity == spec.full_fidelity:
            return self.location.full_study
        raise ValueError(
            f"fidelity must be {spec.fidelity} or {spec.full_fidelity}, but got {fidelity}"
        )

    def _freeze(self, trial: Trial) -> FrozenTrial:
        measurement = trial.measurement
        attributes: dict[str, Any] = {
            "policy": trial.policy.digest,
            "order": format_order(trial.policy.order),
            "origin": trial.origin,
            "feasible": self.judge.is_feasible(trial),
            _TRIAL: trial.to_dict(),
        }
        if measurement is None:
            attributes["failure"] = str(trial.outcome)
            violations = dict.fromkeys(_CONSTRAINTS, FAILED_VIOLATION)
            values, seconds = None, 0.0
        else:
            violations = self.judge.violations(measurement)
            values = [measurement.metric, measurement.size_bytes, measurement.latency.median_ms]
            seconds = sum(measurement.seconds.values())
        # Not `create_trial`: it checks each distribution for being of an older Optuna, which takes
        # longer than writing the trial does.
        params = params_of(self.space, trial.policy)
        frozen = FrozenTrial(
            number=trial.number,
            trial_id=-1,
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            value=None,
            values=values,
            datetime_start=_local(trial.finished_at - seconds),
            datetime_complete=_local(trial.finished_at),
            params=params,
            distributions=self._distributions if params else {},
            user_attrs=attributes,
            system_attrs={**trial.sampler_attrs, _OLD_CONSTRAINTS: list(violations.values())},
            intermediate_values={},
        )
        for name, violation in violations.items():
            frozen.set_constraint(name, violation)
        return frozen

    def _write_driver_state(self, state: State, payload: Mapping[str, Any]) -> None:
        content = {
            **payload,
            "pid": os.getpid(),
            "host": platform.node(),
            "beat": time.time(),
            "state": state,
        }
        self._set_attribute(_DRIVER, content)

    def _set_attribute(self, key: str, value: object) -> None:
        with _writing(self.location, f"write {key}"), _present(self.location):
            self._storage.set_study_user_attr(self._studies[self.location.study], key, value)


class _Access:
    """The lock of a study and its storage, repaired and opened for writing.

    Raises:
        StudyBroken: another driver has it.
        StorageUnreadable, OSError: it cannot be opened.
    """

    def __init__(self, location: StudyLocation) -> None:
        self.notices: list[str] = []
        self.lock: DriverLock = NoLock()
        self.journal: GuardedJournal | None = None
        try:
            if location.is_database:
                self.storage = self._open_database(location)
            else:
                self.storage = self._open_journal(location)
        except Held as held:
            raise StudyBroken(
                f"study {location}: {held} drives it; a study has one driver at a time"
            ) from None
        except BaseException:
            self.lock.release()
            raise

    def release(self) -> None:
        """Let the next driver in."""
        self.storage.remove_session()
        self.lock.release()

    def _open_journal(self, location: StudyLocation) -> BaseStorage:
        journal = location.journal_path
        self.lock = FileLock(location.folder / "driver.lock")
        if journal.exists():
            notices = (clear_stale_lock(journal), trim_torn_tail(journal))
            self.notices += [notice for notice in notices if notice]
        storage, self.journal = drive_journal(journal)
        return storage

    def _open_database(self, location: StudyLocation) -> BaseStorage:
        file = sqlite_path(location.storage)
        if file is not None:
            self.lock = FileLock(file.with_name(f"{file.name}.{location.study}.lock"))
            return drive_database(location.storage)[0]
        storage, database = drive_database(location.storage)
        if database.engine.dialect.name == "postgresql":
            self.lock = PostgresLock(database.engine, location.study)
        else:
            self.notices.append(
                f"{database.engine.dialect.name}: this database is not protected against two "
                "drivers of one study; make sure that only one runs"
            )
        return storage

    @contextlib.contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Let the next driver in if the block fails."""
        try:
            yield
        except BaseException:
            self.release()
            raise


def _write_head(
    storage: BaseStorage,
    location: StudyLocation,
    spec: StudySpec,
    profile: ModelProfile,
    space: SearchSpace,
) -> None:
    """Both Optuna studies and what readers need.

    The format version goes last: a study without it was never finished being made, is no study to
    anyone, and is made anew here.
    """
    metric = spec.metric
    names = [metric.name, "size_bytes", "latency_ms"]
    first = StudyDirection.MAXIMIZE if metric.higher_is_better else StudyDirection.MINIMIZE
    directions = [first, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
    studies = []
    for name in (location.study, location.full_study):
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=directions,
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(),
        )
        with warnings.catch_warnings():
            # The names are what dashboards write on their axes.
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(names)
        studies.append(study)
    search, full = studies
    full.set_user_attr(_FINALISTS_OF, location.study)
    knobs = [asdict(knob) for knob in space.knobs]
    for key, value in (
        (_SPEC, spec.to_dict()),
        (_PROFILE, profile.to_dict()),
        (_SPACE, knobs),
        (_FORMAT, FORMAT_VERSION),
    ):
        search.set_user_attr(key, value)


def _space_from(knobs: Sequence[Mapping[str, Any]], profile: ModelProfile) -> SearchSpace:
    return SearchSpace(
        [Knob(knob["name"], tuple(knob["choices"]), knob["ordered"]) for knob in knobs], profile
    )


def _is_complete(storage: BaseStorage, location: StudyLocation) -> bool:
    with _reading(location):
        try:
            study_id = storage.get_study_id_from_name(location.study)
            return _FORMAT in storage.get_study_user_attrs(study_id)
        except KeyError:
            return False


def refuse_taken(location: StudyLocation) -> None:
    """Refuse a study whose name is not free, before anybody works for it.

    Raises:
        InvalidRequest: it exists already, as ours or as somebody else's Optuna study.
        StudyBroken: the record is damaged.
    """
    try:
        storage = _read_storage(location)
    except StorageUnreadable as error:
        if location.study in StudyLocation.list_studies(location.storage):
            raise StudyBroken(f"study {location}: {error}") from None
        return
    _refuse_taken(storage, location)


def _refuse_taken(storage: BaseStorage, location: StudyLocation) -> None:
    if _is_complete(storage, location):
        raise InvalidRequest(
            f"--study {location.study}: exists already in {location.place}; `search resume` goes "
            "on with it, or choose another name"
        )
    with _reading(location):
        for study in storage.get_all_studies():
            if study.study_name in (location.study, location.full_study) and not (
                _is_begun(study.directions, study.user_attrs)
                and storage.get_n_trials(study._study_id) == 0
            ):
                raise InvalidRequest(
                    f"--study {location.study}: {location.place} holds an Optuna study "
                    f"{study.study_name!r} that is not of this product; choose another name"
                )


def _is_begun(directions: Sequence[StudyDirection], attributes: Iterable[str]) -> bool:
    """Whether a study looks as one of ours whose making was cut short."""
    is_ours = set(attributes) <= {_SPEC, _PROFILE, _SPACE, _FINALISTS_OF}
    return is_ours and len(directions) == 3 and [*directions[1:]] == [StudyDirection.MINIMIZE] * 2


def _read_storage(location: StudyLocation) -> BaseStorage:
    if location.is_database:
        return read_database(location.storage)
    return read_journal(location.journal_path)


def _refuse_missing(location: StudyLocation) -> None:
    if location.study not in StudyLocation.list_studies(location.storage):
        raise _missing(location)


def _missing(location: StudyLocation) -> InvalidRequest:
    names = [n for n in StudyLocation.list_studies(location.storage) if n != location.study]
    known = f"known: {', '.join(names)}" if names else "it holds no other study"
    return InvalidRequest(f"--study {location.study}: not in {location.place}; {known}")


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """No search for garbage while a record is read.

    Reading makes millions of objects and no garbage; going through them again and again takes
    longer than the reading.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _local(seconds: float) -> datetime:
    """Naive local time, as Optuna keeps it."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().replace(tzinfo=None)


# SQLAlchemy's: of a rollback, which Optuna lets through.
_STORAGE_ERRORS = (OSError, StorageInternalError, SQLAlchemyError)


@contextlib.contextmanager
def _reading(location: StudyLocation) -> Iterator[None]:
    """Errors of the storage while reading -> StudyBroken."""
    try:
        yield
    except _STORAGE_ERRORS as error:
        _raise_lost(location, "read it", error)
        raise StudyBroken(f"study {location}: cannot be read: {_cause(error)}") from error
    except ValueError as error:  # json.JSONDecodeError, as Optuna lets it through
        raise StudyBroken(f"study {location}: its record is damaged: {error}") from error


@contextlib.contextmanager
def _writing(location: StudyLocation, doing: str) -> Iterator[None]:
    """Errors of the disk or the database while writing -> StudyBroken."""
    try:
        yield
    except _STORAGE_ERRORS as error:
        _raise_lost(location, doing, error)
        raise StudyBroken(
            f"study {location}: cannot {doing}: {_cause(error)}; what was recorded before is "
            "intact, so repair the cause and resume"
        ) from error


@contextlib.contextmanager
def _present(location: StudyLocation) -> Iterator[None]:
    """Optuna's answer for a study that it does not know any more -> StudyBroken."""
    try:
        yield
    except KeyError as error:
        raise _deleted(location) from error


def _deleted(location: StudyLocation) -> StudyBroken:
    return StudyBroken(f"study {location}: somebody has deleted it from the storage")


def _raise_lost(location: StudyLocation, doing: str, error: Exception) -> None:
    """StorageLost, if that is what happened: a database's server that does not answer any more."""
    if not location.is_database or sqlite_path(location.storage) is not None:
        return
    cut_off = next(filter(_is_cut_off, _chain(error)), None)
    if cut_off is not None:
        raise StorageLost(
            f"--storage {location.place}: the database is gone, cannot {doing}: {_line(cut_off)}; "
            "what was recorded before is intact; when it answers again, go on with: "
            f"search resume {location.study}{storage_flag(location.place)}"
        ) from error


def _is_cut_off(error: BaseException) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, OperationalError | LockLost)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it: Optuna's second try and a rollback hide the first reason."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _cause(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return _line(error.__cause__ or error)


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
