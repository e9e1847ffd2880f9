"""Charging cells (NASA PCoE, Saha and Goebel 2007): which one is charging, and how long until full.

One two-headed dense network says both from one snapshot of the charger: three logits, of the cells
B0005, B0006 and B0018, beside the time to full. The accuracy of the first is the metric that
budgets and limits act on; the error of the second is carried along (`Workload.secondary`).

A sample is one snapshot with what changed in its last minute, and not a sequence of snapshots: the
24 snapshots of a charge are evenly spread over it, so the spacing of any two gives away the whole
charge's length, which is what is to be predicted. Splits are by charge (a cell's cycle), because
snapshots of one charge are alike. They are also not independent, so that the standard errors of
both figures, which count snapshots, are too small by about sqrt(24) at worst.

The data are read from `nasa-battery/charge_snapshots.csv` in the folder that `$SEARCH_DATA` names.
The trained baseline and what the tree teacher says of every snapshot ship with the package;
`python -m evaluators.workloads.make_battery` makes both again.
"""

import csv
import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluators.workloads.base import Recipe, SecondaryScore, Split, Workload
from spaces import InvalidRequest, Metric

__all__ = [
    "BASELINE",
    "CELLS",
    "CHARGE_TIME_ERROR",
    "FEATURES",
    "TEACHER",
    "BatteryData",
    "BatteryNet",
    "battery",
    "cell_and_time_loss",
    "decoded",
    "prepare",
    "splits",
    "teacher_outputs",
    "time_error_s",
]

CELLS = ("B0005", "B0006", "B0018")
#: Inputs, in this order: seconds since the charge began, volts, amperes, degrees Celsius, ampere
#: hours so far, and the changes of voltage, current and temperature in the last 60 s.
FEATURES = (
    "elapsed_s",
    "voltage_v",
    "current_a",
    "temp_c",
    "charged_ah",
    "dv_60s",
    "di_60s",
    "dtemp_60s",
)
TARGET = "time_to_full_s"
DATA_FILE = "nasa-battery/charge_snapshots.csv"
#: Of `decoded`: line ends and the spelling of numbers may differ between copies, values may not.
DATA_SHA256 = "ce65f9d69e713d993246e14f6d19e9a17b0aeda088b56b20c5ba2980cf22c17c"
#: Shares of each cell's charges; the rest is the training split.
VALIDATION_SHARE, TEST_SHARE = 0.2, 0.2
SPLIT_SEED = 0
BASELINE = "battery"
TEACHER = "battery-teacher"
#: One unit of the network's time output, so that it is about as large as a logit.
TIME_UNIT_S = 3600.0
#: Of the time's squared error, in hours^2, beside the cross-entropy of the cell.
TIME_WEIGHT = 4.0
CHARGE_TIME_ERROR = Metric("time-to-full error", "s", higher_is_better=False, shown_unit="min")


@dataclass(frozen=True)
class BatteryData:
    """The snapshots of the three cells.

    Attributes:
        features: (snapshots, 8) float64, columns as `FEATURES`.
        targets: (snapshots, 2) float64: index into `CELLS`, seconds to full.
        charges: (snapshots,) int64: cell index * 1000 + the cell's cycle.
    """

    features: np.ndarray
    targets: np.ndarray
    charges: np.ndarray

    @property
    def sha256(self) -> str:
        """Of the values, whatever text they were written as."""
        table = np.column_stack([self.charges, self.targets, self.features])
        return hashlib.sha256(table.astype("<f8").tobytes()).hexdigest()


def data_file() -> Path:
    """The table in the folder that `$SEARCH_DATA` names.

    Raises:
        InvalidRequest: it is not set, or the table is not there.
    """
    folder = os.environ.get("SEARCH_DATA", "")
    path = Path(folder) / DATA_FILE
    if not folder or not path.is_file():
        raise InvalidRequest(
            "workload battery reads its data from the folder that SEARCH_DATA names, here "
            f"{folder!r}, which must hold {DATA_FILE}"
        )
    return path


