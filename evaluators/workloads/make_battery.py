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
from torch import Tensor

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
#: The last epoch is kept. More fit the training charges better and the time of others worse: 300
#: gave 94.2 % and 4.0 min on validation, 200 gave 93.9 % and 3.8 min, 100 gave 93.6 % and 3.8 min.
#: So the baseline is not the most accurate one that could be had (one seed each).
EPOCHS = 200
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3
#: Cells differ by millivolts while the voltage is held, finer than the default of 256 bins. Of four
#: settings that were tried this had the best validation figures; what bins alone give was not
#: measured.
_COMMON = {
    "max_depth": 4,
    "eta": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "max_bin": 4096,
    "nthread": 1,
}
_CELL = {**_COMMON, "objective": "multi:softprob", "num_class": len(CELLS)}
_TIME = {**_COMMON, "objective": "reg:absoluteerror"}
ROUNDS = 1500


@dataclass(frozen=True)
class Trees:
    """The two forests, fitted."""

    cell: Any
    time: Any

    @classmethod
    def fitted(cls, split: Split, seed: int, rounds: int = ROUNDS) -> "Trees":
        """Fit both to a split.

        Raises:
            InvalidRequest: xgboost is missing.
        """
        xgboost = _xgboost()
        inputs = _tree_inputs(split)
        cell = xgboost.DMatrix(inputs, label=split.targets[:, 0].numpy())
        time = xgboost.DMatrix(inputs, label=(split.targets[:, 1] / TIME_UNIT_S).numpy())
        return cls(
            xgboost.train({**_CELL, "seed": seed}, cell, num_boost_round=rounds),
            xgboost.train({**_TIME, "seed": seed}, time, num_boost_round=rounds),
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


def out_of_fold(split: Split, charges: np.ndarray, seed: int = 0, rounds: int = ROUNDS) -> Tensor:
    """(n, 4): for every sample what trees say which saw none of its charge.

    Args:
        split: n samples.
        charges: (n,) which charge each belongs to.
        seed: of the folds and the trees.
        rounds: trees of each forest, for each class.
    """
    names = np.random.default_rng(seed).permutation(np.unique(charges))
    found = torch.empty(len(split), len(CELLS) + 1)
    for fold in range(FOLDS):
        is_out = torch.from_numpy(np.isin(charges, names[fold::FOLDS]))
        seen = Split(split.inputs[~is_out], split.targets[~is_out])
        asked = Split(split.inputs[is_out], split.targets[is_out])
        found[is_out] = Trees.fitted(seen, seed, rounds).outputs(asked)
    return found


def train_baseline(train: Split, seed: int = 0) -> BatteryNet:
    """The network, trained on the data alone."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = BatteryNet()
    inputs = prepare(train.inputs)
    steps = EPOCHS * -(-len(train) // BATCH)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(train)).split(BATCH):
            optimiser.zero_grad()
            cell_and_time_loss(model(inputs[batch]), train.targets[batch]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


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
        model = train_baseline(parts["train"])
        with torch.no_grad():
            for name, part in parts.items():
                _say(f"{BASELINE}, {name}", model(prepare(part.inputs)), part)
        save_file(model.state_dict(), arguments.out / f"{BASELINE}.safetensors")


if __name__ == "__main__":
    main()
