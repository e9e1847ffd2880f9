"""The Pareto plot: the metric against the bytes of the file, of the download, or the latency."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.axes import (
    ColourScale,
    Label,
    bytes_axis,
    colour_scale,
    metric_axis,
    ms_axis,
    place_labels,
)
from dashboards.figures.pareto_data import SYMBOLS, Faint, ParetoInfo, XAxis, numbers, places_of
from dashboards.tables import secondary_column
from dashboards.text import (
    format_bytes,
    format_ms,
    format_order_words,
    format_spread,
    plot_text,
    shorten,
)
from dashboards.theme import Theme, template
from spaces import Metric

__all__ = ["draw_pareto"]
_AXIS_WORDS: Mapping[XAxis, str] = MappingProxyType(
    {"size_bytes": "file size", "download_bytes": "download, packed", "latency_ms": "latency, ms"}
)
_OTHER_SYMBOL = "hexagon"
#: So many marks are drawn smaller.
_MANY = 400
_HEIGHT = 640
#: On a telephone the legend has one entry a line.
_NARROW_HEIGHT = 860
#: Shapes end here: far outside any range, so that panning does not show the shading's edge, and
#: near enough for a browser's coordinates.
_FAR = 1e15
_NEAR = 1e-9
_FAR_SPANS = 50
#: Room above the plot for the colour bar with its title.
MARGIN: Mapping[str, int] = MappingProxyType({"l": 8, "r": 12, "t": 74, "b": 8})
_PICK_FONT_PX = 13
#: Of the plot's width, between two points that stand for the front's line.
_STAIR_STEP = 0.0125
_RING_PX = 26
#: Colour and place in the legend of a second study.
_OTHER_CATEGORY = 2
_OTHER_RANK = 500


def draw_pareto(
    info: ParetoInfo,
    theme: Theme,
    *,
    other: ParetoInfo | None = None,
    names: tuple[str, str] = ("", ""),
    selected: Sequence[tuple[str, float, float]] = (),
) -> go.Figure:
    """The figure; traces from the least to the most important, so that the pick lies on top.

    `customdata[0]` of a point of this study is its trial's name, "17" or "3@full"; "" of the
    other study's points. The rings of `selected` do not catch the pointer.

    Args:
        info: the study.
        theme: colours.
        other: a second study, whose front and pick are laid over the first one's.
        names: of the two studies.
        selected: (label, x, metric) of points to ring.

    Raises:
        ValueError: the two studies have different axes.
    """
    if other is not None:
        info = info.covering(other)
    colours = info_colours(info)
    at = _label_positions(info, other, names[1], selected)
    own_name = _of(names[0])
    return go.Figure(
        data=[
            _plain_points(info.over_budget, info, "misses a limit", "x-thin", theme.infeasible),
            _plain_points(
                info.dominated, info, "within the budget, dominated", "circle", theme.faint
            ),
            *([] if other is None else _other_front(other, info, names[1], theme)),
            _staircase_line(info, own_name, theme),
            *_fine_tuning_lines(info, theme),
            *_front_points(info, colours, theme),
            *_finalist_points(info, colours, theme),
            *_reference_points(info, at["references"], theme),
            *_baseline_point(info, at["baseline"], theme),
            *([] if other is None else _other_pick(other, names[1], at["other"], theme)),
            *_pick_point(info, own_name, at["pick"], theme),
            *_rings(selected, at["selected"], theme),
        ],
        layout={
            "template": template(theme),
            "height": _HEIGHT,
            "meta": {"narrow_height": _NARROW_HEIGHT},
            "xaxis": _x_axis(info),
            "yaxis": metric_axis(info.metric, info.metric_range),
            "shapes": _limit_shapes(info, theme),
            "hovermode": "closest",
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "bottom",
                "yref": "container",
            },
            "coloraxis": colour_axis(colours),
            "annotations": [colour_title(info)],
            "margin": dict(MARGIN),
        },
    )


def _of(name: str) -> str:
    return f" of {plot_text(name, 40)}" if name else ""


def _x_axis(info: ParetoInfo) -> Any:
    words = _AXIS_WORDS[info.x]
    if info.x == "latency_ms":
        title = plot_text(f"{words}, {info.latency_words} (log)".replace(",  (", " ("))
        return ms_axis(title, info.x_range, info.all_x_range)
    return bytes_axis(f"{words} (log)", info.x_range, info.all_x_range)


def _format_x(info: ParetoInfo, value: float) -> str:
    return format_ms(value) if info.x == "latency_ms" else format_bytes(value)


def colour_column(info: ParetoInfo) -> str:
    """What colour says: the latency, or the size where the latency has the axis."""
    return "size_bytes" if info.x == "latency_ms" else "latency_ms"


def info_colours(info: ParetoInfo) -> ColourScale:
    """The colours of front and finalists."""
    column = colour_column(info)
    values = np.concatenate([numbers(rows, column) for rows in (info.front, info.finalists)])
    return colour_scale(values, is_bytes=column == "size_bytes")


def colour_axis(colours: ColourScale) -> dict[str, Any]:
    """Plotly's coloraxis with its bar above the plot, under `colour_title`."""
    return {
        "colorscale": "Cividis",
        "cmin": colours.low,
        "cmax": colours.high,
        "colorbar": {
            "orientation": "h",
            "tickfont": {"size": 11},
            "tickvals": colours.ticks,
            "ticktext": colours.labels,
            "thickness": 10,
            "len": 0.6,
            "x": 0,
            "xanchor": "left",
            "xpad": 0,
            # Anchored to the figure: beside the plot it would claim twice the room it needs.
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "ypad": 20,
            "outlinewidth": 0,
        },
    }


