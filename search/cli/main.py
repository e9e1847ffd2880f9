"""`search`: parses the command line, dispatches, turns errors into messages and exit codes.

Imports nothing heavy: `search --help` must answer at once. Exit codes: 0 done, 1 the study broke,
2 the request must be changed, 3 the budget was not met, 130 interrupted.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from spaces.errors import InvalidRequest, SearchError, StorageLost

__all__ = ["EXIT_BUDGET_UNMET", "EXIT_INTERRUPTED", "build_parser", "main", "run"]

EXIT_BROKEN, EXIT_INVALID, EXIT_BUDGET_UNMET, EXIT_INTERRUPTED = 1, 2, 3, 130
DEFAULT_TRIALS = 100
DEFAULT_FINALISTS = 8
DEFAULT_PROBES = 60
PROPOSERS = ("greybox", "warm", "tpe", "nsga2", "nsga3", "gp", "random")
ENGINES = ("local", "in-process", "ray", "tune")
FORMATS = ("packed", "onnx", "mlpackage", "tflite")

_EXAMPLES = """\
examples:
  search run --budget-kb 250 --target m1          the embedded LeNet-300-100 on MNIST
  search run my_net.py:workload --budget-kb 100   your own network
  search run --budget-kb 20 --max-drop 1 --dry-run
  search resume                                   go on with the latest study
  search front --json                             its front, for scripts
  search dashboard                                all studies in a browser, live
  search submit run --storage /shared/runs        on a Ray cluster, as a job
