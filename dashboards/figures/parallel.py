"""Trials as lines over all their knobs and results: parallel coordinates in plain SVG.

plotly's own parallel coordinates need WebGL and `eval`, which a page's policy and many remote
desktops refuse. Axes lie flat, one below another: nine upright ones leave a telephone 40 px each,
too few for a label.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.parts import LEGEND_BELOW, ORDER_KEY, empty_figure, short_order
from dashboards.insight_tables import NO_CLUSTERS, NO_TEMPERATURE, knob_frame
from dashboards.tables import DOMINATED, FRONT, MISSES_LIMIT
from dashboards.text import format_bytes, format_ms, plot_text
from dashboards.theme import Theme, template
from spaces import Judge, Metric, Policy, format_order
from spaces.front import default_max_drop
from spaces.policy import ALL_ORDERS

__all__ = ["Axis", "ParallelInfo", "brush_of", "draw_parallel", "parallel_info"]

MAX_LINES = 300
_ROW_HEIGHT = 78
#: A box this thin, in shares of an axis, is a click and no choice.
_THINNEST_BRUSH = 0.004
#: Farther from every axis than this, in shares of the gap between two, a box means none.
_FARTHEST = 0.5
#: Orders with a place of their own; the others share OTHER_ORDER.
_OWN_ORDERS = 7
OTHER_ORDER = -1.0
_MANY_FRONT = 30
#: What a label takes of an axis on a telephone: 320 px of axis, 6.4 px a character, 10 px between.
_CHARACTER = 6.4 / 320
_BETWEEN = 10 / 320
_NAMES = {format_order(order): float(at) for at, order in enumerate(ALL_ORDERS)}


class Axis(NamedTuple):
    """One axis: from values in its unit to positions, 0 at its left end to 1.

    Attributes:
        name: the key of its brush, e.g. "sparsity".
        title: with its unit.
        is_log: whether values between two knots lie by their logarithm.
        knots: (value, position), both ascending.
        ticks: (value, label), ascending.
        values: (lines,), in its unit.
    """

    name: str
    title: str
    is_log: bool
    knots: tuple[tuple[float, float], ...]
    ticks: tuple[tuple[float, str], ...]
    values: np.ndarray

    def positions(self, values: np.ndarray) -> np.ndarray:
        """Where values lie; what is beyond an end lies at it."""
        at, to = np.array(self.knots).T
        found: np.ndarray = np.interp(self._scaled(values), self._scaled(at), to)
        return found

    def value_at(self, position: float) -> float:
        """The inverse of `positions`; beyond an end, the end's value."""
        at, to = np.array(self.knots).T
        scaled = float(np.interp(position, to, self._scaled(at)))
        return math.exp(scaled) if self.is_log else scaled

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log(values) if self.is_log else values


class ParallelInfo(NamedTuple):
    """Everything the parallel coordinates show.

    Attributes:
        axes: from the top down.
        names: (lines,), the trials' names, e.g. "17" or "3@full".
        hovers: (lines,), what is said of a trial beyond its name.
        on_front, is_pick: (lines,).
        brushes: axis -> (low, high) in the axis's unit, both inclusive.
        inside: (lines,), whether a line is within every brush.
        hidden: trials that finished and have no line.
        words: what is drawn, and what is not.
    """

    axes: tuple[Axis, ...]
    names: tuple[str, ...]
    hovers: tuple[str, ...]
    on_front: np.ndarray
    is_pick: np.ndarray
    brushes: Mapping[str, tuple[float, float]]
    inside: np.ndarray
    hidden: int
    words: str


