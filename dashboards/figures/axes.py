"""Axes that several figures share, their colours, and labels that keep apart on them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dashboards.text import format_bytes, plot_text
from spaces import Metric

__all__ = [
    "ColourScale",
    "Label",
    "bytes_axis",
    "colour_scale",
    "metric_axis",
    "ms_axis",
    "padded",
    "padded_log",
    "place_labels",
]

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


#: (steps within a decade, the most ticks they may give), the finest first.
_TICK_STEPS = (
    ((1, 1.2, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), 6),
    ((1, 1.5, 2, 3, 5, 7), 9),
    ((1, 2, 5), 9),
    ((1, 3), 9),
    ((1,), 9),
)


def _nice_ticks(low: float, high: float) -> list[float]:
    """Round ticks on a log range: the finest steps that are not too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps, most in _TICK_STEPS:
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) <= most:
            break
    return ticks


def bytes_axis(title: str, limits: tuple[float, float], all_limits: tuple[float, float]) -> Any:
    """A logarithmic axis of bytes showing `limits`, with ticks for `all_limits`: zoomed out."""
    return _log_axis(title, limits, all_limits, _short_bytes)


def ms_axis(title: str, limits: tuple[float, float], all_limits: tuple[float, float]) -> Any:
    """`bytes_axis` for milliseconds; the unit is the title's."""
    return _log_axis(title, limits, all_limits, _short_ms)


def _log_axis(
    title: str,
    limits: tuple[float, float],
    all_limits: tuple[float, float],
    words: Callable[[float], str],
) -> Any:
    focus = _nice_ticks(*limits)
    outside = [t for t in _nice_ticks(*all_limits) if not limits[0] <= t <= limits[1]]
    ticks = sorted(focus + outside)
    return {
        "title": {"text": title},
        "type": "log",
        "range": [math.log10(limit) for limit in limits],
        "tickvals": ticks,
        "ticktext": [words(tick) for tick in ticks],
    }


def _short_bytes(size_bytes: float) -> str:
    """`5000` -> `"5 KB"`."""
    return format_bytes(size_bytes).replace(".00", "").replace(".0 ", " ")


