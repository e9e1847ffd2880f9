"""Choosing what ships, as a reader does it: by mouse, by keyboard, by link."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboards.app.answer import own_limits
from dashboards.app.library import Library, Snapshot
from dashboards.app.view import View
from search.naming import trial_name
from spaces import Judge
from tests.dashboards.app.asking import open_app
from tests.dashboards.app.browsing import Reader, serve
from tests.dashboards.app.places import MAE, front_pick, write_study
from tests.dashboards.chromium import needs_chromium

pytestmark = [pytest.mark.browser, needs_chromium]

FRONT = "/study/one/front"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fronts")
    write_study(root, "one", 60)
    write_study(root, "two", 40, seed=4, finalists=0)
    write_study(root, "errors", 20, metric=MAE)
    return root


@pytest.fixture(scope="module")
def one(place: Path) -> Snapshot:
    return Library(str(place)).get("one")


@pytest.fixture(scope="module")
def url(place: Path) -> Iterator[str]:
    with serve(open_app(place)) as found:
        yield found


def expected(snapshot: Snapshot, query: str) -> str:
    """What `Front.of` ships under the limits of an address."""
    spec = snapshot.spec
    budget = View.parse(query).limits_on(own_limits(snapshot)).budget()
    judge = Judge(spec.metric, budget, snapshot.profile)
    fidelities = (spec.fidelity, spec.full_fidelity)
    return front_pick(snapshot.trials, snapshot.finalists, judge, fidelities)


def shipped(reader: Reader) -> str:
    """The recommendation's name; "" when there is none."""
    head = reader.text("#answer h2")
    return head.split()[-1] if head.startswith("Ship") else ""


def settled(reader: Reader, snapshot: Snapshot) -> str:
    """Wait until the words are those of the address; the name they give."""
    reader.wait(lambda: shipped(reader) == expected(snapshot, reader.where().partition("?")[2]))
    return shipped(reader)


def heat_map_of(reader: Reader, name: str) -> Callable[[], Any]:
    """Whether the panel's heat map is drawn."""
    cells = f"#policy-{name.replace('@', '-')} .heatmaplayer *"
    return lambda: reader.script("return document.querySelectorAll(arguments[0]).length", cells)


def test_from_the_list_to_a_point(at_desk: Reader, one: Snapshot) -> None:
    reader = at_desk.open("/")
    reader.follow("one")
    reader.drawn()
    assert reader.where() == FRONT
    assert reader.text("h1") == "one"
    # Whoever came by keyboard goes on in the new page.
    assert reader.script("return document.activeElement.id") == "page"

    alone = sorted(reader.points(), key=lambda point: -point["alone"])
    names = [point["name"] for point in alone if point["name"]]
    for name in (names[0], next(n for n in names if n != names[0])):
        reader.click_point(name)
        reader.becomes(lambda: reader.query().get("a"), name)
        kind = "Finalist" if name.endswith("@full") else "Trial"
        reader.becomes(reader.title, f"{kind} {name}")
        assert reader.value("point-a") == name
        reader.wait(heat_map_of(reader, name))
        assert f"search export --study one --storage {one.location.place} --pick {name}" in (
            reader.text("#point")
        )
    # A point lies where its trial was measured.
    for point in alone[:5]:
        if point["name"]:
            trials = one.finalists if point["name"].endswith("@full") else one.trials
            measured = trials[int(point["name"].removesuffix("@full"))].measurement
            assert measured is not None
            assert point["data"] == pytest.approx([measured.size_bytes, measured.metric])
    assert reader.complaints() == []