def colour_title(info: ParetoInfo) -> dict[str, Any]:
    """What the bar shows, as an annotation: plotly puts a bar's own title over a bar up there."""
    is_size = colour_column(info) == "size_bytes"
    source = f" ({plot_text(info.latency_words)})" if info.latency_words else ""
    return {
        "text": "file size" if is_size else f"latency, ms{source}",
        "font": {"size": 11},
        "showarrow": False,
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "yshift": MARGIN["t"] - 20,
    }


HOVER = "<b>%{meta} %{customdata[0]}</b><br>%{customdata[1]}<extra></extra>"
_OTHER_HOVER = "<b>%{meta}, trial %{customdata[2]}</b><br>%{customdata[1]}<extra></extra>"


def hover_rows(
    rows: pd.DataFrame,
    metric: Metric,
    counts: np.ndarray | None = None,
    secondary: Sequence[Metric] = (),
) -> list[list[str]]:
    """Per point: the trial's name and the lines of its hover text, escaped.

    Args:
        rows: of the trial table.
        metric: of the study.
        counts: (rows,), how many trials each mark stands for; None: one.
        secondary: what else was measured.
    """
    # Escaped once, not once a row.
    safe_metric = replace(metric, unit=plot_text(metric.unit))
    sources = {source: plot_text(source) for source in set(rows["latency_source"])}
    more = [1] * len(rows) if counts is None else counts.tolist()
    further = _secondary_lines(rows, secondary)
    found = []
    for at, (name, order, policy, value, error, size, latency, source, over, count) in enumerate(
        zip(
            rows["name"],
            rows["order"],
            rows["policy"],
            rows["metric"].tolist(),
            rows["metric_se"].tolist(),
            numbers(rows, "size_bytes").tolist(),
            rows["latency_ms"].tolist(),
            rows["latency_source"],
            rows["over_limits"],
            more,
            strict=True,
        )
    ):
        lines = [
            plot_text(f"{format_order_words(order)}; {policy}", 110),
            f"{safe_metric.format(value)} {format_spread(metric, error)}",
            *further[at],
            f"{format_bytes(size)} ({size:,.0f} bytes)",
            f"{format_ms(latency)} {sources[source]}",
        ]
        if over:
            lines.append(plot_text(over))
        if count > 1:
            lines.append(f"and {count - 1:,} more trial{'s' if count > 2 else ''} here")
        found.append([name, "<br>".join(lines)])
    return found


