"""Lines: whole, as Optuna writes them, flushed together; Ctrl-C while the lock is let go."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna import create_study, load_study
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from search._journal import GuardedJournal, LeanJournal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a journal without a line."""
    path = tmp_path / "record.journal"
    path.touch()
    return path


def finished(
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    *,
    failed: bool = False,
    user_attrs: dict[str, Any] | None = None,
) -> FrozenTrial:
    """A trial of three seconds as the record gives it to Optuna."""
    began = datetime(2026, 3, 29, 1, 59, 59, 123456, UTC).replace(tzinfo=None)  # as Optuna has it
    return FrozenTrial(
        number=0,
        trial_id=-1,
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        value=None,
        values=None if failed else [0.98, 4808, 1.5],
        datetime_start=began,
        datetime_complete=began + timedelta(seconds=3),
        params=params,
        distributions=distributions,
        user_attrs={"trial": {"a": [1, 2.5, None]}} if user_attrs is None else user_attrs,
        system_attrs={"constraints": [0.0, -1.0]},
        intermediate_values={},
    )


@pytest.mark.parametrize("is_absolute", [True, False])
@pytest.mark.parametrize("done_before", [True, False])
def test_ctrl_c_while_the_lock_is_let_go_is_ctrl_c(
    done_before: bool, is_absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna would answer "No such file or directory"; the line is whole and the next follows.

    A lock that was left is taken over, wherever the journal is said to lie.
    """
    monkeypatch.chdir(tmp_path)
    path = Path("runs/study/record.journal")
    path.parent.mkdir(parents=True)
    path.touch()
    path = path.absolute() if is_absolute else path
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


def test_together_is_one_flush(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is in the file at once, where no kill of this process can reach it."""
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


def test_the_lock_is_taken_once_for_lines_in_a_row(path: Path) -> None:
    lock = Path(f"{path}.lock")
    journal = GuardedJournal(path)
    with journal.locked():
        for number in range(2):
            journal.append_logs([{"op": number}])
            assert lock.is_symlink()
    assert not lock.is_symlink()
    with pytest.raises(ZeroDivisionError), journal.locked():
        raise ZeroDivisionError
    assert not lock.is_symlink()


def test_a_lock_that_another_has_broken_costs_no_line(path: Path) -> None:
    """This process stood still, and whoever waited went on without it."""
    journal = GuardedJournal(path)
    with journal.locked():
        journal.append_logs([{"op": 0}])
        Path(f"{path}.lock").unlink()
        LeanJournal(str(path)).append_logs([{"op": "note"}])
        journal.append_logs([{"op": 1}])
    journal.append_logs([{"op": 2}])
    assert [log["op"] for log in journal.read_logs(0)] == [0, "note", 1, 2]


def test_a_full_disk_leaves_no_lock_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = GuardedJournal(path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            journal.append_logs([{"op": 0}])
        assert not os.path.lexists(f"{path}.lock")
        with pytest.raises(OSError, match="No space"), journal.locked():
            journal.append_logs([{"op": 0}])
        assert not os.path.lexists(f"{path}.lock")
    journal.append_logs([{"op": 1}])
    assert [log["op"] for log in journal.read_logs(0)] == [1]


@pytest.mark.parametrize("failed", [False, True])
def test_a_trial_is_written_as_optuna_writes_it(failed: bool, tmp_path: Path) -> None:
    """Another process's Optuna must read it, so it is the same line but for who wrote it."""
    distributions: dict[str, BaseDistribution] = {
        "order": CategoricalDistribution(("none", "prune>cluster", None)),
        "fc1:bits": IntDistribution(0, 8),
    }
    user_attrs = {"trial": {"a": [1, 2.5, None]}, "name": 'a "quote" é'}
    params = {"order": "prune>cluster", "fc1:bits": 3}
    trial = finished(params, distributions, failed=failed, user_attrs=user_attrs)
    lines = []
    for name in ("theirs", "ours"):
        path = tmp_path / name
        path.touch()
        journal = GuardedJournal(path)
        storage = JournalStorage(journal)
        study = create_study(storage=storage, study_name="s", directions=["minimize"] * 3)
        if name == "theirs":
            study.add_trial(trial)
            study.add_trial(trial)
        else:
            journal.append_trial(study._study_id, trial)
            journal.append_trial(study._study_id, trial)
        logs = [json.loads(line) for line in path.read_text().splitlines()[-2:]]
        assert all(log.pop("worker_id") for log in logs)
        lines.append(logs)
        read = load_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="s")
        assert [t.params for t in read.trials] == [trial.params] * 2
        assert [t.values for t in read.trials] == [trial.values] * 2
    assert lines[0] == lines[1]


def test_distributions_may_change_from_trial_to_trial(path: Path) -> None:
    """A policy outside of the space has none."""
    journal = GuardedJournal(path)
    known: dict[str, BaseDistribution] = {"x": IntDistribution(0, 3)}
    none: dict[str, BaseDistribution] = {}
    for params, distributions in (({"x": 1}, known), ({}, none), ({"x": 2}, known)):
        journal.append_trial(0, finished(dict(params), distributions))
    logs = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(log["params"], [*log["distributions"]]) for log in logs] == [
        ({"x": 1.0}, ["x"]),
        ({}, []),
        ({"x": 2.0}, ["x"]),
    ]


