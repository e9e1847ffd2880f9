"""Which channels go together, that removing them is exact, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.artifacts.packed import decode
from evaluators.backends.pytorch.backend import _dead_channels
from evaluators.backends.pytorch.channels import ChannelGroup, channel_groups, remove_channels
from evaluators.backends.pytorch.export import load_artifact
from evaluators.backends.pytorch.layers import compressible_layers
from spaces import LayerPolicy, Policy
from tests import networks
from tests.evaluators.backends.conftest import Bench


def asked(order: str = "prune", **sparsity: float) -> Policy:
    layers = {n: LayerPolicy(sparsity=s, pattern="channel") for n, s in sparsity.items()}
    return Policy(tuple(order.split(">")), tuple(layers.items()))  # type: ignore[arg-type]


def groups_of(model: nn.Module, sample: Tensor) -> dict[str, ChannelGroup]:
    found = channel_groups(model, compressible_layers(model), sample)
    return {name: group for group in found for name in group.layers}


class Block(nn.Module):
    """conv, an operation, conv, flatten, linear: only the operation differs."""

    def __init__(self, operation: nn.Module, groups: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.operation = operation
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.last = nn.Linear(8 * 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.second(self.operation(self.first(images))))
        return self.last(hidden.flatten(1))


class MinusMean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images - images.mean(dim=1, keepdim=True)


class Skip(nn.Module):
    """The second layer's outputs are added to the first's, which are the network's too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 4)

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.first(values)
        return hidden + self.second(F.relu(hidden))


