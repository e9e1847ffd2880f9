"""The recommendation under the sliders' limits, and why it is that one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from dash import dcc, html
from dash.development.base_component import Component

from dashboards import tables
from dashboards.app.blocks import tiles
from dashboards.app.library import Snapshot
from dashboards.app.view import Limits, View, study_path
from dashboards.text import (
    corrected_text,
    format_bytes,
    format_drop,
    format_ms,
    format_order_words,
    format_spread,
    plain,
    secondary_tiles,
)
from search.whatif import Candidates, Choice
from spaces import Budget, Judge, Measurement, Trial, format_order

__all__ = ["Answer", "answer_under", "draw_answer", "frames_under", "own_limits"]

_LIMIT_WORDS = {
    "size_bytes": "the file size",
    "download_bytes": "the download size",
    "latency_ms": "the latency",
}


@dataclass(frozen=True)
class Answer:
    """What some limits leave of a study.

    Attributes:
        budget, judge: the limits, and the study's judge with them.
        searched, final: the choice at the search's and at the full fidelity.
        trial: the recommendation; a finalist where one is feasible; None when nothing is.
        name: of `trial`, as `search show` takes it.
    """

    budget: Budget
    judge: Judge
    searched: Choice
    final: Choice
    trial: Trial | None
    name: str

    @property
    def is_final(self) -> bool:
        """Whether the recommendation is a finalist."""
        return self.final.pick is not None


def own_limits(snapshot: Snapshot) -> Limits:
    """The study's budget as sliders show it."""
    budget, profile = snapshot.spec.budget, snapshot.profile
    return Limits.of(budget, budget.metric_limit(snapshot.spec.metric, profile.baseline_metric))


def answer_under(snapshot: Snapshot, view: View) -> Answer:
    """The study's answer under the limits of a view."""
    budget = view.limits_on(own_limits(snapshot)).budget()
    searched, final = snapshot.candidates.choose(budget), snapshot.final_candidates.choose(budget)
    trial, name = None, ""
    if final.pick is not None:
        trial = snapshot.final_candidates.trials[final.pick]
        name = f"{trial.number}@full"
    elif searched.pick is not None:
        trial = snapshot.candidates.trials[searched.pick]
        name = str(trial.number)
    return Answer(budget, replace(snapshot.judge, budget=budget), searched, final, trial, name)