def test_points_by_keyboard(at_desk: Reader, one: Snapshot) -> None:
    reader = at_desk.open(FRONT)
    reader.type_in("point-a", "17")
    reader.becomes(reader.title, "Trial 17")
    assert reader.query() == {"a": "17"}
    steps = [f"{i}@full" for i in range(len(one.finalists))]
    order = sorted(steps, key=lambda name: one.finalists[int(name[0])].measurement.size_bytes)  # type: ignore[union-attr]
    reader.press("#point-next", "\n")
    reader.becomes(lambda: reader.query()["a"], order[0])
    reader.press("#point-next", "\n")
    reader.becomes(lambda: reader.query()["a"], order[1])
    reader.becomes(reader.title, f"Finalist {order[1]}")
    for _ in range(2):  # at the end it stays
        reader.press("#point-previous", "\n")
        reader.becomes(lambda: reader.query()["a"], order[0])
    reader.type_in("point-a", "4711")
    reader.wait(lambda: "There is no trial 4711" in reader.text("#point"))
    assert reader.complaints() == []


def test_what_changed_against_a_second_point(at_desk: Reader) -> None:
    reader = at_desk.open(f"{FRONT}?a=3")
    reader.type_in("point-b", "4")
    reader.wait(lambda: "What 3 does otherwise than 4" in reader.text("#point .changes"))
    assert reader.query() == {"a": "3", "b": "4"}
    reader.click("#point-swap")
    reader.wait(lambda: "What 4 does otherwise than 3" in reader.text("#point .changes"))
    # The mouse can choose B, too.
    reader.click("#clicks input")
    name = next(
        point["name"]
        for point in sorted(reader.points(), key=lambda point: -point["alone"])
        if point["name"] not in ("", "3", "4")
    )
    reader.click_point(name)
    reader.becomes(reader.query, {"a": "4", "b": name})
    reader.wait(lambda: f"What 4 does otherwise than {name}" in reader.text("#point .changes"))
    reader.click("#point-drop")
    reader.becomes(reader.query, {"a": "4"})
    reader.wait(lambda: not reader.script("return document.querySelector('#point .changes')"))
    assert reader.complaints() == []


def test_a_slider_picks_anew_and_says_why(at_desk: Reader, one: Snapshot) -> None:
    from selenium.webdriver.common.keys import Keys

    reader = at_desk.open(FRONT)
    first = settled(reader, one)
    assert first.endswith("@full")
    seen = {first}
    for _ in range(6):
        before = reader.where()
        reader.press("#limit-kb", Keys.ARROW_LEFT, 60)
        reader.wait(lambda before=before: reader.where() != before)  # type: ignore[misc]
        seen.add(settled(reader, one))
        box, kb = float(reader.value("limit-kb-box")), float(reader.query()["kb"])
        assert box == pytest.approx(kb, rel=1e-5)
        words = reader.text("#answer")
        assert "keep these limits" in words or "Nothing measured keeps these limits" in words
        if shipped(reader):
            assert "keep these limits" in words
            assert "standard error of it" in words
            assert "the file size alone shuts out" in words
    assert len(seen) > 2
    # The words under the plot and its shading follow.
    reader.wait(lambda: "0 trials on the front" in reader.text("#pareto-words")
                or f"budget {kb:.3g}"[:9] in reader.text("#pareto"))  # fmt: skip

    reader.click("#limits-reset")
    reader.becomes(reader.query, {})
    assert settled(reader, one) == first
    assert float(reader.value("limit-kb-box")) == 250
    assert reader.complaints() == []


def test_every_limit_by_slider_and_by_number(at_desk: Reader, one: Snapshot) -> None:
    from selenium.webdriver.common.keys import Keys

    reader = at_desk.open(FRONT)
    latencies = [t.measurement.latency.median_ms for t in one.trials if t.measurement]
    ms = float(f"{sorted(latencies)[len(latencies) // 2]:.3g}")
    asked = (("kb", "60", 60.0), ("ms", str(ms), ms), ("metric", "91.5", 0.915))
    for limit, number, in_url in asked:
        reader.type_in(f"limit-{limit}-box", number)
        reader.wait(lambda limit=limit: limit in reader.query())  # type: ignore[misc]
        assert float(reader.query()[limit]) == in_url
        settled(reader, one)
        reader.press(f"#limit-{limit}", Keys.ARROW_RIGHT, 3)
        reader.wait(lambda limit=limit, v=in_url: float(reader.query()[limit]) > v)  # type: ignore[misc]
        settled(reader, one)
    assert set(reader.query()) == {"kb", "ms", "metric"}
    # An end of a slider is "no limit", and so is an empty field.
    reader.press("#limit-kb", Keys.END)
    reader.becomes(lambda: reader.query()["kb"], "none")
    assert reader.value("limit-kb-box") == ""
    reader.type_in("limit-ms-box", "")
    reader.becomes(lambda: reader.query().get("ms"), None)  # the study's own is none
    assert reader.value("limit-ms") == "1000"
    settled(reader, one)
    assert reader.complaints() == []


