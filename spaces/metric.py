"""What a workload is judged by."""

from dataclasses import dataclass

__all__ = ["ACCURACY", "Metric"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of merit of a network.

    Attributes:
        name: e.g. "accuracy" or "mae".
        unit: what one unit is, e.g. "share" (printed as per cent) or "s".
        higher_is_better: its direction.
    """

    name: str
    unit: str
    higher_is_better: bool

    def loss(self, value: float) -> float:
        """The value as something to minimise: 1 - accuracy, or an error as it is."""
        if self.higher_is_better:
            return (1.0 if self.unit == "share" else 0.0) - value
        return value

    def drop(self, value: float, baseline: float) -> float:
        """How much worse `value` is than `baseline`, in the metric's unit; negative = better."""
        return self.loss(value) - self.loss(baseline)

    def format(self, value: float) -> str:
        """`0.9812` -> `"98.12 %"`, or the value with its unit."""
        return (
            f"{100 * value:.2f} %" if self.unit == "share" else f"{value:.4g} {self.unit}".strip()
        )


ACCURACY = Metric("accuracy", "share", higher_is_better=True)
