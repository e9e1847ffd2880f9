"""The Pareto plot: the metric against the bytes of the file."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.axes import (
    ColourScale,
    bytes_axis,
    colour_scale,
    metric_axis,
    padded,
    padded_log,
)
from dashboards.tables import DOMINATED, FRONT, OVER_BUDGET
from dashboards.text import (
    format_bytes,
    format_ms,
    format_order_words,
    format_spread,
    plot_text,
)
from dashboards.theme import Theme, template
from spaces import Judge, Metric, nondominated

__all__ = ["ParetoInfo", "draw_pareto", "pareto_info"]

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon")
_OTHER_SYMBOL = "hexagon"
OTHER_ORDERS = "another order"
_MANY = 1000
_HEIGHT = 640
#: On a telephone the legend has one entry a line.
_NARROW_HEIGHT = 860
#: Shapes end here: far outside any range, so that panning does not show the shading's edge, and
#: near enough for a browser's coordinates.
_FAR_BYTES = 1e15
_FAR_SPANS = 50


class ParetoInfo(NamedTuple):
    """Everything the Pareto plot shows.

    Attributes:
        metric: of the vertical axis.
        dominated, over_budget, front: rows of the trial table, of the search's fidelity.
        finalists: rows of the trial table of the full fidelity, feasible or not.
        references: rows of either status that are reference policies.
        pick: the row to ship, a frame of no or one row.
        staircase: size_bytes, metric: corners, small to large, no corner beaten in the two.
        staircase_is_feasible: False when nothing kept the budget: the corners of everything.
        orders: the stage orders that have a symbol of their own, commonest on the front first.
        baseline_size_bytes, baseline_metric: the uncompressed network.
        size_limit_bytes, metric_limit: the budget's lines, None without.
        size_range, metric_range: what is shown at first.
        all_size_range, all_metric_range: what shows every trial.
        latency_words: what the latencies are, e.g. "modelled".
    """

    metric: Metric
    dominated: pd.DataFrame
    over_budget: pd.DataFrame
    front: pd.DataFrame
    finalists: pd.DataFrame
    references: pd.DataFrame
    pick: pd.DataFrame
    staircase: pd.DataFrame
    staircase_is_feasible: bool
    orders: tuple[str, ...]
    baseline_size_bytes: int
    baseline_metric: float
    size_limit_bytes: int | None
    metric_limit: float | None
    size_range: tuple[float, float]
    metric_range: tuple[float, float]
    all_size_range: tuple[float, float]
    all_metric_range: tuple[float, float]
    latency_words: str

    @property
    def views(self) -> dict[str, dict[str, list[float]]]:
        """Name of a view -> plotly's relayout arguments; the first is how it is drawn."""
        if self.size_range == self.all_size_range and self.metric_range == self.all_metric_range:
            return {}

        def view(size: tuple[float, float], metric: tuple[float, float]) -> dict[str, list[float]]:
            return {
                "xaxis.range": [math.log10(limit) for limit in size],
                "yaxis.range": list(metric),
            }

        return {
            "front": view(self.size_range, self.metric_range),
            "all trials": view(self.all_size_range, self.all_metric_range),
        }

    @property
    def hidden_count(self) -> int:
        """Trials outside the first view."""
        rows = pd.concat([self.dominated, self.over_budget, self.front, self.finalists])
        sizes, metrics = rows["size_bytes"].astype(float), rows["metric"]
        shown = sizes.between(*self.size_range) & metrics.between(*self.metric_range)
        return int((~shown).sum())


def pareto_info(trials: pd.DataFrame, finalists: pd.DataFrame, judge: Judge) -> ParetoInfo:
    """What to draw of two trial tables: the search's, and the finalists' at full fidelity."""
    done = trials[trials["metric"].notna()]
    final = finalists[finalists["metric"].notna()]
    front = done[done["status"] == FRONT]
    profile, budget, metric = judge.profile, judge.budget, judge.metric
    metric_limit = budget.metric_limit(metric, profile.baseline_metric)
    picks = [rows[rows["is_pick"]] for rows in (final, done)]
    pick = next((rows for rows in picks if len(rows)), done.iloc[:0])
    staircase = _staircase(front if len(front) else done, metric)
    references = done[done["reference"] != ""]
    limits = [] if metric_limit is None else [metric_limit]
    in_focus = pd.concat([staircase, front, final, references], ignore_index=True)
    worth = _worth_a_look(in_focus, judge)
    sizes = [
        *worth["size_bytes"].astype(float),
        profile.baseline_size_bytes,
        *([] if budget.size_bytes is None else [budget.size_bytes]),
    ]
    metrics = _readable(
        metric,
        [*in_focus["metric"]],
        [*limits, profile.baseline_metric, *_worth_a_look(front, judge)["metric"]],
    )
    all_sizes = padded_log(np.array([*sizes, *done["size_bytes"].astype(float)]))
    all_metrics = padded(np.array([*metrics, *done["metric"], *in_focus["metric"]]))
    # Without a front there is nothing to look at closely: show what was found.
    has_front = len(front) > 0
    return ParetoInfo(
        metric=metric,
        dominated=done[done["status"] == DOMINATED],
        over_budget=done[done["status"] == OVER_BUDGET],
        front=front,
        finalists=final,
        references=references,
        pick=pick,
        staircase=staircase,
        staircase_is_feasible=has_front,
        orders=tuple(front["order"].value_counts().index[: len(_SYMBOLS)]),
        baseline_size_bytes=profile.baseline_size_bytes,
        baseline_metric=profile.baseline_metric,
        size_limit_bytes=budget.size_bytes,
        metric_limit=metric_limit,
        size_range=padded_log(np.array(sizes)) if has_front else all_sizes,
        metric_range=padded(np.array(metrics), 0.1) if has_front else all_metrics,
        all_size_range=all_sizes,
        all_metric_range=all_metrics,
        latency_words=" / ".join(sorted(set(done["latency_source"]))),
    )


