"""Every page of every kind of record: one that is whole, broken, hostile, growing or gone."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dash import Dash

from dashboards.app import library
from dashboards.app.view import PAGES
from dashboards.tables import FAILED, FRONT, MISSES_LIMIT
from search.location import StudyLocation
from search.record import RecordReader
from tests.dashboards.app.asking import Answered, ask, open_app, show, texts
from tests.dashboards.app.places import (
    MAE,
    abandon,
    append,
    drive,
    spoil,
    write_hostile,
    write_study,
)
from tests.dashboards.studies import EVIL, IMPOSSIBLE

EVERYTHING = ("/", *(f"/study/one/{page}" for page in PAGES))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request reads the record."""
    monkeypatch.setattr(library, "LEAST_S", 0.0)
    monkeypatch.setattr(library, "BUSY_SHARE", 1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pages")
    write_study(root, "one", 40)
    write_study(root, "two", 20, seed=4, finalists=0, is_finished=False)
    write_study(root, "errors", 20, metric=MAE)
    return root


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    shutil.copytree(whole, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def app(whole: Path) -> Dash:
    return open_app(whole)


def page(answer: Answered) -> str:
    assert answer.status == 200
    return texts(answer["page.children"])


def status(answer: Answered) -> str:
    return texts(answer["status.children"]).replace("\n", "")


class TestWhole:
    def test_the_list_says_how_each_stands(self, app: Dash, whole: Path) -> None:
        words = page(show(app, "/"))
        assert f"in {whole}" in words
        lines = words.split("\n")
        assert [word for word in lines if word in ("one", "two", "errors")]
        assert "40 of 40" in lines
        assert {"finished", "resumable", "simulated", "m1"} <= set(lines)
        assert "file at most 250,000 bytes" in words
        assert "3 of 3 studies" in lines

    def test_searching_and_sorting_the_list(self, app: Dash) -> None:
        def names(search: str) -> list[str]:
            answer = ask(app, "studies.children", view_data=search, tick_n_intervals=1)
            rows = texts(answer["studies.children"]).split("\n")
            return [row for row in rows if row in ("one", "two", "errors")]

        assert names("?sort=name") == ["errors", "one", "two"]
        assert names("?sort=trials")[0] == "one"
        assert names("?sort=nonsense") == names("")
        assert names("?text=resumable") == ["two"]
        assert names("?text=FINISHED+m1&sort=name") == ["errors", "one"]
        assert names("?text=nobody") == []

    @pytest.mark.parametrize("path", EVERYTHING)
    @pytest.mark.parametrize("theme", ["light", "dark", "purple"])
    def test_every_page_is_there_in_every_theme(self, app: Dash, path: str, theme: str) -> None:
        assert len(page(show(app, path, theme=theme))) > 100

    def test_the_head_and_the_tabs(self, app: Dash) -> None:
        answer = show(app, "/study/one/trials", "?kb=100&a=3")
        head = texts(answer["head.children"])
        assert head.startswith("one\nsimulated on m1")
        assert "40 of 40 trials · 3 finalists" in status(answer)
        hrefs = [link["props"]["href"] for link in answer["tabs.children"]["props"]["children"]]
        assert hrefs == [f"/study/one/{name}?kb=100&a=3" for name in PAGES]
        assert "search resume two" in status(show(app, "/study/two/front"))

    @pytest.mark.parametrize(
        "search",
        [
            "?kb=1e308&ms=-1&metric=nan&x=up&shape=9d&over=&page=-7&sort=drop",
            "?kb=none&ms=none&metric=none&download_kb=none",
            "?kb=1e-9&ms=1e-9&metric=1e12",
            "?a=999999&b=999999999999999999999",
            "?a=%00&b=%ff%fe&beside=../../etc/passwd",
            "?beside=nobody", "?beside=errors", "?beside=one", "?page=999999", "?a=5&b=16",
            "?a=5&b=3", "?a=3&b=5", "?a=0@full&b=0", "?shape=3d&beside=two&a=3&b=4",
            "?x=latency_ms&a=3", "?x=download_bytes", "?text=" + "x" * 5000, "?" + "&" * 3000,
            "?metric=0.999999", "?\ud800",
        ],
    )  # fmt: skip
    def test_any_query_gives_a_page(self, app: Dash, search: str) -> None:
        for path in ("/", "/study/one/front", "/study/one/trials"):  # the others look at less
            answer = show(app, path, search)
            assert "There is nothing here" not in page(answer)
            assert len(page(answer)) > 100

    def test_an_unknown_trial_is_said_to_be_none(self, app: Dash) -> None:
        words = page(show(app, "/study/one/front", "?a=4711&b=12"))
        assert "There is no trial 4711 in one (yet)." in words
        assert "There is no trial 99 to compare it with." in page(
            show(app, "/study/one/front", "?a=3&b=99")
        )

    def test_a_failed_trial_says_why(self, app: Dash) -> None:
        assert "It failed: " in page(show(app, "/study/one/front", "?a=5"))
        assert "loss became NaN" in page(show(app, "/study/one/front", "?a=5"))

    def test_a_study_judged_otherwise_is_not_drawn_but_said(self, app: Dash) -> None:
        words = page(show(app, "/study/one/front", "?beside=errors"))
        assert "errors is not drawn: " in words
        assert "judged by mae" in words
        assert "Ship" in words  # everything else is there
        assert "nobody is not drawn: " in page(show(app, "/study/one/front", "?beside=nobody"))
        moved = ask(
            app,
            "pareto.figure",
            view_data="?beside=errors",
            where_data={"pathname": "/study/one/front"},
        )
        assert "judged by mae" in moved["beside-trouble.children"]
        assert moved["pareto.figure"]["data"]

    def test_a_study_beside_is_in_the_legend(self, app: Dash) -> None:
        def legend(search: str) -> set[str]:
            where = {"pathname": "/study/one/front"}
            drawn = ask(app, "pareto.figure", view_data=search, where_data=where)
            assert drawn["beside-trouble.children"] == ""
            return {trace.get("name", "") for trace in drawn["pareto.figure"]["data"]}

        assert not any("two" in name for name in legend(""))
        assert any("front of two" in name for name in legend("?beside=two"))

    def test_in_three_dimensions_the_words_are_others(self, app: Dash) -> None:
        where = {"pathname": "/study/one/front"}
        drawn = ask(app, "pareto.figure", view_data="?shape=3d&a=3&beside=two", where_data=where)
        assert "in three dimensions" in drawn["pareto-words.children"]
        assert "shows one study: two is in the 2-D view" in drawn["beside-trouble.children"]
        rings = [trace for trace in drawn["pareto.figure"]["data"] if trace["name"] == "selected"]
        assert [ring["text"] for ring in rings] == [["<b>A</b>"]]

    def test_a_zoom_of_another_axis_is_forgotten_and_a_far_one_survived(self, app: Dash) -> None:
        where = {"pathname": "/study/one/front"}
        for zoom in (
            {"x": "", "range": [4.0, 5.0, 0.9, 0.95]},
            {"x": "latency_ms", "range": [4.0, 5.0, 0.9, 0.95]},
            {"x": "", "range": [-5000.0, 5000.0, -1e9, 1e9]},
        ):
            drawn = ask(app, "pareto.figure", view_data="", zoom_data=zoom, where_data=where)
            assert drawn.status == 200
            assert drawn["pareto.figure"]["layout"]["uirevision"] == "size_bytes 2d"

    def test_the_table_of_trials_filters_sorts_and_pages(self, app: Dash) -> None:
        def rows(search: str) -> list[dict[str, str]]:
            answer = ask(
                app,
                "trials.children",
                view_data=search,
                where_data={"pathname": "/study/one/trials"},
            )
            return _rows_of(answer["trials.children"])

        everything = rows("")
        assert len(everything) == 43  # 40 trials and 3 finalists
        assert {row["status"] for row in rows("?text=failed")} == {FAILED}
        assert len(rows("?text=failed")) == 4
        assert {row["status"] for row in rows("?kb=20&text=misses+a+limit")} == {MISSES_LIMIT}
        assert all(row["trial"].endswith("@full") for row in rows("?text=@full"))
        numbers = [int(row["trial"].removesuffix("@full")) for row in rows("?sort=number")]
        assert numbers == sorted(numbers)
        assert FRONT in {row["status"] for row in everything}
        assert rows("?page=99") == everything  # the last page

    def test_nothing_met_the_budget(self, tmp_path: Path) -> None:
        write_study(tmp_path, "one", 30, budget=IMPOSSIBLE, finalists=0)
        words = page(show(open_app(tmp_path), "/study/one/insight"))
        assert "Nothing met the budget" in words
        assert "The closest is trial " in words


def _rows_of(node: Any) -> list[dict[str, str]]:
    """A table's rows: heading -> text."""
    content = json.loads(node["props"]["data-table"])
    return [dict(zip(content["head"], row, strict=True)) for row in content["rows"]]


class TestNowhere:
    @pytest.mark.parametrize(
        "path", ["/foo", "/study", "/study/one/nothing", "/study/one/front/x", "/study/../front"]
    )
    def test_an_unknown_page_says_where_to_go(self, app: Dash, path: str) -> None:
        words = page(show(app, path))
        assert "There is nothing here" in words
        assert "All studies" in words

    @pytest.mark.parametrize("name", ["nobody", "..", "%2e%2e%2fone", "a%00b", "x" * 200, "<b>"])
    def test_an_unknown_study_says_so(self, app: Dash, name: str) -> None:
        answer = show(app, f"/study/{name}/front")
        assert "There is nothing here" in page(answer)
        assert "All studies" in page(answer)
        assert answer["version.data"] == ""

    def test_http_answers_are_pages_too(self, app: Dash) -> None:
        asking = app.server.test_client()
        for path in ("/", "/study/nobody/front", "/foo/bar"):
            answer = asking.get(path, headers={"Host": "127.0.0.1"})
            assert answer.status_code in (200, 404)
            assert "Traceback" not in answer.text

    def test_a_study_that_is_not_offered(self, whole: Path) -> None:
        app = open_app(whole, "one")
        listed = page(show(app, "/"))
        assert "two" not in listed.split("\n")
        assert "1 of 1 studies" in listed
        for name in PAGES:
            words = page(show(app, f"/study/two/{name}"))
            assert "not among those this dashboard shows: one" in words
        beside = page(show(app, "/study/one/front", "?beside=two"))
        assert "two is not drawn: study two is not among those" in beside
        where = {"pathname": "/study/one/front"}
        drawn = ask(app, "pareto.figure", view_data="?beside=two", where_data=where)
        assert not any(
            "two" in (trace.get("name") or "") for trace in drawn["pareto.figure"]["data"]
        )
        where = {"pathname": "/study/two/front"}
        for output in ("pareto.figure", "answer.children", "trials.children", "insight.children"):
            refused = ask(app, output, view_data="", version_data="x", where_data=where)
            assert refused.status in (200, 204)
            assert refused == {}


class TestBroken:
    """Each says what is the matter and how to go on, and hides no other study."""

    def check(self, place: Path, *words: str) -> Answered:
        app = open_app(place)
        for name in PAGES:
            answer = show(app, f"/study/one/{name}")
            for word in words:
                assert word in page(answer)
            assert "Nothing was changed." in page(answer)
            assert "All studies" in page(answer)
            assert "Traceback" not in json.dumps(answer)
        listed = page(show(app, "/"))
        assert "two" in listed.split("\n")
        assert "one cannot be shown" in listed
        assert words[0] in listed
        assert "20 of 20 trials" in status(show(app, "/study/two/front"))
        return answer

    def journal(self, place: Path) -> Path:
        return StudyLocation(str(place), "one").journal_path

    def test_a_corrupt_journal(self, place: Path) -> None:
        lines = self.journal(place).read_text(encoding="utf-8").splitlines(keepends=True)
        lines[len(lines) // 2] = lines[len(lines) // 2][:40] + "\n"
        self.journal(place).write_text("".join(lines), encoding="utf-8")
        self.check(place, "is damaged and cannot be parsed", "record.journal")

    def test_bytes_that_are_no_text(self, place: Path) -> None:
        self.journal(place).write_bytes(b"\x00\xff\xfe" * 400 + b"\n")
        self.check(place, "is damaged")

    def test_another_format(self, place: Path) -> None:
        spoil(StudyLocation(str(place), "one"), '"format_version":1', '"format_version":7')
        self.check(place, "its record has format 7", "open it with the version that wrote it")

    def test_an_empty_journal(self, place: Path) -> None:
        self.journal(place).write_bytes(b"")
        self.check(place, "--study one: not in")

    def test_a_record_whose_making_was_cut_short(self, place: Path) -> None:
        lines = self.journal(place).read_text(encoding="utf-8").splitlines(keepends=True)
        self.journal(place).write_text("".join(lines[:5]), encoding="utf-8")
        self.check(place, "--study one: not in")

    def test_contents_that_nobody_understands(self, place: Path) -> None:
        spoil(StudyLocation(str(place), "one"), '"baseline_metric"', '"baseline_mark"')
        self.check(place, "cannot be understood", "put back a copy of its folder")

    def test_a_trial_of_somebody_elses(self, place: Path) -> None:
        spoil(StudyLocation(str(place), "one"), '"trial":{', '"essay":{')
        self.check(place, "was not written by this product")

    def test_a_journal_that_may_not_be_read(self, place: Path) -> None:
        path = self.journal(place)
        path.unlink()
        path.symlink_to(path)  # even for root: a loop of links
        app = open_app(place)
        assert "one" in page(show(app, "/study/one/front"))
        assert "two" in page(show(app, "/")).split("\n")

    def test_a_torn_last_line_is_no_damage(self, place: Path) -> None:
        with self.journal(place).open("ab") as file:
            file.write(b'{"op_code":4,"worker_id":"x"')
        app = open_app(place)
        assert "40 of 40 trials" in status(show(app, "/study/one/front"))

    def test_a_journal_that_breaks_while_it_is_read(self, place: Path) -> None:
        app = open_app(place)
        before = show(app, "/study/one/front")
        with self.journal(place).open("ab") as file:
            file.write(b"nonsense\n" * 3)
        where = {"pathname": "/study/one/front", "search": "", "theme": "light"}
        later = ask(
            app,
            "version.data",
            tick_n_intervals=1,
            where_data=where,
            version_data=before["version.data"],
        )
        assert later.status == 200
        assert "version.data" not in later  # the page stays as it was
        assert "one" in texts(later["status.children"])
        assert later["status.children"]["props"]["className"] == "trouble"
        assert "20 of 20" in status(show(app, "/study/two/front"))

    def test_an_empty_storage_and_none_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for storage in (tmp_path / "empty", tmp_path / "none"):
            words = page(show(open_app(storage), "/"))
            assert "No study yet" in words
            assert "`search run` makes one" in words
            assert "There is nothing here" in page(show(open_app(storage), "/study/one/front"))

    @pytest.mark.parametrize(
        "url", ["sqlite:////nowhere/at/all.db", "nosuchdb://host/x", "sqlite://", "postgresql://u:secret@127.0.0.1:1/x"]
    )  # fmt: skip
    def test_a_database_that_cannot_be_opened(self, url: str, tmp_path: Path) -> None:
        for path in ("/", "/study/one/front"):
            answer = show(open_app(url), path)
            assert answer.status == 200
            assert len(page(answer)) > 20
            assert "secret" not in json.dumps(answer)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").write_bytes(b"no database" * 100)
        words = page(show(open_app(f"sqlite:///{tmp_path}/x.db"), "/"))
        assert "The storage cannot be read" in words
        assert "not a database" in words

    def test_a_study_without_a_trial(self, tmp_path: Path) -> None:
        write_study(tmp_path, "one", 0, finalists=0, is_finished=False)
        app = open_app(tmp_path)
        for path in EVERYTHING:
            assert len(page(show(app, path))) > 50
        for search in ("?a=0&b=1", "?shape=3d", "?kb=5", "?x=latency_ms"):
            assert "No trial has finished yet" in page(show(app, "/study/one/front", search))

    def test_a_study_whose_trials_all_failed(self, tmp_path: Path) -> None:
        record, coming = drive(tmp_path, "one", count=0, asked=5)
        with record:
            trial = next(trial for trial in coming if trial.measurement is None)
            record.append(trial)
            app = open_app(tmp_path)
            for path in EVERYTHING:
                assert len(page(show(app, path))) > 50
            assert "1 failed" in status(show(app, "/study/one/front"))


LIVE = {"pathname": "/study/live/front", "search": "", "theme": "light"}


class TestLive:
    @pytest.fixture
    def growing(self, tmp_path: Path) -> Iterator[tuple[Any, Any, Dash]]:
        record, coming = drive(tmp_path, "live", count=10, asked=20)
        with record:
            yield record, coming, open_app(tmp_path)

    def tick(self, app: Dash, version: str) -> Answered:
        return ask(app, "version.data", tick_n_intervals=1, where_data=LIVE, version_data=version)

    def test_a_record_held_by_its_driver_is_read(self, growing: tuple[Any, Any, Dash]) -> None:
        _, _, app = growing
        answer = show(app, "/study/live/front")
        assert status(answer).startswith("running 10 of 20 trials")
        assert "0 of 2 workers busy" in status(answer)
        assert "left" in status(answer)

    def test_a_new_trial_changes_version_and_status(self, growing: tuple[Any, Any, Dash]) -> None:
        record, coming, app = growing
        version = show(app, "/study/live/front")["version.data"]
        assert "version.data" not in self.tick(app, version)
        append(record, [next(coming)])
        later = self.tick(app, version)
        assert later["version.data"] != version
        assert "11 of 20 trials" in texts(later["status.children"])
        assert "where.data" not in later

    def test_a_trial_somebody_waits_for_is_drawn_when_it_comes(
        self, growing: tuple[Any, Any, Dash]
    ) -> None:
        record, coming, app = growing

        def point(awaited: bool) -> Answered:
            return ask(
                app,
                "point.children",
                changed="version.data",
                version_data="x",
                points_data=["10", ""],
                awaited_data=awaited,
                where_data=LIVE,
            )

        assert "There is no trial 10 in live (yet)." in texts(point(True)["point.children"])
        assert point(True)["awaited.data"] is True
        assert "point.children" not in point(False)  # what is there is not drawn again
        append(record, [next(coming)])
        assert "Trial 10" in texts(point(True)["point.children"])
        assert point(True)["awaited.data"] is False

    def test_a_study_that_comes_or_is_mended_is_opened_by_itself(self, tmp_path: Path) -> None:
        app = open_app(tmp_path)
        missing = show(app, "/study/live/front")
        assert "There is nothing here" in page(missing)
        assert self.tick(app, missing["version.data"]) == {}
        record, _ = drive(tmp_path, "live", count=3, asked=20)
        with record:
            again = self.tick(app, missing["version.data"])["where.data"]
            assert again["pathname"] == "/study/live/front"
            assert again != LIVE  # or nothing would happen
            assert status(show(app, "/study/live/front")).startswith("running 3 of 20")

    def test_a_deleted_study_is_said_to_be_gone(self, tmp_path: Path) -> None:
        write_study(tmp_path, "live", 5, finalists=0)
        app = open_app(tmp_path)
        version = show(app, "/study/live/front")["version.data"]
        shutil.rmtree(tmp_path / "live")
        later = self.tick(app, version)
        assert "--study live: not in" in texts(later["status.children"])
        assert "version.data" not in later
        for output in ("pareto.figure", "answer.children", "point.children"):
            kept = ask(app, output, view_data="", points_data=["1", ""], where_data=LIVE)
            assert kept == {}  # nothing that is drawn is taken away

    def test_a_driver_that_died_is_not_running(self, tmp_path: Path) -> None:
        record, _ = drive(tmp_path, "live", count=3, asked=20)
        beat = json.dumps(record.driver_state().payload["beat"])
        abandon(record)
        spoil(record.location, f'"beat":{beat}', f'"beat":{time.time() - 60}')
        words = status(show(open_app(tmp_path), "/study/live/front"))
        assert words.startswith("resumable 3 of 20 trials")
        assert f"search resume live --storage {tmp_path}" in words

    def test_reading_writes_nothing(self, whole: Path) -> None:
        def state() -> dict[str, tuple[int, int]]:
            files = [path for path in whole.rglob("*") if path.is_file()]
            return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}

        before = state()
        app = open_app(whole)
        for path in EVERYTHING:
            show(app, path, "?a=3&b=4&beside=two")
        assert state() == before
        RecordReader.open(StudyLocation(str(whole), "one"))


HOSTILE_PATHS = (
    "/",
    *(f"/study/hostile/{page}?a=5&b=3" for page in PAGES),
    "/study/hostile/front?a=4",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Dash:
    root = tmp_path_factory.mktemp("hostile")
    write_hostile(root)
    write_study(root, "one", 10, finalists=0)
    return open_app(root)


class TestHostile:
    @pytest.mark.parametrize("path", HOSTILE_PATHS)
    def test_its_words_are_text_and_its_links_stay_here(self, hostile: Dash, path: str) -> None:
        where, _, search = path.partition("?")
        answer = show(hostile, where, search)
        assert "onerror" in page(answer)  # it is shown
        for part in ("head", "status", "tabs", "page"):
            for kind, props in _components(answer[f"{part}.children"]):
                assert kind not in ("Markdown", "Iframe", "Script", "ObjectEl", "Embed", "Img")
                assert not any("danger" in name or "allow_html" in name for name in props)
                links = json.loads(props.get("data-table", "{}")).get("links", [])
                for href in (*links, *([props["href"]] if "href" in props else [])):
                    assert href == "/" or href.startswith(("/study/", "/download/")), href
                assert "\u202e" not in json.dumps(props.get("children"), ensure_ascii=False)

    @pytest.mark.parametrize("path", HOSTILE_PATHS)
    def test_plots_hold_no_markup_of_the_records(self, hostile: Dash, path: str) -> None:
        where, _, search = path.partition("?")
        drawn = [
            props["figure"]
            for kind, props in _components(show(hostile, where, search)["page.children"])
            if kind == "Graph"
        ]
        assert drawn or where == "/" or where.endswith("trials")
        for figure in drawn:
            for text in _strings(figure):
                assert "<img" not in text
                assert "<script" not in text

    def test_a_folder_that_is_no_study_is_named_as_text(self, hostile: Dash) -> None:
        words = page(show(hostile, "/"))
        assert "<img src=x onerror=window.pwned=1> cannot be shown" in words
        assert "hostile" in words.split("\n")

    def test_evil_is_evil(self) -> None:
        assert "<script" in EVIL
        assert "\u202e" in EVIL


def _components(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        for child in node:
            yield from _components(child)
    elif isinstance(node, dict) and "props" in node:
        yield node["type"], node["props"]
        yield from _components(node["props"].get("children"))


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for child in node:
            yield from _strings(child)
    elif isinstance(node, dict):
        for child in node.values():
            yield from _strings(child)