def test_a_number_that_makes_no_sense_breaks_nothing(at_desk: Reader, one: Snapshot) -> None:
    reader = at_desk.open(f"{FRONT}?kb=60")
    kept = {"-5": "60", "0": "60", "e": "60", "1e300": "1000000000000", "1e-300": "1e-9"}
    for at, (nonsense, kb) in enumerate(kept.items()):
        reader.type_in("limit-kb-box", nonsense)
        # Whatever became of it, the page goes on: another limit has its effect.
        reader.type_in("limit-metric-box", str(90 + at))
        reader.becomes(reader.query, {"kb": kb, "metric": f"0.{90 + at}".rstrip("0")})
        assert float(reader.value("limit-kb-box")) == float(kb)
        settled(reader, one)
    assert reader.complaints() == []


def test_two_studies_in_one_plot(at_desk: Reader) -> None:
    reader = at_desk.open(FRONT)
    assert "two" not in reader.legend()
    reader.choose("beside", "two")
    reader.becomes(reader.query, {"beside": "two"})
    reader.wait(lambda: "front of two" in reader.legend())
    assert "front of one" in reader.legend()
    # The other's points are not this study's: a click on one of them chooses nothing here.
    assert any(point["name"] == "" for point in reader.points())

    reader.choose("beside", "errors")
    reader.wait(lambda: "errors is not drawn" in reader.text("#beside-trouble"))
    assert "judged by mae" in reader.text("#beside-trouble")
    reader.wait(lambda: "two" not in reader.legend())
    reader.open(f"{FRONT}?beside=errors")
    assert "errors is not drawn" in reader.text("#beside-trouble")
    reader.choose("beside", "no other study")
    reader.becomes(lambda: reader.text("#beside-trouble"), "")
    assert reader.complaints() == []


def test_the_link_saves_what_was_measured(at_desk: Reader, one: Snapshot, tmp_path: Path) -> None:
    reader = at_desk.open(f"{FRONT}?a=0%40full")
    saved = reader.save_into(tmp_path)
    trial = one.finalists[0]
    assert trial.measurement is not None
    reader.follow("Download the file", "#point")
    digest = hashlib.sha256(saved(".packed").read_bytes()).hexdigest()
    reader.follow("manifest", "#point")
    manifest = json.loads(saved("0-full.json").read_text(encoding="utf-8"))
    assert digest == manifest["sha256"] == trial.measurement.sha256
    assert manifest["trial"] == trial_name(trial, one.spec.full_fidelity, one.spec.fidelity)
    reader.follow("policy as JSON", "#point")
    assert json.loads(saved("policy.json").read_text(encoding="utf-8")) == trial.policy.to_dict()
    assert reader.where() == f"{FRONT}?a=0%40full"  # the page stayed
    assert reader.complaints() == []


