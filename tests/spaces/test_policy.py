"""Policies: normalised, so that equal computation has equal digest."""

import json
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces import (
    Distillation,
    InvalidRequest,
    LayerPolicy,
    Policy,
    Stage,
    format_order,
    parse_order,
)
from spaces.policy import ALL_ORDERS
from tests.strategies import spaces as some

P, D, C, Q = Stage.PRUNE, Stage.DISTILL, Stage.CLUSTER, Stage.QUANTIZE

CLASSIC = Policy(
    order=(P, D, C, Q),
    layers=(
        ("fc2", LayerPolicy(sparsity=0.5, clusters=16, bits=8)),
        ("fc1", LayerPolicy(sparsity=0.9, pattern="channel", bits=4, bias_bits=16)),
    ),
    distillation=Distillation("logits", 4.0, 0.5),
    activation_bits=8,
    cluster_init="density",
    scheme="asymmetric",
    granularity="channel",
)


def rebuilt(policy: Policy) -> Policy:
    return Policy(
        policy.order,
        policy.layers,
        policy.distillation,
        policy.activation_bits,
        policy.cluster_init,
        policy.scheme,
        policy.granularity,
        policy.criterion,
    )


# Digest and JSON ---------------------------------------------------------------------------------


def test_digest_is_frozen() -> None:
    """Records name policies by digest: a change of it orphans every record there is."""
    assert CLASSIC.canonical_json == (
        '{"activation_bits":8,"cluster_init":"density","distillation":'
        '{"kind":"logits","temperature":4.0,"weight":0.5},"granularity":"channel",'
        '"layers":{"fc1":{"bias_bits":16,"bits":4,"pattern":"channel","sparsity":0.9},'
        '"fc2":{"bits":8,"clusters":16,"sparsity":0.5}},'
        '"order":["prune","distill","cluster","quantize"],"scheme":"asymmetric"}'
    )
    assert CLASSIC.digest == "d8d5c6c8e165f409"
    assert Policy().digest == "061dca4e2a123487"


@given(some.policies())
def test_json_round_trip(policy: Policy) -> None:
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    assert again == policy
    assert again.digest == policy.digest
    assert hash(again) == hash(policy)
    assert pickle.loads(pickle.dumps(policy)) == policy


@given(some.policies(), some.policies())
def test_equal_policies_and_only_they_have_equal_digests(a: Policy, b: Policy) -> None:
    assert (a == b) == (a.digest == b.digest)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (LayerPolicy(bits=8), LayerPolicy(bits=8.0)),  # type: ignore[arg-type]
        (LayerPolicy(clusters=16), LayerPolicy(clusters=16.0)),  # type: ignore[arg-type]
        (LayerPolicy(bias_bits=16), LayerPolicy(bias_bits=16.0)),  # type: ignore[arg-type]
    ],
)
def test_digest_does_not_depend_on_the_type_of_a_number(
    left: LayerPolicy, right: LayerPolicy
) -> None:
    a, b = (Policy(order=(C, Q), layers=(("x", layer),)) for layer in (left, right))
    assert a == b
    assert a.digest == b.digest


def test_digest_does_not_depend_on_the_type_of_a_distillation_number() -> None:
    a = Policy(order=(D,), distillation=Distillation("logits", 4, 1))
    b = Policy(order=(D,), distillation=Distillation("logits", 4.0, 1.0))
    assert a == b
    assert a.digest == b.digest


@given(some.raw_policies_drawn())
def test_order_of_the_layers_does_not_matter(raw: dict[str, Any]) -> None:
    assert Policy(**raw) == Policy(**{**raw, "layers": raw["layers"][::-1]})


# Normalisation -----------------------------------------------------------------------------------


@given(some.policies())
def test_normalisation_is_idempotent(policy: Policy) -> None:
    assert rebuilt(policy) == policy
    assert replace(policy) == policy


@given(some.raw_policies_drawn(), some.layer_policies, some.distillations)
def test_knobs_of_absent_stages_do_not_matter(
    raw: dict[str, Any], other: LayerPolicy, distillation: Distillation
) -> None:
    """Whatever a knob of an absent stage says, it is the same computation."""
    order = raw["order"]
    layers = []
    for name, layer in raw["layers"]:
        changed = layer
        if P not in order:
            changed = replace(changed, sparsity=other.sparsity, pattern=other.pattern)
        if C not in order:
            changed = replace(changed, clusters=other.clusters)
        if Q not in order:
            changed = replace(changed, bits=other.bits, bias_bits=other.bias_bits)
        layers.append((name, changed))
    varied: dict[str, Any] = {**raw, "layers": tuple(layers)}
    if D not in order:
        varied["distillation"] = distillation
    if P not in order:
        varied["criterion"] = "regrow-rate"
    if C not in order:
        varied["cluster_init"] = "random"
    if Q not in order:
        varied |= {"activation_bits": 8, "scheme": "asymmetric", "granularity": "channel"}
    assert Policy(**varied) == Policy(**raw)
    assert Policy(**varied).digest == Policy(**raw).digest


