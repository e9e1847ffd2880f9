"""A token in a folder tells whether two machines see the same one."""

import time
from pathlib import Path

import pytest

from evaluators import shared_folder
from evaluators.shared_folder import check_token, leave_token, left_token
from spaces import InvalidRequest, StudyBroken


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "PATIENCE_S", 0.3)


def test_the_same_folder(tmp_path: Path) -> None:
    token = leave_token(tmp_path / "study")
    check_token(tmp_path / "study", token)
    assert left_token(tmp_path / "study") == token


def test_another_folder_under_the_same_path(tmp_path: Path) -> None:
    """As a node sees it that mounts nothing there, or something else."""
    first = leave_token(tmp_path)
    leave_token(tmp_path)
    started = time.monotonic()
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidRequest, match=r"--storage: node \S+ does not see the driver's"):
            check_token(folder, first)
    assert time.monotonic() - started < 5


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyBroken, match="cannot write to"):
        leave_token(tmp_path / "file" / "study")
