"""What a study's fidelity, and what its network's layers are, take from the space."""

from dataclasses import replace

import pytest

from evaluators.cost.targets import load_target
from search.session import capabilities_of
from spaces.policy import CRITERIA
from tests.simulator import simulate


def test_without_training_there_is_no_choice_of_criterion() -> None:
    profile, target = simulate(3).profile, load_target("m1")
    trained, _ = capabilities_of(profile, target, 1000)
    untrained, _ = capabilities_of(profile, target, 0)
    assert trained.criteria == set(CRITERIA)
    assert untrained.criteria == {"magnitude"}
    assert untrained.distillation_kinds == {"none"}


def test_attention_needs_maps_to_compare() -> None:
    profile, target = simulate(3).profile, load_target("m1")
    profile = replace(profile, layers=(replace(profile.layers[0], kind="Conv2d"),))
    assert "attention" in capabilities_of(profile, target, 1000)[0].distillation_kinds
    for other in (
        replace(profile, has_attention=False),
        replace(profile, layers=(replace(profile.layers[0], kind="Linear"),)),
    ):
        both, removed = capabilities_of(other, target, 1000)
        assert both.distillation_kinds == {"none", "logits"}
        said = "no attention transfer: network and teacher have no feature maps of the same shapes"
        assert said in removed


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_state_stays_in_floats(kind: str) -> None:
    profile = simulate(3).profile
    target = replace(load_target("m1"), artifact_format="packed")
    assert 8 in capabilities_of(profile, target, 1000)[0].activation_bits
    layers = (replace(profile.layers[0], kind=kind), *profile.layers[1:])
    both, removed = capabilities_of(replace(profile, layers=layers), target, 1000)
    assert both.activation_bits == {32}
    assert f"the state of {kind} layers stays in floats" in removed
    assert both.layers[kind].patterns == {"element"}


@pytest.mark.parametrize(("kind", "format_name"), [("GRU", "mlpackage"), ("GRU", "tflite")])
def test_a_format_that_stores_no_such_layer_says_so(kind: str, format_name: str) -> None:
    profile = simulate(3).profile
    layers = (replace(profile.layers[0], kind=kind), *profile.layers[1:])
    target = replace(load_target("pixel"), artifact_format=format_name)
    both, removed = capabilities_of(replace(profile, layers=layers), target, 1000)
    assert kind not in both.layers
    assert f"{format_name} cannot do layer kind: {kind}" in removed
