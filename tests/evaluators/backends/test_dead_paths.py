"""Weights that do nothing go first, and taking them away changes nothing."""

import pytest
import torch
from torch import nn

from evaluators.backends.pytorch import stages
from evaluators.backends.pytorch.channels import channel_groups
from evaluators.backends.pytorch.dead_paths import idle_weights, silent_inputs
from evaluators.backends.pytorch.layers import compressible_layers
from evaluators.backends.pytorch.student import Student
from spaces import LayerPolicy, Policy, Stage
from spaces.policy import CRITERIA
from tests import networks


def student(model: nn.Module) -> Student:
    sample = networks.images()[0].inputs[:1]
    return Student(model, channel_groups(model, compressible_layers(model), sample))


def test_inputs_that_are_always_zero_are_found() -> None:
    batch = networks.images()[0].inputs[:50].clone()
    batch.flatten(1)[:, [3, 17]] = 0.0
    of = student(networks.trained(networks.make_mlp))
    of.model.train()
    silent = silent_inputs(of, batch)
    assert silent["1"].nonzero().flatten().tolist() == [3, 17]
    assert of.model.training
    idle = idle_weights(of, "1", silent["1"])
    assert idle[:, [3, 17]].all()
    assert idle.sum() == 2 * idle.shape[0]


def test_a_feature_behind_a_flatten_is_unread_when_its_whole_run_is_masked() -> None:
    of = student(networks.trained(networks.make_conv))
    keep = torch.ones(4, 72, dtype=torch.bool)
    keep[:, 9 * 2 : 9 * 3] = False  # all that reads channel 2 of the convolution
    keep[:, 0] = False  # a part of what reads channel 0
    of.set_mask("4", keep)
    idle = idle_weights(of, "0", None)
    assert idle[2].all()
    assert not idle[[0, 1, 3, 4, 5, 6, 7]].any()
    batch = networks.images()[0].inputs[:20]
    before = of.model(batch)
    of.set_mask("0", ~idle)
    assert torch.equal(of.model(batch), before)


def test_they_are_pruned_before_any_other_and_the_sparsity_is_kept() -> None:
    batch = networks.images()[0].inputs[:50].clone()
    batch.flatten(1)[:, :8] = 0.0
    of = student(networks.trained(networks.make_mlp))
    with torch.no_grad():
        of.layers["1"].latent[:, :8] *= 100  # magnitude alone would keep these
    policy = Policy(("prune",), (("1", LayerPolicy(sparsity=0.5)),))  # type: ignore[arg-type]
    stages.prune_schedule(of, policy, batch)(1, 0)
    weight = of.layers["1"].effective()
    assert (weight[:, :8] == 0).all()
    assert int((weight == 0).sum()) == weight.numel() // 2


def test_nothing_is_known_without_a_batch_or_a_mask() -> None:
    of = student(networks.trained(networks.make_mlp))
    assert not idle_weights(of, "1", None).any()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_turns_idle_after_the_ramp_brings_nothing_back(criterion: str) -> None:
    """A weight that came back when training is over would stand there as it was when it went."""
    batch = networks.images()[0].inputs[:50].clone()
    of = student(networks.trained(networks.make_mlp))
    layers = (("1", LayerPolicy(sparsity=0.5)),)
    policy = Policy((Stage.PRUNE,), layers, criterion=criterion)
    move = stages.prune_schedule(of, policy, batch)
    steps = 100
    for step in range(steps):
        move(step, steps)
    mask = of.layers["1"].constraint.mask
    assert mask is not None
    batch.flatten(1)[:, :8] = 0.0  # the schedule's own batch: these inputs are silent from now on
    assert (mask[:, :8] > 0).any()
    before = mask.clone()
    move(1, 0)
    after = of.layers["1"].constraint.mask
    assert after is not None
    assert idle_weights(of, "1", silent_inputs(of, batch)["1"]).any()
    assert torch.equal(after, before)
