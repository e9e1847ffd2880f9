"""The WSGI server under the application."""

import errno
import socket
from typing import Protocol, cast

import waitress
from dash import Dash

__all__ = ["Server", "create_server"]

THREADS = 8
LAST_PORT = 65_535
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
    if port > LAST_PORT:  # the resolver would take it modulo 65536
        raise OSError(errno.EINVAL, f"a port is at most {LAST_PORT}")
    # Of an unknown name waitress would say nothing but "invalid"; of a name with two addresses, as
    # localhost often is, it would make two servers, and with port 0 on two ports.
    address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    server = waitress.create_server(
        app.server,
        host=address,
        port=port,
        threads=THREADS,
        max_request_body_size=LARGEST_REQUEST_BYTES,
        ident=None,
    )
    return cast(Server, server)
