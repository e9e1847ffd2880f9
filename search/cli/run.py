"""`search run` and `search resume`."""

import argparse
import itertools
import json
import re
import shlex
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluators import tasks
from evaluators.artifacts.store import FileStore
from evaluators.cost.targets import load_target
from evaluators.formats import check_installed, choose_format
from evaluators.shared_folder import leave_token
from evaluators.workloads.registry import backend_of, check_name
from search.cli.engines import engine_of, measuring, search_runner
from search.cli.files import export_trial
from search.cli.interrupts import interrupts
from search.cli.main import EXIT_BUDGET_UNMET, EXIT_INTERRUPTED
from search.cli.readers import answer_json, write_study_report
from search.cli.screen import Screen, make_console, print_answer, print_notes, print_prepared
from search.cli.text import (
    bytes_text,
    duration_text,
    layer_text,
    order_text,
)
from search.engines import Engine
from search.location import StudyLocation
from search.naming import storage_flag, trial_name
from search.record import Record, refuse_taken
from search.session import (
    Answer,
    Prepared,
    Request,
    SearchRunner,
    answer_of,
    check_network,
    check_target,
    drive,
    prepare,
    proposer_of,
    smallest_possible_bytes,
    store_of,
    study_target,
    worker_context,
)
from spaces import InvalidRequest, StudyBroken

__all__ = ["read_restrictions", "resume_command", "run_command"]

DRY_RUN_POLICIES = 12


def run_command(arguments: argparse.Namespace) -> int:
    """Start a study and drive it to its end."""
    console = make_console(stderr=True)
    location = _new_location(arguments)
    request = Request(
        workload=arguments.workload,
        target=arguments.target,
        budget_kb=arguments.budget_kb,
        budget_download_kb=arguments.budget_download_kb,
        max_latency_ms=arguments.max_latency_ms,
        min_accuracy_percent=arguments.min_accuracy,
        max_drop_points=arguments.max_drop,
        proposer=arguments.proposer,
        seed=arguments.seed,
        trials=arguments.trials,
        fidelity=arguments.fidelity,
        full_fidelity=arguments.full_fidelity,
        finalists=arguments.finalists,
        device=arguments.device,
        restrictions=read_restrictions(arguments.space),
        artifact_format=arguments.format,
        artifacts=arguments.artifacts or "",
    )
    # A typing error should not wait for a worker.
    check_name(request.workload)
    target = load_target(request.target)
    choose_format(request.artifact_format, target, backend_of(request.workload))
    if request.artifacts:
        FileStore(f"{request.artifacts.rstrip('/')}/{location.study}").check()
    with interrupts(), engine_of(arguments) as engine:
        runner = search_runner(arguments)
        with measuring(engine, arguments, target, console) as engine_that_times:
            with console.status("a worker scores the baseline and scans its layers"):
                prepared = prepare(request, engine_that_times, location)
            print_prepared(console, prepared)
            _warn_of_arithmetic(console, prepared)
            if arguments.dry_run:
                return _dry_run(prepared, as_json=arguments.json)
            profile = prepared.profiled.profile
            record = Record.create(location, prepared.spec, profile, prepared.space)
            return _drive(record, engine_that_times, console, arguments, runner)


def resume_command(arguments: argparse.Namespace) -> int:
    """Go on with a study."""
    console = make_console(stderr=True)
    location = _known_location(arguments)
    with interrupts(), engine_of(arguments) as engine:
        runner = search_runner(arguments)
        record = Record.open(location)
        if arguments.trials is not None:
            with _closed_on_error(record):
                record = _with_trials(record, location, arguments.trials)
        with _closed_on_error(record):
            spec = record.spec
            check_installed(spec.artifact_format)
            if spec.artifacts:
                FileStore(store_of(spec)).check()
            done = len(record.trials())
            console.print(
                f"[bold]study[/]     {escape(spec.name)}: {done} of {spec.trials} trials, "
                f"{len(record.finalists())} finalists",
                highlight=False,
            )
            print_notes(console, spec.notes)
            target, profile = study_target(spec), record.profile
            check_target(record, target)
            with measuring(engine, arguments, target, console, profile) as engine_that_times:
                engine_that_times.configure(tasks.setup, worker_context(spec, location, profile))
                with console.status("a worker compares the network with the recorded one"):
                    check_network(record, engine_that_times)
                return _drive(record, engine_that_times, console, arguments, runner)


