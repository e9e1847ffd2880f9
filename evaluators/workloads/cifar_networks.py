"""VGG-16 and ResNet-18 for 32 x 32 pictures, of any width. Definitions only: no weights ship.

They are trained with batch-norms and then folded, so that a workload's network has convolutions
and dense layers alone (`python -m evaluators.workloads.train_cifar10` does both).
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["NETWORKS", "ResNet18", "Vgg16", "folded"]

CLASSES = 10
#: Simonyan and Zisserman 2014 (arXiv 1409.1556), column D; None = halve height and width.
_VGG16 = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


class ConvNorm(nn.Module):
    """A convolution and its batch-norm; after `folded` the convolution alone, with a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        found: Tensor = self.norm(self.conv(x))
        return found


class Vgg16(nn.Module):
    """VGG-16 with batch-norms in its CIFAR form: 13 convolutions and one dense layer.

    Width 1 has 14,724,042 parameters with its batch-norms, 14,719,818 once it is folded.
    """

    def __init__(self, width: float = 1.0) -> None:
        """Args: width: what every number of channels is multiplied by, above 0."""
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels in _VGG16:
            if channels is None:
                layers.append(nn.MaxPool2d(2))
                continue
            after = _scaled(channels, width)
            layers += [ConvNorm(before, after, 3), nn.ReLU()]
            before = after
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2))
        self.linear = nn.Linear(before, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, 32, 32) normalised -> (batch, 10) logits."""
        logits: Tensor = self.linear(self.features(images).flatten(1))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 3, stride)
        self.conv2 = ConvNorm(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2015, arXiv 1512.03385) in its CIFAR form: a 3x3 stem, no pooling.

    Width 1 has 11,173,962 parameters with its batch-norms, 11,169,162 once it is folded.
    """

    def __init__(self, width: float = 1.0) -> None:
        """Args: width: what every number of channels is multiplied by, above 0."""
        super().__init__()
        before = _scaled(64, width)
        self.conv1 = ConvNorm(3, before, 3)
        for number, channels in enumerate((64, 128, 256, 512), start=1):
            after, stride = _scaled(channels, width), 1 if number == 1 else 2
            blocks = (BasicBlock(before, after, stride), BasicBlock(after, after, 1))
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = after
        self.linear = nn.Linear(before, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, 32, 32) normalised -> (batch, 10) logits."""
        x = F.relu(self.conv1(images))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


NETWORKS: Mapping[str, Callable[[float], nn.Module]] = {"vgg16": Vgg16, "resnet18": ResNet18}


def folded(network: nn.Module) -> nn.Module:
    """The network in eval mode with every batch-norm inside its convolution; changed in place."""
    network.eval()
    for module in list(network.modules()):
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            with torch.no_grad():
                module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return network
