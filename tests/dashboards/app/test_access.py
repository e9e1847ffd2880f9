"""Who may ask: token, host and origin, on every route; and what no answer lets a page do."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from dashboards.app.access import TOKEN_COOKIE, Access, is_loopback, new_token
from tests.dashboards.app.asking import open_app
from tests.dashboards.app.places import write_study

TOKEN = "correct-horse-battery-staple"
#: As a browser on another site marks what its pages ask.
CROSS_SITE = {"Sec_Fetch_Site": "cross-site"}
NAVIGATED = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
VISIT = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("access")
    write_study(root, "one", 20, finalists=1)
    return root


@pytest.fixture(scope="module")
def local(place: Path) -> Flask:
    server: Flask = open_app(place).server
    return server


@pytest.fixture(scope="module")
def guarded(place: Path) -> Flask:
    server: Flask = open_app(place, access=Access("10.1.2.3", TOKEN)).server
    return server


def send(
    server: Flask, path: str, method: str = "GET", host: str = "127.0.0.1:8050", **headers: str
) -> TestResponse:
    """`Sec_Fetch_Site="none"` is the header Sec-Fetch-Site."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.test_client(use_cookies=False).open(
        path, method=method, headers={"Host": host, **named}, buffered=True
    )


def every_request(server: Flask) -> Iterator[tuple[str, str]]:
    """(method, path) of every route, with something that is there in its place-holders."""
    known = {
        "filename": "dashboard.js",
        "package_name": "dash",
        "fingerprinted_path": "dash-renderer/build/dash_renderer.min.js",
        "path": "study/one/front",
        "study": "one",
        "trial": "0",
    }
    for rule in server.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: known[found[1]], rule.rule)
        for method in sorted(rule.methods or ()):
            yield method, path


def test_every_kind_of_route_is_there(local: Flask) -> None:
    asked = set(every_request(local))
    assert ("POST", "/_dash-update-component") in asked
    assert {("GET", "/download/one/0/file"), ("GET", "/"), ("GET", "/_dash-layout")} <= asked
    assert len(asked) > 30


class TestToken:
    HOST = "10.1.2.3"

    def test_without_it_or_with_another_nothing_is_answered(self, guarded: Flask) -> None:
        for method, path in every_request(guarded):
            for ask in ("", "?token=", "?token=wrong", f"?token={TOKEN[:-1]}", f"?token={TOKEN}x"):
                answer = send(guarded, path + ask, method, self.HOST)
                assert answer.status_code == 401, (method, path, ask)
                assert "Set-Cookie" not in answer.headers
                assert len(answer.data) < 600
            for cookie in ("", "wrong", TOKEN.upper(), "x" * 5000):
                asked = send(guarded, path, method, self.HOST, Cookie=f"{TOKEN_COOKIE}={cookie}")
                assert asked.status_code == 401, (method, path)

    def test_an_odd_cookie_is_only_a_wrong_one(self, guarded: Flask) -> None:
        for odd in (b"\xff\xfe", b'"', b"\xc3", b"a=b=c;;;=", b"\xed\xa0\x80"):
            cookie = f"{TOKEN_COOKIE}=" + odd.decode("latin-1")
            assert send(guarded, "/", host=self.HOST, Cookie=cookie).status_code == 401
        assert send(guarded, "/?token=%ed%a0%80%ff", host=self.HOST).status_code == 401

    def test_once_in_the_url_then_in_a_cookie(self, guarded: Flask) -> None:
        first = send(guarded, f"/study/one/front?token={TOKEN}&a=3&kb=1%265", host=self.HOST)
        assert first.status_code == 302
        assert first.headers["Location"] == "/study/one/front?a=3&kb=1%265"
        cookie = first.headers["Set-Cookie"]
        assert cookie.startswith(f"{TOKEN_COOKIE}={TOKEN};")
        assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
        kept = cookie.split(";")[0]
        for method, path in every_request(guarded):
            if method != "POST":
                answer = send(guarded, path, method, self.HOST, Cookie=kept)
                assert answer.status_code in (200, 404), (method, path)

    @pytest.mark.parametrize(
        "path", ["//evil.example/", "///evil", "/\\evil", "\\\\evil", "/\t/evil"]
    )
    def test_the_way_on_never_leads_to_another_host(self, guarded: Flask, path: str) -> None:
        def go(query: str, **headers: str) -> TestResponse:
            return guarded.test_client(use_cookies=False).open(
                "/",
                headers={"Host": self.HOST, **headers},
                # As a server hands it over: joined to no URL by the client.
                environ_overrides={"PATH_INFO": path, "QUERY_STRING": query},
            )

        let_in = go(f"token={TOKEN}")
        (onward,) = re.findall(
            r'content="0;url=([^"]*)"', go("", **{"Sec-Fetch-Site": "cross-site", **NAVIGATED}).text
        )
        for way in (let_in.headers["Location"], onward):
            assert re.match(r"/(?![/\\\t])", way), way

    def test_a_link_on_another_site_goes_on_by_itself(self, guarded: Flask) -> None:
        """Such a visit arrives without the strict cookie, and the next one has it."""
        headers = {"host": self.HOST, **CROSS_SITE, **VISIT}
        given = send(guarded, f"/study/one/front?token={TOKEN}&a=3", **headers)
        assert given.headers["Location"] == "/study/one/front?a=3"
        assert "SameSite=Strict" in given.headers["Set-Cookie"]
        then = send(guarded, "/study/one/front?a=3", **headers)
        assert then.status_code == 401
        assert 'content="0;url=/study/one/front?a=3"' in then.text
        # From there it is our own page that asks: it is refused, or let in, for good.
        again = {**headers, "Sec_Fetch_Site": "same-origin"}
        assert "http-equiv" not in send(guarded, "/study/one/front?a=3", **again).text
        kept = {"Cookie": given.headers["Set-Cookie"].split(";")[0]}
        assert send(guarded, "/study/one/front?a=3", **again, **kept).status_code == 200
        odd = send(guarded, '/study/"><script>?a=%22', **headers)
        assert "<script" not in odd.text
        assert 'content="0;url=/study/%22%3E%3Cscript%3E?a=%22"' in odd.text

    def test_beyond_loopback_there_is_no_access_without_one(self) -> None:
        for host in ("0.0.0.0", "::", "", "10.1.2.3", "example.org", "127.0.0.1.example.org"):
            with pytest.raises(ValueError, match="token is needed"):
                Access(host)
            assert Access(host, TOKEN).token == TOKEN
        for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"):
            assert is_loopback(host)
            assert Access(host).accepts(None)

    def test_tokens_cannot_be_guessed(self) -> None:
        assert len({new_token() for _ in range(100)}) == 100
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", new_token()) for _ in range(10))


