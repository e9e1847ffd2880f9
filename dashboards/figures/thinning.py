"""Points that would hide each other share one mark, so that ten thousand stay quick to draw."""

import numpy as np

__all__ = ["CELLS", "thin"]

#: Cells across and down what is shown: some 12 x 7 pixels each on a wide page.
CELLS = (90, 55)


def thin(
    x: np.ndarray,
    y: np.ndarray,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    cells: tuple[int, int] = CELLS,
    *,
    is_log_x: bool = True,
    higher_is_better: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """One point a grid cell: the best `y`, of equal ones the first.

    What lies outside of the shown range has a grid of its own over the whole range, because a
    reader may zoom out: it is coarser there, and never empty where there are points.

    `x = [1, 1, 100], y = [.8, .9, .9]` in one view of 1..100 -> `([1, 2], [2, 1])`

    Args:
        x, y: (points,), finite; x above 0 on a log axis.
        x_range, y_range: what is shown, in the data's units.
        cells: across, down.
        is_log_x: whether the cells are equally wide in the logarithm of x.
        higher_is_better: which y is the best.

    Returns:
        The points that are drawn, ascending, and how many each stands for, itself included.
    """
    if len(x) == 0:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    inside = (x >= x_range[0]) & (x <= x_range[1]) & (y >= y_range[0]) & (y <= y_range[1])
    wide, high = (float(x.min()), float(x.max())), (float(y.min()), float(y.max()))
    across = np.where(
        inside, _cell(x, x_range, cells[0], is_log_x), _cell(x, wide, cells[0], is_log_x)
    )
    down = np.where(inside, _cell(y, y_range, cells[1]), _cell(y, high, cells[1]))
    cell = (across * cells[1] + down) * 2 + inside
    # Sorted by cell, the best first; lexsort is stable, so of equals the first stays first.
    order = np.lexsort((-y if higher_is_better else y, cell))
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    counts = np.diff(starts, append=len(x))
    chosen = order[starts]
    by_place = np.argsort(chosen)
    return chosen[by_place], counts[by_place]


def _cell(
    values: np.ndarray, limits: tuple[float, float], count: int, is_log: bool = False
) -> np.ndarray:
    """0..count - 1; what is outside of the limits is in the first or last one."""
    low, high = limits
    if is_log:
        values, low, high = np.log(values), float(np.log(low)), float(np.log(high))
    if not high > low:
        return np.zeros(len(values), dtype=np.intp)
    cell: np.ndarray = np.clip((values - low) / (high - low) * count, 0, count - 1)
    return cell.astype(np.intp)
