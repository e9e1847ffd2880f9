"""`--storage` and `--study` to paths."""

import os
from pathlib import Path

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
    location = StudyLocation("postgresql://me:secret@db:5432/runs", "lenet")
    assert location.is_database
    assert location.artifacts_dir == Path(DEFAULT_STORAGE) / "lenet" / "artifacts"


def test_messages_never_show_the_password() -> None:
    location = StudyLocation("postgresql+psycopg://me:se:cr@et@db/runs", "lenet")
    assert str(location) == "lenet in postgresql+psycopg://me:***@db/runs"


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


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nosuch://host/db", "nosuch"),
        ("sqlite://", "in memory"),
        ("oracle+cx_oracle://me:secret@host/db", "not installed"),
    ],
)
def test_a_database_that_cannot_be_opened_is_explained(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        StudyLocation.list_studies(url)
    assert "secret" not in str(caught.value)
