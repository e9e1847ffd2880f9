"""Every trial in a table: searched, sorted, a page at a time."""

from dataclasses import replace
from typing import Any

import pandas as pd
from dash import ClientsideFunction, Dash, Input, Output, State, html, no_update
from dash.development.base_component import Component

from dashboards import columns, tables
from dashboards.app.answer import answer_under, frames_under
from dashboards.app.blocks import download_link, label, table
from dashboards.app.controls import register_choice, search_field, select
from dashboards.app.downloads import csv_path
from dashboards.app.library import Library, Snapshot
from dashboards.app.pages import snapshot_at
from dashboards.app.view import View, study_path
from dashboards.text import plain
from dashboards.theme import Theme

__all__ = ["PAGE_ROWS", "layout", "register"]

PAGE_ROWS = 50
#: What rows can be ordered by -> (frame column, whether the largest comes first).
SORTS = {
    "best first": ("", False),
    "number": ("number", False),
    "newest": ("number", True),
    "smallest": ("size_bytes", False),
    "fastest": ("latency_ms", False),
    "best metric": ("metric", True),
    "longest": ("seconds", True),
}
_DEFAULT_SORT = "best first"


def layout(library: Library, snapshot: Snapshot, view: View, theme: Theme) -> Component:
    """The page."""
    del library, theme
    options = [{"label": name, "value": name} for name in SORTS]
    return html.Div(
        [
            html.Div(
                [
                    search_field("trials-text", "text", "Filter", view.text, resets="page"),
                    select(
                        "trials-sort", "sort", "Sort by", options, _sort_of(view), _DEFAULT_SORT
                    ),
                    download_link("all as CSV", csv_path(snapshot.name)),
                ],
                className="tools",
            ),
            html.P(
                "Words of the filter must all be there: front, dominated, misses a limit, failed, "
                "@full, a stage, who proposed it.",
                className="muted",
            ),
            html.Div(_rows(snapshot, view), id="trials"),
            html.Div(
                [
                    html.Button("◂ previous page", id="page-previous", type="button"),
                    html.Button("next page ▸", id="page-next", type="button"),
                ],
                className="tools",
                role="group",
                **label("Pages of the table"),
            ),
        ]
    )


def register(app: Dash, library: Library) -> None:
    """The table follows the query and the version."""
    register_choice(app, "trials-text", "trials-sort")
    app.clientside_callback(
        ClientsideFunction("dashboard", "page"),
        Output("view", "data", allow_duplicate=True),
        Input("page-previous", "n_clicks"),
        Input("page-next", "n_clicks"),
        State("view", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("trials", "children"),
        Input("view", "data"),
        Input("version", "data"),
        State("where", "data"),
        prevent_initial_call=True,
    )
    def refresh(query: str, _: str, where: dict[str, str]) -> Any:
        snapshot = snapshot_at(library, where)
        return no_update if snapshot is None else _rows(snapshot, View.parse(query))


def _sort_of(view: View) -> str:
    return view.sort if view.sort in SORTS else _DEFAULT_SORT


def _rows(snapshot: Snapshot, view: View) -> Component:
    metric = snapshot.spec.metric
    searched, final = frames_under(snapshot, answer_under(snapshot, view))
    everything = pd.concat([final, searched], ignore_index=True)
    found = _filtered(everything, view.text)
    column, descending = SORTS[_sort_of(view)]
    if column == "metric":
        descending = metric.higher_is_better
    if column:
        found = found.sort_values(column, ascending=not descending, kind="stable")
    else:
        found = tables.select_trials(found, metric, len(found))
    pages = max(1, -(-len(found) // PAGE_ROWS))
    page = min(max(view.page, 1), pages)
    shown = found.iloc[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    shown = tables.with_over_limits(shown, answer_under(snapshot, view).judge)
    caption = f"{len(found):,} of {len(everything):,} trials and finalists; page {page} of {pages}"
    return table(
        shown,
        columns.trial_columns(metric, snapshot.spec.secondary, with_status=True),
        caption,
        marked="is_pick",
        link=lambda row: study_path(snapshot.name) + replace(view, a=str(row["name"])).query(),
    )


def _filtered(frame: pd.DataFrame, text: str) -> pd.DataFrame:
    """Rows that hold every word, anywhere in what the table shows of them as text."""
    words = plain(text).lower().split()
    if not words:
        return frame
    searched = ["name", "status", "origin", "order", "policy", "failure", "policy_digest"]
    haystack = frame[searched].astype(str).agg(" ".join, axis=1).str.lower()
    keep = pd.Series(True, index=frame.index)
    for word in words:
        keep &= haystack.str.contains(word, regex=False)
    return frame[keep]