def frames_under(snapshot: Snapshot, answer: Answer) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trial tables, searched and finalists, with the statuses these limits give."""
    return (
        _frame_under(snapshot.table, snapshot.candidates, answer.searched),
        _frame_under(snapshot.final_table, snapshot.final_candidates, answer.final),
    )


def _frame_under(table: pd.DataFrame, candidates: Candidates, choice: Choice) -> pd.DataFrame:
    # Candidates come by size, rows by number.
    in_record_order = np.argsort([trial.number for trial in candidates.trials], kind="stable")
    trials = candidates.trials
    return tables.with_choice(
        table,
        choice.feasible[in_record_order],
        {trials[i].identity.key for i in choice.front},
        None if choice.pick is None else trials[choice.pick].identity.key,
    )


def draw_answer(snapshot: Snapshot, view: View, answer: Answer) -> Component:
    """The recommendation in words; read out when it changes."""
    if answer.trial is None or answer.trial.measurement is None:
        return _nothing(snapshot, view, answer)
    measurement, metric = answer.trial.measurement, snapshot.spec.metric
    what = format_order_words(format_order(answer.trial.policy.order))
    drop = metric.drop(measurement.metric, snapshot.profile.baseline_metric)
    latency = measurement.latency
    ratio = snapshot.profile.fp32_bytes / measurement.size_bytes
    score = snapshot.test_scores.get(answer.trial.identity.key)
    flattered = snapshot.optimism.get(answer.trial.identity.key)
    fair = corrected_text(metric, measurement.metric, flattered)
    values = [
        (
            f"validation {metric.name}",
            metric.format(measurement.metric),
            f"{format_spread(metric, measurement.metric_se)}; {format_drop(metric, drop)}{fair}",
        ),
        *secondary_tiles(snapshot.spec.secondary, measurement, snapshot.profile),
        (
            "file size",
            format_bytes(measurement.size_bytes),
            f"{measurement.size_bytes:,} bytes, {ratio:.3g}x smaller than fp32 weights",
        ),
        (f"latency, {latency.source}", format_ms(latency.median_ms), latency.device),
    ]
    if score is not None:
        spread = format_spread(metric, score["metric_se"])
        values.append(
            (f"test {metric.name}", metric.format(score["metric"]), f"{spread}; chose nothing")
        )
    kind = "finalist" if answer.is_final else "trial"
    return html.Div(
        [
            html.H2(["Ship ", _link(snapshot, view, answer.name, f"{kind} {answer.name}")]),
            html.P(plain(f"{what}: {tables.policy_summary(answer.trial.policy)}")),
            tiles(values),
            html.P(plain(_why(snapshot, answer)), className="muted"),
        ],
        className="answer",
    )


def _link(snapshot: Snapshot, view: View, name: str, words: str) -> Component:
    href = study_path(snapshot.name) + replace(view, a=name).query()
    return dcc.Link(words, href=href, className="point-link")


def _why(snapshot: Snapshot, answer: Answer) -> str:
    """The rule, with the numbers it had."""
    chosen = answer.final if answer.is_final else answer.searched
    candidates = snapshot.final_candidates if answer.is_final else snapshot.candidates
    assert chosen.best is not None
    best = candidates.trials[chosen.best]
    metric = snapshot.spec.metric
    at = "finalists" if answer.is_final else "trials"
    best_words = metric.format(float(candidates.metric[chosen.best]))
    suffix = "@full" if answer.is_final else ""
    count = int(chosen.feasible.sum())
    words = [
        f"{count:,} of {len(candidates.trials):,} measured {at} keep these limits. ",
        f"The best {metric.name} is {best_words} ({best.number}{suffix}); ",
    ]
    if chosen.near == 1:
        words.append("no other is within one standard error of it.")
    else:
        words.append(
            f"{chosen.near:,} are within one standard error of it, and this is the smallest of "
            "them, then the fastest."
        )
    words.append(_binding(answer.searched))
    if not answer.is_final and snapshot.finalists:
        words.append(" No finalist keeps these limits: this one was fine-tuned only shortly.")
    return "".join(words)


def _binding(choice: Choice) -> str:
    """What raising one limit alone would let in."""
    shut_out = [
        f"{_LIMIT_WORDS.get(limit, 'the metric')} alone shuts out {count:,}"
        for limit, count in choice.binding.items()
        if count
    ]
    return f" Of the searched trials, {', '.join(shut_out)}." if shut_out else ""


def _nothing(snapshot: Snapshot, view: View, answer: Answer) -> Component:
    head = html.H2("Nothing measured keeps these limits")
    closest = _closest(snapshot, answer)
    if closest is None:
        return html.Div([html.H2("No trial has finished yet")], className="answer")
    name, measurement = closest
    over = {k: v for k, v in answer.judge.violations(measurement).items() if v > 0}
    excess = "; ".join(
        tables.excess_words(limit, value, snapshot.spec.metric) for limit, value in over.items()
    )
    sentence = (
        f": {format_bytes(measurement.size_bytes)}, "
        f"{snapshot.spec.metric.format(measurement.metric)}, "
        f"{format_ms(measurement.latency.median_ms)} {measurement.latency.source}. "
        f"It misses: {excess}."
    )
    body: Sequence[Component | str] = [
        "The closest is ",
        _link(snapshot, view, name, name),
        plain(sentence),
    ]
    return html.Div(
        [head, html.P(body), html.P(plain(_binding(answer.searched).strip()), className="muted")],
        className="answer",
    )


def _closest(snapshot: Snapshot, answer: Answer) -> tuple[str, Measurement] | None:
    """At the search's fidelity: there are many more to be close."""
    if answer.searched.closest is None:
        return None
    trial = snapshot.candidates.trials[answer.searched.closest]
    assert trial.measurement is not None
    return str(trial.number), trial.measurement
