"""The front of a study: plot, sliders, recommendation, and the point that was clicked."""

from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from dashboards import columns, tables
from dashboards.app.answer import Answer, answer_under, draw_answer, frames_under
from dashboards.app.blocks import figure_block, fitted, keep_view, label, table
from dashboards.app.controls import (
    LIMITS,
    choice,
    limit_ranges,
    limit_sliders,
    register_choice,
    register_limits,
    select,
)
from dashboards.app.library import Library, Snapshot
from dashboards.app.pages import snapshot_at
from dashboards.app.pages.point import draw_points
from dashboards.app.trials import find
from dashboards.app.view import X_AXES, View
from dashboards.figures import ParetoInfo, XAxis, draw_pareto, draw_pareto_3d, pareto_info
from dashboards.text import plain
from dashboards.theme import LIGHT, THEMES, Theme
from spaces import InvalidRequest, Measurement, SearchError

__all__ = ["layout", "register"]

_X_LABELS = {
    "size_bytes": "file size",
    "download_bytes": "download size",
    "latency_ms": "latency",
}
#: Zoomed out further than this, a logarithmic axis has left what floats can tell.
_FARTHEST = 100.0
#: {"x": the axis as in the query, "range": [log x, log x, metric, metric]}, of dashboard.js
Zoom = dict[str, Any]


def layout(library: Library, snapshot: Snapshot, view: View, theme: Theme) -> Component:
    """The page."""
    answer = answer_under(snapshot, view)
    figure, words, trouble = _drawn(library, snapshot, view, answer, theme)
    return html.Div(
        [
            dcc.Store(id="names", data=_names(snapshot, answer)),
            dcc.Store(id="points", data=[view.a, view.b]),
            dcc.Store(id="awaited", data=_is_awaited(snapshot, view.a, view.b)),
            dcc.Store(id="zoom"),
            html.Div(
                [
                    html.Section(
                        [
                            _toolbar(library, snapshot, view),
                            html.P(trouble, id="beside-trouble", role="status"),
                            html.P(id="webgl-trouble", role="status"),
                            figure_block("pareto", figure, words, _front_table(snapshot, answer)),
                        ],
                        className="wide",
                        **label("The front"),
                    ),
                    html.Section(
                        [
                            html.Div(
                                draw_answer(snapshot, view, answer), id="answer", role="status"
                            ),
                            html.Div(limit_sliders(snapshot, view), id="limits"),
                        ],
                        className="aside",
                        **label("Recommendation and limits"),
                    ),
                ],
                className="columns",
            ),
            _point_chooser(view),
            html.Section(
                draw_points(snapshot, view.a, view.b, theme),
                id="point",
                **label("The point looked at"),
            ),
        ]
    )


