"""Studies as pages see them: read again when they grow, and never too often."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dashboards.app import library as module
from dashboards.app.library import Broken, Library, Summary
from spaces import InvalidRequest, StudyBroken
from tests.dashboards.app.places import append, drive, spoil, write_study


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look reads."""
    monkeypatch.setattr(module, "LEAST_S", 0.0)
    monkeypatch.setattr(module, "BUSY_SHARE", 1.0)


class TestGrowth:
    def test_a_trial_makes_another_version_and_a_beat_does_not(
        self, tmp_path: Path, at_once: None
    ) -> None:
        record, coming = drive(tmp_path, "live", count=8, asked=20)
        with record:
            library = Library(str(tmp_path))
            first = library.get("live")
            made = (first.table, first.candidates, first.front, first.final_table)
            record.write_driver({"phase": "search", "workers": 5}, force=True)
            beat = library.get("live")
            assert beat is not first
            assert beat.version == first.version
            assert beat.driver.payload["workers"] == 5
            # Memory stays flat while a driver only beats: what was derived is kept, not made anew.
            again = (beat.table, beat.candidates, beat.front, beat.final_table)
            assert all(one is other for one, other in zip(made, again, strict=True))

            append(record, [next(coming)])
            grown = library.get("live")
            assert grown.version != first.version
            assert len(grown.trials) == len(grown.table) == 9
            assert len(first.table) == 8

            key = grown.trials[0].identity.key
            record.write_test_scores(key, {"metric": 0.5, "metric_se": 0.01})
            scored = library.get("live")
            assert scored.version != grown.version
            assert scored.test_scores[key]["metric"] == 0.5

    def test_a_finalist_makes_another_version(self, tmp_path: Path, at_once: None) -> None:
        write_study(tmp_path, "one", 12, finalists=0)
        library = Library(str(tmp_path))
        without = library.get("one").version
        shutil.rmtree(tmp_path / "one")
        write_study(tmp_path, "one", 12, finalists=1)
        assert library.get("one").version.split(".")[1:] != without.split(".")[1:]
        assert len(library.get("one").finalists) == 1

    def test_a_study_made_again_under_its_name_is_another(
        self, tmp_path: Path, at_once: None
    ) -> None:
        write_study(tmp_path, "one", 12, seed=1)
        library = Library(str(tmp_path))
        before = library.get("one")
        shutil.rmtree(tmp_path / "one")
        write_study(tmp_path, "one", 12, seed=2)
        after = library.get("one")
        assert after.version != before.version
        assert [t.policy.digest for t in after.trials[3:]] != [
            t.policy.digest for t in before.trials[3:]
        ]
        assert after.table is not before.table

    def test_a_deleted_study_is_missing_and_comes_back(self, tmp_path: Path, at_once: None) -> None:
        write_study(tmp_path, "one", 6)
        library = Library(str(tmp_path))
        assert len(library.get("one").trials) == 6
        (tmp_path / "one").rename(tmp_path.parent / f"{tmp_path.name}-aside")
        with pytest.raises(InvalidRequest, match="not in"):
            library.get("one")
        (tmp_path.parent / f"{tmp_path.name}-aside").rename(tmp_path / "one")
        assert len(library.get("one").trials) == 6


