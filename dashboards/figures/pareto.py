"""The Pareto plot: the metric against the bytes of the file, of the download, or the latency."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

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
    padded,
    padded_log,
    place_labels,
)
from dashboards.figures.thinning import CELLS, thin
from dashboards.tables import DOMINATED, FRONT, OVER_BUDGET, losses_of, with_over_limits
from dashboards.text import (
    format_bytes,
    format_ms,
    format_order_words,
    format_spread,
    plot_text,
    shorten,
)
from dashboards.theme import Theme, template
from spaces import Judge, Metric

__all__ = ["Faint", "ParetoInfo", "Ranges", "XAxis", "draw_pareto", "pareto_info"]

XAxis = Literal["size_bytes", "download_bytes", "latency_ms"]
#: A view: (lowest, highest) of x, and of the metric, in the data's units.
Ranges = tuple[tuple[float, float], tuple[float, float]]

_AXIS_WORDS: Mapping[XAxis, str] = MappingProxyType(
    {"size_bytes": "file size", "download_bytes": "download, packed", "latency_ms": "latency, ms"}
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon")
_OTHER_SYMBOL = "hexagon"
#: More faint points than this share marks where they would hide each other, on a grid that is
#: coarsened until there are no more marks than this: the figure stays below 400 KB.
_MOST_MARKS = 600
_COARSER = 0.85
#: So many marks are drawn smaller.
_MANY = 1000
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
_RING_PX = 26
#: Colour and place in the legend of a second study.
_OTHER_CATEGORY = 2
_OTHER_RANK = 500


class Faint(NamedTuple):
    """Trials of the background. Those that would hide each other share a mark.

    Attributes:
        rows: of the trial table, one a mark.
        counts: (marks,), how many trials each stands for, itself included.
    """

    rows: pd.DataFrame
    counts: np.ndarray

    @property
    def total(self) -> int:
        """Trials, drawn or stood for."""
        return int(self.counts.sum())


class ParetoInfo(NamedTuple):
    """Everything the Pareto plot shows.

    Attributes:
        metric: of the vertical axis.
        x: the column of the horizontal axis.
        dominated, over_budget: of the search's fidelity, thinned where they lie dense.
        front: rows of the trial table, of the search's fidelity.
        finalists: rows of the trial table of the full fidelity, feasible or not.
        references: rows of either status that are reference policies.
        pick: the row to ship, a frame of no or one row.
        tuned: x_from, metric_from, x_to, metric_to: what full fine-tuning made of a searched trial.
        staircase: x, metric: corners, small to large, no corner beaten in the two.
        staircase_is_feasible: False when nothing kept the budget: the corners of everything.
        orders: the stage orders that have a symbol of their own, commonest on the front first.
        baseline_metric, baseline_size_bytes, baseline_latency_ms: the uncompressed network.
        baseline_x: of these, the horizontal axis; None where it is not known.
        x_limit, metric_limit: the budget's lines on these two axes, None without.
        x_range, metric_range: the first view.
        all_x_range, all_metric_range: what shows every trial.
        shown: what a reader looks at now: the first view, or where they zoomed to.
        hidden_count: trials outside the first view.
        latency_words: what the latencies are, e.g. "modelled".
    """

    metric: Metric
    x: XAxis
    dominated: Faint
    over_budget: Faint
    front: pd.DataFrame
    finalists: pd.DataFrame
    references: pd.DataFrame
    pick: pd.DataFrame
    tuned: pd.DataFrame
    staircase: pd.DataFrame
    staircase_is_feasible: bool
    orders: tuple[str, ...]
    baseline_metric: float
    baseline_size_bytes: int
    baseline_latency_ms: float
    baseline_x: float | None
    x_limit: float | None
    metric_limit: float | None
    x_range: tuple[float, float]
    metric_range: tuple[float, float]
    all_x_range: tuple[float, float]
    all_metric_range: tuple[float, float]
    shown: Ranges
    hidden_count: int
    latency_words: str

    @property
    def views(self) -> dict[str, dict[str, list[float]]]:
        """Name of a view -> plotly's relayout arguments; the first is how it is drawn."""
        if self.x_range == self.all_x_range and self.metric_range == self.all_metric_range:
            return {}

        def view(x: tuple[float, float], metric: tuple[float, float]) -> dict[str, list[float]]:
            return {
                "xaxis.range": [math.log10(limit) for limit in x],
                "yaxis.range": list(metric),
            }

        return {
            "front": view(self.x_range, self.metric_range),
            "all trials": view(self.all_x_range, self.all_metric_range),
        }

    @property
    def is_thinned(self) -> bool:
        """Whether some marks stand for several trials."""
        return any(len(f.rows) < f.total for f in (self.dominated, self.over_budget))

    def covering(self, other: "ParetoInfo") -> "ParetoInfo":
        """This study in views that show the other one too.

        Raises:
            ValueError: the two have different axes.
        """
        for name in ("metric", "x"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"two studies in one plot need one {name}: {mine} and {theirs}")
        x_range = _union(self.x_range, other.x_range)
        metric_range = _union(self.metric_range, other.metric_range)
        is_zoomed = self.shown != (self.x_range, self.metric_range)
        return self._replace(
            x_range=x_range,
            metric_range=metric_range,
            all_x_range=_union(self.all_x_range, other.all_x_range),
            all_metric_range=_union(self.all_metric_range, other.all_metric_range),
            shown=self.shown if is_zoomed else (x_range, metric_range),
        )


