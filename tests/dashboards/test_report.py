import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dashboards.markup import script_json, theme_changes
from dashboards.report import ReportInput, render_report, write_report
from spaces import Front
from tests.dashboards.studies import EVIL, IMPOSSIBLE, hostile_study, study


class Page(HTMLParser):
    """Tags with their attributes, and the texts of scripts, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def given() -> ReportInput:
    return study(100)


@pytest.fixture(scope="module")
def page(given: ReportInput) -> Page:
    return Page(render_report(given))


def figures_of(page: Page) -> dict[str, object]:
    return json.loads(page.scripts[0])


def test_the_answer_comes_first(page: Page) -> None:
    sections = [tag.get("id") for tag in page.of("section")]
    assert sections[0] == "answer"
    assert sections[1:4] == ["front", "finalists", "next-bytes"]
    words = " ".join(page.words)
    assert "smaller than its fp32 weights" in words
    assert "test accuracy" in words
    assert "97.12 %" in words
    assert "latency, modelled" in words
    assert re.search(r"finalist \d+@full", words)


def test_all_figures_are_there_with_words_and_tables(page: Page) -> None:
    names = ["pareto", "price", "orders", "progress", "policy", "ledger", "audit"]
    assert list(figures_of(page)) == names
    plots = [tag for tag in page.of("div") if tag.get("class") == "plot"]
    assert [plot["id"] for plot in plots] == names
    assert all(len(plot["aria-label"] or "") > 40 for plot in plots)
    assert len(page.of("figcaption")) == len(names)
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(heading.get("scope") in ("col", "row") for heading in page.of("th"))


def test_every_id_is_there_once(page: Page) -> None:
    """A plot with its section's id would be drawn over the section's heading and table."""
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 20


def test_nothing_loads_from_anywhere(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "data", "action", "poster", "background"):
            assert name not in attributes, (tag, attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    style = re.search("<style>(.*?)</style>", render_report(study(12)), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_only_the_pages_own_scripts_may_run(page: Page) -> None:
    policies = [t for t in page.of("meta") if t.get("http-equiv") == "Content-Security-Policy"]
    policy = policies[0]["content"] or ""
    assert "default-src 'none'" in policy
    code = page.scripts[1:]
    assert len(code) == 2
    for script in code:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_hostile_texts_stay_texts() -> None:
    page = Page(render_report(hostile_study()))
    # The same elements as a harmless study has: nothing got out of its place.
    assert len(page.of("script")) == 3
    assert page.of("img") == []
    assert not any("onerror" in attributes for _, attributes in page.tags)
    shown = EVIL.replace("\u202e", "\ufffd")
    assert any(shown in words for words in page.words)
    assert list(figures_of(page)) == [
        "pareto",
        "price",
        "orders",
        "progress",
        "policy",
        "ledger",
        "audit",
    ]


def test_the_picks_accuracy_is_also_shown_corrected_for_having_been_chosen() -> None:
    given = study(60)
    pick = Front.of(given.finalists, given.judge, given.spec.full_fidelity).pick
    assert pick is not None
    assert pick.measurement is not None
    fair = given.spec.metric.format(pick.measurement.metric - 0.0007)
    assert f"{fair} corrected for choice" in " ".join(Page(render_report(given)).words)
    without = replace(given, optimism={})
    assert "corrected for choice" not in render_report(without)


def test_an_unmet_budget_gives_the_certificate() -> None:
    page = Page(render_report(study(60, budget=IMPOSSIBLE)))
    words = " ".join(page.words)
    assert "Nothing met the budget" in words
    assert "It misses: " in words
    assert "What the next bytes buy" in words
    assert "closest, trial" in json.dumps(figures_of(page)["policy"])


@pytest.mark.parametrize("count", [3, 4, 8])
def test_small_studies_render(count: int) -> None:
    assert "The front" in render_report(study(count, finalists=0))


def test_a_study_without_a_finished_trial_renders(given: ReportInput) -> None:
    empty = ReportInput(given.spec, given.profile, given.judge, trials=[])
    words = " ".join(Page(render_report(empty)).words)
    assert "No trial has finished, so nothing is known yet." in words
    failed = [trial for trial in given.trials if trial.measurement is None]
    only = ReportInput(given.spec, given.profile, given.judge, trials=failed)
    assert "cluster: loss became NaN" in " ".join(Page(render_report(only)).words)


def test_same_study_same_bytes(given: ReportInput, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    size = write_report(path, given)
    assert path.stat().st_size == size
    assert path.read_text(encoding="utf-8") == render_report(given)
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_stays_small_and_the_csv_has_every_trial() -> None:
    given = study(600)
    page = Page(render_report(given))
    assert len(page.of("tr")) < 600
    links = [tag for tag in page.of("a") if tag.get("download")]
    assert [link["download"] for link in links] == ["sim-study-trials.csv"]
    csv = base64.b64decode((links[0]["href"] or "").partition(",")[2]).decode()
    assert csv.count("\n") == 1 + 600 + len(given.finalists)


def test_json_cannot_end_its_script() -> None:
    text = script_json({"a": "</script><!--&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028"}


def test_theme_changes_are_the_paths_that_differ() -> None:
    light = {"a": [1, {"b": 2}], "c": 3, "d": [1]}
    dark = {"a": [1, {"b": 5}], "c": 3, "d": [1, 2]}
    assert theme_changes(light, dark) == [[["a", 1, "b"], 5], [["d"], [1, 2]]]
    assert theme_changes(light, light) == []
