"""Removing channels from numbered tensors says where every element that is left came from."""

import numpy as np
import torch

from evaluators.artifacts.base import expanded, sliced
from evaluators.artifacts.packed import Artifact, FloatTensor, GridTensor
from evaluators.backends.pytorch import slices as module
from evaluators.backends.pytorch.channels import remove_channels
from evaluators.backends.pytorch.export import artifact_of_model, plain_state
from evaluators.backends.pytorch.slices import slices_of
from tests import networks

SAMPLE = torch.zeros(1, 1, 8, 8)


def test_the_sliced_artifact_is_that_of_the_smaller_network() -> None:
    model, dead = networks.residual().model, {"stem": [0, 3, 4], "inner": [5]}
    slices = slices_of(model, SAMPLE, dead)
    small = plain_state(remove_channels(model, SAMPLE, dead))
    for tensor in sliced(artifact_of_model(model), slices).tensors:
        assert np.array_equal(tensor.decode(), small[tensor.name].numpy()), tensor.name


def test_large_tensors_are_numbered_in_two_halves(monkeypatch) -> None:
    model, dead = networks.conv().model, {"0": [1, 6]}
    expected = slices_of(model, SAMPLE, dead)
    monkeypatch.setattr(module, "_HALF", 16)
    found = slices_of(model, SAMPLE, dead)
    assert expected.keys() == found.keys() == {"0.weight", "0.bias", "4.weight"}
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_nothing_dead_nothing_sliced() -> None:
    assert slices_of(networks.conv().model, SAMPLE, {"0": []}) == {}


def test_scales_go_with_their_channels() -> None:
    levels = np.arange(8, dtype=np.int32).reshape(4, 2)
    grid = GridTensor("w", levels, np.array([1, 2, 3, 4], np.float32))
    left = {"w": np.array([[0, 1], [4, 5], [6, 7]])}
    small = sliced(Artifact((grid,)), left).tensors[0]
    assert isinstance(small, GridTensor)
    assert small.scale.tolist() == [1, 3, 4]
    whole = expanded({"w": small.decode()}, {"w": (4, 2)}, left)["w"]
    assert np.array_equal(whole, grid.decode() * [[1], [0], [1], [1]])


def test_tensors_that_lose_nothing_stay_whole() -> None:
    values = FloatTensor("b", np.ones(3, np.float32))
    assert sliced(Artifact((values,)), {}).tensors == (values,)
    assert expanded({"b": values.decode()}, {"b": (3,)}, {})["b"].tolist() == [1, 1, 1]
