"""Which order of stages wins where: its share of the front, and the best in each range of sizes."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures.parts import (
    ORDER_KEY,
    cell_outlines,
    counted,
    empty_figure,
    percent,
    short_order,
)
from dashboards.text import format_byte_range, format_order_words, plot_text
from dashboards.theme import Theme, template
from spaces import BYTES_PER_KB, Metric
from spaces.front import default_max_drop

__all__ = ["OrdersInfo", "draw_orders", "orders_info"]

_BAR_HEIGHT = 46
_CELL_HEIGHT = 30


class OrdersInfo(NamedTuple):
    """Everything the plot of orders shows.

    Attributes:
        metric: to be good at.
        orders: rows, e.g. "prune>quantize", most of the front first.
        trials: (orders,), how often each was tried.
        feasible_shares: (orders,), of its trials, 0 to 1.
        front_shares: (orders,), of the front's members, 0 to 1.
        edges_bytes: (bins + 1,), of the bins of sizes.
        best: (orders, bins), the best metric an order found in a bin; NaN without a trial.
        numbers: (orders, bins), the trial that did; -1 without.
        wins, ties: (orders, bins): the bin's best, and what is within one standard error of it.
        of_feasible: whether the bins hold feasible trials; False: all that finished.
        hidden: orders that were tried and are not shown; none of them wins a bin.
        words: a sentence on the front, then one a bin.
    """

    metric: Metric
    orders: tuple[str, ...]
    trials: np.ndarray
    feasible_shares: np.ndarray
    front_shares: np.ndarray
    edges_bytes: np.ndarray
    best: np.ndarray
    numbers: np.ndarray
    wins: np.ndarray
    ties: np.ndarray
    of_feasible: bool
    hidden: int
    words: tuple[str, ...]


def orders_info(
    orders: pd.DataFrame, bins: pd.DataFrame, metric: Metric, limit: int = 8
) -> OrdersInfo:
    """From `tables.order_frame` and `insight_tables.order_bin_frame` of the same trials.

    Args:
        orders: one row an order.
        bins: one row an order and bin.
        metric: of the study.
        limit: at most so many orders, but every order that wins a bin is among them.
    """
    winners = set(bins[bins["is_best"]]["order"]) if len(bins) else set()
    must = orders["order"].isin(winners)
    others = orders[~must].head(max(0, limit - int(must.sum()))).index
    shown = orders[must | orders.index.isin(others)]
    names = tuple(shown["order"])
    count = 0 if bins.empty else int(bins["bin"].max()) + 1
    shape = (len(names), count)
    best, numbers = np.full(shape, np.nan), np.full(shape, -1)
    wins, ties = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    edges = np.full(count + 1 if count else 0, np.nan)
    row_of = {name: row for row, name in enumerate(names)}
    for cell in bins.to_dict("records"):
        b = int(cell["bin"])
        edges[b], edges[b + 1] = cell["low_bytes"], cell["high_bytes"]
        row = row_of.get(cell["order"])
        if row is not None:
            best[row, b], numbers[row, b] = cell["metric"], cell["number"]
            wins[row, b], ties[row, b] = cell["is_best"], cell["is_tied"]
    return OrdersInfo(
        metric=metric,
        orders=names,
        trials=shown["trials"].to_numpy(dtype=int),
        feasible_shares=(shown["feasible"] / shown["trials"]).to_numpy(dtype=float),
        front_shares=shown["share_of_front"].to_numpy(dtype=float),
        # Bins are equally wide: an empty one lies between its neighbours' edges.
        edges_bytes=_filled(edges),
        best=best,
        numbers=numbers,
        wins=wins,
        ties=ties,
        of_feasible=bool(bins["feasible"].any()) if len(bins) else False,
        hidden=len(orders) - len(shown),
        words=tuple(_words(orders, bins, metric)),
    )


def _filled(edges: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(np.isfinite(edges))
    if len(known) == 0:
        return edges
    filled: np.ndarray = np.exp(np.interp(np.arange(len(edges)), known, np.log(edges[known])))
    return filled


def _words(orders: pd.DataFrame, bins: pd.DataFrame, metric: Metric) -> list[str]:
    if orders.empty:
        return ["No trial has finished, so no order of stages has been tried."]
    on_front = orders[orders["on_front"] > 0]
    if on_front.empty:
        words = [f"{len(orders)} orders of stages were tried; none has a feasible trial."]
    else:
        leader = on_front.iloc[0]
        first = (
            f"{format_order_words(leader['order'])} holds {percent(leader['share_of_front'])} of "
            f"the front with {percent(leader['trials'] / orders['trials'].sum())} of the trials; "
            f"{len(on_front)} of {len(orders)} orders tried are on the front."
        )
        words = [first]
    for _, rows in bins.groupby("bin", sort=True):
        winner = rows[rows["is_best"]].iloc[0]
        ties = int(rows["is_tied"].sum())
        also = f"; within one standard error: {counted(ties, 'other order')}" if ties else ""
        words.append(
            f"{format_byte_range(winner['low_bytes'], winner['high_bytes'])}: "
            f"{format_order_words(winner['order'])}, {metric.format(winner['metric'])} "
            f"(trial {winner['number']}){also}."
        )
    return words


def draw_orders(info: OrdersInfo, theme: Theme) -> go.Figure:
    """Bars above, a grid of sizes below; one row an order in both, so that rows name the winner."""
    if not info.orders:
        return empty_figure(theme, info.words[0])
    count = len(info.orders)
    bars_height, grid_height = _BAR_HEIGHT * count, _CELL_HEIGHT * count
    height = bars_height + grid_height + 240
    figure = make_subplots(
        rows=2,
        cols=1,
        row_heights=[bars_height, grid_height],
        # 110 px between them, for the upper axis and the lower heading.
        vertical_spacing=110 / (height - 100),
    )
    for trace in _bars(info, theme):
        figure.add_trace(trace, row=1, col=1)
    for trace in _grid(info, theme):
        figure.add_trace(trace, row=2, col=1)
    rows = {
        "tickvals": list(range(count)),
        "ticktext": [short_order(order) for order in info.orders],
        "showgrid": False,
        "fixedrange": True,
    }
    figure.update_yaxes(**rows, range=[count - 0.55, -0.75], row=1, col=1)
    figure.update_yaxes(**rows, range=[count - 0.5, -0.5], row=2, col=1)
    longest = max(float(info.front_shares.max()), 0.05)
    figure.update_xaxes(
        title_text="share of the front",
        tickformat=".0%",
        nticks=5,
        # Room for the words at the longest bar's end, on a telephone too.
        range=[0, 2.4 * longest],
        fixedrange=True,
        row=1,
        col=1,
    )
    figure.update_xaxes(**_size_axis(info), row=2, col=1)
    figure.update_layout(
        template=template(theme),
        height=height,
        meta={"narrow_height": height},
        showlegend=False,
        annotations=_headings(info, theme),
        margin={"t": 34, "b": 66, "r": 24},
    )
    return figure


def _bars(info: OrdersInfo, theme: Theme) -> list[Any]:
    positions = list(range(len(info.orders)))
    names = [plot_text(format_order_words(order)) for order in info.orders]
    ends = [
        f" {percent(share)} · {trials:,} tried, {percent(feasible)} feasible"
        for share, trials, feasible in zip(
            info.front_shares, info.trials, info.feasible_shares, strict=True
        )
    ]
    bars = go.Bar(
        y=positions,
        x=info.front_shares,
        orientation="h",
        width=0.4,
        text=ends,
        textposition="outside",
        textangle=0,
        textfont={"size": 11, "color": theme.muted},
        cliponaxis=False,
        customdata=[list(pair) for pair in zip(names, ends, strict=True)],
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        marker={"color": theme.front, "line": {"width": 0}},
    )
    above = go.Scatter(
        x=[0.0] * len(positions),
        y=[position - 0.42 for position in positions],
        mode="text",
        text=names,
        textposition="middle right",
        textfont={"size": 12, "color": theme.ink},
        cliponaxis=False,
        hoverinfo="skip",
    )
    return [bars, above]


def _grid(info: OrdersInfo, theme: Theme) -> list[Any]:
    count = info.best.shape[1]
    if count == 0:
        return [go.Scatter(x=[], y=[])]
    losses = np.vectorize(info.metric.loss, otypes=[float])(info.best)
    # fmin, not nanmin: a bin without a trial is no reason to warn.
    gaps = losses - np.fmin.reduce(losses, axis=0)
    # What is a default drop (five points) behind the bin's winner is as pale as the page.
    drop = default_max_drop(info.metric, float(np.nanmedian(info.best)))
    strength = np.clip(1 - gaps / drop, 0, 1)
    texts = [[_cell(info, row, b) for b in range(count)] for row in range(len(info.orders))]
    hovers = [[_hover(info, row, b) for b in range(count)] for row in range(len(info.orders))]
    heat = go.Heatmap(
        x=list(range(count)),
        y=list(range(len(info.orders))),
        z=np.where(np.isfinite(info.best), strength, np.nan),
        text=texts,
        texttemplate="%{text}",
        textfont={"size": 11, "color": theme.ink},
        customdata=hovers,
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        zmin=0,
        zmax=1,
        colorscale=[list(stop) for stop in theme.strength],
        showscale=False,
        xgap=2,
        ygap=2,
    )
    wins = np.argwhere(info.wins)
    return [heat, cell_outlines([(float(b), float(row)) for row, b in wins], theme)]


def _cell(info: OrdersInfo, row: int, b: int) -> str:
    value = info.best[row, b]
    if not np.isfinite(value):
        return ""
    number = f"{100 * value:.1f}" if info.metric.unit == "share" else f"{value:.3g}"
    if info.wins[row, b]:
        return f"<b>{number}</b>"
    return f"≈{number}" if info.ties[row, b] else number


def _hover(info: OrdersInfo, row: int, b: int) -> str:
    value = info.best[row, b]
    if not np.isfinite(value):
        return ""
    state = "<br>best of its sizes" if info.wins[row, b] else ""
    if info.ties[row, b]:
        state = "<br>within one standard error of the best"
    low, high = info.edges_bytes[b], info.edges_bytes[b + 1]
    return (
        f"<b>{plot_text(format_order_words(info.orders[row]))}</b><br>"
        f"{plot_text(info.metric.format(value))}, trial {info.numbers[row, b]}<br>"
        f"{format_byte_range(low, high)}{state}"
    )


def _distinct(edges: np.ndarray) -> list[str]:
    """Three digits, or as many as it takes to tell the edges apart."""
    for digits in range(3, 8):
        texts = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(texts)) == len(texts):
            break
    return texts


def _size_axis(info: OrdersInfo) -> dict[str, Any]:
    edges = info.edges_bytes / BYTES_PER_KB
    return {
        "title": {"text": "file size, KB (log)"},
        # Ticks between the cells: a bin runs from edge to edge.
        "tickvals": [at - 0.5 for at in range(len(edges))],
        "ticktext": _distinct(edges),
        "range": [-0.52, max(len(edges) - 1.48, 0.52)],
        "tickangle": 0,
        "showgrid": False,
        "fixedrange": True,
    }


def _headings(info: OrdersInfo, theme: Theme) -> list[dict[str, Any]]:
    unit = "%" if info.metric.unit == "share" else info.metric.unit
    what = "within the budget" if info.of_feasible else "over the budget too"
    font = {"size": 13, "color": theme.ink}
    left = {"x": 0, "xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": font}
    left |= {"xref": "paper", "align": "left"}
    more = f" · {counted(info.hidden, 'other order')} tried" if info.hidden else ""
    name = plot_text(f"Best {info.metric.name}, {unit}, {what}", 60)
    return [
        {
            **left,
            "text": f"<b>Share of the front</b>{more}",
            "y": 1,
            "yref": "y domain",
            "yshift": 8,
        },
        {
            **left,
            "text": f"<b>{name}</b><br>frame: best of its sizes; ≈: within its error",
            "y": 1,
            "yref": "y2 domain",
            "yshift": 6,
        },
        {
            **left,
            "text": ORDER_KEY,
            "y": 0,
            "yref": "y2 domain",
            "yanchor": "top",
            "yshift": -46,
            "font": {"size": 11, "color": theme.muted},
        },
    ]