def _secondary_lines(rows: pd.DataFrame, secondary: Sequence[Metric]) -> list[list[str]]:
    """Per row: a line for each further metric that was measured, escaped."""
    lines: list[list[str]] = [[] for _ in range(len(rows))]
    for metric in secondary:
        name = secondary_column(metric)
        values, errors = rows[name].tolist(), rows[f"{name}_se"].tolist()
        for found, value, error in zip(lines, values, errors, strict=True):
            if not math.isnan(value):
                text = f"{metric.name} {metric.format(value)} {format_spread(metric, error)}"
                found.append(plot_text(text))
    return lines


#: A trace as a plain dict: go.Figure checks it, and go.Scatter would have checked it once more.
_Trace = dict[str, Any]


def _points(
    rows: pd.DataFrame,
    info: ParetoInfo,
    name: str,
    kind: str,
    counts: np.ndarray | None = None,
) -> _Trace:
    return {
        "type": "scatter",
        "x": numbers(rows, info.x),
        "y": numbers(rows, "metric"),
        "customdata": hover_rows(rows, info.metric, counts, info.secondary),
        "hovertemplate": HOVER,
        "meta": kind,
        "mode": "markers",
        "name": name,
    }


def _plain_points(faint: Faint, info: ParetoInfo, name: str, symbol: str, colour: str) -> _Trace:
    # Thousands of points at full size are a blot that hides how dense they lie.
    many = len(faint.rows) > _MANY
    marker: dict[str, Any] = {"symbol": symbol, "color": colour}
    marker |= {"size": 4 if many else 6, "opacity": _faintness(many, info)}
    marker |= {"line": {"color": colour, "width": 1.2 if symbol == "x-thin" else 0}}
    words = f"{name} ({faint.total:,})"
    return {**_points(faint.rows, info, words, "trial", faint.counts), "marker": marker}


def _faintness(many: bool, info: ParetoInfo) -> float:
    """Background beside a front; without one they are all there is to see."""
    if not info.staircase_is_feasible:
        return 0.9
    return 0.35 if many else 0.55


def _stairs(info: ParetoInfo) -> _Trace:
    """The staircase as a line: beyond its last corner it is flat up to the budget."""
    x, y = info.staircase.to_numpy().T
    if len(x):
        # What is larger than the largest member and no better is beaten by it.
        end = info.all_x_range[1] * 10
        if info.staircase_is_feasible and info.x_limit is not None:
            end = info.x_limit
        x, y = np.append(x, end), np.append(y, y[-1])
    return {"type": "scatter", "x": x, "y": y, "mode": "lines", "hoverinfo": "skip"}


def _staircase_line(info: ParetoInfo, own_name: str, theme: Theme) -> _Trace:
    is_met = info.staircase_is_feasible
    return {
        **_stairs(info),
        "line": {
            "shape": "hv",
            "color": theme.front,
            "width": 1.5,
            "dash": "solid" if is_met else "dot",
        },
        "name": ("front" if is_met else "best found, misses a limit") + own_name,
        "legendrank": 2,
    }


def _other_front(info: ParetoInfo, mine: ParetoInfo, name: str, theme: Theme) -> list[_Trace]:
    """A second study's front: a line, and open marks of a shape that this study never has."""
    colour = theme.categories[_OTHER_CATEGORY]
    words = _of(name) or " of the other study"
    is_met = info.staircase_is_feasible
    return [
        {
            # Flat to the edge of what both of them show.
            **_stairs(info._replace(all_x_range=mine.all_x_range)),
            "line": {"shape": "hv", "color": colour, "width": 1.5, "dash": "dashdot"},
            "name": ("front" if is_met else "best found, misses a limit") + words,
            "legendrank": _OTHER_RANK,
        },
        {
            **_other_points(info.front, info, name),
            "name": f"trials on the front{words}",
            "legendrank": _OTHER_RANK,
            "marker": {
                "symbol": "triangle-down-open",
                "size": 10,
                "color": colour,
                "line": {"width": 1.5},
            },
        },
    ]


