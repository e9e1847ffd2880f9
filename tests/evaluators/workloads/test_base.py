"""What a user may give as data."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.workloads.base import Split, Workload, as_split, correct
from spaces import ACCURACY, InvalidRequest
from tests import networks


class Dataset:
    """Map-style, of pairs, as torchvision's are."""

    def __init__(self, count: int, target: Any = lambda i: i % 3) -> None:
        self.count, self.target = count, target

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index >= self.count:
            raise IndexError(index)
        return np.full((2, 2), index, np.uint8), self.target(index)


def test_numpy_arrays() -> None:
    """numpy's defaults are float64 and whatever integer; torch's losses want neither."""
    inputs, targets = np.linspace(0, 1, 12).reshape(6, 2), np.arange(6, dtype=np.uint8)
    split = as_split("train", (inputs, targets))
    assert (split.inputs.dtype, split.targets.dtype) == (torch.float32, torch.int64)
    assert np.allclose(split.inputs.numpy(), inputs)
    inputs[:] = 7
    assert float(split.inputs.max()) == 1.0


def test_arrays_that_may_not_be_written_to() -> None:
    inputs = np.ones((4, 2), np.float32)
    inputs.setflags(write=False)
    assert len(as_split("train", (inputs, [0, 1, 0, 1]))) == 4


def test_stored_images_stay_bytes() -> None:
    split = as_split("train", (np.zeros((3, 8, 8), np.uint8), [0, 1, 2]))
    assert split.inputs.dtype == torch.uint8


@pytest.mark.parametrize(
    "target", [lambda i: i % 3, lambda i: torch.tensor(i % 3), lambda i: np.int32(i % 3)]
)
def test_a_map_style_dataset(target: Any) -> None:
    split = as_split("train", Dataset(7, target))
    assert split.inputs.shape == (7, 2, 2)
    assert split.inputs[:, 0, 0].tolist() == list(range(7))
    assert split.targets.dtype == torch.int64
    assert split.targets.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_dataset_with_several_targets() -> None:
    split = as_split("train", Dataset(3, lambda i: [i / 2, 1.0]))
    assert split.targets.dtype == torch.float32
    assert split.targets.tolist() == [[0.0, 1.0], [0.5, 1.0], [1.0, 1.0]]


def test_a_torch_dataset() -> None:
    data = torch.utils.data.TensorDataset(torch.ones(5, 3), torch.arange(5))
    assert as_split("train", data).targets.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "must be a pair .* but got int"),
        ((torch.ones(3, 1), torch.ones(2)), "but got 3 and 2"),
        ((torch.ones(0, 1), torch.ones(0)), "at least one"),
        (Dataset(0), "at least one"),
        ((np.array(["a", "b"]), np.arange(2)), "train cannot be made a tensor"),
        (([[1], [1, 2]], [0, 1]), "train cannot be made a tensor"),
    ],
)
def test_what_is_no_split(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        as_split("train", value)


def test_defaults_of_a_workload() -> None:
    workload = networks.workload(nn.Linear(2, 2), test=None)
    assert workload.metric is ACCURACY
    assert workload.test is None
    assert workload.fidelity(1.5) == 480
    assert correct(torch.tensor([[1.0, 2], [3, 0]]), torch.tensor([1, 1])).tolist() == [1.0, 0.0]


def test_a_model_that_is_none() -> None:
    with pytest.raises(InvalidRequest, match=r"must be a torch.nn.Module, but got function"):
        networks.workload(networks.make_mlp)  # type: ignore[arg-type]


def test_a_split_where_it_already_is() -> None:
    split = Split(torch.ones(2), torch.ones(2))
    assert split.to("cpu") is split
    assert isinstance(networks.mlp(), Workload)
