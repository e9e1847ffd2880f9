"""Controls whose values live in the URL's query: sliders of limits, choices, search fields.

A control stands beside a Store that tells assets/dashboard.js its name in the query and its
default; one callback a control merges its value into the query.
"""

import math
from typing import Any

import numpy as np
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from dashboards.app.answer import own_limits
from dashboards.app.library import Snapshot
from dashboards.app.view import View
from spaces import BYTES_PER_KB

__all__ = [
    "LIMITS",
    "choice",
    "limit_ranges",
    "limit_sliders",
    "register_choice",
    "register_limits",
    "search_field",
    "select",
]

#: Limits that have a slider, in the order of the page.
LIMITS = ("kb", "ms", "metric", "download_kb")
_STEPS = 1000
_NAMESPACE = "dashboard"


def _beside(control: str, name: str, fallback: str, resets: str = "") -> Component:
    return dcc.Store(
        id=f"{control}-spec", data={"name": name, "fallback": fallback, "resets": resets}
    )


def choice(
    control: str, name: str, label: str, options: list[dict[str, str]], value: str, fallback: str
) -> Component:
    """One of a few, as radio buttons.

    Args:
        control: HTML id.
        name: in the query.
        label: of the group.
        options: dash options, {"label", "value"}.
        value: chosen now.
        fallback: the value that the query leaves out.
    """
    return html.Fieldset(
        [
            html.Legend(label),
            dcc.RadioItems(id=control, options=options, value=value, inline=True),
            _beside(control, name, fallback),
        ],
        className="choice",
    )


def search_field(control: str, name: str, label: str, value: str, resets: str = "") -> Component:
    """Words to look for. `resets` is what a new search takes out of the query: the page."""
    return html.Label(
        [
            f"{label} ",
            dcc.Input(id=control, type="search", value=value, debounce=0.3),
            _beside(control, name, "", resets),
        ]
    )


def select(
    control: str,
    name: str,
    label: str,
    options: list[dict[str, str]],
    value: str,
    fallback: str,
) -> Component:
    """One of many."""
    return html.Label(
        [
            f"{label} ",
            dcc.Dropdown(
                id=control,
                options=options,
                value=value,
                clearable=False,
                searchable=len(options) > 8,
                className="select",
            ),
            _beside(control, name, fallback),
        ]
    )


def register_choice(app: Dash, *controls: str) -> None:
    """Merge some controls' values into the query."""
    for control in controls:
        app.clientside_callback(
            ClientsideFunction(_NAMESPACE, "merge"),
            Output("view", "data", allow_duplicate=True),
            Input(control, "value"),
            State("view", "data"),
            State(f"{control}-spec", "data"),
            prevent_initial_call=True,
        )


# Limits ------------------------------------------------------------------------------------------


def limit_sliders(snapshot: Snapshot, view: View) -> Component:
    """A slider and a number for each limit; the far end is "no limit"."""
    now = view.limits_on(own_limits(snapshot))
    ranges = limit_ranges(snapshot)
    rows = [
        _slider(name, ranges[name], getattr(now, name)) if name in ranges else _no_slider(name)
        for name in LIMITS
    ]
    stores = [dcc.Store(id=f"limit-{name}-range", data=ranges.get(name)) for name in LIMITS]
    reset = html.Button("the study's own limits", id="limits-reset", type="button")
    return html.Fieldset(
        [html.Legend("Limits: what would you ship under others?"), *rows, *stores, reset],
        className="limits",
    )


def limit_ranges(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Limit -> what its slider spans, for assets/dashboard.js."""
    own, profile, metric = own_limits(snapshot), snapshot.profile, snapshot.spec.metric
    table = snapshot.table[snapshot.table["metric"].notna()]
    if table.empty:
        return {}
    is_share = metric.unit == "share"
    # Down to what the worst member of the front shows, not to what guesses.
    values = [trial.measurement.metric for trial in snapshot.front.members if trial.measurement]
    values = [*(values or table["metric"]), profile.baseline_metric]
    values += [] if own.metric is None else [own.metric]
    low, high = min(values), max(values)
    margin = 0.02 * (high - low) or 0.01 * abs(high) or 0.01
    spans = {
        "kb": _logarithmic(
            "file size, KB", table["size_bytes"] / BYTES_PER_KB,
            [own.kb, profile.baseline_size_bytes / BYTES_PER_KB],
        ),
        "ms": _logarithmic(
            "latency, ms", table["latency_ms"], [own.ms, profile.baseline_latency_ms]
        ),
        "metric": {
            "label": f"{metric.name}{', %' if is_share else ''}",
            "low": low - margin,
            "high": high + margin,
            "log": False,
            "open": "low" if metric.higher_is_better else "high",
            "scale": 100.0 if is_share else 1.0,
        },
    }  # fmt: skip
    if (table["download_bytes"] != table["size_bytes"]).any():
        sizes = table["download_bytes"] / BYTES_PER_KB
        spans["download_kb"] = _logarithmic("download, KB", sizes, [own.download_kb])
    return {name: {**span, "name": name, "own": getattr(own, name)} for name, span in spans.items()}


def _logarithmic(label: str, values: Any, also: list[float | None]) -> dict[str, Any]:
    known = [*np.asarray(values, dtype=float), *(value for value in also if value is not None)]
    low, high = 0.98 * min(known), 1.02 * max(known)
    return {"label": label, "low": low, "high": high, "log": True, "open": "high", "scale": 1.0}


def _slider(name: str, span: dict[str, Any], value: float | None) -> Component:
    word = "at least" if span["open"] == "low" else "at most"
    shown = None if value is None else float(f"{value * span['scale']:.6g}")
    slider = dcc.Input(
        id=f"limit-{name}",
        type="range",
        min=0,
        max=_STEPS,
        step=1,
        value=_position(value, span),
        className="range",
    )
    box = dcc.Input(
        id=f"limit-{name}-box",
        type="number",
        value=shown,
        step="any",
        debounce=True,
        placeholder="no limit",
    )
    return html.Div(
        [
            html.Label(f"{span['label']}, {word}", htmlFor=f"limit-{name}"),
            slider,
            html.Label(
                f"{span['label']}, as a number", htmlFor=f"limit-{name}-box", className="unseen"
            ),
            box,
        ],
        className="limit",
    )


def _no_slider(name: str) -> Component:
    """Out of sight, for a limit that would change nothing: callbacks need all their parts."""
    return html.Div(
        [
            dcc.Input(id=f"limit-{name}", type="range", value=0),
            dcc.Input(id=f"limit-{name}-box", type="number"),
        ],
        hidden=True,
    )


def _position(value: float | None, span: dict[str, Any]) -> int:
    """As `positionOf` of assets/dashboard.js."""
    low, high = span["low"], span["high"]
    if value is None:
        return _STEPS if span["open"] == "high" else 0
    if span["log"]:
        share = math.log(value / low) / math.log(high / low)
    else:
        share = (value - low) / (high - low)
    first, last = (0, _STEPS - 1) if span["open"] == "high" else (1, _STEPS)
    return round(min(max(_STEPS * share, first), last))


def register_limits(app: Dash) -> None:
    """Sliders, numbers and the query follow each other."""
    for name in LIMITS:
        app.clientside_callback(
            ClientsideFunction(_NAMESPACE, "limit"),
            Output("view", "data", allow_duplicate=True),
            Output(f"limit-{name}", "value"),
            Output(f"limit-{name}-box", "value"),
            Input(f"limit-{name}", "value"),
            Input(f"limit-{name}-box", "value"),
            Input(f"limit-{name}-range", "data"),
            State("view", "data"),
            prevent_initial_call=True,
        )
