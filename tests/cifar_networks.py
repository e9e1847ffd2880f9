"""VGG-16 and ResNet-18 at an eighth of their width on a few random pictures: `Bench` by name."""

import torch
from torch import nn

from evaluators.workloads.base import Recipe, Split, Workload
from evaluators.workloads.cifar10 import normalised
from evaluators.workloads.cifar_networks import NETWORKS, folded

WIDTH = 0.125


def name(function: str) -> str:
    return f"{__file__}:{function}"


def pictures(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(inputs, torch.randint(10, (count,), generator=generator))


def make(network: str) -> nn.Module:
    """Untrained, but with statistics of its own in every batch-norm that was folded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[network](WIDTH).train()
        with torch.no_grad():
            model(normalised(pictures(32, seed=3).inputs))
    return folded(model)


def workload(network: str) -> Workload:
    return Workload(
        "tiny",
        make(network),
        train=pictures(40, seed=0),
        validation=pictures(20, seed=1),
        prepare=normalised,
        recipe=Recipe(batch_size=20, learning_rate=1e-3),
    )


def vgg16() -> Workload:
    return workload("vgg16")


def resnet18() -> Workload:
    return workload("resnet18")