"""


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    value = int(_number(int, text, "a whole number"))
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {text}")
    return value


def count(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    value = int(_number(int, text, "a whole number"))
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, but got {text}")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = float(_number(float, text, "a number"))
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, but got {text}")
    return value


def share_of_points(text: str) -> float:
    """An argparse type: a finite number of at least 0."""
    value = float(_number(float, text, "a number"))
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, but got {text}")
    return value


def resource(text: str) -> tuple[str, float]:
    """An argparse type: NAME=AMOUNT of something a Ray node advertises."""
    name, equals, amount = text.rpartition("=")
    if not equals or not name or name in ("CPU", "GPU"):
        raise argparse.ArgumentTypeError(
            "must be NAME=AMOUNT, e.g. bigmem=1 (CPU and GPU have their own flags), "
            f"but got {text!r}"
        )
    return name, positive_float(amount)


def _number(kind: Callable[[str], float], text: str, what: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {what}, but got {text!r}") from None


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="search",
        description="Search compression policies for a trained network: what to prune, distill, "
        "cluster and quantize, how much of it in which layer, and in which order.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    adders = (
        _add_run, _add_resume, _add_readers, _add_dashboard, _add_files, _add_lists, _add_jobs,
        _add_worker,
    )  # fmt: skip
    for add in adders:
        add(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=summary, description=summary)


def _add_run(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run_parser = _command(commands, "run", "start a study and print the front it finds")
    _workload_argument(run_parser)
    _target_argument(run_parser)
    _format_argument(run_parser)
    budget = run_parser.add_argument_group("budget (hard limits; 1 KB = 1000 bytes)")
    budget.add_argument("--budget-kb", type=positive_float, metavar="KB", help="size of the file")
    budget.add_argument(
        "--budget-download-kb", type=positive_float, metavar="KB", help="size of its packed form"
    )
    budget.add_argument(
        "--max-latency-ms", type=positive_float, metavar="MS", help="one inference on the target"
    )
    budget.add_argument(
        "--min-accuracy", type=positive_float, metavar="PCT", help="in per cent, e.g. 97.5"
    )
    budget.add_argument(
        "--max-drop",
        type=share_of_points,
        metavar="POINTS",
        help="most the metric may be worse than the baseline's: points of accuracy, or its unit",
    )
    effort = run_parser.add_argument_group("effort")
    effort.add_argument(
        "--trials", type=positive_int, default=DEFAULT_TRIALS, metavar="N",
        help=f"evaluations, failed ones included (default {DEFAULT_TRIALS})",
    )  # fmt: skip
    effort.add_argument(
        "--timeout", type=positive_float, metavar="SECONDS",
        help="start no search trial after this long; the finalists still run",
    )  # fmt: skip
    effort.add_argument(
        "--fidelity", type=count, metavar="SAMPLES",
        help="training samples a searched trial sees; 0 = post-training (default: the workload's)",
    )  # fmt: skip
    effort.add_argument(
        "--full-fidelity", type=count, metavar="SAMPLES",
        help="training samples a finalist sees (default: the workload's)",
    )  # fmt: skip
    effort.add_argument(
        "--finalists", type=count, default=DEFAULT_FINALISTS, metavar="N",
        help="front members run again at full fidelity "
        f"(default {DEFAULT_FINALISTS}, 0 = none)",
    )  # fmt: skip
    how = run_parser.add_argument_group("how")
    how.add_argument("--proposer", choices=PROPOSERS, default="greybox", help="(default greybox)")
    how.add_argument("--seed", type=count, default=0, metavar="N", help="(default 0)")
    how.add_argument("--space", metavar="FILE", help="a TOML file that narrows the space")
    _engine_arguments(run_parser, how)
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    _storage_argument(how)
    how.add_argument(
        "--artifacts", metavar="s3://BUCKET/PREFIX",
        help="keep the files in a bucket instead of a folder that every node sees",
    )  # fmt: skip
    how.add_argument("--study", metavar="NAME", help="(default WORKLOAD-TARGET-number)")
    how.add_argument(
        "--dry-run", action="store_true",
        help="show space, first policies and predicted sizes; train and write nothing",
    )  # fmt: skip
    _json_argument(how)


def _add_resume(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    resume = _command(
        commands, "resume", "go on with a study, to the number of trials it asked for"
    )
    _study_argument(resume)
    resume.add_argument(
        "--trials", type=positive_int, metavar="N", help="ask for this many in all instead"
    )
    resume.add_argument("--timeout", type=positive_float, metavar="SECONDS", help="see run")
    _engine_arguments(resume, resume)
    _storage_argument(resume)
    _json_argument(resume)


def _add_readers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    front = _command(commands, "front", "print the front of a study")
    _study_argument(front)
    front.add_argument(
        "--at", choices=("answer", "search", "full"), default="answer",
        help="the finalists' front where there is one (default), or that of one fidelity",
    )  # fmt: skip
    show = _command(commands, "show", "print a trial: policy, audit, where the bytes are")
    show.add_argument("trial", help="its number, e.g. 17; a finalist's is 3@full")
    show.add_argument("--study", metavar="NAME", help="(default: the latest)")
    report = _command(commands, "report", "write the study's report, one HTML file")
    _study_argument(report)
    report.add_argument("--out", "-o", metavar="FILE", help="(default: beside the record)")
    for reader in (front, show, report):
        _storage_argument(reader)
        _json_argument(reader)


def _add_dashboard(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    dashboard = _command(commands, "dashboard", "serve the studies to a browser, live")
    dashboard.add_argument(
        "studies", nargs="*", metavar="STUDY", help="show only these (default: all of the storage)"
    )
    dashboard.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="what to bind (default 127.0.0.1; any other needs a token, made if not given)",
    )  # fmt: skip
    dashboard.add_argument(
        "--port", type=count, default=8050, metavar="N", help="(default 8050; 0 = any free one)"
    )
    dashboard.add_argument(
        "--token", metavar="TEXT", help="(default: $SEARCH_DASHBOARD_TOKEN, none on loopback)"
    )
    dashboard.add_argument("--open", action="store_true", help="open it in the browser")
    _storage_argument(dashboard)
    _json_argument(dashboard)


def _add_files(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = _command(commands, "export", "write a trial's file and its manifest")
    _study_argument(export)
    export.add_argument(
        "--pick", default="best", metavar="WHICH",
        help="best (default), smallest, fastest, knee, or a trial: 17, 3@full",
    )  # fmt: skip
    export.add_argument("--out", "-o", metavar="FILE", help="(default: STUDY-TRIAL.FORMAT)")
    export.add_argument(
        "--format", choices=FORMATS, metavar="NAME",
        help="make the file again in another format than the study's: "
        f"{', '.join(FORMATS)}",
    )  # fmt: skip
    _storage_argument(export)
    _json_argument(export)
    verify = _command(commands, "verify", "decode a file and score it again")
    verify.add_argument("file", help="an exported file, its manifest beside it")
    verify.add_argument("--workload", metavar="NAME", help="where there is no manifest")
    _json_argument(verify)


def _add_lists(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    space = _command(commands, "space", "print the search space of a workload on a target")
    _workload_argument(space)
    _target_argument(space)
    _format_argument(space)
    space.add_argument("--space", metavar="FILE", help="a TOML file that narrows it")
    targets = _command(commands, "targets", "list the hardware profiles, or show one")
    targets.add_argument("name", nargs="?", help="a profile, or a .toml file")
    calibrate = _command(
        commands, "calibrate", "time small networks here and fit a hardware profile to them"
    )
    calibrate.add_argument(
        "--target", choices=("host", "x86"), default="host",
        help="whose runtime: host is torch, x86 is ONNX Runtime (default host)",
    )  # fmt: skip
    calibrate.add_argument(
        "--probes", type=positive_int, default=DEFAULT_PROBES, metavar="N",
        help=f"networks to time, a quarter of them to check with (default {DEFAULT_PROBES})",
    )  # fmt: skip
    calibrate.add_argument(
        "--out", "-o", metavar="FILE", help="the profile (default: TARGET-THIS_MACHINE.toml)"
    )
    calibrate.add_argument("--dry-run", action="store_true", help="say what would be timed")
    workloads = _command(commands, "workloads", "list the workloads")
    for lister in (space, targets, workloads, calibrate):
        _json_argument(lister)


def _add_jobs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    submit = _command(commands, "submit", "run a study as a job on a Ray cluster")
    submit.add_argument(
        "--working-dir", metavar="FOLDER",
        help="uploaded to the cluster, where the job starts in it (at most 500 MB)",
    )  # fmt: skip
    submit.add_argument(
        "--detach", action="store_true", help="do not wait for it, nor show what it prints"
    )
    status = _command(commands, "status", "list the jobs of a Ray cluster, or look at one")
    status.add_argument("--follow", action="store_true", help="show what it prints until it ends")
    stop = _command(commands, "stop", "end a job; what finished stays in its record")
    for command in (submit, status, stop):
        command.add_argument(
            "--address", metavar="URL",
            help="of the cluster's dashboard (default $RAY_API_SERVER_ADDRESS, else "
            "http://127.0.0.1:8265)",
        )  # fmt: skip
    for command in (status, stop):
        command.add_argument("name", nargs="?", help="a study or a job (default: the latest)")
    submit.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="run ... | resume STUDY ...",
        help="a command line of `search`; --engine ray is added",
    )  # fmt: skip
    _json_argument(status)


def _add_worker(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    worker = _command(
        commands, "worker", "let this machine be a target: it times files for a cluster"
    )
    _target_argument(worker)
    worker.add_argument(
        "--ray-address", metavar="HOST:PORT", required=True, help="of the cluster to join"
    )
    worker.add_argument(
        "--cpus", type=count, default=0, metavar="N",
        help="trials that may also be trained here (default 0: nothing disturbs the timing)",
    )  # fmt: skip


def _workload_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "workload", nargs="?", default="lenet300-mnist",
        help="a name of `search workloads`, or path/to/file.py:function (default lenet300-mnist)",
    )  # fmt: skip


def _target_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", default="host", metavar="NAME",
        help="a name of `search targets`, or a .toml file (default host, this machine)",
    )  # fmt: skip


def _format_argument(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--format", choices=FORMATS, metavar="NAME",
        help=f"what files are written: {', '.join(FORMATS)} (default: the target's own where its "
        "libraries are installed, else packed)",
    )  # fmt: skip


def _study_argument(parser: argparse.ArgumentParser) -> None:
    """A study by its place or by `--study`, as `run` and `show` have it; not both."""
    either = parser.add_mutually_exclusive_group()
    # Left out it must not undo what `--study` said.
    either.add_argument("study", nargs="?", default=argparse.SUPPRESS, help="(default: the latest)")
    either.add_argument("--study", metavar="NAME", help="the same")


def _engine_arguments(
    command: argparse.ArgumentParser, parser: "argparse._ActionsContainer"
) -> None:
    parser.add_argument(
        "--workers", type=positive_int, metavar="N",
        help="(default: the cores; with ray and tune as many as the cluster holds)",
    )  # fmt: skip
    parser.add_argument("--engine", choices=ENGINES, default="local", help="(default local)")
    ray = command.add_argument_group("with --engine ray and --engine tune")
    ray.add_argument(
        "--ray-address", metavar="ADDRESS",
        help="auto (default: the cluster this machine is in), HOST:PORT, ray://HOST:PORT, or local",
    )  # fmt: skip
    ray.add_argument(
        "--cpus-per-trial", type=positive_float, metavar="N", help="what Ray sets aside (default 1)"
    )
    ray.add_argument(
        "--gpus-per-trial", type=positive_float, metavar="N", help="e.g. 0.25: four trials a GPU"
    )
    ray.add_argument(
        "--resource-per-trial", type=resource, action="append", metavar="NAME=N",
        help="a resource that nodes advertise; may be repeated",
    )  # fmt: skip
    ray.add_argument(
        "--ray-wait", type=positive_float, metavar="SECONDS",
        help="give up when no node could run a trial for so long (default 120)",
    )  # fmt: skip
    ray.add_argument(
        "--when-target-lost", choices=("modelled", "wait"),
        help="when no node with the resource target:NAME times files any more: go on with modelled "
        "latencies (default), or wait --ray-wait seconds for one, then end (resume goes on)",
    )  # fmt: skip
    ray.add_argument(
        "--tune-callback", action="append", metavar="FILE.py:FUNCTION",
        help="tune only: a function that returns a ray.tune.Callback, e.g. a logger; "
        "may be repeated",
    )  # fmt: skip
    ray.add_argument(
        "--tune-dir", metavar="FOLDER",
        help="tune only: where Tune writes its logs (default: tune, beside the record)",
    )  # fmt: skip


def _storage_argument(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--storage", default="search-runs", metavar="PLACE",
        help="a folder, or a database URL (default search-runs)",
    )  # fmt: skip


def _json_argument(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")


#: Command -> module and function; imported only when called.
_COMMANDS = {
    "run": ("search.cli.run", "run_command"),
    "resume": ("search.cli.run", "resume_command"),
    "front": ("search.cli.readers", "front_command"),
    "show": ("search.cli.readers", "show_command"),
    "report": ("search.cli.readers", "report_command"),
    "dashboard": ("search.cli.dashboard", "dashboard_command"),
    "export": ("search.cli.files", "export_command"),
    "verify": ("search.cli.files", "verify_command"),
    "submit": ("search.cli.jobs", "submit_command"),
    "status": ("search.cli.jobs", "status_command"),
    "stop": ("search.cli.jobs", "stop_command"),
    "space": ("search.cli.lists", "space_command"),
    "targets": ("search.cli.lists", "targets_command"),
    "worker": ("search.cli.worker", "worker_command"),
    "calibrate": ("search.cli.calibrate", "calibrate_command"),
    "workloads": ("search.cli.lists", "workloads_command"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None = the process's own.

    Returns:
        The exit code.
    """
    parsed = build_parser().parse_args(arguments)
    module, function = _COMMANDS[parsed.command]
    try:
        code = int(getattr(importlib.import_module(module), function)(parsed))
        sys.stdout.flush()
    except SearchError as error:
        sys.stderr.write(f"search: error: {error}\n")
        is_of_request = isinstance(error, InvalidRequest | StorageLost)
        return EXIT_INVALID if is_of_request else EXIT_BROKEN
    except BrokenPipeError:
        # `search front | head`: the reader has enough. Python must not try to flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("search: interrupted\n")
        return EXIT_INTERRUPTED
    return code


def run() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a star still gets its table.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(main())
