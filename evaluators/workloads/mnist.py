"""The MNIST workloads: LeNet-300-100, LeNet-5 and the TensorFlow tutorial's small CNN.

MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0) ships inside the package. The last 10,000 of the 60,000
training images are the validation split. The trained baselines and the teacher ship too;
`python -m evaluators.workloads.make_baselines` makes them again. Fine-tuning sees stored distorted
copies of the training split, made once a machine, and so are the teacher's logits on them.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evaluators.workloads.augment import augmented_copies
from evaluators.workloads.base import Recipe, Split, Workload
from evaluators.workloads.cache import cached_array, cached_parts

__all__ = [
    "NETWORKS",
    "TEACHER",
    "cnn",
    "cnn_mnist",
    "distorted_train",
    "lenet5",
    "lenet5_mnist",
    "lenet300",
    "lenet300_mnist",
    "teacher",
]

VALIDATION_SAMPLES = 10_000
#: Sets of the training split that are stored, the undistorted one among them.
COPIES = 4
AUGMENTATION_SEED = 0
#: A network of 6,000 weights has no room for all distortions: LeNet-300-100 at 98 % sparsity, 120
#: epochs, lost 1.9 to 2.0 % at full strength, which the teacher was trained with, 1.6 % at half.
AUGMENTATION_STRENGTH = 0.5
#: Part of the cache files' names: raise it when `augmented_copies` changes.
AUGMENTATION_VERSION = 2
TEACHER = "teacher-mnist"
TEACHER_BATCH = 100


def lenet300() -> nn.Module:
    """784-300-100-10, 266,610 parameters (LeCun et al. 1998)."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, 10),
        )
    )


def lenet5() -> nn.Module:
    """Conv 20 5x5, conv 50 5x5, 500, 10; 431,080 parameters (Caffe's form of LeNet-5)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu1=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )


def cnn() -> nn.Module:
    """Conv 12 3x3, max-pool, dense 10; 20,410 parameters (the TFMOT tutorials' net)."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 12, 3),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(2028, 10),
        )
    )


def teacher() -> nn.Module:
    """Four 3x3 convolutions with batch-norm and two dense layers; 144,000 parameters.

    Distorted training data and five times LeNet-5's parameters' worth of convolution give it half
    the error of any network here, which is what makes its soft targets worth imitating.
    """

    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]

    return nn.Sequential(
        *convolution(1, 20),
        *convolution(20, 20),
        nn.MaxPool2d(2),
        *convolution(20, 40),
        *convolution(40, 40),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(640, 160),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(160, 10),
    )


#: Baseline file name -> constructor.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet300-mnist": lenet300,
    "lenet5-mnist": lenet5,
    "cnn-mnist": cnn,
}


def _to_unit_floats(batch: Tensor) -> Tensor:
    """uint8 (batch, 28, 28) -> float (batch, 1, 28, 28) in [0, 1]."""
    return batch.unsqueeze(1).float().div_(255.0)


@lru_cache(maxsize=1)
def splits() -> tuple[Split, Split, Split]:
    """Train (50,000), validation (10,000) and test (10,000), uint8 images."""
    with as_file(files("evaluators.workloads") / "data" / "mnist.npz") as path, np.load(path) as d:
        images, labels = torch.from_numpy(d["x_train"]), torch.from_numpy(d["y_train"]).long()
        test = Split(torch.from_numpy(d["x_test"]), torch.from_numpy(d["y_test"]).long())
    cut = len(images) - VALIDATION_SAMPLES
    return Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:]), test


def distorted_train(strength: float = AUGMENTATION_STRENGTH) -> Split:
    """`COPIES` sets of the training split, the first as it is, from this machine's cache."""
    train, _, _ = splits()

    def make() -> np.ndarray:
        images = augmented_copies(train.inputs, COPIES, AUGMENTATION_SEED, strength)
        found: np.ndarray = images.numpy()
        return found

    name = f"mnist-train-x{COPIES}-by{strength:g}-v{AUGMENTATION_VERSION}"
    return Split(torch.from_numpy(cached_array(name, make)), train.targets.repeat(COPIES))


@lru_cache(maxsize=1)
def _teacher() -> nn.Module:
    model = teacher()
    with as_file(_shipped(TEACHER)) as path:
        model.load_state_dict(load_file(path))
    return model.eval()


@torch.no_grad()
def _teacher_logits() -> Tensor:
    """(copies * 50,000, 10) logits on `distorted_train`, from this machine's cache."""
    digest = hashlib.sha256(_shipped(TEACHER).read_bytes()).hexdigest()[:12]

    def make(copy: int) -> np.ndarray:
        # Folded and channels last it is two and a half times as fast on a CPU.
        network = _folded(_teacher())
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        inputs = distorted_train().inputs.chunk(COPIES)[copy]
        parts = [
            network(_to_unit_floats(batch).contiguous(memory_format=torch.channels_last))
            for batch in inputs.split(TEACHER_BATCH)
        ]
        logits: np.ndarray = torch.cat(parts).numpy()
        return logits

    what = f"x{COPIES}-by{AUGMENTATION_STRENGTH:g}-v{AUGMENTATION_VERSION}"
    name = f"mnist-logits-{digest}-{what}"
    return torch.from_numpy(cached_parts(name, COPIES, make))


def _folded(network: nn.Module) -> nn.Module:
    """The teacher with each batch-norm inside the convolution before it."""
    modules = list(network.children())
    folded: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.BatchNorm2d):
            convolution = folded.pop()
            assert isinstance(convolution, nn.Conv2d)
            folded.append(fuse_conv_bn_eval(convolution, module))
        else:
            folded.append(module)
    return nn.Sequential(*folded).eval()


def _shipped(name: str) -> Traversable:
    return files("evaluators.workloads") / "baselines" / f"{name}.safetensors"


def _workload(name: str, recipe: Recipe) -> Workload:
    model = NETWORKS[name]()
    with as_file(_shipped(name)) as path:
        model.load_state_dict(load_file(path))
    train, validation, test = splits()
    return Workload(
        name=name,
        model=model.eval(),
        train=train,
        validation=validation,
        test=test,
        prepare=_to_unit_floats,
        recipe=recipe,
        fine_tuning=distorted_train,
        teacher=_teacher(),
        soft_targets=_teacher_logits,
    )


def lenet300_mnist() -> Workload:
    """The default workload."""
    return _workload("lenet300-mnist", Recipe(learning_rate=3e-3, full_epochs=15))


def lenet5_mnist() -> Workload:
    """LeNet-5."""
    return _workload("lenet5-mnist", Recipe(learning_rate=2e-3, search_epochs=0.5, full_epochs=3))


def cnn_mnist() -> Workload:
    """The TensorFlow tutorial's CNN."""
    return _workload("cnn-mnist", Recipe(learning_rate=3e-3, search_epochs=1, full_epochs=5))
