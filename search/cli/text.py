"""How values are written for people: one way everywhere."""

from collections.abc import Mapping, Sequence

from spaces import (
    BYTES_PER_KB,
    Failure,
    Judge,
    Measurement,
    Metric,
    Policy,
    Reading,
    Trial,
    format_order,
)

__all__ = [
    "LIMIT_WORDS",
    "budget_text",
    "bytes_text",
    "duration_text",
    "latency_text",
    "layer_text",
    "metric_text",
    "order_text",
    "outcome_text",
    "secondary_text",
]


#: The keys of `Judge.violations`, for people.
LIMIT_WORDS = {
    "size_bytes": "size",
    "download_bytes": "download size",
    "latency_ms": "latency",
    "metric": "metric",
}


def bytes_text(size_bytes: float) -> str:
    """`12705` -> `"12.7 KB"`; under 1 KB in bytes."""
    if size_bytes < BYTES_PER_KB:
        return f"{size_bytes:.0f} B"
    if size_bytes < BYTES_PER_KB**2:
        return f"{size_bytes / BYTES_PER_KB:.1f} KB"
    return f"{size_bytes / BYTES_PER_KB**2:.2f} MB"


def duration_text(seconds: float) -> str:
    """`75` -> `"1 min 15 s"`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def metric_text(metric: Metric, value: float, error: float | None = None) -> str:
    """`"97.02 % ± 0.17"`."""
    if error is None:
        return metric.format(value)
    spread = metric.shown(error)
    shown = f"{spread:.2f}" if metric.unit == "share" else f"{spread:.2g}"
    return f"{metric.format(value)} ± {shown}"


def secondary_text(metrics: Sequence[Metric], readings: Mapping[str, Reading]) -> str:
    """`"time-to-full error 3.95 min ± 0.08"`, those that were measured, with commas."""
    return ", ".join(
        f"{metric.name} {metric_text(metric, reading.value, reading.standard_error)}"
        for metric in metrics
        if (reading := readings.get(metric.name)) is not None
    )


def latency_text(measurement: Measurement) -> str:
    """`"0.028 ms modelled"`: never without its source."""
    latency = measurement.latency
    return f"{latency.median_ms:.3g} ms {latency.source}"


def order_text(policy: Policy) -> str:
    """`"prune > distill"`."""
    return format_order(policy.order).replace(">", " > ")


def layer_text(policy: Policy, name: str) -> str:
    """`"95 % sparse, 8 clusters, 8 bits"`."""
    asked = policy.layer(name)
    parts = []
    if asked.sparsity > 0:
        what = "of channels pruned" if asked.pattern == "channel" else "sparse"
        parts.append(f"{100 * asked.sparsity:g} % {what}")
    if asked.clusters is not None:
        parts.append(f"{asked.clusters} clusters")
    if asked.bits < 32:
        parts.append(f"{asked.bits} bits")
    if asked.bias_bits < 32:
        parts.append(f"bias {asked.bias_bits} bits")
    return ", ".join(parts) or "left alone"


def budget_text(judge: Judge) -> str:
    """`"at most 250.0 KB, accuracy at least 97.03 %"`."""
    budget, metric = judge.budget, judge.metric
    parts = []
    if budget.size_bytes is not None:
        parts.append(f"at most {bytes_text(budget.size_bytes)}")
    if budget.download_bytes is not None:
        parts.append(f"download at most {bytes_text(budget.download_bytes)}")
    if budget.latency_ms is not None:
        parts.append(f"at most {budget.latency_ms:g} ms")
    limit = budget.metric_limit(metric, judge.profile.baseline_metric)
    if limit is not None:
        word = "at least" if metric.higher_is_better else "at most"
        parts.append(f"{metric.name} {word} {metric.format(limit)}")
    return ", ".join(parts) or "no limit"


def outcome_text(trial: Trial, judge: Judge) -> str:
    """One trial in a few words."""
    if isinstance(trial.outcome, Failure):
        return f"failed: {trial.outcome}"
    measurement = trial.outcome
    over = [name for name, excess in judge.violations(measurement).items() if excess > 0]
    missed = ", ".join(LIMIT_WORDS[name] for name in over)
    verdict = f"misses: {missed}" if over else "within budget"
    return (
        f"{judge.metric.format(measurement.metric)}  {measurement.size_bytes:,} B  "
        f"{latency_text(measurement)}  {verdict}"
    )
