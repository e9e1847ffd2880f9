"""Every order of every set of stages runs, keeps what was asked and computes its own thing."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from evaluators.backends.base import Seeds
from evaluators.checker import broken_constraints
from spaces import Distillation, LayerPolicy, Measurement, Policy, Stage
from spaces.policy import ALL_ORDERS, format_order
from tests.evaluators.backends.conftest import Bench

Weights = dict[str, np.ndarray]

#: Every knob on some layer: elements, clusters with bits, bits alone, biases.
ELEMENT = (
    ("1", LayerPolicy(sparsity=0.7, clusters=6, bits=4, bias_bits=5)),
    ("3", LayerPolicy(sparsity=0.3, bits=3, bias_bits=16)),
    ("5", LayerPolicy(sparsity=0.5, clusters=5)),
)
CHANNEL = (
    ("0", LayerPolicy(sparsity=0.5, pattern="channel", bits=4, bias_bits=8)),
    ("4", LayerPolicy(sparsity=0.8, clusters=8, bits=16)),
)


def policy(order: tuple[Stage, ...], workload: str, **knobs: str) -> Policy:
    kind, layers = ("attention", CHANNEL) if workload == "conv" else ("logits", ELEMENT)
    return Policy(order, layers, Distillation(kind, 4.0, 0.5), **knobs)


def differ(first: Weights, second: Weights) -> bool:
    return any(not np.array_equal(first[name], second[name]) for name in first)


def check(asked: Policy, measurement: Measurement, weights: Weights) -> None:
    assert not broken_constraints(asked, weights), format_order(asked.order)
    assert [audit.stage for audit in measurement.audit] == [stage.value for stage in asked.order]
    assert not any(audit.destroyed for audit in measurement.audit)


@pytest.mark.parametrize("workload", ["mlp", "conv"])
def test_all_64_orders_run_and_each_is_another_network(
    workload: str, bench: Callable[[str], Bench]
) -> None:
    room = bench(workload)
    by_set: dict[frozenset[Stage], list[Weights]] = {}
    orders = [order for order in ALL_ORDERS if order]
    assert len(orders) == 64
    for order in orders:
        asked = policy(order, workload, granularity="channel", scheme="asymmetric")
        assert asked.order == order
        measurement = room.measure(asked)
        weights = room.weights(measurement)
        check(asked, measurement, weights)
        by_set.setdefault(frozenset(order), []).append(weights)
    assert len(by_set) == 15
    for networks in by_set.values():
        assert all(differ(a, b) for a, b in itertools.combinations(networks, 2))


def test_the_order_itself_makes_the_difference_not_its_random_numbers(
    bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Seeds, "of_stage", lambda self, prefix: 7)
    room = bench("mlp")
    found = [
        room.weights(room.measure(policy(order, "mlp")))
        for order in itertools.permutations([Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE])
    ]
    assert all(differ(a, b) for a, b in itertools.combinations(found, 2))


@pytest.mark.parametrize("workload", ["mlp", "conv"])
def test_post_training_works_for_every_order_without_distill(
    workload: str, bench: Callable[[str], Bench]
) -> None:
    room = bench(workload)
    for order in (o for o in ALL_ORDERS if Stage.DISTILL not in o):
        asked = policy(order, workload)
        measurement = room.measure(asked, fidelity=0)
        check(asked, measurement, room.weights(measurement))
        assert all(audit.samples == 0 for audit in measurement.audit)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("order", ["prune>quantize", "quantize>prune"])
def test_every_grid_holds_after_training(
    scheme: str, granularity: str, bits: int, order: str, bench: Callable[[str], Bench]
) -> None:
    room = bench("residual")
    layers = tuple(
        (name, LayerPolicy(sparsity=0.4, bits=bits, bias_bits=bits if name != "inner" else 32))
        for name in ("stem", "inner", "outer", "head")
    )
    stages = tuple(Stage(name) for name in order.split(">"))
    asked = Policy(stages, layers, scheme=scheme, granularity=granularity)
    measurement = room.measure(asked, fidelity=160)
    weights = room.weights(measurement)
    check(asked, measurement, weights)
    if bits <= 3 and granularity == "tensor":
        limit = 2**bits - 2 if scheme == "symmetric" else 2**bits - 1
        assert len(np.unique(weights["outer.weight"][weights["outer.weight"] != 0])) <= limit


def test_a_stage_prefix_is_shared_exactly(bench: Callable[[str], Bench]) -> None:
    """Same stages, same samples up to the last: prune is the same in both, to the last digit."""
    room = bench("mlp")
    three = room.measure(policy((Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE), "mlp"))
    other = room.measure(policy((Stage.PRUNE, Stage.QUANTIZE, Stage.CLUSTER), "mlp"))
    first, second = three.audit[0], other.audit[0]
    assert (first.metric, first.layers) == (second.metric, second.layers)