def register(app: Dash, library: Library) -> None:
    """Everything drawn follows the query, the version and the colours."""
    register_choice(app, "x", "shape", "beside")
    register_limits(app)
    _register_ranges(app, library)
    _register_points(app)

    @app.callback(
        Output("pareto", "figure"),
        Output("pareto-words", "children"),
        Output("beside-trouble", "children"),
        Input("view", "data"),
        Input("version", "data"),
        Input("theme", "data"),
        Input("zoom", "data"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def draw(query: str, _: str, theme: str, zoom: Zoom | None, where: dict[str, str]) -> Any:
        snapshot, view = snapshot_at(library, where), View.parse(query)
        if snapshot is None:
            return no_update, no_update, no_update
        answer = answer_under(snapshot, view)
        colours = THEMES.get(theme, LIGHT)
        figure, words, trouble = _drawn(library, snapshot, view, answer, colours, zoom)
        return fitted(figure), words, trouble

    @app.callback(
        Output("answer", "children"),
        Output("names", "data"),
        Input("view", "data"),
        Input("version", "data"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def recommend(query: str, _: str, where: dict[str, str]) -> Any:
        snapshot, view = snapshot_at(library, where), View.parse(query)
        if snapshot is None:
            return no_update, no_update
        answer = answer_under(snapshot, view)
        return draw_answer(snapshot, view, answer), _names(snapshot, answer)

    @app.callback(
        Output("point", "children"),
        Output("awaited", "data"),
        Input("points", "data"),
        Input("theme", "data"),
        Input("version", "data"),
        State("awaited", "data"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def show(points: list[str], theme: str, _: str, awaited: bool, where: dict[str, str]) -> Any:
        snapshot = snapshot_at(library, where)
        # A trial never changes: new ones matter only to who asked for one that was not there.
        if snapshot is None or (ctx.triggered_id == "version" and not awaited):
            return no_update, no_update
        a, b = points
        drawn = draw_points(snapshot, a, b, THEMES.get(theme, LIGHT))
        return drawn, _is_awaited(snapshot, a, b)

    @app.callback(
        Output("front-table", "children"),
        Input("view", "data"),
        Input("version", "data"),
        Input("front-table-open", "n_clicks"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def list_front(query: str, _: str, clicks: int | None, where: dict[str, str]) -> Any:
        snapshot = snapshot_at(library, where)
        # Closed, nobody reads it: an even count of clicks on its summary.
        if snapshot is None or not clicks or clicks % 2 == 0:
            return no_update
        return _front_rows(snapshot, answer_under(snapshot, View.parse(query)))


def _register_ranges(app: Dash, library: Library) -> None:
    """Sliders reach as far as what was measured, and come with the first trial."""
    stores = [(f"limit-{name}-range", "data") for name in LIMITS]

    @app.callback(
        Output("limits", "children"),
        *[Output(*store) for store in stores],
        Input("version", "data"),
        *[State(*store) for store in stores],
        State("view", "data"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def span(_: str, *states: Any) -> Any:
        *before, query, where = states
        snapshot = snapshot_at(library, where)
        if snapshot is None:
            return (no_update,) * (1 + len(LIMITS))
        ranges = limit_ranges(snapshot)
        now = [ranges.get(name) for name in LIMITS]
        if [bool(each) for each in now] != [bool(each) for each in before]:
            # Only then are they built anew: a reader may be holding one of them.
            sliders = limit_sliders(snapshot, View.parse(query))
            return (sliders, *(no_update for _ in LIMITS))
        changed = [no_update if a == b else a for a, b in zip(now, before, strict=True)]
        return (no_update, *changed)


def _register_points(app: Dash) -> None:
    app.clientside_callback(
        ClientsideFunction("dashboard", "points"),
        Output("view", "data", allow_duplicate=True),
        Output("point-a", "value"),
        Output("point-b", "value"),
        Input("pareto", "clickData"),
        Input("point-a", "value"),
        Input("point-b", "value"),
        Input("point-previous", "n_clicks"),
        Input("point-next", "n_clicks"),
        Input("point-swap", "n_clicks"),
        Input("point-drop", "n_clicks"),
        State("clicks", "value"),
        State("view", "data"),
        State("names", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("dashboard", "points_of"),
        Output("points", "data"),
        Input("view", "data"),
        State("points", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("dashboard", "webgl"),
        Output("webgl-trouble", "children"),
        Input("view", "data"),
    )
    app.clientside_callback(
        ClientsideFunction("dashboard", "zoom"),
        Output("zoom", "data"),
        Input("pareto", "relayoutData"),
        State("zoom", "data"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("dashboard", "ownLimits"),
        Output("view", "data", allow_duplicate=True),
        *[Output(f"limit-{name}", "value", allow_duplicate=True) for name in LIMITS],
        *[Output(f"limit-{name}-box", "value", allow_duplicate=True) for name in LIMITS],
        Input("limits-reset", "n_clicks"),
        State("view", "data"),
        *[State(f"limit-{name}-range", "data") for name in LIMITS],
        prevent_initial_call=True,
    )


def _toolbar(library: Library, snapshot: Snapshot, view: View) -> Component:
    others = [name for name in library.names() if name != snapshot.name]
    x_axes = list(X_AXES)
    if (snapshot.table["download_bytes"] == snapshot.table["size_bytes"]).all():
        x_axes.remove("download_bytes")
    return html.Div(
        [
            choice(
                "x",
                "x",
                "Against",
                [{"label": _X_LABELS[name], "value": name} for name in x_axes],
                view.x,
                X_AXES[0],
            ),
            choice(
                "shape",
                "shape",
                "View",
                [{"label": "2-D", "value": "2d"}, {"label": "3-D", "value": "3d"}],
                view.shape,
                "2d",
            ),
            select(
                "beside",
                "beside",
                "Beside",
                [{"label": "no other study", "value": ""}]
                + [{"label": name, "value": name} for name in others],
                view.beside,
                "",
            ),
        ],
        className="tools",
    )


def _point_chooser(view: View) -> Component:
    """The same by keyboard as by clicks on the plot."""
    return html.Div(
        [
            html.Label(
                ["Trial A ", dcc.Input(id="point-a", value=view.a, debounce=True, size="8")]
            ),
            html.Button("◂ previous", id="point-previous", type="button", title="along the front"),
            html.Button("next ▸", id="point-next", type="button", title="along the front"),
            html.Label(
                ["compared with B ", dcc.Input(id="point-b", value=view.b, debounce=True, size="8")]
            ),
            html.Button("swap", id="point-swap", type="button"),
            html.Button("drop B", id="point-drop", type="button"),
            dcc.Checklist(
                id="clicks",
                options=[{"label": "clicks on the plot choose B", "value": "b"}],
                value=[],
                inline=True,
            ),
        ],
        className="tools chooser",
        role="group",
        **label("Choose the points to look at"),
    )


def _names(snapshot: Snapshot, answer: Answer) -> list[str]:
    """What previous and next step along: the front, small to large, finalists where there are."""
    final = [f"{snapshot.final_candidates.trials[i].number}@full" for i in answer.final.front]
    return final or [str(snapshot.candidates.trials[i].number) for i in answer.searched.front]


def _is_awaited(snapshot: Snapshot, *names: str) -> bool:
    """Whether a trial is named that is not there, or not yet."""
    return any(name and find(snapshot, name) is None for name in names)


def _drawn(
    library: Library,
    snapshot: Snapshot,
    view: View,
    answer: Answer,
    theme: Theme,
    zoom: Zoom | None = None,
) -> tuple[go.Figure, str, str]:
    """The plot, its words, and why it is not all that was asked for; "" when it is."""
    trouble = ""
    try:
        info, other = _infos(library, snapshot, view, answer, zoom)
    except SearchError as error:
        trouble = f"{plain(view.beside)} is not drawn: {plain(error)}"
        info, other = _infos(library, snapshot, replace(view, beside=""), answer, zoom)
    if other is not None and view.shape == "3d":
        trouble = f"The 3-D view shows one study: {plain(view.beside)} is in the 2-D view only."
    figure = _figure(snapshot, view, info, other, theme)
    if zoom is not None and view.shape == "2d" and _is_of(zoom, view):
        # plotly keeps a reader's zoom only as long as the view it began from is the same, and new
        # trials or a moved limit change that.
        figure.update_xaxes(range=zoom["range"][:2])
        figure.update_yaxes(range=zoom["range"][2:])
    return figure, plain(_words(snapshot, view, info)), trouble


def _is_of(zoom: Zoom, view: View) -> bool:
    """Whether a zoom is one of the axis shown: sizes and times have other ranges."""
    return bool((zoom["x"] or X_AXES[0]) == view.x)


def _infos(
    library: Library,
    snapshot: Snapshot,
    view: View,
    answer: Answer,
    zoom: Zoom | None,
) -> tuple[ParetoInfo, ParetoInfo | None]:
    """What to draw: of this study, and of the one beside it under the same limits.

    Raises:
        SearchError: the study beside it cannot be read, or is judged by another metric.
    """
    shown = None
    if zoom is not None and _is_of(zoom, view):
        left, right, low, high = zoom["range"]
        ends = [10.0 ** min(max(end, -_FARTHEST), _FARTHEST) for end in (left, right)]
        shown = ((ends[0], ends[1]), (low, high))
    searched, final = frames_under(snapshot, answer)
    info = pareto_info(searched, final, answer.judge, x=view.x, shown=shown)
    if not view.beside or view.beside == snapshot.name:
        return info, None
    beside = library.get(view.beside)
    if beside.spec.metric != snapshot.spec.metric:
        raise InvalidRequest(
            f"{view.beside} is judged by {beside.spec.metric.name}, this study by "
            f"{snapshot.spec.metric.name}: they share no axis"
        )
    theirs = answer_under(beside, replace(view, limits=_all_limits(answer)))
    frames = frames_under(beside, theirs)
    return info, pareto_info(*frames, theirs.judge, x=view.x, shown=shown)


def _all_limits(answer: Answer) -> tuple[tuple[str, float | None], ...]:
    """This study's limits in full, for the study beside it, whose own may be others."""
    budget = answer.budget
    kb = None if budget.size_bytes is None else budget.size_bytes / 1000
    download_kb = None if budget.download_bytes is None else budget.download_bytes / 1000
    return (
        ("kb", kb),
        ("download_kb", download_kb),
        ("ms", budget.latency_ms),
        ("metric", budget.min_metric),
    )


def _figure(
    snapshot: Snapshot, view: View, info: ParetoInfo, other: ParetoInfo | None, theme: Theme
) -> go.Figure:
    chosen = [
        (label, trial.measurement)
        for label, name in (("A", view.a), ("B", view.b))
        if (trial := find(snapshot, name)) is not None and trial.measurement is not None
    ]
    if view.shape == "3d":
        places = [(label, m.size_bytes, m.latency.median_ms, m.metric) for label, m in chosen]
        figure = draw_pareto_3d(info, theme, selected=places)
    else:
        names = (snapshot.name, view.beside)
        selected = [(label, _across(m, view.x), m.metric) for label, m in chosen]
        figure = draw_pareto(info, theme, other=other, names=names, selected=selected)
    return keep_view(figure, f"{view.x} {view.shape}")


def _across(values: Measurement, x: XAxis) -> float:
    return values.latency.median_ms if x == "latency_ms" else float(getattr(values, x))


def _words(snapshot: Snapshot, view: View, info: ParetoInfo) -> str:
    metric = snapshot.spec.metric
    against = f"{_X_LABELS[info.x]} on a logarithmic axis"
    if view.shape == "3d":
        against = "file size and latency, each on a logarithmic axis, in three dimensions"
    shaded = "" if view.shape == "3d" else ", whose region is shaded"
    return (
        f"{metric.name.capitalize()} against {against}: "
        f"{len(info.front):,} trials on the front, {info.dominated.total:,} dominated, "
        f"{info.over_budget.total:,} missing a limit{shaded}. Click a point to look into it. "
        + ("" if view.shape == "3d" else "Bars are one standard error.")
    )


def _front_table(snapshot: Snapshot, answer: Answer) -> Component:
    return html.Details(
        [
            html.Summary("The front as a table", id="front-table-open"),
            html.Div(_front_rows(snapshot, answer), id="front-table"),
        ]
    )


def _front_rows(snapshot: Snapshot, answer: Answer) -> Component:
    searched, final = frames_under(snapshot, answer)
    rows = pd.concat([tables.front_rows(final), tables.front_rows(searched)], ignore_index=True)
    caption = "Finalists on the front, then the searched trials on theirs; small to large"
    shown = columns.trial_columns(snapshot.spec.metric, snapshot.spec.secondary, with_status=False)
    return table(rows, shown, caption, marked="is_pick")
