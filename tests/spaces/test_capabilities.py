"""Capabilities: the intersection, and what it took away."""

from dataclasses import replace

from hypothesis import given

from spaces import Capabilities, LayerCapabilities, Stage
from tests.strategies import spaces as some


def fields(can: Capabilities) -> Capabilities:
    return replace(can, name="")


@given(some.capabilities())
def test_with_itself_nothing_is_removed(can: Capabilities) -> None:
    both, removed = can.intersect(can)
    assert fields(both) == fields(can)
    assert removed == ()


@given(some.capabilities(), some.capabilities())
def test_sides_can_be_swapped(a: Capabilities, b: Capabilities) -> None:
    a, b = replace(a, name="torch"), replace(b, name="packed")
    ab, removed_ab = a.intersect(b)
    ba, removed_ba = b.intersect(a)
    assert fields(ab) == fields(ba)
    assert sorted(removed_ab) == sorted(removed_ba)


@given(some.capabilities(), some.capabilities())
def test_the_intersection_is_within_both(a: Capabilities, b: Capabilities) -> None:
    both, removed = a.intersect(b)
    for side in (a, b):
        assert both.orders <= side.orders
        assert both.activation_bits <= side.activation_bits
        assert both.distillation_kinds <= side.distillation_kinds
        assert set(both.layers) <= set(side.layers)
        for kind, can in both.layers.items():
            assert can.bits <= side.layers[kind].bits
            assert can.clusters <= side.layers[kind].clusters
            assert can.patterns <= side.layers[kind].patterns
            assert can.bias_bits <= side.layers[kind].bias_bits
    assert bool(removed) == (fields(a) != fields(b))


@given(some.capabilities(), some.capabilities(), some.capabilities())
def test_grouping_does_not_matter(a: Capabilities, b: Capabilities, c: Capabilities) -> None:
    left, _ = a.intersect(b)[0].intersect(c)
    right, _ = a.intersect(b.intersect(c)[0])
    assert fields(left) == fields(right)


def test_what_each_side_removed_is_said() -> None:
    def linear(bits: set[int], clusters: set[int | None]) -> dict[str, LayerCapabilities]:
        one = LayerCapabilities(
            frozenset(bits), frozenset(clusters), frozenset({"element"}), frozenset({32})
        )
        return {"Linear": one}

    torch = Capabilities("torch", linear({8, 4}, {None, 16}))
    packed = Capabilities(
        "packed",
        linear({8, 2}, {None}) | {"Conv2d": linear({8}, {None})["Linear"]},
        orders=torch.orders - {(), (Stage.PRUNE, Stage.QUANTIZE)},
    )
    both, removed = torch.intersect(packed)
    assert both.name == "torch and packed"
    assert both.layers == linear({8}, {None})
    assert removed == (
        "torch cannot do layer kind: Conv2d",
        "packed cannot do Linear bits: 4",
        "torch cannot do Linear bits: 2",
        "packed cannot do Linear clusters: 16",
        "packed cannot do order: none, prune>quantize",
    )


def test_a_long_list_of_orders_is_cut_and_begins_with_what_says_most() -> None:
    every = Capabilities("onnx", {})
    kept = frozenset(o for o in every.orders if not {Stage.PRUNE, Stage.CLUSTER} <= set(o[1:]))
    both, removed = every.intersect(replace(every, name="keras", orders=kept))
    lost = len(every.orders) - len(kept)
    (sentence,) = removed
    assert sentence.startswith(
        "keras cannot do order: distill>cluster>prune, distill>prune>cluster"
    )
    assert sentence.endswith(f" and {lost - 5} more")
    assert both.orders == kept
