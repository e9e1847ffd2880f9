"""One trial looked into: what was asked, where its bytes are, what each stage did, how to have it.

Beside a second one: what changed.
"""

from datetime import UTC, datetime

from dash import html
from dash.development.base_component import Component

from dashboards import columns, insight_tables, tables
from dashboards.app.blocks import code_block, download_link, facts, figure_block, table_under, tiles
from dashboards.app.downloads import file_path
from dashboards.app.library import Snapshot
from dashboards.app.trials import find, name_of, same_policy
from dashboards.figures import (
    PolicyPanel,
    audit_info,
    changes_words,
    draw_audit,
    draw_heatmap,
    draw_latency_layers,
    draw_ledger,
    heatmap_info,
    latency_layers_info,
    ledger_info,
)
from dashboards.text import (
    format_bytes,
    format_drop,
    format_duration,
    format_ms,
    format_order_words,
    format_spread,
    plain,
    secondary_tiles,
)
from dashboards.theme import Theme
from search.naming import storage_flag
from spaces import Failure, Measurement, Policy, Trial, format_order, tensor_name
from spaces.front import bytes_by_layer

__all__ = ["draw_points"]


def draw_points(snapshot: Snapshot, a: str, b: str, theme: Theme) -> Component:
    """What is under the plot for the points A and B; a hint while none is chosen."""
    if not a:
        return html.P("Click a point, or name a trial, to look into it.", className="muted")
    trial, other = find(snapshot, a), find(snapshot, b) if b else None
    if trial is None:
        return html.P(plain(f"There is no trial {a} in {snapshot.name} (yet)."), className="muted")
    parts = [_head(a, trial)]
    if b and other is None:
        parts.append(html.P(plain(f"There is no trial {b} to compare it with."), className="muted"))
    if other is not None:
        parts.append(_changes(snapshot, (a, trial), (b, other)))
    if isinstance(trial.outcome, Failure):
        parts.append(html.P(plain(f"It failed: {trial.outcome}"), className="trouble"))
        parts.append(_heatmap(snapshot, (a, trial), (b, other) if other else None, theme))
    else:
        parts += [
            _tiles(snapshot, trial, trial.outcome),
            _take(snapshot, a, trial, trial.outcome),
            html.Div(
                [
                    _heatmap(snapshot, (a, trial), (b, other) if other else None, theme),
                    _ledger(snapshot, a, trial.outcome, theme),
                    _audit(snapshot, a, trial.outcome, theme),
                    _latency(snapshot, a, trial.outcome, theme),
                ],
                className="grid",
            ),
        ]
    parts.append(_lineage(snapshot, a, trial))
    return html.Div(parts)


def _head(name: str, trial: Trial) -> Component:
    kind = "Finalist" if name.endswith("@full") else "Trial"
    what = format_order_words(format_order(trial.policy.order))
    return html.Div(
        [
            html.H2(plain(f"{kind} {name}"), id="point-title"),
            html.P(plain(f"{what}: {tables.policy_summary(trial.policy)}")),
        ]
    )


def _tiles(snapshot: Snapshot, trial: Trial, measurement: Measurement) -> Component:
    metric, profile = snapshot.spec.metric, snapshot.profile
    drop = metric.drop(measurement.metric, profile.baseline_metric)
    latency = measurement.latency
    baseline_size = format_bytes(profile.baseline_size_bytes)
    baseline_ms = format_ms(profile.baseline_latency_ms)
    values = [
        (
            f"validation {metric.name}",
            metric.format(measurement.metric),
            f"{format_spread(metric, measurement.metric_se)}; {format_drop(metric, drop)}",
        ),
        *secondary_tiles(snapshot.spec.secondary, measurement, profile),
        (
            "file size",
            format_bytes(measurement.size_bytes),
            f"{measurement.size_bytes:,} bytes; baseline {baseline_size}",
        ),
        (
            f"latency, {latency.source}",
            format_ms(latency.median_ms),
            f"{latency.device}; p95 {format_ms(latency.p95_ms)}; baseline {baseline_ms}",
        ),
        ("MACs", f"{measurement.macs:,}", "of one inference"),
    ]
    if measurement.download_bytes != measurement.size_bytes:
        values.append(
            ("download", format_bytes(measurement.download_bytes), "packed, as it travels")
        )
    score = snapshot.test_scores.get(trial.identity.key)
    if score is not None:
        spread = format_spread(metric, score["metric_se"])
        values.append(
            (f"test {metric.name}", metric.format(score["metric"]), f"{spread}; chose nothing")
        )
    return tiles(values)


