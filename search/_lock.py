"""One driver a study: locks that the operating system or the database lets go when it dies."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import threading
from pathlib import Path
from typing import IO, Protocol

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

__all__ = ["DriverLock", "FileLock", "Held", "LockLost", "NoLock", "PostgresLock"]


class DriverLock(Protocol):
    """Held from its construction to `release`."""

    def release(self) -> None:
        """Let the next driver in; a second call does nothing."""
        ...


class Held(Exception):
    """Someone else holds the lock; the text names them."""


class LockLost(SQLAlchemyError):
    """The session that held the lock ended, and with it the right to write."""


def _holder_text(pid: object, host: object) -> str:
    """How another driver is named in messages."""
    return f"process {pid} on {host}"


# A forked worker shares the driver's open files, so a surviving worker of a killed driver would
# keep the lock. Children therefore close it; closing a copy does not unlock.
_held_files: set[IO[str]] = set()


def _close_in_child() -> None:
    while _held_files:
        _held_files.pop().close()


os.register_at_fork(after_in_child=_close_in_child)


class FileLock:
    """flock on a file which names its holder.

    Raises:
        Held: another process, or another record of this one, has it.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = _parse_holder(file.read())
            file.close()
            raise Held(holder) from None
        except OSError:
            file.close()
            raise
        self._file = file
        _held_files.add(file)
        # Only for messages: on a full disk the lock holds all the same.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": platform.node()}))
            file.flush()

    def release(self) -> None:
        """Let the next driver in. The file stays: removing it would race with its next holder."""
        if not self._file.closed:
            _held_files.discard(self._file)
            fcntl.flock(self._file, fcntl.LOCK_UN)
            with contextlib.suppress(OSError):  # what could not be flushed is only a name
                self._file.close()


def _parse_holder(content: str) -> str:
    try:
        holder = json.loads(content)
        return _holder_text(holder["pid"], holder["host"])
    except (ValueError, KeyError, TypeError):
        return "another process"  # between locking and writing its name


class PostgresLock:
    """A session-level advisory lock: it ends with the connection, so with the driver.

    It ends with the server too, and Optuna tries a write that failed again: on a server that came
    back meanwhile that could write a trial twice (the first write may have been done and only its
    answer lost), beside another driver. So once the lock's session has ended the engine opens no
    further connection.

    Raises:
        Held: another session has it.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        digest = hashlib.sha256(f"compression-search/{study}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        # AUTOCOMMIT: an open transaction would pin the database's oldest snapshot for days.
        self._connection: Connection = engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        )
        query = text("SELECT pg_try_advisory_lock(:key)")
        if not self._connection.execute(query, {"key": key}).scalar():
            self._connection.close()
            raise Held("another session of this database")
        self._engine, self._guard = engine, threading.Lock()
        event.listen(engine, "connect", self._check)

    def _check(self, *_: object) -> None:
        """Called with each new connection of the engine.

        Raises:
            LockLost: the lock's own is gone.
        """
        with self._guard:
            try:
                # A connection that was found broken would be made anew: without the lock.
                is_held = not self._connection.invalidated
                if is_held:
                    self._connection.execute(text("SELECT 1"))
            except SQLAlchemyError:
                is_held = False
        if not is_held:
            raise LockLost("the session that locks the study has ended")

    def release(self) -> None:
        """Let the next driver in."""
        event.remove(self._engine, "connect", self._check)
        # Not close(): that would hand the session, lock and all, back to the pool.
        with contextlib.suppress(SQLAlchemyError):  # the server is gone, and the lock with it
            self._connection.invalidate()
            self._connection.close()


class NoLock:
    """Where the database offers nothing; the record says so in its notices."""

    def release(self) -> None:
        """Nothing to let go."""
