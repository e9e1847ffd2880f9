"""The report in a real browser: it draws, sorts, follows the colour scheme, loads nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboards import tables
from dashboards.figures import pareto_info
from dashboards.report import write_report
from tests.dashboards.chromium import needs_chromium, open_chromium
from tests.dashboards.studies import hostile_study

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

pytestmark = [pytest.mark.browser, needs_chromium]
BUTTONS = """return Array.from(document.querySelectorAll('.modebar-btn'))
    .map(button => button.dataset.title)"""
DRAWN = "return document.documentElement.dataset.drawn"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    profile = tmp_path_factory.mktemp("chromium")
    with open_chromium(profile, logs_network=True) as browser:
        yield browser


def wait_until_drawn(driver) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60).until(lambda d: d.execute_script(DRAWN) == "true")


def column(driver, index: int) -> list[str]:
    script = """return Array.from(document.querySelectorAll('#trial-table tbody tr'))
        .map(row => row.cells[arguments[0]].dataset.value)"""
    return driver.execute_script(script, index)


def test_the_report_in_chromium(driver, tmp_path: Path) -> None:
    given = hostile_study(100)
    path = tmp_path / "report.html"
    write_report(path, given)
    driver.get_log("performance")  # of Chromium's own first page
    driver.get(path.as_uri())
    wait_until_drawn(driver)

    # Every finished trial is a point, and so are the finalists, the references and the pick.
    trials = tables.trial_table(given.trials, given.judge)
    finalists = tables.trial_table(given.finalists, given.judge)
    info = pareto_info(trials, finalists, given.judge)
    expected = len(trials[trials["metric"].notna()]) + len(info.references) + len(finalists) + 2
    driver.execute_script("document.querySelector('button[data-view=\"all trials\"]').click()")
    counts = """return document.querySelectorAll('#pareto .scatterlayer .point').length"""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda d: d.execute_script(counts) == expected)
    pressed = "return document.querySelector('button[data-view=\"all trials\"]').ariaPressed"
    assert driver.execute_script(pressed) == "true"

    # Sorting by bytes, twice.
    heading = "document.querySelectorAll('#trial-table thead button')[4].click()"
    driver.execute_script(heading)
    known = [float(value) for value in column(driver, 4) if value]
    assert known == sorted(known)
    assert len(set(known)) > 10
    driver.execute_script(heading)
    assert [float(value) for value in column(driver, 4) if value] == sorted(known, reverse=True)

    # No text of the record became markup; nothing complained; nothing was asked of a network.
    assert driver.execute_script("return window.pwned === undefined")
    assert driver.execute_script("return document.images.length") == 0
    titles = driver.execute_script(BUTTONS)
    assert "Zoom" in titles
    assert "Share chart..." not in titles  # plotly.js 4 would upload the plot
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {
        message["params"]["request"]["url"].partition(":")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data", "blob"}


def test_the_report_follows_the_colour_scheme_and_fits_a_telephone(driver, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, hostile_study(40))
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    background = "return document.querySelector('#pareto .main-svg').style.background"
    seen = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.get(path.as_uri())
        wait_until_drawn(driver)
        seen[scheme] = driver.execute_script(background)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
    assert seen == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}
    assert driver.get_log("browser") == []