def _other_points(rows: pd.DataFrame, info: ParetoInfo, name: str) -> _Trace:
    """Points whose `customdata[0]` is "": their numbers are not this study's."""
    points = _points(rows, info, "", plot_text(name, 40) or "the other study")
    points["customdata"] = [["", lines, trial] for trial, lines in points["customdata"]]
    points["hovertemplate"] = _OTHER_HOVER
    return points


def _other_pick(info: ParetoInfo, name: str, position: str, theme: Theme) -> list[_Trace]:
    if info.pick.empty:
        return []
    words = _of(name) or " of the other study"
    colour = theme.categories[_OTHER_CATEGORY]
    points = _other_points(info.pick, info, name)
    points |= {"mode": "markers+text", "name": f"pick{words}"}
    return [
        {
            **points,
            "text": [f"pick{words}"],
            "textposition": position,
            "textfont": {"size": 11, "color": colour},
            "legendrank": _OTHER_RANK,
            "marker": {"symbol": "star-open", "size": 17, "color": colour, "line": {"width": 2}},
        }
    ]


def front_groups(
    info: ParetoInfo, symbols: Sequence[str], other_symbol: str
) -> list[tuple[str, str, pd.DataFrame]]:
    """The front by stage order: words, symbol, rows; orders beyond the symbols are one group."""
    known = dict(zip(info.orders, symbols, strict=False))
    by_order = info.front["order"]
    groups = [
        (format_order_words(order), symbol, info.front[by_order == order])
        for order, symbol in known.items()
    ]
    rest = info.front[~by_order.isin(list(known))]
    return [*groups, ("another order", other_symbol, rest)] if len(rest) else groups


def _front_points(info: ParetoInfo, colours: ColourScale, theme: Theme) -> list[_Trace]:
    """One trace a stage order that has its own symbol, and one for the rest."""
    return [
        {
            **_points(rows, info, plot_text(f"front: {words}"), "trial"),
            "marker": _coloured_marker(rows, info, colours, theme, symbol, 11),
            "error_y": _error_bars(rows, theme),
            "legendrank": 4,
        }
        for words, symbol, rows in front_groups(info, SYMBOLS, _OTHER_SYMBOL)
    ]


def _coloured_marker(
    rows: pd.DataFrame,
    info: ParetoInfo,
    colours: ColourScale,
    theme: Theme,
    symbol: str,
    size: int,
) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "size": size,
        "color": colours.encode(numbers(rows, colour_column(info))),
        "coloraxis": "coloraxis",
        "line": {"color": theme.ink, "width": 1},
    }


def _error_bars(rows: pd.DataFrame, theme: Theme) -> dict[str, Any]:
    errors = numbers(rows, "metric_se")
    return {"type": "data", "array": errors, "color": theme.muted, "thickness": 1, "width": 3}


def _fine_tuning_lines(info: ParetoInfo, theme: Theme) -> list[_Trace]:
    """From a searched trial to the finalist with the same policy: what full fine-tuning gave."""
    if info.tuned.empty:
        return []
    gap = np.full(len(info.tuned), np.nan)
    x = np.column_stack([info.tuned["x_from"], info.tuned["x_to"], gap])
    y = np.column_stack([info.tuned["metric_from"], info.tuned["metric_to"], gap])
    line = {"color": theme.muted, "width": 1, "dash": "dot"}
    return [
        {
            "type": "scatter",
            "x": x.ravel(),
            "y": y.ravel(),
            "mode": "lines",
            "line": line,
            "showlegend": False,
            "hoverinfo": "skip",
        }
    ]


def _finalist_points(info: ParetoInfo, colours: ColourScale, theme: Theme) -> list[_Trace]:
    if info.finalists.empty:
        return []
    rows = info.finalists
    marker = _coloured_marker(rows, info, colours, theme, "star-diamond", 15)
    marker["line"] = {"color": theme.pick, "width": 2}
    points = _points(rows, info, "finalist, full fine-tuning", "finalist")
    return [{**points, "marker": marker, "error_y": _error_bars(rows, theme), "legendrank": 3}]


