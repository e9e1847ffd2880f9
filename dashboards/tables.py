"""Trials -> tidy pandas frames, one fact a row, units in the column names. Draws nothing.

trial_table(trials, judge)      one row a trial
with_choice(table, ...)         the same under another budget; with_over_limits words what is shown
policy_table(policy, profile)   one row a layer: what it is and what was asked of it
ledger_table(measurement)       one row a section of the file
stage_table(measurement)        one row a stage; audit_table: one row a stage and layer
step_table, excess_table, ...   the certificate
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pandas as pd

from dashboards.text import format_ms, spreadsheet_text
from search.analysis import (
    OrderRow,
    ProgressPoint,
    failures_by_reason,
    order_table,
    progress,
)
from search.spec import FULL_SUFFIX
from spaces import (
    Budget,
    Certificate,
    Front,
    Judge,
    Measurement,
    Metric,
    ModelProfile,
    Policy,
    Step,
    Trial,
    format_order,
)

__all__ = [
    "DOMINATED",
    "FAILED",
    "FRONT",
    "MISSES_LIMIT",
    "REFERENCE_ORIGIN",
    "audit_table",
    "budget_table",
    "budget_words",
    "excess_table",
    "excess_words",
    "failure_table",
    "front_rows",
    "ledger_table",
    "losses_of",
    "order_frame",
    "policy_summary",
    "policy_table",
    "progress_table",
    "secondary_column",
    "select_trials",
    "stage_table",
    "step_table",
    "to_csv",
    "trial_table",
    "with_choice",
    "with_over_limits",
    "with_test_scores",
]

FRONT, DOMINATED, MISSES_LIMIT, FAILED = "front", "dominated", "misses a limit", "failed"
REFERENCE_ORIGIN = "reference"
#: Trial numbers named of a failure's reason.
FEW = 8
_INTEGER_COLUMNS = ("size_bytes", "download_bytes", "macs")
_TRIAL_COLUMNS = (
    "number",
    "name",
    "status",
    "is_pick",
    "origin",
    "reference",
    "order",
    "policy",
    "metric",
    "metric_se",
    "drop",
    "size_bytes",
    "size_ratio",
    "download_bytes",
    "latency_ms",
    "latency_p95_ms",
    "latency_source",
    "latency_device",
    "macs",
    "seconds",
    "over_limits",
    "failure",
    "fidelity_samples",
    "repeat",
    "finished_at_s",
    "policy_digest",
    "key",
)


def secondary_column(metric: Metric) -> str:
    """The trial table's column of a further metric, with its unit: `"time_to_full_error_s"`."""
    words = re.findall(r"[a-z0-9]+", f"{metric.name} {metric.unit}".lower())
    return "secondary_" + "_".join(words)


def trial_table(trials: Sequence[Trial], judge: Judge, *, at_full: bool = False) -> pd.DataFrame:
    """One row a trial, in record order; numbers of a failed trial are missing.

    `status` is one of FRONT, DOMINATED, MISSES_LIMIT and FAILED; front and pick are those of the
    trial's own fidelity, because trials of different fidelity do not compare.

    Args:
        trials: of one study of the record: the searched ones or the finalists.
        judge: what is fair. Its secondary metrics have a column each (`secondary_column`), and
            one of their standard errors with "_se" behind, missing where not measured.
        at_full: whether they are the finalists, which are numbered by themselves: `name` is what
            `search show` takes, "17" or "3@full".
    """
    fronts = [
        Front.of(trials, judge, fidelity)
        for fidelity in sorted({trial.identity.fidelity for trial in trials})
    ]
    on_front = {member.identity.key for front in fronts for member in front.members}
    picks = {front.pick.identity.key for front in fronts if front.pick is not None}
    suffix = FULL_SUFFIX if at_full else ""
    rows = [
        _trial_row(trial, judge, on_front, picks) | {"name": f"{trial.number}{suffix}"}
        for trial in trials
    ]
    columns = list(_TRIAL_COLUMNS)
    for metric in judge.secondary:
        columns += [secondary_column(metric), f"{secondary_column(metric)}_se"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys(_INTEGER_COLUMNS, "Int64"))