def all_but_layers(policy: Policy) -> dict[str, Any]:
    return {name: value for name, value in vars(rebuilt(policy)).items() if name != "layers"}


@given(some.raw_policies_drawn(), st.permutations((0.01, 0.5, 0.99)), st.integers(2, 8))
def test_layers_decide_on_the_rest_by_their_needs_alone(
    raw: dict[str, Any], sparsities: list[float], clusters: int
) -> None:
    """What is left of a policy's own knobs can be told from any layers with the same needs."""

    def other(layer: LayerPolicy, sparsity: float) -> LayerPolicy:
        return replace(
            layer,
            sparsity=sparsity if layer.sparsity > 0 else 0.0,
            clusters=None if layer.clusters is None else clusters,
            bits=clusters if layer.bits < 16 else layer.bits,
        )

    pairs = zip(raw["layers"], sparsities, strict=False)
    varied = tuple((name, other(layer, sparsity)) for (name, layer), sparsity in pairs)
    assert [x.needs for _, x in varied] == [x.needs for _, x in raw["layers"]]
    # Nor does it matter which layer has which: one that adds none to the others' can go.
    more = (*varied, *(("more " + name, layer) for name, layer in varied[::-1]))
    fewer = list(varied)
    absent = [stage for stage in Stage if stage not in raw["order"]]
    for pair in varied:
        others = 0
        for name, layer in fewer:
            others |= layer.without(absent).needs if name != pair[0] else 0
        if pair[1].without(absent).needs | others == others:
            fewer.remove(pair)
    for layers in (varied, more, tuple(fewer)):
        changed = Policy(**{**raw, "layers": layers})
        assert all_but_layers(changed) == all_but_layers(Policy(**raw))


@given(some.raw_policies_drawn())
def test_stages_that_do_nothing_leave_and_the_others_keep_their_order(raw: dict[str, Any]) -> None:
    policy = Policy(**raw)
    layers = [layer for _, layer in raw["layers"]]
    works = {
        P: any(x.sparsity > 0 for x in layers),
        C: any(x.clusters is not None for x in layers),
        Q: any(x.bits < 32 or x.bias_bits < 32 for x in layers),
        D: raw["distillation"].kind != "none" and raw["distillation"].weight > 0,
    }
    assert policy.order == tuple(stage for stage in raw["order"] if works[stage])


@given(some.policies())
def test_every_stage_of_the_order_has_work_and_every_layer_kept_is_changed(policy: Policy) -> None:
    assert all(layer != LayerPolicy() for _, layer in policy.layers)
    assert [name for name, _ in policy.layers] == sorted(name for name, _ in policy.layers)
    for stage in policy.order:
        without = tuple(s for s in policy.order if s != stage)
        assert replace(policy, order=without) != policy


@given(some.policies())
def test_post_training_drops_distillation_and_nothing_else(policy: Policy) -> None:
    after = policy.post_training()
    assert after.order == tuple(s for s in policy.order if s != D)
    assert after.layers == policy.layers
    assert after.distillation == Distillation()
    assert after.post_training() == after


@pytest.mark.parametrize(
    ("noisy", "plain"),
    [
        (Policy(order=(P, Q)), Policy()),
        (Policy(layers=(("a", LayerPolicy(sparsity=0.5)),)), Policy()),
        (
            Policy(order=(P,), layers=(("a", LayerPolicy()), ("b", LayerPolicy(sparsity=0.5)))),
            Policy(order=(P,), layers=(("b", LayerPolicy(sparsity=0.5)),)),
        ),
        (Policy(order=(P,), layers=(("a", LayerPolicy(pattern="channel")),)), Policy()),
        (Policy(order=(D,), distillation=Distillation("logits", 4.0, 0.0)), Policy()),
        (
            Policy(order=(D,), distillation=Distillation("attention", 4.0, 0.5)),
            Policy(order=(D,), distillation=Distillation("attention", 9.0, 0.5)),
        ),
        (  # no grid on 16 bits
            Policy(
                order=(Q,),
                layers=(("a", LayerPolicy(bits=16)),),
                scheme="asymmetric",
                granularity="channel",
            ),
            Policy(order=(Q,), layers=(("a", LayerPolicy(bits=16)),)),
        ),
        (  # layers with clusters use one scale a tensor
            Policy(
                order=(C, Q),
                layers=(("a", LayerPolicy(clusters=8, bits=8)),),
                granularity="channel",
            ),
            Policy(order=(C, Q), layers=(("a", LayerPolicy(clusters=8, bits=8)),)),
        ),
    ],
)
def test_what_computes_nothing_is_normalised_away(noisy: Policy, plain: Policy) -> None:
    assert noisy == plain
    assert noisy.digest == plain.digest


