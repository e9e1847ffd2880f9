"""How a search went: hypervolume and the best feasible metric over its trials."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures.axes import metric_axis, padded
from dashboards.text import plot_text
from dashboards.theme import Theme, template
from spaces import Metric

__all__ = ["ProgressInfo", "draw_progress", "progress_info"]


class ProgressInfo(NamedTuple):
    """Everything the progress plot shows.

    Attributes:
        metric: of the lower panel.
        finished: (trials,), 1 for the first trial.
        hypervolume: (trials,), of the feasible trials so far.
        best_metric: (trials,), the best feasible so far; NaN before the first.
        baseline_metric: drawn as a line.
    """

    metric: Metric
    finished: np.ndarray
    hypervolume: np.ndarray
    best_metric: np.ndarray
    baseline_metric: float


def progress_info(progress: pd.DataFrame, metric: Metric, baseline_metric: float) -> ProgressInfo:
    """From `dashboards.tables.progress_table`."""
    return ProgressInfo(
        metric=metric,
        finished=progress["finished"].to_numpy(dtype=float),
        hypervolume=progress["hypervolume"].to_numpy(dtype=float),
        best_metric=progress["best_metric"].to_numpy(dtype=float),
        baseline_metric=baseline_metric,
    )


def draw_progress(info: ProgressInfo, theme: Theme) -> go.Figure:
    """Two panels over the number of finished trials."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    step = {"shape": "hv", "color": theme.front, "width": 2}
    figure.add_scatter(
        x=info.finished,
        y=info.hypervolume,
        mode="lines",
        line=step,
        fill="tozeroy",
        fillcolor=theme.fill,
        name="hypervolume",
        hovertemplate="after %{x} trials: %{y:.4g}<extra></extra>",
        row=1,
        col=1,
    )
    number = "%{y:.2%}" if info.metric.unit == "share" else "%{y:.4g}"
    figure.add_scatter(
        x=info.finished,
        y=info.best_metric,
        mode="lines",
        line=step,
        name="best feasible",
        hovertemplate=f"after %{{x}} trials: {number}<extra></extra>",
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
    figure.update_xaxes(title_text="finished trials", row=2, col=1)
    return figure