def _take(snapshot: Snapshot, name: str, trial: Trial, measurement: Measurement) -> Component:
    """How to have it: by link where the file was kept, by command in any case."""
    flag = storage_flag(snapshot.location.place)
    export = f"search export --study {snapshot.name}{flag} --pick {name}"
    show = f"search show {name} --study {snapshot.name}{flag}"
    kept = snapshot.location.artifacts_dir / (
        f"{measurement.sha256}.{trial.identity.artifact_format}"
    )
    links: list[Component] = []
    if kept.exists():
        links.append(download_link("Download the file", file_path(snapshot.name, name, "file")))
    else:
        links.append(
            html.Span(
                "Its file was not kept (it was dominated when it finished); the command makes it "
                "again, to the last byte.",
                className="muted",
            )
        )
    links += [
        download_link("policy as JSON", file_path(snapshot.name, name, "policy.json")),
        download_link("manifest", file_path(snapshot.name, name, "manifest.json")),
    ]
    return html.Div(
        [
            html.Div(links, className="tools"),
            code_block("Export it, or make it again", export),
            code_block("Look at it in a terminal", show),
        ]
    )


def _changes(snapshot: Snapshot, a: tuple[str, Trial], b: tuple[str, Trial]) -> Component:
    """What A does otherwise than B, and what it gained."""
    words = changes_words(b[1].policy, a[1].policy, snapshot.profile)
    gained = _gains(snapshot, a[1], b[1], b[0])
    return html.Div(
        [
            html.H3(plain(f"What {a[0]} does otherwise than {b[0]}")),
            html.Ul([html.Li(plain(line)) for line in words] or [html.Li("nothing")]),
            *([html.P(plain(gained))] if gained else []),
        ],
        className="changes",
    )


def _gains(snapshot: Snapshot, a: Trial, b: Trial, b_name: str) -> str:
    if a.measurement is None or b.measurement is None:
        return ""
    metric = snapshot.spec.metric
    ours, theirs = a.measurement, b.measurement
    drop = format_drop(metric, metric.drop(ours.metric, theirs.metric))
    size = ours.size_bytes - theirs.size_bytes
    words = (
        f"{format_bytes(abs(size))} {'larger' if size > 0 else 'smaller'}" if size else "as large"
    )
    ratio = ours.latency.median_ms / theirs.latency.median_ms
    latency = "the same" if ratio == 1 else f"{ratio:.3g} times {b_name}'s"
    if a.identity.fidelity != b.identity.fidelity:
        drop += " (fine-tuned with another number of samples, so this does not compare)"
    return f"{metric.name}: {drop}; file: {words}; latency: {latency}"


def _heatmap(
    snapshot: Snapshot, a: tuple[str, Trial], b: tuple[str, Trial] | None, theme: Theme
) -> Component:
    def panel(name: str, trial: Trial) -> PolicyPanel:
        sizes = dict(bytes_by_layer(trial.measurement.ledger)) if trial.measurement else {}
        return PolicyPanel(name, tables.policy_table(trial.policy, snapshot.profile), sizes)

    if b is None:
        left = PolicyPanel("baseline", tables.policy_table(Policy(), snapshot.profile), {})
    else:
        left = panel(f"B: {b[0]}", b[1])
    right = panel(f"A: {a[0]}", a[1])
    info = heatmap_info([left, right], mark_changes=b is not None)
    words = (
        f"Each layer's knobs in {left.title} and in {right.title}: the stronger the colour, the "
        "more it saves of 32 bits a weight."
    )
    rows = right.policy.assign(
        size_bytes=[right.layer_bytes.get(name, 0) for name in right.policy["layer"]]
    )
    under = table_under(rows, columns.policy_columns(), f"Policy of {a[0]}, layer by layer")
    return figure_block(f"policy-{_safe(a[0])}", draw_heatmap(info, theme), words, under)


