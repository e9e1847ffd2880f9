"""Where a study lives: `--storage` and `--study` -> paths, or a database."""

import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from search._storage import (
    FORMAT_ATTRIBUTE,
    StorageMissing,
    StorageUnreadable,
    database_digest,
    read_database,
    study_names,
    without_password,
)
from search.spec import FULL_SUFFIX
from spaces import InvalidRequest

__all__ = ["DEFAULT_STORAGE", "StudyLocation", "storage_flag"]

DEFAULT_STORAGE = "search-runs"
#: Safe as a folder, in a URL and in front of `@full`.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_JOURNAL = "record.journal"
#: What makes a study stands in fewer lines than these.
HEAD_LINES = 50


@dataclass(frozen=True, slots=True)
class StudyLocation:
    """One study in one storage.

    Attributes:
        storage: a folder, or the URL of a database (it contains "://").
        study: its name: letters, digits and `._-`, starting with a letter or digit.
    """

    storage: str
    study: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.study):
            raise InvalidRequest(
                "--study must be 1 to 100 letters, digits or ._- and start with a letter or "
                f"digit, but got {self.study!r}"
            )
        if not self.storage:
            raise InvalidRequest("--storage must be a folder or a database URL, but got ''")

    @property
    def is_database(self) -> bool:
        """Whether the record lives in a database rather than in a journal file."""
        return _is_database(self.storage)

    @property
    def folder(self) -> Path:
        """The study's folder; with a database it holds only files, and is that database's own."""
        if self.is_database:
            return Path(DEFAULT_STORAGE) / f"{self.study}-{database_digest(self.storage)}"
        return _root(self.storage) / self.study

    @property
    def journal_path(self) -> Path:
        """The journal file of a record in a folder."""
        return self.folder / _JOURNAL

    @property
    def artifacts_dir(self) -> Path:
        """Where the files of non-dominated trials are kept."""
        return self.folder / "artifacts"

    @property
    def full_study(self) -> str:
        """The Optuna study of the finalists."""
        return self.study + FULL_SUFFIX

    @property
    def place(self) -> str:
        """The storage as messages name it: without a password."""
        return without_password(self.storage)

    def __str__(self) -> str:
        return f"{self.study} in {self.place}"

    @staticmethod
    def list_studies(storage: str) -> list[str]:
        """Names of the studies in a storage, sorted; none if there is no such storage yet.

        Raises:
            InvalidRequest: the database cannot be read.
        """
        if _is_database(storage):
            try:
                return sorted(study_names(read_database(storage)))
            except StorageMissing:
                return []
            except StorageUnreadable as error:
                raise InvalidRequest(f"--storage {without_password(storage)}: {error}") from None
        return sorted(path.parent.name for path in _root(storage).glob(f"*/{_JOURNAL}"))

    @classmethod
    def latest(cls, storage: str) -> "StudyLocation":
        """The study written last; in a database, the one created last.

        Raises:
            InvalidRequest: there is no study.
        """
        if _is_database(storage):
            is_there = cls.list_studies(storage)  # says what is wrong with it, too
            names = study_names(read_database(storage)) if is_there else []
        else:
            journals = [p for p in _root(storage).glob(f"*/{_JOURNAL}") if _was_made(p)]
            written = sorted((path.stat().st_mtime, path.parent.name) for path in journals)
            names = [name for _, name in written]
        if not names:
            raise InvalidRequest(
                f"--storage {without_password(storage)}: holds no study; `search run` makes one"
            )
        return cls(storage, names[-1])


def _was_made(journal: Path) -> bool:
    """False for a study whose driver died while it made the record: it is no study to anyone."""
    with journal.open("rb") as lines:
        key = f'"{FORMAT_ATTRIBUTE}"'.encode()
        return any(key in line for line in itertools.islice(lines, HEAD_LINES))


def _is_database(storage: str) -> bool:
    return "://" in storage


def _root(storage: str) -> Path:
    return Path(storage).expanduser()


def storage_flag(storage: str) -> str:
    """What a command needs to find a study again: `" --storage runs"`, "" for the default.

    Args:
        storage: `StudyLocation.place`, because commands are shown: a password is left to the user.
    """
    return "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(storage)}"