class TestHowOften:
    def test_at_most_once_a_second(self, tmp_path: Path) -> None:
        record, coming = drive(tmp_path, "live", count=4, asked=20)
        with record:
            library = Library(str(tmp_path))
            first = library.get("live")
            started = time.monotonic()
            append(record, [next(coming)])
            looks = 0
            while len(library.get("live").trials) == len(first.trials):
                looks += 1
                time.sleep(0.02)
            assert time.monotonic() - started > 0.7
            assert looks > 20
            assert len(library.get("live").trials) == 5

    def test_a_record_that_takes_long_is_read_seldom(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LEAST_S", 0.0)
        monkeypatch.setattr(module, "BUSY_SHARE", 1e-4)  # some 10 ms of reading: minutes
        record, coming = drive(tmp_path, "live", count=4, asked=20)
        with record:
            library = Library(str(tmp_path))
            first = library.get("live")
            append(record, [next(coming)])
            time.sleep(0.3)
            assert library.get("live") is first  # not even the beat was read

    def test_a_broken_study_is_not_opened_again_at_every_look(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LEAST_S", 60.0)
        location = write_study(tmp_path, "one", 4)
        whole = location.journal_path.read_bytes()
        location.journal_path.write_bytes(b"no journal\n" + whole)
        library = Library(str(tmp_path))
        with pytest.raises(StudyBroken, match="damaged"):
            library.get("one")
        location.journal_path.write_bytes(whole)
        with pytest.raises(StudyBroken, match="damaged"):
            library.get("one")

    def test_many_threads_get_the_same_one(self, tmp_path: Path) -> None:
        write_study(tmp_path, "one", 40)
        library, start = Library(str(tmp_path)), threading.Barrier(8)

        def get(_: int) -> object:
            start.wait()
            return library.get("one")

        with ThreadPoolExecutor(8) as pool:
            assert len({id(snapshot) for snapshot in pool.map(get, range(8))}) == 1


class TestWhich:
    def test_a_broken_study_does_not_hide_the_others(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c", "d", "e"):
            write_study(tmp_path, name, 8)
        library = Library(str(tmp_path))
        (tmp_path / "a/record.journal").write_text("not json\nat all\n", encoding="utf-8")
        spoil(library.get("b").location, '"format_version":1', '"format_version":99')
        spoil(library.get("c").location, '"weight_shape"', '"weight_form"')
        (tmp_path / "d/record.journal").write_bytes(b"")
        found = {entry.name: entry for entry in Library(str(tmp_path)).summaries()}
        assert list(found) == ["a", "b", "c", "d", "e"]
        words = {name: entry.words for name, entry in found.items() if isinstance(entry, Broken)}
        assert "damaged" in words["a"]
        assert "format 99" in words["b"]
        assert "open it with the version that wrote it" in words["b"]
        assert "cannot be understood" in words["c"]
        assert "put back a copy" in words["c"]
        assert "not in" in words["d"]
        good = found["e"]
        assert isinstance(good, Summary)
        assert (good.trials, good.failed) == (8, 1)

    def test_only_those_named_are_offered(self, tmp_path: Path) -> None:
        for name in ("a", "b", "secret"):
            write_study(tmp_path, name, 4, finalists=0)
        library = Library(str(tmp_path), ["a", "b"])
        assert library.names() == ["a", "b"]
        assert [entry.name for entry in library.summaries()] == ["a", "b"]
        with pytest.raises(InvalidRequest, match="not among those this dashboard shows: a, b"):
            library.get("secret")
        shutil.rmtree(tmp_path / "b")
        gone = library.summaries()[1]
        assert isinstance(gone, Summary | Broken)
        library = Library(str(tmp_path), ["a", "b"])
        with pytest.raises(InvalidRequest, match="not in") as caught:
            library.get("b")
        assert "secret" not in str(caught.value)

    def test_names_out_of_urls_do_not_pile_up(self, tmp_path: Path) -> None:
        write_study(tmp_path, "one", 4, finalists=0)
        library = Library(str(tmp_path))
        library.get("one")
        for number in range(20):
            with pytest.raises(InvalidRequest):
                library.get(f"guess-{number}")
        assert list(library._shelves) == ["one"]

    def test_a_name_that_is_no_name_reads_no_file(self, tmp_path: Path) -> None:
        write_study(tmp_path, "one", 4, finalists=0)
        (tmp_path / "inside").mkdir()
        for name in ("../one", "..", "", "a/b", "a\0b", "x" * 101, "é"):
            with pytest.raises(InvalidRequest):
                Library(str(tmp_path / "inside")).get(name)

    def test_a_storage_that_does_not_exist_holds_none(self, tmp_path: Path) -> None:
        assert Library(str(tmp_path / "nowhere")).summaries() == []
        assert not (tmp_path / "nowhere").exists()

    def test_a_database_is_read_likewise(self, tmp_path: Path, at_once: None) -> None:
        url = f"sqlite:///{tmp_path}/studies.db"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            from search.location import StudyLocation
            from search.record import Record
            from tests.dashboards.app.places import new_trials, simulator

            sim = simulator("one", asked=4)
            coming = new_trials(sim)
            with Record.create(
                StudyLocation(url, "one"), sim.spec, sim.profile, sim.space
            ) as record:
                record.append(next(coming))
                library = Library(url)
                assert library.names() == ["one"]
                assert len(library.get("one").trials) == 1
                record.append(next(coming))
                assert len(library.get("one").trials) == 2
            with pytest.raises(InvalidRequest, match="not in"):
                library.get("other")
