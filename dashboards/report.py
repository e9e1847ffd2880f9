"""The static report: one HTML file that needs no network, made from records alone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from dashboards import columns, tables
from dashboards.markup import details, escape, html_table, page
from dashboards.sections import SECTIONS, ReportInput, Study, prepare
from dashboards.text import (
    corrected_text,
    format_bytes,
    format_drop,
    format_ms,
    format_order_words,
    format_spread,
    secondary_tiles,
)
from spaces import Certificate, Measurement, Trial, format_order

__all__ = ["ReportInput", "render_report", "write_report"]


def render_report(study: ReportInput) -> str:
    """The page's HTML. Same input, same text: it reads no clock."""
    prepared = prepare(study)
    parts = [section.render(prepared) for section in SECTIONS]
    body = (
        '<a class="skip" href="#answer">Skip to the answer</a>'
        f"{_asked(prepared)}<main>{_answer(prepared)}{_notes(study.notes)}"
        f"{''.join(part.html for part in parts)}</main>"
    )
    figures = [part.figure for part in parts if part.figure is not None]
    return page(f"{study.spec.name}: compression search", body, figures)


def write_report(path: Path, study: ReportInput) -> int:
    """Write the page and return its bytes. The file appears whole or not at all."""
    data = render_report(study).encode()
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)
    return len(data)


def _asked(study: Study) -> str:
    spec, profile = study.given.spec, study.given.profile
    facts = {
        "workload": f"{spec.workload}, {profile.parameter_count:,} parameters",
        "target": spec.target,
        "budget": tables.budget_words(spec.budget, spec.metric, profile),
        "fine-tuning": f"{spec.fidelity:,} samples a trial, {spec.full_fidelity:,} a finalist",
        "proposer": f"{spec.proposer}, seed {spec.seed}",
        "trials": _trial_words(study),
        "sizes": _format_words(spec.artifact_format),
    }
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(words)}</dd></div>"
        for name, words in facts.items()
    )
    links = "".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in SECTIONS
    )
    return (
        f'<header><p class="eyebrow">Compression search{_dates(study)}</p>'
        f'<h1>{escape(spec.name)}</h1><dl class="facts">{shown}</dl>'
        f'<nav aria-label="Parts of this report"><ul>{links}</ul></nav></header>'
    )


