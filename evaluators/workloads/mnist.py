"""The MNIST workloads: LeNet-300-100, LeNet-5 and the TensorFlow tutorial's small CNN.

MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0) ships inside the package. The last 10,000 of the 60,000
training images are the validation split. The trained baselines ship too;
`python -m evaluators.workloads.make_baselines` makes them again.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import as_file, files

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluators.workloads.base import Recipe, Split, Workload

__all__ = ["NETWORKS", "cnn", "cnn_mnist", "lenet5", "lenet5_mnist", "lenet300", "lenet300_mnist"]

VALIDATION_SAMPLES = 10_000


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


def _workload(name: str, recipe: Recipe) -> Workload:
    model = NETWORKS[name]()
    with as_file(files("evaluators.workloads") / "baselines" / f"{name}.safetensors") as path:
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
    )


def lenet300_mnist() -> Workload:
    """The default workload."""
    return _workload("lenet300-mnist", Recipe(learning_rate=3e-3))


def lenet5_mnist() -> Workload:
    """LeNet-5."""
    return _workload("lenet5-mnist", Recipe(learning_rate=2e-3, search_epochs=0.5, full_epochs=3))


def cnn_mnist() -> Workload:
    """The TensorFlow tutorial's CNN."""
    return _workload("cnn-mnist", Recipe(learning_rate=3e-3, search_epochs=1, full_epochs=5))