def parallel_info(
    trials: pd.DataFrame,
    policies: Mapping[str, Policy],
    judge: Judge,
    max_lines: int = MAX_LINES,
    brushes: Mapping[str, tuple[float, float]] | None = None,
) -> ParallelInfo:
    """The front and the best other trials as lines.

    Args:
        trials: of `tables.trial_table`, of one fidelity.
        policies: policy digest -> policy (`insight_tables.policies_by_digest`).
        judge: for the network and the metric.
        max_lines: never more; a front with more members is thinned evenly by size.
        brushes: axis -> (low, high) in the axis's unit, either way round.

    Raises:
        ValueError: a brush of an axis there is not.
    """
    done = trials[trials["metric"].notna()]
    chosen = _chosen(done, judge.metric, max_lines)
    rows = knob_frame(chosen, policies, judge.profile)
    axes = _axes(rows, judge) if len(rows) else ()
    asked = {name: (min(ends), max(ends)) for name, ends in (brushes or {}).items()}
    unknown = sorted(set(asked) - {axis.name for axis in axes})
    if unknown and axes:
        raise ValueError(f"brushes: must name axes, but got {unknown}")
    inside = np.ones(len(rows), dtype=bool)
    for axis in axes:
        if axis.name in asked:
            low, high = asked[axis.name]
            # A value at the very end of a box was meant: floats came through pixels.
            slack = 1e-9 * max(abs(low), abs(high))
            inside &= (axis.values >= low - slack) & (axis.values <= high + slack)
    on_front = (rows["status"] == FRONT).to_numpy(dtype=bool)
    hidden = len(done) - len(rows)
    return ParallelInfo(
        axes=axes,
        names=tuple(rows["name"]),
        hovers=tuple(_hover(row, judge.metric) for row in rows.to_dict("records")),
        on_front=on_front,
        is_pick=rows["is_pick"].to_numpy(dtype=bool),
        brushes=asked,
        inside=inside,
        hidden=hidden,
        words=_words(on_front, inside, asked, hidden),
    )


def _chosen(done: pd.DataFrame, metric: Metric, max_lines: int) -> pd.DataFrame:
    """The front, then feasible trials, then those over the budget, each the best metric first."""
    front = done[done["status"] == FRONT].sort_values(["size_bytes", "number"])
    if len(front) > max_lines:
        at = np.unique(np.linspace(0, len(front) - 1, max_lines).round().astype(int))
        thinned: pd.DataFrame = front.iloc[at]
        return thinned
    others = done[done["status"] != FRONT]
    ranked = others.assign(
        _rank=others["status"].map({DOMINATED: 0, MISSES_LIMIT: 1}),
        _loss=others["metric"].map(metric.loss),
    ).sort_values(["_rank", "_loss", "number"])
    best = ranked.head(max_lines - len(front)).drop(columns=["_rank", "_loss"])
    return pd.concat([front, best]) if len(best) else front


def _hover(row: Mapping[Any, Any], metric: Metric) -> str:
    return (
        f"{metric.format(row['metric'])}, {format_bytes(float(row['size_bytes']))}, "
        f"{format_ms(row['latency_ms'])}, {row['status']}"
    )


def _words(
    on_front: np.ndarray,
    inside: np.ndarray,
    brushes: Mapping[str, tuple[float, float]],
    hidden: int,
) -> str:
    if len(on_front) == 0:
        return "No trial has finished, so there is nothing to draw."
    what = (
        f"{int(on_front.sum())} trials of the front and the {int((~on_front).sum())} best others, "
        "one line each, over what they ask and what came of it."
    )
    parts = [what]
    if brushes:
        parts.append(f"{int(inside.sum())} lines are within the brushes on {', '.join(brushes)}.")
    if hidden:
        parts.append(f"{hidden:,} further trials are not drawn.")
    return " ".join(parts)


# Axes --------------------------------------------------------------------------------------------


def _axes(rows: pd.DataFrame, judge: Judge) -> tuple[Axis, ...]:
    def column(name: str) -> np.ndarray:
        return rows[name].to_numpy(dtype=float)

    return (
        _order_axis(rows),
        _sparsity_axis(column("sparsity")),
        _cluster_axis(column("clusters")),
        _bit_axis(column("bits")),
        _activation_axis(column("activation_bits")),
        _temperature_axis(column("temperature")),
        _log_axis("size_bytes", "file size (log)", column("size_bytes"), format_bytes),
        _log_axis("latency_ms", _latency_title(rows), column("latency_ms"), format_ms),
        _metric_axis(column("metric"), judge),
    )


