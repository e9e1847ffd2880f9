"""A policy as a layer x knob heat map, beside the baseline or beside another policy."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.parts import cell_outlines, layer_label
from dashboards.text import plain, plot_text
from dashboards.theme import Theme, template
from spaces import BYTES_PER_KB, LayerPolicy, ModelProfile, Policy, format_order

__all__ = ["HeatmapInfo", "PolicyPanel", "changes_words", "draw_heatmap", "heatmap_info"]

#: Column headings, with units: cells hold bare numbers, so that ten columns fit on a telephone.
COLUMNS = ("sparsity, %", "clusters", "bits", "bias bits", "KB")
#: Columns of choices; what follows them, the bytes, came of the choices.
_KNOBS = 4
_FULL_RATIO = 200.0
_ROW_HEIGHT = 26
#: Of deep networks, whose heat map would be several screens high.
_LOW_ROW_HEIGHT = 18
_MANY_LAYERS = 24


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
        changed: which cells are marked as changed, the same shape.
    """

    layers: tuple[str, ...]
    titles: tuple[str, ...]
    strength: np.ndarray
    texts: np.ndarray
    changed: np.ndarray


def heatmap_info(panels: Sequence[PolicyPanel], *, mark_changes: bool = False) -> HeatmapInfo:
    """The cells of some policies of ONE network.

    Args:
        panels: from left to right.
        mark_changes: whether knobs that differ from the first panel's are marked, in both. Bytes
            are not: they are what came of it, and would be marked nearly everywhere.
    """
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
    changed = np.zeros(shape, dtype=bool)
    if mark_changes:
        changed[1:, :, :_KNOBS] = (texts[1:] != texts[:1])[:, :, :_KNOBS]
        changed[0] = changed[1:].any(axis=0)
    titles = tuple(panel.title for panel in panels)
    return HeatmapInfo(layers, titles, strength, texts, changed)


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
        text=_marked_texts(info),
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
    marked = np.argwhere(info.changed)
    outlines = [cell_outlines([(float(p * width + c), float(i)) for p, i, c in marked], theme)]
    row_height = _LOW_ROW_HEIGHT if count > _MANY_LAYERS else _ROW_HEIGHT
    height = 138 + row_height * count
    axis = {"showgrid": False, "showline": False, "ticks": "", "fixedrange": True}
    return go.Figure(
        data=[heat, *(outlines if len(marked) else [])],
        layout={
            "template": template(theme),
            "height": height,
            "meta": {"narrow_height": height},
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
            "shapes": _gaps(info, theme),
            "margin": {"l": 8, "r": 8, "t": 124, "b": 8},
        },
    )


def _gaps(info: HeatmapInfo, theme: Theme) -> list[dict[str, Any]]:
    """Covers of the columns between panels: plotly widens a cell to the middle of a gap."""
    width = len(COLUMNS) + 1
    return [
        {
            "type": "rect",
            "x0": p * width - 1.5,
            "x1": p * width - 0.5,
            "y0": 0,
            "y1": 1,
            "yref": "y domain",
            "fillcolor": theme.page,
            "line": {"width": 0},
        }
        for p in range(1, len(info.titles))
    ]


def _marked_texts(info: HeatmapInfo) -> np.ndarray:
    """(layers, panels * columns); what changed is bold, which a frame's colour need not carry."""
    texts = np.concatenate(list(info.texts), axis=1)
    marked = np.concatenate(list(info.changed), axis=1)
    texts[marked] = [f"<b>{text}</b>" for text in texts[marked]]
    return texts


def changes_words(a: Policy, b: Policy, profile: ModelProfile) -> list[str]:
    """What `b` asks for instead of `a`, a line each: `"fc1: sparsity 95 % instead of 90 %"`.

    Layers that change alike share a line. Plain text: whoever shows it escapes it.

    Args:
        a: what is compared with.
        b: what the lines describe.
        profile: the network of both.
    """
    words = [
        f"{name}: {ours} instead of {theirs}"
        for name, theirs, ours in zip(_WHOLE, _whole_words(a), _whole_words(b), strict=True)
        if theirs != ours
    ]
    # One knob at a time: all layers may change their bits, and one its sparsity besides.
    by_change: dict[str, list[str]] = {}
    for layer in profile.layers:
        for change in _layer_changes(a.layer(layer.name), b.layer(layer.name)):
            by_change.setdefault(change, []).append(layer.name)
    by_layers: dict[tuple[str, ...], list[str]] = {}
    for change, names in by_change.items():
        by_layers.setdefault(tuple(names), []).append(change)
    total = len(profile.layers)
    ranked = sorted(by_layers.items(), key=lambda item: -len(item[0]))
    return words + [f"{_layer_words(names, total)}: {', '.join(x)}" for names, x in ranked]


_WHOLE = (
    "order",
    "distillation",
    "activation bits",
    "cluster start",
    "grid",
    "scales",
    "pruned by",
)
#: So many layers are named; of more the number is said.
_NAMED_LAYERS = 6


def _whole_words(policy: Policy) -> tuple[str, ...]:
    teacher = policy.distillation
    shown = f"{teacher.kind}, temperature {teacher.temperature:g}, weight {teacher.weight:g}"
    return (
        format_order(policy.order),
        "none" if teacher.is_neutral else shown,
        str(policy.activation_bits),
        policy.cluster_init,
        policy.scheme,
        f"one a {policy.granularity}",
        policy.criterion,
    )


def _layer_changes(a: LayerPolicy, b: LayerPolicy) -> list[str]:
    def words(layer: LayerPolicy) -> tuple[str, ...]:
        clusters = "none" if layer.clusters is None else str(layer.clusters)
        sparsity = f"{100 * layer.sparsity:.4g} %"
        return sparsity, layer.pattern, clusters, str(layer.bits), str(layer.bias_bits)

    names = ("sparsity", "pattern", "clusters", "bits", "bias bits")
    return [
        f"{name} {ours} instead of {theirs}"
        for name, theirs, ours in zip(names, words(a), words(b), strict=True)
        if theirs != ours
    ]


def _layer_words(names: Sequence[str], total: int) -> str:
    if len(names) == total > 1:
        return f"all {total} layers"
    shown = ", ".join(plain(layer_label(name)) for name in names[:_NAMED_LAYERS])
    more = len(names) - _NAMED_LAYERS
    return f"{shown} and {more} more layers" if more > 0 else shown
