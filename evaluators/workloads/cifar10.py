"""CIFAR-10 and the pretrained ResNet-20 (269,722 parameters, He et al. 2015, arXiv 1512.03385).

VGG-16 and ResNet-18 are defined beside it (`cifar_networks`), without weights: a user trains them.

Data and weights are read from the folder that `$SEARCH_DATA` names: `cifar10/` (lossless mosaics)
and `pretrained-cifar10/resnet20.safetensors`. The network was trained on all
50,000 training images, so a part of those would flatter it as validation: the first half of the
test images is the validation split here, the second half the test split.
"""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evaluators.workloads.augment import shifted_copies
from evaluators.workloads.base import Recipe, Split, Workload
from evaluators.workloads.cache import cached_array
from evaluators.workloads.cifar_networks import NETWORKS
from evaluators.workloads.cifar_networks import folded as without_norms
from spaces import InvalidRequest

__all__ = [
    "ResNet20",
    "cifar_folder",
    "images",
    "normalised",
    "resnet18_cifar10",
    "resnet20_cifar10",
    "trained_path",
    "vgg16_cifar10",
]

SIDE, TILES = 32, 100
#: What the pretrained weights expect (ImageNet's, by their authors' choice).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALIDATION_SAMPLES = 5_000
#: Sets of the training images that are fine-tuned on: 460 MB in the cache.
COPIES, AUGMENTATION_SEED = 3, 0


class Block(nn.Module):
    """Two 3x3 convolutions, batch-norms folded in, beside a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        branch = self.conv2(F.relu(self.conv1(x)))
        if self.stride > 1:
            # Option A of the paper: every second pixel, new channels of zeros on both sides.
            added = (branch.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added, added))
        return F.relu(branch + x)


class ResNet20(nn.Module):
    """The network with batch-norms folded into the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1)
        widths = ((16, 16), (16, 32), (32, 64))
        for number, (inputs, outputs) in enumerate(widths, start=1):
            rest = [Block(outputs, outputs) for _ in range(2)]
            self.add_module(f"layer{number}", nn.Sequential(Block(inputs, outputs), *rest))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, 32, 32) normalised -> (batch, 10) logits."""
        x = F.relu(self.conv1(images))
        for name in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(name)(x)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def folded(weights: dict[str, Tensor]) -> ResNet20:
    """The network from weights that still have batch-norms.

    Args:
        weights: "conv1.weight", "bn1.weight", ..., "layer1.0.conv1.weight", ..., as published.
    """
    network = ResNet20()
    state: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            inputs, outputs = module.in_channels, module.out_channels
            plain = nn.Conv2d(inputs, outputs, 3, module.stride[0], 1, bias=False)
            norm = nn.BatchNorm2d(module.out_channels)
            prefix = name.replace("conv", "bn")
            plain.weight.data = weights[f"{name}.weight"]
            for part in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, part).data = weights[f"{prefix}.{part}"]
            fused = fuse_conv_bn_eval(plain.eval(), norm.eval())
            assert fused.bias is not None
            state |= {f"{name}.weight": fused.weight.data, f"{name}.bias": fused.bias.data}
    state |= {f"linear.{part}": weights[f"linear.{part}"] for part in ("weight", "bias")}
    network.load_state_dict(state)
    return network.eval()


PRETRAINED = "pretrained-cifar10/resnet20.safetensors"
LABELS = "cifar10/labels.npz"


def cifar_folder(workload: str, *needed: str) -> Path:
    """What `$SEARCH_DATA` names.

    Args:
        workload: for messages.
        needed: files that it must hold besides CIFAR-10.

    Raises:
        InvalidRequest: it is not set, or has no CIFAR-10.
    """
    folder = os.environ.get("SEARCH_DATA", "")
    files = (LABELS, *needed)
    missing = [name for name in files if not (Path(folder) / name).is_file()]
    if not folder or missing:
        what = "images and weights" if needed else "images"
        raise InvalidRequest(
            f"workload {workload} reads its {what} from the folder that "
            f"SEARCH_DATA names, here {folder!r}, which must hold {' and '.join(files)}"
        )
    return Path(folder)


def trained_path(network: str) -> Path:
    """Where `train_cifar10` puts a network's weights, in the folder that `$SEARCH_DATA` names."""
    return Path(os.environ.get("SEARCH_DATA", "")) / "trained-cifar10" / f"{network}.safetensors"


