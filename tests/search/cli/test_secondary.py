"""A workload with two figures, from `run` to `verify`."""

import json
from pathlib import Path

import pytest

from search.location import StudyLocation
from search.record import RecordReader
from tests.search.cli.conftest import Search, write_net

HEAD = """\
from evaluators.workloads.base import SecondaryScore
from spaces import Metric
DELAY = Metric("delay", "s", higher_is_better=False, shown_unit="min")
"""
EXTRA = "secondary=(SecondaryScore(DELAY, lambda o, t: 90 + o[:, 0].abs()),)"


def test_both_figures_are_everywhere(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = write_net(tmp_path, extra=EXTRA, head=HEAD)
    asked = (
        "--engine",
        "in-process",
        "--study",
        "two",
        "--target",
        "m1",
        "--format",
        "packed",
        "--trials",
        "4",
    )
    said = search("run", f"{net}:workload", *asked, "--finalists", "1", "--max-drop", "50")
    assert said.code == 0, said.err
    assert "delay" in said.out + said.err
    record = RecordReader.open(StudyLocation("search-runs", "two"))
    trial = record.trials()[3]
    reading = trial.measurement.secondary["delay"]
    assert reading.value > 90
    minutes = f"delay {reading.value / 60:.4g} min"
    assert minutes in search("show", "3").out
    answer = search("front", "--json").json
    row = answer["pick"]
    assert row["secondary"]["delay"]["value"] > 90
    assert row["test"]["secondary"]["delay"]["value"] > 90
    assert answer["baseline"]["secondary"]["delay"]["value"] > 90
    assert f"{row['secondary']['delay']['value'] / 60:.4g} min" in search("front").out
    finalist = search("show", row["trial"]).out
    assert f"delay {row['test']['secondary']['delay']['value'] / 60:.4g} min" in finalist
    report = record.location.folder / "report.html"
    assert f"{row['secondary']['delay']['value'] / 60:.4g} min" in report.read_text("utf-8")

    out = tmp_path / "best.packed"
    assert search("export", "--out", out).code == 0
    again = search("verify", out, "--json").json
    manifest = json.loads(out.with_name("best.packed.json").read_text("utf-8"))
    (said_figure,) = manifest["secondary"]
    assert again["secondary"]["delay"]["value"] == said_figure["validation"]
    assert again["differs"] == []
    said_figure["validation"] += 1
    out.with_name("best.packed.json").write_text(json.dumps(manifest))
    wrong = search("verify", out)
    assert (wrong.code, "delay: the manifest says" in wrong.out) == (1, True)
    manifest["secondary"] = "delay"
    out.with_name("best.packed.json").write_text(json.dumps(manifest))
    assert search("verify", out).code == 2