def test_pictures_and_tables_are_saved(at_desk: Reader, one: Snapshot, tmp_path: Path) -> None:
    reader = at_desk.open(FRONT)
    saved = reader.save_into(tmp_path)
    for button in reader.driver.find_elements("css selector", "[data-name=pareto] [data-save]"):
        button.click()
    assert saved("pareto.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert b"<svg" in saved("pareto.svg").read_bytes()[:200]
    lines = saved("pareto.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("trial,")
    names = {line.split(",")[0] for line in lines[1:]}
    members = {str(member.number) for member in one.front.members}
    assert names == members | {
        f"{one.final_candidates.trials[i].number}@full"
        for i in one.final_candidates.choose(one.spec.budget).front
    }
    # The open table is the same as what was saved.
    reader.click("#front-table-open")
    assert reader.script("return document.querySelector('#front-table table').rows.length") == (
        len(lines)
    )
    assert reader.complaints() == []


def state(reader: Reader) -> dict[str, Any]:
    """Everything that a link must bring back."""
    controls = """return Object.fromEntries(Array.from(
        document.querySelectorAll('#page input:not([type=radio]):not([type=checkbox])'),
        (input) => [input.id, input.value]))"""
    chosen = """return Array.from(document.querySelectorAll('#page input:checked'),
        (input) => input.closest('label').textContent)"""
    return {
        "address": reader.where(),
        "controls": reader.script(controls),
        "chosen": reader.script(chosen),
        "answer": reader.text("#answer"),
        "point": reader.text("#point"),
        "legend": reader.legend(),
        "words": reader.text("#pareto-words"),
        "beside": reader.text("#beside"),
    }


def test_a_link_brings_everything_back(at_desk: Reader, one: Snapshot) -> None:
    reader = at_desk.open(FRONT)
    reader.type_in("limit-kb-box", "123.456")
    reader.wait(lambda: "kb" in reader.query())
    reader.type_in("limit-metric-box", "93.21")
    reader.wait(lambda: "metric" in reader.query())
    reader.click("#x label:nth-of-type(2) input")
    reader.wait(lambda: "x" in reader.query())
    reader.type_in("point-a", "12")
    reader.wait(lambda: "a" in reader.query())
    reader.type_in("point-b", "1@full")
    reader.wait(lambda: "b" in reader.query())
    reader.choose("beside", "two")
    reader.wait(lambda: "front of two" in reader.legend())
    settled(reader, one)
    reader.wait(lambda: "What 12 does otherwise" in reader.text("#point"))
    assert reader.query() == {
        "kb": "123.456", "metric": "0.9321", "x": "latency_ms", "a": "12", "b": "1@full",
        "beside": "two",
    }  # fmt: skip
    before = state(reader)
    reader.driver.refresh()
    reader.drawn()
    reader.wait(lambda: "front of two" in reader.legend())
    assert state(reader) | {"address": ""} == before | {"address": ""}
    assert sorted(reader.query().items()) == sorted(
        {"kb": "123.456", "metric": "0.9321", "x": "latency_ms", "a": "12", "b": "1@full",
         "beside": "two"}.items()
    )  # fmt: skip
    assert reader.complaints() == []


def test_tabs_links_and_the_back_button(at_desk: Reader, one: Snapshot) -> None:
    reader = at_desk.open(f"{FRONT}?a=3")
    reader.type_in("limit-kb-box", "80")
    reader.becomes(reader.query, {"a": "3", "kb": "80"})
    reader.click("#tab-trials")
    reader.wait(lambda: reader.script("return document.querySelector('#trials table')"))
    assert reader.where().startswith("/study/one/trials?")
    assert reader.query() == {"a": "3", "kb": "80"}
    name = reader.text("#trials tbody tr:nth-child(2) th")
    reader.follow(name, "#trials")  # a row leads to its point
    reader.drawn()
    reader.becomes(lambda: reader.title().split(" ")[-1], name)
    assert reader.query() == {"a": name, "kb": "80"}
    reader.driver.back()
    reader.wait(lambda: reader.script("return document.querySelector('#trials table')"))
    assert reader.query() == {"a": "3", "kb": "80"}
    reader.driver.back()
    reader.becomes(reader.title, "Trial 3")
    assert float(reader.value("limit-kb-box")) == 80

    # The recommendation is a link: it works again after another point was chosen.
    pick = settled(reader, one)
    for _ in range(2):
        reader.follow(reader.text("#answer h2 a"), "#answer")
        reader.becomes(lambda: reader.title().split(" ")[-1], pick)
        reader.becomes(reader.query, {"a": pick, "kb": "80"})
        reader.type_in("point-a", "9")
        reader.becomes(reader.title, "Trial 9")
    reader.driver.back()
    reader.becomes(lambda: reader.title().split(" ")[-1], "9")
    reader.follow("Compression search")
    reader.wait(lambda: reader.script("return document.querySelector('#studies table')"))
    assert reader.where() == "/"
    assert reader.complaints() == []


def test_what_the_page_wrote_into_the_address_is_no_step_of_its_reader(at_desk: Reader) -> None:
    """Or it would be opened again, with what the reader has done since undone."""
    reader = at_desk.open("/")
    ours = """
        const { write, where } = window.dash_clientside.dashboard;
        const no = window.dash_clientside.no_update;
        write(arguments[0]);
        return [
            where('/', arguments[0], arguments[1], {pathname: '/'}) === no,  // the reader is ahead
            where('/', arguments[1], arguments[0], {pathname: '/'}) === no,  // it comes late
            where('/study/one/front', '', arguments[0], {pathname: '/'}) === no,
        ]
    """
    assert reader.script(ours, "?text=o", "?text=on") == [True, True, False]


def test_progress_and_insight_follow_their_controls(at_desk: Reader) -> None:
    reader = at_desk.open("/study/one/progress")
    reader.wait(lambda: "over trials" in reader.text("#progress-words"))
    reader.click("#over label:nth-of-type(2) input")
    reader.becomes(reader.query, {"over": "seconds"})
    reader.wait(lambda: "seconds of evaluation" in reader.text("#progress-words"))
    reader.driver.refresh()
    reader.wait(lambda: "seconds of evaluation" in reader.text("#progress-words"))

    reader.click("#tab-insight")
    reader.wait(lambda: reader.script("return document.querySelector('#parallel .trace')"))
    lines = reader.text("#parallel-words")
    reader.script("""
        const plot = document.querySelector('#parallel .js-plotly-plot');
        const pane = plot.querySelector('.nsewdrag').getBoundingClientRect();
        plot.scrollIntoView({block: 'center'});""")
    from selenium.webdriver.common.action_chains import ActionChains

    pane = reader.find("#parallel .nsewdrag")
    axes = reader.script("""const layout = document.querySelector(
        '#parallel .js-plotly-plot')._fullLayout;
        return [layout.xaxis._offset + layout.xaxis.l2p(0), layout.xaxis._offset, layout.width]""")
    left = axes[0] - axes[1] - pane.size["width"] / 2
    chain = ActionChains(reader.driver, duration=50)
    chain.move_to_element_with_offset(pane, round(left - 12), -round(pane.size["height"] * 0.45))
    chain.click_and_hold()
    chain.move_to_element_with_offset(pane, round(left + 12), 0).release().perform()
    reader.wait(lambda: reader.text("#parallel-words") != lines)
    reader.click("#brushes-clear")
    reader.becomes(lambda: reader.text("#parallel-words"), lines)
    assert reader.complaints() == []


def test_searching_the_list_and_the_trials(at_desk: Reader) -> None:
    reader = at_desk.open("/")
    reader.find("#studies-text").send_keys("mae")
    reader.becomes(lambda: reader.text("#studies caption"), "1 of 3 studies")
    assert reader.query() == {"text": "mae"}
    reader.open("/study/one/trials")
    reader.choose("trials-sort", "smallest")
    reader.becomes(reader.query, {"sort": "smallest"})
    reader.click("#page-next")
    reader.wait(lambda: "page 2 of 2" in reader.text("#trials caption"))
    reader.find("#trials-text").send_keys("failed")
    reader.wait(lambda: "page 1 of 1" in reader.text("#trials caption"))
    assert reader.query() == {"sort": "smallest", "text": "failed"}
    assert reader.complaints() == []
