"""What the next 10 KB buy, along the front."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.axes import bytes_axis, padded_log
from dashboards.figures.parts import LEGEND_BELOW, empty_figure
from dashboards.text import format_bytes, plot_text
from dashboards.theme import Theme, template
from spaces import Metric

__all__ = ["PriceInfo", "draw_price", "price_info"]

_HEIGHT = 420
#: A label is as wide as a step on a telephone only for so many steps.
_MANY_STEPS = 8
#: Of the axis: what "150 KB" needs on a telephone.
_TICK_SPAN = 0.17


class PriceInfo(NamedTuple):
    """Everything the price of bytes shows.

    Attributes:
        metric: what is bought.
        from_bytes, to_bytes: (steps,), from the smallest file up.
        gain, gain_per_10_kb: (steps,), of the metric, in its unit.
        from_trial, to_trial: (steps,), numbers.
        is_noise: (steps,), whether the gain is within one standard error.
        words: one sentence a step, or why there is none.
    """

    metric: Metric
    from_bytes: np.ndarray
    to_bytes: np.ndarray
    gain: np.ndarray
    gain_per_10_kb: np.ndarray
    from_trial: np.ndarray
    to_trial: np.ndarray
    is_noise: np.ndarray
    words: tuple[str, ...]


def price_info(prices: pd.DataFrame, metric: Metric) -> PriceInfo:
    """From `insight_tables.price_frame`."""
    words = [_words(row, metric) for row in prices.to_dict("records")]
    return PriceInfo(
        metric=metric,
        from_bytes=prices["from_bytes"].to_numpy(dtype=float),
        to_bytes=prices["to_bytes"].to_numpy(dtype=float),
        gain=prices["gain"].to_numpy(dtype=float),
        gain_per_10_kb=prices["gain_per_10_kb"].to_numpy(dtype=float),
        from_trial=prices["from_trial"].to_numpy(dtype=int),
        to_trial=prices["to_trial"].to_numpy(dtype=int),
        is_noise=prices["is_noise"].to_numpy(dtype=bool),
        words=tuple(words) or ("The front has no two files of different size and metric yet.",),
    )


def _words(row: dict[Any, Any], metric: Metric) -> str:
    noise = ", within one standard error" if row["is_noise"] else ""
    return (
        f"From {format_bytes(row['from_bytes'])} (trial {row['from_trial']}) to "
        f"{format_bytes(row['to_bytes'])} (trial {row['to_trial']}): "
        f"{_gain_words(row['gain'], metric)} for {format_bytes(row['extra_bytes'])}, "
        f"{_gain_words(row['gain_per_10_kb'], metric)} per 10 KB{noise}."
    )


def _gain_words(gain: float, metric: Metric) -> str:
    """`0.0052` -> `"+0.52 points"`; an error that falls is better by as much."""
    if metric.unit == "share":
        return f"+{100 * gain:.3g} points"
    return f"{gain:.3g} {metric.unit}".rstrip() + " better"


def draw_price(info: PriceInfo, theme: Theme) -> go.Figure:
    """Steps over file size: from one member of the front to the next, at the height of its price.

    Both axes are logarithmic: the first bytes buy hundreds of times what the last ones do.
    """
    if len(info.gain) == 0:
        return empty_figure(theme, info.words[0])
    factor = 100.0 if info.metric.unit == "share" else 1.0
    height = factor * info.gain_per_10_kb
    labelled = len(height) <= _MANY_STEPS
    sure = _steps(info, height, ~info.is_noise)
    noise = _steps(info, height, info.is_noise)
    traces = [
        _risers(info, height, theme),
        _segments(sure, "more than one standard error", "solid", theme.front, 4),
        # Dotted, not only paler: the difference matters.
        _segments(noise, "within one standard error", "dot", theme.muted, 3),
        _middles(info, height, theme, labelled=labelled),
    ]
    limits = padded_log(np.concatenate([info.from_bytes, info.to_bytes]))
    low, high = padded_log(height, 0.18)
    unit = "points" if info.metric.unit == "share" else info.metric.unit
    return go.Figure(
        data=traces,
        layout={
            "template": template(theme),
            "height": _HEIGHT,
            "meta": {"narrow_height": _HEIGHT + 20},
            "xaxis": _size_axis(limits),
            "yaxis": {
                "title": {"text": plot_text(f"{info.metric.name}, {unit} per 10 KB (log)")},
                "type": "log",
                "range": [math.log10(low), math.log10(high)],
                "tickformat": "~g",
                # Labels at 2 and 5 crowd several decades; one decade needs them.
                "dtick": 1 if high > 300 * low else "D2",
            },
            "hovermode": "closest",
            "legend": LEGEND_BELOW,
            "margin": {"t": 16},
        },
    )


def _size_axis(limits: tuple[float, float]) -> Any:
    axis = bytes_axis("file size (log)", limits, limits)
    spans = np.log(axis["tickvals"]) / math.log(limits[1] / limits[0])
    kept: list[int] = []
    for i, at in enumerate(spans):
        if not kept or at - spans[kept[-1]] >= _TICK_SPAN:
            kept.append(i)
    for name in ("tickvals", "ticktext"):
        axis[name] = [axis[name][i] for i in kept]
    return axis


def _steps(
    info: PriceInfo, height: np.ndarray, wanted: np.ndarray
) -> tuple[list[float], list[float]]:
    x: list[float] = []
    y: list[float] = []
    for low, high, value in zip(
        info.from_bytes[wanted], info.to_bytes[wanted], height[wanted], strict=True
    ):
        x += [float(low), float(high), math.nan]
        y += [float(value), float(value), math.nan]
    return x, y


def _segments(
    points: tuple[Sequence[float], Sequence[float]], name: str, dash: str, colour: str, width: int
) -> go.Scatter:
    return go.Scatter(
        x=points[0],
        y=points[1],
        mode="lines",
        line={"color": colour, "width": width, "dash": dash},
        name=f"gain {name}",
        showlegend=len(points[0]) > 0,
        hoverinfo="skip",
    )


def _risers(info: PriceInfo, height: np.ndarray, theme: Theme) -> go.Scatter:
    """Thin lines from step to step, so that an eye can follow them."""
    x = np.column_stack([info.from_bytes, info.to_bytes]).ravel()
    return go.Scatter(
        x=x,
        y=np.repeat(height, 2),
        mode="lines",
        line={"color": theme.faint, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )


def _middles(info: PriceInfo, height: np.ndarray, theme: Theme, *, labelled: bool) -> go.Scatter:
    """What is hovered, and labelled where there is room: the middle of each step."""
    return go.Scatter(
        x=np.sqrt(info.from_bytes * info.to_bytes),
        y=height,
        mode="markers+text" if labelled else "markers",
        text=[f"{value:+,.0f}" if abs(value) >= 10 else f"{value:+.2g}" for value in height],
        textposition="top center",
        textfont={"size": 11, "color": theme.ink},
        cliponaxis=False,
        marker={"size": 7, "color": theme.page, "line": {"color": theme.ink, "width": 1.2}},
        customdata=[plot_text(words, 200).replace(": ", "<br>", 1) for words in info.words],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