def _reference_points(info: ParetoInfo, positions: Sequence[str], theme: Theme) -> list[_Trace]:
    if info.references.empty:
        return []
    points = _points(info.references, info, "reference policy", "reference")
    return [
        {
            **(points | {"mode": "markers+text"}),
            "text": [plot_text(reference_label(name)) for name in info.references["reference"]],
            "textposition": list(positions),
            "textfont": {"size": 11, "color": theme.muted},
            "marker": {
                "symbol": "diamond-open",
                "size": 13,
                "color": theme.ink,
                "line": {"width": 1.5},
            },
            "cliponaxis": True,
        }
    ]


def reference_label(name: str) -> str:
    """`"classic prune>distill>cluster"` -> `"classic"`, `"uniform int8"` -> `"int8"`.

    The order is in the hover text, and beside a telephone's plot there is no room for more.
    """
    words = name.removeprefix("uniform ").split()
    words = [word for word in words if not re.fullmatch("[a-z]+(>[a-z]+)+", word)]
    return shorten(" ".join(words) or name, 26)


def _baseline_point(info: ParetoInfo, position: str, theme: Theme) -> list[_Trace]:
    if info.baseline_x is None:
        return []
    return [
        {
            "type": "scatter",
            "x": [info.baseline_x],
            "y": [info.baseline_metric],
            "mode": "markers+text",
            "text": ["baseline"],
            "textposition": position,
            "textfont": {"size": 11, "color": theme.muted},
            "marker": {"symbol": "square-open-dot", "size": 12, "color": theme.ink},
            "name": "baseline, uncompressed",
            "meta": [
                plot_text(info.metric.format(info.baseline_metric)),
                _format_x(info, info.baseline_x),
            ],
            "hovertemplate": "<b>baseline</b><br>%{meta[0]}<br>%{meta[1]}<extra></extra>",
        }
    ]


def pick_kind(info: ParetoInfo) -> str:
    """What the pick's hover text calls it."""
    return f"the pick, {'finalist' if info.finalists['is_pick'].any() else 'trial'}"


def _pick_point(info: ParetoInfo, own_name: str, position: str, theme: Theme) -> list[_Trace]:
    if info.pick.empty:
        return []
    points = _points(info.pick, info, f"the pick{own_name}", pick_kind(info))
    return [
        {
            **(points | {"mode": "markers+text"}),
            "text": ["<b>pick</b>"],
            "textposition": position,
            "textfont": {"size": _PICK_FONT_PX, "color": theme.pick},
            "legendrank": 1,
            "marker": {
                "symbol": "star",
                "size": 18,
                "color": theme.pick,
                "line": {"color": theme.page, "width": 1.5},
            },
        }
    ]


def _rings(
    selected: Sequence[tuple[str, float, float]], positions: Sequence[str], theme: Theme
) -> list[_Trace]:
    """Around the points a reader chose. The pointer goes through them."""
    if not selected:
        return []
    labels, x, y = zip(*selected, strict=True)
    return [
        {
            "type": "scatter",
            "x": x,
            "y": y,
            "mode": "markers+text",
            "text": [f"<b>{plot_text(label, 12)}</b>" for label in labels],
            "textposition": list(positions),
            "textfont": {"size": 15, "color": theme.ink},
            "marker": {
                "symbol": "circle-open",
                "size": _RING_PX,
                "color": theme.ink,
                "line": {"width": 2.5},
            },
            "name": "selected",
            "showlegend": False,
            "hoverinfo": "skip",
        }
    ]


