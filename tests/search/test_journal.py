"""Ctrl-C at the worst instant: while the journal's lock is let go."""

import os
from pathlib import Path

import pytest

from search._journal import GuardedJournal


@pytest.mark.parametrize("done_before", [True, False])
def test_ctrl_c_while_the_lock_is_let_go_is_ctrl_c(
    done_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna would answer "No such file or directory"; the line is whole and the next follows."""
    path = tmp_path / "record.journal"
    path.touch()
    journal = GuardedJournal(path)
    name = "unlink" if done_before else "rename"
    real = getattr(os, name)

    def interrupted(*places: str) -> None:
        monkeypatch.setattr(os, name, real)
        if done_before:
            real(*places)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append_logs([{"op": 1}])
    journal.append_logs([{"op": 2}])
    assert [log["op"] for log in journal.read_logs(0)] == [1, 2]


def test_together_is_one_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is in the file at once, where no kill of this process can reach it."""
    path = tmp_path / "record.journal"
    path.touch()
    journal = GuardedJournal(path)
    flushes: list[int] = []
    monkeypatch.setattr(os, "fsync", flushes.append)
    journal.begin_together()
    for number in range(3):
        journal.append_logs([{"op": number}])
        assert path.read_text().count("\n") == number + 1
    assert not flushes
    journal.end_together()
    assert len(flushes) == 1
    journal.append_logs([{"op": 3}])
    assert len(flushes) == 2
    journal.begin_together()
    journal.end_together()
    assert len(flushes) == 2
