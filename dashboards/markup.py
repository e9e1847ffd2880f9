"""Pieces of a self-contained HTML page: escaped text, tables, figures, scripts under a policy."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards.text import plain

__all__ = [
    "Column",
    "PageFigure",
    "csv_link",
    "details",
    "escape",
    "figure_block",
    "html_table",
    "page",
    "script_json",
    "theme_changes",
]

Row = Mapping[str, Any]


def escape(text: object) -> str:
    """Text of a record, as HTML text or within a quoted attribute."""
    return html.escape(plain(text), quote=True)


class Column(NamedTuple):
    """A column of an HTML table.

    Attributes:
        heading: with the unit.
        show: row -> text; it is escaped here, not there.
        sort_by: the frame's column of numbers that orders the rows; "" = the shown text.
        is_prose: whether its text may break into lines.
    """

    heading: str
    show: Callable[[Row], str]
    sort_by: str = ""
    is_prose: bool = False


def html_table(
    frame: pd.DataFrame,
    columns: Sequence[Column],
    caption: str,
    *,
    sortable: bool = False,
    marked: str = "",
) -> str:
    """A captioned table; the first column heads its row.

    Args:
        frame: the rows.
        columns: what to show of them.
        caption: what a screen reader announces, and the name of the scrolling region.
        sortable: whether headings are buttons that sort (see report.js).
        marked: a frame column of booleans that emphasises rows.
    """
    rows = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
    head = "".join(_heading(column, sortable) for column in columns)
    body = "".join(
        ('<tr class="marked">' if marked and row[marked] else "<tr>")
        + "".join(_cell(column, row, is_first=i == 0) for i, column in enumerate(columns))
        + "</tr>"
        for row in rows
    )
    mark = " data-sortable" if sortable else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table{mark}><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _heading(column: Column, sortable: bool) -> str:
    text = escape(column.heading)
    number = ' class="number"' if column.sort_by else ""
    if not sortable:
        return f'<th scope="col"{number}>{text}</th>'
    return f'<th scope="col"{number} aria-sort="none"><button type="button">{text}</button></th>'


def _cell(column: Column, row: Row, *, is_first: bool) -> str:
    text = escape(column.show(row))
    name = 'th scope="row"' if is_first else "td"
    value = _sort_value(row[column.sort_by]) if column.sort_by else ""
    kind = f' class="number" data-value="{value}"' if column.sort_by else ""
    if column.is_prose:
        kind = ' class="prose"'
    return f"<{name}{kind}>{text}</{name[:2]}>"


def _sort_value(value: Any) -> str:
    if pd.isna(value) or not math.isfinite(value):
        return ""
    return repr(float(value))


def details(summary: str, body: str) -> str:
    """A part that is closed at first. `body` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def csv_link(text: str, file_name: str, csv: str) -> str:
    """A download that needs no network: the file is in the link."""
    data = base64.b64encode(csv.encode()).decode()
    return (
        f'<a class="button" download="{escape(file_name)}" '
        f'href="data:text/csv;charset=utf-8;base64,{data}">{escape(text)}</a>'
    )


@dataclass(frozen=True)
class PageFigure:
    """A plot on a page.

    Attributes:
        name: HTML id, and key in the page's JSON; letters only.
        light, dark: the same figure in both themes.
        words: the text alternative: what a reader sees in the plot.
        views: name of a button -> plotly relayout arguments; the first is how it is drawn.
    """

    name: str
    light: go.Figure
    dark: go.Figure
    words: str
    views: Mapping[str, Mapping[str, Any]]

    def data(self) -> dict[str, Any]:
        """What report.js draws from."""
        light = json.loads(str(self.light.to_json()))
        dark = json.loads(str(self.dark.to_json()))
        return {"figure": light, "dark": theme_changes(light, dark), "views": dict(self.views)}


def theme_changes(light: Any, dark: Any) -> list[list[Any]]:
    """Where two figures differ: [path, value of `dark`]. Points are not stored twice.

    `{"a": [1, 2]}, {"a": [1, 3]}` -> `[[["a", 1], 3]]`
    """
    if isinstance(light, dict) and isinstance(dark, dict) and light.keys() == dark.keys():
        return _changes((key, light[key], dark[key]) for key in light)
    if isinstance(light, list) and isinstance(dark, list) and len(light) == len(dark):
        return _changes((i, *pair) for i, pair in enumerate(zip(light, dark, strict=True)))
    return [] if light == dark else [[[], dark]]


def _changes(children: Any) -> list[list[Any]]:
    return [
        [[key, *path], value]
        for key, light, dark in children
        if light != dark
        for path, value in theme_changes(light, dark)
    ]


def figure_block(figure: PageFigure, table: str) -> str:
    """The plot, its text alternative, its views as buttons, and its table. `table` is HTML."""
    height = int(figure.light.layout.height)
    buttons = "".join(
        f'<button type="button" data-figure="{figure.name}" data-view="{escape(view)}" '
        f'aria-pressed="{"true" if i == 0 else "false"}">{escape(view)}</button>'
        for i, view in enumerate(figure.views)
    )
    views = f'<div class="views" role="group" aria-label="View">{buttons}</div>' if buttons else ""
    return (
        f'<figure>{views}<div class="plot" id="{figure.name}" role="img" '
        f'aria-label="{escape(figure.words)}" style="height:{height}px"></div>'
        f"<figcaption>{escape(figure.words)}</figcaption>{table}</figure>"
    )


def script_json(value: Any) -> str:
    """JSON that cannot end its script element, whatever strings are in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page(title: str, body: str, figures: Sequence[PageFigure]) -> str:
    """The whole document. Nothing on it loads anything, and its policy lets nothing load.

    Scripts run by their hash only: markup that slipped through the escaping would still be inert.
    """
    style = _asset("report.css")
    scripts = [get_plotlyjs(), _asset("report.js")] if figures else [_asset("report.js")]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; "
        f"style-src 'unsafe-inline'; script-src {hashes}"
    )
    data = script_json({figure.name: figure.data() for figure in figures})
    code = "".join(f"<script>{script}</script>\n" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # An icon of its own: a browser would ask the server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="figures">{data}</script>\n{code}</body>\n</html>\n'
    )


def _asset(name: str) -> str:
    return resources.files("dashboards").joinpath("assets", name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
