"""ResNet-20 on CIFAR-10: the published accuracy, with batch-norms folded away."""

import os

import pytest
import torch

from evaluators.backends.pytorch.channels import channel_groups
from evaluators.backends.pytorch.layers import compressible_layers
from evaluators.backends.pytorch.score import evaluate
from evaluators.workloads.base import Split
from evaluators.workloads.cifar10 import ResNet20, normalised, resnet20_cifar10
from evaluators.workloads.registry import load_workload
from spaces import InvalidRequest

has_data = pytest.mark.skipif(
    not os.environ.get("SEARCH_DATA"), reason="SEARCH_DATA names no folder with CIFAR-10"
)


def test_without_the_data_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_DATA", "/nowhere")
    with pytest.raises(InvalidRequest, match=r"SEARCH_DATA names, here '/nowhere', .*labels\.npz"):
        load_workload("resnet20-cifar10")


@has_data
def test_the_published_accuracy() -> None:
    """91.73 % of all 10,000 test images, to the last one, though no batch-norm is left."""
    workload = resnet20_cifar10()
    assert not any("Norm" in type(m).__name__ for m in workload.model.modules())
    assert workload.test is not None
    halves = [evaluate(workload.model, workload, s) for s in (workload.validation, workload.test)]
    assert sum(mean for mean, _, _ in halves) / 2 == pytest.approx(0.9173, abs=1e-9)
    assert isinstance(workload.train, Split)
    assert len(workload.train) == 50_000


def test_the_first_convolution_of_each_block_can_lose_channels() -> None:
    """Those on the residual stream are coupled through zero-padded shortcuts, and stay."""
    torch.manual_seed(0)
    model = ResNet20().eval()
    layers = list(compressible_layers(model))
    groups = channel_groups(model, layers, normalised(torch.zeros(1, 3, 32, 32)))
    removable = {name for group in groups if group.removable for name in group.layers}
    assert {n for n in layers if n.startswith("layer") and n.endswith("conv1")} <= removable