class TestHost:
    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8050", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
         "[::1", "", "localhost.evil.example:8050", "10.0.0.1"],
    )  # fmt: skip
    def test_another_name_for_this_machine_is_refused(self, local: Flask, host: str) -> None:
        for method, path in every_request(local):
            answer = send(local, path, method, host)
            assert answer.status_code in (400, 403), (method, path)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9999", "[::1]:8050", "LocalHost"])
    def test_loopbacks_own_names_are_known(self, local: Flask, host: str) -> None:
        assert send(local, "/", host=host).status_code == 200

    def test_bound_everywhere_the_token_decides(self, place: Path) -> None:
        server = open_app(place, access=Access("0.0.0.0", TOKEN)).server
        assert send(server, "/", host="any.name:1").status_code == 401
        assert send(server, f"/?token={TOKEN}", host="any.name:1").status_code == 302


class TestOrigin:
    @pytest.mark.parametrize(
        "origin",
        ["http://evil.example", "http://127.0.0.1:8051", "null", "http://[", "",
         "http://127.0.0.1:8050.evil.example", "http://localhost:8050"],
    )  # fmt: skip
    def test_pages_of_another_origin_are_refused(self, local: Flask, origin: str) -> None:
        for method, path in every_request(local):
            answer = send(local, path, method, Origin=origin)
            assert answer.status_code == 403, (method, path)

    def test_our_own_pages_may_ask(self, local: Flask) -> None:
        own = {"Origin": "http://127.0.0.1:8050", "Sec_Fetch_Site": "same-origin"}
        assert send(local, "/_dash-layout", **own).status_code == 200

    @pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
    def test_another_site_may_link_to_a_page_and_no_more(self, local: Flask, site: str) -> None:
        def status(path: str, method: str = "GET", **headers: str) -> int:
            return send(local, path, method, Sec_Fetch_Site=site, **headers).status_code

        for path in ("/", "/study/one/front?a=3"):
            assert status(path, **VISIT) == 200
        for path in ("/study/one/front", "/_dash-layout", "/theme.css", "/download/one/0/file"):
            for mode in ("no-cors", "cors", "websocket"):
                assert status(path, Sec_Fetch_Mode=mode, Sec_Fetch_Dest="image") == 403
            assert status(path) == 403
        assert status("/", **VISIT | {"Sec_Fetch_Dest": "iframe"}) == 403
        assert status("/download/one/0/file", **VISIT) == 403
        assert status("/_dash-update-component", "POST", **VISIT) == 403

    def test_typed_addresses_and_tools_may_ask(self, local: Flask) -> None:
        assert send(local, "/", Sec_Fetch_Site="none").status_code == 200
        assert send(local, "/download/one/0/file").status_code == 200


def test_every_answer_forbids_foreign_scripts_frames_and_sniffing(
    local: Flask, guarded: Flask
) -> None:
    for server, host in ((local, "127.0.0.1"), (guarded, "10.1.2.3"), (local, "evil.example")):
        for method, path in every_request(server):
            headers = send(server, path, method, host).headers
            policy = dict(
                part.strip().partition(" ")[::2]
                for part in headers["Content-Security-Policy"].split(";")
            )
            assert policy["default-src"] == "'none'"
            scripts = policy["script-src"].split()
            assert scripts[0] == "'self'"
            assert all(re.fullmatch(r"'sha256-[A-Za-z0-9+/=]+'", source) for source in scripts[1:])
            assert policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_every_script_of_the_page_has_its_hash_or_is_ours(local: Flask) -> None:
    import base64
    import hashlib

    answer = send(local, "/")
    policy = answer.headers["Content-Security-Policy"]
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", answer.text, re.DOTALL)
    assert len(scripts) > 5
    for attributes, code in scripts:
        if "src=" in attributes:
            assert re.search(r'src="/(?!/)', attributes)
        elif "application/json" not in attributes:
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert not re.search(
        r"https?://(?!127\.0\.0\.1)", re.sub(r"<script.*?</script>", "", answer.text)
    )