def _union(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


def pareto_info(
    trials: pd.DataFrame,
    finalists: pd.DataFrame,
    judge: Judge,
    *,
    x: XAxis = "size_bytes",
    shown: Ranges | None = None,
) -> ParetoInfo:
    """What to draw of two trial tables: the search's, and the finalists' at full fidelity.

    Args:
        trials, finalists: of `trial_table`, or of `with_choice` for another budget.
        judge: with the budget that gave the tables their statuses.
        x: the horizontal axis.
        shown: where a reader zoomed to; faint points are thinned for it. None: the first view.
    """
    done = trials[trials["metric"].notna()]
    final = finalists[finalists["metric"].notna()]
    status = done["status"].to_numpy()
    front = done[status == FRONT]
    references = done[(done["reference"] != "").to_numpy()]
    picks = [rows[rows["is_pick"].to_numpy(dtype=bool)] for rows in (final, done)]
    pick = next((rows for rows in picks if len(rows)), done.iloc[:0])
    staircase = _staircase(front if len(front) else done, judge.metric, x)
    baseline_x = _baseline_x(done, judge, x)
    views = _views(
        _places(done, x),
        _places(front, x),
        np.concatenate([_places(final, x), _places(references, x), staircase.to_numpy()]),
        judge,
        [value for value in (baseline_x, getattr(judge.budget, x)) if value is not None],
    )
    now = shown or views.first
    dominated, over_budget = _faint(done, status, x, judge.metric, now)
    return ParetoInfo(
        metric=judge.metric,
        x=x,
        dominated=dominated._replace(rows=with_over_limits(dominated.rows, judge)),
        over_budget=over_budget._replace(rows=with_over_limits(over_budget.rows, judge)),
        front=front,
        finalists=with_over_limits(final, judge),
        references=with_over_limits(references, judge),
        pick=with_over_limits(pick, judge),
        tuned=_tuned(done, final, x),
        staircase=staircase,
        staircase_is_feasible=len(front) > 0,
        orders=tuple(front["order"].value_counts().index[: len(_SYMBOLS)]),
        baseline_metric=judge.profile.baseline_metric,
        baseline_size_bytes=judge.profile.baseline_size_bytes,
        baseline_latency_ms=judge.profile.baseline_latency_ms,
        baseline_x=baseline_x,
        x_limit=getattr(judge.budget, x),
        metric_limit=judge.budget.metric_limit(judge.metric, judge.profile.baseline_metric),
        x_range=views.first[0],
        metric_range=views.first[1],
        all_x_range=views.whole[0],
        all_metric_range=views.whole[1],
        shown=now,
        hidden_count=_count_outside(
            np.concatenate([_places(done, x), _places(final, x)]), views.first
        ),
        latency_words=" / ".join(sorted(set(done["latency_source"]))),
    )


def _places(rows: pd.DataFrame, x: str) -> np.ndarray:
    """(rows, 2): x and the metric."""
    return np.column_stack([numbers(rows, x), numbers(rows, "metric")])


def numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """A column of the trial table as floats; what is missing is NaN."""
    values: np.ndarray = rows[column].to_numpy(dtype=float, na_value=np.nan)
    return values


def _baseline_x(done: pd.DataFrame, judge: Judge, x: XAxis) -> float | None:
    if x == "latency_ms":
        return judge.profile.baseline_latency_ms
    # The profile knows the baseline's file alone. Where every file is its own packed form, that
    # is the baseline's download too.
    is_known = x == "size_bytes" or bool((done[x] == done["size_bytes"]).all())
    return float(judge.profile.baseline_size_bytes) if is_known else None


class _Views(NamedTuple):
    first: Ranges
    whole: Ranges


def _views(
    done: np.ndarray, front: np.ndarray, others: np.ndarray, judge: Judge, marks: Sequence[float]
) -> _Views:
    """What is worth a close look, and everything.

    Args:
        done, front, others: (trials, 2), x and metric: all of the search, its front, and what
            else should be in the first view.
        judge: baseline and limits.
        marks: on the x axis: limit and baseline.
    """
    metric, profile = judge.metric, judge.profile
    limit = judge.budget.metric_limit(metric, profile.baseline_metric)
    focus = np.concatenate([front, others])
    x = np.append(_worth_a_look(focus, judge)[:, 0], marks)
    must = np.array(
        [
            *([] if limit is None else [limit]),
            profile.baseline_metric,
            *_worth_a_look(front, judge)[:, 1],
        ]
    )
    y = np.append(must, _readable(metric, focus[:, 1], must))
    whole = (
        padded_log(np.concatenate([x, done[:, 0]])),
        padded(np.concatenate([y, done[:, 1], focus[:, 1]])),
    )
    # Without a front there is nothing to look at closely: show what was found.
    if len(front) == 0:
        return _Views(whole, whole)
    return _Views((padded_log(x) if len(x) else whole[0], padded(y, 0.1)), whole)


def _worth_a_look(places: np.ndarray, judge: Judge) -> np.ndarray:
    """Those that add hypervolume: without a metric limit a network that guesses is on the front."""
    losses = losses_of(judge.metric, places[:, 1])
    worth: np.ndarray = places[losses < judge.reference[0]]
    return worth


def _readable(metric: Metric, values: np.ndarray, must: np.ndarray) -> np.ndarray:
    """The values worth an axis: those not much worse than the worst of `must`.

    One network destroyed to chance level would press the whole front into a line at the top.
    """
    losses = losses_of(metric, must)
    worst = float(losses.max())
    spread = worst - float(losses.min())
    limit = worst + max(spread, 0.02 if metric.unit == "share" else 0.1 * abs(worst))
    return values[losses_of(metric, values) <= limit]


def _staircase(rows: pd.DataFrame, metric: Metric, x: XAxis) -> pd.DataFrame:
    """The places no other beats in x and metric. A 3-D front has members beyond them."""
    places = _places(rows, x)
    losses = losses_of(metric, places[:, 1])
    order = np.lexsort((losses, places[:, 0]))
    best_before = np.minimum.accumulate(np.append(np.inf, losses[order]))[:-1]
    return pd.DataFrame(places[order[losses[order] < best_before]], columns=["x", "metric"])


def _faint(
    done: pd.DataFrame, status: np.ndarray, x: XAxis, metric: Metric, shown: Ranges
) -> tuple[Faint, Faint]:
    """The dominated trials and those over the budget, thinned together when they are many."""
    places = _places(done, x)
    kinds = [np.flatnonzero(status == kind) for kind in (DOMINATED, OVER_BUDGET)]
    if sum(map(len, kinds)) <= _MOST_MARKS:
        dominated, over = (Faint(done.iloc[at], np.ones(len(at), dtype=int)) for at in kinds)
        return dominated, over
    cells = CELLS
    while True:
        marks = [
            thin(
                places[at, 0],
                places[at, 1],
                *shown,
                cells,
                higher_is_better=metric.higher_is_better,
            )
            for at in kinds
        ]
        if sum(len(chosen) for chosen, _ in marks) <= _MOST_MARKS:
            break
        cells = (int(cells[0] * _COARSER), int(cells[1] * _COARSER))
    dominated, over = (
        Faint(done.iloc[at[chosen]], counts)
        for at, (chosen, counts) in zip(kinds, marks, strict=True)
    )
    return dominated, over


def _tuned(done: pd.DataFrame, final: pd.DataFrame, x: XAxis) -> pd.DataFrame:
    """Searched trials beside the finalists of the same policy."""
    columns = ["policy_digest", x, "metric"]
    searched = done.loc[done["policy_digest"].isin(final["policy_digest"]), columns]
    pairs = searched.merge(final[columns], on="policy_digest", suffixes=("_from", "_to"))
    names = {f"{x}_from": "x_from", f"{x}_to": "x_to"}
    return pairs.rename(columns=names)[["x_from", "metric_from", "x_to", "metric_to"]].astype(float)


def _count_outside(places: np.ndarray, view: Ranges) -> int:
    low, high = np.array(view).T
    return int(((places < low) | (places > high)).any(axis=1).sum())


# Drawing -----------------------------------------------------------------------------------------


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
            _plain_points(info.over_budget, info, "over the budget", "x-thin", theme.infeasible),
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
    rows: pd.DataFrame, metric: Metric, counts: np.ndarray | None = None
) -> list[list[str]]:
    """Per point: the trial's name and the lines of its hover text, escaped.

    Args:
        rows: of the trial table.
        metric: of the study.
        counts: (rows,), how many trials each mark stands for; None: one.
    """
    # Escaped once, not once a row.
    safe_metric = replace(metric, unit=plot_text(metric.unit))
    sources = {source: plot_text(source) for source in set(rows["latency_source"])}
    more = [1] * len(rows) if counts is None else counts.tolist()
    found = []
    for name, order, policy, value, error, size, latency, source, over, count in zip(
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
    ):
        lines = [
            plot_text(f"{format_order_words(order)}; {policy}", 110),
            f"{safe_metric.format(value)} {format_spread(metric, error)}",
            f"{format_bytes(size)} ({size:,.0f} bytes)",
            f"{format_ms(latency)} {sources[source]}",
        ]
        if over:
            lines.append(plot_text(over))
        if count > 1:
            lines.append(f"and {count - 1:,} more trial{'s' if count > 2 else ''} here")
        found.append([name, "<br>".join(lines)])
    return found


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
        "customdata": hover_rows(rows, info.metric, counts),
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
        "name": ("front" if is_met else "best found, over the budget") + own_name,
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
            "name": ("front" if is_met else "best found, over the budget") + words,
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
        for words, symbol, rows in front_groups(info, _SYMBOLS, _OTHER_SYMBOL)
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
    """`"classic prune>distill>cluster"` -> `"classic"`: the order is in the hover text."""
    words = [word for word in name.split() if not re.fullmatch("[a-z]+(>[a-z]+)+", word)]
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
        "pick": labels(_places(info.pick, info.x), ["pick"] * len(info.pick), 18, _PICK_FONT_PX),
        "selected": labels(
            [place for _, *place in selected], [label for label, *_ in selected], _RING_PX, 15
        ),
        "references": labels(
            _places(info.references, info.x),
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
        "other": labels(_places(theirs, info.x), [f"pick{_of(other_name)}"] * len(theirs), 17, 11),
    }
    marks = np.concatenate([_places(rows, info.x) for rows in (info.front, info.finalists)])
    everyone = [label for group in wanted.values() for label in group]
    positions = iter(place_labels(everyone, shares(marks)))
    placed = {name: [next(positions) for _ in group] for name, group in wanted.items()}
    single = {name: (placed[name] or [""])[0] for name in ("pick", "baseline", "other")}
    return {**placed, **single}


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
