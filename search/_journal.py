"""A journal file that survives kill -9 and a full disk.

Optuna's journal is one JSON document a line. Two things go wrong with it: a line cut short by a
crash is glued to the next line, after which the whole study cannot be parsed; and the lock file
of a killed writer stalls the next write for 30 s. What is here undoes both.
"""

import contextlib
import json
import os
import time
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial

__all__ = ["GuardedJournal", "LeanJournal", "clear_stale_lock", "trim_torn_tail"]

#: A live writer holds Optuna's lock for milliseconds; older locks belong to the dead.
STALE_LOCK_S = 3


#: What only others ask Optuna for: a trial of ours stands whole in its attributes.
_UNREAD = ("params", "distributions")


class LeanJournal(JournalFileBackend):
    """Optuna's journal file read without the trials' parameters, which stay in the file.

    With 60 knobs Optuna makes 60 objects a trial of them: three quarters of the reading time.
    """

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The operations from this line on; Optuna only iterates over them."""
        for log in super().read_logs(log_number_from):
            for key in _UNREAD:
                log.pop(key, None)
            yield log


class _Lock(JournalFileSymlinkLock):
    """Optuna's lock, whose release lets Ctrl-C through.

    An interrupt while it lets go makes Optuna remove a file that is gone, and that error would
    hide the interrupt. A lock that was left so is taken over after the grace period.
    """

    def __init__(self, path: Path) -> None:
        # Absolute: the lock is a link to this place, and Optuna asks for the age of what a link
        # leads to. From beside the journal a relative one leads nowhere, and nobody takes it over.
        super().__init__(str(path.absolute()), grace_period=STALE_LOCK_S)

    def release(self) -> None:
        """Let go.

        Raises:
            KeyboardInterrupt: it came meanwhile.
        """
        try:
            super().release()
        except FileNotFoundError as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise
        except RuntimeError:
            # Not ours any more: this process stood still for so long that another writer took the
            # lock over. What was written is whole.
            return


class _OwnLine(NamedTuple):
    """A trial's line as it was written last, which its own writer need not read again.

    Attributes:
        begin, end: bytes of the file.
        log: the operation as `LeanJournal` would give it, but for values that JSON changes, such
            as tuples; a trial's own dict has none.
    """

    begin: int
    end: int
    log: dict[str, Any]


class GuardedJournal(LeanJournal):
    """A journal file whose appends happen whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # optuna-dashboard also writes here (notes), so the lock stays Optuna's own.
        super().__init__(str(path), _Lock(path))
        self._is_together = self._is_unflushed = self._has_lock = False
        self._distributions: Mapping[str, BaseDistribution] = {}
        self._distributions_json = "{}"
        self._own: _OwnLine | None = None

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """See `LeanJournal.read_logs`; opens nothing where nothing but an own trial is new.

        Optuna asks before it answers anything, several times a trial. Only a driver may go by the
        size alone: on a network file system another's is known late, unless the file is opened.
        """
        size_bytes = self._path.stat().st_size
        begin = self._log_number_offset.get(log_number_from)
        if begin == size_bytes:
            return
        own = self._own
        if own is not None and (begin, size_bytes) == (own.begin, own.end):
            self._own = None
            self._log_number_offset[log_number_from + 1] = own.end
            yield own.log
        else:
            yield from super().read_logs(log_number_from)

    def begin_together(self) -> None:
        """Until `end_together` appended lines reach the file, but not surely the disk.

        A flush takes longer than all else of an append. What a killed process has written stays:
        only a crash of the machine could lose the lines in between.
        """
        self._is_together = True

    def end_together(self) -> None:
        """One flush for the lines since `begin_together`.

        Raises:
            OSError: the disk failed.
        """
        self._is_together = False
        if self._is_unflushed:
            self._is_unflushed = False
            with self._path.open("ab", buffering=0) as file:
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """For several lines in a row, which takes longer to get than a line takes to write.

        Nothing slow may be in the block: other writers wait, and break the lock in the end.
        """
        if self._has_lock:
            yield
            return
        self._lock.acquire()
        self._has_lock = True
        try:
            yield
        finally:
            self._has_lock = False
            self._lock.release()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """One JSON line each; on an error of the disk the file is as it was before."""
        self._append("".join(f"{_line(log)}\n" for log in logs))

    def append_trial(self, study_id: int, trial: FrozenTrial) -> None:
        """The line of Optuna's `Study.add_trial`, but for who wrote it, in a third of its time.

        Optuna checks each parameter, and makes the JSON of each distribution anew: with dozens of
        knobs that is most of the work, and the same for every trial of a study.

        Args:
            study_id: Optuna's.
            trial: finished, of several objectives, and valid, which nobody checks here: finite
                values by `Measurement`, parameters that are offered by `SearchSpace.encode`.

        Raises:
            OSError: the disk failed.
        """
        assert trial.state.is_finished()
        if trial.distributions is not self._distributions:
            each = {name: distribution_to_json(x) for name, x in trial.distributions.items()}
            # Both or none: parameters beside another trial's distributions could not be read.
            self._distributions, self._distributions_json = trial.distributions, _line(each)
        log = {
            "op_code": JournalOperation.CREATE_TRIAL,
            "worker_id": f"driver-{os.getpid()}",
            "study_id": study_id,
            "state": trial.state,
            "value": None,
            "values": trial.values,
            "datetime_start": _utc(trial.datetime_start),
            "datetime_complete": _utc(trial.datetime_complete),
            "user_attrs": trial.user_attrs,
            "system_attrs": trial.system_attrs,
            "intermediate_values": {},
        }
        params = {
            name: trial.distributions[name].to_internal_repr(value)
            for name, value in trial.params.items()
        }
        line = _line({**log, "params": params})
        text = f'{line[:-1]},"distributions":{self._distributions_json}}}\n'
        self._own = _OwnLine(*self._append(text), log)

    def _append(self, text: str) -> tuple[int, int]:
        """Whole lines; from where to where in the file they are."""
        lines = text.encode()
        with self.locked():
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND)
            try:
                size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
                if size_bytes and os.pread(descriptor, 1, size_bytes - 1) != b"\n":
                    # A dashboard killed while it wrote a note has torn the last line meanwhile.
                    trim_torn_tail(self._path)
                    size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
                try:
                    _write_all(descriptor, lines)
                    if self._is_together:
                        self._is_unflushed = True
                    else:
                        os.fsync(descriptor)
                except OSError:
                    # If even this fails, the next opening trims.
                    with contextlib.suppress(OSError):
                        os.ftruncate(descriptor, size_bytes)
                    raise
                return size_bytes, size_bytes + len(lines)
            finally:
                os.close(descriptor)


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _utc(local: datetime | None) -> str | None:
    return None if local is None else local.astimezone(UTC).isoformat(timespec="microseconds")


