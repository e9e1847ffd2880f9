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
