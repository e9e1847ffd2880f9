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
    # One address: of a name with two, as localhost often is, waitress would make two servers, with
    # port 0 on two ports. Bound here, because waitress leaves a socket open that it cannot bind.
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server(address[:2], family=family)
    server = waitress.create_server(
        app.server,
        sockets=[listening],
        threads=THREADS,
        max_request_body_size=LARGEST_REQUEST_BYTES,
        ident=None,
    )
    return cast(Server, server)
