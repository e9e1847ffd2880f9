"""`search dashboard` as a process: what it prints, what it refuses, how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dashboards.app.places import write_study
from tests.search.cli.conftest import Search

pytest.importorskip("dash", reason="dash is not installed (pip install '.[dashboard]')")

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    write_study(root, "one", 8, finalists=0)
    write_study(root, "two", 8, finalists=0, seed=1)
    return root


@contextmanager
def started(place: Path, *arguments: str, token: str = "") -> Iterator[subprocess.Popen[str]]:
    """The command at work."""
    command = [sys.executable, "-m", "search.cli", "dashboard"]
    environment = {**os.environ, "SEARCH_DASHBOARD_TOKEN": token}
    process = subprocess.Popen(
        [*command, *arguments, "--storage", str(place), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    """The first line that is one."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith("http"):
            return line.strip()
    raise AssertionError(process.communicate())


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ctrl-C; the rest of stdout and stderr. (`communicate` forgets what was buffered.)"""
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdout.read(), process.stderr.read()


def fetch(url: str) -> tuple[int, str]:
    """Without a redirect's cookie: what a stranger gets."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_serves_and_ends_with_ctrl_c(place: Path) -> None:
    with started(place) as process:
        url = url_of(process)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        status, page = fetch(url)
        assert status == 200
        assert "<title>Compression search</title>" in page
        assert fetch(url + "download/one/trials.csv")[0] == 200
        out, err = interrupt(process)
    assert process.returncode == 0
    assert err == ""
    assert out == "Ctrl-C ends it; no study notices.\n"


def test_json_is_one_line_and_only_the_named_are_shown(place: Path) -> None:
    with started(place, "two", "--json") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said["storage"] == str(place)
        assert fetch(said["url"] + "download/two/trials.csv")[0] == 200
        status, words = fetch(said["url"] + "download/one/trials.csv")
        assert status == 404
        assert "not among those this dashboard shows: two" in words
        out, err = interrupt(process)
    assert (process.returncode, out, err) == (0, "", "")


def test_beyond_loopback_the_url_holds_a_token(place: Path) -> None:
    with started(place, "--host", "0.0.0.0") as process:
        url = url_of(process)
        found = re.fullmatch(r"http://([^/:]+):(\d+)/\?token=([A-Za-z0-9_-]{43})", url)
        assert found
        assert found[1] == os.uname().nodename
        here = f"http://127.0.0.1:{found[2]}/"
        assert fetch(here)[0] == 401
        assert fetch(here + "?token=wrong")[0] == 401
        asking = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with asking.open(f"{here}?token={found[3]}", timeout=20) as answer:
            assert (answer.status, answer.url) == (200, here)
        interrupt(process)
    assert process.returncode == 0


def test_a_token_of_ones_own_by_variable_guards_loopback_too(place: Path) -> None:
    with started(place, token=TOKEN) as process:
        url = url_of(process)
        assert url.endswith(f"/?token={TOKEN}")
        assert fetch(url.partition("?")[0])[0] == 401
        _, err = interrupt(process)
    assert TOKEN not in err


def test_a_port_that_is_taken(search: Search, place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = search("dashboard", "--storage", place, "--port", port)
    assert said.code == 2
    assert f"--port {port}: is taken on 127.0.0.1; choose another" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nobody", "dashboard nobody: no such study in --storage .*; it holds one, two"),
        ("one nobody two", "dashboard nobody: no such study"),
        ("../one", r"dashboard \.\./one: no such study"),
        ("--token short", "--token must have at least 16 characters"),
        ("--host 0.0.0.0 --token short", "--token must have at least 16 characters"),
        ("--port -1", "--port: must be at least 0, but got -1"),
        ("--port 70000", "--port 70000: cannot listen there: a port is at most 65535"),
        ("--port web", "--port: must be a whole number"),
        ("--host 203.0.113.7", "--host 203.0.113.7, --port 8050: cannot listen there"),
        ("--host 300.1.1.1", "--host 300.1.1.1, --port 8050: cannot listen there"),
    ],
)
def test_refusals(search: Search, place: Path, arguments: str, words: str) -> None:
    said = search("dashboard", *arguments.split(), "--storage", place)
    assert said.code == 2
    assert re.search(words, said.err), said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_short_token_by_variable(
    search: Search, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_DASHBOARD_TOKEN", "short")
    assert "--token must have at least 16" in search("dashboard", "--storage", place).err


def test_a_storage_that_cannot_be_read(search: Search) -> None:
    said = search("dashboard", "--storage", "nosuchdb://user:secret@x/y")
    assert said.code == 2
    assert "nosuchdb" in said.err
    assert "secret" not in said.err
