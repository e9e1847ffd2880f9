"""Which knobs go with the metric, and which with the bytes."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.parts import LEGEND_BELOW, counted, empty_figure, hatching, percent
from dashboards.text import plot_text
from dashboards.theme import Theme, template
from search.analysis import LEAST_TRIALS
from spaces import Metric

__all__ = ["ImportanceInfo", "draw_importance", "importance_info"]

_ROW_HEIGHT = 34
#: Room for "100 %" at a bar's end.
_END = 1.15


class ImportanceInfo(NamedTuple):
    """Everything the importance plot shows.

    Attributes:
        metric: whose loss the first bar is about.
        labels: "fc1 sparsity", "order", ...: the knobs, most important for the metric first.
        on_loss, on_size: (knobs,), shares of variance, 0 to 1.
        trials: (knobs,), how many stand behind each.
        hidden: knobs with a choice that are not among them.
        words: what the numbers are and are not; or why there are none.
    """

    metric: Metric
    labels: tuple[str, ...]
    on_loss: np.ndarray
    on_size: np.ndarray
    trials: np.ndarray
    hidden: int
    words: str


def importance_info(
    knobs: pd.DataFrame, metric: Metric, finished: int, limit: int = 15
) -> ImportanceInfo:
    """From `insight_tables.importance_frame`.

    Args:
        knobs: one row a knob; none with too few trials.
        metric: of the study.
        finished: trials with a measurement, for the words.
        limit: at most so many knobs are shown.
    """
    ranked = knobs.sort_values(
        ["on_loss", "on_size", "knob"], ascending=[False, False, True], ignore_index=True
    )
    shown = ranked.head(limit)
    hidden = len(ranked) - len(shown)
    labels = [
        f"{layer} {_knob_words(name)}".strip()
        for layer, name in zip(shown["layer"], shown["name"], strict=True)
    ]
    return ImportanceInfo(
        metric=metric,
        labels=tuple(labels),
        on_loss=shown["on_loss"].to_numpy(dtype=float),
        on_size=shown["on_size"].to_numpy(dtype=float),
        trials=shown["trials"].to_numpy(dtype=int),
        hidden=hidden,
        words=_words(shown, metric, finished, hidden),
    )


def _knob_words(name: str) -> str:
    """`"distillation.temperature"` -> `"distill temperature"`: a label has 20 characters."""
    return name.replace("distillation.", "distill ").replace("_", " ")


def _words(shown: pd.DataFrame, metric: Metric, finished: int, hidden: int) -> str:
    if shown.empty:
        if finished >= LEAST_TRIALS:
            return "No knob has a choice in this space, so there is nothing to compare."
        return (
            f"{finished:,} finished trials are too few to tell which knobs matter: "
            f"it takes {LEAST_TRIALS}."
        )
    few = int((shown["trials"] < LEAST_TRIALS).sum())
    what = (
        f"Of what differs between {finished:,} finished trials, the share that goes with each "
        f"knob (epsilon squared of ranks: 0 nothing, 1 all): in {metric.name} at equal bytes, "
        "and in bytes. It describes these trials, in which knobs go together; it is not a "
        "causal effect."
    )
    parts = [
        what,
        f"{counted(few, 'knob')} with fewer than {LEAST_TRIALS} trials: too few to tell."
        if few
        else "",
        f"Not shown: {counted(hidden, 'knob')} that matter less." if hidden else "",
    ]
    return " ".join(part for part in parts if part)


def draw_importance(info: ImportanceInfo, theme: Theme) -> go.Figure:
    """Two bars a knob; the words alone where there is nothing to tell."""
    if not info.labels:
        return empty_figure(theme, info.words)
    positions = list(range(len(info.labels)))
    names = [plot_text(label, 60) for label in info.labels]
    pairs = (
        (f"{info.metric.name} at equal bytes", info.on_loss, theme.categories[0], ""),
        ("bytes", info.on_size, theme.categories[1], "/"),
    )
    bars = [
        go.Bar(
            y=positions,
            x=values,
            orientation="h",
            name=plot_text(name),
            text=_ends(values, info.trials),
            textposition="outside",
            textangle=0,
            textfont={"size": 11, "color": theme.muted},
            cliponaxis=False,
            customdata=[
                [label, f"{value:.3f}", int(trials)]
                for label, value, trials in zip(names, values, info.trials, strict=True)
            ],
            meta=plot_text(name),
            hovertemplate=(
                "<b>%{customdata[0]}</b><br>on %{meta}: %{customdata[1]}"
                "<br>%{customdata[2]:,} trials<extra></extra>"
            ),
            marker={
                "color": colour,
                "pattern": hatching(theme, shape),
                "line": {"width": 0},
            },
        )
        for name, values, colour, shape in pairs
    ]
    largest = float(max(info.on_loss.max(), info.on_size.max()))
    height = 110 + _ROW_HEIGHT * len(positions)
    return go.Figure(
        data=bars,
        layout={
            "template": template(theme),
            "barmode": "group",
            "bargap": 0.3,
            "bargroupgap": 0.08,
            "height": height,
            "meta": {"narrow_height": height + 20},
            "xaxis": {
                "title": {"text": "share of variance (epsilon squared)"},
                "range": [0, _END * max(largest, 0.1)],
                "tickformat": ".0%",
                "nticks": 6,
                "fixedrange": True,
            },
            "yaxis": {
                "tickvals": positions,
                "ticktext": [plot_text(label, 20) for label in info.labels],
                "range": [len(positions) - 0.5, -0.5],
                "showgrid": False,
                "fixedrange": True,
            },
            "legend": LEGEND_BELOW,
            "margin": {"t": 12},
        },
    )


def _ends(values: np.ndarray, trials: np.ndarray) -> list[str]:
    return [
        "too few" if count < LEAST_TRIALS else percent(value)
        for value, count in zip(values, trials, strict=True)
    ]
