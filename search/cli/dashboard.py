"""`search dashboard`: serve the studies of a storage to a browser."""

import argparse
import contextlib
import errno
import gc
import json
import os
import sys
import threading
import webbrowser
from typing import TYPE_CHECKING

from search.location import StudyLocation
from spaces import InvalidRequest, SearchError

if TYPE_CHECKING:
    from dashboards.app.library import Library

__all__ = ["dashboard_command"]

#: Read where the flag is absent: a token on a command line shows in every list of processes.
TOKEN_VARIABLE = "SEARCH_DASHBOARD_TOKEN"  # noqa: S105 -- the variable's name
_SHORTEST_TOKEN = 16


def dashboard_command(arguments: argparse.Namespace) -> int:
    """`search dashboard`: until Ctrl-C."""
    try:
        # Optional extras, in one place: dash, flask and waitress.
        from dashboards.app.access import Access, is_loopback, new_token  # noqa: PLC0415
        from dashboards.app.library import Library  # noqa: PLC0415
        from dashboards.app.server import build_app  # noqa: PLC0415
        from dashboards.app.serving import create_server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"dashboard: {error.name} is not installed; pip install 'compression-search[dashboard]'"
        ) from None
    known = StudyLocation.list_studies(arguments.storage)
    missing = [name for name in arguments.studies if name not in known]
    if missing:
        have = ", ".join(known) or "none"
        raise InvalidRequest(
            f"dashboard {missing[0]}: no such study in --storage {arguments.storage}; it holds "
            f"{have}"
        )
    token = arguments.token or os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise InvalidRequest(f"--token must have at least {_SHORTEST_TOKEN} characters")
    needs_token = not is_loopback(arguments.host)
    access = Access(arguments.host, token or (new_token() if needs_token else None))
    library = Library(arguments.storage, arguments.studies)
    app = build_app(library, access)
    try:
        server = create_server(app, arguments.host, arguments.port)
    except OSError as error:
        raise InvalidRequest(_why_not(arguments.host, arguments.port, error)) from None
    url = _url(arguments.host, server.effective_port, access.token)
    if arguments.json:
        sys.stdout.write(json.dumps({"url": url, "storage": library.place}) + "\n")
    else:
        sys.stdout.write(f"{library.place}: {len(library.names())} studies\n{url}\n")
        sys.stdout.write("Ctrl-C ends it; no study notices.\n")
    sys.stdout.flush()
    if arguments.open:
        webbrowser.open(url)
    # A long record takes seconds to read; by the time the page asks it may be done.
    threading.Thread(target=_read_ahead, args=(library,), daemon=True).start()
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    return 0


def _read_ahead(library: "Library") -> None:
    # What is wrong with a study is said on its page, not here.
    with contextlib.suppress(SearchError):
        library.summaries()
    # Trials never change: looking through all of them for garbage would stall a slider.
    gc.collect()
    gc.freeze()


def _url(host: str, port: int, token: str | None) -> str:
    shown = {"0.0.0.0": _own_name(), "::": _own_name()}.get(host, host)  # noqa: S104
    address = f"[{shown}]" if ":" in shown else shown
    return f"http://{address}:{port}/" + (f"?token={token}" if token else "")


def _own_name() -> str:
    return os.uname().nodename


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: is taken on {host}; choose another, or 0 for any free one"
    if error.errno == errno.EACCES:
        return f"--port {port}: ports below 1024 need the administrator's rights; choose another"
    return f"--host {host}, --port {port}: cannot listen there: {error.strerror or error}"
