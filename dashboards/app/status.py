"""The head of a study's page: what it is, how it stands, and the tabs."""

import time
from collections.abc import Mapping
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dashboards import tables
from dashboards.app.blocks import label
from dashboards.app.library import Snapshot
from dashboards.app.view import PAGES, View, study_path
from dashboards.text import format_duration, plain
from search.naming import storage_flag

__all__ = ["state_chip", "status_line", "study_header", "study_tabs"]

_STATE_WORDS = {
    "running": "a driver is at work",
    "finished": "all trials and finalists are there",
    "resumable": "no driver is at work; `search resume` goes on",
}


def study_header(snapshot: Snapshot) -> Component:
    """Name and facts."""
    spec = snapshot.spec
    budget = tables.budget_words(spec.budget, spec.metric, snapshot.profile)
    words = (
        f"{spec.workload} on {spec.target} · budget: {budget} · {spec.proposer}, seed {spec.seed} "
        f"· {spec.artifact_format} files"
    )
    return html.Div(
        [
            html.H1(plain(snapshot.name)),
            html.P(plain(words), className="muted"),
        ],
        className="head",
    )


def study_tabs(snapshot: Snapshot, page: str, view: View) -> Component:
    """The pages of a study."""
    tabs = [
        dcc.Link(
            name,
            href=study_path(snapshot.name, name) + view.query(),
            id=f"tab-{name}",
            className="page-tab current" if name == page else "page-tab",
        )
        for name in PAGES
    ]
    return html.Nav(tabs, className="tabs", **label(f"Pages of {snapshot.name}, now: {page}"))


def state_chip(state: str) -> Component:
    """The state in a coloured frame; the word is there too."""
    return html.Span(state, className=f"chip {state}", title=_STATE_WORDS.get(state, state))


def status_line(snapshot: Snapshot) -> list[Component | str]:
    """How it stands, from the driver's last beat."""
    driver = snapshot.driver
    parts = [f"{len(snapshot.trials):,} of {snapshot.spec.trials:,} trials"]
    if snapshot.finalists or driver.payload.get("phase") == "finalists":
        parts.append(f"{len(snapshot.finalists):,} finalists")
    failed = sum(trial.measurement is None for trial in snapshot.trials)
    if failed:
        parts.append(f"{failed:,} failed")
    if driver.state == "running":
        parts += _work_words(driver.payload)
    elif driver.state == "resumable":
        flag = storage_flag(snapshot.location.place)
        parts.append(f"go on with: search resume {snapshot.name}{flag}")
    return [state_chip(driver.state), " ", " · ".join(plain(part) for part in parts)]


def _work_words(payload: Mapping[str, Any]) -> list[str]:
    words = []
    running = payload.get("running")
    if isinstance(running, list) and isinstance(payload.get("workers"), int):
        words.append(f"{len(running)} of {payload['workers']} workers busy")
    if isinstance(payload.get("eta_s"), int | float):
        # The estimate is as old as the beat that brought it.
        age_s = max(0.0, time.time() - float(payload.get("beat", time.time())))
        words.append(f"about {format_duration(max(0.0, payload['eta_s'] - age_s))} left")
    return words