def mosaic(path: Path) -> np.ndarray:
    """(10000, 3, 32, 32) uint8 of a picture of 100 x 100 images.

    Raises:
        InvalidRequest: Pillow is missing.
    """
    try:
        from PIL import Image  # noqa: PLC0415 -- of the extra `images`
    except ImportError:
        raise InvalidRequest(
            "CIFAR-10's images need Pillow, not installed here: "
            "pip install 'compression-search[images]'"
        ) from None
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    tiles = pixels.reshape(TILES, SIDE, TILES, SIDE, 3).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2))


@lru_cache
def images() -> tuple[Split, Split, Split]:
    """Training, validation and test split of uint8 images (n, 3, 32, 32)."""
    folder = cifar_folder("on CIFAR-10") / "cifar10"
    with np.load(folder / "labels.npz", allow_pickle=False) as labels:
        train_y, test_y = (
            torch.from_numpy(labels[name].reshape(-1).astype(np.int64))
            for name in ("y_train", "y_test")
        )
    train_x = np.concatenate([mosaic(folder / f"train_{i}.webp") for i in range(5)])
    test_x = torch.from_numpy(mosaic(folder / "test.webp"))
    cut = VALIDATION_SAMPLES
    return (
        Split(torch.from_numpy(train_x), train_y),
        Split(test_x[:cut], test_y[:cut]),
        Split(test_x[cut:], test_y[cut:]),
    )


def augmented_train() -> Split:
    """`COPIES` sets of the training split, the first as it is, from this machine's cache."""
    train, _, _ = images()

    def make() -> np.ndarray:
        found: np.ndarray = shifted_copies(train.inputs, COPIES, AUGMENTATION_SEED).numpy()
        return found

    inputs = torch.from_numpy(cached_array(f"cifar10-train-x{COPIES}-v1", make))
    return Split(inputs, train.targets.repeat(COPIES))


def normalised(batch: Tensor) -> Tensor:
    """uint8 images -> the network's input."""
    mean, std = (
        torch.tensor(values, device=batch.device).view(1, 3, 1, 1) for values in (MEAN, STD)
    )
    return (batch.float() / 255 - mean) / std


def resnet20_cifar10() -> Workload:
    """ResNet-20 on CIFAR-10, 91.73 % on the whole test set.

    An epoch takes minutes on a CPU, so the search's fidelity is a fraction of one.
    """
    folder = cifar_folder("resnet20-cifar10", PRETRAINED)
    return _workload("resnet20-cifar10", folded(load_file(folder / PRETRAINED)))


def vgg16_cifar10() -> Workload:
    """VGG-16 on CIFAR-10, of the width that the user's weights have."""
    return _workload("vgg16-cifar10", trained("vgg16"))


def resnet18_cifar10() -> Workload:
    """ResNet-18 on CIFAR-10, of the width that the user's weights have."""
    return _workload("resnet18-cifar10", trained("resnet18"))


def trained(network: str) -> nn.Module:
    """A network with the weights that `train_cifar10` wrote.

    Raises:
        InvalidRequest: it wrote none, or the file is none of its.
    """
    workload, command = (
        f"{network}-cifar10",
        f"python -m evaluators.workloads.train_cifar10 {network}",
    )
    cifar_folder(workload)
    path = trained_path(network)
    if not path.is_file():
        raise InvalidRequest(
            f"workload {workload} has no weights yet, and none are shipped: `{command}` trains "
            f"them (on a GPU; --width 0.25 for a smaller network) and writes {path}"
        )
    try:
        with safe_open(path, "pt") as file:
            width = float((file.metadata() or {})["width"])
        model = without_norms(NETWORKS[network](width))
        model.load_state_dict(load_file(path))
    except (KeyError, RuntimeError, SafetensorError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InvalidRequest(
            f"workload {workload}: {path} is not what `{command}` writes: {reason}"
        ) from None
    return model.eval()


def _workload(name: str, model: nn.Module) -> Workload:
    train, validation, test = images()
    return Workload(
        name,
        model,
        train=train,
        validation=validation,
        test=test,
        prepare=normalised,
        fine_tuning=augmented_train,
        # Ten times the rate destroys what a short training cannot mend (8 bits after 0.1 epochs:
        # 91.2 % at 1e-4, 90.7 % at 3e-4; a quarter of all channels gone: 78.9 % at 3e-4, 56.0 %
        # at 1e-3), for the norms are folded into the convolutions.
        recipe=Recipe(batch_size=128, learning_rate=1e-4, search_epochs=0.1, full_epochs=1.0),
    )
