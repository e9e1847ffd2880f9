"""The shipped data and baselines are what they are said to be."""

import hashlib
import re
from importlib.resources import files

import numpy as np
import pytest
import torch

from evaluators.backends.pytorch.layers import compressible_layers
from evaluators.backends.pytorch.score import evaluate
from evaluators.workloads import mnist
from evaluators.workloads.base import Split
from evaluators.workloads.mnist import splits
from evaluators.workloads.registry import BUILT_IN, DEFAULT_WORKLOAD, load_workload

#: Of the decoded arrays of ../shared/data/mnist/mnist.npz: name, dtype, shape and bytes.
CONTENT_SHA256 = "796354bf1a5bdb3f752e23f487245288f2c35b1e0bc343e07448cffbb5f56624"

#: Validation and test accuracy, as `python -m evaluators.workloads.make_baselines` printed them.
BASELINES = {
    "lenet300-mnist": (0.9803, 0.9811),
    "lenet5-mnist": (0.9898, 0.9924),
    "cnn-mnist": (0.983, 0.9826),
}


def test_mnist_is_lossless() -> None:
    digest = hashlib.sha256()
    with files("evaluators.workloads").joinpath("data/mnist.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        for name in ("x_train", "y_train", "x_test", "y_test"):
            values = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
            digest.update(values.tobytes())
    assert digest.hexdigest() == CONTENT_SHA256


def test_the_splits_share_no_sample() -> None:
    train, validation, test = splits()
    assert [len(split) for split in (train, validation, test)] == [50_000, 10_000, 10_000]
    assert train.inputs.dtype == torch.uint8
    assert all(sorted(split.targets.unique().tolist()) == list(range(10)) for split in splits())
    seen = {bytes(image.numpy()) for image in train.inputs}
    assert not any(bytes(image.numpy()) in seen for image in validation.inputs)


@pytest.mark.parametrize("name", [n for n in BUILT_IN if n.endswith("-mnist")])
def test_baselines(name: str) -> None:
    """Accuracy to two samples (machines round differently), and the parameters as described."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        workload = load_workload(name)
        assert workload.name == name
        model = workload.model
        assert not model.training
        assert workload.test is not None
        found = tuple(evaluate(model, workload, s)[0] for s in (workload.validation, workload.test))
    finally:
        torch.set_num_threads(threads)
    assert found == pytest.approx(BASELINES[name], abs=2e-4)
    (count,) = re.findall(r"([\d,]+) parameters", BUILT_IN[name].description)
    assert sum(p.numel() for p in model.parameters()) == int(count.replace(",", ""))
    assert len(compressible_layers(model)) == {"lenet300-mnist": 3, "lenet5-mnist": 4}.get(name, 2)


def test_the_default_is_the_first() -> None:
    assert next(iter(BUILT_IN)) == DEFAULT_WORKLOAD


def test_the_teacher_is_twice_as_good_as_any_student() -> None:
    """99.44 and 99.46 % were printed; on a tenth of each split here, for time."""
    network = load_workload(DEFAULT_WORKLOAD).teacher
    assert network is not None
    workload = load_workload(DEFAULT_WORKLOAD)
    assert workload.test is not None
    for split in (workload.validation, workload.test):
        tenth = Split(split.inputs[::10], split.targets[::10])
        assert evaluate(network, workload, tenth)[0] > 0.988


def test_soft_targets_stand_beside_the_distorted_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "COPIES", 2)  # the teacher takes ten seconds for each
    workload = load_workload(DEFAULT_WORKLOAD)
    assert workload.fine_tuning is not None
    assert workload.soft_targets is not None
    split, logits = workload.fine_tuning(), workload.soft_targets()
    assert len(split) == len(logits) == 2 * len(workload.train)
    assert torch.equal(split.inputs[:1000], workload.train.inputs[:1000])
    for first in range(0, len(split), len(workload.train)):
        part = slice(first, first + 2000)
        assert torch.equal(split.targets[part], workload.train.targets[:2000])
        agreed = (logits[part].argmax(dim=1) == split.targets[part]).float().mean()
        assert agreed > 0.98
