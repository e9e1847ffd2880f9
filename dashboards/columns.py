"""Which columns of a frame a page shows, under which heading, in which words."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboards.markup import Column, Row
from dashboards.tables import secondary_column
from dashboards.text import (
    format_bytes,
    format_drop,
    format_ms,
    format_order_words,
    format_spread,
)
from spaces import Metric

__all__ = [
    "audit_columns",
    "failure_columns",
    "importance_columns",
    "latency_columns",
    "ledger_columns",
    "order_columns",
    "policy_columns",
    "progress_columns",
    "reference_columns",
    "stage_columns",
    "step_columns",
    "trial_columns",
]


def _missing(value: Any) -> bool:
    """Missing floats are NaN, missing integers `pd.NA`."""
    return bool(pd.isna(value))


def _text(name: str, heading: str) -> Column:
    return Column(heading, lambda row: str(row[name]))


def _prose(name: str, heading: str) -> Column:
    return Column(heading, lambda row: str(row[name]), is_prose=True)


def _integer(name: str, heading: str) -> Column:
    return Column(heading, lambda row: _count(row[name]), name)


def _count(value: Any) -> str:
    return "" if _missing(value) else f"{int(value):,}"


def _bytes(name: str, heading: str) -> Column:
    return Column(heading, lambda row: "" if _missing(row[name]) else format_bytes(row[name]), name)


def _metric_column(metric: Metric, name: str, heading: str, error: str = "") -> Column:
    def show(row: Row) -> str:
        if _missing(row[name]):
            return ""
        spread = f" {format_spread(metric, row[error])}" if error else ""
        return metric.format(row[name]) + spread

    return Column(heading, show, name)


def _drop(metric: Metric, name: str, heading: str) -> Column:
    def show(row: Row) -> str:
        return "" if _missing(row[name]) else format_drop(metric, row[name])

    return Column(heading, show, name)


def _measured_columns(metric: Metric, secondary: Sequence[Metric]) -> list[Column]:
    further = []
    for each in secondary:
        name = secondary_column(each)
        further.append(_metric_column(each, name, each.name, f"{name}_se"))
    return [
        _metric_column(metric, "metric", metric.name, "metric_se"),
        _drop(metric, "drop", "to baseline"),
        *further,
        _bytes("size_bytes", "file"),
        Column(
            "smaller",
            lambda r: "" if _missing(r["size_ratio"]) else f"{r['size_ratio']:.3g}x",
            "size_ratio",
        ),
        Column("latency", _latency_words, "latency_ms"),
    ]


def _latency_words(row: Row) -> str:
    if _missing(row["latency_ms"]):
        return ""
    return f"{format_ms(row['latency_ms'])} {row['latency_source']}"


def _what(row: Row) -> str:
    """The order and the policy, then why it failed or what it is over."""
    trouble = row["failure"] or row["over_limits"]
    words = f"{format_order_words(row['order'])}: {row['policy']}"
    return f"{words} ({trouble})" if trouble else words


def trial_columns(
    metric: Metric,
    secondary: Sequence[Metric] = (),
    *,
    with_status: bool,
    with_test: bool = False,
) -> list[Column]:
    """Of `trial_table`, with what else was measured."""
    columns = [Column("trial", lambda row: str(row["name"]), "number")]
    if with_status:
        columns.append(_text("status", "status"))
    columns += _measured_columns(metric, secondary)
    if with_test:
        columns.append(
            _metric_column(metric, "test_metric", f"test {metric.name}", "test_metric_se")
        )
    else:
        origin = Column("proposed by", lambda r: format_order_words(r["origin"]), is_prose=True)
        columns.append(origin)
    return [*columns, Column("policy", _what, is_prose=True)]


def reference_columns(metric: Metric, secondary: Sequence[Metric] = ()) -> list[Column]:
    """Of the references and the pick, with their `title`."""
    return [
        _prose("title", "policy"),
        _text("status", "status"),
        *_measured_columns(metric, secondary),
        Column("what it does", _what, is_prose=True),
    ]


def step_columns(metric: Metric) -> list[Column]:
    """Of `step_table`."""
    return [
        _integer("from_trial", "from trial"),
        _integer("to_trial", "to trial"),
        _bytes("extra_bytes", "more bytes"),
        Column(metric.name, lambda row: format_drop(metric, -row["gain"]), "gain"),
        Column(
            "for each 10 KB",
            lambda row: format_drop(metric, -row["gain_per_10_kb"]),
            "gain_per_10_kb",
        ),
    ]


def progress_columns(metric: Metric) -> list[Column]:
    """Of `progress_table`."""
    return [
        _integer("finished", "finished trials"),
        _integer("number", "trial"),
        Column("hypervolume", lambda row: f"{row['hypervolume']:.4g}", "hypervolume"),
        _metric_column(metric, "best_metric", f"best feasible {metric.name}"),
    ]


def policy_columns() -> list[Column]:
    """Of `policy_table` with `size_bytes`."""
    return [
        _text("layer", "layer"),
        _text("kind", "kind"),
        _text("shape", "weights"),
        _integer("weights", "count"),
        _integer("macs", "MACs"),
        Column("sparsity", lambda row: f"{100 * row['sparsity']:.3g} %", "sparsity"),
        _text("pattern", "pattern"),
        Column("clusters", lambda row: _count(row["clusters"]) or "none", "clusters"),
        _integer("bits", "bits"),
        _integer("bias_bits", "bias bits"),
        _integer("size_bytes", "bytes in the file"),
    ]


def ledger_columns() -> list[Column]:
    """Of `ledger_table`."""
    return [
        Column("layer", lambda row: str(row["layer"]) or "(whole file)"),
        _text("section", "section"),
        _integer("size_bytes", "bytes"),
        Column("share", lambda row: f"{100 * row['share']:.1f} %", "share"),
    ]


def stage_columns(metric: Metric) -> list[Column]:
    """Of `stage_table`."""
    return [
        _integer("position", "place"),
        _text("stage", "stage"),
        _integer("samples", "samples seen"),
        Column("seconds", lambda row: f"{row['seconds']:.1f}", "seconds"),
        _metric_column(metric, "metric", f"{metric.name} after it"),
        Column("destroyed", lambda row: str(row["destroyed"]) or "nothing"),
    ]


def audit_columns() -> list[Column]:
    """Of `audit_table`."""
    return [
        _integer("position", "place"),
        _text("stage", "stage"),
        _text("layer", "layer"),
        Column("sparsity", lambda row: f"{100 * row['sparsity']:.2f} %", "sparsity"),
        _integer("distinct_nonzero", "distinct non-zero values"),
    ]


def order_columns(metric: Metric) -> list[Column]:
    """Of `order_frame`."""
    return [
        Column("order", lambda row: format_order_words(row["order"])),
        _integer("trials", "trials"),
        _integer("failed", "failed"),
        _integer("feasible", "within the budget"),
        _integer("on_front", "on the front"),
        _metric_column(metric, "best_metric", f"best feasible {metric.name}"),
        _bytes("smallest_bytes", "smallest feasible"),
    ]


def failure_columns() -> list[Column]:
    """Of `failure_table`."""
    return [
        _prose("reason", "reason"),
        _integer("count", "count"),
        _prose("trials", "trials"),
        _prose("example", "the first in full"),
    ]


def latency_columns() -> list[Column]:
    """Of `insight_tables.layer_latency_frame`."""
    return [
        _text("layer", "layer"),
        Column("latency", lambda row: format_ms(row["latency_ms"]), "latency_ms"),
        Column("share", lambda row: f"{100 * row['share']:.1f} %", "share"),
        Column("baseline", lambda row: format_ms(row["baseline_ms"]), "baseline_ms"),
    ]


def importance_columns(metric: Metric) -> list[Column]:
    """Of `insight_tables.importance_frame`."""
    return [
        Column("knob", lambda row: str(row["knob"])),
        Column(
            f"share of {metric.name} at equal bytes",
            lambda row: f"{row['on_loss']:.3f}",
            "on_loss",
        ),
        Column("share of bytes", lambda row: f"{row['on_size']:.3f}", "on_size"),
        _integer("trials", "trials behind it"),
    ]
