"""What the simulator's non-additive variant promises to whoever is compared on it."""

import pytest

from spaces import LayerPolicy, Policy, Stage
from tests.simulator import simulate

PRUNE, CLUSTER = Stage.PRUNE, Stage.CLUSTER


def lost(policy: Policy, interaction: float) -> float:
    sim = simulate(4, interaction=interaction)
    return sim.true_metric(Policy()) - sim.true_metric(policy)


def test_one_layer_and_one_knob_lose_what_they_lose_without_interaction() -> None:
    """So the sensitivity scan, which looks at just that, is right in both variants."""
    policy = Policy((PRUNE,), (("fc2", LayerPolicy(sparsity=0.9)),))
    assert lost(policy, 1.0) == pytest.approx(lost(policy, 0.0))


def test_neighbours_lose_more_together_than_strangers() -> None:
    def together(a: str, b: str) -> float:
        layers = tuple((name, LayerPolicy(sparsity=0.8)) for name in (a, b))
        policy = Policy((PRUNE,), layers)
        return lost(policy, 1.0) / lost(policy, 0.0)

    assert together("fc1", "fc2") > 1.05
    assert together("fc1", "out") == pytest.approx(1.0)


def test_the_better_order_depends_on_the_treatment() -> None:
    """Mild clustering wants pruning first; coarse clustering of a sparse layer wants it last."""

    def gain_of_pruning_first(clusters: int, sparsity: float) -> float:
        layers = (("fc2", LayerPolicy(sparsity=sparsity, clusters=clusters)),)
        return lost(Policy((CLUSTER, PRUNE), layers), 1.0) - lost(
            Policy((PRUNE, CLUSTER), layers), 1.0
        )

    assert gain_of_pruning_first(32, 0.9) > 0
    assert gain_of_pruning_first(2, 0.9) < 0
