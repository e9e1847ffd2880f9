"""PyTorch networks written for LiteRT operator by operator: the same outputs, or a refusal."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

from evaluators.artifacts.base import CannotHold
from evaluators.backends.pytorch.export import artifact_of_model
from evaluators.backends.pytorch.formats import Removal, make_format
from evaluators.workloads.cifar10 import ResNet20


def restored(model: nn.Module, *shape: int):  # type: ignore[no-untyped-def]
    sample = torch.zeros(1, *shape)
    kind = make_format("tflite", model.eval(), sample, lambda: sample)
    artifact = kind.stored(artifact_of_model(model))
    return kind.read(kind.write(artifact, Removal(model, sample)))


def varied() -> nn.Module:
    """A stride with padding, groups, every kind of pooling and activation but a few."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 16, 3, padding="same", groups=8),
        nn.Hardswish(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 4, (1, 3), dilation=(1, 1)),
        nn.SiLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.Softmax(-1),
    )


class ReadTwice(nn.Module):
    """A convolution whose outputs are also read without the ReLU behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 3, 3, padding=1), nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        found = self.conv(images)
        return torch.relu(self.drop(found)) - found


@pytest.mark.parametrize("make", [varied, ResNet20, ReadTwice])
def test_outputs_are_torchs(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().train()
    batch = torch.randn(6, 3, 16, 16)
    model(batch)  # batch-norms get statistics of their own
    with torch.no_grad():
        expected = model.eval()(batch).numpy()
    found = restored(model, 3, 16, 16).run(batch).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.PixelShuffle(2))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.inner(images)
        return found


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Turned(), (3, 8, 8), r"^inner\.1: tflite: operator .*pixel_shuffle.* is not translated"),
        (nn.Sequential(nn.Conv1d(3, 4, 3)), (3, 8), r"^0: tflite: operator .*conv1d"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), (4, 8, 8), r"^0: tflite: .* 2 groups"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, padding=1)),
            (3, 8, 8),
            r"^1: tflite: max-pooling with padding",
        ),
    ],
)
def test_what_has_no_translation_is_refused_by_its_layer(
    model: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CannotHold, match=message):
        restored(model, *shape)
