"""Frames -> plotly figures, in two steps: a `..._info` says what is drawn, `draw_...` draws it.

Tests compare the info; a page only ever sees the figure. Every text that comes from a record goes
through `dashboards.text.plot_text`.
"""

from dashboards.figures.audit import AuditInfo, audit_info, draw_audit
from dashboards.figures.failures import FailuresInfo, draw_failures, failures_info
from dashboards.figures.heatmap import (
    HeatmapInfo,
    PolicyPanel,
    changes_words,
    draw_heatmap,
    heatmap_info,
)
from dashboards.figures.importance import ImportanceInfo, draw_importance, importance_info
from dashboards.figures.latency_layers import (
    LatencyLayersInfo,
    draw_latency_layers,
    latency_layers_info,
)
from dashboards.figures.ledger import LedgerInfo, draw_ledger, ledger_info
from dashboards.figures.orders import OrdersInfo, draw_orders, orders_info
from dashboards.figures.parallel import ParallelInfo, brush_of, draw_parallel, parallel_info
from dashboards.figures.pareto import draw_pareto
from dashboards.figures.pareto3d import draw_pareto_3d
from dashboards.figures.pareto_data import ParetoInfo, XAxis, pareto_info
from dashboards.figures.price import PriceInfo, draw_price, price_info
from dashboards.figures.progress import Over, ProgressInfo, draw_progress, progress_info

__all__ = [
    "AuditInfo",
    "FailuresInfo",
    "HeatmapInfo",
    "ImportanceInfo",
    "LatencyLayersInfo",
    "LedgerInfo",
    "OrdersInfo",
    "Over",
    "ParallelInfo",
    "ParetoInfo",
    "PolicyPanel",
    "PriceInfo",
    "ProgressInfo",
    "XAxis",
    "audit_info",
    "brush_of",
    "changes_words",
    "draw_audit",
    "draw_failures",
    "draw_heatmap",
    "draw_importance",
    "draw_latency_layers",
    "draw_ledger",
    "draw_orders",
    "draw_parallel",
    "draw_pareto",
    "draw_pareto_3d",
    "draw_price",
    "draw_progress",
    "failures_info",
    "heatmap_info",
    "importance_info",
    "latency_layers_info",
    "ledger_info",
    "orders_info",
    "parallel_info",
    "pareto_info",
    "price_info",
    "progress_info",
]