def _latency_title(rows: pd.DataFrame) -> str:
    return f"latency (log), {' / '.join(sorted(set(rows['latency_source'])))}"


def _order_axis(rows: pd.DataFrame) -> Axis:
    """Orders in the order of ALL_ORDERS: a brush means the same when more trials have come."""
    front = rows[rows["status"] == FRONT]["order"].value_counts()
    everywhere = rows["order"].value_counts()
    ranked = sorted(everywhere.index, key=lambda x: (-front.get(x, 0), -everywhere[x], x))
    own = sorted(ranked[:_OWN_ORDERS], key=_NAMES.__getitem__)
    places = [_NAMES[order] for order in own]
    labels = [short_order(order, "") for order in own]
    if len(ranked) > len(own):
        places, labels = [OTHER_ORDER, *places], ["other", *labels]
    values = [_NAMES[order] if order in own else OTHER_ORDER for order in rows["order"]]
    # Half a place from either end: the first label is centred and needs the room.
    positions = [(i + 0.5) / len(places) for i in range(len(places))]
    knots = [(places[0] - 0.5, 0.0), *zip(places, positions, strict=True), (places[-1] + 0.5, 1.0)]
    ticks = tuple(zip(places, labels, strict=True))
    return Axis("order", f"order ({ORDER_KEY})", False, tuple(knots), ticks, np.array(values))


def _sparsity_axis(values: np.ndarray) -> Axis:
    """By the logarithm of the density, because bytes fall with it: 90 and 99 % are far apart."""
    top = max(0.9, float(values.max()))
    marks = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)
    inner = [mark for mark in marks if mark < top]
    knots = [(x, math.log(1 - x) / math.log(1 - top)) for x in [*inner, top]]
    first = [0.0, top, 0.5, 0.9, 0.8, 0.95, 0.98, 0.99]
    asked = [(x, f"{100 * x:.3g} %") for x in first if x <= top]
    return _with_ticks("sparsity", "sparsity, mean", False, knots, asked, values)


def _cluster_axis(values: np.ndarray) -> Axis:
    some = values[values < NO_CLUSTERS]
    low, high = _spread(some, 2.0, 256.0)
    has_none = len(some) < len(values)
    knots = [(low, 0.0), (high, 0.86 if has_none else 1.0)]
    first = [2.0, 16.0, 256.0, 4.0, 64.0, 8.0, 32.0, 128.0, 3.0, 6.0]
    asked = [(x, f"{x:g}") for x in [low, high, *first] if low <= x <= high]
    if has_none:
        knots.append((NO_CLUSTERS, 1.0))
        asked.insert(0, (NO_CLUSTERS, "none"))
    return _with_ticks("clusters", "clusters, median", True, knots, asked, values)


def _bit_axis(values: np.ndarray) -> Axis:
    low, high = _spread(values, 2.0, 32.0)
    first = [8.0, 16.0, 4.0, 32.0, 2.0, 6.0, 3.0, 5.0, 12.0, 24.0]
    asked = [(x, f"{x:.3g}") for x in [low, high, *first] if low <= x <= high]
    knots = [(low, 0.0), (high, 1.0)]
    return _with_ticks("bits", "weight bits, mean", True, knots, asked, values)


def _activation_axis(values: np.ndarray) -> Axis:
    """Two choices, as far from the ends as from each other: no value lies between them."""
    asked = [(x, f"{x:g}") for x in sorted({8.0, 32.0, *values.tolist()})]
    knots = [(6.0, 0.0), (8.0, 0.25), (32.0, 0.75), (40.0, 1.0)]
    return _with_ticks("activation_bits", "activation bits", True, knots, asked, values)