def _dates(study: Study) -> str:
    finished = [trial.finished_at for trial in study.given.trials if trial.finished_at > 0]
    if not finished:
        return ""
    day = datetime.fromtimestamp(max(finished), tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f" · last trial finished {day}"


def _trial_words(study: Study) -> str:
    counts = study.trials["status"].value_counts()
    hours = float(study.trials["seconds"].sum()) / 3600
    words = [
        f"{len(study.trials):,} of {study.given.spec.trials:,} asked",
        f"{study.front.feasible:,} within the budget",
        f"{counts.get(tables.FAILED, 0):,} failed",
        f"{hours:.1f} compute hours" if hours >= 1 else f"{60 * hours:.1f} compute minutes",
    ]
    return "; ".join(words)


def _format_words(artifact_format: str) -> str:
    if artifact_format == "packed":
        return "packed files: weights, not the graph; each read back before it was scored"
    return f"{artifact_format} files as deployed; each read back before it was scored"


def _answer(study: Study) -> str:
    pick = study.pick
    if pick is None or pick.measurement is None:
        return _unmet(study)
    fidelity = "the full fidelity" if study.final_front.pick else "the search's fidelity"
    metric = study.given.spec.metric
    words = (
        f"The rule: among the feasible at {fidelity}, within one standard error of the best "
        f"{metric.name}, the smallest, then the fastest."
    )
    what = format_order_words(format_order(pick.policy.order))
    return (
        '<section class="answer" id="answer" aria-labelledby="answer-title">'
        f'<h2 id="answer-title">{escape(_headline(study, pick.measurement))}</h2>'
        f"<p>{escape(what)}: {escape(tables.policy_summary(pick.policy))}</p>"
        f"{_tiles(study, pick, pick.measurement)}"
        f'<p class="muted">{escape(words)}</p></section>'
    )


def _headline(study: Study, measurement: Measurement) -> str:
    metric, profile = study.given.spec.metric, study.given.profile
    ratio = profile.fp32_bytes / measurement.size_bytes
    drop = format_drop(metric, metric.drop(measurement.metric, profile.baseline_metric))
    return (
        f"{format_bytes(measurement.size_bytes)}, {ratio:.3g}x smaller than its fp32 weights, at "
        f"{metric.format(measurement.metric)} {metric.name} ({drop})"
    )


def _tiles(study: Study, pick: Trial, measurement: Measurement) -> str:
    given = study.given
    metric, profile, latency = given.spec.metric, given.profile, measurement.latency
    baseline_size = format_bytes(profile.baseline_size_bytes)
    baseline_latency = f"{format_ms(profile.baseline_latency_ms)} {profile.latency_source}"
    error = format_spread(metric, measurement.metric_se)
    fair = corrected_text(metric, measurement.metric, given.optimism.get(pick.identity.key))
    tiles: list[tuple[str, str, str]] = [
        (
            f"validation {metric.name}",
            metric.format(measurement.metric),
            f"{error}; baseline {metric.format(profile.baseline_metric)}{fair}",
        ),
        *secondary_tiles(given.spec.secondary, measurement, profile),
        (
            "file size",
            format_bytes(measurement.size_bytes),
            f"{measurement.size_bytes:,} bytes; baseline {baseline_size}",
        ),
        (
            f"latency, {latency.source}",
            format_ms(latency.median_ms),
            f"{latency.device}; baseline {baseline_latency}",
        ),
    ]
    if measurement.download_bytes != measurement.size_bytes:
        shown = f"{measurement.download_bytes:,} bytes, packed"
        tiles.append(("download", format_bytes(measurement.download_bytes), shown))
    score = given.test_scores.get(pick.identity.key)
    if score is not None:
        error = format_spread(metric, score["metric_se"])
        shown = f"{error}; never seen by the search"
        tiles.append((f"test {metric.name}", metric.format(score["metric"]), shown))
    name = study.subject.name if study.subject else f"trial {pick.number}"
    tiles.append(("recorded as", name, f"policy {pick.identity.policy_digest}"))
    shown_tiles = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}</dd>'
        f"<dd>{escape(more)}</dd></div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles">{shown_tiles}</dl>'


def _unmet(study: Study) -> str:
    """The certificate: nothing met the budget, and what could be had instead."""
    head = (
        '<section class="answer" id="answer" aria-labelledby="answer-title">'
        '<h2 id="answer-title">Nothing met the budget</h2>'
    )
    if study.certificate is None or study.subject is None:
        return f"{head}<p>No trial has finished, so nothing is known yet.</p></section>"
    metric = study.given.spec.metric
    _, name, _, closest = study.subject
    over = tables.excess_table(study.certificate, study.given.judge)
    words = (
        f"The closest is {name}: {format_bytes(closest.size_bytes)}, "
        f"{metric.name} {metric.format(closest.metric)}, "
        f"latency {format_ms(closest.latency.median_ms)} {closest.latency.source}. "
        f"It misses: {'; '.join(over['words'])}."
    )
    heaviest = ", ".join(
        f"{name or 'the whole file'} {format_bytes(size)}"
        for name, size in study.certificate.bottleneck[:5]
    )
    return (
        f"{head}<p>{escape(words)}</p><p>Its bytes are in {escape(heaviest)}.</p>"
        f"{_alternatives(study, study.certificate)}</section>"
    )


def _alternatives(study: Study, certificate: Certificate) -> str:
    metric = study.given.spec.metric
    is_full = certificate.fidelity == study.given.spec.full_fidelity != study.given.spec.fidelity
    by_key = (study.finalists if is_full else study.trials).set_index("key", drop=False)
    shown = columns.trial_columns(metric, study.given.spec.secondary, with_status=False)
    parts = []
    for caption, trials in (
        (f"The smallest found at each {metric.name}, small to large", certificate.smallest),
        (f"The fastest found at each {metric.name}, fast to slow", certificate.fastest),
    ):
        rows = by_key.loc[[trial.identity.key for trial in trials]]
        parts.append(details(caption, html_table(rows, shown, caption)))
    caption = "What the next bytes buy"
    buys = tables.step_table(certificate.steps)
    parts.append(details(caption, html_table(buys, columns.step_columns(metric), caption)))
    return "".join(parts)


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes" aria-label="Notes">{items}</ul>'
