"""A page left open while a study runs: it follows, and keeps what its reader did."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboards.app import library, server
from search.record import Record
from spaces import Front, Trial
from tests.dashboards.app.asking import open_app
from tests.dashboards.app.browsing import Reader, serve
from tests.dashboards.app.places import append, drive, write_study
from tests.dashboards.chromium import needs_chromium

pytestmark = [pytest.mark.browser, needs_chromium]

#: Series that were clicked away in the legend.
HIDDEN = """return document.querySelector('#pareto .js-plotly-plot')._fullData
    .filter((trace) => trace.visible === 'legendonly').map((trace) => trace.name)"""
Running = tuple[Record, Iterator[Trial]]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    record, coming = drive(tmp_path / "runs", "live", count=20, asked=60)
    with record:
        yield record, coming


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at work, only faster."""
    monkeypatch.setattr(server, "LIVE_MS", 400)
    monkeypatch.setattr(library, "LEAST_S", 0.1)


@pytest.fixture
def url(running: Running, often: None, tmp_path: Path) -> Iterator[str]:
    with serve(open_app(tmp_path / "runs")) as found:
        yield found


def count(reader: Reader) -> int:
    """Trials in the plot, by its words."""
    words = reader.text("#pareto-words").partition(": ")[2]
    marks = (" trials on the front", " dominated", " missing a limit")
    return sum(int(words.split(mark)[0].split(" ")[-1]) for mark in marks)


def grown(reader: Reader) -> int:
    return int(reader.script("return document.querySelectorAll('#pareto .point').length"))


def test_a_running_study_grows_under_its_reader(at_desk: Reader, running: Running) -> None:
    from selenium.webdriver.common.keys import Keys

    record, coming = running
    reader = at_desk.open("/study/live/front")
    assert reader.text("#status").startswith("running 20 of 60 trials")
    assert "0 of 2 workers busy" in reader.text("#status")
    points, trials = grown(reader), count(reader)

    # What a reader does: zoom with the mouse, choose a point, move a limit, open the table.
    before = reader.ranges()
    reader.drag((0.1, 0.1), (0.9, 0.9))
    reader.wait(lambda: reader.ranges() != before)
    zoomed = reader.ranges()
    reader.script("document.querySelectorAll('#pareto .legendtoggle')[1].scrollIntoView(false)")
    reader.find("#pareto .traces:nth-of-type(2) .legendtoggle").click()
    reader.wait(lambda: reader.script(HIDDEN))
    hidden = reader.script(HIDDEN)
    reader.type_in("point-a", "4")
    reader.becomes(reader.title, "Trial 4")
    reader.press("#limit-metric", Keys.ARROW_RIGHT, 30)
    reader.wait(lambda: "metric" in reader.query())
    reader.click("#front-table-open")
    reader.find("#point-b").click()
    reader.script("document.getElementById('point-b').value = 'half a na'")
    reader.script("document.getElementById('point-title').dataset.mine = 'yes'")
    query, slider = reader.query(), reader.value("limit-metric")
    box, scroll = reader.value("limit-metric-box"), reader.script("return window.scrollY")

    append(record, [next(coming) for _ in range(10)])
    record.write_driver({"phase": "search", "workers": 2, "running": [{}], "eta_s": 30}, force=True)
    reader.wait(lambda: reader.text("#status").startswith("running 30 of 60 trials"))
    assert "1 of 2 workers busy" in reader.text("#status")
    failed = sum(trial.measurement is None for trial in record.trials())
    assert f"{failed} failed" in reader.text("#status")
    # The page may read in the middle of the ten.
    measured = sum(trial.measurement is not None for trial in record.trials())
    reader.wait(lambda: count(reader) == measured > trials)
    reader.wait(lambda: grown(reader) > points)

    assert reader.ranges() == pytest.approx(zoomed)
    assert reader.script(HIDDEN) == hidden
    assert reader.query() == query
    assert (reader.value("limit-metric"), reader.value("limit-metric-box")) == (slider, box)
    assert reader.title() == "Trial 4"
    # Not drawn anew: a heat map under the pointer does not flicker.
    assert reader.script("return document.getElementById('point-title').dataset.mine") == "yes"
    assert reader.script("return document.activeElement.id") == "point-b"
    assert reader.value("point-b") == "half a na"
    assert reader.script("return window.scrollY") == scroll
    assert reader.script("return document.getElementById('front-table-open').parentNode.open")
    assert reader.complaints() == []


def test_a_point_that_is_not_there_yet_appears(at_desk: Reader, running: Running) -> None:
    record, coming = running
    reader = at_desk.open("/study/live/front?a=20")
    assert "There is no trial 20 in live (yet)" in reader.text("#point")
    append(record, [next(coming)])
    reader.becomes(reader.title, "Trial 20")
    assert reader.complaints() == []


