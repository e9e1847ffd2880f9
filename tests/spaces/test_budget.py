"""Budgets: hard limits, and the one the metric gets from two of them."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces import ACCURACY, Budget, InvalidRequest, Metric
from tests.strategies import spaces as some

ERROR = Metric("mae", "s", higher_is_better=False)


@given(some.budgets)
def test_json_round_trip(budget: Budget) -> None:
    assert Budget(**json.loads(json.dumps(budget.to_dict()))) == budget


@given(some.metrics)
def test_metric_json_round_trip(metric: Metric) -> None:
    assert Metric(**json.loads(json.dumps(asdict(metric)))) == metric


def test_to_dict_has_only_the_limits_that_are_set() -> None:
    assert Budget().to_dict() == {}
    assert Budget(size_bytes=250_000, max_drop=0.0).to_dict() == {
        "size_bytes": 250_000,
        "max_drop": 0.0,
    }


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["size_bytes", "download_bytes", "latency_ms"])
def test_sizes_and_latency_are_above_0(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"budget {name} must be .* but got {value}"):
        Budget(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_drop", -0.01), ("max_drop", math.nan), ("min_metric", math.nan), ("max_drop", math.inf)],
)
def test_metric_limits_are_sound(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"budget {name} must be .* but got {value}"):
        Budget(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "metric", "limit"),
    [
        (Budget(), ACCURACY, None),
        (Budget(min_metric=0.8), ACCURACY, 0.8),
        (Budget(max_drop=0.25), ACCURACY, 0.5),
        (Budget(min_metric=0.6, max_drop=0.25), ACCURACY, 0.6),
        (Budget(min_metric=0.25, max_drop=0.25), ACCURACY, 0.5),
        (Budget(max_drop=0.25), ERROR, 1.0),
        (Budget(min_metric=0.875, max_drop=0.25), ERROR, 0.875),
        (Budget(min_metric=2.0, max_drop=0.25), ERROR, 1.0),
    ],
)
def test_metric_limit_is_the_tightest(budget: Budget, metric: Metric, limit: float | None) -> None:
    assert budget.metric_limit(metric, baseline=0.75) == limit


# The metric --------------------------------------------------------------------------------------


@given(some.metrics, some.numbers(0, 1), some.numbers(0, 1))
def test_a_lower_loss_is_a_better_metric(metric: Metric, a: float, b: float) -> None:
    better = a > b if metric.higher_is_better else a < b
    if metric.loss(a) < metric.loss(b):
        assert better
    assert (metric.drop(a, b) < 0) == (metric.loss(a) < metric.loss(b))
    assert metric.drop(a, b) == -metric.drop(b, a)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [(ACCURACY, 0.9812, "98.12 %"), (ERROR, 0.123456, "0.1235 s")],
)
def test_format_has_the_unit(metric: Metric, value: float, text: str) -> None:
    assert metric.format(value) == text


@given(st.floats(0, 1))
def test_accuracys_loss_is_the_error_rate(value: float) -> None:
    assert ACCURACY.loss(value) == 1 - value
