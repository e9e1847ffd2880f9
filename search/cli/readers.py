"""Commands that only read a record: `front`, `show`, `report`."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from search.cli.screen import front_table, make_console, print_answer, trial_details
from search.cli.text import secondary_text
from search.location import StudyLocation
from search.naming import find_trial, storage_flag, trial_name
from search.record import RecordReader
from search.session import Answer, answer_of
from spaces import Certificate, Front, InvalidRequest, Reading, Trial

__all__ = [
    "answer_json",
    "front_command",
    "open_reader",
    "report_command",
    "show_command",
    "write_study_report",
]


def open_reader(storage: str, study: str | None) -> RecordReader:
    """A study's record; the latest without a name."""
    if study is None:
        return RecordReader.open(StudyLocation.latest(storage))
    return RecordReader.open(StudyLocation(storage, study))


def answer_json(record: RecordReader, answer: Answer) -> dict[str, Any]:
    """The answer for scripts."""
    spec, judge = record.spec, record.judge
    front = answer.front

    def row(trial: Trial) -> dict[str, Any]:
        values = trial.measurement
        assert values is not None
        return {
            "trial": trial_name(trial, spec.full_fidelity, spec.fidelity),
            "metric": values.metric,
            "metric_se": values.metric_se,
            "secondary": _plain(values.secondary),
            "size_bytes": values.size_bytes,
            "download_bytes": values.download_bytes,
            "latency_ms": values.latency.median_ms,
            "latency_source": values.latency.source,
            "sha256": values.sha256,
            "test": dict(answer.test_scores.get(trial.identity.key, {})) or None,
            "origin": trial.origin,
            "policy": trial.policy.to_dict(),
        }

    profile = record.profile
    result: dict[str, Any] = {
        "study": spec.name,
        "storage": record.location.place,
        "spec": spec.to_dict(),
        "baseline": {
            "metric": profile.baseline_metric,
            "metric_se": profile.baseline_metric_se,
            "secondary": _plain(profile.baseline_secondary),
            "fp32_bytes": profile.fp32_bytes,
            "size_bytes": profile.baseline_size_bytes,
            "latency_ms": profile.baseline_latency_ms,
            "latency_source": profile.latency_source,
        },
        "trials": len(record.trials()),
        "finalists": len(record.finalists()),
        "fidelity": front.fidelity,
        "feasible": front.feasible,
        "hypervolume": front.hypervolume,
        "front": [row(trial) for trial in front.members],
        "pick": row(front.pick) if front.pick else None,
        "pick_optimism": answer.optimism,
    }
    if answer.certificate is not None:
        certificate: Certificate = answer.certificate
        result["certificate"] = {
            "closest": row(certificate.closest) if certificate.closest else None,
            "excess": certificate.excess,
            "bottleneck": [list(pair) for pair in certificate.bottleneck],
            "smallest": [row(trial) for trial in certificate.smallest],
            "fastest": [row(trial) for trial in certificate.fastest],
        }
    result["reference_point"] = judge.reference.tolist()
    return result


def _plain(readings: Mapping[str, Reading]) -> dict[str, dict[str, float]]:
    return {name: asdict(reading) for name, reading in readings.items()}


def front_command(arguments: argparse.Namespace) -> int:
    """`search front`."""
    record = open_reader(arguments.storage, arguments.study)
    spec, judge = record.spec, record.judge
    answer = answer_of(record)
    if arguments.at != "answer":
        at_full = arguments.at == "full"
        trials = record.finalists() if at_full else record.trials()
        if at_full and not trials:
            raise InvalidRequest(f"--at full: {spec.name} has no finalists yet")
        fidelity = spec.full_fidelity if at_full else spec.fidelity
        front = Front.of(trials, judge, fidelity)
        certificate = None if front.members else Certificate.of(trials, judge, fidelity)
        answer = Answer(front, judge, answer.test_scores, certificate)
    if arguments.json:
        sys.stdout.write(json.dumps(answer_json(record, answer)) + "\n")
    elif answer.front.members and arguments.at != "answer":
        make_console().print(front_table(answer.front, judge, spec, answer.test_scores))
    else:
        print_answer(make_console(), answer, spec)
    return 0


def show_command(arguments: argparse.Namespace) -> int:
    """`search show TRIAL`."""
    record = open_reader(arguments.storage, arguments.study)
    trial = find_trial(record, arguments.trial)
    if arguments.json:
        sys.stdout.write(trial.to_json() + "\n")
        return 0
    spec = record.spec
    title = f"{spec.name} #{trial_name(trial, spec.full_fidelity, spec.fidelity)}"
    trial_details(make_console(), trial, record.judge, title)
    scores = record.test_scores().get(trial.identity.key)
    if scores:
        shown = escape(record.judge.metric.format(scores["metric"]))
        read = {name: Reading(**each) for name, each in scores.get("secondary", {}).items()}
        further = secondary_text(spec.secondary, read)
        shown += f", {escape(further)}" if further else ""
        make_console().print(f"\n{shown} on the test split", highlight=False)
    return 0


def report_command(arguments: argparse.Namespace) -> int:
    """`search report`."""
    record = open_reader(arguments.storage, arguments.study)
    path = Path(arguments.out) if arguments.out else record.location.folder / "report.html"
    try:
        written = write_study_report(record, path)
    except OSError as error:
        raise InvalidRequest(f"--out {path}: cannot be written: {error.strerror}") from None
    if arguments.json:
        sys.stdout.write(json.dumps({"report": str(written)}) + "\n")
    else:
        sys.stdout.write(f"{written}\n")
    return 0


def write_study_report(record: RecordReader, path: Path) -> Path:
    """Write the HTML report of what a record holds.

    Raises:
        OSError: the file cannot be written.
    """
    from dashboards.report import ReportInput, write_report  # noqa: PLC0415 -- pandas and plotly

    spec = record.spec
    name, where = spec.name, storage_flag(record.location.place)
    commands = (
        ("Export the pick", f"search export --study {name}{where} --pick best"),
        ("Look at a trial", f"search show 0 --study {name}{where}"),
        ("Ask for more trials", f"search resume {name}{where} --trials {2 * spec.trials}"),
    )
    report = ReportInput(
        spec=spec,
        profile=record.profile,
        judge=record.judge,
        trials=tuple(record.trials()),
        finalists=tuple(record.finalists()),
        test_scores=record.test_scores(),
        optimism=record.optimism(),
        notes=spec.notes,
        commands=commands,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(path, report)
    return path