class FromInput(nn.Module):
    """A residual whose other side is the network's own input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.second(values + self.first(values))


def test_a_residual_add_couples_its_two_sides() -> None:
    model = networks.trained(networks.Residual)
    found = groups_of(model, torch.rand(1, 1, 8, 8))
    assert found["stem"] is found["outer"]
    norms = ("stem_norm", "outer_norm")
    assert found["stem"] == ChannelGroup(("stem", "outer"), norms, consumers=("inner", "head"))
    assert found["inner"] == ChannelGroup(("inner",), ("inner_norm",), consumers=("outer",))
    assert found["head"].why_kept == "its output channels are the network's output"


def test_coupled_layers_lose_the_same_channels_with_biases_and_norms(
    bench: Callable[[str], Bench],
) -> None:
    room = bench("residual")
    measurement = room.measure(asked(stem=0.5, outer=0.5, inner=0.34))
    weights = room.weights(measurement)
    dead = np.flatnonzero((weights["stem.weight"].reshape(8, -1) == 0).all(axis=1))
    assert len(dead) == 4
    for name in ("outer", "stem", "stem_norm", "outer_norm"):
        for part in ("weight", "bias"):
            values = weights[f"{name}.{part}"].reshape(8, -1)
            zero = (values == 0).all(axis=1)
            assert np.array_equal(np.flatnonzero(zero), dead), (name, part)
    gone = (weights["inner.weight"].reshape(6, -1) == 0).all(axis=1)
    assert gone.sum() == 2
    assert (weights["inner_norm.bias"][gone] == 0).all()
    assert room.worker.backend.baseline.stem_norm.bias.count_nonzero() == 8  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("order", ["prune", "prune>quantize", "quantize>prune", "cluster>prune"])
def test_the_smaller_network_gives_the_same_outputs(
    order: str, bench: Callable[[str], Bench]
) -> None:
    room = bench("residual")
    knobs = LayerPolicy(sparsity=0.5, pattern="channel", bits=6, clusters=16)
    layers = (("stem", knobs), ("outer", knobs), ("inner", LayerPolicy(0.34, "channel")))
    policy = Policy(tuple(order.split(">")), layers)  # type: ignore[arg-type]
    measurement = room.measure(policy)
    artifact = decode(room.file(measurement).read_bytes())
    model = load_artifact(room.worker.backend.workload.model, artifact)
    groups = room.worker.backend.groups
    dead = _dead_channels(policy, groups, room.weights(measurement))
    assert len(dead["stem"]) >= 4
    assert len(dead["inner"]) >= 2
    images = networks.images()[2].inputs
    smaller = remove_channels(model, images[:1], dead)
    assert smaller.stem.weight.shape[0] == 8 - len(dead["stem"])  # type: ignore[union-attr,index]
    assert smaller.outer.weight.shape[1] == 6 - len(dead["inner"])  # type: ignore[union-attr,index]
    with torch.no_grad():
        assert torch.allclose(smaller(images), model(images), atol=1e-5)
        assert not torch.allclose(model(images), room.worker.backend.baseline(images), atol=1e-2)


def test_a_channel_with_a_living_norm_is_not_dead(bench: Callable[[str], Bench]) -> None:
    """Weights can be rounded to zero by chance; the norm behind them still gives a constant."""
    room = bench("residual")
    policy = asked(inner=0.34)
    weights = room.weights(room.measure(policy))
    groups = room.worker.backend.groups
    expected = _dead_channels(policy, groups, weights)["inner"]
    alive = next(c for c in range(6) if c not in expected)
    weights["inner.weight"][alive] = 0
    assert _dead_channels(policy, groups, weights)["inner"] == expected
    weights["inner_norm.weight"][alive] = weights["inner_norm.bias"][alive] = 0
    assert alive in _dead_channels(policy, groups, weights)["inner"]
    for part in ("inner.weight", "inner_norm.weight", "inner_norm.bias"):
        weights[part][:] = 0
    assert _dead_channels(policy, groups, weights)["inner"] == [0, 1, 2, 3, 4]  # one must stay


def test_the_output_layer_is_refused_by_name(bench: Callable[[str], Bench]) -> None:
    failure = bench("residual").failure(asked(head=0.5))
    assert (failure.layer, failure.stage) == ("head", "prune")
    assert "network's output" in failure.reason


@pytest.mark.parametrize("other", [asked(stem=0.5), asked(stem=0.5, outer=0.6)])
def test_coupled_layers_that_ask_for_different_things(
    other: Policy, bench: Callable[[str], Bench]
) -> None:
    failure = bench("residual").failure(other)
    assert failure.stage == "prune"
    assert {"stem", "outer"} == {failure.layer, "outer" if "outer's" in failure.reason else "stem"}


@pytest.mark.parametrize("groups", [2, 8])
def test_grouped_convolutions_are_refused(groups: int) -> None:
    found = groups_of(Block(nn.Identity(), groups).eval(), torch.rand(1, 1, 4, 4))
    assert "grouped" in found["second"].why_kept
    assert "grouped" in found["first"].why_kept  # its channels are theirs


@pytest.mark.parametrize(
    "operation",
    [nn.Sigmoid(), nn.GroupNorm(2, 8), nn.Softmax(dim=1), MinusMean(), nn.InstanceNorm2d(8)],
    ids=lambda operation: type(operation).__name__,
)
def test_channels_whose_removal_would_change_the_outputs(operation: nn.Module) -> None:
    """f(0) != 0, or a mean over channels: a zeroed channel still says something."""
    found = groups_of(Block(operation).eval(), torch.rand(1, 1, 4, 4))
    if isinstance(operation, nn.InstanceNorm2d):  # a channel's own mean: zero stays zero
        assert found["first"].removable
    else:
        assert "changes the network's outputs" in found["first"].why_kept
    assert found["second"].removable


def test_a_norm_without_its_own_scale_cannot_be_silenced() -> None:
    found = groups_of(Block(nn.BatchNorm2d(8, affine=False)).eval(), torch.rand(1, 1, 4, 4))
    assert not found["first"].removable


def test_residuals_that_reach_the_output_or_the_input() -> None:
    through = groups_of(Skip().eval(), torch.rand(1, 6))
    assert not through["first"].removable
    assert not through["second"].removable
    assert not groups_of(FromInput().eval(), torch.rand(1, 6))["first"].removable


def test_a_single_channel_is_never_offered(bench: Callable[[str], Bench]) -> None:
    room = bench("narrow")
    assert [x.can_prune_channels for x in room.worker.profile.layers] == [False, True, False]
    failure = room.failure(asked(**{"0": 0.5}))
    assert (failure.layer, failure.stage) == ("0", "prune")
    assert "one output channel" in failure.reason


def test_an_untraceable_network_keeps_its_channels() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, values: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError("not while tracing")
            return self.fc(values)

    (group,) = channel_groups(Odd(), ["fc"], torch.rand(1, 4))
    assert "cannot be traced (RuntimeError)" in group.why_kept


def test_looking_for_groups_changes_nothing() -> None:
    model = networks.Residual().train()
    model.stem.requires_grad_(False)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    sample = torch.rand(1, 1, 8, 8)
    seen = sample.clone()
    groups_of(model, sample)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(sample, seen)
    assert model.training
    assert not model.stem.weight.requires_grad
    assert model.head.weight.grad is None
