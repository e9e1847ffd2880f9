"""`search calibrate`: this machine's figures, fitted to what its runtimes really take."""

import argparse
import datetime
import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from evaluators import tasks
from evaluators.calibration import (
    Fit,
    ProbeTime,
    at_one_speed,
    fit_target,
    relative_errors,
    target_toml,
)
from evaluators.cost.targets import load_target
from evaluators.formats import check_installed
from search.cli.screen import make_console
from search.engines import LocalEngine
from spaces import InvalidRequest, Target

__all__ = ["calibrate_command"]

#: Known networks, all held out, come first; see `evaluators.backends.pytorch.probes.KNOWN`.
LEAST_PROBES = 24
_KINDS = {"packed": ("fp32",), "onnx": ("fp32", "int8")}


def calibrate_command(arguments: argparse.Namespace) -> int:
    """Time networks, fit, say how well it does, write a profile."""
    console = make_console(stderr=True)
    target = load_target(arguments.target)
    if not target.is_this_machine:
        raise InvalidRequest(
            f"--target {target.name} is {', '.join(target.machines)}, but this is "
            f"{platform.machine()}: a machine can only be calibrated on itself"
        )
    check_installed(target.artifact_format)
    if arguments.probes < LEAST_PROBES:
        raise InvalidRequest(
            f"--probes must be at least {LEAST_PROBES}, a fit needs them, but got "
            f"{arguments.probes}"
        )
    place = Path(arguments.out or f"{target.name}-{_machine()}.toml")
    if place.exists():
        raise InvalidRequest(f"--out {place}: exists already; name another file, or delete it")
    if not place.resolve().parent.is_dir():
        raise InvalidRequest(f"--out {place}: there is no such folder")
    kinds = _KINDS[target.artifact_format]
    if arguments.dry_run:
        console.print(
            f"would time {arguments.probes} networks as {' and '.join(kinds)}, one at a time, "
            f"{'a second or two' if len(kinds) == 1 else 'four or five seconds'} each, and write "
            f"{escape(str(place))}",
            highlight=False,
        )
        return 0
    probes = at_one_speed(_timed(arguments.probes, target, kinds))
    today = datetime.datetime.now(datetime.UTC).date()
    source = f"measured: fitted to {len(probes)} times on {platform.node()}, {today}"
    fit = fit_target(probes, target, source)
    fitted = replace(
        fit.target,
        name=place.stem,
        description=f"{target.description}; figures fitted on {platform.node()}",
        is_this_machine=False,
    )
    comment = (
        f"Made by `search calibrate --target {target.name} --probes {arguments.probes}`, {today}.",
        f"Median error on networks that were not fitted: {100 * fit.unseen_error:.0f} %.",
        "Latency by this file is modelled. With is_this_machine = true it is measured instead.",
    )
    try:
        place.write_text(target_toml(fitted, comment), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"--out {place}: cannot be written: {error.strerror}") from None
    if arguments.json:
        sys.stdout.write(json.dumps(_result(fit, probes, place)) + "\n")
    else:
        _print(fit, target, probes, place)
    return 0


def _timed(count: int, target: Target, kinds: tuple[str, ...]) -> list[ProbeTime]:
    """One network after the other: what else runs meanwhile would be timed too."""
    found: list[ProbeTime] = []
    engine = LocalEngine(1)
    try:
        with Progress(console=make_console(stderr=True), transient=True) as progress:
            task = progress.add_task("timing networks", total=count)
            for number in range(count):
                done = engine.submit(tasks.time_probe, number, target.artifact_format, kinds)
                found += done.result()
                progress.advance(task)
    finally:
        engine.kill()
    return found


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", platform.node()).strip("._-") or "machine"


def _known(fit: Fit, probes: Sequence[ProbeTime]) -> list[dict[str, object]]:
    """The networks that people know, none of which was fitted."""
    known = [p for p in probes if p.held_out and not p.name.startswith("drawn")]
    errors = relative_errors(known, fit.target)
    return [
        {
            "network": probe.name,
            "kind": probe.kind,
            "measured_ms": probe.median_ms,
            "modelled_ms": probe.median_ms * (1 + float(error)),
            "error_pct": round(100 * float(error), 1),
        }
        for probe, error in zip(known, errors, strict=True)
    ]


def _result(fit: Fit, probes: Sequence[ProbeTime], place: Path) -> dict[str, object]:
    unseen = np.abs(relative_errors([p for p in probes if p.held_out], fit.target))
    return {
        "file": str(place),
        "probes": len(probes),
        "held_out": len(unseen),
        "median_error_fitted_pct": round(100 * fit.seen_error, 1),
        "median_error_held_out_pct": round(100 * fit.unseen_error, 1),
        "p90_error_held_out_pct": round(100 * float(np.quantile(unseen, 0.9)), 1),
        "median_error_before_pct": round(100 * fit.before_error, 1),
        "figures": _figures(fit.target),
        "known": _known(fit, probes),
    }


def _figures(target: Target) -> dict[str, float]:
    figures = {f"{kind}_gmacs": f.value for kind, f in target.throughput_gmacs.items()}
    figures |= {
        "bandwidth_gbps": target.bandwidth_gbps.value,
        "overhead_us": target.overhead_us.value,
    }
    if target.call_overhead_us is not None:
        figures["call_overhead_us"] = target.call_overhead_us.value
    if target.output_element_ns is not None:
        figures["output_element_ns"] = target.output_element_ns.value
    return figures


def _print(fit: Fit, before: Target, probes: Sequence[ProbeTime], place: Path) -> None:
    console = make_console()
    table = Table(box=None)
    for column in ("figure", "was", "fitted"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    was = _figures(before)
    for name, value in _figures(fit.target).items():
        table.add_row(name, f"{was[name]:.3g}" if name in was else "-", f"{value:.3g}")
    console.print(table)
    table = Table(title="Not fitted", title_justify="left", box=None)
    for column in ("network", "kind", "measured", "modelled", "error"):
        table.add_column(column, justify="left" if column in ("network", "kind") else "right")
    for row in _known(fit, probes):
        table.add_row(
            str(row["network"]), str(row["kind"]), f"{row['measured_ms']:.3g} ms",
            f"{row['modelled_ms']:.3g} ms", f"{row['error_pct']:+.0f} %",
        )  # fmt: skip
    console.print(table)
    held_out = sum(p.held_out for p in probes)
    shown = str(place) if place.is_absolute() else f"./{place}"
    console.print(
        f"\nmedian error {100 * fit.unseen_error:.0f} % on {held_out} times that were not fitted "
        f"({100 * fit.before_error:.0f} % with the figures as they were), "
        f"{100 * fit.seen_error:.0f} % on the {len(probes) - held_out} that were\n"
        f"use it: search run --target {escape(shown)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
