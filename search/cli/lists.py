"""Commands that list what there is: `space`, `targets`, `workloads`."""

import argparse
import json
import sys
from dataclasses import asdict, replace

from rich.markup import escape
from rich.table import Table

from evaluators import tasks
from evaluators.cost.targets import list_targets, load_target
from evaluators.formats import choose_format
from evaluators.messages import WorkerContext
from evaluators.workloads.registry import (
    DEFAULT_WORKLOAD,
    backend_of,
    check_name,
    list_workloads,
)
from search.cli.engines import open_engine
from search.cli.run import read_restrictions
from search.cli.screen import make_console
from search.session import capabilities_of
from spaces import Target, build_space

__all__ = ["space_command", "targets_command", "workloads_command"]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def space_command(arguments: argparse.Namespace) -> int:
    """`search space`."""
    check_name(arguments.workload)
    target = load_target(arguments.target)
    chosen, why = choose_format(arguments.format, target, backend_of(arguments.workload))
    target = replace(target, artifact_format=chosen)
    restrictions = read_restrictions(arguments.space)
    context = WorkerContext(arguments.workload, arguments.target, target.artifact_format, "")
    with open_engine("local", 1) as engine:
        engine.configure(tasks.setup, context)
        profiled = engine.submit(tasks.make_profile).result()
    capabilities, removed = capabilities_of(profiled.profile, target, fidelity=1)
    space = build_space(profiled.profile, capabilities, restrictions)
    if arguments.json:
        result = {
            "knobs": space.describe(),
            "removed": list(removed),
            "excluded": [list(pair) for pair in profiled.profile.excluded],
        }
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    table = _table(f"Space of {arguments.workload} on {target.name}", "knob", "choices")
    for knob in space.knobs:
        shown = ", ".join("none" if c is None else str(c) for c in knob.choices)
        if knob.name == "order" and len(knob.choices) > 8:
            shown = f"{len(knob.choices)} orders, e.g. {', '.join(map(str, knob.choices[-3:]))}"
        table.add_row(escape(knob.name), escape(shown))
    console = make_console()
    console.print(table)
    for sentence in (*removed, *([why] if why else [])):
        console.print(f"[yellow]note[/] {escape(sentence)}", highlight=False)
    for name, reason in profiled.profile.excluded:
        console.print(f"[yellow]note[/] {escape(name or 'the model')}: {escape(reason)}")
    return 0


def targets_command(arguments: argparse.Namespace) -> int:
    """`search targets`."""
    names = [arguments.name] if arguments.name else list_targets()
    targets = [load_target(name) for name in names]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(target) for target in targets]) + "\n")
        return 0
    if arguments.name:
        _show_target(targets[0])
        return 0
    table = _table("Targets", "name", "what", "size measured as", "latency")
    for target in targets:
        latency = "measured here" if target.is_this_machine else "modelled"
        table.add_row(
            escape(target.name), escape(target.description), target.artifact_format, latency
        )
    make_console().print(table)
    return 0


def _show_target(target: Target) -> None:
    table = _table(f"{target.name}: {target.description}", "figure", "value", "source")
    figures = {f"{k} 10^9 MAC/s": v for k, v in target.throughput_gmacs.items()}
    figures |= {"bandwidth GB/s": target.bandwidth_gbps, "overhead us": target.overhead_us}
    for name, figure in figures.items():
        table.add_row(name, f"{figure.value:g}", escape(figure.source))
    console = make_console()
    console.print(table)
    own = escape(target.native_format)
    console.print(f"own format {own}, sizes measured as {target.artifact_format}")
    for sentence in target.kernel_truth:
        console.print(f"- {escape(sentence)}", highlight=False)


def workloads_command(arguments: argparse.Namespace) -> int:
    """`search workloads`."""
    if arguments.json:
        rows = [{"name": n, "description": what} for n, what in list_workloads().items()]
        sys.stdout.write(json.dumps({"default": DEFAULT_WORKLOAD, "workloads": rows}) + "\n")
        return 0
    table = _table("Workloads", "name", "what")
    for name, what in list_workloads().items():
        table.add_row(escape(name), escape(what))
    table.add_row("FILE.py:FUNCTION", "your own: a function which returns a Workload (README)")
    make_console().print(table)
    return 0
