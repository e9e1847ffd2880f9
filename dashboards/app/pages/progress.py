"""How the search goes: its curves, who works on what, and what failed."""

from typing import Any

from dash import Dash, Input, Output, State, html, no_update
from dash.development.base_component import Component

from dashboards import columns, insight_tables
from dashboards.app.blocks import facts, figure_block, keep_view, label, table, table_under
from dashboards.app.controls import choice, register_choice
from dashboards.app.library import Library, Snapshot
from dashboards.app.pages import snapshot_at
from dashboards.app.view import View
from dashboards.figures import draw_failures, draw_progress, failures_info, progress_info
from dashboards.text import format_duration, plain
from dashboards.theme import LIGHT, THEMES, Theme
from spaces import Measurement

__all__ = ["layout", "register"]

_OVERS = [
    {"label": "finished trials", "value": "trials"},
    {"label": "compute seconds", "value": "seconds"},
]


def layout(library: Library, snapshot: Snapshot, view: View, theme: Theme) -> Component:
    """The page."""
    del library
    return html.Div(
        [
            choice("over", "over", "Over", _OVERS, view.over, "trials"),
            html.Div(_curves(snapshot, view, theme), id="curves"),
            html.H2("At work"),
            html.Div(_work(snapshot), id="work"),
            html.H2("What failed"),
            html.Div(_failures(snapshot, theme), id="failures"),
        ]
    )


def register(app: Dash, library: Library) -> None:
    """Curves follow query, version and colours; who works follows the clock."""
    register_choice(app, "over")

    @app.callback(
        Output("curves", "children"),
        Output("failures", "children"),
        Input("view", "data"),
        Input("version", "data"),
        Input("theme", "data"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def draw(query: str, _: str, theme: str, where: dict[str, str]) -> Any:
        snapshot = snapshot_at(library, where)
        if snapshot is None:
            return no_update, no_update
        colours = THEMES.get(theme, LIGHT)
        return _curves(snapshot, View.parse(query), colours), _failures(snapshot, colours)

    @app.callback(
        Output("work", "children"),
        Input("tick", "n_intervals"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def work(_: int, where: dict[str, str]) -> Any:
        snapshot = snapshot_at(library, where)
        return no_update if snapshot is None else _work(snapshot)


def _curves(snapshot: Snapshot, view: View, theme: Theme) -> Component:
    metric = snapshot.spec.metric
    if snapshot.progress.empty:
        return html.P("No trial has finished.")
    over = view.over
    info = progress_info(snapshot.progress, metric, snapshot.profile.baseline_metric, over=over)
    words = (
        f"Hypervolume of the feasible trials, and the best feasible {metric.name}, over "
        f"{'seconds of evaluation, summed over workers' if over == 'seconds' else 'trials'}; "
        f"the hypervolume is {snapshot.front.hypervolume:.4g} now."
    )
    progress = snapshot.progress
    rose = progress["hypervolume"].diff().fillna(progress["hypervolume"]) > 0
    caption = "Trials that raised the hypervolume"
    under = table_under(progress[rose], columns.progress_columns(metric), caption)
    return figure_block("progress", keep_view(draw_progress(info, theme), over), words, under)


def _work(snapshot: Snapshot) -> Component:
    driver, payload = snapshot.driver, snapshot.driver.payload
    seconds = sum(
        sum(trial.outcome.seconds.values())
        for trial in [*snapshot.trials, *snapshot.finalists]
        if isinstance(trial.outcome, Measurement)
    )
    pairs: dict[str, Component | str] = {
        "driver": f"{driver.state}; process {payload.get('pid', '?')}, {payload.get('host', '?')}",
        "last beat": "never"
        if driver.beat_age_s is None
        else f"{format_duration(driver.beat_age_s)} ago, when this page read it",
        "phase": str(payload.get("phase", "none")),
        "evaluation so far": f"{format_duration(seconds)}, summed over workers",
    }
    if isinstance(payload.get("eta_s"), int | float):
        pairs["left, as it last said"] = format_duration(payload["eta_s"])
    if "workers" in payload:
        pairs["workers"] = str(payload["workers"])
    running = payload.get("running")
    rows = running if isinstance(running, list) and driver.state == "running" else []
    items = [
        html.Li(plain(f"{job.get('origin', '?')}: policy {job.get('policy', '?')}"))
        for job in rows
        if isinstance(job, dict)
    ]
    return html.Div(
        [facts(pairs), html.Ul(items, **label("Running trials")) if items else html.P(
            "Nothing is running.", className="muted"
        )]
    )  # fmt: skip


def _failures(snapshot: Snapshot, theme: Theme) -> Component:
    everything = [*snapshot.trials, *snapshot.finalists]
    frame = insight_tables.failure_frame(everything)
    if frame.empty:
        return html.P("No trial failed.")
    info = failures_info(frame, len(everything))
    words = f"{int(frame['count'].sum()):,} of {len(everything):,} trials failed, by reason."
    caption = "Failed trials by reason"
    shown = table(frame, columns.failure_columns(), caption)
    figure = draw_failures(info, theme)
    return html.Div(
        [
            figure_block("failures-plot", figure, words),
            shown if len(frame) <= len(info.reasons) else table_under(
                frame, columns.failure_columns(), caption
            ),
        ]
    )  # fmt: skip
