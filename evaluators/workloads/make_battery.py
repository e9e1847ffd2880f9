"""Train what ships with the workload `battery`: `python -m evaluators.workloads.make_battery`.

Needs the extra `trees` (xgboost) and the data in `$SEARCH_DATA`. First the teacher, two forests of
boosted trees, one for the cell and one for the time; then the dense baseline, from the data alone.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluators.workloads.base import Split
from evaluators.workloads.battery import (
    BASELINE,
    CELLS,
    TEACHER,
    TIME_UNIT_S,
    BatteryNet,
    as_samples,
    cell_and_time_loss,
    cell_correct,
    checked_data,
    prepare,
    split_rows,
    time_error_s,
)
from spaces import InvalidRequest

__all__ = ["main", "out_of_fold", "train_baseline"]

FOLDS = 5
BATCH = 100
EPOCHS = 300
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3
_COMMON = {"max_depth": 6, "eta": 0.05, "subsample": 0.8, "colsample_bytree": 0.8, "nthread": 1}
_CELL = {**_COMMON, "objective": "multi:softprob", "num_class": len(CELLS)}
_TIME = {**_COMMON, "objective": "reg:absoluteerror"}
CELL_ROUNDS, TIME_ROUNDS = 400, 600


@dataclass(frozen=True)
class Trees:
    """The two forests, fitted."""

    cell: Any
    time: Any

    @classmethod
    def fitted(cls, split: Split, seed: int) -> "Trees":
        """Fit both to a split.

        Raises:
            InvalidRequest: xgboost is missing.
        """
        xgboost = _xgboost()
        inputs = _tree_inputs(split)
        cell = xgboost.DMatrix(inputs, label=split.targets[:, 0].numpy())
        time = xgboost.DMatrix(inputs, label=(split.targets[:, 1] / TIME_UNIT_S).numpy())
        return cls(
            xgboost.train({**_CELL, "seed": seed}, cell, num_boost_round=CELL_ROUNDS),
            xgboost.train({**_TIME, "seed": seed}, time, num_boost_round=TIME_ROUNDS),
        )

    def outputs(self, split: Split) -> Tensor:
        """(n, 4) float32: log-probabilities of the cells, hours to full."""
        inputs = _xgboost().DMatrix(_tree_inputs(split))
        logits = np.log(np.maximum(self.cell.predict(inputs), 1e-6))
        found = np.column_stack([logits, self.time.predict(inputs)])
        return torch.from_numpy(found.astype(np.float32))


def _xgboost() -> Any:
    try:
        import xgboost  # noqa: PLC0415 -- of the extra `trees`
    except ImportError:
        raise InvalidRequest(
            "the battery teacher needs xgboost, not installed here: "
            "pip install 'compression-search[trees]'"
        ) from None
    return xgboost


def _tree_inputs(split: Split) -> np.ndarray:
    inputs: np.ndarray = prepare(split.inputs).numpy()
    return inputs


def out_of_fold(split: Split, charges: np.ndarray, seed: int = 0) -> Tensor:
    """(n, 4): for every sample what trees say which saw none of its charge.

    Args:
        split: n samples.
        charges: (n,) which charge each belongs to.
        seed: of the folds and the trees.
    """
    names = np.random.default_rng(seed).permutation(np.unique(charges))
    found = torch.empty(len(split), len(CELLS) + 1)
    for fold in range(FOLDS):
        is_out = torch.from_numpy(np.isin(charges, names[fold::FOLDS]))
        seen = Split(split.inputs[~is_out], split.targets[~is_out])
        asked = Split(split.inputs[is_out], split.targets[is_out])
        found[is_out] = Trees.fitted(seen, seed).outputs(asked)
    return found


def train_baseline(train: Split, validation: Split, seed: int = 0) -> BatteryNet:
    """The network, trained on the data alone; the epoch with the least validation loss is kept."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = BatteryNet()
    inputs = prepare(train.inputs)
    steps = EPOCHS * -(-len(train) // BATCH)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    least, best = float("inf"), model.state_dict()
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(train)).split(BATCH):
            optimiser.zero_grad()
            cell_and_time_loss(model(inputs[batch]), train.targets[batch]).backward()
            optimiser.step()
            schedule.step()
        loss = _validation_loss(model.eval(), validation)
        if loss < least:
            least = loss
            best = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best)
    return model.eval()


@torch.no_grad()
def _validation_loss(model: nn.Module, split: Split) -> float:
    return cell_and_time_loss(model(prepare(split.inputs)), split.targets).item()


def _say(who: str, outputs: Tensor, split: Split) -> None:
    accuracy = cell_correct(outputs, split.targets).mean().item()
    minutes = time_error_s(outputs, split.targets).mean().item() / 60
    sys.stdout.write(f"{who}: accuracy {100 * accuracy:.2f} %, time-to-full {minutes:.2f} min\n")
    sys.stdout.flush()


def main() -> None:
    """Write teacher outputs and baseline into a folder and print what they are worth."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "baselines"
    parser.add_argument("--out", type=Path, default=default, help="folder to write into")
    parser.add_argument("names", nargs="*", default=[TEACHER, BASELINE], help="which of the two")
    arguments = parser.parse_args()
    data = checked_data()
    rows = dict(zip(("train", "validation", "test"), split_rows(data), strict=True))
    parts = {name: as_samples(data, chosen) for name, chosen in rows.items()}
    if TEACHER in arguments.names:
        outputs = {"train": out_of_fold(parts["train"], data.charges[rows["train"]])}
        trees = Trees.fitted(parts["train"], seed=0)
        outputs |= {name: trees.outputs(parts[name]) for name in ("validation", "test")}
        for name, found in outputs.items():
            _say(f"{TEACHER}, {name}", found, parts[name])
        save_file(outputs, arguments.out / f"{TEACHER}.safetensors")
    if BASELINE in arguments.names:
        model = train_baseline(parts["train"], parts["validation"])
        with torch.no_grad():
            for name, part in parts.items():
                _say(f"{BASELINE}, {name}", model(prepare(part.inputs)), part)
        save_file(model.state_dict(), arguments.out / f"{BASELINE}.safetensors")


if __name__ == "__main__":
    main()
