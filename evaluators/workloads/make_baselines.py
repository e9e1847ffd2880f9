"""Train the shipped MNIST networks again: `python -m evaluators.workloads.make_baselines`.

Plain recipe: Adam, batch 100, cosine to zero, the epoch with the best validation accuracy is kept.
Baselines see the training split as it is, about three minutes on one core; the teacher sees its
distorted copies, about ten.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from evaluators.workloads.best_epoch import BestEpoch, accuracy
from evaluators.workloads.mnist import (
    NETWORKS,
    TEACHER,
    _to_unit_floats,
    distorted_train,
    splits,
    teacher,
)

__all__ = ["main", "train"]

EPOCHS = {"lenet300-mnist": 15, "lenet5-mnist": 8, "cnn-mnist": 20, TEACHER: 14}
LEARNING_RATES = {"lenet300-mnist": 1e-3, "lenet5-mnist": 1e-3, "cnn-mnist": 3e-3, TEACHER: 3e-3}
BATCH = 100


def train(name: str, seed: int = 0) -> tuple[torch.nn.Module, float, float]:
    """The trained network with its validation and test accuracy."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = teacher() if name == TEACHER else NETWORKS[name]()
    plain, validation, test = splits()
    seen = distorted_train(strength=1.0) if name == TEACHER else plain
    steps = EPOCHS[name] * len(plain) // BATCH
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATES[name], fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best = BestEpoch(model)
    for _ in range(EPOCHS[name]):
        model.train()
        for batch in torch.randperm(len(seen))[: len(plain)].split(BATCH):
            logits = model(_to_unit_floats(seen.inputs[batch]))
            loss = F.cross_entropy(logits, seen.targets[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        best.offer(accuracy(model, validation, _to_unit_floats))
    best.restore()
    return model, best.accuracy, accuracy(model, test, _to_unit_floats)


def main() -> None:
    """Write the baselines into a folder and print their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "baselines"
    parser.add_argument("--out", type=Path, default=default, help="folder to write into")
    parser.add_argument("names", nargs="*", default=[*NETWORKS, TEACHER], help="which networks")
    arguments = parser.parse_args()
    for name in arguments.names:
        model, validation, test = train(name)
        save_file(model.state_dict(), arguments.out / f"{name}.safetensors")
        sys.stdout.write(f"{name}: validation {validation:.4f}, test {test:.4f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
