"""`search submit`, `search status` and `search stop`: studies as jobs of a Ray cluster."""

import argparse
import dataclasses
import datetime
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from evaluators.cost.targets import load_target
from search.cli.main import EXIT_INTERRUPTED, build_parser
from search.cli.screen import make_console
from search.engines.ray.jobs import Job, JobServer
from search.location import StudyLocation
from search.naming import storage_flag
from spaces import InvalidRequest, StudyBroken

__all__ = ["status_command", "stop_command", "submit_command"]

LAST_LINES = 5
_SENT = ("run", "resume")


def submit_command(arguments: argparse.Namespace) -> int:
    """Send a run to a cluster and show what it prints; Ctrl-C leaves it running there."""
    console = make_console(stderr=True)
    words, asked = _checked(arguments.arguments)
    study = asked.study or _new_name(asked)
    if asked.command == "run":
        words = [*words, *([] if asked.study else ["--study", study])]
        _check_workload(asked.workload, arguments.working_dir)
    location = StudyLocation(asked.storage, study)
    folder = _folder(arguments.working_dir)
    server = JobServer(arguments.address)
    name = server.submit(words, study, location.storage, folder)
    where = f" --address {server.address}" if arguments.address else ""
    console.print(f"[bold]job[/]       {escape(name)} at {escape(server.address)}", highlight=False)
    console.print(f"[bold]record[/]    study {escape(study)} in {escape(location.storage)}",
                  highlight=False, soft_wrap=True)  # fmt: skip
    for what in ("status", "stop"):
        command = f"search {what} {name}{where}"
        console.print(f"[dim]{what:<9} {escape(command)}[/]", highlight=False, soft_wrap=True)
    if arguments.detach:
        return 0
    return _followed(server, name, where)


def status_command(arguments: argparse.Namespace) -> int:
    """What became of a job, or of all."""
    server = JobServer(arguments.address)
    where = f" --address {server.address}" if arguments.address else ""
    if arguments.name is None and not arguments.follow:
        return _list(server, as_json=arguments.json)
    job = server.find(arguments.name)
    if arguments.follow:
        return _followed(server, job.name, where)
    last = server.logs(job.name).splitlines()[-LAST_LINES:]
    if arguments.json:
        sys.stdout.write(json.dumps({**dataclasses.asdict(job), "last_lines": last}) + "\n")
        return 0
    console = make_console()
    console.print(_table([job]))
    for line in last:
        console.print(f"[dim]{escape(line)}[/]", highlight=False)
    return 0


def stop_command(arguments: argparse.Namespace) -> int:
    """End a job; what finished is in its record."""
    server = JobServer(arguments.address)
    job = server.find(arguments.name)
    if not job.is_over:
        job = server.stop(job.name)
    if not job.is_over:
        raise StudyBroken(f"job {job.name} was told to stop and is still {job.status}")
    where = storage_flag(job.storage)
    make_console().print(
        f"job {escape(job.name)} is over ({job.status}); nothing that finished is lost\n"
        f"go on with: search submit resume {escape(job.study)}{escape(where)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0


def _checked(words: Sequence[str]) -> tuple[list[str], argparse.Namespace]:
    """The command line for the cluster and what it says, refused here rather than there."""
    words = list(words[1:] if words[:1] == ["--"] else words)
    if words[:1] not in ([word] for word in _SENT):
        got = " ".join(words) or "nothing"
        raise InvalidRequest(
            "submit must be followed by a run, e.g. search submit run lenet300-mnist --storage "
            f"/shared/runs, or by resume STUDY, but got {got}"
        )
    asked = build_parser().parse_args(words)
    if "://" in asked.storage or not Path(asked.storage).is_absolute():
        raise InvalidRequest(
            "--storage of a job must be a folder that every node sees, by its absolute path, for "
            f"the job's own folder goes with it, but got {asked.storage!r}"
        )
    if asked.command == "resume" and asked.study is None:
        raise InvalidRequest("submit resume must name a study")
    if getattr(asked, "dry_run", False):
        raise InvalidRequest("submit has no --dry-run: `search run --dry-run` needs no cluster")
    if asked.engine not in ("local", "ray"):
        raise InvalidRequest(f"submit runs with --engine ray, but got --engine {asked.engine}")
    if asked.engine == "local":
        words += ["--engine", "ray"]
    if asked.ray_address is None:
        words += ["--ray-address", "auto"]
    return words, asked


def _check_workload(workload: str, working_dir: str | None) -> None:
    path = workload.rpartition(":")[0]
    if path and working_dir is None and not Path(path).is_absolute():
        raise InvalidRequest(
            f"workload {workload}: name a file by the absolute path at which every node sees it, "
            "or upload its folder with --working-dir FOLDER and name it from there"
        )
    if path and working_dir is not None and not (Path(working_dir) / path).is_file():
        raise InvalidRequest(f"workload {workload}: there is no {path} in --working-dir")


def _folder(working_dir: str | None) -> Path | None:
    if working_dir is None:
        return None
    folder = Path(working_dir).resolve()
    if not folder.is_dir():
        raise InvalidRequest(f"--working-dir must be a folder, but got {working_dir!r}")
    return folder


def _new_name(asked: argparse.Namespace) -> str:
    """By the minute and second: the client may not see the storage, so it cannot count."""
    load_target(asked.target)
    stem = Path(asked.workload.rpartition(":")[0] or asked.workload).stem
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{stem}-{Path(asked.target).stem}").lstrip("._-")
    now = datetime.datetime.now(datetime.UTC)
    return f"{base[:80] or 'study'}-{now:%Y%m%d-%H%M%S}"


def _followed(server: JobServer, name: str, where: str) -> int:
    """Pass on what a job prints; the exit code is its own."""

    def show(lines: str) -> None:
        sys.stdout.write(lines)
        sys.stdout.flush()

    try:
        job = server.follow(name, show)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nleft job {name} running; look again with: "
            f"search status {name}{where} --follow, end it with: search stop {name}{where}\n"
        )
        return EXIT_INTERRUPTED
    if job.status == "succeeded":
        return 0
    if job.exit_code:
        return job.exit_code
    raise StudyBroken(f"job {name} is {job.status}: {job.message}")


def _list(server: JobServer, *, as_json: bool) -> int:
    jobs = server.jobs()
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(job) for job in jobs]) + "\n")
    elif jobs:
        make_console().print(_table(jobs))
    else:
        make_console().print(f"no job of a study at {escape(server.address)}", highlight=False)
    return 0


def _table(jobs: Sequence[Job]) -> Table:
    table = Table(box=None)
    for column in ("job", "status", "exit", "started (UTC)", "record"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        started = "-"
        if job.started_at is not None:
            moment = datetime.datetime.fromtimestamp(job.started_at, datetime.UTC)
            started = f"{moment:%Y-%m-%d %H:%M}"
        code = "-" if job.exit_code is None else str(job.exit_code)
        place = f"{job.study} in {job.storage}"
        table.add_row(escape(job.name), job.status, code, started, escape(place))
    return table