def _temperature_axis(values: np.ndarray) -> Axis:
    some = values[values > NO_TEMPERATURE]
    low, high = _spread(some, 1.0, 20.0)
    has_none = len(some) < len(values)
    knots = [(low, 0.14 if has_none else 0.0), (high, 1.0)]
    first = [4.0, 1.0, 20.0, 8.0, 2.0, 12.0, 6.0, 3.0, 16.0]
    asked = [(x, f"{x:g}") for x in [low, high, *first] if low <= x <= high]
    if has_none:
        knots.insert(0, (NO_TEMPERATURE, 0.0))
        asked.insert(0, (NO_TEMPERATURE, "none"))
    return _with_ticks("temperature", "distillation temperature", True, knots, asked, values)


def _log_axis(name: str, title: str, values: np.ndarray, show: Any) -> Axis:
    low, high = _spread(values, 1.0, 10.0)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    nice = [step * 10.0**d for step in (1, 2, 5, 3, 1.5, 7) for d in decades]
    asked = [(x, show(x)) for x in [low, high, *nice] if low <= x <= high]
    return _with_ticks(name, title, True, [(low, 0.0), (high, 1.0)], asked, values)


def _metric_axis(values: np.ndarray, judge: Judge) -> Axis:
    """Stretched near the best: one network that guesses would press all others together."""
    metric = judge.metric
    low, high = _padded(float(values.min()), float(values.max()))
    best, worst = (high, low) if metric.higher_is_better else (low, high)
    unit = 0.2 * default_max_drop(metric, judge.profile.baseline_metric)
    span = abs(best - worst)
    # Evenly spaced by ln(1 + drop / unit), which is straight for drops under the unit.
    stretches = np.linspace(0.0, math.log1p(span / unit), 24)
    drops = unit * np.expm1(stretches)
    drops[-1] = span
    sign = -1.0 if metric.higher_is_better else 1.0
    places = stretches / stretches[-1]
    knots = [(best + sign * d, float(p)) for d, p in zip(drops, places, strict=True)]
    if metric.higher_is_better:
        knots = [(value, 1.0 - place) for value, place in reversed(knots)]
    evenly = [best + sign * unit * math.expm1(float(x)) for x in np.linspace(0, stretches[-1], 7)]
    asked = [(x, metric.format(x)) for x in [low, high, *evenly[1:-1]] if low <= x <= high]
    title = f"{metric.name}, stretched near the best"
    return _with_ticks("metric", title, False, knots, asked, values)