def test_the_writer_does_not_read_its_own_trial_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows it, as long as nobody else has written; what it knows is what others read."""
    journal = GuardedJournal(path)
    trial = finished({"x": 1}, {"x": IntDistribution(0, 3)})

    def theirs() -> list[dict[str, object]]:
        return [*LeanJournal(str(path)).read_logs(0)]

    def ours(known: int) -> list[dict[str, object]]:
        return [*journal.read_logs(known)]

    opened: list[object] = []
    real = LeanJournal.read_logs

    def counted(self: LeanJournal, known: int) -> Iterator[dict[str, object]]:
        if self is journal:
            opened.append(known)
        yield from real(self, known)

    monkeypatch.setattr(LeanJournal, "read_logs", counted)
    for number in range(3):
        journal.append_trial(0, trial)
        assert ours(number) == theirs()[number:]
    assert not opened
    # Somebody else's line behind ours: both are read from the file.
    journal.append_trial(0, trial)
    LeanJournal(str(path)).append_logs([{"op": "note"}])
    assert ours(3) == theirs()[3:]
    assert opened == [3]
    # And before ours.
    LeanJournal(str(path)).append_logs([{"op": "note"}])
    journal.append_trial(0, trial)
    assert ours(5) == theirs()[5:]
    assert opened == [3, 5]
    journal.append_trial(0, trial)
    assert ours(7) == theirs()[7:]
    assert opened == [3, 5]


def test_each_line_is_read_once(path: Path) -> None:
    writer, reader = GuardedJournal(path), LeanJournal(str(path))
    for journal in (writer, reader):
        seen = len(path.read_text().splitlines())
        assert len([*journal.read_logs(0)]) == seen
        for number in range(3):
            assert not [*journal.read_logs(seen)]
            writer.append_logs([{"op": number}, {"op": -number}])
            assert [log["op"] for log in journal.read_logs(seen)] == [number, -number]
            seen += 2


def test_a_driver_opens_no_journal_in_which_nothing_is_new(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = GuardedJournal(path)
    journal.append_logs([{"op": 1}])
    assert len([*journal.read_logs(0)]) == 1
    opened: list[object] = []
    monkeypatch.setattr("builtins.open", lambda *how: opened.append(how))
    assert not [*journal.read_logs(1)]
    assert not opened
    monkeypatch.undo()
    # Somebody else's line, cut short: it is looked at, and counts once it is whole.
    with path.open("a") as file:
        file.write('{"op":')
    assert not [*journal.read_logs(1)]
    with path.open("a") as file:
        file.write("2}\n")
    assert [log["op"] for log in journal.read_logs(1)] == [2]
