"""Trials -> the frames of the insight figures, one fact a row, units in the column names.

importance_frame(rows)                    one row a knob: what goes with it
order_bin_frame(trials, metric)           one row an order and bin of sizes: the best found there
knob_frame(trials, policies, profile)     the trial table with what each policy asks, in one number
price_frame(trials, metric)               one row a step: what the next bytes buy
layer_latency_frame(latency, layers)      one row a layer
failure_frame(trials)                     one row a reason, with the layers it struck
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from dashboards.tables import DOMINATED, FRONT, failure_table
from search.analysis import KnobImportance, failures_by_reason
from spaces import (
    Failure,
    Latency,
    Metric,
    ModelProfile,
    Policy,
    Stage,
    Step,
    Trial,
    nondominated,
)

__all__ = [
    "NO_CLUSTERS",
    "NO_TEMPERATURE",
    "failure_frame",
    "importance_frame",
    "knob_frame",
    "layer_latency_frame",
    "order_bin_frame",
    "policies_by_digest",
    "price_frame",
]

#: Stands for "no layer shares its values": beyond any number of clusters a policy may ask for, and
#: a number, so that a range of clusters with "none" in it is two numbers that JSON can carry.
NO_CLUSTERS = float(2**17)
#: Stands for "no teacher": under any temperature a policy may ask for.
NO_TEMPERATURE = 0.25


def importance_frame(rows: Iterable[KnobImportance]) -> pd.DataFrame:
    """One row a knob, in the order given.

    Columns: knob, layer ("" for a knob of the whole policy), name (without the layer), on_loss,
    on_size (shares of a variance, 0 to 1), trials (that stand behind them).
    """
    columns = ["knob", "layer", "name", "on_loss", "on_size", "trials"]
    found = []
    for row in rows:
        layer, _, name = row.knob.rpartition(":")
        found.append((row.knob, layer, name, row.on_loss, row.on_size, row.trials))
    return pd.DataFrame(found, columns=columns)


def order_bin_frame(trials: pd.DataFrame, metric: Metric, bin_count: int = 6) -> pd.DataFrame:
    """Which order of stages found the best metric among files of about one size.

    Bins are equally wide in ln bytes, from the smallest to the largest file that counts: of the
    feasible trials or, as long as there is none, of all that finished.

    Args:
        trials: of `tables.trial_table`, of ONE fidelity.
        metric: to be good at.
        bin_count: at most so many; a bin without a trial has no row.

    Returns:
        One row an order and bin. Columns: bin (from 0), low_bytes, high_bytes (its edges), order,
        number (the trial), metric, metric_se, is_best, is_tied (not the best, but within one
        standard error of it: a difference that is not to be trusted), feasible.

    Raises:
        ValueError: trials of several fidelities, which cannot be compared.
    """
    _require_one_fidelity("order_bin_frame", trials)
    feasible = trials[trials["status"].isin([FRONT, DOMINATED])]
    rows = feasible if len(feasible) else trials[trials["metric"].notna()]
    columns = ["bin", "low_bytes", "high_bytes", "order", "number", "metric", "metric_se"]
    columns += ["is_best", "is_tied", "feasible"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    logs = np.log(rows["size_bytes"].to_numpy(dtype=float))
    edges = np.linspace(logs.min(), logs.max(), bin_count + 1 if np.ptp(logs) > 0 else 2)
    # The largest file belongs to the last bin, whose upper edge it is.
    bins = np.clip(np.searchsorted(edges, logs, side="right") - 1, 0, len(edges) - 2)
    keyed = rows.assign(
        bin=bins,
        low_bytes=np.exp(edges)[bins],
        high_bytes=np.exp(edges)[bins + 1],
        _loss=rows["metric"].map(metric.loss),
        feasible=len(feasible) > 0,
    ).sort_values(["bin", "_loss", "size_bytes", "number"])
    best = keyed.drop_duplicates(["bin", "order"]).copy()
    by_bin = best.groupby("bin")
    winner_loss, winner_se = (
        by_bin["_loss"].transform("first"),
        by_bin["metric_se"].transform("first"),
    )
    best["is_best"] = by_bin.cumcount() == 0
    best["is_tied"] = ~best["is_best"] & (best["_loss"] <= winner_loss + winner_se)
    return best[columns].reset_index(drop=True)


def policies_by_digest(trials: Iterable[Trial]) -> dict[str, Policy]:
    """Policy digest -> policy: what `knob_frame` looks up."""
    return {trial.identity.policy_digest: trial.policy for trial in trials}


def knob_frame(
    trials: pd.DataFrame, policies: Mapping[str, Policy], profile: ModelProfile
) -> pd.DataFrame:
    """The trial table with each policy in a few numbers.

    Adds: sparsity (mean over layers, weighted by their weights), clusters (median over the layers
    that have some; NO_CLUSTERS without), bits (of weights, weighted mean), activation_bits,
    temperature (NO_TEMPERATURE without a teacher; attention transfer counts as 1, which is what a
    policy holds for it).

    Args:
        trials: of `tables.trial_table`.
        policies: policy digest -> policy, of every row.
        profile: the network.
    """
    weights = np.array([layer.weight_count for layer in profile.layers], dtype=float)
    weights /= weights.sum()
    rows = [
        _knobs(policies[digest], [layer.name for layer in profile.layers], weights)
        for digest in trials["policy_digest"]
    ]
    names = ["sparsity", "clusters", "bits", "activation_bits", "temperature"]
    added = pd.DataFrame(rows, columns=names, index=trials.index, dtype=float)
    return pd.concat([trials, added], axis=1)


def _knobs(policy: Policy, names: Sequence[str], weights: np.ndarray) -> tuple[float, ...]:
    layers = [policy.layer(name) for name in names]
    clusters = [layer.clusters for layer in layers if layer.clusters is not None]
    has_teacher = Stage.DISTILL in policy.order
    return (
        float(weights @ [layer.sparsity for layer in layers]),
        float(np.median(clusters)) if clusters else NO_CLUSTERS,
        float(weights @ [layer.bits for layer in layers]),
        float(policy.activation_bits),
        policy.distillation.temperature if has_teacher else NO_TEMPERATURE,
    )


def price_frame(trials: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """What the next bytes buy: one row a step up the front, from the smallest file.

    Steps join members of the front which no other member beats in bytes AND metric: a front over
    latency too has members beyond them, and from such a one the next larger file may gain nothing.
    Of those, a step goes to the first that gains more than one standard error of the difference
    (as if the two were scored on samples of their own): a tenth of a point for 24 bytes would be
    45 points for 10 KB, and says nothing. Only the last step may gain less.

    Args:
        trials: of `tables.trial_table`, of ONE fidelity.
        metric: to be gained.

    Returns:
        Columns: from_trial, to_trial, from_bytes, to_bytes, extra_bytes, from_metric, to_metric,
        gain, gain_per_10_kb, is_noise (the gain is within one standard error).

    Raises:
        ValueError: trials of several fidelities, which cannot be compared.
    """
    _require_one_fidelity("price_frame", trials)
    members = trials[trials["status"] == FRONT].sort_values(["size_bytes", "number"])
    points = np.column_stack(
        [members["size_bytes"].astype(float), members["metric"].map(metric.loss)]
    ).astype(float)
    corners = members[nondominated(points)].to_dict("records")
    rows = []
    small = corners[0] if corners else {}
    for large in corners[1:]:
        gain = -metric.drop(large["metric"], small["metric"])
        is_noise = gain <= math.hypot(small["metric_se"], large["metric_se"])
        if is_noise and large is not corners[-1]:
            continue
        extra_bytes = int(large["size_bytes"]) - int(small["size_bytes"])
        step = Step(int(small["number"]), int(large["number"]), extra_bytes, gain)
        rows.append(
            {
                "from_trial": step.from_trial,
                "to_trial": step.to_trial,
                "from_bytes": int(small["size_bytes"]),
                "to_bytes": int(large["size_bytes"]),
                "extra_bytes": extra_bytes,
                "from_metric": small["metric"],
                "to_metric": large["metric"],
                "gain": gain,
                "gain_per_10_kb": step.gain_per_10_kb,
                "is_noise": is_noise,
            }
        )
        small = large
    columns = ["from_trial", "to_trial", "from_bytes", "to_bytes", "extra_bytes"]
    columns += ["from_metric", "to_metric", "gain", "gain_per_10_kb", "is_noise"]
    return pd.DataFrame(rows, columns=columns)


def _require_one_fidelity(name: str, trials: pd.DataFrame) -> None:
    fidelities = sorted(trials["fidelity_samples"].unique().tolist())
    if len(fidelities) > 1:
        raise ValueError(f"{name}: one fidelity at a time, but got {fidelities}")


def layer_latency_frame(
    latency: Latency, layers: Sequence[str], baseline_layers_ms: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """One row a layer whose time is known, in the order of `layers`, then others by name.

    Columns: layer, latency_ms, share (of the known layers' sum), baseline_ms (missing where the
    baseline's is not known).
    """
    known = latency.layers_ms
    baseline = baseline_layers_ms or {}
    names = [name for name in layers if name in known]
    names += sorted(set(known) - set(names))
    # A layer may cost nothing in a model; the shares of none are none.
    total = math.fsum(known.values()) or 1.0
    rows = [(name, known[name], known[name] / total, baseline.get(name, np.nan)) for name in names]
    frame = pd.DataFrame(rows, columns=["layer", "latency_ms", "share", "baseline_ms"])
    return frame.astype({"latency_ms": float, "share": float, "baseline_ms": float})


def failure_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """`tables.failure_table` with the layers that a reason struck and its share of all failures.

    Adds: layers ("fc1 (3), conv2 (1)", the commonest first; "" where none is named), share.
    """
    failures = failure_table(trials)
    struck: dict[str, Counter[str]] = defaultdict(Counter)
    for trial in trials:
        # One trial at a time: numbers do not name a trial where finalists are among them.
        for group in failures_by_reason([trial]):
            assert isinstance(trial.outcome, Failure)
            struck[group.reason].update([trial.outcome.layer] if trial.outcome.layer else [])
    total = max(int(failures["count"].sum()), 1)
    return failures.assign(
        layers=[_counted(struck[reason]) for reason in failures["reason"]],
        share=failures["count"].astype(float) / total,
    )


def _counted(layers: Counter[str]) -> str:
    ranked = sorted(layers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{layer} ({count})" for layer, count in ranked)
