"""Where the time of one inference goes, layer by layer."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.parts import (
    LEGEND_BELOW,
    empty_figure,
    hatching,
    layer_label,
    percent,
    wrapped,
)
from dashboards.text import format_ms, plain, plot_text, shorten
from dashboards.theme import Theme, template
from spaces import Latency

__all__ = ["LatencyLayersInfo", "draw_latency_layers", "latency_layers_info"]

_ROW_HEIGHT = 28
_PAIR_HEIGHT = 40


class LatencyLayersInfo(NamedTuple):
    """Everything the per-layer latency shows.

    Attributes:
        title: whose it is, from which source, of which device.
        name: of the trial, e.g. "trial 17".
        layers: in the order of the forward pass.
        latency_ms, shares: (layers,); shares of the layers' sum.
        baseline_ms: (layers,), NaN where not known.
        words: what the bars sum to, or why there are none.
    """

    title: str
    name: str
    layers: tuple[str, ...]
    latency_ms: np.ndarray
    shares: np.ndarray
    baseline_ms: np.ndarray
    words: str

    @property
    def has_baseline(self) -> bool:
        """Whether any layer's time in the baseline is known."""
        return bool(np.isfinite(self.baseline_ms).any())


def latency_layers_info(layers: pd.DataFrame, latency: Latency, name: str) -> LatencyLayersInfo:
    """From `insight_tables.layer_latency_frame` of the same latency."""
    times = layers["latency_ms"].to_numpy(dtype=float)
    return LatencyLayersInfo(
        title=f"{name}: {format_ms(latency.median_ms)} {latency.source}, {latency.device}",
        name=name,
        layers=tuple(layer_label(layer) for layer in layers["layer"]),
        latency_ms=times,
        shares=layers["share"].to_numpy(dtype=float),
        baseline_ms=layers["baseline_ms"].to_numpy(dtype=float),
        words=_words(layers, latency),
    )


def _words(layers: pd.DataFrame, latency: Latency) -> str:
    whole = f"{format_ms(latency.median_ms)} on {latency.device}"
    if layers.empty and latency.source == "measured":
        return (
            f"{whole} was measured for the whole network, with the clock around one inference: "
            "what each layer takes of it is not known."
        )
    if layers.empty:
        return f"{whole} is {latency.source} for the whole network: no layer's share is recorded."
    slowest = layers.sort_values("latency_ms", ascending=False).iloc[0]
    known_ms = float(layers["latency_ms"].sum())
    return (
        f"The layers' {latency.source} times sum to {format_ms(known_ms)} of {whole}; "
        f"{layer_label(slowest['layer'])} takes {percent(slowest['share'])} of them."
    )


def draw_latency_layers(info: LatencyLayersInfo, theme: Theme) -> go.Figure:
    """Horizontal bars; the baseline's, where known, hatched beside them."""
    if not info.layers:
        return empty_figure(theme, info.words)
    positions = list(range(len(info.layers)))
    words = [
        f"{format_ms(value)} · {percent(share)}"
        for value, share in zip(info.latency_ms, info.shares, strict=True)
    ]
    series = [(info.name, info.latency_ms, words, theme.categories[0], "")]
    if info.has_baseline:
        baseline = [format_ms(value) for value in info.baseline_ms]
        series.append(("baseline", info.baseline_ms, baseline, theme.faint, "/"))
    bars = [
        go.Bar(
            y=positions,
            x=values,
            orientation="h",
            name=plot_text(name, 40),
            text=texts,
            textposition="outside",
            textangle=0,
            textfont={"size": 11, "color": theme.muted},
            cliponaxis=False,
            customdata=[
                [plot_text(layer, 60), text] for layer, text in zip(info.layers, texts, strict=True)
            ],
            meta=plot_text(name, 40),
            hovertemplate="<b>%{customdata[0]}</b><br>%{meta}: %{customdata[1]}<extra></extra>",
            marker={
                "color": colour,
                "pattern": hatching(theme, shape),
                "line": {"width": 0},
            },
        )
        for name, values, texts, colour, shape in series
    ]
    longest = float(np.nanmax([info.latency_ms, info.baseline_ms])) or 1.0
    row = _PAIR_HEIGHT if info.has_baseline else _ROW_HEIGHT
    height = 130 + row * len(positions)
    return go.Figure(
        data=bars,
        layout={
            "template": template(theme),
            "title": {
                "text": wrapped(shorten(plain(info.title), 76)),
                "x": 0,
                "xanchor": "left",
                "xref": "container",
                "pad": {"l": 8},
                "font": {"size": 13},
            },
            "barmode": "group",
            "bargap": 0.25,
            "height": height,
            "meta": {"narrow_height": height},
            "showlegend": info.has_baseline,
            # Room for the words at the longest bar's end, on a telephone too.
            "xaxis": {"title": {"text": "ms"}, "range": [0, 1.8 * longest], "fixedrange": True},
            "yaxis": {
                "tickvals": positions,
                "ticktext": [plot_text(layer, 16) for layer in info.layers],
                "range": [len(positions) - 0.5, -0.5],
                "showgrid": False,
                "fixedrange": True,
            },
            "legend": LEGEND_BELOW,
            "margin": {"t": 60},
        },
    )
