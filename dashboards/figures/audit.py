"""What each stage did to the weights and to the metric."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures.axes import metric_axis, padded
from dashboards.text import plot_text
from dashboards.theme import Theme, template
from spaces import Metric

__all__ = ["AuditInfo", "audit_info", "draw_audit"]

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "pentagon", "star", "hexagon")


class AuditInfo(NamedTuple):
    """Everything the stage audit shows.

    Attributes:
        metric: of the third panel.
        stages: "baseline", then "1 prune", "2 quantize", ...
        layers: names, in the order of the audit.
        sparsity, distinct: (layers, stages after the baseline); distinct non-zero values.
        metric_values: (1 + stages,), the baseline first.
    """

    metric: Metric
    stages: tuple[str, ...]
    layers: tuple[str, ...]
    sparsity: np.ndarray
    distinct: np.ndarray
    metric_values: np.ndarray


def audit_info(
    stages: pd.DataFrame, audit: pd.DataFrame, metric: Metric, baseline_metric: float
) -> AuditInfo:
    """From `stage_table` and `audit_table` of one measurement."""
    layers = tuple(dict.fromkeys(audit["layer"]))
    shape = (len(layers), len(stages))
    values = {}
    for column in ("sparsity", "distinct_nonzero"):
        table = audit.pivot(index="layer", columns="position", values=column)
        ordered = table.reindex(index=list(layers), columns=list(stages["position"]))
        values[column] = ordered.to_numpy(dtype=float).reshape(shape)
    names = [f"{at} {name}" for at, name in zip(stages["position"], stages["stage"], strict=True)]
    return AuditInfo(
        metric=metric,
        stages=("baseline", *names),
        layers=layers,
        sparsity=values["sparsity"],
        distinct=values["distinct_nonzero"],
        metric_values=np.array([baseline_metric, *stages["metric"]], dtype=float),
    )


def draw_audit(info: AuditInfo, theme: Theme) -> go.Figure:
    """Three panels above each other, so that they read on a narrow page too."""
    figure = make_subplots(
        rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[1, 1, 1]
    )
    after = list(range(1, len(info.stages)))
    for i, layer in enumerate(info.layers):
        style = _line_style(i, len(info.layers), theme)
        name = plot_text(layer, 24)
        for row, values in ((1, info.sparsity), (2, info.distinct)):
            number = "%{y:.1%}" if row == 1 else "%{y:,}"
            figure.add_scatter(
                x=after,
                y=values[i],
                name=name,
                legendgroup=f"layer {i}",
                showlegend=row == 1 and len(info.layers) <= len(_SYMBOLS),
                meta=plot_text(layer, 60),
                hovertemplate=f"%{{meta}}: {number}<extra></extra>",
                row=row,
                col=1,
                **style,
            )
    figure.add_scatter(
        x=list(range(len(info.stages))),
        y=info.metric_values,
        mode="lines+markers+text",
        text=[plot_text(info.metric.format(value)) for value in info.metric_values],
        textposition="top center",
        textfont={"size": 11},
        marker={"size": 9, "color": theme.front, "symbol": "circle"},
        line={"color": theme.front, "width": 2},
        name="whole network",
        showlegend=False,
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
        row=3,
        col=1,
    )
    figure.update_layout(
        template=template(theme),
        height=660,
        legend={"orientation": "h", "x": 0, "y": 0, "yanchor": "bottom", "yref": "container"},
    )
    figure.update_yaxes(title_text="sparsity", tickformat=".0%", range=[-0.05, 1.05], row=1, col=1)
    figure.update_yaxes(title_text="distinct values", type="log", dtick=1, row=2, col=1)
    figure.update_yaxes(**_metric_axis(info), row=3, col=1)
    figure.update_xaxes(
        tickvals=list(range(len(info.stages))),
        ticktext=[plot_text(name, 16) for name in info.stages],
        range=[-0.4, len(info.stages) - 0.6],
        tickangle=0,
    )
    return figure


def _line_style(i: int, count: int, theme: Theme) -> dict[str, Any]:
    """Its own colour and symbol for few layers; many are a grey bundle, named on hover."""
    if count > len(_SYMBOLS):
        return {
            "mode": "lines+markers",
            "line": {"color": theme.faint, "width": 1},
            "marker": {"color": theme.faint, "size": 4},
        }
    colour = theme.categories[i % len(theme.categories)]
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 9, "symbol": _SYMBOLS[i]},
    }


def _metric_axis(info: AuditInfo) -> dict[str, Any]:
    limits = padded(info.metric_values, 0.25)
    return dict(metric_axis(info.metric, limits))
