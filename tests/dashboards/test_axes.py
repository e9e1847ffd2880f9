import itertools

import numpy as np
import pytest

from dashboards.figures.axes import Label, bytes_axis, colour_scale, ms_axis, place_labels

PLOT = (1100.0, 400.0)
#: Direction of each `textposition`, written down again: right, up.
WAYS = {
    "top": (0, 1), "bottom": (0, -1), "left": (-1, 0), "right": (1, 0), "center": (0, 0),
    "middle": (0, 0),
}  # fmt: skip


def box(label: Label, position: str) -> tuple[float, float, float, float]:
    """Where a label lies in pixels: left, low, right, high; somewhat smaller than it is."""
    width, height = len(label.text) * label.font_px * 0.5, label.font_px
    right, up = (sum(parts) for parts in zip(*(WAYS[w] for w in position.split()), strict=True))
    x = label.x * PLOT[0] + right * (label.mark_px / 2 + 2 + width / 2)
    y = label.y * PLOT[1] + up * (label.mark_px / 2 + 2 + height / 2)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlaps(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def crowd(count: int, seed: int) -> list[Label]:
    """Labels near the top right, where the references and the pick are."""
    rng = np.random.default_rng(seed)
    names = ["pick", "uniform 80% sparse int8", "uniform int8", "classic", "fp16", "baseline"]
    return [
        Label(float(rng.uniform(0.45, 0.95)), float(rng.uniform(0.75, 0.95)), name)
        for name in names[:count]
    ]


@pytest.mark.parametrize("seed", range(20))
def test_labels_of_a_typical_front_do_not_overlap(seed: int) -> None:
    labels = crowd(6, seed)
    boxes = [box(*pair) for pair in zip(labels, place_labels(labels), strict=True)]
    assert not [pair for pair in itertools.combinations(boxes, 2) if overlaps(*pair)]


def test_the_labels_that_collided_in_the_readme_keep_apart() -> None:
    pick = Label(0.495, 0.90, "pick", 18, 13)
    beside = Label(0.516, 0.905, "uniform 80% sparse int8")
    placed = place_labels([pick, beside])
    assert not overlaps(box(pick, placed[0]), box(beside, placed[1]))


def test_a_lonely_label_is_above_and_one_at_an_edge_turns_inwards() -> None:
    assert place_labels([Label(0.5, 0.5, "fp16")]) == ["top center"]
    assert place_labels([Label(0.5, 1.0, "fp16")]) == ["bottom center"]
    assert place_labels([Label(1.0, 0.5, "baseline")]) == ["middle left"]
    assert place_labels([Label(0.0, 0.5, "baseline")]) == ["middle right"]
    # On a telephone its second half would be cut.
    assert place_labels([Label(0.95, 0.5, "baseline")]) == ["middle left"]


def test_the_first_label_keeps_its_place_and_marks_push_labels_away() -> None:
    twins = [Label(0.5, 0.5, "pick"), Label(0.5, 0.5, "fp16")]
    assert place_labels(twins) == ["top center", "bottom center"]
    above = np.array([[0.5, 0.55]])
    assert place_labels([Label(0.5, 0.5, "pick")], above) == ["bottom center"]
    assert place_labels([]) == []


def test_colours_span_decades_by_logarithm_and_one_value_has_a_bar() -> None:
    assert colour_scale(np.array([0.01, 0.1, 1.0])).is_log
    linear = colour_scale(np.array([0.2, 0.3]))
    assert (linear.is_log, linear.low, linear.high) == (False, 0.2, 0.3)
    single = colour_scale(np.array([0.2, 0.2]))
    assert single.low < 0.2 < single.high
    assert colour_scale(np.array([])).ticks == []
    assert colour_scale(np.array([1000.0, 3000.0]), is_bytes=True).labels[0] == "1 KB"
    assert colour_scale(np.array([1000.0, 3000.0])).labels[0] == "1,000"


def test_log_axes_have_several_round_ticks_in_their_unit() -> None:
    axis = bytes_axis("file size", (4_000.0, 1_200_000.0), (1_000.0, 1_200_000.0))
    assert axis["type"] == "log"
    assert axis["range"] == pytest.approx([np.log10(4_000), np.log10(1_200_000)])
    assert axis["ticktext"][:2] == ["1 KB", "3 KB"]
    assert {"5 KB", "1 MB"} <= set(axis["ticktext"])
    narrow = ms_axis("latency, ms", (0.015, 0.028), (0.015, 0.028))
    assert narrow["ticktext"] == ["0.015", "0.017", "0.02", "0.025"]