def test_layer_finds_a_layer_and_leaves_the_others_alone() -> None:
    assert CLASSIC.layer("fc2").clusters == 16
    assert CLASSIC.layer("unknown") == LayerPolicy()


def test_different_orders_are_different_policies() -> None:
    full = [order for order in ALL_ORDERS if len(order) == 4]
    assert len({replace(CLASSIC, order=order).digest for order in full}) == 24


# Orders ------------------------------------------------------------------------------------------


def test_there_are_65_orders() -> None:
    assert len(ALL_ORDERS) == len(set(ALL_ORDERS)) == 65


@given(some.orders)
def test_order_as_text_and_back(order: tuple[Stage, ...]) -> None:
    assert parse_order(format_order(order)) == order


@pytest.mark.parametrize(
    "text", ["", "melt", "prune>prune", "prune>", "prune,quantize", "none>prune"]
)
def test_bad_orders_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="order"):
        parse_order(text)


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("sparsity", -0.1),
        ("sparsity", 1.0),
        ("sparsity", math.nan),
        ("pattern", "row"),
        ("clusters", 0),
        ("clusters", 65536),
        ("clusters", 2.5),
        ("clusters", math.nan),
        ("bits", 1),
        ("bits", 9),
        ("bits", 2.5),
        ("bits", 64),
        ("bias_bits", 0),
        ("bias_bits", 31),
    ],
)
def test_layer_policy_names_the_knob_and_the_value(knob: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{knob} must be .*{value!r}"):
        LayerPolicy(**{knob: value})


@pytest.mark.parametrize(
    "arguments",
    [("softmax", 1.0, 0.5), ("logits", 0.1, 0.5), ("logits", 4.0, 1.5), ("logits", math.nan, 1)],
)
def test_bad_distillation_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidRequest, match="must be"):
        Distillation(*arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order", (P, P)),
        ("layers", (("a", LayerPolicy()), ("a", LayerPolicy()))),
        ("activation_bits", 4),
        ("cluster_init", "kmeans++"),
        ("scheme", "logarithmic"),
        ("granularity", "row"),
        ("criterion", "gradient"),
    ],
)
def test_bad_policy_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} must be"):
        Policy(**{name: value})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=5), x, max_size=2),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["order", "layers", "distillation", "activation_bits", "scheme", "what"]),
        json_values,
    )
)
def test_from_dict_refuses_nonsense_with_one_kind_of_error(data: dict[str, Any]) -> None:
    try:
        policy = Policy.from_dict(data)
    except InvalidRequest:
        return
    assert Policy.from_dict(policy.to_dict()) == policy


@given(
    st.sampled_from(["sparsity", "pattern", "clusters", "bits", "bias_bits", "what"]), json_values
)
def test_from_dict_refuses_nonsense_in_a_layer(knob: str, value: Any) -> None:
    data = {"order": ["prune", "cluster", "quantize"], "layers": {"a": {knob: value}}}
    try:
        policy = Policy.from_dict(data)
    except InvalidRequest:
        return
    assert Policy.from_dict(policy.to_dict()) == policy


def test_a_criterion_counts_only_where_elements_are_pruned() -> None:
    def of(layer: LayerPolicy, order: tuple[Stage, ...] = (P, Q)) -> Policy:
        return Policy(order, (("a", layer),), criterion="regrow-rate")

    asked = of(LayerPolicy(sparsity=0.5, bits=8))
    assert asked.criterion == "regrow-rate"
    assert asked.to_dict()["criterion"] == "regrow-rate"
    assert Policy.from_dict(asked.to_dict()) == asked
    for layer, order in (
        (LayerPolicy(sparsity=0.5, pattern="channel", bits=8), (P, Q)),
        (LayerPolicy(sparsity=0.0, bits=8), (P, Q)),
        (LayerPolicy(sparsity=0.5, bits=8), (Q,)),
    ):
        assert of(layer, order).criterion == "magnitude"
        assert of(layer, order) == Policy(order, (("a", layer),))
    assert asked.post_training().criterion == "magnitude"
