"""DESIGN section 3, sentence by sentence, on students whose training is a few lines here."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluators.backends.base import destroyed, stage_samples
from evaluators.backends.pytorch import pipeline, stages
from evaluators.backends.pytorch.constraint import fit_grid
from evaluators.backends.pytorch.stages import RAMP_SHARE, cubic_sparsity, smallest
from evaluators.backends.pytorch.student import Student
from evaluators.backends.pytorch.train import steps_of
from spaces import Distillation, LayerPolicy, Policy, Stage
from tests import networks
from tests.evaluators.backends.conftest import Bench, uncoupled

RNG = np.random.default_rng


def student() -> Student:
    model = networks.trained(networks.make_mlp)
    return Student(model, uncoupled(model))


def policy(**knobs: object) -> Policy:
    return Policy(("prune", "cluster", "quantize"), (("1", LayerPolicy(**knobs)),))  # type: ignore[arg-type]


def weight(of: Student) -> Tensor:
    return of.layers["1"].effective().clone()


def train(of: Student, steps: int = 20) -> None:
    """Noise for gradients: everything that may move does."""
    generator = torch.Generator().manual_seed(0)
    parameters = [p for p in of.model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.5)
    for step in range(steps):
        stages.reassign(of, step)
        optimiser.zero_grad()
        loss = sum(
            (layer.module.weight * torch.randn(layer.latent.shape, generator=generator)).sum()  # type: ignore[operator]
            for layer in of.layers.values()
        )
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()


def prune(of: Student, sparsity: float) -> None:
    stages.prune_schedule(of, policy(sparsity=sparsity))(1, 0)


def cluster(of: Student, clusters: int) -> None:
    stages.cluster(of, policy(clusters=clusters), RNG(0))
    stages.settle(of)


def quantize(of: Student, bits: int) -> None:
    stages.quantize(of, policy(bits=bits))


# Prune -------------------------------------------------------------------------------------------


def test_prune_takes_the_smallest_magnitudes() -> None:
    net = student()
    before = weight(net)
    prune(net, 0.5)
    after = weight(net)
    gone = after == 0
    assert int(gone.sum()) == after.numel() // 2
    assert before[gone].abs().max() <= before[~gone].abs().min()
    assert torch.equal(after[~gone], before[~gone])


def test_pruned_weights_stay_zero_whatever_is_learned() -> None:
    net = student()
    prune(net, 0.6)
    gone = weight(net) == 0
    train(net)
    assert bool((weight(net)[gone] == 0).all())
    assert not bool((net.layers["1"].latent[gone] == 0).all())


@pytest.mark.parametrize("later", [cluster, quantize])
def test_the_mask_outlives_later_stages(later: Callable[[Student, int], None]) -> None:
    net = student()
    prune(net, 0.6)
    gone = weight(net) == 0
    later(net, 4)
    train(net)
    assert bool((weight(net)[gone] == 0).all())


def test_prune_after_cluster_keeps_the_survivors_assignments() -> None:
    net = student()
    cluster(net, 5)
    before = net.layers["1"].constraint.indices
    assert before is not None
    prune(net, 0.5)
    train(net)
    after = net.layers["1"].constraint.indices
    assert after is not None
    assert torch.equal(after[after > 0], before[after > 0])
    assert int((after == 0).sum()) == after.numel() // 2
    assert len(weight(net).unique()) <= 6  # 5 values and zero


def test_prune_after_quantize_keeps_the_scale() -> None:
    net = student()
    quantize(net, 4)
    scale = net.layers["1"].constraint.grid.scale.clone()  # type: ignore[union-attr]
    before = weight(net)
    prune(net, 0.7)
    after = weight(net)
    assert torch.equal(after[after != 0], before[after != 0])
    train(net)
    constraint = net.layers["1"].constraint
    assert torch.equal(constraint.grid.scale, scale)  # type: ignore[union-attr]
    levels = weight(net) / scale
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert float((after == 0).float().mean()) >= 0.7 - 1e-3


def test_among_equal_values_the_latent_weight_decides() -> None:
    effective = np.array([1.0, 1.0, 2.0, 1.0, 0.0])
    latent = np.array([0.9, 0.2, 0.0, 0.5, 7.0])
    assert smallest(effective, latent, 3).tolist() == [False, True, False, True, True]
    assert smallest(effective, latent, 0).sum() == 0
    assert smallest(effective, latent, 5).all()


@pytest.mark.parametrize("count", [0, 1, 77, 250, 499, 500])
def test_smallest_is_the_sort_it_stands_for(count: int) -> None:
    effective = RNG(1).integers(0, 6, 500).astype(np.float32)
    latent = RNG(2).integers(0, 9, 500).astype(np.float32)
    expected = np.zeros(500, dtype=bool)
    expected[np.lexsort((latent, effective))[:count]] = True
    assert np.array_equal(smallest(effective, latent, count), expected)


def test_the_ramp_is_gradual_and_ends_early() -> None:
    net = student()
    move = stages.prune_schedule(net, policy(sparsity=0.8))
    seen = []
    for step in range(100):
        move(step, 100)
        mask = net.layers["1"].constraint.mask
        seen.append(0.0 if mask is None else 1 - float(mask.mean()))
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert 4 < len(set(seen)) < 20
    end = round(RAMP_SHARE * 100)
    assert seen[end - 1] < seen[end] == seen[-1] == pytest.approx(0.8, abs=1e-3)
    assert cubic_sparsity(30, 100, 0.8) == pytest.approx(0.8 * (1 - 0.5**3))


def test_a_weight_once_gone_never_comes_back_along_the_ramp() -> None:
    net = student()
    move = stages.prune_schedule(net, policy(sparsity=0.9))
    gone = torch.zeros_like(weight(net), dtype=torch.bool)
    for step in range(0, 64, 8):
        move(step, 100)
        now = weight(net) == 0
        assert bool(now[gone].all())
        gone = now
        train(net, 2)


# Cluster -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clusters", [1, 2, 7, 64])
def test_k_excludes_zero(clusters: int) -> None:
    net = student()
    prune(net, 0.5)
    asked = Policy(("cluster",), (("1", LayerPolicy(clusters=clusters)),), cluster_init="density")
    stages.cluster(net, asked, RNG(0))
    values = weight(net).unique()
    assert 0.0 in values
    assert len(values) == clusters + 1


def test_centroids_are_learned_and_assignments_settle() -> None:
    net = student()
    stages.cluster(net, policy(clusters=4), RNG(0))
    constraint = net.layers["1"].constraint
    first, start = constraint.indices, constraint.codebook().detach().clone()
    assert first is not None
    train(net)
    assert not torch.equal(constraint.indices, first)  # type: ignore[arg-type]
    assert not torch.equal(constraint.codebook(), start)
    stages.settle(net)
    settled = constraint.indices
    learned = constraint.codebook().detach().clone()
    train(net)
    assert torch.equal(constraint.indices, settled)  # type: ignore[arg-type]
    assert not torch.equal(constraint.codebook(), learned)


@pytest.mark.parametrize("bits", [32, 3])
def test_each_weight_goes_to_its_nearest_centroid(bits: int) -> None:
    """Its effective value does: after quantize that is a level, not the latent weight."""
    net = student()
    quantize(net, bits)
    before = weight(net)
    stages.cluster(net, policy(clusters=4), RNG(0))
    constraint = net.layers["1"].constraint
    assert constraint.centroids is not None
    nearest = (before[..., None] - constraint.centroids).abs().argmin(dim=-1)
    expected = torch.where(before == 0, 0, nearest + 1)
    assert torch.equal(constraint.indices, expected)  # type: ignore[arg-type]


def test_cluster_after_quantize_lands_on_the_existing_grid() -> None:
    net = student()
    quantize(net, 4)
    grid = net.layers["1"].constraint.grid
    assert grid is not None
    cluster(net, 5)
    for _ in range(2):
        constraint = net.layers["1"].constraint
        assert constraint.grid is grid
        levels = constraint.codebook().detach() / grid.scale
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert float(levels.abs().max()) <= 7
        assert len(weight(net)[weight(net) != 0].unique()) <= 5
        train(net)


def test_zeros_of_a_grid_are_not_clustered() -> None:
    net = student()
    quantize(net, 2)
    gone = weight(net) == 0
    assert bool(gone.any())
    cluster(net, 2)  # the centroids are the grid's two other levels: none of them is near zero
    assert bool((weight(net)[gone] == 0).all())


def test_a_layer_of_zeros_can_be_clustered() -> None:
    net = student()
    net.set_mask("1", torch.zeros_like(weight(net), dtype=torch.bool))
    cluster(net, 3)
    assert int(weight(net).count_nonzero()) == 0


# Quantize ----------------------------------------------------------------------------------------


def test_quantize_after_cluster_rounds_the_codebook() -> None:
    net = student()
    cluster(net, 6)
    constraint = net.layers["1"].constraint
    assert constraint.centroids is not None
    assigned = constraint.indices
    expected = fit_grid(constraint.centroids.detach()[None], 3, "symmetric", "tensor")
    quantize(net, 3)
    assert constraint.grid is not None
    assert torch.equal(constraint.grid.scale, expected.scale)
    assert torch.equal(constraint.indices, assigned)  # type: ignore[arg-type]
    train(net)
    levels = constraint.codebook().detach() / constraint.grid.scale
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert len(weight(net)[weight(net) != 0].unique()) <= 6


def test_a_layer_with_clusters_to_come_gets_one_scale() -> None:
    net = student()
    asked = Policy(
        ("quantize", "cluster"),
        (("1", LayerPolicy(clusters=4, bits=4)), ("3", LayerPolicy(bits=4))),
        granularity="channel",
    )
    stages.quantize(net, asked)
    assert net.layers["1"].constraint.grid.scale.shape == (1,)  # type: ignore[union-attr]
    assert net.layers["3"].constraint.grid.scale.shape == (12,)  # type: ignore[union-attr]


def test_the_bias_grid_is_fitted_to_what_is_left_of_the_bias() -> None:
    net = student()
    layer = net.layers["1"]
    assert layer.bias is not None
    with torch.no_grad():
        layer.latent_bias[0] = 100.0
    layer.bias.mask = torch.ones(24)
    layer.bias.mask[0] = 0
    stages.quantize(net, policy(bias_bits=8))
    assert layer.bias.grid is not None
    assert float(layer.bias.grid.scale) < 0.1
    assert float(layer.effective_bias()[0]) == 0.0


# Distill, compute --------------------------------------------------------------------------------


def test_distillation_is_on_from_its_position_to_the_end(
    bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    real = pipeline.fine_tune

    def watched(**arguments: object) -> None:
        used.append(arguments["loss"].__qualname__.partition(".")[0])  # type: ignore[attr-defined]
        real(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "fine_tune", watched)
    layers = (("1", LayerPolicy(sparsity=0.5, clusters=4, bits=4)),)
    for place in range(4):
        order = ["prune", "cluster", "quantize"]
        order.insert(place, "distill")
        asked = Policy(tuple(Stage(s) for s in order), layers, Distillation("logits", 4.0, 0.5))
        used.clear()
        bench("mlp").measure(asked)
        assert used == ["_Run"] * place + ["distilled_loss"] * (4 - place)


@pytest.mark.parametrize("total", [0, 1, 249, 250, 499, 500, 750, 1300, 5000, 50_000, 100_001])
@pytest.mark.parametrize("batch", [1, 20, 250])
def test_equal_compute(total: int, batch: int) -> None:
    """Every number of stages sees the same samples in as many optimiser steps."""
    assert stage_samples(total, 0, batch) == []
    steps = set()
    for count in (1, 2, 3, 4):
        samples = stage_samples(total, count, batch)
        assert len(samples) == count
        assert sum(samples) == total
        assert all(s == samples[0] for s in samples[:-1])
        assert all(s % batch == 0 for s in samples[:-1])
        assert samples[-1] >= samples[0] or count == 1
        steps.add(sum(steps_of(s, batch) for s in samples))
    assert len(steps) == 1
    if total % (4 * batch) == 0:
        assert stage_samples(total, 4, batch) == [total // 4] * 4


def test_audits_say_what_was_destroyed() -> None:
    net = student()
    asked = policy(sparsity=0.5, clusters=4, bits=2)
    prune(net, 0.5)
    done = [Stage.PRUNE]
    shapes = {name: tuple(layer.latent.shape) for name, layer in net.layers.items()}
    assert destroyed(asked, done, shapes, net.audit()) == {}
    mask = net.layers["1"].constraint.mask
    assert mask is not None
    mask.view(-1)[mask.flatten().argmin()] = 1.0  # one single weight comes back
    assert "sparsity" in destroyed(asked, done, shapes, net.audit())["1"]
    found = destroyed(asked, [Stage.CLUSTER], shapes, net.audit())
    assert "distinct values of 4" in found["1"]
    found = destroyed(policy(bits=2), [Stage.QUANTIZE], shapes, net.audit())
    assert "distinct values of 3" in found["1"]
    whole = policy(sparsity=0.5, pattern="channel")
    net.layers["1"].constraint.mask = None
    assert "sparsity 0.0000" in destroyed(whole, done, shapes, net.audit())["1"]
