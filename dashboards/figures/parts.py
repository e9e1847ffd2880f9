"""Pieces that several insight figures share."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboards.text import plot_text
from dashboards.theme import Theme, template

__all__ = [
    "LEGEND_BELOW",
    "ORDER_KEY",
    "cell_outlines",
    "counted",
    "empty_figure",
    "hatching",
    "layer_label",
    "percent",
    "short_order",
    "wrapped",
]

#: What the letters of `short_order` stand for.
ORDER_KEY = "P prune, D distill, C cluster, Q quantize"
#: A telephone shows so many characters of 12 px side by side.
_NARROW_CHARACTERS = 46

#: Under the plot: beside it, it would leave a telephone no plot.
LEGEND_BELOW: dict[str, Any] = {
    "orientation": "h",
    "x": 0,
    "y": 0,
    "yanchor": "bottom",
    "yref": "container",
    "traceorder": "normal",
}


def short_order(order: str, between: str = "→") -> str:
    """`"prune>quantize"` -> `"P→Q"`: four stages in full do not fit beside a telephone's plot."""
    names = order.split(">")
    return order if order == "none" else between.join(name[:1].upper() for name in names)


def hatching(theme: Theme, shape: str) -> dict[str, Any]:
    """The pattern of a bar; "" for none. Bars must be told apart without colour too."""
    return {"shape": shape, "fillmode": "overlay", "fgcolor": theme.page, "solidity": 0.3}


def counted(count: int, noun: str, nouns: str = "") -> str:
    """`(1, "order")` -> `"1 order"`, `(2, "order")` -> `"2 orders"`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or noun + 's'}"


def layer_label(layer: str) -> str:
    """The layer's name; a network that is one layer has the name "", which shows nothing."""
    return layer or "(the network)"


def percent(share: float) -> str:
    """`0.314` -> `"31 %"`; what is not nothing never reads as 0."""
    return "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def wrapped(text: str, width: int = _NARROW_CHARACTERS) -> str:
    """A sentence as escaped lines that fit a telephone."""
    # Escaped after breaking: an entity must stay in one piece.
    return "<br>".join(plot_text(line, width) for line in textwrap.wrap(text, width))


def empty_figure(theme: Theme, words: str) -> go.Figure:
    """A figure that says why there is nothing to draw."""
    return go.Figure(
        layout={
            "template": template(theme),
            "height": 120,
            "meta": {"narrow_height": 120},
            "xaxis": {"visible": False, "fixedrange": True},
            "yaxis": {"visible": False, "fixedrange": True},
            "annotations": [
                {
                    "text": wrapped(words),
                    "x": 0.5,
                    "y": 0.5,
                    "xref": "paper",
                    "yref": "paper",
                    "showarrow": False,
                    "font": {"color": theme.muted, "size": 13},
                }
            ],
        }
    )


def cell_outlines(
    cells: Iterable[tuple[float, float]], theme: Theme, margin: float = 0.04
) -> go.Scatter:
    """Frames around cells (column, row) of a heat map: one path, however many there are."""
    half = 0.5 - margin
    corners: Sequence[tuple[float, float]] = (
        (-half, -half),
        (half, -half),
        (half, half),
        (-half, half),
        (-half, -half),
    )
    x: list[float] = []
    y: list[float] = []
    for column, row in cells:
        x += [*(column + dx for dx, _ in corners), np.nan]
        y += [*(row + dy for _, dy in corners), np.nan]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": theme.pick, "width": 2},
        hoverinfo="skip",
        showlegend=False,
    )
