"""Which finalist of a study a bench reports on: chosen on validation, before any test score."""

from collections.abc import Callable, Sequence

from spaces import Measurement, Trial

__all__ = ["measured", "winner"]


def measured(trial: Trial) -> Measurement:
    """The measurement of a trial known to have one."""
    assert trial.measurement is not None
    return trial.measurement


def winner(
    finalists: Sequence[Trial],
    keeps: Callable[[Trial], bool],
    bytes_of: Callable[[Trial], int] = lambda trial: measured(trial).size_bytes,
) -> Trial:
    """The smallest measured finalist that keeps the goal; else the one of the highest metric.

    Args:
        finalists: of the study, failed ones too.
        keeps: whether a measured trial keeps the goal.
        bytes_of: what "smallest" counts.
    """
    found = [t for t in finalists if t.measurement is not None]
    kept = [t for t in found if keeps(t)]
    return min(kept, key=bytes_of) if kept else max(found, key=lambda t: measured(t).metric)
