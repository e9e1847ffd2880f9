"""The WSGI server under the application."""

import socket
from typing import Protocol, cast

import waitress
from dash import Dash

__all__ = ["Server", "create_server"]

THREADS = 8
LARGEST_REQUEST_BYTES = 1 << 20


class Server(Protocol):
    """What waitress gives."""

    effective_port: int

    def run(self) -> None:
        """Serve until `close` or Ctrl-C."""

    def close(self) -> None:
        """Let the port go."""


def create_server(app: Dash, host: str, port: int) -> Server:
    """Listen; `run` answers.

    Args:
        app: of `build_app`.
        host, port: what to bind; port 0 = any free one.

    Raises:
        OSError: it cannot listen there.
    """
    socket.getaddrinfo(host, port)  # of an unknown name waitress would say nothing but "invalid"
    server = waitress.create_server(
        app.server,
        host=host,
        port=port,
        threads=THREADS,
        max_request_body_size=LARGEST_REQUEST_BYTES,
        ident=None,
    )
    return cast(Server, server)