def _ledger(snapshot: Snapshot, name: str, measurement: Measurement, theme: Theme) -> Component:
    ledger = tables.ledger_table(measurement)
    layers = snapshot.profile.layers
    tensors = [tensor_name(layer.name, tensor) for layer in layers for tensor in ("weight", "bias")]
    words = (
        f"The {measurement.size_bytes:,} bytes of {name}'s file by layer and section, each counted "
        "by the section's own encoder."
    )
    under = table_under(ledger, columns.ledger_columns(), f"Byte ledger of {name}")
    figure = draw_ledger(ledger_info(ledger, tensors), theme)
    return figure_block(f"bytes-{_safe(name)}", figure, words, under)


def _audit(snapshot: Snapshot, name: str, measurement: Measurement, theme: Theme) -> Component:
    if not measurement.audit:
        return html.P(plain(f"No stage ran: {name} is the network as it was."))
    metric = snapshot.spec.metric
    stages, audit = tables.stage_table(measurement), tables.audit_table(measurement)
    info = audit_info(stages, audit, metric, snapshot.profile.baseline_metric)
    words = (
        f"After each stage of {name}: sparsity and distinct non-zero values of each layer's "
        f"effective weights, and the {metric.name} of the whole network."
    )
    under = table_under(stages, columns.stage_columns(metric), f"Stages of {name}")
    return figure_block(f"stages-{_safe(name)}", draw_audit(info, theme), words, under)


def _latency(snapshot: Snapshot, name: str, measurement: Measurement, theme: Theme) -> Component:
    layers = [layer.name for layer in snapshot.profile.layers]
    frame = insight_tables.layer_latency_frame(measurement.latency, layers)
    info = latency_layers_info(frame, measurement.latency, name)
    if not info.layers:
        return html.P(plain(info.words), className="muted")
    under = table_under(frame, columns.latency_columns(), f"Latency of {name}, layer by layer")
    figure = draw_latency_layers(info, theme)
    return figure_block(f"latency-{_safe(name)}", figure, info.words, under)


def _safe(name: str) -> str:
    """A name of a trial within an HTML id."""
    return name.replace("@", "-")


def _lineage(snapshot: Snapshot, name: str, trial: Trial) -> Component:
    identity = trial.identity
    finished = (
        datetime.fromtimestamp(trial.finished_at, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if trial.finished_at
        else "unknown"
    )
    pairs: dict[str, Component | str] = {
        "proposed by": trial.origin or "unknown",
        "it had seen": f"{trial.seen:,} finished trials, with {len(trial.running):,} running",
        "fine-tuned with": f"{identity.fidelity:,} samples",
        "seed, repeat": f"{identity.seed}, {identity.repeat}",
        "finished": finished,
        "policy digest": identity.policy_digest,
        "same policy elsewhere": ", ".join(same_policy(snapshot, trial)) or "nowhere",
        "recorded as": name_of(snapshot, trial),
    }
    measurement = trial.measurement
    if measurement is not None:
        spent = ", ".join(f"{k} {format_duration(v)}" for k, v in measurement.seconds.items())
        pairs["took"] = f"{spent}; on {measurement.device}"
        pairs["file's sha256"] = measurement.sha256
    return html.Section(
        [html.H3(plain(f"Where {name} comes from")), facts(pairs)], className="lineage"
    )
