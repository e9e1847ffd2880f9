"""What people see: progress while a study runs, tables when it is over."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from search.cli.text import (
    LIMIT_WORDS,
    budget_text,
    bytes_text,
    duration_text,
    latency_text,
    layer_text,
    metric_text,
    order_text,
    outcome_text,
    secondary_text,
)
from search.naming import trial_name
from search.progress import Progress
from search.session import Answer, Prepared
from search.spec import StudySpec
from search.study import Job
from spaces import Certificate, Front, Judge, Measurement, Metric, Policy, Trial

__all__ = [
    "Screen",
    "certificate_table",
    "front_table",
    "make_console",
    "measured",
    "print_notes",
    "trial_details",
]


#: Width of tables where no terminal says its own: in a pipe or a log.
LOG_WIDTH = 120


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """`search front | head`: `main` decides what it means, not rich's exit code 1."""
        raise BrokenPipeError


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for the tables in a log."""
    console = _Console(stderr=stderr, emoji=False)
    if console.is_terminal:
        return console
    return _Console(stderr=stderr, emoji=False, width=LOG_WIDTH)


def measured(trial: Trial) -> Measurement:
    """The measurement of a trial known to have one."""
    assert trial.measurement is not None
    return trial.measurement


class Screen:
    """Follows a study on a terminal, or line by line where there is none."""

    def __init__(self, console: Console, judge: Judge, spec: StudySpec) -> None:
        """Args: console: usually on stderr, so that stdout stays the result's."""
        self._console = console
        self._judge, self._spec = judge, spec
        self._is_wide = console.width >= LOG_WIDTH
        self._bar = Bar(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=9)),
            BarColumn(bar_width=16 if self._is_wide else 8),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn(
                "{task.fields[state]}",
                table_column=Column(no_wrap=True, ratio=1),
                markup=False,
            ),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: Any = None
        self._phase = ""

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def trial_finished(self, trial: Trial, progress: Progress) -> None:
        """See `Observer`."""
        self._draw(progress)
        name = trial_name(trial, self._spec.full_fidelity, self._spec.fidelity)
        self._console.print(
            f"[bold]#{name:<7}[/]{escape(outcome_text(trial, self._judge))}"
            f"  [dim]{escape(order_text(trial.policy))}  {escape(trial.origin)}[/]"
            + ("" if self._console.is_terminal else f"  {escape(f'[{self._state(progress)}]')}"),
            highlight=False,
            soft_wrap=True,
        )

    def waiting(self, progress: Progress, running: Sequence[Job]) -> None:  # noqa: ARG002
        """See `Observer`. The bar has no room for what runs; the dashboard shows it."""
        self._draw(progress)

    def notice(self, text: str) -> None:
        """See `Observer`."""
        self._console.print(f"[yellow]note[/] {escape(text)}", highlight=False, soft_wrap=True)

    def _draw(self, progress: Progress) -> None:
        if self._phase != progress.phase:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._phase = progress.phase
            self._task = self._bar.add_task(progress.phase, total=progress.asked, state="")
        self._bar.update(self._task, completed=progress.finished, state=self._state(progress))

    def _state(self, progress: Progress) -> str:
        parts = []  # most wanted first: a narrow terminal cuts the end
        if progress.eta_s is not None and progress.finished < progress.asked:
            parts.append(f"{duration_text(progress.eta_s)} left")
        if progress.best is not None:
            best = measured(progress.best)
            metric = self._judge.metric.format(best.metric)
            parts.append(f"pick {metric} in {bytes_text(best.size_bytes)}")
        if not self._is_wide:
            parts.append(f"HV {progress.hypervolume:.4f}")
        parts.append(f"{progress.feasible} feasible")
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        if self._is_wide:
            parts.append(f"hypervolume {progress.hypervolume:.4f}")
        return ", ".join(parts)


def print_prepared(console: Console, prepared: Prepared) -> None:
    """Spec, baseline and space, before the first trial."""
    spec, profile, judge = prepared.spec, prepared.profiled.profile, prepared.judge
    policies = 1.0
    for knob in prepared.space.knobs:
        policies *= len(knob.choices)
    baseline = metric_text(spec.metric, profile.baseline_metric, profile.baseline_metric_se)
    epochs = spec.fidelity / prepared.profiled.train_samples
    full = spec.full_fidelity / prepared.profiled.train_samples
    further = secondary_text(spec.secondary, profile.baseline_secondary)
    what = f"{spec.metric.name} {baseline}{f', {further}' if further else ''} on validation, "
    what += f"{bytes_text(profile.fp32_bytes)} of fp32 weights "
    what += f"({bytes_text(profile.baseline_size_bytes)} as {spec.artifact_format}), "
    what += f"{profile.baseline_latency_ms:.3g} ms {profile.latency_source}"
    orders = len(prepared.space.knob("order").choices)
    size = f"{len(prepared.space)} knobs, about 10^{len(str(int(policies))) - 1} policies"
    effort = f"{spec.trials} trials of {spec.fidelity:,} samples ({epochs:.3g} epochs)"
    if spec.finalists and spec.full_fidelity != spec.fidelity:
        effort += f", then {spec.finalists} finalists of {spec.full_fidelity:,} ({full:.3g} epochs)"
    rows = (
        ("study", spec.name),
        ("workload", f"{spec.workload}, {profile.parameter_count:,} parameters"),
        ("baseline", what),
        ("target", f"{spec.target}: {prepared.target.description}"),
        ("budget", budget_text(judge)),
        ("space", f"{size}, {orders} stage orders"),
        ("effort", effort),
    )
    for name, value in rows:
        console.print(f"[bold]{name:<9}[/] {escape(value)}", highlight=False, soft_wrap=True)
    print_notes(console, spec.notes)