def _trial_row(
    trial: Trial, judge: Judge, on_front: set[str], picks: set[str]
) -> dict[str, object]:
    identity = trial.identity
    row: dict[str, object] = {
        "number": trial.number,
        "status": FAILED,
        "is_pick": identity.key in picks,
        "origin": trial.origin,
        "reference": _reference_name(trial.origin),
        "order": format_order(trial.policy.order),
        "policy": policy_summary(trial.policy),
        "metric": np.nan,
        "metric_se": np.nan,
        "drop": np.nan,
        "size_ratio": np.nan,
        "latency_ms": np.nan,
        "latency_p95_ms": np.nan,
        "latency_source": "",
        "latency_device": "",
        "seconds": np.nan,
        "over_limits": "",
        "failure": "",
        "fidelity_samples": identity.fidelity,
        "repeat": identity.repeat,
        "finished_at_s": trial.finished_at,
        "policy_digest": identity.policy_digest,
        "key": identity.key,
    }
    measurement = trial.measurement
    if measurement is None:
        return row | {"failure": str(trial.outcome)}
    for metric in judge.secondary:
        reading = measurement.secondary.get(metric.name)
        name = secondary_column(metric)
        row[name] = np.nan if reading is None else reading.value
        row[f"{name}_se"] = np.nan if reading is None else reading.standard_error
    excess = {k: v for k, v in judge.violations(measurement).items() if v > 0}
    status = MISSES_LIMIT if excess else FRONT if identity.key in on_front else DOMINATED
    latency = measurement.latency
    return row | {
        "status": status,
        "metric": measurement.metric,
        "metric_se": measurement.metric_se,
        "drop": judge.metric.drop(measurement.metric, judge.profile.baseline_metric),
        "size_bytes": measurement.size_bytes,
        "size_ratio": judge.profile.fp32_bytes / measurement.size_bytes,
        "download_bytes": measurement.download_bytes,
        "latency_ms": latency.median_ms,
        "latency_p95_ms": latency.p95_ms,
        "latency_source": latency.source,
        "latency_device": latency.device,
        "macs": measurement.macs,
        "seconds": sum(measurement.seconds.values()),
        "over_limits": ", ".join(excess_words(k, v, judge.metric) for k, v in excess.items()),
    }


def _reference_name(origin: str) -> str:
    """`"reference: uniform int8"` -> `"uniform int8"`; "" for every other origin."""
    kind, _, name = origin.partition(":")
    return name.strip() if kind == REFERENCE_ORIGIN else ""


def excess_words(limit: str, excess: float, metric: Metric) -> str:
    """`("size_bytes", 0.2)` -> `"file 20 % over"`; the metric's excess is in its unit."""
    if limit == "metric":
        amount = f"{100 * excess:.2f} points" if metric.unit == "share" else f"{excess:.3g}"
        return f"{metric.name} {amount} {'short' if metric.higher_is_better else 'over'}"
    words = {"size_bytes": "file", "download_bytes": "download", "latency_ms": "latency"}
    return f"{words[limit]} {100 * excess:.3g} % over"


def with_choice(
    table: pd.DataFrame, feasible: np.ndarray, front_keys: Collection[str], pick_key: str | None
) -> pd.DataFrame:
    """A trial table of ONE fidelity under another budget; the numbers stay as they are.

    `status` and `is_pick` are new. `over_limits` is emptied, because wording ten thousand rows
    takes longer than a slider may: `with_over_limits` words those that are shown.

    Args:
        table: of `trial_table`.
        feasible: (measured rows,) in the table's order: whether each keeps the budget.
        front_keys: of the non-dominated among the feasible.
        pick_key: of the one to ship; None without any.

    Raises:
        ValueError: `feasible` does not have one value for each measured row.
    """
    is_measured = table["metric"].notna().to_numpy()
    if len(feasible) != is_measured.sum():
        raise ValueError(
            f"feasible must have one value for each of the {is_measured.sum()} measured rows, "
            f"but got {len(feasible)}"
        )
    keeps_budget = np.zeros(len(table), dtype=bool)
    keeps_budget[is_measured] = feasible
    is_on_front = table["key"].isin(front_keys).to_numpy()
    place = np.select([~is_measured, ~keeps_budget, is_on_front], [3, 2, 0], default=1)
    statuses = np.array([FRONT, DOMINATED, MISSES_LIMIT, FAILED], dtype=object)
    return table.assign(
        status=pd.array(statuses[place], dtype=table["status"].dtype),
        is_pick=(table["key"] == pick_key).to_numpy(dtype=bool),
        over_limits="",
    )