def _spread(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Their range; around a single value some room, and (low, high) for none at all."""
    if len(values) == 0:
        return low, high
    least, most = float(values.min()), float(values.max())
    return (least, most) if most > least else (least / 1.25, most * 1.25)


def _padded(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    margin = 0.01 * abs(high) or 0.01
    return low - margin, high + margin


def _with_ticks(
    name: str,
    title: str,
    is_log: bool,
    knots: Sequence[tuple[float, float]],
    asked: Sequence[tuple[float, str]],
    values: np.ndarray,
) -> Axis:
    """The axis with those of the ticks asked for, the most wanted first, that fit side by side."""
    axis = Axis(name, title, is_log, tuple(knots), (), values)
    kept: list[tuple[float, float, float, str]] = []
    for value, label in asked:
        at = float(axis.positions(np.array([value]))[0])
        left, right = _extent(at, label)
        if all(right + _BETWEEN < other[0] or left - _BETWEEN > other[1] for other in kept):
            kept.append((left, right, value, label))
    ticks = sorted((value, label) for _, _, value, label in kept)
    return axis._replace(ticks=tuple(ticks))


def _extent(position: float, label: str) -> tuple[float, float]:
    """What a label covers of its axis on a telephone; at an end it reaches inwards."""
    width = _CHARACTER * len(label)
    share = _anchor(position)[1]
    return position - share * width, position + (1 - share) * width


def _anchor(position: float) -> tuple[str, float]:
    """How a label is anchored, and the share of it that lies left of its tick."""
    if position < 0.06:
        return "left", 0.0
    return ("right", 1.0) if position > 0.94 else ("center", 0.5)


# Brushes -----------------------------------------------------------------------------------------


def brush_of(
    info: ParallelInfo, x_range: Sequence[float], y_range: Sequence[float]
) -> tuple[str, tuple[float, float]] | None:
    """What a box drawn over the figure asks for: `("sparsity", (0.8, 0.95))`.

    Args:
        info: what is drawn.
        x_range, y_range: of the box, in the figure's axes, either way round: plotly's
            `selectedData["range"]["x"]` and `["y"]`.

    Returns:
        The axis nearest to the box (of several in it, the one nearest to its middle) and the
        range in its unit; None for a click, or a box beside every axis.
    """
    left, right = sorted(float(x) for x in x_range)
    top, bottom = sorted(float(y) for y in y_range)
    left, right = max(left, 0.0), min(right, 1.0)
    if not info.axes or right - left < _THINNEST_BRUSH:
        return None
    middle = (top + bottom) / 2

    def distance(row: int) -> tuple[float, float]:
        outside = max(top - row, row - bottom, 0.0)
        return outside, abs(row - middle)

    row = min(range(len(info.axes)), key=distance)
    if distance(row)[0] > _FARTHEST:
        return None
    axis = info.axes[row]
    return axis.name, (axis.value_at(left), axis.value_at(right))


# Drawing -----------------------------------------------------------------------------------------


def draw_parallel(info: ParallelInfo, theme: Theme, *, can_brush: bool = True) -> go.Figure:
    """The figure: x = position on an axis, y = the axis's row.

    Args:
        info: what is drawn.
        theme: the colours.
        can_brush: whether dragging draws a box. False on a page where nothing would answer it.
    """
    if not info.axes:
        return empty_figure(theme, info.words)
    count = len(info.axes)
    height = 96 + _ROW_HEIGHT * count
    return go.Figure(
        data=[*_lines(info, theme), _axis_lines(info, theme), *_pick_line(info, theme)],
        layout={
            "template": template(theme),
            "height": height,
            "meta": {"narrow_height": height},
            # Not "v" or "h": plotly then widens the box over the whole plot, and which axis was
            # meant is lost.
            "dragmode": "select" if can_brush else False,
            "selectdirection": "d",
            # A box is drawn as a shape of ours: plotly's own goes when the brushes change.
            "selections": [],
            "selectionrevision": str(sorted(info.brushes.items())),
            "newselection": {"line": {"color": theme.pick, "width": 1.5, "dash": "solid"}},
            "hovermode": "closest",
            "xaxis": {"visible": False, "range": [-0.02, 1.02], "fixedrange": True},
            "yaxis": {"visible": False, "range": [count - 0.4, -0.62], "fixedrange": True},
            "shapes": _boxes(info, theme),
            "annotations": _labels(info, theme),
            "legend": LEGEND_BELOW,
            "margin": {"t": 8, "l": 10, "r": 10},
        },
    )


def _lines(info: ParallelInfo, theme: Theme) -> list[go.Scatter]:
    """From the least to the most important; nothing hangs on colour alone: widths differ."""
    front, inside = info.on_front & info.inside, ~info.on_front & info.inside
    # Very many lines would be one surface at full strength.
    many = int(front.sum()) > _MANY_FRONT
    brushed = bool(info.brushes)
    groups = [
        ("outside the brushes", ~info.inside, theme.grid, 1.0, 1.0),
        (
            "others within the brushes" if brushed else "best others",
            inside,
            theme.muted if brushed else theme.faint,
            1.2 if brushed else 1.0,
            0.8 if brushed else 0.35,
        ),
        (
            "front within the brushes" if brushed else "front",
            front,
            theme.front,
            1.6 if many else 2.2,
            0.6 if many else 0.9,
        ),
    ]
    return [
        go.Scatter(
            **_points(info, np.flatnonzero(chosen)),
            mode="lines",
            line={"color": colour, "width": width},
            opacity=opacity,
            name=f"{name} ({int(chosen.sum())})",
        )
        for name, chosen, colour, width, opacity in groups
        if chosen.any()
    ]


def _points(info: ParallelInfo, chosen: np.ndarray) -> dict[str, Any]:
    """Some lines as one trace: a gap after each. `customdata` is the trial's name at each point."""
    grid = np.array([axis.positions(axis.values[chosen]) for axis in info.axes])
    gap = np.full((1, len(chosen)), np.nan)
    rows = np.append(np.arange(len(info.axes), dtype=float), np.nan)
    names = [info.names[i] for i in chosen]
    repeat = len(info.axes) + 1
    return {
        "x": np.vstack([grid, gap]).T.ravel(),
        "y": np.tile(rows, len(chosen)),
        "customdata": [name for name in names for _ in range(repeat)],
        "hovertext": [text for i in chosen for text in [plot_text(info.hovers[i])] * repeat],
        "hovertemplate": "<b>trial %{customdata}</b><br>%{hovertext}<extra></extra>",
    }


def _pick_line(info: ParallelInfo, theme: Theme) -> list[go.Scatter]:
    chosen = np.flatnonzero(info.is_pick & info.inside)
    if len(chosen) == 0:
        return []
    return [
        go.Scatter(
            **_points(info, chosen),
            mode="lines+markers",
            line={"color": theme.pick, "width": 2.5},
            marker={
                "symbol": "star",
                "size": 11,
                "color": theme.pick,
                "line": {"color": theme.page, "width": 1},
            },
            name="the pick",
        )
    ]


def _axis_lines(info: ParallelInfo, theme: Theme) -> go.Scatter:
    """Every axis with its ticks, as one path."""
    x: list[float] = []
    y: list[float] = []
    for row, axis in enumerate(info.axes):
        x += [0.0, 1.0, math.nan]
        y += [row, row, math.nan]
        for at in axis.positions(np.array([value for value, _ in axis.ticks])):
            x += [float(at), float(at), math.nan]
            y += [row, row + 0.08, math.nan]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": theme.ink, "width": 1.2},
        hoverinfo="skip",
        showlegend=False,
    )


