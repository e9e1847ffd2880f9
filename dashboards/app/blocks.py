"""Pieces that every page is made of, as Dash components.

Text goes in as text: React escapes it, and `plain` takes control characters out. What opens on a
click in the page itself (PNG, SVG, CSV of a table) is done by assets/dashboard.js, which finds its
plot and its table by their place in the block.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.markup import Column, Row
from dashboards.text import plain

__all__ = [
    "GRAPH_CONFIG",
    "code_block",
    "data",
    "download_link",
    "facts",
    "figure_block",
    "fitted",
    "graph",
    "keep_view",
    "label",
    "notice",
    "table",
    "table_under",
    "tiles",
]

Children = Sequence[Component | str]

# Any: Dash types a part of what plotly.js takes.
GRAPH_CONFIG: Any = {
    "responsive": True,
    "displaylogo": False,
    # plotly.js 4 offers to upload the plot to its makers' server unless told not to.
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "toImage"],
}


def label(words: str) -> Any:
    """`**label("...")`: the name a screen reader says. Any: Dash types no `aria-` attribute."""
    return {"aria-label": plain(words)}


def data(name: str, value: str) -> Any:
    """`**data("save", "png")`: what assets/dashboard.js reads of an element."""
    return {f"data-{name}": value}


def keep_view(figure: go.Figure, what: str) -> go.Figure:
    """Zoom and legend clicks outlive new data, as long as `what` (the axes) stays the same."""
    return figure.update_layout(uirevision=what)


def fitted(figure: go.Figure) -> go.Figure:
    """The plot as high as its place on the page: a telephone gives it another height."""
    return figure.update_layout(height=None, autosize=True)


def graph(identity: str, figure: go.Figure, words: str) -> Component:
    """A plot that a screen reader announces by its words.

    A group, not an image: an image would hide the plot's own buttons, which the keyboard reaches.
    """
    layout = figure.layout
    height = layout.height or 450
    narrow_height = (layout.meta or {}).get("narrow_height", height)
    return html.Div(
        dcc.Graph(id=identity, figure=fitted(figure), config=GRAPH_CONFIG),
        role="group",
        className="plot",
        style={"--height": f"{height}px", "--narrow-height": f"{narrow_height}px"},
        **label(words),
    )


def figure_block(
    identity: str, figure: go.Figure, words: str, under: Component | None = None
) -> Component:
    """A plot, what it shows in words, its table, and its downloads.

    Args:
        identity: HTML id of the plot; the file name of its pictures.
        figure: what to draw.
        words: the text alternative.
        under: the plot's table, of `table_under`.
    """
    buttons = [
        html.Button(kind, type="button", className="save", **data("save", kind.lower()))
        for kind in ("PNG", "SVG", *(("CSV",) if under is not None else ()))
    ]
    return html.Figure(
        [
            graph(identity, figure, words),
            html.Figcaption(plain(words), id=f"{identity}-words"),
            html.Div(buttons, className="saves", role="group", **label("Save this plot")),
            *([] if under is None else [under]),
        ],
        **data("name", identity),
    )


def table(
    frame: pd.DataFrame,
    columns: Sequence[Column],
    caption: str,
    *,
    marked: str = "",
    link: Callable[[Row], str] | None = None,
) -> Component:
    """A captioned table; the first column heads its row.

    ONE component, which assets/dashboard.js fills: Dash watches every component at every change,
    so a table of a thousand cells would make each move of a slider take a third of a second.

    Args:
        frame: the rows.
        columns: what to show of them (`dashboards.columns`).
        caption: what a screen reader announces, and the name of the scrolling region.
        marked: a frame column of booleans that emphasises rows.
        link: row -> where the row's head leads.
    """
    rows = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
    kinds = ["number" if c.sort_by else "prose" if c.is_prose else "" for c in columns]
    content = {
        "caption": plain(caption),
        "head": [plain(column.heading) for column in columns],
        "kinds": kinds,
        "rows": [[plain(column.show(row)) for column in columns] for row in rows],
        "links": [link(row) for row in rows] if link is not None else [],
        "marked": [i for i, row in enumerate(rows) if marked and row[marked]],
    }
    return html.Div(
        className="scroll",
        role="region",
        tabIndex=0,
        **label(caption),
        **data("table", json.dumps(content, separators=(",", ":"))),
    )


def table_under(
    frame: pd.DataFrame, columns: Sequence[Column], caption: str, *, marked: str = ""
) -> Component:
    """A table that is closed at first."""
    shown = table(frame, columns, caption, marked=marked)
    return html.Details([html.Summary(plain(caption)), shown])


def facts(pairs: Mapping[str, Component | str]) -> Component:
    """Names and values, as a definition list."""
    return html.Dl(
        [
            html.Div([html.Dt(name), html.Dd(plain(v) if isinstance(v, str) else v)])
            for name, v in pairs.items()
        ],
        className="facts",
    )


def tiles(values: Sequence[tuple[str, str, str]]) -> Component:
    """(name, value, what it is beside) as large figures."""
    return html.Dl(
        [
            html.Div(
                [html.Dt(plain(name)), html.Dd(plain(value)), html.Dd(plain(more))],
                className="tile",
            )
            for name, value, more in values
        ],
        className="tiles",
    )


def code_block(title: str, command: str) -> Component:
    """A command line to copy."""
    return html.Div(
        [
            html.Span(plain(title), className="muted"),
            html.Pre(html.Code(plain(command)), tabIndex=0),
            html.Button("copy", type="button", className="copy", **data("copy", "command")),
        ],
        className="command",
    )


def download_link(text: str, path: str) -> Component:
    """A link that saves a file."""
    return html.A(plain(text), href=path, className="button", download="")


def notice(title: str, words: Children | str) -> Component:
    """A box that says what is the matter and how to go on."""
    body = [html.P(plain(words))] if isinstance(words, str) else list(words)
    return html.Section([html.H2(plain(title)), *body], className="notice", role="alert")
