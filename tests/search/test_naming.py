"""Names lead back to what they name; refusals say what there is."""

from pathlib import Path

import pytest

from search.naming import find_trial, storage_flag, trial_name
from search.record import Record
from spaces import InvalidRequest
from tests.search.simulated import create
from tests.simulator import FIDELITY, FULL_FIDELITY, simulate

SIM = simulate(2)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Three trials and one finalist."""
    with create(SIM, tmp_path) as made:
        trials = [made.append(trial) for trial in SIM.random_trials(3)]
        made.append(SIM.trial(0, trials[2].policy, fidelity=FULL_FIDELITY))
        return made


def test_every_name_leads_back_to_its_trial(record: Record) -> None:
    names = []
    for trial in [*record.trials(), *record.finalists()]:
        names.append(trial_name(trial, FULL_FIDELITY, FIDELITY))
        assert find_trial(record, names[-1]) == trial
        assert find_trial(record, f"#{names[-1]}") == trial
    assert names == ["0", "1", "2", "0@full"]


def test_without_a_full_fidelity_there_are_only_numbers(record: Record) -> None:
    assert trial_name(record.trials()[1], FIDELITY, FIDELITY) == "1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3", "trial 3: sim has trials 0 to 2"),
        ("1@full", "trial 1@full: sim has finalists 0 to 0"),
        ("best", "trial must be a number as 17, or 3@full, but got 'best'"),
        ("-1", "trial must be a number as 17, or 3@full, but got '-1'"),
        ("1@half", "trial must be a number as 17, or 3@full, but got '1@half'"),
        ("", "trial must be a number as 17, or 3@full, but got ''"),
    ],
)
def test_refusals_say_what_there_is(record: Record, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        find_trial(record, text)
    assert str(refusal.value) == said


def test_a_pick_has_names_too(record: Record) -> None:
    with pytest.raises(InvalidRequest, match="--pick must be best, smallest, fastest, a number"):
        find_trial(record, "largest", "--pick")


def test_a_study_without_trials(tmp_path: Path) -> None:
    with create(SIM, tmp_path) as empty, pytest.raises(InvalidRequest, match="trials none yet"):
        find_trial(empty, "0")


@pytest.mark.parametrize(
    ("place", "flag"),
    [
        ("search-runs", ""),
        ("runs", " --storage runs"),
        ("my runs", " --storage 'my runs'"),
        ("postgresql://me:***@db/x", " --storage 'postgresql://me:***@db/x'"),
    ],
)
def test_what_a_command_needs_to_find_a_study(place: str, flag: str) -> None:
    assert storage_flag(place) == flag
