"""`export` and `verify`: what leaves the product is what was measured, to the last byte."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evaluators.formats import missing_libraries
from search.kept import KeptFiles
from search.location import StudyLocation
from search.record import RecordReader
from spaces import Trial
from tests.search.cli.conftest import Search, write_net


def record() -> RecordReader:
    return RecordReader.open(StudyLocation("search-runs", "done"))


def artifacts() -> set[str]:
    return {path.name for path in record().location.artifacts_dir.iterdir()}


@pytest.fixture
def exported(done: Path, search: Search, tmp_path: Path) -> Path:
    out = tmp_path / "best.packed"
    assert search("export", "--out", out).code == 0
    return out


@pytest.mark.parametrize("pick", ["best", "smallest", "fastest", "2", "0@full"])
def test_export(pick: str, done: Path, search: Search, tmp_path: Path) -> None:
    out = tmp_path / "new" / "file.packed"
    said = search("export", "--pick", pick, "--out", out, "--json")
    manifest = said.json
    data = out.read_bytes()
    assert hashlib.sha256(data).hexdigest() == manifest["sha256"]
    assert len(data) == manifest["size_bytes"] == sum(x["size_bytes"] for x in manifest["ledger"])
    beside = json.loads(out.with_name("file.packed.json").read_text(encoding="utf-8"))
    assert {"file": str(out), **beside} == manifest
    if pick in ("2", "0@full"):
        assert manifest["trial"] == pick
    assert search("verify", out).code == 0


def test_an_export_is_whole_or_not_there(
    done: Path, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle leaves what was there before, and nothing else."""
    out = tmp_path / "best.packed"
    out.write_bytes(b"before")

    def fill_up(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill_up)
    said = search("export", "--out", out)
    assert said.code == 2
    assert f"--out {out}: cannot be written: No space left on device" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["best.packed"]
    assert out.read_bytes() == b"before"


def test_an_export_through_a_link_and_to_a_device(
    done: Path, search: Search, tmp_path: Path
) -> None:
    link, file = tmp_path / "link.packed", tmp_path / "file.packed"
    file.write_bytes(b"before")
    link.symlink_to(file)
    assert search("export", "--out", link).code == 0
    assert link.is_symlink()
    assert file.read_bytes() != b"before"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert search("export", "--out", fifo).code == 0
    assert os.read(reader, 1 << 20) == file.read_bytes()
    os.close(reader)


