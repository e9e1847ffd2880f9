"""Who may ask, and what every answer's headers forbid.

The server binds loopback unless told otherwise. Loopback alone does not keep a web page elsewhere
from asking through the user's own browser, so the Host and Origin headers are checked as well (DNS
rebinding, cross-site requests). Off loopback a token is needed: once in the URL, then in a cookie.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from flask import Flask, Request, Response, make_response, redirect, request

from dashboards.markup import escape

__all__ = ["Access", "is_loopback", "new_token", "protect"]

TOKEN_COOKIE = "search_token"  # noqa: S105 -- the cookie's name
TOKEN_ARGUMENT = "token"  # noqa: S105 -- the name in the URL
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ANYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 -- recognised, not bound
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def new_token() -> str:
    """256 random bits, fit for a URL."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Whether an address to bind reaches this machine only."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """How the server is reached.

    Attributes:
        host: the address it binds.
        token: what a reader must know; None only on loopback.
    """

    host: str
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token is None and not self.is_loopback:
            raise ValueError(f"{self.host} is not loopback: a token is needed")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    def knows_host(self, header: str) -> bool:
        """Whether a Host header names this server.

        Bound everywhere it has names nobody can list; there the token alone decides.
        """
        if self.host in _ANYWHERE:
            return True
        return _host_name(header) in _LOOPBACK_NAMES | {self.host.lower()}

    def accepts(self, given: str | None) -> bool:
        """Whether a token is the right one, in time that does not depend on where it differs."""
        if self.token is None:
            return True
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


def _host_name(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _is_foreign(asked: Request) -> bool:
    """Whether another site's page asks. Following a link to a page is the one thing it may do."""
    origin = asked.headers.get("Origin")
    if origin is not None and _host_and_port(origin) != asked.host.lower():
        return True
    if not _comes_from_elsewhere(asked):
        return False
    is_visit = asked.headers.get("Sec-Fetch-Mode") == "navigate" and asked.method in _SAFE_METHODS
    is_page = asked.headers.get("Sec-Fetch-Dest", "document") == "document"
    return not (is_visit and is_page) or asked.path.startswith("/download/")


def _host_and_port(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _comes_from_elsewhere(asked: Request) -> bool:
    """As the browser says: not typed, and not from a page of ours."""
    return asked.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def protect(server: Flask, access: Access, script_hashes: Iterable[str]) -> None:
    """Put the checks before every answer, and the headers on it.

    Args:
        server: every route of it, also those added later.
        access: who may ask.
        script_hashes: of the inline scripts of the page, as `'sha256-...'`; no other runs.
    """
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"script-src 'self' {' '.join(script_hashes)}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'"
    )

    @server.before_request
    def refuse() -> Response | None:
        if not access.knows_host(request.host):
            return _refusal(
                403,
                f"This dashboard is not called {request.host}. Open it under the address that "
                "`search dashboard` printed.",
            )
        if _is_foreign(request):
            return _refusal(403, "Requests from pages of another origin are refused.")
        return None if access.token is None else _ask_token(access)

    @server.after_request
    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


def _ask_token(access: Access) -> Response | None:
    given = request.args.get(TOKEN_ARGUMENT)
    if given is not None:
        return _let_in(access, given)
    if access.accepts(request.cookies.get(TOKEN_COOKIE)):
        return None
    if _comes_from_elsewhere(request):
        # A browser keeps a strict cookie back when a link is followed from another site, and also
        # on the way that `_let_in` sends it.
        return _onward(_address(request))
    return _refusal(
        401,
        "This dashboard needs its token. Open the whole link that `search dashboard` printed; it "
        "ends in ?token=...",
    )


def _let_in(access: Access, given: str) -> Response:
    """Keep the token in a cookie and take it out of the address, where others could read it."""
    if not access.accepts(given):
        return _refusal(401, "That is not this dashboard's token.")
    response = make_response(redirect(_address(request)))
    response.set_cookie(TOKEN_COOKIE, given, httponly=True, samesite="Strict")
    return response


def _address(asked: Request) -> str:
    """Where a request goes, within this server and without the token."""
    arguments = parse_qsl(asked.query_string.decode(errors="replace"))
    kept = [(name, value) for name, value in arguments if name != TOKEN_ARGUMENT]
    query = f"?{urlencode(kept)}" if kept else ""
    # A path that begins with two slashes would lead to another host; `quote` disarms a backslash.
    return quote(f"/{asked.path.lstrip('/')}") + query


def _onward(address: str) -> Response:
    """A page of ours that goes on by itself: the next request comes from this origin."""
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Compression search</title>'
        f'<meta http-equiv="refresh" content="0;url={escape(address)}">'
        f'<p><a href="{escape(address)}">Go on to the dashboard</a></p></html>'
    )
    return Response(page, status=401, mimetype="text/html")


def _refusal(status: int, words: str) -> Response:
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Refused</title>'
        '<body style="font:16px/1.5 system-ui;max-width:40em;margin:10vh auto;padding:0 1em">'
        f"<h1>Refused</h1><p>{escape(words)}</p></body></html>"
    )
    return Response(page, status=status, mimetype="text/html")