def _short_ms(latency_ms: float) -> str:
    """`0.5` -> `"0.5"`, `1500` -> `"1,500"`: the unit is said once, by the title."""
    return f"{latency_ms:,.0f}" if latency_ms >= 100 else f"{latency_ms:.3g}"


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
    """Numbers to colour by, and the bar's ticks, for latencies or sizes that may span decades.

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
        """Milliseconds or bytes -> the numbers to colour by."""
        return np.log10(values) if self.is_log else values


def colour_scale(values: np.ndarray, *, is_bytes: bool = False) -> ColourScale:
    """The scale for some latencies, in ms, or sizes; they must be finite and positive."""
    words = _short_bytes if is_bytes else _short_ms
    if len(values) == 0:
        return ColourScale(is_log=False, low=0.0, high=1.0, ticks=[], labels=[])
    low, high = float(values.min()), float(values.max())
    if high > _LOG_COLOURS_FROM * low:
        ticks = _nice_ticks(low, high)[:5] or [low, high]
        encoded = [math.log10(tick) for tick in ticks]
        labels = [words(tick) for tick in ticks]
        return ColourScale(True, math.log10(low), math.log10(high), encoded, labels)
    if high - low < 1e-3 * high:
        # One colour; the bar must still have an extent.
        return ColourScale(False, 0.9 * low, 1.1 * high, [low], [words(low)])
    ticks = [float(tick) for tick in np.linspace(low, high, 3)]
    return ColourScale(False, low, high, ticks, [words(tick) for tick in ticks])


class Label(NamedTuple):
    """A label to place.

    Attributes:
        x, y: the point, as shares of the plot's width and height; y grows upwards.
        text: as it is shown.
        mark_px: diameter of the point's mark.
        font_px: size of the font.
    """

    x: float
    y: float
    text: str
    mark_px: float = 13.0
    font_px: float = 11.0


#: Plotly's names, the best looking first: direction right (1), up (1).
_POSITIONS = {
    "top center": (0, 1),
    "bottom center": (0, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top left": (-1, 1),
    "top right": (1, 1),
    "bottom right": (1, -1),
    "bottom left": (-1, -1),
}
#: Width of an average letter over the size of the font.
_LETTER = 0.56
#: A typical page's plot area.
_PLOT_PX = (1100.0, 400.0)
#: The plot of a telephone: labels that fit in there are not cut on a wider one either.
_NARROW_PX = 300.0
#: And a mark under a label, in square pixels: letters over a dot are ugly, over letters unreadable.
_MARK_WEIGHT_PX2 = 120.0
_MARK_RADIUS_PX = 5.0

_Box = tuple[float, float, float, float]


def place_labels(
    labels: Sequence[Label],
    marks: np.ndarray | None = None,
    plot_px: tuple[float, float] = _PLOT_PX,
) -> list[str]:
    """Plotly's `textposition` of each label, so that they do not overlap: greedy, in their order.

    A label takes the first of eight places that hides nothing, else the one that hides least, on
    a typical page and on a telephone together: one answer serves both. Widths are approximate: the
    browser's font is not known here.

    Args:
        labels: the most important first.
        marks: (points, 2) in the labels' coordinates: what labels should not cover, if they can.
        plot_px: width and height of the plot area.
    """
    width, height = plot_px
    narrow = min(width, _NARROW_PX)
    taken, slim_taken = (
        [
            _box_around((label.x * across, label.y * height), label.mark_px, label.mark_px)
            for label in labels
        ]
        for across in (width, narrow)
    )
    none = np.empty((0, 2))
    points = none if marks is None else marks * np.array(plot_px)
    chosen = []
    for label in labels:
        boxes, slim_boxes, costs = {}, {}, {}
        for name, (right, up) in _POSITIONS.items():
            box = _label_box((label.x * width, label.y * height), label, right, up)
            slim = _label_box((label.x * narrow, label.y * height), label, right, up)
            cut = _cut_px2(slim, narrow, height)
            hidden = _hidden_px2(box, taken, points) + _hidden_px2(slim, slim_taken, none)
            boxes[name], slim_boxes[name], costs[name] = box, slim, cut + hidden
        best = min(costs, key=lambda name: costs[name])
        taken.append(boxes[best])
        slim_taken.append(slim_boxes[best])
        chosen.append(best)
    return chosen


def _box_around(centre: tuple[float, float], width: float, height: float) -> _Box:
    x, y = centre
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _label_box(anchor: tuple[float, float], label: Label, right: int, up: int) -> _Box:
    """Where plotly puts the text: beside the mark, an eighth of it and a pixel away."""
    width, height = len(label.text) * label.font_px * _LETTER, 1.2 * label.font_px
    away = label.mark_px / 1.6 + 1
    centre = (
        anchor[0] + right * (away + width / 2),
        anchor[1] + up * (away + height / 2),
    )
    return _box_around(centre, width, height)


def _hidden_px2(box: _Box, taken: Sequence[_Box], marks: np.ndarray) -> float:
    left, low, right, high = box
    covered = sum(
        max(0.0, min(right, b[2]) - max(left, b[0])) * max(0.0, min(high, b[3]) - max(low, b[1]))
        for b in taken
    )
    lowest = marks > (left - _MARK_RADIUS_PX, low - _MARK_RADIUS_PX)
    highest = marks < (right + _MARK_RADIUS_PX, high + _MARK_RADIUS_PX)
    return covered + _MARK_WEIGHT_PX2 * float((lowest & highest).all(axis=1).sum())


def _cut_px2(box: _Box, width: float, height: float) -> float:
    left, low, right, high = box
    aside = max(0.0, -left) + max(0.0, right - width)
    above = max(0.0, -low) + max(0.0, high - height)
    return aside * (high - low) + above * (right - left)
