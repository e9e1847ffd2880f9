"""The application, put together: shell, pages, routes, and the server that runs it.

One value says what a page shows: the query of its URL (`dashboards.app.view`). Controls merge what
they know into it (assets/dashboard.js), the browser's address follows it, and everything drawn is
a function of it, of the study's snapshot and of the colour scheme. So a link shows what its sender
saw, and new trials change neither zoom nor choice.
"""

from importlib import resources
from pathlib import Path
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from flask import Flask, Response

from dashboards.app.access import Access, protect
from dashboards.app.blocks import notice
from dashboards.app.downloads import add_downloads
from dashboards.app.library import Library
from dashboards.app.pages import front, insight, progress, studies, trials
from dashboards.app.status import status_line, study_header, study_tabs
from dashboards.app.view import PAGES, View, place_of
from dashboards.text import plain
from dashboards.theme import LIGHT, THEMES, css_variables
from spaces import InvalidRequest, SearchError

__all__ = ["LIVE_MS", "build_app"]

#: A page asks for news this often.
LIVE_MS = 2000
NAMESPACE = "dashboard"
#: A list: after None, Dash 4.4 would still look for the components that stood there.
_NOTHING: list[Component] = []

_PAGES = {"front": front, "trials": trials, "progress": progress, "insight": insight}

_INDEX = """<!doctype html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/theme.css">
{%css%}
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""


def build_app(library: Library, access: Access) -> Dash:
    """The dashboard over some studies.

    Args:
        library: what it shows.
        access: who may see it.

    Returns:
        The application; `.server` is a WSGI application.
    """
    app = Dash(
        "dashboards.app",
        title="Compression search",
        update_title="",
        assets_folder=str(Path(str(resources.files("dashboards.app") / "assets"))),
        index_string=_INDEX,
        suppress_callback_exceptions=True,
        # Dash 4.4 can serve its callbacks to language models; nobody asked for another door.
        enable_mcp=False,
        add_log_handler=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.layout = _shell()
    _route(app, library)
    for page in (studies, front, trials, progress, insight):
        page.register(app, library)
    server: Flask = app.server
    protect(server, access, app.csp_hashes())
    add_downloads(server, library)
    server.add_url_rule("/theme.css", view_func=_theme_css)
    return app


def _theme_css() -> Response:
    """The figures' palette for the page around them, from the one place that has it."""
    return Response(
        "\n".join(css_variables(theme) for theme in THEMES.values()), mimetype="text/css"
    )


def _shell() -> Component:
    return html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="where"),
            dcc.Store(id="theme"),
            dcc.Store(id="view", data=""),
            dcc.Store(id="version", data=""),
            dcc.Store(id="written"),
            dcc.Interval(id="tick", interval=LIVE_MS),
            html.A("Skip to the content", href="#page", className="skip"),
            html.Header(
                [
                    dcc.Link("Compression search", href="/", className="brand"),
                    html.Button(
                        "dark", id="theme-toggle", type="button", title="switch the colours"
                    ),
                ],
                className="bar",
            ),
            html.Div(id="head"),
            html.Div(id="status", role="status"),
            html.Div(id="tabs"),
            html.Main(id="page", tabIndex=-1),
        ],
        className="site",
    )


def _route(app: Dash, library: Library) -> None:
    """Which page stands under the address, and what it is told of new trials."""

    def client(name: str, outputs: Any, inputs: Any, states: Any = (), **first: bool) -> None:
        app.clientside_callback(
            ClientsideFunction(NAMESPACE, name), outputs, inputs, states, **first
        )

    client(
        "where",
        Output("where", "data"),
        [Input("url", "pathname"), Input("url", "search")],
        [State("view", "data"), State("where", "data")],
    )
    client(
        "theme",
        [Output("theme", "data"), Output("theme-toggle", "children")],
        [Input("theme-toggle", "n_clicks")],
        [State("theme", "data")],
    )
    client("write", Output("written", "data"), [Input("view", "data")])
    client(
        "tabs",
        [Output(f"tab-{page}", "href") for page in PAGES],
        [Input("view", "data")],
        [State(f"tab-{page}", "href") for page in PAGES],
        prevent_initial_call=True,
    )

    @app.callback(
        Output("head", "children"),
        Output("status", "children"),
        Output("tabs", "children"),
        Output("page", "children"),
        Output("view", "data"),
        Output("version", "data"),
        Input("where", "data"),
        prevent_initial_call=True,
    )
    def show(where: dict[str, str] | None) -> tuple[Any, ...]:
        if not where:
            return (no_update,) * 6
        view, theme = View.parse(where["search"]), THEMES.get(where["theme"], LIGHT)
        query = view.query()
        try:
            place = place_of(where["pathname"])
            if not place.study:
                return _NOTHING, _NOTHING, _NOTHING, studies.layout(library, view), query, ""
            snapshot = library.get(place.study)
            body = _PAGES[place.page].layout(library, snapshot, view, theme)
        except SearchError as error:
            return _NOTHING, _NOTHING, _NOTHING, _trouble(error), query, ""
        head, tabs = study_header(snapshot), study_tabs(snapshot, place.page, view)
        return head, status_line(snapshot), tabs, body, query, snapshot.version

    @app.callback(
        Output("version", "data", allow_duplicate=True),
        Output("status", "children", allow_duplicate=True),
        Output("where", "data", allow_duplicate=True),
        Input("tick", "n_intervals"),
        State("where", "data"),
        State("version", "data"),
        prevent_initial_call=True,
    )
    def refresh(_: int, where: dict[str, str] | None, version: str) -> tuple[Any, Any, Any]:
        try:
            place = place_of(where["pathname"]) if where else None
            if not where or place is None or not place.study:
                return no_update, no_update, no_update
            snapshot = library.get(place.study)
        except SearchError as error:
            # Where the page itself says it, once is enough.
            said = html.Span(plain(error), className="trouble") if version else no_update
            return no_update, said, no_update
        if not version:
            # What could not be read when the page was opened can be read now: open it again.
            return no_update, no_update, {**where, "opened": snapshot.version}
        new = no_update if snapshot.version == version else snapshot.version
        return new, status_line(snapshot), no_update


def _trouble(error: SearchError) -> Component:
    title = "There is nothing here" if isinstance(error, InvalidRequest) else "This study is broken"
    return html.Div(
        [
            notice(title, str(error)),
            html.P(["Nothing was changed. ", dcc.Link("All studies", href="/")]),
        ]
    )
