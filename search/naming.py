"""How a study and its trials are named in commands, in URLs and in messages, and found again."""

import re

from search.location import storage_flag
from search.record import RecordReader
from spaces import InvalidRequest, Trial

__all__ = ["find_trial", "storage_flag", "trial_name"]


def trial_name(trial: Trial, full_fidelity: int, search_fidelity: int) -> str:
    """`"17"`, or `"3@full"` of a finalist; what `find_trial` takes."""
    is_full = trial.identity.fidelity == full_fidelity != search_fidelity
    return f"{trial.number}@full" if is_full else str(trial.number)


def find_trial(record: RecordReader, text: str, what: str = "trial") -> Trial:
    """`"17"` or `"3@full"` -> the trial.

    Args:
        record: the study's.
        text: as the user wrote it.
        what: the argument that messages name.

    Raises:
        InvalidRequest: another form, or no such trial.
    """
    match = re.fullmatch(r"#?([0-9]{1,9})(@full)?", text)
    if match is None:
        known = "best, smallest, fastest, " if what == "--pick" else ""
        raise InvalidRequest(f"{what} must be {known}a number as 17, or 3@full, but got {text!r}")
    trials = record.finalists() if match[2] else record.trials()
    number = int(match[1])
    if number >= len(trials):
        kind = "finalists" if match[2] else "trials"
        last = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise InvalidRequest(f"{what} {text}: {record.spec.name} has {kind} {last}")
    return trials[number]