def _write_all(descriptor: int, data: bytes) -> None:
    """`os.write` until nothing is left: a disk that fills up takes a part first."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def trim_torn_tail(journal: Path) -> str:
    """Cut the file after its last complete line; the removed bytes are kept in JOURNAL.torn.

    Returns:
        What was done, in one sentence; "" if the journal was whole.
    """
    with journal.open("r+b") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        whole_bytes = _whole_bytes(file.fileno(), size_bytes)
        if whole_bytes == size_bytes:
            return ""
        torn = os.pread(file.fileno(), size_bytes - whole_bytes, whole_bytes)
        aside = journal.with_name(journal.name + ".torn")
        # On a full disk the cut matters more than the copy of a half-written line.
        with contextlib.suppress(OSError), aside.open("ab") as copy:
            copy.write(torn + b"\n")
        file.truncate(whole_bytes)
        os.fsync(file.fileno())
    return (
        f"{journal}: the last line was cut short, as by a crash while it was written; "
        f"removed its {len(torn)} bytes (kept in {aside.name}), every line before it is there"
    )


def _whole_bytes(descriptor: int, size_bytes: int, block_bytes: int = 1 << 16) -> int:
    """Where the last complete line ends, searched from the end: the file may be large."""
    end = size_bytes
    while end > 0:
        start = max(0, end - block_bytes)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def clear_stale_lock(journal: Path) -> str:
    """Remove the lock file of a killed writer. Call it only as the one driver.

    Returns:
        What was done, in one sentence; "" if there was nothing to do.
    """
    lock = journal.with_name(journal.name + ".lock")
    deadline = time.monotonic() + STALE_LOCK_S
    while os.path.lexists(lock):
        try:
            age_s = time.time() - lock.lstat().st_mtime
        except FileNotFoundError:  # its owner is alive, and has just let go
            return ""
        if age_s > STALE_LOCK_S or time.monotonic() > deadline:
            lock.unlink(missing_ok=True)
            return f"{journal}: removed the lock file of a writer that is gone"
        time.sleep(0.05)
    return ""
