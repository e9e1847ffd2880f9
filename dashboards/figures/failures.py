"""Why trials failed, and in which layers."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.parts import counted, empty_figure, percent, wrapped
from dashboards.text import plain, plot_text, shorten
from dashboards.theme import Theme, template

__all__ = ["FailuresInfo", "draw_failures", "failures_info"]

_ROW_HEIGHT = 68
#: A reason has two lines above its bar.
_LINE_CHARACTERS = 50


class FailuresInfo(NamedTuple):
    """Everything the failures' plot shows.

    Attributes:
        reasons: the commonest first.
        counts: (reasons,), trials that failed for it.
        shares: (reasons,), of all failed trials.
        layers: (reasons,), e.g. "fc1 (3), conv2 (1)"; "" where none is named.
        trials: (reasons,), the first few numbers.
        hidden: reasons beyond those shown.
        words: one sentence a reason, or that none failed.
    """

    reasons: tuple[str, ...]
    counts: np.ndarray
    shares: np.ndarray
    layers: tuple[str, ...]
    trials: tuple[str, ...]
    hidden: int
    words: tuple[str, ...]


def failures_info(failures: pd.DataFrame, finished: int, limit: int = 12) -> FailuresInfo:
    """From `insight_tables.failure_frame`.

    Args:
        failures: one row a reason.
        finished: trials with a measurement, for the words.
        limit: at most so many reasons are drawn; the words say how many are not.
    """
    shown = failures.head(limit)
    hidden = len(failures) - len(shown)
    words = [
        f"{reason}: {counted(count, 'trial')} ({percent(share)} of the failed)"
        + (f", in {layers}" if layers else "")
        for reason, count, share, layers in zip(
            shown["reason"], shown["count"], shown["share"], shown["layers"], strict=True
        )
    ]
    if not words:
        words = [f"No trial failed; {finished:,} finished."]
    elif hidden:
        words.append(f"Not drawn: {counted(hidden, 'rarer reason')}.")
    return FailuresInfo(
        reasons=tuple(shown["reason"]),
        counts=shown["count"].to_numpy(dtype=int),
        shares=shown["share"].to_numpy(dtype=float),
        layers=tuple(shown["layers"]),
        trials=tuple(shown["trials"]),
        hidden=hidden,
        words=tuple(words),
    )


def draw_failures(info: FailuresInfo, theme: Theme) -> go.Figure:
    """One bar a reason; the reason stands above its bar, where a telephone has room for it."""
    if not info.reasons:
        return empty_figure(theme, info.words[0])
    positions = list(range(len(info.reasons)))
    bars = go.Bar(
        y=positions,
        x=info.counts,
        orientation="h",
        width=0.34,
        text=[f"{count:,}" for count in info.counts],
        textposition="outside",
        textangle=0,
        textfont={"size": 12, "color": theme.muted},
        cliponaxis=False,
        customdata=[
            [
                plot_text(reason),
                plot_text(layers or "no layer named"),
                plot_text(trials),
                percent(x),
            ]
            for reason, layers, trials, x in zip(
                info.reasons, info.layers, info.trials, info.shares, strict=True
            )
        ],
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>%{x:,} trials, %{customdata[3]} of the failed"
            "<br>%{customdata[1]}<br>trials %{customdata[2]}<extra></extra>"
        ),
        marker={"color": theme.limit, "line": {"width": 0}},
        showlegend=False,
    )
    names = go.Scatter(
        x=[0.0] * len(positions),
        y=[position - 0.2 for position in positions],
        mode="text",
        text=[
            _two_lines(f"{reason} · {layers}" if layers else reason)
            for reason, layers in zip(info.reasons, info.layers, strict=True)
        ],
        textposition="top right",
        textfont={"size": 12, "color": theme.ink},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    height = 70 + _ROW_HEIGHT * len(positions)
    return go.Figure(
        data=[bars, names],
        layout={
            "template": template(theme),
            "height": height,
            "meta": {"narrow_height": height},
            "xaxis": {
                "title": {"text": "failed trials"},
                "range": [0, 1.12 * float(info.counts.max())],
                "tickformat": ",d",
                "nticks": min(6, int(info.counts.max()) + 1),
                "fixedrange": True,
            },
            "yaxis": {
                "visible": False,
                "range": [len(positions) - 0.7, -0.72],
                "fixedrange": True,
            },
            "margin": {"t": 8, "l": 12, "r": 24},
        },
    )


def _two_lines(text: str) -> str:
    """Shortened before it is broken, so that there is never a third line."""
    return wrapped(shorten(plain(text), 2 * _LINE_CHARACTERS - 10), _LINE_CHARACTERS)
