"""`--storage` and `--study` to paths."""

import os
import re
from pathlib import Path

import optuna
import pytest

from search.location import DEFAULT_STORAGE, StudyLocation
from search.record import Record
from spaces import InvalidRequest
from tests.simulator import simulate


def make(storage: str, study: str) -> None:
    sim = simulate(3, study=study)
    location = StudyLocation(storage, study)
    Record.create(location, sim.spec, sim.profile, sim.space).close()


def test_a_folder(tmp_path: Path) -> None:
    location = StudyLocation(str(tmp_path), "lenet")
    assert location.journal_path == tmp_path / "lenet" / "record.journal"
    assert location.artifacts_dir == tmp_path / "lenet" / "artifacts"
    assert not location.is_database
    assert location.full_study == "lenet@full"


def test_a_database_keeps_its_artifacts_in_the_default_folder() -> None:
    """In a folder that no other database and no folder study has."""
    location = StudyLocation("postgresql://me:secret@db:5432/runs", "lenet")
    assert location.is_database
    assert location.artifacts_dir == location.folder / "artifacts"
    assert location.folder.parent == Path(DEFAULT_STORAGE)
    assert re.fullmatch(r"lenet-[0-9a-f]{8}", location.folder.name)


@pytest.mark.parametrize(
    ("url", "other", "is_same"),
    [
        ("postgresql://me:a@db/runs", "postgresql://me:b@db/runs", True),
        ("postgresql://me:a@db/runs", "postgresql+psycopg2://me@db/runs?password=b", False),
        ("postgresql://db/x?password=a", "postgresql+psycopg2://db/x?password=b", True),
        ("postgresql://me:a@db/runs", "postgresql://me:a@db/other", False),
        ("postgresql://me:a@db/runs", "postgresql://me:a@db2/runs", False),
        ("sqlite:///a.db", "sqlite:///b.db", False),
        ("sqlite:///a.db", "sqlite:///./x/../a.db", True),
        ("sqlite:///a.db", "sqlite:///{here}/a.db", True),
    ],
)
def test_every_database_has_its_own_folder(
    url: str, other: str, is_same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {StudyLocation(x.format(here=tmp_path), "a").folder for x in (url, other)}
    assert (len(folders) == 1) == is_same


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:se:cr@et@db/runs", "postgresql+psycopg://me:***@db/runs"),
        ("postgresql://db/x?password=secret&a=b", "postgresql://db/x?password=***&a=b"),
        ("sqlite:///a.db", "sqlite:///a.db"),
    ],
)
def test_messages_never_show_the_password(url: str, shown: str) -> None:
    assert str(StudyLocation(url, "lenet")) == f"lenet in {shown}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "/abs",
        "a@full",
        "-x",
        ".hidden",
        "a b",
        "ä",
        "a\n",
        "a" * 101,
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="--study must be"):
        StudyLocation("runs", name)


@pytest.mark.parametrize("name", ["a", "lenet-300.100_v2", "0", "a" * 100])
def test_names_that_are_fine(name: str) -> None:
    assert StudyLocation("runs", name).folder == Path("runs") / name


def test_studies_are_listed_and_the_last_written_is_found(tmp_path: Path) -> None:
    storage = str(tmp_path)
    assert StudyLocation.list_studies(storage) == []
    assert StudyLocation.list_studies(str(tmp_path / "missing")) == []
    with pytest.raises(InvalidRequest, match="holds no study"):
        StudyLocation.latest(storage)
    for name in ("b", "a"):
        make(storage, name)
    (tmp_path / "not-a-study").mkdir()
    os.utime(tmp_path / "a" / "record.journal", (1, 1))
    assert StudyLocation.list_studies(storage) == ["a", "b"]
    assert StudyLocation.latest(storage) == StudyLocation(storage, "b")


def test_studies_of_a_database(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/runs.db"
    assert StudyLocation.list_studies(storage) == []
    assert list(tmp_path.iterdir()) == []  # looking does not make one
    (tmp_path / "runs.db").touch()
    assert StudyLocation.list_studies(storage) == []
    for name in ("b", "a"):
        make(storage, name)
    assert StudyLocation.list_studies(storage) == ["a", "b"]
    assert StudyLocation.latest(storage).study == "a"


def test_other_peoples_studies_of_a_database(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/runs.db"
    optuna.create_study(study_name="theirs", storage=storage)
    assert StudyLocation.list_studies(storage) == []
    with pytest.raises(InvalidRequest, match="holds no study"):
        StudyLocation.latest(storage)
    make(storage, "ours")
    optuna.create_study(study_name="later", storage=storage)
    assert StudyLocation.list_studies(storage) == ["ours"]
    assert StudyLocation.latest(storage).study == "ours"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nosuch://host/db", "nosuch"),
        ("sqlite://", "in memory"),
        ("postgresql://me:secret@host:port/db", "invalid literal|URL"),
        ("oracle+cx_oracle://me:secret@host/db", "not installed"),
    ],
)
def test_a_database_that_cannot_be_opened_is_explained(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        StudyLocation.list_studies(url)
    assert "secret" not in str(caught.value)
