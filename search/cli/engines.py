"""From `--engine` and its flags to an engine, for the commands that run something."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from search.engines import ENGINES, Engine
from search.engines.measuring import MeasuringEngine, WhenLost
from search.session import SearchRunner
from search.study import run_search
from spaces import InvalidRequest, ModelProfile, Target

__all__ = ["engine_of", "measuring", "open_engine", "search_runner"]

MOST_DEFAULT_WORKERS = 8
DEFAULT_RAY_WAIT_S = 120.0
_RAY_FLAGS = (
    "ray_address",
    "cpus_per_trial",
    "gpus_per_trial",
    "resource_per_trial",
    "ray_wait",
)
_TUNE_FLAGS = ("tune_callback", "tune_dir")
#: Without `--when-target-lost wait` nobody waits long for a node that is gone.
LOST_AFTER_S = 10.0


@contextmanager
def engine_of(arguments: argparse.Namespace) -> Iterator[Engine]:
    """The engine that `--engine` and its flags ask for; see `open_engine`.

    Raises:
        InvalidRequest: a flag of another engine, or a cluster that cannot be joined.
    """
    refused = {} if arguments.engine in ("ray", "tune") else dict.fromkeys(_RAY_FLAGS, "ray")
    if arguments.engine != "tune":
        refused |= dict.fromkeys(_TUNE_FLAGS, "tune")
    for name, engine_name in refused.items():
        if getattr(arguments, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise InvalidRequest(
                f"{flag} is for --engine {engine_name}, but got --engine {arguments.engine}"
            )
    if arguments.engine in ("ray", "tune"):
        with _ended(_ray_engine(arguments)) as engine:
            yield engine
        return
    with open_engine(arguments.engine, arguments.workers) as engine:
        yield engine


def search_runner(arguments: argparse.Namespace) -> SearchRunner:
    """What runs the search phase: our own loop, or Ray Tune.

    Raises:
        InvalidRequest: Tune's extra is missing, or a callback cannot be had.
    """
    if arguments.engine != "tune":
        return run_search
    from search.tune.study import TuneSearch, load_callback  # noqa: PLC0415 -- an optional extra

    callbacks = [load_callback(name) for name in arguments.tune_callback or ()]
    return TuneSearch(callbacks, Path(arguments.tune_dir) if arguments.tune_dir else None)


def _ray_engine(arguments: argparse.Namespace) -> Engine:
    from search.engines.ray import Needs, RayEngine  # noqa: PLC0415 -- an optional extra

    address = arguments.ray_address or "auto"
    if arguments.engine == "tune" and address.startswith("ray://"):
        raise InvalidRequest(
            "--ray-address must be auto, local or HOST:PORT with --engine tune, which has to run "
            f"in this process to write the record, but got {address!r}"
        )
    needs = Needs(
        cpus=arguments.cpus_per_trial or 1.0,
        gpus=arguments.gpus_per_trial or 0.0,
        resources=dict(arguments.resource_per_trial or ()),
    )
    if needs.gpus > 1 and not needs.gpus.is_integer():
        raise InvalidRequest(
            f"--gpus-per-trial above 1 must be a whole number, but got {needs.gpus:g}"
        )
    return RayEngine(
        arguments.workers,
        address=address,
        needs=needs,
        patience_s=arguments.ray_wait or DEFAULT_RAY_WAIT_S,
    )


@contextmanager
def open_engine(name: str, workers: int | None) -> Iterator[Engine]:
    """An engine whose workers end with the block: nothing of theirs is still wanted then.

    Raises:
        InvalidRequest: this engine cannot have so many workers.
    """
    if name == "in-process" and (workers or 1) != 1:
        raise InvalidRequest(f"--workers must be 1 with --engine in-process, but got {workers}")
    default = 1 if name == "in-process" else min(MOST_DEFAULT_WORKERS, _cores())
    with _ended(ENGINES[name](workers or default)) as engine:
        yield engine


@contextmanager
def _ended(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.kill()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def measuring(
    engine: Engine,
    arguments: argparse.Namespace,
    target: Target,
    console: Console,
    profile: ModelProfile | None = None,
) -> Iterator[Engine]:
    """The engine, whose files are timed by a node that is the target where the cluster has one.

    Args:
        engine: evaluates.
        arguments: of the command.
        target: of the study.
        console: notices go there.
        profile: of a study that exists; it goes on as it began, modelled or measured.
    """
    began_modelled = profile is not None and profile.latency_source == "modelled"
    if arguments.engine not in ("ray", "tune") or target.is_this_machine or began_modelled:
        if profile is not None and not target.is_this_machine and not began_modelled:
            _note(console, "this study measures its target on a node of a Ray cluster; without "
                           "--engine ray latencies are modelled from here on")  # fmt: skip
        yield engine
        return
    from search.engines.ray import Needs, RayEngine  # noqa: PLC0415 -- an optional extra
    from search.engines.ray.cluster import nodes  # noqa: PLC0415
    from search.engines.ray.node import resource_of  # noqa: PLC0415

    resource = resource_of(target.name)
    is_there = any(node.get(resource, 0) >= 1 for node in nodes())
    when_lost: WhenLost = arguments.when_target_lost or "modelled"
    if not (is_there or when_lost == "wait"):
        if profile is not None:
            _note(console, f"no node of the cluster has {resource}: latencies are modelled")
        yield engine
        return
    patience_s = arguments.ray_wait or DEFAULT_RAY_WAIT_S
    times = RayEngine(
        address=arguments.ray_address or "auto",
        needs=Needs(cpus=0.0, resources={resource: 1.0}),
        patience_s=patience_s if when_lost == "wait" else min(patience_s, LOST_AFTER_S),
    )
    with _ended(times):
        yield MeasuringEngine(
            engine, times, target.name, when_lost, lambda text: _note(console, text)
        )


def _note(console: Console, text: str) -> None:
    console.print(f"[yellow]note[/]      {escape(text)}", highlight=False)
