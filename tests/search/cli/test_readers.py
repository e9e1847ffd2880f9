"""`front`, `show`, `report`, `space`, `targets`, `workloads`."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from evaluators.workloads import registry
from search.location import StudyLocation
from search.record import RecordReader
from spaces import Trial
from tests.search.cli.conftest import Search


def record() -> RecordReader:
    return RecordReader.open(StudyLocation("search-runs", "done"))


def test_front(done: Path, search: Search) -> None:
    said = search("front")
    assert said.err == ""
    assert "Front (accuracy, bytes, latency) at 600 training samples" in said.out
    assert "@full" in said.out
    assert "★" in said.out
    by_name = search("front", "done", "--json").json
    assert by_name == search("front", "--json").json
    assert by_name == search("front", "--study", "done", "--json").json
    sizes = [row["size_bytes"] for row in by_name["front"]]
    assert sizes == sorted(sizes)
    assert by_name["pick"] in by_name["front"]
    assert all(size <= 300 for size in sizes)


@pytest.mark.parametrize(("at", "samples"), [("search", 300), ("full", 600)])
def test_the_front_of_one_fidelity(at: str, samples: int, done: Path, search: Search) -> None:
    assert f"at {samples} training samples" in search("front", "--at", at).out
    assert search("front", "--at", at, "--json").json["fidelity"] == samples


def test_show(done: Path, search: Search) -> None:
    said = search("show", "3")
    assert (said.code, said.err) == (0, "")
    for words in ("done #3", "policy ", "After each stage", "Where the bytes are", "sum"):
        assert words in said.out
    assert Trial.from_dict(search("show", "3", "--json").json) == record().trials()[3]
    assert "done #3 " in search("show", "#3").out
    picked = search("front", "--json").json["pick"]["trial"]
    full = search("show", picked)
    assert f"done #{picked} " in full.out
    assert "on the test split" in full.out
    assert Trial.from_dict(search("show", "#0@full", "--json").json) == record().finalists()[0]


@pytest.mark.parametrize("command", ["front", "report", "export", "resume"])
def test_a_study_is_named_once(command: str, search: Search) -> None:
    said = search(command, "one", "--study", "other")
    assert said.code == 2
    assert "argument --study: not allowed with argument study" in said.err


@pytest.mark.parametrize("way", [("none",), ("--study", "none")])
@pytest.mark.parametrize("command", ["front", "report", "export", "resume"])
def test_a_study_is_named_by_its_place_or_by_a_flag(
    command: str, way: tuple[str, ...], done: Path, search: Search
) -> None:
    said = search(command, *way)
    assert said.code == 2
    assert "study none" in said.err


def test_report(done: Path, search: Search, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "page.html"
    assert search("report", "done", "--out", out).out == f"{out}\n"
    assert search("report", "--out", out, "--json").json == {"report": str(out)}
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize("command", ["targets", "workloads"])
def test_lists(command: str, search: Search) -> None:
    said = search(command)
    assert (said.code, said.err) == (0, "")
    names = [row["name"] for row in json.loads(json.dumps(listed(command, search)))]
    assert names
    assert all(name in said.out for name in names)


def test_workloads_of_installed_packages(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "their_package:[s]make", registry.ENTRY_POINTS)
    taken = EntryPoint(registry.DEFAULT_WORKLOAD, "x:y", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "_plugins", lambda: {p.name: p for p in (point, taken)})
    rows = {str(row["name"]): str(row["description"]) for row in listed("workloads", search)}
    assert rows["theirs"] == "their_package:[s]make, of an installed package"
    assert rows[registry.DEFAULT_WORKLOAD].startswith("LeNet-300-100")
    assert "their_package:[s]make" in search("workloads").out


def listed(command: str, search: Search) -> list[dict[str, object]]:
    answer = search(command, "--json").json
    rows: list[dict[str, object]] = answer if command == "targets" else answer["workloads"]
    return rows


def test_every_target_can_be_shown(search: Search) -> None:
    for row in listed("targets", search):
        said = search("targets", row["name"])
        assert said.code == 0
        assert "source" in said.out


def test_space(net: Path, search: Search) -> None:
    """By a real worker process."""
    Path("narrow.toml").write_text('order = ["none", "prune"]\n', encoding="utf-8")
    asked = ("--target", "m1", "--format", "packed", "--space", "narrow.toml", "--json")
    answer = search("space", "net.py:workload", *asked).json
    choices = {row["knob"]: row["choices"] for row in answer["knobs"]}
    assert choices["order"] == ["none", "prune"]
    assert {"0:sparsity", "2:sparsity"} <= set(choices)
    names = {path.name for path in net.parent.iterdir() if path.suffix}
    assert names == {"net.py", "narrow.toml"}


def test_a_reader_that_has_enough(done: Path) -> None:
    """`search front | head -1`: exit code 0 and not a word."""
    for arguments in (["front"], ["targets", "--json"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "search.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")


def test_a_terminal_without_unicode(done: Path) -> None:
    code = "import sys; from search.cli.main import run; sys.argv = ['search', 'front']; run()"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "ascii", "PATH": "", "HOME": "/"},
        capture_output=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"Front (accuracy, bytes, latency)" in run.stdout
