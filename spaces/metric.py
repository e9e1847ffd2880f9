"""What a workload is judged by."""

import math
from dataclasses import dataclass

__all__ = ["ACCURACY", "Metric", "Reading"]

#: (unit, the unit people are shown) -> how many of the first make one of the second.
_SHOWN_UNITS = {("s", "min"): 60.0}


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of merit of a network.

    Attributes:
        name: e.g. "accuracy" or "mae".
        unit: what one unit is, e.g. "share" (printed as per cent) or "s".
        higher_is_better: its direction.
        shown_unit: what people are shown instead, e.g. "min" of a metric in "s"; "" = the unit.
            Fields, files and JSON keep the unit.
    """

    name: str
    unit: str
    higher_is_better: bool
    shown_unit: str = ""

    def __post_init__(self) -> None:
        if self.shown_unit and (self.unit, self.shown_unit) not in _SHOWN_UNITS:
            known = ", ".join(f"{unit} as {shown}" for unit, shown in _SHOWN_UNITS)
            raise ValueError(
                f"metric {self.name}: {self.unit} as {self.shown_unit} is not known, only {known}"
            )

    def loss(self, value: float) -> float:
        """The value as something to minimise: 1 - accuracy, or an error as it is."""
        if self.higher_is_better:
            return (1.0 if self.unit == "share" else 0.0) - value
        return value

    def drop(self, value: float, baseline: float) -> float:
        """How much worse `value` is than `baseline`, in the metric's unit; negative = better."""
        return self.loss(value) - self.loss(baseline)

    def shown(self, value: float) -> float:
        """A value or a difference of values in the unit that people see: a share in per cent."""
        if self.unit == "share":
            return 100 * value
        return value / _SHOWN_UNITS.get((self.unit, self.shown_unit), 1.0)

    @property
    def unit_words(self) -> str:
        """The unit that people see: "%", "min", ... or ""."""
        return "%" if self.unit == "share" else self.shown_unit or self.unit

    def format(self, value: float) -> str:
        """`0.9812` -> `"98.12 %"`, or the value with the unit people see."""
        shown = self.shown(value)
        number = f"{shown:.2f}" if self.unit == "share" else f"{shown:.4g}"
        return f"{number} {self.unit_words}".strip()


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric's value with its standard error, both in the metric's unit."""

    value: float
    standard_error: float

    def __post_init__(self) -> None:
        for name in ("value", "standard_error"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, but got {getattr(self, name)}")


ACCURACY = Metric("accuracy", "share", higher_is_better=True)
