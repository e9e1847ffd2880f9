"""A metric in the unit of its fields, and in the one that people see."""

import math

import pytest

from spaces import ACCURACY, Metric, Reading

DELAY = Metric("delay", "s", higher_is_better=False, shown_unit="min")
PLAIN = Metric("mae", "s", higher_is_better=False)


def test_values_are_shown_in_the_unit_people_see() -> None:
    assert DELAY.format(90.0) == "1.5 min"
    assert PLAIN.format(90.0) == "90 s"
    assert ACCURACY.format(0.9812) == "98.12 %"
    assert (DELAY.shown(90.0), PLAIN.shown(90.0), ACCURACY.shown(0.5)) == (1.5, 90.0, 50.0)
    assert Metric("r2", "", higher_is_better=True).format(0.5) == "0.5"


def test_judging_stays_in_the_unit_of_the_fields() -> None:
    assert DELAY.loss(90.0) == 90.0
    assert DELAY.drop(90.0, 60.0) == 30.0


def test_an_unknown_pair_of_units_is_refused() -> None:
    with pytest.raises(ValueError, match="delay: s as hours is not known, only s as min"):
        Metric("delay", "s", higher_is_better=False, shown_unit="hours")


@pytest.mark.parametrize("reading", [(math.nan, 0.0), (1.0, math.inf)])
def test_a_reading_is_finite(reading: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Reading(*reading)
