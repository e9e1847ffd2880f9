"""A trial by the name a URL or a reader gives it."""

from dashboards.app.library import Snapshot
from spaces import Trial

__all__ = ["find", "name_of", "same_policy"]

_SUFFIX = "@full"


def find(snapshot: Snapshot, name: str) -> Trial | None:
    """`"17"` or `"3@full"`; None when there is no such trial (yet)."""
    digits = name.strip().lstrip("#").removesuffix(_SUFFIX)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        return None
    trials = snapshot.finalists if name.strip().endswith(_SUFFIX) else snapshot.trials
    number = int(digits)
    return trials[number] if number < len(trials) else None


def name_of(snapshot: Snapshot, trial: Trial) -> str:
    """What `search show` takes."""
    is_finalist = trial.number < len(snapshot.finalists) and (
        snapshot.finalists[trial.number].identity.key == trial.identity.key
    )
    return f"{trial.number}{_SUFFIX}" if is_finalist else str(trial.number)


def same_policy(snapshot: Snapshot, trial: Trial) -> list[str]:
    """Names of the other runs of a trial's policy: another fidelity, other random numbers."""
    digest = trial.identity.policy_digest
    found = []
    for trials, suffix in ((snapshot.trials, ""), (snapshot.finalists, _SUFFIX)):
        found += [
            f"{other.number}{suffix}"
            for other in trials
            if other.identity.policy_digest == digest and other.identity.key != trial.identity.key
        ]
    return found
