"""What the pruning criteria promise: what may come back, until when, and what never does."""

import itertools

import pytest
import torch

from evaluators.backends.base import stage_knobs
from evaluators.backends.pytorch import stages
from evaluators.backends.pytorch.stages import RAMP_SHARE, UPDATE_EVERY
from evaluators.backends.pytorch.student import Student
from spaces import LayerPolicy, Policy, Stage
from spaces.policy import CRITERIA
from tests.evaluators.backends.test_stages import cluster, student, weight

STEPS = 200
RAMP_END = round(RAMP_SHARE * STEPS)


def pruning(criterion: str, sparsity: float = 0.8) -> Policy:
    layers = (("1", LayerPolicy(sparsity=sparsity)),)
    return Policy((Stage.PRUNE,), layers, criterion=criterion)


def ramp(of: Student, criterion: str, seed: int = 0) -> list[torch.Tensor]:
    """The masks after each step of a stage whose gradients are noise."""
    generator = torch.Generator().manual_seed(seed)
    move = stages.prune_schedule(of, pruning(criterion))
    optimiser = torch.optim.SGD([of.layers["1"].latent], lr=0.02)
    masks = []
    for step in range(STEPS):
        move(step, STEPS)
        optimiser.zero_grad()
        effective = of.layers["1"].module.weight
        (effective * torch.randn(effective.shape, generator=generator)).sum().backward()
        optimiser.step()
        mask = of.layers["1"].constraint.mask
        assert mask is not None
        masks.append(mask.clone())
    move(1, 0)
    mask = of.layers["1"].constraint.mask
    assert mask is not None
    return [*masks, mask]


def returned(masks: list[torch.Tensor]) -> int:
    """How often a weight came back from one move to the next."""
    return sum(int(((b - a) > 0).sum()) for a, b in itertools.pairwise(masks))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_sparsity_is_met_and_stays_where_the_ramp_ends(criterion: str) -> None:
    of = student()
    masks = ramp(of, criterion)
    kept = masks[-1].numel() - round(0.8 * masks[-1].numel())
    assert int(masks[-1].sum()) == int((weight(of) != 0).sum()) == kept
    for mask in masks[RAMP_END:]:
        assert torch.equal(mask, masks[-1])
    assert not of.layers["1"].constraint.regrows


@pytest.mark.parametrize("criterion", ["regrow", "regrow-rate"])
def test_what_was_pruned_may_come_back_until_then(criterion: str) -> None:
    assert returned(ramp(student(), criterion)[: RAMP_END + 1]) > 0


def test_by_magnitude_nothing_comes_back() -> None:
    assert returned(ramp(student(), "magnitude")) == 0


def test_pruned_weights_get_gradients_only_while_they_regrow() -> None:
    for criterion, learns in (("magnitude", False), ("regrow", True)):
        of = student()
        stages.prune_schedule(of, pruning(criterion))(UPDATE_EVERY, STEPS)
        layer = of.layers["1"]
        gone = layer.constraint.mask == 0
        assert gone.any()
        assert (layer.module.weight[gone] == 0).all()  # type: ignore[index]
        layer.module.weight.sum().backward()  # type: ignore[operator]
        assert layer.latent.grad is not None
        assert bool((layer.latent.grad[gone] != 0).all()) == learns
        assert bool((layer.latent.grad[gone] == 0).all()) != learns


@pytest.mark.parametrize("criterion", CRITERIA)
def test_zeros_of_earlier_stages_never_come_back(criterion: str) -> None:
    of = student()
    established = torch.zeros(weight(of).shape, dtype=torch.bool)
    established.flatten()[::7] = True
    with torch.no_grad():
        of.layers["1"].latent[established] = 9.0  # magnitude alone would keep these
    of.set_mask("1", ~established)
    assert all((mask[established] == 0).all() for mask in ramp(of, criterion))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_settled_clusters_do_not_regrow(criterion: str) -> None:
    """Their latent weights are frozen, and a lost assignment could not come back."""
    of = student()
    cluster(of, 4)
    stages.prune_schedule(of, pruning(criterion))(0, STEPS)
    assert not of.layers["1"].constraint.regrows
    stages.prune_schedule(of, pruning(criterion))(1, 0)
    assert int((weight(of) != 0).sum()) == weight(of).numel() - round(0.8 * weight(of).numel())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_untrained_every_criterion_is_magnitude(criterion: str) -> None:
    """`Policy.post_training` says so, and fidelity 0 offers no other."""
    one, other = student(), student()
    stages.prune_schedule(one, pruning("magnitude"))(1, 0)
    stages.prune_schedule(other, pruning(criterion))(1, 0)
    assert torch.equal(weight(one), weight(other))


def test_by_rate_survivors_stand_together() -> None:
    """The same noise, the same count: fewer rows and columns are left in use."""

    def lines(criterion: str) -> int:
        mask = ramp(student(), criterion)[-1]
        return int((mask.sum(0) > 0).sum() + (mask.sum(1) > 0).sum())

    def evenness(criterion: str) -> float:
        mask = ramp(student(), criterion)[-1]
        return float(mask.sum(0).var() + mask.sum(1).var())

    assert evenness("rate") > evenness("magnitude")
    assert evenness("regrow-rate") > evenness("regrow")
    assert lines("rate") <= lines("magnitude")


def test_seeds_of_older_records_stay() -> None:
    assert stage_knobs(pruning("magnitude"), Stage.PRUNE) == [("1", 0.8, "element")]
    assert stage_knobs(pruning("rate"), Stage.PRUNE) != stage_knobs(pruning("regrow"), Stage.PRUNE)
