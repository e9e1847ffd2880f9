"""Headless Chromium for tests and benches, as Debian packages it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FLAGS", "MISSING", "needs_chromium", "open_chromium"]

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = CHROMIUM is None or CHROMEDRIVER is None
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--disable-dev-shm-usage", "--disable-quic",
    "--disable-sync", "--hide-scrollbars", "--window-size=1440,900",
)  # fmt: skip

needs_chromium = pytest.mark.skipif(
    MISSING,
    reason="chromium and chromedriver are not installed (apt install chromium chromium-driver)",
)


@contextmanager
def open_chromium(profile: Path, *flags: str, logs_network: bool = False) -> Iterator[Any]:
    """A browser that logs what pages complain of.

    Args:
        profile: an empty folder of its own.
        flags: more of Chromium's.
        logs_network: also log what pages ask the network for, as "performance"; it takes time.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    logs = ("browser", "performance") if logs_network else ("browser",)
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    browser = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield browser
    finally:
        browser.quit()