def _staircase(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The rows no other beats in bytes and metric. A 3-D front has members beyond them."""
    points = np.column_stack([rows["size_bytes"].astype(float), rows["metric"].map(metric.loss)])
    corners = rows[["size_bytes", "metric"]][nondominated(points)]
    return corners.sort_values("size_bytes", ignore_index=True)


def _worth_a_look(rows: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """Those that add hypervolume: without a metric limit a network that guesses is on the front."""
    keep = [judge.metric.loss(value) < judge.reference[0] for value in rows["metric"]]
    worth: pd.DataFrame = rows[np.array(keep, dtype=bool)]
    return worth


def _readable(metric: Metric, values: Sequence[float], must: Sequence[float]) -> list[float]:
    """The values worth an axis: those of `must`, and others not much worse than the worst of them.

    One network destroyed to chance level would press the whole front into a line at the top.
    """
    losses = [metric.loss(value) for value in must]
    spread = max(losses) - min(losses)
    limit = max(losses) + max(spread, 0.02 if metric.unit == "share" else 0.1 * abs(max(losses)))
    return [*must, *(value for value in values if metric.loss(value) <= limit)]


def draw_pareto(info: ParetoInfo, theme: Theme) -> go.Figure:
    """The figure; traces from the least to the most important, so that the pick lies on top."""
    colours = colour_scale(_latencies(info.front, info.finalists))
    return go.Figure(
        data=[
            _plain_points(info.over_budget, info, "over the budget", "x-thin", theme.infeasible),
            _plain_points(
                info.dominated, info, "within the budget, dominated", "circle", theme.faint
            ),
            _staircase_line(info, theme),
            *_fine_tuning_lines(info, theme),
            *_front_points(info, colours, theme),
            *_finalist_points(info, colours, theme),
            *_labelled_points(info, theme),
            *_pick_point(info, theme),
        ],
        layout={
            "template": template(theme),
            "height": _HEIGHT,
            "meta": {"narrow_height": _NARROW_HEIGHT},
            "xaxis": bytes_axis("file size (log)", info.size_range, info.all_size_range),
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
            "coloraxis": _colour_axis(colours, info.latency_words),
            "margin": {"l": 8, "r": 12, "t": 70, "b": 8},
        },
    )


def _latencies(*frames: pd.DataFrame) -> np.ndarray:
    return np.concatenate([frame["latency_ms"].to_numpy(dtype=float) for frame in frames])


def _colour_axis(colours: ColourScale, words: str) -> dict[str, Any]:
    return {
        "colorscale": "Cividis",
        "cmin": colours.low,
        "cmax": colours.high,
        "colorbar": {
            "orientation": "h",
            "title": {
                "text": f"latency, ms ({plot_text(words)})",
                "side": "top",
                "font": {"size": 12},
            },
            "tickfont": {"size": 11},
            "tickvals": colours.ticks,
            "ticktext": colours.labels,
            "thickness": 10,
            "len": 0.6,
            "x": 0,
            "xanchor": "left",
            "y": 1.01,
            "yanchor": "bottom",
            "outlinewidth": 0,
        },
    }


def _hover_rows(rows: pd.DataFrame, metric: Metric) -> list[list[Any]]:
    """Per trial: number and the lines of its hover text, escaped."""
    return [
        [
            number,
            plot_text(f"{format_order_words(order)}; {policy}", 110),
            plot_text(f"{metric.format(value)} {format_spread(metric, error)}"),
            f"{format_bytes(size)} ({size:,.0f} bytes)",
            plot_text(f"{format_ms(latency)} {source}"),
            plot_text(over),
        ]
        for number, order, policy, value, error, size, latency, source, over in zip(
            rows["number"].tolist(),
            rows["order"],
            rows["policy"],
            rows["metric"],
            rows["metric_se"],
            rows["size_bytes"].astype(float),
            rows["latency_ms"],
            rows["latency_source"],
            rows["over_limits"],
            strict=True,
        )
    ]


_HOVER = (
    "<b>%{meta} %{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<br>"
    "%{customdata[3]}<br>%{customdata[4]}<br>%{customdata[5]}<extra></extra>"
)


def _points(rows: pd.DataFrame, info: ParetoInfo, name: str, kind: str) -> dict[str, Any]:
    return {
        "x": rows["size_bytes"].to_numpy(dtype=float),
        "y": rows["metric"].to_numpy(dtype=float),
        "customdata": _hover_rows(rows, info.metric),
        "hovertemplate": _HOVER,
        "meta": kind,
        "mode": "markers",
        "name": name,
    }


def _plain_points(
    rows: pd.DataFrame, info: ParetoInfo, name: str, symbol: str, colour: str
) -> go.Scatter:
    # Thousands of points at full size are a blot that hides how dense they lie.
    many = len(rows) > _MANY
    marker: dict[str, Any] = {"symbol": symbol, "color": colour}
    marker |= {"size": 4 if many else 6, "opacity": _faintness(many, info)}
    marker |= {"line": {"color": colour, "width": 1.2 if symbol == "x-thin" else 0}}
    return go.Scatter(**_points(rows, info, f"{name} ({len(rows):,})", "trial"), marker=marker)


def _faintness(many: bool, info: ParetoInfo) -> float:
    """Background beside a front; without one they are all there is to see."""
    if not info.staircase_is_feasible:
        return 0.9
    return 0.35 if many else 0.55


def _staircase_line(info: ParetoInfo, theme: Theme) -> go.Scatter:
    corners = info.staircase
    x = corners["size_bytes"].to_numpy(dtype=float)
    y = corners["metric"].to_numpy(dtype=float)
    if len(corners):
        # What is larger than the largest member and no better is beaten by it, up to the budget.
        end = info.all_size_range[1] * 10
        if info.staircase_is_feasible and info.size_limit_bytes is not None:
            end = info.size_limit_bytes
        x, y = np.append(x, end), np.append(y, y[-1])
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={
            "shape": "hv",
            "color": theme.front,
            "width": 1.5,
            "dash": "solid" if info.staircase_is_feasible else "dot",
        },
        name="front" if info.staircase_is_feasible else "best found, over the budget",
        hoverinfo="skip",
    )


def _front_points(info: ParetoInfo, colours: ColourScale, theme: Theme) -> list[go.Scatter]:
    """One trace a stage order that has its own symbol, and one for the rest."""
    traces = []
    known = dict(zip(info.orders, _SYMBOLS, strict=False))
    rest = info.front[~info.front["order"].isin(info.orders)]
    groups = [
        (order, symbol, info.front[info.front["order"] == order]) for order, symbol in known.items()
    ]
    if len(rest):
        groups.append((OTHER_ORDERS, _OTHER_SYMBOL, rest))
    for order, symbol, rows in groups:
        marker = _coloured_marker(rows, colours, theme, symbol, 11)
        name = plot_text(f"front: {format_order_words(order)}")
        points = _points(rows, info, name, "trial")
        traces.append(go.Scatter(**points, marker=marker, error_y=_error_bars(rows, theme)))
    return traces


def _coloured_marker(
    rows: pd.DataFrame, colours: ColourScale, theme: Theme, symbol: str, size: int
) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "size": size,
        "color": colours.encode(rows["latency_ms"].to_numpy(dtype=float)),
        "coloraxis": "coloraxis",
        "line": {"color": theme.ink, "width": 1},
    }


def _error_bars(rows: pd.DataFrame, theme: Theme) -> dict[str, Any]:
    errors = rows["metric_se"].to_numpy(dtype=float)
    return {"type": "data", "array": errors, "color": theme.muted, "thickness": 1, "width": 3}


def _fine_tuning_lines(info: ParetoInfo, theme: Theme) -> list[go.Scatter]:
    """From a searched trial to the finalist with the same policy: what full fine-tuning gave."""
    searched = pd.concat([info.front, info.dominated, info.over_budget])
    columns = ["policy_digest", "size_bytes", "metric"]
    pairs = searched[columns].merge(
        info.finalists[columns], on="policy_digest", suffixes=("_from", "_to")
    )
    if pairs.empty:
        return []
    gap = np.full(len(pairs), np.nan)
    x = np.column_stack(
        [pairs["size_bytes_from"].astype(float), pairs["size_bytes_to"].astype(float), gap]
    )
    y = np.column_stack([pairs["metric_from"], pairs["metric_to"], gap])
    line = {"color": theme.muted, "width": 1, "dash": "dot"}
    return [
        go.Scatter(
            x=x.ravel(), y=y.ravel(), mode="lines", line=line, showlegend=False, hoverinfo="skip"
        )
    ]


def _finalist_points(info: ParetoInfo, colours: ColourScale, theme: Theme) -> list[go.Scatter]:
    if info.finalists.empty:
        return []
    rows = info.finalists
    marker = _coloured_marker(rows, colours, theme, "star-diamond", 15)
    marker["line"] = {"color": theme.pick, "width": 2}
    points = _points(rows, info, "finalist, full fine-tuning", "finalist")
    return [go.Scatter(**points, marker=marker, error_y=_error_bars(rows, theme))]


def _labelled_points(info: ParetoInfo, theme: Theme) -> list[go.Scatter]:
    """The references and the baseline. Labels alternate above and below: neighbours overlap."""
    rows = info.references.sort_values("size_bytes")
    positions = ["bottom center" if i % 2 == 0 else "top center" for i in range(len(rows))]
    references = go.Scatter(
        **(_points(rows, info, "reference policy", "reference") | {"mode": "markers+text"}),
        text=[plot_text(name, 26) for name in rows["reference"]],
        textposition=positions,
        textfont={"size": 11, "color": theme.muted},
        marker={"symbol": "diamond-open", "size": 13, "color": theme.ink, "line": {"width": 1.5}},
        cliponaxis=True,
    )
    value = plot_text(info.metric.format(info.baseline_metric))
    baseline = go.Scatter(
        x=[info.baseline_size_bytes],
        y=[info.baseline_metric],
        mode="markers+text",
        text=["baseline"],
        textposition="bottom left",
        textfont={"size": 11, "color": theme.muted},
        marker={"symbol": "square-open-dot", "size": 12, "color": theme.ink},
        name="baseline, uncompressed",
        meta=[value, format_bytes(info.baseline_size_bytes)],
        hovertemplate="<b>baseline</b><br>%{meta[0]}<br>%{meta[1]}<extra></extra>",
    )
    return [references, baseline] if len(rows) else [baseline]


def _pick_point(info: ParetoInfo, theme: Theme) -> list[go.Scatter]:
    if info.pick.empty:
        return []
    kind = "finalist" if info.finalists["is_pick"].any() else "trial"
    return [
        go.Scatter(
            **(
                _points(info.pick, info, "the pick", f"the pick, {kind}") | {"mode": "markers+text"}
            ),
            text=["<b>pick</b>"],
            textposition="top left",
            textfont={"size": 13, "color": theme.pick},
            marker={
                "symbol": "star",
                "size": 18,
                "color": theme.pick,
                "line": {"color": theme.page, "width": 1.5},
            },
        )
    ]


def _limit_shapes(info: ParetoInfo, theme: Theme) -> list[dict[str, Any]]:
    """The region outside the budget, shaded, and its edges as lines with their value."""
    line = {"color": theme.limit, "width": 1.5, "dash": "dash"}
    font = {"color": theme.limit, "size": 11}
    shapes: list[dict[str, Any]] = []
    shade = {"type": "rect", "layer": "below", "fillcolor": theme.shade, "line": {"width": 0}}
    size, limit = info.size_limit_bytes, info.metric_limit
    low, high = info.all_metric_range
    far = _FAR_SPANS * (high - low)
    worse = low - far if info.metric.higher_is_better else high + far
    if size is not None:
        text = f"budget {format_bytes(size)}"
        shapes.append({**shade, "x0": size, "x1": _FAR_BYTES, "y0": 0, "y1": 1, "yref": "y domain"})
        label = {"text": text, "font": font, "textposition": "start", "textangle": 0}
        label |= {"xanchor": "left", "yanchor": "bottom", "padding": 4}
        edge = {"x0": size, "x1": size, "y0": 0, "y1": 1, "yref": "y domain"}
        shapes.append({"type": "line", **edge, "line": line, "label": label})
    if limit is not None:
        text = plot_text(f"limit {info.metric.format(limit)}")
        # The corner outside both limits is shaded once.
        end = {"x0": 1e-3, "x1": _FAR_BYTES if size is None else size}
        shapes.append({**shade, **end, "y0": worse, "y1": limit})
        label = {"text": text, "font": font, "textposition": "start", "padding": 4}
        label |= {"yanchor": "top" if info.metric.higher_is_better else "bottom"}
        edge = {"x0": 0, "x1": 1, "xref": "x domain", "y0": limit, "y1": limit}
        shapes.append({"type": "line", **edge, "line": line, "label": label})
    return shapes
