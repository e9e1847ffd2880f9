import math

import pytest

from dashboards.text import (
    format_byte_range,
    format_bytes,
    format_drop,
    format_ms,
    format_order_words,
    format_spread,
    plain,
    plot_text,
    shorten,
    spreadsheet_text,
)
from spaces import ACCURACY, Metric

SECONDS = Metric("mae", "s", higher_is_better=False)


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 KB"), (12_345, "12.3 KB"), (250_000, "250 KB"),
     (1_240_000, "1.24 MB"), (math.nan, "")],
)  # fmt: skip
def test_bytes_have_three_digits_and_decimal_units(size: float, shown: str) -> None:
    assert format_bytes(size) == shown


def test_a_range_tells_its_ends_apart() -> None:
    assert format_byte_range(900, 12_345) == "900 B to 12.3 KB"
    assert format_byte_range(344_752.4, 345_008) == "344,752 to 345,008 B"


def test_numbers_come_with_their_units() -> None:
    assert format_ms(0.02134) == "0.0213 ms"
    assert format_ms(math.nan) == ""
    assert format_spread(ACCURACY, 0.0013) == "± 0.13"
    assert format_drop(ACCURACY, 0.0052) == "0.52 points worse"
    assert format_drop(ACCURACY, -0.001) == "0.10 points better"
    assert format_drop(ACCURACY, 1e-7) == "no change"
    assert format_drop(SECONDS, 0.25) == "0.25 s worse"
    assert format_order_words("prune>quantize") == "prune → quantize"
    assert format_order_words("none") == "no stage"


def test_plain_text_is_one_printable_line_that_encodes() -> None:
    text = plain("a\nb\tc\x00\u202e\ud800")
    assert text == "a b c\ufffd\ufffd\ufffd"
    assert text.encode()


def test_plot_text_cannot_be_markup() -> None:
    assert plot_text("<a href='x'>&</a>") == "&lt;a href='x'&gt;&amp;&lt;/a&gt;"
    assert plot_text("<" * 200, width=3) == "&lt;…&lt;" or "<" not in plot_text("<" * 200, width=3)


def test_shortening_keeps_both_ends() -> None:
    assert shorten("features.0.conv.weight", 11) == "fea….weight"
    assert len(shorten("x" * 50, 18)) == 18
    assert shorten("fc1", 18) == "fc1"


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_spreadsheet_does_not_run_a_cell(start: str) -> None:
    assert spreadsheet_text(f"{start}cmd()") == f"'{start}cmd()"
    assert spreadsheet_text("tpe") == "tpe"
