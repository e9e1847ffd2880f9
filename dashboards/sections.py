"""The parts of a study's page, each from the same prepared study: HTML and at most one plot."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from dashboards import columns, insight_tables, tables
from dashboards.figures import (
    PolicyPanel,
    audit_info,
    draw_audit,
    draw_heatmap,
    draw_ledger,
    draw_orders,
    draw_pareto,
    draw_price,
    draw_progress,
    heatmap_info,
    ledger_info,
    orders_info,
    pareto_info,
    price_info,
    progress_info,
)
from dashboards.markup import (
    PageFigure,
    csv_link,
    details,
    escape,
    figure_block,
    html_table,
)
from dashboards.text import format_order_words
from dashboards.theme import DARK, LIGHT, Theme
from search.finalists import answer_certificate
from search.spec import FULL_SUFFIX, StudySpec
from spaces import Certificate, Front, Judge, Measurement, ModelProfile, Policy, Trial, tensor_name
from spaces.front import bytes_by_layer

__all__ = ["SECTIONS", "Part", "ReportInput", "Section", "Study", "prepare"]

#: Rows of the trial table beside the front and the references; the CSV has every trial.
BEST_TRIALS = 200


@dataclass(frozen=True)
class ReportInput:
    """Plain values of one study.

    Attributes:
        spec: what was asked.
        profile, judge: the network, and what compares its compressed versions.
        trials: of the search's fidelity, in record order.
        finalists: of the full fidelity.
        test_scores: identity key -> {"metric", "metric_se"}, where they were computed.
        optimism: identity key of a pick -> what having been chosen flatters its metric by.
        notes: sentences a reader must know, e.g. which format stands in for which.
        commands: (title, command line), to reproduce and to export.
    """

    spec: StudySpec
    profile: ModelProfile
    judge: Judge
    trials: Sequence[Trial]
    finalists: Sequence[Trial] = ()
    test_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    optimism: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


class Subject(NamedTuple):
    """The trial whose inside is shown: the pick, else the one closest to the budget.

    Attributes:
        word: "pick" or "closest".
        name: "trial 17" or "finalist 2@full": finalists are numbered by themselves.
        trial, measurement: what is shown.
    """

    word: str
    name: str
    trial: Trial
    measurement: Measurement


@dataclass(frozen=True)
class Study:
    """A report's input with what several of its parts need, computed once.

    Attributes:
        given: the input.
        trials, finalists: trial tables with test scores.
        front, final_front: at the search's and at the full fidelity.
        certificate: when nothing met the budget.
        subject: None when no trial has finished.
    """

    given: ReportInput
    trials: pd.DataFrame
    finalists: pd.DataFrame
    front: Front
    final_front: Front
    certificate: Certificate | None
    subject: Subject | None

    @property
    def pick(self) -> Trial | None:
        """A finalist where one is feasible: short fine-tunes filter well and rank badly."""
        return self.final_front.pick or self.front.pick


def prepare(given: ReportInput) -> Study:
    """Everything a page is made from."""
    spec, judge = given.spec, given.judge
    front = Front.of(given.trials, judge, spec.fidelity)
    final_front = Front.of(given.finalists, judge, spec.full_fidelity)
    pick = final_front.pick or front.pick
    certificate = None
    if pick is None:
        fidelities = (spec.fidelity, spec.full_fidelity)
        certificate = answer_certificate(given.trials, given.finalists, judge, fidelities)
    shown = certificate.closest if certificate else pick
    subject = None
    if shown is not None and shown.measurement is not None:
        is_full = shown.identity.fidelity == spec.full_fidelity != spec.fidelity
        kind = "finalist" if is_full else "trial"
        word = "pick" if pick else "closest"
        name = f"{kind} {shown.number}{FULL_SUFFIX if is_full else ''}"
        subject = Subject(word, name, shown, shown.measurement)
    frames = [
        tables.with_test_scores(
            tables.trial_table(trials, judge, at_full=at_full), given.test_scores
        )
        for trials, at_full in ((given.trials, False), (given.finalists, True))
    ]
    return Study(given, frames[0], frames[1], front, final_front, certificate, subject)


class Part(NamedTuple):
    """HTML, and the plot it has a place for."""

    html: str
    figure: PageFigure | None = None


class Section(NamedTuple):
    """A headed part of the page that links can point at."""

    anchor: str
    title: str
    make: Callable[[Study], Part]

    def render(self, study: Study) -> Part:
        """The part under its heading."""
        body, figure = self.make(study)
        return Part(
            f'<section id="{self.anchor}" aria-labelledby="{self.anchor}-title">'
            f'<h2 id="{self.anchor}-title">{escape(self.title)}</h2>{body}</section>',
            figure,
        )


def _figure(
    name: str,
    draw: Callable[[Any, Theme], go.Figure],
    info: Any,
    words: str,
    views: Mapping[str, Mapping[str, Any]] | None = None,
) -> PageFigure:
    return PageFigure(name, draw(info, LIGHT), draw(info, DARK), words, views or {})


_NOTHING = Part("<p>No trial has finished.</p>")


def _pareto(study: Study) -> Part:
    metric = study.given.spec.metric
    info = pareto_info(study.trials, study.finalists, study.given.judge)
    words = (
        f"{metric.name.capitalize()} against file size on a logarithmic axis. "
        f"Trials on the front: {len(info.front):,}; dominated within the budget: "
        f"{info.dominated.total:,}; missing a limit, whose region is shaded: "
        f"{info.over_budget.total:,}. "
        "Colour is latency, symbol the order of stages, bars are one standard error. "
        f"{info.hidden_count:,} trials lie outside the first view."
    )
    if info.is_thinned:
        words += (
            " Where dominated trials or those that miss a limit lie dense, one stands for many."
        )
    figure = _figure("pareto", draw_pareto, info, words, info.views)
    rows = tables.front_rows(study.trials)
    caption = f"The front at {study.given.spec.fidelity:,} samples, small to large"
    shown = columns.trial_columns(metric, study.given.spec.secondary, with_status=False)
    table = details(caption, html_table(rows, shown, caption, marked="is_pick"))
    return Part(figure_block(figure, table) + _earned(study), figure)


def _earned(study: Study) -> str:
    """The references beside the pick of the same fidelity: what searching was worth."""
    table = study.trials
    rows = table[(table["reference"] != "") | table["is_pick"]]
    if rows.empty:
        return ""
    rows = rows.sort_values(["is_pick", "size_bytes"], ascending=[False, True])
    titles = [format_order_words(name) or "the search's own pick" for name in rows["reference"]]
    rows = rows.assign(title=titles)
    caption = "The search's pick beside the reference policies, at the same fidelity"
    shown = columns.reference_columns(study.given.spec.metric, study.given.spec.secondary)
    return f"<h3>Was searching worth it?</h3>{html_table(rows, shown, caption, marked='is_pick')}"


def _finalists(study: Study) -> Part:
    if study.finalists.empty:
        return Part("<p>No finalist was run at full fidelity.</p>")
    spec = study.given.spec
    caption = f"Finalists, fine-tuned with {spec.full_fidelity:,} samples"
    shown = columns.trial_columns(spec.metric, spec.secondary, with_status=True, with_test=True)
    rows = study.finalists.sort_values(["size_bytes", "number"])
    return Part(html_table(rows, shown, caption, marked="is_pick"))


def _progress(study: Study) -> Part:
    given = study.given
    metric = given.spec.metric
    progress = tables.progress_table(given.trials, given.judge)
    if progress.empty:
        return _NOTHING
    info = progress_info(progress, metric, given.profile.baseline_metric)
    words = (
        f"Hypervolume of the feasible trials, and the best feasible {metric.name}, over "
        f"{len(progress):,} trials; the hypervolume ends at {study.front.hypervolume:.4g}."
    )
    figure = _figure("progress", draw_progress, info, words)
    improved = progress[progress["hypervolume"].diff().fillna(progress["hypervolume"]) > 0]
    caption = "Trials that raised the hypervolume"
    table = html_table(improved, columns.progress_columns(metric), caption)
    return Part(figure_block(figure, details(caption, table)), figure)


def _price(study: Study) -> Part:
    metric = study.given.spec.metric
    frame = insight_tables.price_frame(study.trials, metric)
    if frame.empty:
        return Part("<p>The front has no step yet that buys anything.</p>")
    words = f"What each step along the front gains in {metric.name} for 10 KB more of file."
    figure = _figure("price", draw_price, price_info(frame, metric), words)
    caption = "What the next bytes buy along the front"
    table = details(caption, html_table(frame, columns.step_columns(metric), caption))
    return Part(figure_block(figure, table), figure)


def _orders(study: Study) -> Part:
    metric = study.given.spec.metric
    orders = tables.order_frame(study.given.trials, study.given.judge)
    if orders.empty:
        return _NOTHING
    bins = insight_tables.order_bin_frame(study.trials, metric)
    info = orders_info(orders, bins, metric)
    figure = _figure("orders", draw_orders, info, " ".join(info.words))
    caption = "Orders of stages that were tried"
    table = details(caption, html_table(orders, columns.order_columns(metric), caption))
    return Part(figure_block(figure, table), figure)


def _policy(study: Study) -> Part:
    if study.subject is None:
        return _NOTHING
    word, name, trial, measurement = study.subject
    profile = study.given.profile
    policy = tables.policy_table(trial.policy, profile)
    layer_bytes = dict(bytes_by_layer(measurement.ledger))
    info = heatmap_info(
        [
            PolicyPanel("baseline", tables.policy_table(Policy(), profile), {}),
            PolicyPanel(f"{word}, {name}", policy, layer_bytes),
        ]
    )
    words = (
        "Each layer's knobs in the baseline and in the trial shown: the stronger the colour, the "
        "more it saves of 32 bits a weight. ch = whole channels; baseline sizes are fp32 weights."
    )
    figure = _figure("policy", draw_heatmap, info, words)
    caption = f"Policy of {name}, layer by layer"
    table = html_table(
        policy.assign(size_bytes=[layer_bytes.get(name, 0) for name in policy["layer"]]),
        columns.policy_columns(),
        caption,
    )
    return Part(figure_block(figure, details(caption, table)) + _excluded(profile), figure)


def _excluded(profile: ModelProfile) -> str:
    if not profile.excluded:
        return ""
    items = "".join(
        f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in profile.excluded
    )
    return f"<p>No stage touches:</p><ul>{items}</ul>"


def _ledger(study: Study) -> Part:
    if study.subject is None:
        return _NOTHING
    _, name, _, measurement = study.subject
    ledger = tables.ledger_table(measurement)
    layers = study.given.profile.layers
    tensors = [tensor_name(layer.name, tensor) for layer in layers for tensor in ("weight", "bias")]
    info = ledger_info(ledger, tensors)
    words = (
        f"The {measurement.size_bytes:,} bytes of {name}'s file by layer and "
        "section, each counted by the section's own encoder."
    )
    figure = _figure("ledger", draw_ledger, info, words)
    caption = f"Byte ledger of {name}"
    table = html_table(ledger, columns.ledger_columns(), caption)
    return Part(figure_block(figure, details(caption, table)), figure)


def _audit(study: Study) -> Part:
    if study.subject is None:
        return _NOTHING
    _, name, _, measurement = study.subject
    metric = study.given.spec.metric
    if not measurement.audit:
        return Part(f"<p>No stage ran: {escape(name)} is the network as it was.</p>")
    stages, audit = tables.stage_table(measurement), tables.audit_table(measurement)
    info = audit_info(stages, audit, metric, study.given.profile.baseline_metric)
    words = (
        f"After each stage of {name}: sparsity and distinct non-zero values of each "
        f"layer's effective weights, and the {metric.name} of the whole network."
    )
    figure = _figure("audit", draw_audit, info, words)
    caption = f"Stages of {name}"
    by_stage = html_table(stages, columns.stage_columns(metric), caption)
    by_layer = html_table(audit, columns.audit_columns(), f"{caption}, layer by layer")
    return Part(figure_block(figure, details(caption, by_stage + by_layer)), figure)


def _failures(study: Study) -> Part:
    failures = tables.failure_table([*study.given.trials, *study.given.finalists])
    if failures.empty:
        return Part("<p>No trial failed.</p>")
    return Part(html_table(failures, columns.failure_columns(), "Failed trials by reason"))


def _trials(study: Study) -> Part:
    if study.trials.empty:
        return Part("<p>No trial is recorded.</p>")
    spec = study.given.spec
    rows = tables.select_trials(study.trials, spec.metric, BEST_TRIALS)
    caption = f"{len(rows):,} of {len(study.trials):,} trials"
    if len(rows) < len(study.trials):
        caption += ": the front, the references and the best others; the CSV has all"
    everything = pd.concat([study.trials, study.finalists], ignore_index=True)
    file_name = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.name).strip("-.")[:60] or "study"
    link = csv_link(
        f"Download all {len(everything):,} as CSV, finalists included",
        f"{file_name}-trials.csv",
        tables.to_csv(everything),
    )
    shown = columns.trial_columns(spec.metric, spec.secondary, with_status=True)
    table = html_table(rows, shown, caption, sortable=True, marked="is_pick")
    return Part(
        '<div class="tools"><label>Filter <input type="search" data-filters="trial-table" '
        f'placeholder="e.g. front cluster"></label>{link}</div><div id="trial-table">{table}</div>'
    )


def _commands(study: Study) -> Part:
    if not study.given.commands:
        return Part("<p>No command was given to this report.</p>")
    return Part(
        "".join(
            f'<h3>{escape(title)}</h3><pre tabindex="0"><code>{escape(command)}</code></pre>'
            for title, command in study.given.commands
        )
    )


#: In the order of the page.
SECTIONS = (
    Section("front", "The front", _pareto),
    Section("finalists", "Finalists", _finalists),
    Section("next-bytes", "What the next 10 KB buys", _price),
    Section("which-order", "Which order wins where", _orders),
    Section("search", "How the search went", _progress),
    Section("layers", "Policy, layer by layer", _policy),
    Section("bytes", "Where the bytes are", _ledger),
    Section("stages", "What each stage did", _audit),
    Section("failures", "Failures", _failures),
    Section("trials", "Trials", _trials),
    Section("again", "Reproduce and export", _commands),
)