def test_export_names_the_file_itself(
    done: Path, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = search("export", "--storage", done / "search-runs", "--pick", "0@full")
    assert said.out.startswith("done-0-full.packed: ")
    assert Path("done-0-full.packed.json").is_file()


def not_kept() -> Trial:
    reader = record()
    kept = KeptFiles.replay(
        reader.judge, Path(), "packed", reader.trials(), reader.finalists()
    ).hashes
    return next(t for t in reader.trials() if t.measurement and t.measurement.sha256 not in kept)


def test_a_file_that_was_not_kept_is_made_again(done: Path, search: Search, tmp_path: Path) -> None:
    trial, before, out = not_kept(), artifacts(), tmp_path / "again.packed"
    assert trial.measurement is not None
    assert f"{trial.measurement.sha256}.packed" not in before
    assert search("export", "--pick", trial.number, "--out", out).code == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() == trial.measurement.sha256
    assert artifacts() == before, "a driver may be at work among the kept files"


def test_every_trial_made_again_gives_the_same_file(
    done: Path, search: Search, tmp_path: Path
) -> None:
    """With none of the kept files at hand."""
    shutil.copytree("search-runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "done" / "artifacts")
    for pick in ("1", "4", "9", "0@full"):
        out = tmp_path / "out.packed"
        said = search("export", "--storage", tmp_path / "runs", "--pick", pick, "--out", out)
        assert said.code == 0, said.err


def test_a_kept_file_that_was_changed_is_not_exported(
    done: Path, search: Search, tmp_path: Path
) -> None:
    shutil.copytree("search-runs", tmp_path / "runs")
    for path in (tmp_path / "runs" / "done" / "artifacts").iterdir():
        path.write_bytes(path.read_bytes() + b"x")
    out = tmp_path / "out.packed"
    said = search("export", "--storage", tmp_path / "runs", "--out", out)
    assert (said.code, said.out) == (1, "")
    assert "was changed after it was measured" in said.err
    assert not out.exists()


def test_verify_in_a_fresh_process(exported: Path) -> None:
    """The same metric to the last sample."""
    run = subprocess.run(
        [sys.executable, "-m", "search.cli", "verify", str(exported), "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    found = json.loads(run.stdout)
    manifest = json.loads(exported.with_name("best.packed.json").read_text(encoding="utf-8"))
    assert found["metric"] == manifest["metric"]["validation"]
    assert found["metric_samples"] == manifest["metric"]["samples"] == 500
    assert found["sha256"] == manifest["sha256"]
    assert (found["compared"], found["differs"]) == (True, [])


@pytest.mark.parametrize("at", [0, 20, -1])
def test_a_damaged_file(at: int, exported: Path, search: Search) -> None:
    data = bytearray(exported.read_bytes())
    data[at] ^= 0xFF
    exported.write_bytes(data)
    said = search("verify", exported)
    assert (said.code, said.out) == (2, "")
    lines = [x for x in said.err.splitlines() if x.startswith("search: error: ")]
    assert len(lines) == 1
    assert "Traceback" not in said.err


def test_a_cut_and_an_empty_file(exported: Path, search: Search) -> None:
    data = exported.read_bytes()
    for size in (len(data) - 1, 3, 0):
        exported.write_bytes(data[:size])
        assert search("verify", exported).code == 2


def test_another_file_under_the_same_name(
    exported: Path, done: Path, search: Search, tmp_path: Path
) -> None:
    """It decodes, and is not what the manifest says."""
    other = tmp_path / "other.packed"
    assert search("export", "--pick", "4", "--out", other).code == 0
    shutil.copyfile(other, exported)
    said = search("verify", exported)
    assert said.code == 1
    assert "sha256: the manifest says " in said.out
    assert "DIFFERS from its manifest" in said.out
    answer = json.loads(search("verify", exported, "--json").out)
    assert {"sha256", "validation"} <= set(answer["differs"])


def test_without_a_manifest(exported: Path, done: Path, search: Search) -> None:
    exported.with_name("best.packed.json").unlink()
    said = search("verify", exported, "--workload", "net.py:workload")
    assert said.code == 0
    assert "no manifest to compare with" in said.out
    assert search("verify", exported).code == 2


def test_another_network(exported: Path, search: Search, tmp_path: Path) -> None:
    net = write_net(tmp_path, "wide.py")
    text = net.read_text(encoding="utf-8").replace("4, 12", "4, 13").replace("12, 3", "13, 3")
    net.write_text(text, encoding="utf-8")
    said = search("verify", exported, "--workload", f"{net}:workload")
    assert said.code == 2
    assert "its tensors are not those of workload clouds" in said.err


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{}", '{"workload": 5}', '{"workload": "x", "metric": []}', "\udcff"]
)
def test_a_manifest_that_is_none(manifest: str, exported: Path, search: Search) -> None:
    beside = exported.with_name("best.packed.json")
    beside.write_bytes(manifest.encode("utf-8", "surrogateescape"))
    said = search("verify", exported)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("search: error: ")


@pytest.mark.parametrize(("name", "target"), [("onnx", "x86"), ("mlpackage", "m1")])
def test_a_study_in_a_runtimes_own_format(
    net: Path, search: Search, tmp_path: Path, name: str, target: str
) -> None:
    """Every kept file has the format; exported, replaced and verified like any other."""
    if missing := missing_libraries(name):
        pytest.skip(f"format {name} needs {', '.join(missing)}")
    asked = ("--target", target, "--trials", "3", "--finalists", "1", "--engine", "in-process")
    said = search("run", "net.py:workload", *asked, "--study", name)
    assert said.code == 0, said.err
    assert f"as {name})" in said.err
    folder = Path("search-runs") / name
    assert {path.suffix for path in (folder / "artifacts").iterdir()} == {f".{name}"}
    out = tmp_path / f"mine.{name}"
    for _ in range(2):  # the second time over the first
        exported = search("export", "--study", name, "--pick", "0", "--out", out, "--json").json
        assert exported["format"] == name
    assert search("verify", out).code == 0
    damaged = next(path for path in [out, *out.rglob("*.bin")] if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert search("verify", out).code != 0


def test_an_export_never_replaces_a_folder_of_the_users(
    done: Path, search: Search, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    said = search("export", "--out", tmp_path / "notes")
    assert said.code == 2
    assert "must not be an existing folder" in said.err


def test_the_knee_and_the_loader(done: Path, search: Search, tmp_path: Path) -> None:
    out = tmp_path / "knee.packed"
    said = search("export", "--pick", "knee", "--out", out)
    assert said.code == 0
    loader = tmp_path / "knee.packed.load.py"
    assert f"{loader}: loads it" in said.out
    assert "'knee.packed'" in loader.read_text()


def test_another_format_than_the_studys(done: Path, search: Search, tmp_path: Path) -> None:
    """The same weights, so the same metric but for the runtime's rounding; its own bytes."""
    if missing := missing_libraries("onnx"):
        pytest.skip(f"format onnx needs {', '.join(missing)}")
    out = tmp_path / "small.onnx"
    asked = ("export", "--pick", "smallest", "--format", "onnx", "--out", out, "--json")
    manifest = search(*asked).json
    assert manifest["format"] == "onnx"
    assert manifest["size_bytes"] == out.stat().st_size
    assert search("verify", out).code == 0