def decoded(path: Path) -> BatteryData:
    """The three cells' rows of the table, in its order.

    Raises:
        InvalidRequest: a missing column, or something that is no number.
    """
    features, targets, charges = [], [], []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["battery_id"] in CELLS:
                    cell = CELLS.index(row["battery_id"])
                    features.append([float(row[name]) for name in FEATURES])
                    targets.append([cell, float(row[TARGET])])
                    charges.append(1000 * cell + int(row["cycle"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(
            f"{path} cannot be read as charging data: {type(error).__name__}: {error}"
        ) from None
    return BatteryData(
        np.array(features, dtype=np.float64).reshape(-1, len(FEATURES)),
        np.array(targets, dtype=np.float64).reshape(-1, 2),
        np.array(charges, dtype=np.int64),
    )


def checked_data() -> BatteryData:
    """The data, if they are those that baseline and teacher were trained on.

    Raises:
        InvalidRequest: they are not there, or others.
    """
    path = data_file()
    data = decoded(path)
    if data.sha256 != DATA_SHA256:
        raise InvalidRequest(
            f"{path} must hold the data that workload battery was trained on, sha256 of its "
            f"values {DATA_SHA256}, but has {data.sha256}"
        )
    return data


def split_rows(data: BatteryData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of train, validation and test; whole charges, the same shares of each cell."""
    generator = np.random.default_rng(SPLIT_SEED)
    parts: list[list[np.ndarray]] = [[], [], []]
    for cell in range(len(CELLS)):
        charges = np.unique(data.charges[data.targets[:, 0] == cell])
        shuffled = generator.permutation(charges)
        first = round(VALIDATION_SHARE * len(charges))
        second = first + round(TEST_SHARE * len(charges))
        for part, chosen in zip(
            parts, (shuffled[second:], shuffled[:first], shuffled[first:second]), strict=True
        ):
            part.append(np.flatnonzero(np.isin(data.charges, chosen)))
    train, validation, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation, test


def as_samples(data: BatteryData, rows: np.ndarray) -> Split:
    """Those rows as float32 (n, 8) inputs and (n, 2) targets: cell index, seconds to full."""
    inputs, targets = (torch.from_numpy(x[rows]).float() for x in (data.features, data.targets))
    return Split(inputs, targets)


@lru_cache(maxsize=1)
def splits() -> tuple[Split, Split, Split]:
    """Train, validation and test, see `as_samples`."""
    data = checked_data()
    train, validation, test = (as_samples(data, rows) for rows in split_rows(data))
    return train, validation, test


def prepare(batch: Tensor) -> Tensor:
    """(n, 8) snapshots in SI units -> (n, 10) about -3 .. 3.

    The constants are round: close to mean and deviation of the training split. The current falls
    exponentially while the voltage is held, and the last minute's changes have long tails, so the
    logarithm of the first is added, and the others are compressed.
    """
    elapsed_s, volts, amperes, celsius, charged_ah, *changes = batch.unbind(dim=1)
    d_volts, d_amperes, d_celsius = changes
    columns = [
        (elapsed_s - 4700) / 2800,
        (volts - 4.15) / 0.1,
        ((volts - 4.2) / 0.005).clamp(-3, 3),  # the held voltage, which chargers differ in
        (amperes - 0.6) / 0.6,
        amperes.clamp(min=1e-3).log() + 1.2,
        (celsius - 25.8) / 1.9,
        (charged_ah - 1.2) / 0.5,
        (d_volts / 0.002).asinh(),
        (d_amperes / 0.005).asinh(),
        (d_celsius / 0.05).asinh(),
    ]
    return torch.stack(columns, dim=1).clamp(-8, 8)


INPUTS = 10


class BatteryNet(nn.Module):
    """Dense 10-128-128-64 with two heads: a logit for each cell, and the hours to full."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(INPUTS, 128),
                relu1=nn.ReLU(),
                fc2=nn.Linear(128, 128),
                relu2=nn.ReLU(),
                fc3=nn.Linear(128, 64),
                relu3=nn.ReLU(),
            )
        )
        self.cell = nn.Linear(64, len(CELLS))
        self.time = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 10) prepared -> (n, 4): logits of the cells, then hours to full."""
        features = self.trunk(x)
        return torch.cat([self.cell(features), self.time(features)], dim=1)


def cell_and_time_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the cell + `TIME_WEIGHT` * smooth absolute error of the hours.

    Args:
        outputs: (n, 4) logits and hours.
        targets: (n, 2) cell index and seconds.
    """
    cell = F.cross_entropy(outputs[:, : len(CELLS)], targets[:, 0].long())
    return cell + TIME_WEIGHT * _time_loss(outputs[:, -1], targets[:, 1] / TIME_UNIT_S)


def imitation_loss(outputs: Tensor, soft_targets: Tensor, temperature: float) -> Tensor:
    """As `cell_and_time_loss`, towards a teacher's logits, softened, and its hours.

    Args:
        outputs, soft_targets: (n, 4) logits and hours.
        temperature: of the logits alone; hours have no distribution to soften.
    """
    divergence = F.kl_div(
        F.log_softmax(outputs[:, : len(CELLS)] / temperature, dim=1),
        F.log_softmax(soft_targets[:, : len(CELLS)] / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    time = _time_loss(outputs[:, -1], soft_targets[:, -1])
    return divergence * temperature**2 + TIME_WEIGHT * time


def _time_loss(hours: Tensor, wanted: Tensor) -> Tensor:
    # The mean absolute error is what is reported; its corner at 0 is rounded off within 3 minutes.
    return F.smooth_l1_loss(hours, wanted, beta=0.05)


def cell_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """(n, 4), (n, 2) -> (n,) of 0.0 or 1.0: whether the cell is right."""
    return (outputs[:, : len(CELLS)].argmax(dim=1) == targets[:, 0].long()).float()


def time_error_s(outputs: Tensor, targets: Tensor) -> Tensor:
    """(n, 4), (n, 2) -> (n,) seconds: how far off the time to full is."""
    return (outputs[:, -1].double() * TIME_UNIT_S - targets[:, 1].double()).abs()


def shipped(name: str) -> dict[str, Tensor]:
    """Tensors that ship with the package, by the file's name."""
    with as_file(files("evaluators.workloads") / "baselines" / f"{name}.safetensors") as path:
        return load_file(path)


def teacher_outputs() -> dict[str, Tensor]:
    """What the boosted trees say: "train", "validation" and "test" -> (n, 4) as the network's.

    Each training charge was predicted by trees that had not seen it: what trees say of their own
    training rows is the target once more, not a softer one.
    """
    return shipped(TEACHER)


def _soft_targets() -> Tensor:
    return teacher_outputs()["train"]


def battery() -> Workload:
    """Which of three cells is charging, and the time until it is full."""
    model = BatteryNet()
    model.load_state_dict(shipped(BASELINE))
    train, validation, test = splits()
    return Workload(
        "battery",
        model.eval(),
        train=train,
        validation=validation,
        test=test,
        score=cell_correct,
        secondary=(SecondaryScore(CHARGE_TIME_ERROR, time_error_s),),
        loss=cell_and_time_loss,
        imitation=imitation_loss,
        prepare=prepare,
        recipe=Recipe(batch_size=100, learning_rate=2e-3, search_epochs=20, full_epochs=80),
        soft_targets=_soft_targets,
    )
