"""`search calibrate`: networks timed in the real runtime, and a profile that `--target` takes."""

from pathlib import Path

import pytest

from evaluators.cost import load_target
from tests.search.cli.conftest import Search


def test_it_times_fits_and_writes_a_profile(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = search("calibrate", "--probes", 24, "--out", "mine.toml", "--json")
    result = said.json
    assert (result["probes"], result["held_out"]) == (24, 9)
    assert [row["network"] for row in result["known"]] == ["lenet300", "lenet5", "cnn", "resnet20"]
    assert all(row["measured_ms"] > 0 for row in result["known"])
    target = load_target("mine.toml")
    assert target.name == "mine"
    assert not target.is_this_machine
    assert target.call_overhead_us is not None
    assert "measured: fitted to 24 times" in target.overhead_us.source
    again = search("calibrate", "--out", "mine.toml")
    assert again.code == 2
    assert "--out mine.toml: exists already" in again.err


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("--probes 5", "--probes must be at least 24"),
        ("--out no/where.toml", "there is no such folder"),
        ("--target m1", "invalid choice: 'm1'"),
    ],
)
def test_it_refuses(search: Search, words: str, rule: str) -> None:
    said = search("calibrate", *words.split())
    assert said.code == 2
    assert rule in said.err


def test_a_dry_run_times_nothing(search: Search, tmp_path: Path) -> None:
    said = search("calibrate", "--dry-run", "--out", tmp_path / "x.toml")
    assert said.code == 0
    assert "would time 60 networks as fp32" in said.err
    assert not (tmp_path / "x.toml").exists()
