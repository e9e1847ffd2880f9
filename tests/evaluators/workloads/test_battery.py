"""Charging cells: what is read, how it is split, and what the shipped networks are worth."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.backends.pytorch.score import evaluate
from evaluators.workloads import battery as module
from evaluators.workloads.battery import (
    CELLS,
    FEATURES,
    BatteryNet,
    battery,
    cell_and_time_loss,
    cell_correct,
    checked_data,
    decoded,
    imitation_loss,
    prepare,
    split_rows,
    splits,
    teacher_outputs,
    time_error_s,
)
from evaluators.workloads.make_battery import out_of_fold
from evaluators.workloads.registry import load_workload
from spaces import InvalidRequest

has_data = pytest.mark.skipif(
    not os.environ.get("SEARCH_DATA"), reason="SEARCH_DATA names no folder with charging data"
)
HEADER = ["battery_id", "cycle", "ambient_c", *FEATURES, "time_to_full_s"]


def table(folder: Path, rows: list[list[object]], header: list[str] = HEADER) -> Path:
    path = folder / "nasa-battery" / "charge_snapshots.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")
    return path


def row(cell: str, cycle: int, seconds: float = 100.0) -> list[object]:
    return [cell, cycle, 24, 60.0, 4.1, 1.5, 25.0, 0.5, 0.001, -0.002, 0.05, seconds]


def many(folder: Path) -> Path:
    """10 charges a cell, 3 snapshots a charge."""
    return table(folder, [row(c, n, 60.0 * k) for c in CELLS for n in range(10) for k in range(3)])


# What is read ------------------------------------------------------------------------------------


def test_only_the_three_cells_are_read_and_spelling_does_not_matter(tmp_path: Path) -> None:
    data = decoded(table(tmp_path, [row("B0005", 3), row("B0007", 1), row("B0018", 4, 7200)]))
    assert data.targets.tolist() == [[0, 100], [2, 7200]]
    assert data.charges.tolist() == [3, 2004]
    assert data.features[0].tolist() == [60.0, 4.1, 1.5, 25.0, 0.5, 0.001, -0.002, 0.05]
    other = row("B0018", 4, 7200)
    other[4] = "4.1000"
    again = decoded(table(tmp_path, [row("B0005", 3), other]))
    assert again.sha256 == data.sha256
    other[4] = "4.1001"
    assert decoded(table(tmp_path, [row("B0005", 3), other])).sha256 != data.sha256


def test_without_the_data_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    splits.cache_clear()
    monkeypatch.setenv("SEARCH_DATA", "/nowhere")
    with pytest.raises(InvalidRequest, match=r"SEARCH_DATA names, here '/nowhere', .*snapshots"):
        load_workload("battery")


def test_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_DATA", str(many(tmp_path).parents[1]))
    with pytest.raises(InvalidRequest, match="must hold the data that workload battery was"):
        checked_data()


@pytest.mark.parametrize("bad", ["header", "number", "short"])
def test_a_table_that_cannot_be_read_is_named(bad: str, tmp_path: Path) -> None:
    one = row("B0005", 1)
    one[5] = "warm" if bad == "number" else one[5]
    header = [*HEADER[:-1], "other"] if bad == "header" else HEADER
    path = table(tmp_path, [one[:6] if bad == "short" else one], header)
    with pytest.raises(InvalidRequest, match=f"{path.name} cannot be read as charging data"):
        decoded(path)


# Splits ------------------------------------------------------------------------------------------


def test_no_charge_is_in_two_splits_and_each_cell_is_in_all(tmp_path: Path) -> None:
    data = decoded(many(tmp_path))
    parts = split_rows(data)
    assert [len(part) for part in parts] == [54, 18, 18]
    assert sorted(np.concatenate(parts)) == list(range(90))
    charges = [set(data.charges[part]) for part in parts]
    assert not (charges[0] & charges[1] | charges[0] & charges[2] | charges[1] & charges[2])
    assert all({charge // 1000 for charge in some} == {0, 1, 2} for some in charges)


# Losses and scores by hand -----------------------------------------------------------------------

OUTPUTS = torch.tensor([[4.0, 0.0, 0.0, 1.0], [0.0, 0.0, 4.0, 0.5]])
TARGETS = torch.tensor([[0.0, 3600.0], [1.0, 900.0]])


def test_scores_by_hand() -> None:
    assert cell_correct(OUTPUTS, TARGETS).tolist() == [1.0, 0.0]
    assert time_error_s(OUTPUTS, TARGETS).tolist() == [0.0, 900.0]


def test_losses_by_hand() -> None:
    """Cross-entropies ln(1 + 2 e^-4) and ln(2 + e^4), times off by 0 and a quarter of an hour."""
    cell = (np.log(1 + 2 * np.exp(-4)) + np.log(2 + np.exp(4))) / 2
    time = (0 + 0.25 - 0.025) / 2
    assert cell_and_time_loss(OUTPUTS, TARGETS).item() == pytest.approx(
        cell + module.TIME_WEIGHT * time, rel=1e-5
    )
    assert imitation_loss(OUTPUTS, OUTPUTS, 4.0).item() == pytest.approx(0.0, abs=1e-6)
    later = OUTPUTS + torch.tensor([7.0, 7.0, 7.0, 0.25])  # the same cells, times off
    expected = module.TIME_WEIGHT * 0.225
    for temperature in (1.0, 4.0):
        found = imitation_loss(later, OUTPUTS, temperature).item()
        assert found == pytest.approx(expected, rel=1e-4)


def test_both_heads_learn_from_either_loss() -> None:
    for loss in (
        lambda outputs: cell_and_time_loss(outputs, TARGETS),
        lambda outputs: imitation_loss(outputs, OUTPUTS, 2.0),
    ):
        model = BatteryNet()
        loss(model(torch.randn(2, 10))).backward()
        for name in ("trunk.fc1", "cell", "time"):
            gradient = model.get_submodule(name).weight.grad
            assert gradient.abs().sum() > 0


# The shipped networks ----------------------------------------------------------------------------


@has_data
def test_the_shipped_baseline_and_teacher() -> None:
    workload = battery()
    train, validation, test = splits()
    assert (len(train), len(validation), len(test)) == (6744, 2232, 2232)
    inputs = prepare(train.inputs)
    assert inputs.abs().max() <= 8
    assert evaluate(workload.model, workload, validation)[0] == pytest.approx(0.9391, abs=5e-4)
    assert workload.test is not None
    assert evaluate(workload.model, workload, workload.test)[0] == pytest.approx(0.9539, abs=5e-4)
    teacher = teacher_outputs()
    parts = {"train": train, "validation": validation, "test": test}
    assert {n: tuple(x.shape) for n, x in teacher.items()} == {
        name: (len(part), 4) for name, part in parts.items()
    }
    with torch.no_grad():
        ours = time_error_s(workload.model(prepare(test.inputs)), test.targets).mean()
    theirs = time_error_s(teacher["test"], test.targets).mean()
    assert theirs < ours < 250  # the trees know the time better
    # Out of fold: as unsure of training charges as of new ones, or there is nothing to imitate.
    accuracy = {n: cell_correct(teacher[n], parts[n].targets).mean().item() for n in parts}
    assert 0.9 < accuracy["train"] < 0.98


def test_soft_targets_come_from_trees_that_did_not_see_the_charge() -> None:
    """The targets are noise: trees that had seen a charge would know its rows by heart."""
    pytest.importorskip("xgboost", reason="extra trees")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(60, 8, generator=generator) * torch.tensor(
        [9000, 0.5, 1.5, 4, 1.5, 0.01, 0.01, 0.1]
    ) + torch.tensor([60, 3.7, 0.03, 24, 0.1, 0, 0, 0])
    cells = torch.randint(3, (60, 1), generator=generator).float()
    hours = torch.rand(60, 1, generator=generator)
    split = module.Split(inputs, torch.cat([cells, 3600 * hours], dim=1))
    found = out_of_fold(split, np.repeat(np.arange(20), 3), rounds=60)
    assert found.shape == (60, 4)
    assert torch.isfinite(found).all()
    assert cell_correct(found, split.targets).mean() < 0.7
    assert time_error_s(found, split.targets).mean() > 500
