"""One browser for all tests of a process, one server for all tests of a module."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboards.app.browsing import DESK, Reader


@pytest.fixture(scope="package")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from tests.dashboards.chromium import open_chromium

    with open_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def at_desk(chromium: Any, url: str) -> Iterator[Reader]:
    """Somebody new here, at a desk by daylight, in front of the module's server (`url`)."""
    found = Reader(chromium, url)
    found.resize(DESK)
    found.prefer("light")
    found.forget()
    found.complaints()
    yield found
    # A page left open would go on asking a server that is gone.
    chromium.get("about:blank")