def losses_of(metric: Metric, values: np.ndarray) -> np.ndarray:
    """`Metric.loss` of many values at once."""
    return metric.loss(0.0) + (-values if metric.higher_is_better else values)


def with_over_limits(rows: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """Rows of a trial table with `over_limits` worded for the judge's budget."""
    metric, budget, profile = judge.metric, judge.budget, judge.profile
    limit = budget.metric_limit(metric, profile.baseline_metric)
    asked = {
        "size_bytes": budget.size_bytes,
        "download_bytes": budget.download_bytes,
        "latency_ms": budget.latency_ms,
    }
    words: list[list[str]] = [[] for _ in range(len(rows))]
    excesses = {
        name: rows[name].to_numpy(dtype=float, na_value=np.nan) / most - 1
        for name, most in asked.items()
        if most is not None
    }
    if limit is not None:
        # The tolerance of `spaces.trial.violations`, so that both judge alike.
        losses = losses_of(metric, rows["metric"].to_numpy(dtype=float))
        excesses["metric"] = losses - metric.loss(limit) - 1e-9
    for name, excess in excesses.items():
        for at in np.flatnonzero(excess > 0).tolist():
            words[at].append(excess_words(name, float(excess[at]), metric))
    return rows.assign(over_limits=[", ".join(parts) for parts in words])


def policy_summary(policy: Policy) -> str:
    """What a policy asks for in one line: `"90-98 % sparse · 16 clusters · 4-8 bit"`.

    Ranges are over the layers it names; the order of the stages is not repeated.
    """
    layers = [layer for _, layer in policy.layers]
    sparsities = [100 * layer.sparsity for layer in layers if layer.sparsity > 0]
    channels = sum(layer.pattern == "channel" for layer in layers)
    clusters = [layer.clusters for layer in layers if layer.clusters is not None]
    bits = [layer.bits for layer in layers if layer.bits < 32]
    distillation = policy.distillation
    parts = [
        f"{_range(sparsities)} % sparse" if sparsities else "",
        f"{channels} by channel" if channels else "",
        f"{_range(clusters)} clusters" if clusters else "",
        f"{_range(bits)} bit" if bits else "",
        f"{policy.activation_bits} bit activations" if policy.activation_bits < 32 else "",
        "" if distillation.is_neutral else f"{distillation.kind} T {distillation.temperature:g}",
    ]
    return " · ".join(part for part in parts if part) or "nothing changed"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g}-{high:.3g}"