def _with_trials(record: Record, location: StudyLocation, trials: int) -> Record:
    if trials < len(record.trials()):
        raise InvalidRequest(
            f"--trials must be at least the {len(record.trials())} that are finished, "
            f"but got {trials}"
        )
    spec = replace(record.spec, trials=trials)
    record.close()
    return Record.open(location, spec)


#: Engines whose workers may be on machines that see another folder.
CLUSTERS = ("ray", "tune")


def _drive(
    record: Record,
    engine: Engine,
    console: Console,
    arguments: argparse.Namespace,
    runner: SearchRunner,
) -> int:
    spec, location = record.spec, record.location
    for notice in record.notices:
        console.print(f"[yellow]note[/]      {escape(notice)}", highlight=False)
    target = study_target(spec)
    started = time.monotonic()
    with _closed_on_error(record):
        token = leave_token(location.folder) if arguments.engine in CLUSTERS else ""
        engine.configure(tasks.setup, worker_context(spec, location, record.profile, token))
        try:
            with Screen(console, record.judge, spec) as screen:
                answer = drive(record, engine, screen, target, arguments.timeout, runner)
        except KeyboardInterrupt:
            engine.kill()
            return _interrupted(record, console)
        record.close(is_finished=len(record.trials()) >= spec.trials)
    console.print(f"\nsearched for {duration_text(time.monotonic() - started)}", highlight=False)
    if not record.trials() and arguments.timeout is not None:
        raise StudyBroken(
            f"study {location}: no trial finished within the --timeout of {arguments.timeout:g} s; "
            f"go on with more time: search resume {spec.name}{storage_flag(location.place)}"
        )
    return _present(record, answer, as_json=arguments.json)


def _present(record: Record, answer: Answer, *, as_json: bool) -> int:
    spec, location = record.spec, record.location
    out = make_console(stderr=as_json)
    trials, where = record.trials(), storage_flag(location.place)
    if trials and not any(trial.measurement for trial in trials):
        reasons = Counter(str(trial.outcome) for trial in trials)
        reason, times = reasons.most_common(1)[0]
        raise StudyBroken(
            f"every one of the {len(trials)} trials failed; {times} of them with: {reason} "
            f"(`search show 0 --study {spec.name}{where}` shows one, `search report` all)"
        )
    print_answer(out, answer, spec)
    exported: Path | None = None
    try:
        if answer.front.pick is not None:
            exported = location.folder / f"best.{spec.artifact_format}"
            export_trial(record, answer.front.pick, exported)
        report = write_study_report(record, location.folder / "report.html")
    except OSError as error:
        raise StudyBroken(
            f"cannot write to {location.folder}: {error.strerror}; the record is intact, so repair "
            "the cause and use `search export` and `search report`"
        ) from None
    out.print(f"\n[bold]report[/]    {escape(str(report))}", highlight=False, soft_wrap=True)
    if exported is not None:
        out.print(f"[bold]file[/]      {escape(str(exported))}", highlight=False, soft_wrap=True)
        assert answer.front.pick is not None
        pick = trial_name(answer.front.pick, spec.full_fidelity, spec.fidelity)
        commands = (
            f"search verify {shlex.quote(str(exported))}",
            f"search front {spec.name}{where}",
            f"search show {pick} --study {spec.name}{where}",
        )
        for title, command in zip(("next", "", ""), commands, strict=True):
            out.print(f"[dim]{title:<9} {escape(command)}[/]", highlight=False, soft_wrap=True)
    if as_json:
        result = answer_json(record, answer)
        result |= {"report": str(report), "file": str(exported) if exported else None}
        sys.stdout.write(json.dumps(result) + "\n")
    return 0 if answer.is_met else EXIT_BUDGET_UNMET


