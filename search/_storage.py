"""Optuna storages, opened for reading or for the one driver."""

import contextlib
import hashlib
import re
import time
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from search._journal import GuardedJournal, LeanJournal

__all__ = [
    "FORMAT_ATTRIBUTE",
    "StorageMissing",
    "StorageUnreadable",
    "database_digest",
    "drive_database",
    "drive_journal",
    "read_database",
    "read_journal",
    "sqlite_path",
    "study_names",
    "without_password",
]

#: The attribute of an Optuna study that makes it a study of ours; written last.
FORMAT_ATTRIBUTE = "format_version"
#: A driver tries a database so often more, after so many seconds each, while others set it up.
TABLE_TRIES = 5
TABLE_PAUSE_S = 0.2


class StorageUnreadable(Exception):
    """A storage cannot be opened; the text says why, in one line and without a password."""


class StorageMissing(StorageUnreadable):
    """There is no such file yet."""


def drive_journal(path: Path) -> tuple[BaseStorage, GuardedJournal]:
    """A journal for the one driver: (what to use, its file, made if missing)."""
    journal = GuardedJournal(path)
    return _journal(journal, path), journal


def read_journal(path: Path) -> BaseStorage:
    """A journal for a reader, who writes nothing.

    Raises:
        StorageUnreadable: it is missing (StorageMissing), not readable or damaged in the middle.
    """
    if not path.is_file():  # Optuna would make one
        raise StorageMissing(f"no such file: {path}")
    return _journal(LeanJournal(str(path)), path)


def _journal(backend: JournalFileBackend, path: Path) -> BaseStorage:
    try:
        return JournalStorage(backend)
    except OSError as error:
        raise StorageUnreadable(f"{error.strerror}: {path}") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise StorageUnreadable(f"{path} is damaged and cannot be parsed: {error}") from error


def sqlite_path(url: str) -> Path | None:
    """The database's file; None of another kind of database.

    Raises:
        StorageUnreadable: not a URL, or a database in memory, which would not outlive the driver.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if parsed.database in (None, "", ":memory:"):
        raise StorageUnreadable("a database in memory does not keep a study; name a file")
    return Path(str(parsed.database))


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (SQLAlchemyError, ValueError) as error:  # ValueError: of a port that is no number
        # The text may hold the URL.
        raise StorageUnreadable(without_password(_first_line(error))) from None


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    masked = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&](?:password|passwd|sslpassword)=)[^&]*", r"\1***", masked)


def database_digest(url: str) -> str:
    """8 hexadecimal digits of which database this is, whatever the password or the driver."""
    try:
        file, parsed = sqlite_path(url), _parse(url)
        name = parsed.get_backend_name()
        shown = without_password(parsed.set(drivername=name).render_as_string(hide_password=True))
        place = shown if file is None else f"sqlite:{file.resolve()}"
    except StorageUnreadable:  # whoever opens it will say so
        place = without_password(url)
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def drive_database(url: str) -> tuple[BaseStorage, RDBStorage]:
    """A database for the one driver: (what to use, what holds its engine).

    Raises:
        StorageUnreadable: no such database, no driver module installed, no rights, ...
    """
    sqlite_path(url)
    return _database(url, is_reader=False)


def read_database(url: str) -> BaseStorage:
    """A database for a reader, who makes no tables.

    Raises:
        StorageUnreadable: as above, or it holds no Optuna tables.
    """
    file = sqlite_path(url)
    if file is not None and not file.exists():  # SQLite would make one
        raise StorageMissing(f"no such file: {file}")
    return _database(url, is_reader=True)[0]


def _database(url: str, *, is_reader: bool) -> tuple[BaseStorage, RDBStorage]:
    try:
        if is_reader and not _has_tables(url):
            raise StorageMissing("holds no studies yet")
        database = RDBStorage(url, skip_table_creation=True) if is_reader else _with_tables(url)
    except ImportError as error:
        reason = f"its driver is not installed ({error.name or _first_line(error)})"
        raise StorageUnreadable(reason) from None
    except (SQLAlchemyError, OSError, RuntimeError, ValueError) as error:
        raise StorageUnreadable(_first_line(error)) from None
    except optuna.exceptions.StorageInternalError as error:
        raise StorageUnreadable(_first_line(error.__cause__ or error)) from None
    return get_storage(database), database


def _with_tables(url: str) -> RDBStorage:
    for _ in range(TABLE_TRIES):
        # Other drivers may be making the tables of a new database: the database refuses all but
        # one of them, each table on its own.
        with contextlib.suppress(IntegrityError, ProgrammingError):
            return RDBStorage(url)
        time.sleep(TABLE_PAUSE_S)
    return RDBStorage(url)


def _has_tables(url: str) -> bool:
    """Whether Optuna has made all of its tables; what it writes last says so.

    It would go on making them for a reader too, beside a driver that is just at it, and the
    database would then refuse one of both.
    """
    engine = create_engine(url)
    try:
        if not inspect(engine).has_table("alembic_version"):
            return False
        with engine.connect() as connection:
            return connection.execute(text("SELECT 1 FROM alembic_version")).first() is not None
    finally:
        engine.dispose()


def study_names(storage: BaseStorage) -> list[str]:
    """The studies of ours, in the order of creation; a database may hold anybody's."""
    studies = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    return [study.study_name for study in studies if FORMAT_ATTRIBUTE in study.user_attrs]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
