"""Frames -> plotly figures, in two steps: a `..._info` says what is drawn, `draw_...` draws it.

Tests compare the info; a page only ever sees the figure. Every text that comes from a record goes
through `dashboards.text.plot_text`.
"""

from dashboards.figures.audit import AuditInfo, audit_info, draw_audit
from dashboards.figures.heatmap import HeatmapInfo, PolicyPanel, draw_heatmap, heatmap_info
from dashboards.figures.ledger import LedgerInfo, draw_ledger, ledger_info
from dashboards.figures.pareto import ParetoInfo, draw_pareto, pareto_info
from dashboards.figures.progress import ProgressInfo, draw_progress, progress_info

__all__ = [
    "AuditInfo",
    "HeatmapInfo",
    "LedgerInfo",
    "ParetoInfo",
    "PolicyPanel",
    "ProgressInfo",
    "audit_info",
    "draw_audit",
    "draw_heatmap",
    "draw_ledger",
    "draw_pareto",
    "draw_progress",
    "heatmap_info",
    "ledger_info",
    "pareto_info",
    "progress_info",
]
