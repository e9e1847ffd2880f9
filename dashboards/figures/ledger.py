"""Where the bytes of a file are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.text import format_bytes, plot_text
from dashboards.theme import Theme, template
from spaces import BYTES_PER_KB

__all__ = ["LedgerInfo", "draw_ledger", "ledger_info"]

#: Name of the row of what belongs to the whole file.
WHOLE_FILE = "(whole file)"
_ROW_HEIGHT = 28


class LedgerInfo(NamedTuple):
    """Everything the ledger shows.

    Attributes:
        layers: rows, top to bottom.
        sections: the most bytes first.
        sizes_bytes: (layers, sections); sums to the file's size.
    """

    layers: tuple[str, ...]
    sections: tuple[str, ...]
    sizes_bytes: np.ndarray


def ledger_info(ledger: pd.DataFrame, tensor_order: Sequence[str]) -> LedgerInfo:
    """A ledger table by tensor and section; those in `tensor_order` first, then others by name."""
    table = ledger.pivot_table(
        index="layer", columns="section", values="size_bytes", aggfunc="sum", fill_value=0
    )
    known = [name for name in tensor_order if name in table.index]
    others = sorted(set(table.index) - set(known))
    rows = [*known, *others]
    totals = {str(name): int(table[name].to_numpy().sum()) for name in table.columns}
    sections = sorted(totals, key=lambda name: (-totals[name], name))
    return LedgerInfo(
        layers=tuple(rows),
        sections=tuple(sections),
        sizes_bytes=table.loc[rows, sections].to_numpy(dtype=np.int64),
    )


def draw_ledger(info: LedgerInfo, theme: Theme) -> go.Figure:
    """Stacked horizontal bars, one a layer."""
    totals = info.sizes_bytes.sum(axis=1)
    whole = max(int(totals.sum()), 1)
    positions = list(range(len(info.layers)))
    names = [plot_text(name or WHOLE_FILE, 60) for name in info.layers]
    bars: list[go.Bar | go.Scatter] = [
        go.Bar(
            y=positions,
            x=info.sizes_bytes[:, i] / BYTES_PER_KB,
            orientation="h",
            name=plot_text(section, 30),
            customdata=[
                [name, plot_text(section), int(size)]
                for name, size in zip(names, info.sizes_bytes[:, i], strict=True)
            ],
            hovertemplate=(
                "%{customdata[0]}<br>%{customdata[1]}: %{customdata[2]:,} bytes<extra></extra>"
            ),
            marker={
                "color": theme.categories[i % len(theme.categories)],
                # More sections than colours: the second round is hatched.
                "pattern": {"shape": "/" if i >= len(theme.categories) else ""},
                "line": {"color": theme.page, "width": 1},
            },
        )
        for i, section in enumerate(info.sections)
    ]
    words = [f" {format_bytes(total)} · {_share_words(total / whole)}" for total in totals]
    bars.append(
        go.Scatter(
            y=positions,
            x=totals / BYTES_PER_KB,
            mode="text",
            text=words,
            textposition="middle right",
            textfont={"size": 11, "color": theme.muted},
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
        )
    )
    longest = float(totals.max()) / BYTES_PER_KB if len(totals) else 1.0
    return go.Figure(
        data=bars,
        layout={
            "template": template(theme),
            "barmode": "stack",
            "bargap": 0.25,
            "height": 150 + _ROW_HEIGHT * len(positions),
            # Room for the words at the longest bar's end, on a telephone too.
            "xaxis": {
                "title": {"text": "KB (1000 bytes)"},
                "range": [0, 1.4 * longest],
                "fixedrange": True,
            },
            "yaxis": {
                "tickvals": positions,
                "ticktext": [plot_text(name or WHOLE_FILE, 18) for name in info.layers],
                "range": [len(positions) - 0.5, -0.5],
                "showgrid": False,
                "fixedrange": True,
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 0,
                "yanchor": "bottom",
                "yref": "container",
                "traceorder": "normal",
            },
        },
    )


def _share_words(share: float) -> str:
    return "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
