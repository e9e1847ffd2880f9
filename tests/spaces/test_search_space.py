"""The search space: vectors and policies, restrictions, neighbours."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spaces import (
    Capabilities,
    InvalidRequest,
    LayerCapabilities,
    LayerPolicy,
    LayerProfile,
    ModelProfile,
    Policy,
    SearchSpace,
    Stage,
    build_space,
    parse_order,
)
from spaces.policy import CRITERIA
from tests.strategies import spaces as some


def layer(name: str, *, kind: str = "Conv2d", bias: int = 4, channels: bool = True) -> LayerProfile:
    return LayerProfile(name, kind, (4, 4), bias, 16, 4, 4, (-1.0, 0.0, 1.0), channels)


def profile(*layers: LayerProfile, groups: tuple[tuple[str, ...], ...] = ()) -> ModelProfile:
    return ModelProfile(layers, groups, (), 0, 0.9, 0.01, 1000, 1.0, "modelled")


def space_of(
    restrictions: dict[str, Any] | None = None, groups: tuple[tuple[str, ...], ...] = ()
) -> SearchSpace:
    """Of three layers of which the last keeps its channels."""
    net = profile(layer("a"), layer("b.0", bias=0), layer("c", channels=False), groups=groups)
    return build_space(net, some.EVERYTHING, restrictions)


def policy_of(space: SearchSpace, **values: Any) -> Policy:
    """decode of the first choices but for `values`; `a__bits` is the knob "a:bits"."""
    vector = [0] * len(space)
    names = [knob.name for knob in space.knobs]
    for name, value in values.items():
        knob = name.replace("__", ":").replace("b0:", "b.0:")
        assert value in space.knob(knob).choices
        vector[names.index(knob)] = space.knob(knob).index(value)
    return space.decode(vector)


# Vectors -----------------------------------------------------------------------------------------


@given(some.spaces_and_policies())
def test_decode_inverts_encode(case: tuple[SearchSpace, Policy]) -> None:
    space, policy = case
    vector = space.encode(policy)
    assert len(vector) == len(space) == len(space.sizes)
    assert all(0 <= i < size for i, size in zip(vector, space.sizes, strict=True))
    assert space.decode(vector) == policy
    assert space.contains(policy)


@given(some.spaces_and_policies())
def test_encode_is_canonical(case: tuple[SearchSpace, Policy]) -> None:
    space, policy = case
    assert space.encode(space.decode(space.encode(policy))) == space.encode(policy)


@given(some.search_spaces, st.integers(0, 2**32))
def test_sample_is_in_the_space_and_repeats(space: SearchSpace, seed: int) -> None:
    policy = space.sample(np.random.default_rng(seed))
    assert space.contains(policy)
    assert space.sample(np.random.default_rng(seed)) == policy


def test_a_space_with_coupled_and_restricted_layers_round_trips_whatever_is_drawn() -> None:
    """Hypothesis tends to small vectors; here are a thousand uniform ones."""
    space = space_of(
        {
            "order": ["prune>quantize", "prune>distill>cluster>quantize", "quantize>prune"],
            "distillation": {"kind": ["none", "logits"], "temperature": [2.0, 4.0]},
            "layers": {"a": {"sparsity": [0.5, 0.55, 0.9]}, "b.*": {"pattern": "channel"}},
        },
        groups=(("a", "b.0"),),
    )
    rng = np.random.default_rng(0)
    for _ in range(1000):
        policy = space.sample(rng)
        assert space.decode(space.encode(policy)) == policy


def test_encode_prefers_the_policys_own_order() -> None:
    space = space_of()
    policy = policy_of(space, order="quantize>distill>prune", a__sparsity=0.5)
    assert policy.order == (Stage.PRUNE,)
    assert space.knob("order").choices[space.encode(policy)[0]] == "prune"


def test_encode_tries_every_order_the_policy_may_come_from() -> None:
    """The order prune>cluster comes first, but there layer a would be clustered."""
    space = space_of(
        {"order": ["prune>cluster", "prune>quantize"], "layers": {"a": {"clusters": 16}}}
    )
    policy = policy_of(space, order="prune>quantize", a__sparsity=0.5)
    assert policy.order == (Stage.PRUNE,)
    assert space.knob("order").choices[space.encode(policy)[0]] == "prune>quantize"


@pytest.mark.parametrize("vector", [[], [0], [0] * 100])
def test_decode_refuses_a_wrong_length(vector: list[int]) -> None:
    with pytest.raises(InvalidRequest, match=f"entries, got {len(vector)}"):
        space_of().decode(vector)


@pytest.mark.parametrize("index", [-1, 65])
def test_decode_refuses_an_index_without_a_choice(index: int) -> None:
    space = space_of()
    with pytest.raises(InvalidRequest, match=f"order: index must be 0 to 64, got {index}"):
        space.decode([index, *[0] * (len(space) - 1)])


@pytest.mark.parametrize(
    "policy",
    [
        Policy(order=(Stage.PRUNE,), layers=(("z", LayerPolicy(sparsity=0.5)),)),
        Policy(order=(Stage.PRUNE,), layers=(("a", LayerPolicy(sparsity=0.123)),)),
        Policy(order=(Stage.PRUNE,), layers=(("c", LayerPolicy(sparsity=0.5, pattern="channel")),)),
        Policy(order=(Stage.QUANTIZE,), layers=(("b.0", LayerPolicy(bias_bits=8)),)),
        Policy(order=(Stage.CLUSTER,), layers=(("a", LayerPolicy(clusters=17)),)),
    ],
)
def test_encode_refuses_a_policy_of_another_space(policy: Policy) -> None:
    space = space_of()
    assert not space.contains(policy)
    with pytest.raises(InvalidRequest, match="is not in this search space"):
        space.encode(policy)


def test_describe_has_a_row_a_knob() -> None:
    space = space_of()
    assert [row["knob"] for row in space.describe()] == [knob.name for knob in space.knobs]
    assert [len(row["choices"]) for row in space.describe()] == space.sizes.tolist()


# What backend and target can do ------------------------------------------------------------------


def assert_can(policy: Policy, net: ModelProfile, can: Capabilities) -> None:
    """The policy asks for nothing outside of the capabilities."""
    assert policy.activation_bits in can.activation_bits | {32}
    assert policy.distillation.kind in can.distillation_kinds | {"none"}
    for name, asked in policy.layers:
        kind = can.layers[net.layer_map[name].kind]
        assert asked.bits in kind.bits | {32}
        assert asked.clusters in kind.clusters | {None}
        assert asked.bias_bits in kind.bias_bits | {32}
        if asked.bias_bits < 32:
            assert net.layer_map[name].bias_size
        if asked.sparsity > 0:
            assert asked.pattern in kind.patterns
            assert asked.pattern == "element" or net.layer_map[name].can_prune_channels


@given(st.data())
def test_a_space_asks_only_for_what_can_be_done(data: st.DataObject) -> None:
    net, can, _, space = data.draw(some.restricted_spaces())
    vector = data.draw(some.vectors(space))
    assert_can(space.decode(vector), net, can)
    assert parse_order(space.knob("order").choices[vector[0]]) in can.orders


@given(st.data())
def test_coupled_layers_lose_the_same_channels_or_none(data: st.DataObject) -> None:
    net, _, _, space = data.draw(some.restricted_spaces())
    policy = space.decode(data.draw(some.vectors(space)))
    for group in net.channel_groups:
        layers = [policy.layer(name) for name in group]
        if any(x.pattern == "channel" for x in layers):
            assert len({(x.pattern, x.sparsity) for x in layers}) == 1


@given(st.data())
def test_a_policy_keeps_every_choice_its_restrictions_leave(data: st.DataObject) -> None:
    """Also where coupling changes what a vector says."""
    _, _, _, space = data.draw(some.restricted_spaces())
    policy = space.decode(data.draw(some.vectors(space)))
    for name, asked in policy.layers:
        if Stage.PRUNE in policy.order:
            assert asked.sparsity in space.knob(f"{name}:sparsity").choices
        if asked.sparsity > 0:
            assert asked.pattern in space.knob(f"{name}:pattern").choices
        if Stage.CLUSTER in policy.order:
            assert asked.clusters in space.knob(f"{name}:clusters").choices
        if Stage.QUANTIZE in policy.order:
            assert asked.bits in space.knob(f"{name}:bits").choices
            assert asked.bias_bits in space.knob(f"{name}:bias_bits").choices


def test_one_coupled_layer_that_keeps_its_channels_keeps_the_whole_groups() -> None:
    space = space_of(groups=(("a", "c"),))
    assert space.knob("a:pattern").choices == ("element",)
    assert space.knob("b.0:pattern").choices == ("element", "channel")


def test_a_groups_first_layer_decides() -> None:
    space = space_of(groups=(("a", "b.0"),))
    both = policy_of(space, order="prune", a__pattern="channel", a__sparsity=0.9, b0__sparsity=0.5)
    assert both.layer("b.0") == LayerPolicy(sparsity=0.9, pattern="channel")
    turned = policy_of(
        space, order="prune", a__sparsity=0.9, b0__pattern="channel", b0__sparsity=0.5
    )
    assert turned.layer("b.0") == LayerPolicy(sparsity=0.5)


def test_a_group_prunes_elements_where_a_member_may_not_follow() -> None:
    space = space_of({"layers": {"b.0": {"sparsity": "drop"}}}, groups=(("a", "b.0"),))
    policy = policy_of(space, order="prune", a__pattern="channel", a__sparsity=0.9)
    assert policy.layers == (("a", LayerPolicy(sparsity=0.9)),)


def test_a_group_that_must_prune_channels_shares_its_sparsities() -> None:
    rules = {"layers": {"a": {"pattern": "channel"}, "b.0": {"sparsity": [0.0, 0.5, 0.55]}}}
    space = space_of(rules, groups=(("a", "b.0"),))
    assert space.knob("a:sparsity").choices == (0.0, 0.5)
    left_alone = policy_of(space, order="prune", a__sparsity=0.0, b0__sparsity=0.5)
    assert left_alone == Policy()


@pytest.mark.parametrize(
    ("rules", "shared"),
    [
        ({"a": {"pattern": "channel"}, "b.0": {"pattern": "element"}}, "pattern"),
        ({"a": {"pattern": "channel", "sparsity": 0.5}, "b.0": {"sparsity": 0.9}}, "sparsity"),
    ],
)
def test_restrictions_that_coupled_layers_cannot_share_are_refused(
    rules: dict[str, Any], shared: str
) -> None:
    with pytest.raises(InvalidRequest, match=rf"coupled layers a, b\.0 must share a {shared}"):
        space_of({"layers": rules}, groups=(("a", "b.0"),))


def test_a_layer_of_an_unknown_kind_is_left_alone() -> None:
    space = build_space(profile(layer("a"), layer("b", kind="Conv1d")), some.EVERYTHING)
    assert all(len(knob.choices) == 1 for knob in space.knobs if knob.name.startswith("b:"))
    assert space.sample(np.random.default_rng(0)).layer("b") == LayerPolicy()


def test_a_layer_without_patterns_is_not_pruned() -> None:
    none = LayerCapabilities(frozenset({32}), frozenset({None}), frozenset(), frozenset({32}))
    can = Capabilities("dense", {"Conv2d": none})
    assert build_space(profile(layer("a")), can).knob("a:sparsity").choices == (0.0,)
    with pytest.raises(InvalidRequest, match=r"layers.'a'.sparsity cannot be 0.5; allowed: 0.0"):
        build_space(profile(layer("a")), can, {"layers": {"a": {"sparsity": 0.5}}})


@pytest.mark.parametrize("field", ["bits", "clusters", "bias_bits"])
def test_a_knob_nobody_can_do_is_refused(field: str) -> None:
    fields: dict[str, Any] = {
        "bits": frozenset({8}),
        "clusters": frozenset({None}),
        "patterns": frozenset(),
        "bias_bits": frozenset({32}),
    }
    can = Capabilities("t and f", {"Conv2d": LayerCapabilities(**{**fields, field: frozenset()})})
    with pytest.raises(InvalidRequest, match=f"a:{field} has no choice that t and f can do"):
        build_space(profile(layer("a")), can)


# Neighbours --------------------------------------------------------------------------------------


@given(some.spaces_and_policies())
def test_neighbours_are_distinct_others_of_the_space(case: tuple[SearchSpace, Policy]) -> None:
    space, policy = case
    found = space.neighbours(policy)
    assert len(set(found)) == len({p.digest for p in found}) == len(found)
    assert policy not in found
    for other in found[:: max(1, len(found) // 8)]:
        assert space.contains(other)


def shape(policy: Policy) -> tuple[Any, ...]:
    """Everything but the ordered knobs."""
    patterns = [(name, asked.pattern) for name, asked in policy.layers]
    return (
        policy.order,
        {name for name in patterns if name[1] == "channel"},
        policy.distillation.kind,
        policy.activation_bits,
        policy.cluster_init,
        policy.scheme,
        policy.granularity,
        policy.criterion,
    )


@given(some.spaces_and_policies())
def test_a_step_along_an_ordered_knob_can_be_taken_back(case: tuple[SearchSpace, Policy]) -> None:
    """Where the step normalised nothing away: order, patterns and grids are still the same."""
    space, policy = case
    there = [p for p in space.neighbours(policy) if shape(p) == shape(policy)]
    assume(there)
    for other in there[:: max(1, len(there) // 6)]:
        assert policy in space.neighbours(other)


def test_neighbours_by_hand() -> None:
    rules = {
        "order": "prune",
        "criterion": "drop",
        "layers": {"*": {"pattern": "drop"}, "c": {"sparsity": "drop"}},
    }
    space = space_of(rules)
    policy = policy_of(space, order="prune", a__sparsity=0.5, b0__sparsity=0.6)
    steps = {(p.layer("a").sparsity, p.layer("b.0").sparsity) for p in space.neighbours(policy)}
    assert steps == {(0.375, 0.6), (0.6, 0.6), (0.5, 0.5), (0.5, 0.7)}


# Restrictions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "knob", "choices"),
    [
        ({"order": "prune > quantize"}, "order", ("prune>quantize",)),
        ({"order": ["quantize", "prune"]}, "order", ("prune", "quantize")),
        ({"order": "drop"}, "order", ("none",)),
        ({"activation_bits": 8}, "activation_bits", (8,)),
        ({"scheme": "drop"}, "scheme", ("symmetric",)),
        ({"distillation": {"temperature": 4}}, "distillation.temperature", (4.0,)),
        ({"distillation": {"weight": {"min": 0.75}}}, "distillation.weight", (0.75, 0.9, 1.0)),
        ({"distillation": {"kind": "drop"}}, "distillation.kind", ("none",)),
        ({"layers": {"a": {"sparsity": 0.123}}}, "a:sparsity", (0.123,)),
        ({"layers": {"a": {"sparsity": [0.9, 0, 0.9, 0.31]}}}, "a:sparsity", (0.0, 0.31, 0.9)),
        ({"layers": {"a": {"sparsity": {"min": 0.6, "max": 0.8}}}}, "a:sparsity", (0.6, 0.7, 0.8)),
        ({"layers": {"a": {"sparsity": "drop"}}}, "a:sparsity", (0.0,)),
        ({"layers": {"a": {"clusters": ["none", 16]}}}, "a:clusters", (None, 16)),
        ({"layers": {"a": {"clusters": {"max": 4}}}}, "a:clusters", (4, 3, 2)),
        ({"layers": {"a": {"clusters": "none"}}}, "a:clusters", (None,)),
        ({"layers": {"*": {"bits": {"min": 8}}}}, "c:bits", (32, 16, 8)),
        ({"layers": {"[ab]*": {"bits": [4, 8]}}}, "b.0:bits", (8, 4)),
        ({"layers": {"*": {"bits": {"max": 8}}, "a": {"bits": 8}}}, "a:bits", (8,)),
        ({"layers": {"*": {"bits": 8}, "a": {"bits": "drop"}}}, "a:bits", (32,)),
    ],
)
def test_a_restriction_leaves(rules: dict[str, Any], knob: str, choices: tuple[Any, ...]) -> None:
    assert space_of(rules).knob(knob).choices == choices


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"sparseness": 1}, "unknown knob sparseness; the known ones are order, "),
        ({"a:bits": 8}, "unknown knob a:bits"),
        ({"distillation": {"heat": 1}}, "unknown knob distillation.heat; .*kind, temperature"),
        ({"layers": {"a": {"colour": 1}}}, "unknown knob layers.'a'.colour; .*sparsity, pattern"),
        ({"layers": {"z*": {"bits": 8}}}, r"layer pattern 'z\*' matches nothing; .* a, b.0, c"),
        ({"layers": ["a"]}, "layers must be a table"),
        ({"layers": {"a": 8}}, "layers.'a' must be a table"),
        ({"distillation": "logits"}, "distillation must be a table"),
        ({"order": "melt"}, "'melt' names a stage that is not one of prune"),
        ({"order": ["prune>prune"]}, "names a stage twice"),
        ({"order": []}, "order must keep at least one choice"),
        ({"order": {"min": 1}}, "order cannot take .*min and max only"),
        ({"activation_bits": 4}, "activation_bits cannot be 4; allowed: 32, 8"),
        ({"distillation": {"weight": 0.2}}, "distillation.weight cannot be 0.2"),
        ({"layers": {"a": {"bits": 9}}}, "layers.'a'.bits cannot be 9; allowed: 32, 16"),
        ({"layers": {"a": {"bits": "8"}}}, "layers.'a'.bits cannot be '8'"),
        ({"layers": {"a": {"bits": []}}}, "layers.'a'.bits must keep at least one choice"),
        ({"layers": {"a": {"sparsity": []}}}, "layers.'a'.sparsity must keep at least one"),
        ({"layers": {"a": {"sparsity": 1.0}}}, "layers.'a'.sparsity must be at least 0 and under"),
        ({"layers": {"a": {"sparsity": float("nan")}}}, "layers.'a'.sparsity must be at least 0"),
        ({"layers": {"a": {"sparsity": "much"}}}, "layers.'a'.sparsity must be a number"),
        ({"layers": {"a": {"sparsity": True}}}, "layers.'a'.sparsity must be a number"),
        ({"layers": {"a": {"sparsity": {"min": "0.5"}}}}, "layers.'a'.sparsity must be a number"),
        ({"layers": {"a": {"sparsity": {"least": 0}}}}, "sparsity cannot take .*min and max only"),
        ({"layers": {"a": {"clusters": {}}}}, "clusters cannot take {}; min and max only"),
        ({"layers": {"a": {"pattern": {"min": 0}}}}, "pattern cannot take .*min and max only"),
        ({"layers": {"a": {"bits": {"min": 9, "max": 15}}}}, "bits has no choice from 9.0 to 15.0"),
        ({"layers": {"b.0": {"bias_bits": 8}}}, "bias_bits cannot be 8; allowed: 32"),
        (
            {"layers": {"c": {"pattern": "channel"}}},
            "pattern cannot be 'channel'; allowed: element",
        ),
    ],
)
def test_a_bad_restriction_names_the_rule_and_the_value(
    rules: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        space_of(rules)


def test_a_knob_whose_neutral_value_cannot_be_done_cannot_be_dropped() -> None:
    only = LayerCapabilities(
        frozenset({8}), frozenset({None}), frozenset({"channel"}), frozenset({32})
    )
    for knob, allowed in (("bits", "8"), ("pattern", "channel")):
        with pytest.raises(InvalidRequest, match=f"{knob} cannot be 'drop'; allowed: {allowed}"):
            build_space(
                profile(layer("a")),
                Capabilities("t", {"Conv2d": only}),
                {"layers": {"a": {knob: "drop"}}},
            )


@given(some.profiles(), some.capabilities(), some.restrictions())
def test_restricting_never_ends_in_another_error(
    net: ModelProfile, can: Capabilities, rules: dict[str, Any]
) -> None:
    """A space, or InvalidRequest; and every knob of a space has a choice."""
    space = some.try_build(net, can, rules)
    if space is not None:
        assert space.sizes.min() >= 1
        assert all(len(set(knob.choices)) == len(knob.choices) for knob in space.knobs)


def test_a_knob_that_an_older_space_lacks_is_neutral() -> None:
    """Records made before there was a choice of criterion decode to the policies they named."""
    net = profile(layer("a"), layer("b.0", bias=0))
    space = build_space(net, some.EVERYTHING, {"criterion": "drop"})
    older = SearchSpace([knob for knob in space.knobs if knob.name != "criterion"], net)
    policy = space.sample(np.random.default_rng(0))
    vector = older.encode(policy)
    assert len(vector) == len(space.knobs) - 1
    assert older.decode(vector) == policy
    assert policy.criterion == "magnitude"
    assert "criterion" not in policy.to_dict()
    everything = build_space(net, some.EVERYTHING)
    told = policy_of(everything, order="prune", criterion="regrow", a__sparsity=0.5)
    assert everything.contains(told)
    assert not older.contains(told)


def test_a_policy_of_another_space_comes_back_or_is_refused() -> None:
    """Whatever lets `encode` go without decoding, it must not name another policy."""
    spaces = [
        space_of(rules)
        for rules in (
            {},
            {"order": ["prune>cluster", "cluster>prune>quantize", "distill>quantize"]},
            {"distillation.kind": ["logits"], "distillation.weight": [0.5, 1.0]},
            {"layers": {"a": {"clusters": [16, 4]}, "*": {"bits": {"max": 16}}}},
        )
    ]
    spaces += [space_of({}, groups=(("a", "b.0"),))]
    rng, refused = np.random.default_rng(0), 0
    for policy in [space.sample(rng) for space in spaces for _ in range(60)]:
        for space in spaces:
            try:
                vector = space.encode(policy)
            except InvalidRequest:
                refused += 1
            else:
                assert space.decode(vector) == policy
    assert 100 < refused < 1200


def test_the_criterion_is_offered_as_far_as_the_backend_goes() -> None:
    assert space_of({}).knob("criterion").choices == CRITERIA
    assert not space_of({}).knob("criterion").ordered
    can = replace(some.EVERYTHING, criteria=frozenset({"magnitude", "rate"}))
    only = build_space(profile(layer("a"), layer("b.0", bias=0)), can)
    assert only.knob("criterion").choices == ("magnitude", "rate")
    policy = policy_of(space_of({}), order="prune", criterion="regrow", a__sparsity=0.5)
    assert policy.criterion == "regrow"
    assert not only.contains(policy)
