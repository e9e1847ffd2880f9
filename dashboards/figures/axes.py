"""Axes that several figures share."""

import math
from typing import Any, NamedTuple

import numpy as np

from dashboards.text import format_bytes, format_ms, plot_text
from spaces import Metric

__all__ = ["ColourScale", "bytes_axis", "colour_scale", "metric_axis", "padded", "padded_log"]

#: Beyond this factor between the slowest and the fastest a linear colour scale shows two colours.
_LOG_COLOURS_FROM = 20.0


def padded(values: np.ndarray, share: float = 0.08) -> tuple[float, float]:
    """The range of some values with a margin; a margin of 1 % of the value around a single one."""
    low, high = float(values.min()), float(values.max())
    margin = share * (high - low) or 0.01 * abs(high) or 0.01
    return low - margin, high + margin


def padded_log(values: np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """`padded` on a log axis: positive values in, positive limits out."""
    low, high = padded(np.log10(values), share)
    margin = max(0.0, 0.15 - (high - low)) / 2
    return 10 ** (low - margin), 10 ** (high + margin)


def _nice_ticks(low: float, high: float) -> list[float]:
    """1-2-5 ticks on a log range; 1-3 or powers of ten when there would be more than nine."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) <= 9:
            break
    return ticks


def bytes_axis(title: str, limits: tuple[float, float], all_limits: tuple[float, float]) -> Any:
    """A logarithmic axis of bytes showing `limits`, with ticks for `all_limits`: zoomed out."""
    focus = _nice_ticks(*limits)
    outside = [t for t in _nice_ticks(*all_limits) if not limits[0] <= t <= limits[1]]
    ticks = sorted(focus + outside)
    return {
        "title": {"text": title},
        "type": "log",
        "range": [math.log10(limit) for limit in limits],
        "tickvals": ticks,
        "ticktext": [format_bytes(tick).replace(".00", "").replace(".0 ", " ") for tick in ticks],
        "tickangle": 0,
    }


def metric_axis(metric: Metric, limits: tuple[float, float] | None) -> Any:
    """An axis of the metric, in per cent where it is a share."""
    is_share = metric.unit == "share"
    unit = "" if is_share else f", {metric.unit}"
    axis: dict[str, Any] = {"title": {"text": plot_text(f"{metric.name}{unit}")}}
    if is_share:
        span = limits[1] - limits[0] if limits else 1.0
        # Fewer digits would give two neighbouring ticks one label.
        axis["tickformat"] = ".2%" if span < 0.01 else ".1%" if span < 0.1 else ".0%"
    if limits:
        axis["range"] = list(limits)
    return axis


class ColourScale(NamedTuple):
    """Numbers to colour by, and the bar's ticks, for latencies that may span decades.

    Attributes:
        is_log: whether `encode` takes the logarithm.
        low, high: encoded ends.
        ticks, labels: of the colour bar, encoded.
    """

    is_log: bool
    low: float
    high: float
    ticks: list[float]
    labels: list[str]

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Milliseconds -> the numbers to colour by."""
        return np.log10(values) if self.is_log else values


def colour_scale(latencies_ms: np.ndarray) -> ColourScale:
    """The scale for some latencies, in ms; they must be finite and positive."""
    if len(latencies_ms) == 0:
        return ColourScale(is_log=False, low=0.0, high=1.0, ticks=[], labels=[])
    low, high = float(latencies_ms.min()), float(latencies_ms.max())
    if high > _LOG_COLOURS_FROM * low:
        ticks = _nice_ticks(low, high)[:5] or [low, high]
        encoded = [math.log10(tick) for tick in ticks]
        return ColourScale(True, math.log10(low), math.log10(high), encoded, _labels(ticks))
    if high - low < 1e-3 * high:
        # One colour; the bar must still have an extent.
        return ColourScale(False, 0.9 * low, 1.1 * high, [low], _labels([low]))
    ticks = [float(tick) for tick in np.linspace(low, high, 3)]
    return ColourScale(False, low, high, ticks, _labels(ticks))


def _labels(latencies_ms: list[float]) -> list[str]:
    return [format_ms(value).removesuffix(" ms") for value in latencies_ms]