def _boxes(info: ParallelInfo, theme: Theme) -> list[dict[str, Any]]:
    shapes = []
    for row, axis in enumerate(info.axes):
        if axis.name in info.brushes:
            x0, x1 = axis.positions(np.array(info.brushes[axis.name]))
            shapes.append(
                {
                    "type": "rect",
                    # A brush of one value must still be seen.
                    "x0": float(x0) - 0.004,
                    "x1": float(x1) + 0.004,
                    "y0": row - 0.14,
                    "y1": row + 0.14,
                    "fillcolor": theme.shade,
                    "line": {"color": theme.pick, "width": 2},
                }
            )
    return shapes


def _labels(info: ParallelInfo, theme: Theme) -> list[dict[str, Any]]:
    """Titles above the axes, values below; on the page's colour, because lines pass behind them."""
    shared = {"showarrow": False, "bgcolor": theme.page, "borderpad": 1, "opacity": 0.9}
    labels: list[dict[str, Any]] = []
    for row, axis in enumerate(info.axes):
        labels.append(
            {
                **shared,
                "text": f"<b>{plot_text(axis.title, 60)}</b>",
                "x": 0,
                "y": row,
                "xanchor": "left",
                "yanchor": "bottom",
                "yshift": 8,
                "font": {"size": 12, "color": theme.ink},
            }
        )
        places = axis.positions(np.array([value for value, _ in axis.ticks]))
        labels += [
            {
                **shared,
                "text": plot_text(label, 16),
                "x": float(at),
                "y": row,
                "xanchor": _anchor(float(at))[0],
                "yanchor": "top",
                "yshift": -7,
                "font": {"size": 11, "color": theme.muted},
            }
            for at, (_, label) in zip(places, axis.ticks, strict=True)
        ]
    return labels
