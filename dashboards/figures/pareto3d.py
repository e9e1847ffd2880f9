"""The Pareto plot in three dimensions: bytes, latency and the metric, which dominance compares.

It needs WebGL, which remote desktops often lack: a page offers it beside the flat plot, never
instead of it. Colours and hover texts are the flat plot's, and the shapes as far as there are any:
in three dimensions plotly writes them as letters of a font, and its cross is an empty box where
that font is missing.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.axes import (
    ColourScale,
    bytes_axis,
    metric_axis,
    ms_axis,
    padded_log,
)
from dashboards.figures.pareto import (
    HOVER,
    colour_column,
    front_groups,
    hover_rows,
    info_colours,
    pick_kind,
    reference_label,
)
from dashboards.figures.pareto_data import Faint, ParetoInfo, numbers
from dashboards.text import format_bytes, format_ms, plot_text
from dashboards.theme import Theme, template

__all__ = ["draw_pareto_3d"]

_HEIGHT = 720
_SYMBOLS = ("circle", "square", "diamond")
_OTHER_SYMBOL = "circle-open"
#: From the low sizes and latencies, so that the front faces the reader.
_EYE: Mapping[str, float] = MappingProxyType({"x": -1.6, "y": -1.6, "z": 0.8})
_Trace = dict[str, Any]


def draw_pareto_3d(
    info: ParetoInfo,
    theme: Theme,
    *,
    selected: Sequence[tuple[str, float, float, float]] = (),
) -> go.Figure:
    """Front, finalists, thinned others, references, baseline and pick.

    `customdata[0]` of a point is its trial's name, as in `draw_pareto`.

    Args:
        info: of `pareto_info` with any horizontal axis; faint points are as thin as there.
        theme: colours.
        selected: (label, size_bytes, latency_ms, metric) of points to ring.
    """
    colours = info_colours(info)
    return go.Figure(
        data=[
            _faint_points(
                info.over_budget, info, "misses a limit", "square-open", theme.infeasible
            ),
            _faint_points(
                info.dominated, info, "within the budget, dominated", "circle", theme.faint
            ),
            *_front_points(info, colours),
            *_finalist_points(info, colours, theme),
            *_reference_points(info, theme),
            _baseline_point(info, theme),
            *_pick_point(info, theme),
            *_rings(selected, theme),
        ],
        layout={
            "template": template(theme),
            "height": _HEIGHT,
            "scene": _scene(info, theme),
            "margin": {"l": 0, "r": 0, "t": 8, "b": 8},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "bottom",
                "yref": "container",
            },
        },
    )


def _scene(info: ParetoInfo, theme: Theme) -> dict[str, Any]:
    important = [info.front, info.finalists, info.references]
    shown = important if info.staircase_is_feasible else [info.over_budget.rows]

    def limits(column: str, baseline: float) -> tuple[float, float]:
        values = np.concatenate([numbers(rows, column) for rows in shown])
        return padded_log(np.append(values, baseline))

    sizes = limits("size_bytes", info.baseline_size_bytes)
    latencies = limits("latency_ms", info.baseline_latency_ms)
    look = {
        "gridcolor": theme.grid,
        "linecolor": theme.muted,
        "tickfont": {"color": theme.muted, "size": 11},
        "showbackground": False,
        "zeroline": False,
    }
    latency_words = f", {plot_text(info.latency_words)}" if info.latency_words else ""
    return {
        "xaxis": {**look, **bytes_axis("file size (log)", sizes, sizes)},
        "yaxis": {**look, **ms_axis(f"latency, ms{latency_words} (log)", latencies, latencies)},
        "zaxis": {**look, **metric_axis(info.metric, info.metric_range)},
        "camera": {"eye": dict(_EYE), "center": {"x": 0, "y": 0, "z": -0.12}},
        "aspectmode": "manual",
        "aspectratio": {"x": 1.3, "y": 1.1, "z": 0.9},
        "dragmode": "orbit",
    }


def _points(
    rows: pd.DataFrame,
    info: ParetoInfo,
    name: str,
    kind: str,
    counts: np.ndarray | None = None,
) -> _Trace:
    return {
        "type": "scatter3d",
        "x": numbers(rows, "size_bytes"),
        "y": numbers(rows, "latency_ms"),
        "z": numbers(rows, "metric"),
        "customdata": hover_rows(rows, info.metric, counts, info.secondary),
        "hovertemplate": HOVER,
        "meta": kind,
        "mode": "markers",
        "name": name,
    }


def _faint_points(faint: Faint, info: ParetoInfo, name: str, symbol: str, colour: str) -> _Trace:
    words = f"{name} ({faint.total:,})"
    marker = {"symbol": symbol, "color": colour, "size": 2.5, "opacity": 0.5}
    return {**_points(faint.rows, info, words, "trial", faint.counts), "marker": marker}


def _coloured_marker(
    rows: pd.DataFrame, info: ParetoInfo, colours: ColourScale, symbol: str, size: int
) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "size": size,
        "color": colours.encode(numbers(rows, colour_column(info))),
        # The flat plot's colours without its bar: what they say has an axis here. A `coloraxis`
        # would make plotly warn of every legend entry.
        "colorscale": "Cividis",
        "cmin": colours.low,
        "cmax": colours.high,
    }


def _front_points(info: ParetoInfo, colours: ColourScale) -> list[_Trace]:
    """One trace a stage order that has its own symbol, and one for the rest."""
    return [
        {
            **_points(rows, info, plot_text(f"front: {words}"), "trial"),
            "marker": _coloured_marker(rows, info, colours, symbol, 6),
            "legendrank": 4,
        }
        for words, symbol, rows in front_groups(info, _SYMBOLS, _OTHER_SYMBOL)
    ]


def _finalist_points(info: ParetoInfo, colours: ColourScale, theme: Theme) -> list[_Trace]:
    if info.finalists.empty:
        return []
    marker = _coloured_marker(info.finalists, info, colours, "diamond", 9)
    marker["line"] = {"color": theme.pick, "width": 3}
    points = _points(info.finalists, info, "finalist, full fine-tuning", "finalist")
    return [{**points, "marker": marker, "legendrank": 3}]


def _reference_points(info: ParetoInfo, theme: Theme) -> list[_Trace]:
    if info.references.empty:
        return []
    return [
        {
            **_points(info.references, info, "reference policy", "reference"),
            "mode": "markers+text",
            "text": [plot_text(reference_label(name)) for name in info.references["reference"]],
            "textposition": "top center",
            "textfont": {"size": 11, "color": theme.muted},
            "marker": {"symbol": "diamond-open", "size": 7, "color": theme.ink},
        }
    ]


def _baseline_point(info: ParetoInfo, theme: Theme) -> _Trace:
    return {
        "type": "scatter3d",
        "x": [info.baseline_size_bytes],
        "y": [info.baseline_latency_ms],
        "z": [info.baseline_metric],
        "mode": "markers+text",
        "text": ["baseline"],
        "textposition": "top center",
        "textfont": {"size": 11, "color": theme.muted},
        "marker": {"symbol": "square-open", "size": 7, "color": theme.ink},
        "name": "baseline, uncompressed",
        "meta": [
            plot_text(info.metric.format(info.baseline_metric)),
            format_bytes(info.baseline_size_bytes),
            format_ms(info.baseline_latency_ms),
        ],
        "hovertemplate": (
            "<b>baseline</b><br>%{meta[0]}<br>%{meta[1]}<br>%{meta[2]}<extra></extra>"
        ),
    }


def _pick_point(info: ParetoInfo, theme: Theme) -> list[_Trace]:
    if info.pick.empty:
        return []
    return [
        {
            **_points(info.pick, info, "the pick", pick_kind(info)),
            "mode": "markers+text",
            "text": ["<b>pick</b>"],
            "textposition": "top center",
            "textfont": {"size": 14, "color": theme.pick},
            "legendrank": 1,
            "marker": {
                "symbol": "diamond",
                "size": 11,
                "color": theme.pick,
                "line": {"color": theme.page, "width": 1},
            },
        }
    ]


def _rings(selected: Sequence[tuple[str, float, float, float]], theme: Theme) -> list[_Trace]:
    if not selected:
        return []
    labels, x, y, z = zip(*selected, strict=True)
    return [
        {
            "type": "scatter3d",
            "x": x,
            "y": y,
            "z": z,
            "mode": "markers+text",
            "text": [f"<b>{plot_text(label, 12)}</b>" for label in labels],
            "textposition": "middle right",
            "textfont": {"size": 16, "color": theme.ink},
            "marker": {"symbol": "circle-open", "size": 16, "color": theme.ink},
            "name": "selected",
            "showlegend": False,
            "hoverinfo": "skip",
        }
    ]
