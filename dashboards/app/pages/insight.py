"""What the trials teach: which knobs matter, which order wins where, what bytes buy."""

from typing import Any

import plotly.graph_objects as go
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from dashboards import columns, insight_tables, tables
from dashboards.app.blocks import figure_block, fitted, keep_view, notice, table, table_under
from dashboards.app.library import Library, Snapshot
from dashboards.app.pages import snapshot_at
from dashboards.app.view import View
from dashboards.figures import (
    ParallelInfo,
    brush_of,
    draw_importance,
    draw_orders,
    draw_parallel,
    draw_price,
    importance_info,
    orders_info,
    parallel_info,
    price_info,
)
from dashboards.text import format_bytes, plain
from dashboards.theme import LIGHT, THEMES, Theme
from search.analysis import importance
from search.finalists import answer_certificate

__all__ = ["layout", "register"]

Brushes = dict[str, list[float]]


def layout(library: Library, snapshot: Snapshot, view: View, theme: Theme) -> Component:
    """The page."""
    del library, view
    figure, info = _parallel(snapshot, {}, theme)
    return html.Div(
        [
            dcc.Store(id="brushes", data={}),
            html.Div(_parts(snapshot, theme), id="insight"),
            html.H2("Policies as lines"),
            html.Div(
                [
                    html.Span("Drag along an axis to keep only the lines through that part of it."),
                    html.Button("clear the brushes", id="brushes-clear", type="button"),
                ],
                className="tools",
            ),
            figure_block("parallel", figure, info.words),
        ]
    )


def register(app: Dash, library: Library) -> None:
    """Everything follows version and colours; the lines also the brushes."""

    @app.callback(
        Output("insight", "children"),
        Input("version", "data"),
        Input("theme", "data"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def draw(_: str, theme: str, where: dict[str, str]) -> Any:
        snapshot = snapshot_at(library, where)
        return no_update if snapshot is None else _parts(snapshot, THEMES.get(theme, LIGHT))

    @app.callback(
        Output("parallel", "figure"),
        Output("parallel-words", "children"),
        Output("brushes", "data"),
        Input("parallel", "selectedData"),
        Input("brushes-clear", "n_clicks"),
        Input("version", "data"),
        Input("theme", "data"),
        State("brushes", "data"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def brush(
        selected: dict[str, Any] | None,
        _clicks: int | None,
        _version: str,
        theme: str,
        brushes: Brushes,
        where: dict[str, str],
    ) -> Any:
        snapshot = snapshot_at(library, where)
        if snapshot is None:
            return no_update, no_update, no_update
        colours = THEMES.get(theme, LIGHT)
        if ctx.triggered_id == "brushes-clear":
            brushes = {}
        elif ctx.triggered_id == "parallel":
            box = (selected or {}).get("range")
            info = _parallel(snapshot, brushes, colours)[1]
            found = brush_of(info, tuple(box["x"]), tuple(box["y"])) if box else None
            if found is None:
                return no_update, no_update, no_update
            brushes = {**brushes, found[0]: list(found[1])}
        figure, info = _parallel(snapshot, brushes, colours)
        return fitted(figure), plain(info.words), brushes


def _parallel(snapshot: Snapshot, brushes: Brushes, theme: Theme) -> tuple[go.Figure, ParallelInfo]:
    info = parallel_info(
        snapshot.table,
        insight_tables.policies_by_digest(snapshot.trials),
        snapshot.judge,
        brushes={name: (ends[0], ends[1]) for name, ends in brushes.items()},
    )
    return keep_view(draw_parallel(info, theme), "parallel"), info


def _parts(snapshot: Snapshot, theme: Theme) -> list[Component]:
    certificate = _certificate(snapshot)
    return [
        *([] if certificate is None else [certificate]),
        html.H2("What the next 10 KB buys"),
        _price(snapshot, theme),
        html.H2("Which order wins where"),
        _orders(snapshot, theme),
        html.H2("Which knobs matter"),
        _importance(snapshot, theme),
    ]


def _price(snapshot: Snapshot, theme: Theme) -> Component:
    metric = snapshot.spec.metric
    frame = insight_tables.price_frame(snapshot.table, metric)
    if frame.empty:
        return html.P("The front has no step yet that buys anything.", className="muted")
    info = price_info(frame, metric)
    words = f"What each step along the front gains in {metric.name} for 10 KB more of file."
    under = table_under(frame, columns.step_columns(metric), "The steps")
    return figure_block("price", keep_view(draw_price(info, theme), "price"), words, under)


def _orders(snapshot: Snapshot, theme: Theme) -> Component:
    metric = snapshot.spec.metric
    orders = tables.order_frame(snapshot.trials, snapshot.judge)
    if orders.empty:
        return html.P("No trial has finished.", className="muted")
    bins = insight_tables.order_bin_frame(snapshot.table, metric)
    info = orders_info(orders, bins, metric)
    under = table_under(orders, columns.order_columns(metric), "Orders of stages that were tried")
    return figure_block("orders", draw_orders(info, theme), " ".join(info.words), under)


def _importance(snapshot: Snapshot, theme: Theme) -> Component:
    rows = importance(snapshot.trials, snapshot.space, snapshot.judge)
    finished = sum(trial.measurement is not None for trial in snapshot.trials)
    frame = insight_tables.importance_frame(rows)
    info = importance_info(frame, snapshot.spec.metric, finished)
    under = table_under(frame, columns.importance_columns(snapshot.spec.metric), "All knobs")
    return figure_block("importance", draw_importance(info, theme), info.words, under)


def _certificate(snapshot: Snapshot) -> Component | None:
    """Why nothing meets the study's own budget, and what could be had; None when something does."""
    spec = snapshot.spec
    if snapshot.front.pick is not None or not snapshot.trials:
        return None
    fidelities = (spec.fidelity, spec.full_fidelity)
    found = answer_certificate(snapshot.trials, snapshot.finalists, snapshot.judge, fidelities)
    if found.closest is None or found.closest.measurement is None:
        return None
    closest = found.closest.measurement
    over = tables.excess_table(found, snapshot.judge)
    heaviest = ", ".join(
        f"{name or 'the whole file'} {format_bytes(size)}" for name, size in found.bottleneck[:5]
    )
    frame = snapshot.table.set_index("key", drop=False)
    known = [t.identity.key for t in found.smallest if t.identity.key in frame.index]
    caption = f"The smallest found at each {spec.metric.name}, small to large"
    words = (
        f"The closest is trial {found.closest.number}: {format_bytes(closest.size_bytes)}, "
        f"{spec.metric.format(closest.metric)}. It misses: {'; '.join(over['words'])}. "
        f"Its bytes are in {heaviest}."
    )
    rows = frame.loc[known].reset_index(drop=True)
    shown = table(
        rows, columns.trial_columns(spec.metric, spec.secondary, with_status=False), caption
    )
    return notice("Nothing met the budget", [html.P(plain(words)), shown])
