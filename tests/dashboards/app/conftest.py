"""One browser for all tests of a process; each test opens its own page in it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from dash import Dash

from tests.dashboards.app.browsing import DESK, Reader, serve


@pytest.fixture(scope="package")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from tests.dashboards.chromium import open_chromium

    with open_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


Open = Callable[[Dash], Reader]


@pytest.fixture
def reader(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """`reader(app)` serves an application to somebody at a desk, by daylight, who is new here."""
    with ExitStack() as stack:

        def start(app: Dash) -> Reader:
            found = Reader(chromium, stack.enter_context(serve(app)))
            found.resize(DESK)
            found.prefer("light")
            found.complaints()
            return found

        yield start
        chromium.get("about:blank")
