"""How a search went: hypervolume and the best feasible metric over its trials or its cost."""

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures.axes import metric_axis, padded
from dashboards.text import plot_text
from dashboards.theme import Theme, template
from spaces import Metric

__all__ = ["ProgressInfo", "draw_progress", "progress_info"]


Over = Literal["trials", "seconds"]
#: More vertices than a screen has columns show nothing more.
MAX_VERTICES = 2000


class ProgressInfo(NamedTuple):
    """Everything the progress plot shows. Where trials are left out, the curves stay the same.

    Attributes:
        metric: of the lower panel.
        over: what the horizontal axis counts: finished trials, or seconds of evaluation.
        finished: (points,), 1 for the first trial.
        seconds: (points,), of evaluation spent so far, summed over workers.
        hypervolume: (points,), of the feasible trials so far.
        best_metric: (points,), the best feasible so far; NaN before the first.
        baseline_metric: drawn as a line.
    """

    metric: Metric
    over: Over
    finished: np.ndarray
    seconds: np.ndarray
    hypervolume: np.ndarray
    best_metric: np.ndarray
    baseline_metric: float


def progress_info(
    progress: pd.DataFrame,
    metric: Metric,
    baseline_metric: float,
    over: Over = "trials",
    max_vertices: int = MAX_VERTICES,
) -> ProgressInfo:
    """From `dashboards.tables.progress_table`.

    Args:
        progress: one row a trial.
        metric: of the study.
        baseline_metric: of the uncompressed network.
        over: what the horizontal axis counts.
        max_vertices: with more trials, only those where a curve steps and some between them are
            kept. Every step is kept, were there more of them than this.
    """
    rows = progress.iloc[_kept(progress, max_vertices)]
    return ProgressInfo(
        metric=metric,
        over=over,
        finished=rows["finished"].to_numpy(dtype=float),
        seconds=rows["seconds"].to_numpy(dtype=float),
        hypervolume=rows["hypervolume"].to_numpy(dtype=float),
        best_metric=rows["best_metric"].to_numpy(dtype=float),
        baseline_metric=baseline_metric,
    )


def _kept(progress: pd.DataFrame, max_vertices: int) -> np.ndarray:
    """Positions of the rows to draw, ascending; the first and the last are among them."""
    count = len(progress)
    if count <= max_vertices:
        return np.arange(count)
    steps = np.zeros(count, dtype=bool)
    steps[[0, -1]] = True
    for name in ("hypervolume", "best_metric"):
        # NaN, before anything was feasible, is a value here: NaN to NaN is no step.
        values = progress[name].astype(float).fillna(-np.inf).to_numpy()
        steps[1:] |= values[1:] != values[:-1]
    # Only a vertex answers the mouse: what is left of them lies evenly on the flat parts.
    flat = np.flatnonzero(~steps)
    spare = min(max_vertices - int(steps.sum()), len(flat))
    if spare > 0:
        steps[flat[np.linspace(0, len(flat) - 1, spare).astype(int)]] = True
    return np.flatnonzero(steps)


#: (at least so many seconds, name, seconds in it), the largest first.
_UNITS = ((7200.0, "hours", 3600.0), (120.0, "minutes", 60.0), (0.0, "seconds", 1.0))


def _horizontal(info: ProgressInfo) -> tuple[np.ndarray, str, str]:
    """Where the points lie, the axis's title, and what a point says of where it lies."""
    if info.over == "trials":
        return info.finished, "finished trials", "after %{x:,} trials"
    longest = float(info.seconds.max()) if len(info.seconds) else 0.0
    _, unit, seconds = next(row for row in _UNITS if longest >= row[0])
    place = f"after %{{x:.3~g}} {unit}, %{{customdata:,}} trials"
    return info.seconds / seconds, f"compute {unit}, summed over workers", place


def draw_progress(info: ProgressInfo, theme: Theme) -> go.Figure:
    """Two panels over the number of finished trials, or over what they cost."""
    x, title, place = _horizontal(info)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    step = {"shape": "hv", "color": theme.front, "width": 2}
    figure.add_scatter(
        x=x,
        customdata=info.finished,
        y=info.hypervolume,
        mode="lines",
        line=step,
        fill="tozeroy",
        fillcolor=theme.fill,
        name="hypervolume",
        hovertemplate=f"{place}: %{{y:.4g}}<extra></extra>",
        row=1,
        col=1,
    )
    number = "%{y:.2%}" if info.metric.unit == "share" else "%{y:.4g}"
    figure.add_scatter(
        x=x,
        customdata=info.finished,
        y=info.best_metric,
        mode="lines",
        line=step,
        name="best feasible",
        hovertemplate=f"{place}: {number}<extra></extra>",
        row=2,
        col=1,
    )
    known = info.best_metric[np.isfinite(info.best_metric)]
    figure.add_hline(
        y=info.baseline_metric,
        line={"color": theme.muted, "width": 1, "dash": "dash"},
        annotation={
            "text": plot_text(f"baseline {info.metric.format(info.baseline_metric)}"),
            "font": {"color": theme.muted, "size": 11},
        },
        row=2,
        col=1,
    )
    figure.update_layout(template=template(theme), height=460, showlegend=False)
    figure.update_yaxes(title_text="hypervolume", rangemode="tozero", row=1, col=1)
    limits = padded(np.append(known, info.baseline_metric), 0.15)
    axis = metric_axis(info.metric, limits)
    axis["title"] = {"text": plot_text(f"best feasible {info.metric.name}")}
    figure.update_yaxes(**axis, row=2, col=1)
    figure.update_xaxes(title_text=title, row=2, col=1)
    return figure
