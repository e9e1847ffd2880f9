"""Train VGG-16 or ResNet-18 on CIFAR-10: `python -m evaluators.workloads.train_cifar10 vgg16`.

Meant for a GPU. Plain recipe: SGD with Nesterov momentum 0.9, weight decay 5e-4, a cosine from 0.1,
crops padded by 4 pixels and mirrored at random. All 50,000 training images are seen; the halves of
the test images are the workload's validation and test split, and what the network scores on them
is printed and kept in the file. Whatever `--width` it has, the file says so.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluators.workloads.base import Split
from evaluators.workloads.cifar10 import cifar_folder, images, normalised, trained_path
from evaluators.workloads.cifar_networks import NETWORKS, folded
from spaces import InvalidRequest

__all__ = ["main", "train"]

BATCH = 128
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
PADDING_PX = 4


def distorted(batch: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 3, 32, 32) -> the same shape: a random crop of the padded picture, mirrored or not."""
    count, _, height, width = batch.shape
    padded = F.pad(batch, [PADDING_PX] * 4)
    tops, lefts = torch.randint(2 * PADDING_PX + 1, (2, count), generator=generator).to(
        batch.device
    )
    rows = tops[:, None] + torch.arange(height, device=batch.device)
    columns = lefts[:, None] + torch.arange(width, device=batch.device)
    mirrored = torch.rand(count, generator=generator).to(batch.device) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    sample = torch.arange(count, device=batch.device)[:, None, None]
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(network: nn.Module, split: Split, epochs: float, device: str, seed: int = 0) -> nn.Module:
    """The network after so many passes over a split, in training mode.

    Args:
        network: with its batch-norms.
        split: uint8 images.
        epochs: may be a fraction.
        device: "cpu" or "cuda".
        seed: of the order and the distortions.
    """
    generator = torch.Generator().manual_seed(seed)
    network = network.to(device).train()
    steps = max(1, round(epochs * len(split) / BATCH))
    optimiser = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    inputs, targets = split.inputs.to(device), split.targets.to(device)
    order = torch.randperm(len(split), generator=generator)
    for step in range(steps):
        at = step * BATCH % (len(split) - BATCH + 1) if len(split) > BATCH else 0
        if at < BATCH and step:
            order = torch.randperm(len(split), generator=generator)
        chosen = order[at : at + BATCH].to(device)
        batch = normalised(distorted(inputs[chosen], generator))
        loss = F.cross_entropy(network(batch), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network


@torch.no_grad()
def accuracy(network: nn.Module, split: Split, device: str) -> float:
    """Share of a split that the network gets right."""
    right = 0
    for inputs, targets in zip(split.inputs.split(500), split.targets.split(500), strict=True):
        found = network(normalised(inputs.to(device))).argmax(1).cpu()
        right += int((found == targets).sum())
    return right / len(split)


def main() -> None:
    """Train, fold, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, prog="train_cifar10")
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--width", type=float, default=1.0, help="factor of every layer's channels")
    parser.add_argument("--epochs", type=float, default=200.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for flag in ("width", "epochs"):
        if not getattr(arguments, flag) > 0:
            parser.error(f"--{flag} must be above 0, but got {getattr(arguments, flag)}")
    try:
        cifar_folder(f"{arguments.network}-cifar10")
        split, validation, test = images()
    except InvalidRequest as error:
        parser.error(str(error))
    torch.manual_seed(arguments.seed)
    network = NETWORKS[arguments.network](arguments.width)
    network = train(network, split, arguments.epochs, arguments.device, arguments.seed)
    network = folded(network)
    halves = [accuracy(network, half, arguments.device) for half in (validation, test)]
    path = trained_path(arguments.network)
    path.parent.mkdir(exist_ok=True)
    about = {
        "width": repr(arguments.width),
        "epochs": repr(arguments.epochs),
        "seed": str(arguments.seed),
        "validation_accuracy": repr(halves[0]),
        "test_accuracy": repr(halves[1]),
    }
    save_file({n: v.cpu() for n, v in network.state_dict().items()}, path, about)
    shown = " and ".join(f"{100 * half:.2f} %" for half in halves)
    sys.stdout.write(f"{path}: {shown} on the two halves of the test images\n")


if __name__ == "__main__":
    main()
