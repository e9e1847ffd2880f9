"""The list of studies: what was asked, how each stands, and which cannot be read."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
from dash import Dash, Input, Output, html
from dash.development.base_component import Component

from dashboards.app.blocks import notice, table
from dashboards.app.controls import register_choice, search_field, select
from dashboards.app.library import Broken, Library, Summary
from dashboards.app.view import View, study_path
from dashboards.markup import Column, Row
from dashboards.text import format_bytes, plain
from spaces import InvalidRequest

__all__ = ["layout", "register"]

#: What the list can be ordered by -> (frame column, whether the largest comes first).
SORTS = {
    "name": ("name", False),
    "newest": ("finished_at_s", True),
    "state": ("state", False),
    "trials": ("trials", True),
    "feasible": ("feasible", True),
    "hypervolume": ("hypervolume", True),
    "smallest": ("smallest_bytes", False),
}
_DEFAULT_SORT = "newest"


def layout(library: Library, view: View) -> Component:
    """The page."""
    return html.Div(
        [
            html.H1("Studies"),
            html.P(plain(f"in {library.place}"), className="muted"),
            html.Div(
                [
                    search_field("studies-text", "text", "Search", view.text),
                    select(
                        "studies-sort",
                        "sort",
                        "Sort by",
                        [{"label": name, "value": name} for name in SORTS],
                        view.sort if view.sort in SORTS else _DEFAULT_SORT,
                        _DEFAULT_SORT,
                    ),
                ],
                className="tools",
            ),
            html.Div(_list(library, view), id="studies"),
        ]
    )


def register(app: Dash, library: Library) -> None:
    """Typing searches, the clock brings what is new."""
    register_choice(app, "studies-text", "studies-sort")

    @app.callback(
        Output("studies", "children"),
        Input("view", "data"),
        Input("tick", "n_intervals"),
        prevent_initial_call=True,
    )
    def refresh(view: str, _: int) -> Component:
        return _list(library, View.parse(view))


def _list(library: Library, view: View) -> Component:
    try:
        found = library.summaries()
    except InvalidRequest as error:
        return notice("The storage cannot be read", str(error))
    broken = [entry for entry in found if isinstance(entry, Broken)]
    rows = [_row(entry) for entry in found if isinstance(entry, Summary)]
    words = view.text.lower().split()
    shown = [row for row in rows if all(word in row["all"].lower() for word in words)]
    parts: list[Component] = [
        html.Section(
            [
                html.H2(plain(f"{entry.name} cannot be shown")),
                html.P(plain(entry.words)),
            ],
            className="notice",
        )
        for entry in broken
    ]
    if not rows and not broken:
        return notice(
            "No study yet",
            f"{library.place} holds none. `search run` makes one; it appears here by itself.",
        )
    column, descending = SORTS[view.sort if view.sort in SORTS else _DEFAULT_SORT]
    if rows:
        frame = pd.DataFrame(shown, columns=list(rows[0]))
        frame = frame.sort_values(column, ascending=not descending, kind="stable")
        caption = f"{len(shown):,} of {len(rows):,} studies"
        parts.insert(0, table(frame, _COLUMNS, caption, link=lambda r: study_path(str(r["name"]))))
    return html.Div(parts)


def _row(entry: Summary) -> dict[str, Any]:
    metric = entry.snapshot.spec.metric
    finished = [trial.finished_at for trial in entry.snapshot.trials]
    return {
        "name": entry.name,
        "workload": entry.workload,
        "target": entry.target,
        "budget": entry.budget,
        "state": entry.state,
        "trials": entry.trials,
        "asked": entry.asked,
        "failed": entry.failed,
        "feasible": entry.feasible,
        "best": "" if math.isnan(entry.best) else f"{metric.format(entry.best)} {metric.name}",
        "smallest_bytes": math.nan if entry.smallest_bytes is None else entry.smallest_bytes,
        "hypervolume": entry.hypervolume,
        "finished_at_s": max(finished, default=0.0),
        "all": f"{entry.name} {entry.workload} {entry.target} {entry.budget} {entry.state}",
    }


def _text(name: str, *, is_prose: bool = False) -> Column:
    return Column(name, lambda row: str(row[name]), is_prose=is_prose)


def _number(heading: str, show: Callable[[Row], str], name: str) -> Column:
    return Column(heading, show, name)


_COLUMNS = (
    _text("name"),
    _text("state"),
    _text("workload", is_prose=True),
    _text("target"),
    _text("budget", is_prose=True),
    _number("trials", lambda row: f"{row['trials']:,} of {row['asked']:,}", "trials"),
    _number("feasible", lambda row: f"{row['feasible']:,}", "feasible"),
    _number("failed", lambda row: f"{row['failed']:,}", "failed"),
    _text("best"),
    _number("smallest", lambda row: format_bytes(row["smallest_bytes"]), "smallest_bytes"),
    _number("hypervolume", lambda row: f"{row['hypervolume']:.4g}", "hypervolume"),
)