def test_sliders_come_with_the_first_trial_and_grow_with_the_others(
    at_desk: Reader, running: Running, tmp_path: Path
) -> None:
    record, coming = drive(tmp_path / "runs", "new", count=0, asked=60)
    with record:
        reader = at_desk.open("/study/new/insight").open("/study/new/front")
        assert reader.text("#answer") == "No trial has finished yet"
        assert not reader.find("#limit-kb").is_displayed()
        append(record, [next(coming) for _ in range(3)])
        reader.wait(lambda: reader.find("#limit-kb").is_displayed())
        reader.wait(lambda: shipped(reader) == best(record))
        reader.type_in("limit-kb-box", "100")
        reader.becomes(reader.query, {"kb": "100"})
        place = int(reader.value("limit-kb"))
        append(record, [next(coming) for _ in range(20)])  # smaller ones among them
        # All of them, or the slider moves again under the arrow.
        reader.wait(lambda: "23 of 60 trials" in reader.text("#status"))
        reader.wait(lambda: int(reader.value("limit-kb")) > place)
        assert reader.query() == {"kb": "100"}
        assert reader.value("limit-kb-box") == "100"
        reader.press("#limit-kb", "\ue012")  # an arrow to the left
        reader.wait(lambda: 90 < float(reader.query()["kb"]) < 100)
    assert reader.complaints() == []


def shipped(reader: Reader) -> str:
    return reader.text("#answer h2").split()[-1]


def best(record: Record) -> str:
    pick = Front.of(record.trials(), record.judge, record.spec.fidelity).pick
    assert pick is not None
    return str(pick.number)


def test_list_and_progress_follow(at_desk: Reader, running: Running) -> None:
    record, coming = running
    reader = at_desk.open("/")
    reader.wait(lambda: "20 of 60" in reader.text("#studies table"))
    reader.script("document.querySelector('#studies table a').focus()")
    append(record, [next(coming) for _ in range(2)])
    reader.wait(lambda: "22 of 60" in reader.text("#studies table"))
    # Whoever stands on a link stays on it.
    assert reader.script("return document.activeElement.textContent") == "live"

    reader.open("/study/live/progress")
    words, whole = reader.text("#progress-words"), reader.wait(lambda: reader.ranges("progress"))
    reader.drag((0.2, 0.2), (0.8, 0.8), "progress")
    reader.wait(lambda: reader.ranges("progress") != whole)
    zoomed = reader.ranges("progress")
    job = {"origin": "tpe", "policy": "prune>quantize 8 bit"}
    payload = {"phase": "search", "workers": 2, "running": [job], "eta_s": 30}
    record.write_driver(payload, force=True)
    reader.wait(lambda: "tpe: policy prune>quantize 8 bit" in reader.text("#work"))
    append(record, [next(coming) for _ in range(8)])
    reader.wait(lambda: reader.text("#status").startswith("running 30 of 60"))
    reader.wait(lambda: reader.text("#progress-words") != words)
    reader.wait(lambda: reader.ranges("progress"))
    assert reader.ranges("progress") == pytest.approx(zoomed)
    record.close(is_finished=True)
    reader.wait(lambda: reader.text("#status").startswith("finished 30 of 60"))
    reader.wait(lambda: "Nothing is running." in reader.text("#work"))
    assert reader.complaints() == []


def test_a_page_of_a_study_that_comes_breaks_and_goes(
    at_desk: Reader, running: Running, tmp_path: Path
) -> None:
    reader = at_desk.open("/study/later/front")
    reader.wait(lambda: "There is nothing here" in reader.text("#page"))
    location = write_study(tmp_path / "runs", "later", 12, finalists=0)
    reader.drawn()  # by itself
    reader.wait(lambda: "12 of 12 trials" in reader.text("#status"))
    assert reader.text("h1") == "later"

    whole = location.journal_path.read_bytes()
    with location.journal_path.open("ab") as journal:
        journal.write(b"nonsense\nnonsense\n")
    reader.wait(lambda: reader.script("return document.querySelector('#status .trouble')"))
    reader.wait(lambda: "later in " in reader.text("#status"))
    assert grown(reader)  # what was drawn stays
    location.journal_path.write_bytes(whole)
    reader.wait(lambda: "12 of 12 trials" in reader.text("#status"))

    shutil.rmtree(location.folder)
    reader.wait(lambda: "not in" in reader.text("#status"))
    reader.type_in("limit-kb-box", "50")  # a reader's steps find no study, and break nothing
    reader.becomes(reader.query, {"kb": "50"})
    reader.follow("Compression search")
    reader.wait(lambda: "1 of 1 studies" in reader.text("#studies"))
    assert reader.complaints() == []


def test_a_study_that_breaks_is_said_in_the_list(
    at_desk: Reader, running: Running, tmp_path: Path
) -> None:
    reader = at_desk.open("/")
    reader.wait(lambda: "1 of 1 studies" in reader.text("#studies"))
    location = write_study(tmp_path / "runs", "broken", 6, finalists=0)
    reader.wait(lambda: "2 of 2 studies" in reader.text("#studies"))
    (location.folder / "record.journal").write_text("{}\n{}\n", encoding="utf-8")
    reader.wait(lambda: "broken cannot be shown" in reader.text("#studies"))
    reader.wait(lambda: "1 of 1 studies" in reader.text("#studies"))
    reader.follow("live")
    reader.drawn()
    assert reader.complaints() == []
