"""Values -> words: numbers with their units, and text of a record made safe to show.

Names, notes and errors come from a record, which anybody may have written. HTML is escaped where
it is written (`dashboards.markup`); here are the rules of plotly, which renders a subset of HTML
in every label, and of spreadsheets, which run a cell that begins with "=".
"""

import html
import math
from collections.abc import Sequence

from spaces import BYTES_PER_KB, Measurement, Metric, ModelProfile

__all__ = [
    "corrected_text",
    "format_byte_range",
    "format_bytes",
    "format_drop",
    "format_duration",
    "format_ms",
    "format_order_words",
    "format_spread",
    "plain",
    "plot_text",
    "secondary_tiles",
    "shorten",
    "spreadsheet_text",
]

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def plain(text: object) -> str:
    """One line of printable text: line ends become spaces, control characters U+FFFD.

    A lone surrogate cannot be encoded, and a right-to-left override shows other text than there is.
    """
    line = str(text)
    if line.isprintable():
        return line
    line = " ".join(line.splitlines()).replace("\t", " ")
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def shorten(text: str, width: int) -> str:
    """`"features.0.conv.weight"` -> `"feat…weight"`: both ends say most of a layer's name."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[head - width + 1 :]}"


def plot_text(text: object, width: int = 80) -> str:
    """Text for a plotly label: shortened, then escaped, so that it is shown as text."""
    return html.escape(shorten(plain(text), width), quote=False)


def spreadsheet_text(text: object) -> str:
    """Text for a CSV cell: a leading apostrophe keeps a spreadsheet from running it."""
    line = plain(text)
    return f"'{line}" if line.startswith(_FORMULA_STARTS) else line


def format_bytes(size_bytes: float) -> str:
    """`12345` -> `"12.3 KB"`; 1 KB = 1000 bytes."""
    if not math.isfinite(size_bytes):
        return ""
    if abs(size_bytes) < BYTES_PER_KB:
        return f"{size_bytes:.0f} B"
    if abs(size_bytes) < BYTES_PER_KB**2:
        return f"{_three_digits(size_bytes / BYTES_PER_KB)} KB"
    return f"{_three_digits(size_bytes / BYTES_PER_KB**2)} MB"


def format_byte_range(low_bytes: float, high_bytes: float) -> str:
    """`"12.3 KB to 15.1 KB"`; to the byte where three digits would not tell the ends apart."""
    low, high = format_bytes(low_bytes), format_bytes(high_bytes)
    return f"{low_bytes:,.0f} to {high_bytes:,.0f} B" if low == high else f"{low} to {high}"


def _three_digits(value: float) -> str:
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(2 - magnitude, 0), 2)}f}"


def format_ms(latency_ms: float) -> str:
    """`0.02134` -> `"0.0213 ms"`."""
    return f"{latency_ms:.3g} ms" if math.isfinite(latency_ms) else ""


def format_spread(metric: Metric, standard_error: float) -> str:
    """`0.0013` -> `"± 0.13"`, in the unit that `Metric.format` shows."""
    scaled = metric.shown(standard_error)
    return f"± {scaled:.2f}" if metric.unit == "share" else f"± {scaled:.2g}"


def format_drop(metric: Metric, drop: float) -> str:
    """How much worse than the baseline: `0.0052` -> `"0.52 points worse"`, negative `better`."""
    word = "worse" if drop > 0 else "better"
    if metric.unit == "share":
        points = f"{abs(100 * drop):.2f}"
        return "no change" if points == "0.00" else f"{points} points {word}"
    return f"{abs(metric.shown(drop)):.3g} {metric.unit_words} {word}" if drop else "no change"


def secondary_tiles(
    secondary: Sequence[Metric], measurement: Measurement, profile: ModelProfile
) -> list[tuple[str, str, str]]:
    """(name, value, error and baseline) of each further metric that was measured."""
    found = []
    for metric in secondary:
        reading = measurement.secondary.get(metric.name)
        if reading is None:
            continue
        note = format_spread(metric, reading.standard_error)
        baseline = profile.baseline_secondary.get(metric.name)
        if baseline is not None:
            note += f"; baseline {metric.format(baseline.value)}"
        found.append((f"validation {metric.name}", metric.format(reading.value), note))
    return found


def corrected_text(metric: Metric, value: float, optimism: float | None) -> str:
    """What having been chosen on the same samples leaves of a metric; "" where it is not known."""
    return "" if optimism is None else f"; {metric.format(value - optimism)} corrected for choice"


def format_order_words(order: str) -> str:
    """`"prune>quantize"` -> `"prune → quantize"`; the empty order is `"no stage"`."""
    return "no stage" if order == "none" else order.replace(">", " → ")


def format_duration(seconds: float) -> str:
    """`75` -> `"1 min 15 s"`; under a second in ms."""
    if 0 < seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
