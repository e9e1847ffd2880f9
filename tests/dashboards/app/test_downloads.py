"""What a link saves is what was measured, and lies in the study's own folder."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from dashboards.app.downloads import csv_path, file_path
from dashboards.app.library import Library
from search.location import StudyLocation
from tests.dashboards.app.asking import open_app
from tests.dashboards.app.places import file_of, spoil, write_hostile, write_study

SECRET = b"root:x:0:0:no reader may have this"
Get = Callable[[str], TestResponse]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("downloads")
    write_study(root, "one", 20, finalists=2)
    write_study(root, "other", 6, finalists=0, seed=3)
    (root / "secret.packed").write_bytes(SECRET)
    return root


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    shutil.copytree(whole, tmp_path / "runs")
    return tmp_path / "runs"


def getter(server: Flask) -> Get:
    def get(path: str) -> TestResponse:
        return server.test_client().get(path, headers={"Host": "127.0.0.1"}, buffered=True)

    return get


@pytest.fixture
def get(place: Path) -> Get:
    return getter(open_app(place).server)


@pytest.fixture(scope="module")
def get_whole(whole: Path) -> Get:
    return getter(open_app(whole).server)


def one(place: Path) -> StudyLocation:
    return StudyLocation(str(place), "one")


class TestWhatIsSaved:
    @pytest.mark.parametrize("name", ["0", "17", "0@full"])
    def test_the_file_is_the_measured_one(self, place: Path, get: Get, name: str) -> None:
        snapshot = Library(str(place)).get("one")
        trials = snapshot.finalists if name.endswith("@full") else snapshot.trials
        trial = trials[int(name.removesuffix("@full"))]
        assert trial.measurement is not None
        saved, manifest = (
            get(file_path("one", name, "file")),
            get(file_path("one", name, "manifest.json")),
        )
        digest = hashlib.sha256(saved.data).hexdigest()
        assert saved.status_code == 200
        assert digest == trial.measurement.sha256 == json.loads(manifest.data)["sha256"]
        shown = name.replace("@", "-")
        assert saved.headers["Content-Disposition"] == f'attachment; filename="one-{shown}.packed"'
        assert saved.headers["Cache-Control"] == "no-store"
        assert saved.headers["X-Content-Type-Options"] == "nosniff"
        assert saved.mimetype == "application/octet-stream"

    def test_the_policy_is_the_trials(self, place: Path, get: Get) -> None:
        trial = Library(str(place)).get("one").trials[2]
        assert json.loads(get(file_path("one", "2", "policy.json")).data) == trial.policy.to_dict()

    def test_the_manifest_names_the_trial_as_commands_do(self, get: Get) -> None:
        manifest = json.loads(get(file_path("one", "1@full", "manifest.json")).data)
        assert manifest["trial"] == "1@full"
        assert manifest["metric"]["test"]["metric"] == 0.9712

    def test_the_csv_has_every_trial_and_finalist(self, get: Get) -> None:
        rows = list(csv.DictReader(get(csv_path("one")).text.splitlines()))
        names = [row["name"] for row in rows]
        assert names == [*(str(number) for number in range(20)), "0@full", "1@full"]

    def test_a_file_that_was_not_kept_is_made_again_by_command(self, place: Path, get: Get) -> None:
        file_of(one(place), Library(str(place)).get("one").trials[1]).unlink()
        answer = get(file_path("one", "1", "file"))
        assert answer.status_code == 404
        assert f"search export --study one --storage {place} --pick 1" in answer.text

    def test_a_failed_trial_has_no_file(self, get: Get) -> None:
        for what in ("file", "policy.json", "manifest.json"):
            answer = get(file_path("one", "5", what))
            assert answer.status_code == 404
            assert "no finished trial 5" in answer.text


class TestWhatIsNot:
    @pytest.mark.parametrize("what", ["file", "policy.json", "manifest.json"])
    @pytest.mark.parametrize(
        "part",
        [
            "..", "../..", "../secret.packed", "..%2fsecret.packed", "%2e%2e%2fsecret.packed",
            "%2e%2e", "..%5csecret.packed", "..\\secret.packed", "%252e%252e%252fsecret.packed",
            "/etc/passwd", "%2fetc%2fpasswd", "one/../other", "0%00", "%00", "0/../1", "1e0", "-1",
            "0x1", "\u0661", "9" * 400, "0@full/..", "file:///etc/passwd", "~", "$HOME", "*",
        ],
    )  # fmt: skip
    def test_nothing_else_by_any_path(self, get_whole: Get, part: str, what: str) -> None:
        get = get_whole
        for path in (
            f"/download/one/{part}/{what}",
            f"/download/{part}/0/{what}",
            f"/download/one/0/{part}",
            f"/download/{part}",
            f"/download/{part}/trials.csv",
            f"/download/one/{part}/../0/{what}/../{part}",
        ):
            answer = get(path)
            assert answer.status_code in (400, 404), path
            assert SECRET not in answer.data
            assert b"root:" not in answer.data
            assert "attachment" not in answer.headers.get("Content-Disposition", "")

    def test_other_files_of_the_folder_are_not_served(self, place: Path, get: Get) -> None:
        folder = one(place).artifacts_dir
        (folder / "notes.txt").write_bytes(SECRET)
        for name in ("notes.txt", "record.journal", "../record.journal"):
            assert get(f"/download/one/0/{name}").status_code == 404
            assert get(f"/download/one/{name}/file").status_code == 404
        assert get("/assets/../access.py").status_code == 404
        assert get("/assets/%2e%2e/access.py").status_code == 404

    def test_a_changed_file_is_not_served(self, place: Path, get: Get) -> None:
        path = file_of(one(place), Library(str(place)).get("one").trials[1])
        path.write_bytes(path.read_bytes()[:-1] + b"X")
        answer = get(file_path("one", "1", "file"))
        assert answer.status_code == 404
        assert "changed after it was measured" in answer.text
        assert b"weights of" not in answer.data

    def test_a_link_out_of_the_folder_is_not_followed(self, place: Path, get: Get) -> None:
        path = file_of(one(place), Library(str(place)).get("one").trials[1])
        data = path.read_bytes()
        (place / "outside").write_bytes(data)  # even with the right content
        path.unlink()
        path.symlink_to(place / "outside")
        answer = get(file_path("one", "1", "file"))
        assert answer.status_code == 404
        assert data not in answer.data

    def test_a_folder_under_a_files_name_is_no_file(self, place: Path, get: Get) -> None:
        path = file_of(one(place), Library(str(place)).get("one").trials[1])
        path.unlink()
        path.mkdir()
        assert get(file_path("one", "1", "file")).status_code == 404

    @pytest.mark.parametrize(
        "bad", ["../../secret", "../../../../etc/passwd", "", ".", "A" * 64, "0" * 63, "0" * 65]
    )
    def test_a_recorded_hash_that_is_none_reaches_no_file(self, place: Path, bad: str) -> None:
        trial = Library(str(place)).get("one").trials[1]
        assert trial.measurement is not None
        spoil(one(place), f'"sha256":"{trial.measurement.sha256}"', f'"sha256":"{bad}"')
        answer = getter(open_app(place).server)(file_path("one", "1", "file"))
        assert answer.status_code == 404
        assert SECRET not in answer.data

    @pytest.mark.parametrize("bad", ["/../../secret.packed", "packed/..", "", "p" * 17, "\\u0000"])
    def test_a_recorded_format_that_is_none_reaches_no_file(self, place: Path, bad: str) -> None:
        spoil(one(place), '"artifact_format":"packed"', f'"artifact_format":"{bad}"')
        answer = getter(open_app(place).server)(file_path("one", "1", "file"))
        assert answer.status_code == 404
        assert SECRET not in answer.data

    def test_a_study_that_is_not_offered_has_no_downloads(self, place: Path) -> None:
        get = getter(open_app(place, "one").server)
        for path in (
            file_path("other", "0", "file"),
            file_path("other", "0", "policy.json"),
            file_path("other", "0", "manifest.json"),
            csv_path("other"),
        ):
            answer = get(path)
            assert answer.status_code == 404
            assert "not among those this dashboard shows: one" in answer.text
        assert get(file_path("one", "0", "file")).status_code == 200


def test_what_a_record_says_is_text_and_no_header_or_formula(tmp_path: Path) -> None:
    write_hostile(tmp_path)
    get = getter(open_app(tmp_path).server)
    names = ["0", "0@full"]
    for name in names:
        manifest = get(file_path("hostile", name, "manifest.json"))
        assert manifest.status_code == 200
        assert "<script" in json.loads(manifest.data)["workload"]
        assert manifest.mimetype == "application/json"
        for answer in (manifest, get(file_path("hostile", name, "file"))):
            header = answer.headers.get("Content-Disposition", "")
            assert header in ("", f'attachment; filename="hostile-{name.replace("@", "-")}.json"')
    table = get(csv_path("hostile"))
    assert table.mimetype == "text/csv"
    for row in csv.reader(table.text.splitlines()):
        assert not any(value.startswith(("=", "+", "@", "\t")) for value in row)
