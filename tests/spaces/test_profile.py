"""Profiles: JSON and back, and what is counted from them."""

import json
import math
from dataclasses import replace

from hypothesis import given

from spaces import ModelProfile, Reading
from tests.strategies import spaces as some


@given(some.profiles())
def test_json_round_trip(profile: ModelProfile) -> None:
    again = ModelProfile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again == profile
    assert hash(again) == hash(profile)
    assert ModelProfile.from_dict(profile.to_dict()) == profile


@given(some.profiles())
def test_a_record_from_before_input_groups_loads(profile: ModelProfile) -> None:
    data = json.loads(json.dumps(profile.to_dict()))
    for layer in data["layers"]:
        del layer["input_group"]
    assert {layer.input_group for layer in ModelProfile.from_dict(data).layers} == {""}


@given(some.profiles())
def test_secondary_figures_of_the_baseline(profile: ModelProfile) -> None:
    given = replace(profile, baseline_secondary={"delay": Reading(1.5, 0.25)})
    data = json.loads(json.dumps(given.to_dict()))
    assert ModelProfile.from_dict(data) == given
    del data["baseline_secondary"]
    assert ModelProfile.from_dict(data) == profile


@given(some.profiles())
def test_counts(profile: ModelProfile) -> None:
    assert list(profile.layer_map.values()) == list(profile.layers)
    assert profile.macs == sum(layer.macs for layer in profile.layers)
    weights = sum(math.prod(x.weight_shape) for x in profile.layers)
    biases = sum(x.bias_size for x in profile.layers)
    assert profile.parameter_count == weights + biases + profile.other_bytes // 4