def _interrupted(record: Record, console: Console) -> int:
    """The front of what is there, and how to go on."""
    spec, location = record.spec, record.location
    record.close()
    console.print(f"\n[bold]interrupted[/] after {len(record.trials())} of {spec.trials} trials; "
                  "nothing that finished is lost", highlight=False)  # fmt: skip
    answer = answer_of(record)
    if answer.front.members:
        print_answer(console, answer, spec)
    command = f"search resume {spec.name}{storage_flag(location.place)}"
    console.print(f"\ngo on with: {escape(command)}", highlight=False, soft_wrap=True)
    return EXIT_INTERRUPTED


def _warn_of_arithmetic(console: Console, prepared: Prepared) -> None:
    """Say before any training that a byte budget is below what any policy can reach."""
    budget = prepared.spec.budget
    limits = [x for x in (budget.size_bytes, budget.download_bytes) if x is not None]
    smallest = smallest_possible_bytes(prepared)
    if limits and smallest > min(limits):
        console.print(
            f"[bold red]warning[/]   the strongest policy of this space is predicted at "
            f"{bytes_text(smallest)}, over the budget of {bytes_text(min(limits))}: expect a "
            "certificate, not a front",
            highlight=False,
        )


def _dry_run(prepared: Prepared, *, as_json: bool) -> int:
    """What would be tried first; nothing is trained or written."""
    from evaluators.cost import modelled_latency, size_model  # noqa: PLC0415 -- dry runs only

    spec, profile = prepared.spec, prepared.profiled.profile
    proposer = proposer_of(spec, profile, prepared.space, prepared.target)
    proposals = proposer.propose([], [], min(DRY_RUN_POLICIES, spec.trials))
    sizes = size_model(profile, spec.artifact_format)
    rows = [
        {
            "origin": proposal.origin,
            "order": order_text(proposal.policy),
            "predicted_bytes": round(sizes.predict_bytes(proposal.policy)),
            "modelled_latency_ms": modelled_latency(
                proposal.policy, profile, prepared.target
            ).median_ms,
            "policy": proposal.policy.to_dict(),
        }
        for proposal in proposals
    ]
    if as_json:
        result = {"spec": spec.to_dict(), "space": prepared.space.describe(), "first": rows}
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    table = Table(
        title="First policies (dry run: nothing is trained)", title_justify="left", box=None
    )
    for name in ("origin", "order", "predicted", "modelled latency", "layers"):
        table.add_column(name, overflow="fold")
    for proposal, row in zip(proposals, rows, strict=True):
        layers = "; ".join(
            f"{layer.name}: {layer_text(proposal.policy, layer.name)}" for layer in profile.layers
        )
        table.add_row(
            escape(proposal.origin),
            escape(str(row["order"])),
            bytes_text(sizes.predict_bytes(proposal.policy)),
            f"{row['modelled_latency_ms']:.3g} ms",
            escape(layers),
        )
    make_console().print(table)
    return 0


def read_restrictions(path: str | None) -> Mapping[str, Any]:
    """The parsed `--space` file; {} without one.

    Raises:
        InvalidRequest: it cannot be read or is not TOML.
    """
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--space: cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"--space {path}: not a TOML file: {error}") from None


def _new_location(arguments: argparse.Namespace) -> StudyLocation:
    if arguments.study is not None:
        location = StudyLocation(arguments.storage, arguments.study)
        # The record refuses it too, but only after a worker has made the profile.
        refuse_taken(location)
        return location
    stem = Path(arguments.workload.rpartition(":")[0] or arguments.workload).stem
    target = Path(arguments.target).stem
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{stem}-{target}").lstrip("._-")[:80] or "study"
    known = set(StudyLocation.list_studies(arguments.storage))
    names = (f"{base}-{i}" for i in itertools.count(1))
    locations = (StudyLocation(arguments.storage, name) for name in names if name not in known)
    return next(location for location in locations if _is_free(location))


def _is_free(location: StudyLocation) -> bool:
    """False where somebody else's Optuna study has the name."""
    try:
        refuse_taken(location)
    except InvalidRequest:
        return False
    return True


def _known_location(arguments: argparse.Namespace) -> StudyLocation:
    if arguments.study is None:
        return StudyLocation.latest(arguments.storage)
    return StudyLocation(arguments.storage, arguments.study)


@contextmanager
def _closed_on_error(record: Record) -> Iterator[None]:
    try:
        yield
    except BaseException:
        record.__exit__(*sys.exc_info())
        raise