def front_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The front of a trial table, from the smallest to the largest file."""
    return table[table["status"] == FRONT].sort_values(
        ["size_bytes", "latency_ms", "number"], ignore_index=True
    )


def select_trials(table: pd.DataFrame, metric: Metric, best: int) -> pd.DataFrame:
    """The rows worth reading first: the front, the references, the `best` others by metric.

    Feasible trials come before those over the budget, and failed ones last. Never fewer than the
    front: a page shows all of it.
    """
    rank = table["status"].map({FRONT: 0, DOMINATED: 1, MISSES_LIMIT: 2, FAILED: 3})
    keyed = table.assign(
        _first=(rank > 0) & (table["reference"] == ""),
        _rank=rank,
        _loss=table["metric"].map(metric.loss),
    ).sort_values(["_first", "_rank", "_loss", "number"], ignore_index=True)
    kept = keyed.head(int((~keyed["_first"]).sum()) + best)
    return kept.drop(columns=["_first", "_rank", "_loss"])


def with_test_scores(
    table: pd.DataFrame, test_scores: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """The table with `test_metric` and `test_metric_se`, missing where none was computed.

    Args:
        table: of `trial_table`.
        test_scores: identity key -> {"metric", "metric_se"}.
    """
    scores: list[Mapping[str, float]] = [test_scores.get(key, {}) for key in table["key"]]
    return table.assign(
        test_metric=[score.get("metric", np.nan) for score in scores],
        test_metric_se=[score.get("metric_se", np.nan) for score in scores],
    )


def policy_table(policy: Policy, profile: ModelProfile) -> pd.DataFrame:
    """One row a compressible layer, in the order of the forward pass.

    Columns: layer, kind, shape, weights, macs, then the knobs; `clusters` is missing without any.
    """
    rows = []
    for layer in profile.layers:
        asked = policy.layer(layer.name)
        rows.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "shape": "x".join(map(str, layer.weight_shape)),
                "weights": layer.weight_count,
                "macs": layer.macs,
                "sparsity": asked.sparsity,
                "pattern": asked.pattern,
                "clusters": asked.clusters,
                "bits": asked.bits,
                "bias_bits": asked.bias_bits,
            }
        )
    columns = ["layer", "kind", "shape", "weights", "macs"]
    columns += ["sparsity", "pattern", "clusters", "bits", "bias_bits"]
    return pd.DataFrame(rows, columns=columns).astype({"clusters": "Int64"})


def ledger_table(measurement: Measurement) -> pd.DataFrame:
    """One row a section of the file, in file order; layer "" is the file's own. Sums to its size.

    Columns: layer, section, size_bytes, share (of the whole file).
    """
    rows = [
        {"layer": line.layer, "section": line.section, "size_bytes": line.size_bytes}
        for line in measurement.ledger
    ]
    frame = pd.DataFrame(rows, columns=["layer", "section", "size_bytes"])
    return frame.assign(share=frame["size_bytes"] / measurement.size_bytes)


def stage_table(measurement: Measurement) -> pd.DataFrame:
    """One row a stage of the audit.

    Columns: position (from 1), stage, samples, seconds, metric, destroyed.
    """
    rows = [
        {
            "position": position,
            "stage": entry.stage,
            "samples": entry.samples,
            "seconds": entry.seconds,
            "metric": entry.metric,
            "destroyed": ", ".join(entry.destroyed),
        }
        for position, entry in enumerate(measurement.audit, start=1)
    ]
    columns = ["position", "stage", "samples", "seconds", "metric", "destroyed"]
    return pd.DataFrame(rows, columns=columns)


def audit_table(measurement: Measurement) -> pd.DataFrame:
    """One row a stage and layer. Columns: position, stage, layer, sparsity, distinct_nonzero."""
    rows = [
        {
            "position": position,
            "stage": entry.stage,
            "layer": layer,
            "sparsity": audit.sparsity,
            "distinct_nonzero": audit.distinct_nonzero,
        }
        for position, entry in enumerate(measurement.audit, start=1)
        for layer, audit in entry.layers.items()
    ]
    columns = ["position", "stage", "layer", "sparsity", "distinct_nonzero"]
    return pd.DataFrame(rows, columns=columns)


def budget_table(budget: Budget, metric: Metric, profile: ModelProfile) -> pd.DataFrame:
    """One row a limit that is set. Columns: limit, asked, baseline: words with their units."""
    limit = budget.metric_limit(metric, profile.baseline_metric)
    rows: list[tuple[str, str, str]] = []
    if budget.size_bytes is not None:
        rows.append(
            (
                "file at most",
                f"{budget.size_bytes:,} bytes",
                f"{profile.baseline_size_bytes:,} bytes",
            )
        )
    if budget.download_bytes is not None:
        rows.append(("download at most", f"{budget.download_bytes:,} bytes", ""))
    if budget.latency_ms is not None:
        shown = f"{format_ms(profile.baseline_latency_ms)} {profile.latency_source}"
        rows.append(("latency at most", f"{budget.latency_ms:g} ms", shown))
    if limit is not None:
        word = "at least" if metric.higher_is_better else "at most"
        shown = metric.format(profile.baseline_metric)
        rows.append((f"{metric.name} {word}", metric.format(limit), shown))
    return pd.DataFrame(rows, columns=["limit", "asked", "baseline"])


def budget_words(budget: Budget, metric: Metric, profile: ModelProfile) -> str:
    """`"file at most 250,000 bytes; accuracy at least 97.03 %"`."""
    limits = budget_table(budget, metric, profile)
    pairs = zip(limits["limit"], limits["asked"], strict=True)
    return "; ".join(f"{limit} {asked}" for limit, asked in pairs) or "no limit"


def excess_table(certificate: Certificate, judge: Judge) -> pd.DataFrame:
    """How far the closest trial of a certificate is over each limit it breaks.

    Columns: limit, excess (relative; the metric in its unit), words.
    """
    rows = [
        (limit, excess, excess_words(limit, excess, judge.metric))
        for limit, excess in certificate.excess.items()
    ]
    return pd.DataFrame(rows, columns=["limit", "excess", "words"])


def step_table(steps: Iterable[Step]) -> pd.DataFrame:
    """What the next bytes buy: one row a step between neighbours.

    Columns: from_trial, to_trial, extra_bytes, gain, gain_per_10_kb (of the metric).
    """
    rows = [
        (step.from_trial, step.to_trial, step.extra_bytes, step.gain, step.gain_per_10_kb)
        for step in steps
    ]
    columns = ["from_trial", "to_trial", "extra_bytes", "gain", "gain_per_10_kb"]
    return pd.DataFrame(rows, columns=columns)


def to_csv(table: pd.DataFrame) -> str:
    """CSV for a spreadsheet: no cell of text can run as a formula."""
    safe: dict[str, Any] = {}
    for column in table.columns:
        values = table[column]
        is_text = not pd.api.types.is_numeric_dtype(values)
        safe[str(column)] = values.map(spreadsheet_text) if is_text else values
    return str(pd.DataFrame(safe).to_csv(index=False, lineterminator="\n"))


def progress_table(trials: Sequence[Trial], judge: Judge) -> pd.DataFrame:
    """One row a trial: where the search stood after it (see `search.analysis.progress`).

    Columns: finished (1 for the first), number, seconds, hypervolume, best_metric,
    smallest_bytes, feasible; missing where nothing was feasible yet.
    """
    columns = [field.name for field in fields(ProgressPoint)]
    points = [asdict(point) for point in progress(trials, judge)]
    frame = pd.DataFrame(points, columns=columns)
    frame.insert(0, "finished", range(1, len(frame) + 1))
    return frame.astype({"best_metric": float, "smallest_bytes": "Int64"})


def order_frame(trials: Sequence[Trial], judge: Judge) -> pd.DataFrame:
    """One row an order of stages, most of the front first (see `search.analysis.order_table`).

    Columns: order, trials, failed, feasible, best_metric, smallest_bytes, on_front,
    share_of_front.
    """
    columns = [field.name for field in fields(OrderRow)]
    frame = pd.DataFrame([asdict(row) for row in order_table(trials, judge)], columns=columns)
    return frame.astype({"best_metric": float, "smallest_bytes": "Int64"})


def failure_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a reason, the commonest first (see `search.analysis.failures_by_reason`).

    Columns: reason, count, trials (their first few numbers), example.
    """
    rows = [
        (group.reason, group.count, _first_few(group.trials), group.example)
        for group in failures_by_reason(trials)
    ]
    return pd.DataFrame(rows, columns=["reason", "count", "trials", "example"])


def _first_few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:FEW]))
    return f"{shown}, ..." if len(numbers) > FEW else shown