def print_notes(console: Console, notes: Sequence[str]) -> None:
    """What the user should know of a study."""
    for note in notes:
        console.print(f"[yellow]note[/]      {escape(note)}", highlight=False, soft_wrap=True)


def front_table(
    front: Front,
    judge: Judge,
    spec: StudySpec,
    test_scores: Mapping[str, Mapping[str, Any]],
) -> Table:
    """The front, smallest first; the pick is starred."""
    metric, profile = judge.metric, judge.profile
    fp32_bytes = profile.fp32_bytes
    table = Table(
        title=f"Front ({escape(metric.name)}, bytes, latency) "
        f"at {front.fidelity:,} training samples "
        f"({front.feasible} of {front.finished} trials within budget)",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("")
    table.add_column("trial", no_wrap=True)
    further = [escape(each.name) for each in spec.secondary]
    for name in ("validation", "test", *further, "bytes", "ratio", "latency"):
        # The name of a further metric may be long; its values are not.
        table.add_column(name, justify="right", no_wrap=name not in further)
    table.add_column("order", overflow="fold")
    for trial in front.members:
        values = measured(trial)
        test = test_scores.get(trial.identity.key)
        is_pick = front.pick is not None and trial.number == front.pick.number
        table.add_row(
            "★" if is_pick else "",
            trial_name(trial, spec.full_fidelity, spec.fidelity),
            escape(metric_text(metric, values.metric, values.metric_se)),
            escape(metric.format(test["metric"])) if test else "",
            *(_secondary_cell(each, values) for each in spec.secondary),
            f"{values.size_bytes:,}",
            f"{fp32_bytes / values.size_bytes:.1f}x",
            escape(latency_text(values)),
            escape(order_text(trial.policy)),
            style="bold" if is_pick else "",
        )
    return table


def _secondary_cell(metric: Metric, values: Measurement) -> str:
    """On validation, without its error bar: the table is as wide as a terminal."""
    reading = values.secondary.get(metric.name)
    return "" if reading is None else escape(metric.format(reading.value))


def print_answer(console: Console, answer: Answer, spec: StudySpec) -> None:
    """The front and the pick, or the certificate."""
    if answer.certificate is not None:
        print_certificate(console, answer.certificate, answer.judge, spec)
        return
    judge, front = answer.judge, answer.front
    console.print()
    console.print(front_table(front, judge, spec, answer.test_scores))
    assert front.pick is not None
    values = measured(front.pick)
    drop = judge.metric.drop(values.metric, judge.profile.baseline_metric)
    moved = f"{abs(100 * drop):.2f} points"
    if judge.metric.unit != "share":
        moved = f"{abs(judge.metric.shown(drop)):.4g}"
    word = "worse than" if drop > 0 else "better than"
    compared = f"{moved} {word} the baseline" if drop else "as the baseline"
    name = trial_name(front.pick, spec.full_fidelity, spec.fidelity)
    console.print(
        f"\n[bold]Pick[/] #{name}: {escape(judge.metric.format(values.metric))}, {compared}, "
        f"in {values.size_bytes:,} bytes "
        f"({judge.profile.fp32_bytes / values.size_bytes:.0f}x smaller than fp32), "
        f"{escape(latency_text(values))}. The smallest within one standard error of the best."
        f"{escape(_further_sentence(judge, values))}",
        highlight=False,
    )
    if answer.optimism is not None:
        fair = judge.metric.format(values.metric - answer.optimism)
        console.print(
            f"Corrected for having been chosen on the same samples it is {escape(fair)}.",
            highlight=False,
        )


def _further_sentence(judge: Judge, values: Measurement) -> str:
    """What else the pick and the baseline are worth; "" where nothing else is measured."""
    ours = secondary_text(judge.secondary, values.secondary)
    theirs = secondary_text(judge.secondary, judge.profile.baseline_secondary)
    return f" Beside it {ours}; of the baseline {theirs}." if ours else ""


def print_certificate(
    console: Console, certificate: Certificate, judge: Judge, spec: StudySpec
) -> None:
    """Why nothing met the budget, and what could be had."""
    if certificate.closest is None:
        console.print("\nNo trial has given a network yet, so there is no front.")
        return
    console.print(f"\n[bold red]Budget not met[/]: {escape(budget_text(judge))}", highlight=False)
    values = measured(certificate.closest)
    name = trial_name(certificate.closest, spec.full_fidelity, spec.fidelity)
    over = ", ".join(_excess_text(k, v, judge) for k, v in certificate.excess.items())
    console.print(
        f"Closest: #{name}, {escape(judge.metric.format(values.metric))} in "
        f"{values.size_bytes:,} bytes, {escape(latency_text(values))}; {escape(over)}",
        highlight=False,
    )
    held = ", ".join(f"{name or 'file'} {size:,} B" for name, size in certificate.bottleneck[:4])
    console.print(f"Its bytes are in: {escape(held)}", highlight=False)
    samples = f"at {certificate.fidelity:,} training samples"
    for what, trials in (("Smallest", certificate.smallest), ("Fastest", certificate.fastest)):
        title = f"{what} found at each {judge.metric.name}, {samples}"
        console.print(certificate_table(title, trials, judge))
    for step in certificate.steps[:5]:
        gain = f"{100 * step.gain:.2f} points" if judge.metric.unit == "share" else f"{step.gain:g}"
        console.print(
            f"From #{step.from_trial} to #{step.to_trial}: {step.extra_bytes:,} bytes more buy "
            f"{gain}",
            highlight=False,
        )


def _excess_text(limit: str, excess: float, judge: Judge) -> str:
    if limit != "metric":
        return f"{LIMIT_WORDS[limit]} {1 + excess:.3g}x the budget"
    if judge.metric.unit == "share":
        return f"{judge.metric.name} {100 * excess:.2f} points short"
    return f"{judge.metric.name} off by {excess:.4g} {judge.metric.unit}"


def certificate_table(title: str, trials: Sequence[Trial], judge: Judge) -> Table:
    """Trials that nothing beats on one axis, at most ten of them."""
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    for name in ("trial", escape(judge.metric.name), "bytes", "latency"):
        table.add_column(name, justify="right")
    for trial in trials[:10]:
        values = measured(trial)
        table.add_row(
            str(trial.number),
            escape(metric_text(judge.metric, values.metric, values.metric_se)),
            f"{values.size_bytes:,}",
            escape(latency_text(values)),
        )
    return table


def trial_details(console: Console, trial: Trial, judge: Judge, title: str) -> None:
    """Policy, outcome, stage audit and byte ledger of one trial."""
    console.print(f"[bold]{escape(title)}[/]  {escape(trial.origin)}", highlight=False)
    console.print(f"policy {trial.policy.digest}, order {escape(order_text(trial.policy))}")
    _print_policy(console, trial.policy, judge)
    if trial.measurement is None:
        console.print(f"[red]failed[/]: {escape(str(trial.outcome))}", highlight=False)
        return
    values = trial.measurement
    console.print(
        f"\n{escape(metric_text(judge.metric, values.metric, values.metric_se))} on "
        f"{values.metric_samples:,} validation samples, {values.size_bytes:,} bytes, "
        f"{escape(latency_text(values))} ({escape(values.latency.device)}), {values.macs:,} MACs",
        highlight=False,
    )
    if values.secondary:
        console.print(escape(secondary_text(judge.secondary, values.secondary)), highlight=False)
    audit = Table(title="\nAfter each stage", title_justify="left", box=None, pad_edge=False)
    metric = escape(judge.metric.name)
    for name in ("stage", "samples", "seconds", metric, "layer", "zeros", "values"):
        audit.add_column(name, justify="left" if name in ("stage", "layer") else "right")
    audit.add_column("destroyed")
    for stage in values.audit:
        head = [escape(stage.stage), f"{stage.samples:,}", f"{stage.seconds:.2f}"]
        head.append(escape(judge.metric.format(stage.metric)))
        for layer, seen in stage.layers.items():
            row = [f"{100 * seen.sparsity:.1f} %", f"{seen.distinct_nonzero:,}"]
            audit.add_row(*head, escape(layer), *row, escape("; ".join(stage.destroyed)))
            head = [""] * 4
    console.print(audit)
    ledger = Table(title="\nWhere the bytes are", title_justify="left", box=None, pad_edge=False)
    ledger.add_column("tensor")
    ledger.add_column("section")
    ledger.add_column("bytes", justify="right")
    for line in values.ledger:
        ledger.add_row(escape(line.layer or "file"), escape(line.section), f"{line.size_bytes:,}")
    ledger.add_row("[bold]sum[/]", "", f"[bold]{sum(x.size_bytes for x in values.ledger):,}[/]")
    console.print(ledger)


def _print_policy(console: Console, policy: Policy, judge: Judge) -> None:
    for layer in judge.profile.layers:
        text = layer_text(policy, layer.name)
        console.print(f"  {escape(layer.name):<16} {escape(text)}", highlight=False)
    if not policy.distillation.is_neutral:
        knobs = policy.distillation
        console.print(
            f"  distillation     {escape(knobs.kind)}, temperature {knobs.temperature:g}, "
            f"weight {knobs.weight:g}",
            highlight=False,
        )
    console.print(
        f"  network          {policy.activation_bits}-bit activations, "
        f"{escape(policy.cluster_init)} k-means start, {escape(policy.scheme)} grids, "
        f"one scale a {escape(policy.granularity)}, pruned by {escape(policy.criterion)}",
        highlight=False,
    )