def _label_positions(
    info: ParetoInfo,
    other: ParetoInfo | None,
    other_name: str,
    selected: Sequence[tuple[str, float, float]],
) -> dict[str, Any]:
    """Where each label of a point goes: one `textposition` or a list, by trace."""
    (left, right), (low, high) = np.log(info.shown[0]), info.shown[1]

    def shares(places: np.ndarray) -> np.ndarray:
        x, y = np.reshape(places, (-1, 2)).T
        return np.column_stack([(np.log(x) - left) / (right - left), (y - low) / (high - low)])

    def labels(places: Any, texts: Sequence[str], mark_px: int, font_px: int) -> list[Label]:
        return [
            Label(x, y, text, mark_px, font_px)
            for (x, y), text in zip(shares(places).tolist(), texts, strict=True)
        ]

    has_baseline = info.baseline_x is not None
    theirs = info.pick.iloc[:0] if other is None else other.pick
    # From the most important to the least: the later ones make way.
    wanted = {
        "pick": labels(places_of(info.pick, info.x), ["pick"] * len(info.pick), 18, _PICK_FONT_PX),
        "selected": labels(
            [place for _, *place in selected], [label for label, *_ in selected], _RING_PX, 15
        ),
        "references": labels(
            places_of(info.references, info.x),
            [reference_label(name) for name in info.references["reference"]],
            13,
            11,
        ),
        "baseline": labels(
            [(info.baseline_x, info.baseline_metric)] * has_baseline,
            ["baseline"] * has_baseline,
            12,
            11,
        ),
        "other": labels(
            places_of(theirs, info.x), [f"pick{_of(other_name)}"] * len(theirs), 17, 11
        ),
    }
    dots = np.concatenate([places_of(rows, info.x) for rows in (info.front, info.finalists)])
    line = _stairs(info)
    corners = shares(np.column_stack([line["x"], line["y"]]))
    marks = np.concatenate([shares(dots), _along_stairs(corners)])
    everyone = [label for group in wanted.values() for label in group]
    positions = iter(place_labels(everyone, marks))
    placed = {name: [next(positions) for _ in group] for name, group in wanted.items()}
    single = {name: (placed[name] or [""])[0] for name in ("pick", "baseline", "other")}
    return {**placed, **single}


def _along_stairs(corners: np.ndarray) -> np.ndarray:
    """(corners, 2) of the front's line -> (n, 2) points on its level parts, in shares of the plot.

    Letters on a line are as hard to read as letters on a mark.
    """
    found = [np.empty((0, 2))]
    for (left, height), (right, _) in itertools.pairwise(corners):
        along = np.arange(max(left, 0.0), min(right, 1.0), _STAIR_STEP)
        found.append(np.column_stack([along, np.full(len(along), height)]))
    return np.concatenate(found)


def _limit_shapes(info: ParetoInfo, theme: Theme) -> list[dict[str, Any]]:
    """The region outside the budget, shaded, and its edges as lines with their value."""
    line = {"color": theme.limit, "width": 1.5, "dash": "dash"}
    font = {"color": theme.limit, "size": 11}
    shapes: list[dict[str, Any]] = []
    shade = {"type": "rect", "layer": "below", "fillcolor": theme.shade, "line": {"width": 0}}
    most, limit = info.x_limit, info.metric_limit
    low, high = info.all_metric_range
    far = _FAR_SPANS * (high - low)
    worse = low - far if info.metric.higher_is_better else high + far
    if most is not None:
        text = f"budget {_format_x(info, most)}"
        shapes.append({**shade, "x0": most, "x1": _FAR, "y0": 0, "y1": 1, "yref": "y domain"})
        label = {"text": text, "font": font, "textposition": "start", "textangle": 0}
        label |= {"xanchor": "left", "yanchor": "bottom", "padding": 4}
        edge = {"x0": most, "x1": most, "y0": 0, "y1": 1, "yref": "y domain"}
        shapes.append({"type": "line", **edge, "line": line, "label": label})
    if limit is not None:
        text = plot_text(f"limit {info.metric.format(limit)}")
        # The corner outside both limits is shaded once.
        end = {"x0": _NEAR, "x1": _FAR if most is None else most}
        shapes.append({**shade, **end, "y0": worse, "y1": limit})
        label = {"text": text, "font": font, "textposition": "start", "padding": 4}
        label |= {"yanchor": "top" if info.metric.higher_is_better else "bottom"}
        edge = {"x0": 0, "x1": 1, "xref": "x domain", "y0": limit, "y1": limit}
        shapes.append({"type": "line", **edge, "line": line, "label": label})
    return shapes
