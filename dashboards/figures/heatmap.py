"""A policy as a layer x knob heat map, beside the baseline or beside another policy."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.text import plot_text
from dashboards.theme import Theme, template
from spaces import BYTES_PER_KB

__all__ = ["HeatmapInfo", "PolicyPanel", "draw_heatmap", "heatmap_info"]

#: Column headings, with units: cells hold bare numbers, so that ten columns fit on a telephone.
COLUMNS = ("sparsity, %", "clusters", "bits", "bias bits", "KB")
_FULL_RATIO = 200.0
_ROW_HEIGHT = 26


class PolicyPanel(NamedTuple):
    """One side of the heat map.

    Attributes:
        title: above it, e.g. "baseline" or "pick, trial 17".
        policy: of `dashboards.tables.policy_table`.
        layer_bytes: layer -> bytes in the file.
    """

    title: str
    policy: pd.DataFrame
    layer_bytes: Mapping[str, int]


class HeatmapInfo(NamedTuple):
    """Everything the heat map shows.

    Attributes:
        layers: in the order of the forward pass.
        titles: of the panels.
        strength: (panels, layers, columns): 0 = untouched, 1 = the strongest choice.
        texts: the cells' words, the same shape.
    """

    layers: tuple[str, ...]
    titles: tuple[str, ...]
    strength: np.ndarray
    texts: np.ndarray


def heatmap_info(panels: Sequence[PolicyPanel]) -> HeatmapInfo:
    """The cells of some policies of ONE network."""
    layers = tuple(panels[0].policy["layer"])
    shape = (len(panels), len(layers), len(COLUMNS))
    strength, texts = np.zeros(shape), np.full(shape, "", dtype=object)
    for p, panel in enumerate(panels):
        for i, row in enumerate(panel.policy.to_dict("records")):
            full_bytes = 4 * int(row["weights"])
            size_bytes = panel.layer_bytes.get(str(row["layer"]), full_bytes)
            clusters = None if pd.isna(row["clusters"]) else int(row["clusters"])
            knobs = _strengths(
                float(row["sparsity"]), clusters, int(row["bits"]), int(row["bias_bits"])
            )
            ratio = full_bytes / max(size_bytes, 1)
            strength[p, i] = (*knobs, _clip(math.log(ratio) / math.log(_FULL_RATIO)))
            mark = " ch" if row["pattern"] == "channel" else ""
            texts[p, i] = [
                f"{100 * row['sparsity']:.3g}{mark}",
                "-" if clusters is None else str(clusters),
                str(row["bits"]),
                str(row["bias_bits"]),
                f"{size_bytes / BYTES_PER_KB:.3g}",
            ]
    return HeatmapInfo(layers, tuple(panel.title for panel in panels), strength, texts)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def _strengths(
    sparsity: float, clusters: int | None, bits: int, bias_bits: int
) -> tuple[float, float, float, float]:
    """Comparable across knobs: each is the logarithm of what it saves of 32 bits a weight."""
    index_bits = 32.0 if clusters is None else max(math.log2(clusters), 1.0)
    return (
        _clip(-math.log(1 - sparsity) / math.log(_FULL_RATIO)),
        _clip(math.log2(32 / index_bits) / 4),
        _clip(math.log2(32 / bits) / 4),
        _clip(math.log2(32 / bias_bits) / 4),
    )


def draw_heatmap(info: HeatmapInfo, theme: Theme) -> go.Figure:
    """One heat map: the panels side by side, an empty column between them."""
    count, width = len(info.layers), len(COLUMNS) + 1
    columns = [p * width + c for p in range(len(info.titles)) for c in range(len(COLUMNS))]
    headings = [COLUMNS[c] for _ in info.titles for c in range(len(COLUMNS))]
    names = [plot_text(name, 18) for name in info.layers]
    heat = go.Heatmap(
        x=columns,
        # Positions, not names: shortened names of two layers may be equal.
        y=list(range(count)),
        z=np.concatenate(list(info.strength), axis=1),
        text=np.concatenate(list(info.texts), axis=1),
        texttemplate="%{text}",
        textfont={"size": 11, "color": theme.ink},
        customdata=[[plot_text(name, 60)] * len(columns) for name in info.layers],
        hovertemplate="%{customdata}<br>%{x}: %{text}<extra></extra>",
        zmin=0,
        zmax=1,
        colorscale=[list(stop) for stop in theme.strength],
        showscale=False,
        xgap=2,
        ygap=2,
    )
    titles = [
        {
            "text": f"<b>{plot_text(title, 30)}</b>",
            "x": p * width + (len(COLUMNS) - 1) / 2,
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "yshift": 64,
            "showarrow": False,
        }
        for p, title in enumerate(info.titles)
    ]
    axis = {"showgrid": False, "showline": False, "ticks": "", "fixedrange": True}
    return go.Figure(
        data=[heat],
        layout={
            "template": template(theme),
            "height": 138 + _ROW_HEIGHT * count,
            "xaxis": {
                **axis,
                "tickvals": columns,
                "ticktext": headings,
                "side": "top",
                "tickangle": -50,
                "tickfont": {"size": 11},
            },
            "yaxis": {
                **axis,
                "tickvals": list(range(count)),
                "ticktext": names,
                "range": [count - 0.5, -0.5],
            },
            "annotations": titles,
            "margin": {"l": 8, "r": 8, "t": 124, "b": 8},
        },
    )
