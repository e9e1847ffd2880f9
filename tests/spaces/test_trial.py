"""Trials: JSON and back, identities, violations."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.spec import StudySpec
from spaces import (
    ACCURACY,
    Budget,
    Distillation,
    Failure,
    Identity,
    LayerPolicy,
    Measurement,
    Metric,
    Policy,
    Stage,
    Target,
    Trial,
)
from spaces.target import Figure
from spaces.trial import violations
from tests.strategies import spaces as some
from tests.strategies.spaces import measurement, trial

# JSON --------------------------------------------------------------------------------------------


@given(some.trials)
def test_trial_round_trip(one: Trial) -> None:
    again = Trial.from_dict(json.loads(one.to_json()))
    assert again == one
    assert again.to_json() == one.to_json()
    assert "\n" not in one.to_json()


@given(some.measurements)
def test_measurement_round_trip(one: Measurement) -> None:
    assert one.to_dict() == asdict(one)
    assert Measurement.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@given(some.measurements, some.specs)
def test_records_from_before_secondary_metrics_load(one: Measurement, spec: StudySpec) -> None:
    old = one.to_dict()
    del old["secondary"]
    assert Measurement.from_dict(json.loads(json.dumps(old))) == replace(one, secondary={})
    old_spec = spec.to_dict()
    del old_spec["secondary"], old_spec["metric"]["shown_unit"]
    plain = replace(spec.metric, shown_unit="")
    assert StudySpec.from_dict(old_spec) == replace(spec, metric=plain, secondary=())


@given(some.identities)
def test_identity_round_trip(one: Identity) -> None:
    assert Identity(**json.loads(json.dumps(asdict(one)))) == one


@given(some.specs)
def test_spec_round_trip(spec: StudySpec) -> None:
    again = StudySpec.from_dict(json.loads(spec.to_json()))
    assert again == spec
    assert again.to_json() == spec.to_json()


def test_a_trial_is_a_measurement_or_a_failure() -> None:
    failed = trial(0, Failure("fc1", "prune", "too small"))
    assert failed.measurement is None
    assert "measurement" not in failed.to_dict()
    done = trial(0, measurement())
    assert done.measurement is done.outcome
    assert "failure" not in done.to_dict()


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (Failure("fc1", "prune", "too small"), "prune fc1: too small"),
        (Failure("", "quantize", "no grid"), "quantize: no grid"),
        (Failure("", "", "worker lost twice"), "worker lost twice"),
    ],
)
def test_a_failure_says_where(failure: Failure, text: str) -> None:
    assert str(failure) == text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["metric", "metric_se"])
def test_a_metric_that_is_no_number_is_no_measurement(name: str, bad: Any) -> None:
    """NaN compares as False: it would be feasible, and on every front."""
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        measurement(**{name: bad})


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_a_measurement_has_a_size_and_a_latency(bad: Any) -> None:
    with pytest.raises(ValueError, match="size_bytes must be above 0"):
        replace(measurement(), size_bytes=bad)
    with pytest.raises(ValueError, match="median_ms must be above 0"):
        measurement(median_ms=bad)


# Identity ----------------------------------------------------------------------------------------


@given(some.identities, some.identities)
def test_identity_keys_are_unique(a: Identity, b: Identity) -> None:
    assert (a.key == b.key) == (a == b)
    assert "\n" not in a.key


@pytest.mark.parametrize(
    "change",
    [
        {"workload": "v"},
        {"artifact_format": "onnx"},
        {"policy_digest": "e"},
        {"fidelity": 1},
        {"repeat": 1},
        {"seed": 1},
    ],
)
def test_every_field_is_in_the_key(change: dict[str, Any]) -> None:
    identity = Identity("w", "packed", "d", 0, 0, 0)
    assert replace(identity, **change).key != identity.key


@given(some.specs, some.policies(), some.distillations)
def test_untrained_identities_do_not_know_distillation(
    spec: StudySpec, policy: Policy, other: Distillation
) -> None:
    twin = replace(policy, distillation=other)
    assert spec.identity(policy, 0) == spec.identity(twin, 0)
    assert (spec.identity(policy, 1) == spec.identity(twin, 1)) == (policy == twin)


@given(some.specs)
def test_a_specs_identity_holds_what_the_spec_says(spec: StudySpec) -> None:
    policy = Policy(order=(Stage.PRUNE,), layers=(("a", LayerPolicy(sparsity=0.5)),))
    assert spec.identity(policy, 7, repeat=2) == Identity(
        spec.workload, spec.artifact_format, policy.digest, 7, 2, spec.seed
    )


# Violations --------------------------------------------------------------------------------------


@given(some.measurements, some.budgets, some.metrics, some.numbers(0, 1))
def test_violations_always_have_the_same_keys_and_are_numbers(
    one: Measurement, budget: Budget, metric: Metric, baseline: float
) -> None:
    found = violations(one, budget, metric, baseline)
    assert list(found) == ["size_bytes", "download_bytes", "latency_ms", "metric"]
    assert all(math.isfinite(value) for value in found.values())


def test_violations_by_hand() -> None:
    one = measurement(0.7, 1040, 3.0, download_bytes=500)
    assert violations(one, Budget(), ACCURACY, 0.9) == dict.fromkeys(
        ("size_bytes", "download_bytes", "latency_ms", "metric"), -1.0
    )
    budget = Budget(size_bytes=1000, download_bytes=1000, latency_ms=2.0, max_drop=0.1)
    assert violations(one, budget, ACCURACY, 0.9) == pytest.approx(
        {"size_bytes": 0.04, "download_bytes": -0.5, "latency_ms": 0.5, "metric": 0.1}
    )


@given(some.measurements, some.metrics)
def test_a_limit_just_met_is_kept(one: Measurement, metric: Metric) -> None:
    budget = Budget(
        size_bytes=one.size_bytes,
        download_bytes=one.download_bytes,
        latency_ms=one.latency.median_ms,
        min_metric=one.metric,
    )
    assert max(violations(one, budget, metric, 0.5).values()) <= 0


@given(st.integers(0, 100), st.integers(0, 100))
def test_rounding_does_not_break_a_drop_just_kept(baseline: int, drop: int) -> None:
    """In floats 0.98 - 0.01 is not exactly 0.97."""
    one = measurement((baseline - drop) / 100)
    found = violations(one, Budget(max_drop=drop / 100), ACCURACY, baseline / 100)
    assert found["metric"] <= 0


# Targets -----------------------------------------------------------------------------------------


@given(some.targets)
def test_targets_can_be_drawn(target: Target) -> None:
    assert all(isinstance(figure, Figure) for figure in target.throughput_gmacs.values())


def test_an_assumed_figure_says_so() -> None:
    assert Figure(1.0, "assumed: as the M2").is_assumed
    assert not Figure(1.0, "measured by us").is_assumed
