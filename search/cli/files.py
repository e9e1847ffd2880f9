"""Commands about files: `export` and `verify`."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evaluators import tasks
from evaluators.artifacts.files import (
    Content,
    digest,
    exists,
    read_content,
    remove,
    write_content,
)
from evaluators.formats import FORMATS, check_installed
from evaluators.messages import WorkerContext
from search.analysis import knee
from search.cli.readers import open_reader
from search.cli.text import latency_text, metric_text
from search.engines import InProcessEngine
from search.kept import KeptFiles
from search.loaders import loader_of
from search.manifest import manifest_of
from search.naming import find_trial, trial_name
from search.record import RecordReader
from search.session import answer_of, check_network, worker_context
from spaces import Failure, Front, InvalidRequest, StudyBroken, Trial

__all__ = ["export_command", "export_trial", "manifest_path", "verify_command"]

EXIT_MISMATCH = 1


def manifest_path(file: Path) -> Path:
    """`best.packed` -> `best.packed.json`."""
    return file.with_name(f"{file.name}.json")


def loader_path(file: Path) -> Path:
    """`best.onnx` -> `best.onnx.load.py`."""
    return file.with_name(f"{file.name}.load.py")


def export_command(arguments: argparse.Namespace) -> int:
    """`search export`."""
    record = open_reader(arguments.storage, arguments.study)
    trial = _picked(record, arguments.pick)
    spec = record.spec
    name = trial_name(trial, spec.full_fidelity, spec.fidelity).replace("@", "-")
    artifact_format = arguments.format or spec.artifact_format
    out = Path(arguments.out or f"{spec.name}-{name}.{artifact_format}")
    try:
        if artifact_format == spec.artifact_format:
            manifest = export_trial(record, trial, out)
        else:
            trial, content = _in_format(record, trial, artifact_format)
            changed = replace(spec, artifact_format=artifact_format)
            # Test scores are those of the study's own file.
            manifest = _write_export(
                content, manifest_of(changed, record.profile, trial, None), out
            )
    except OSError as error:
        raise InvalidRequest(f"--out {out}: cannot be written: {error.strerror}") from None
    if arguments.json:
        sys.stdout.write(json.dumps({"file": str(out), **manifest}) + "\n")
    else:
        assert trial.measurement is not None
        metric = metric_text(spec.metric, trial.measurement.metric, trial.measurement.metric_se)
        sys.stdout.write(
            f"{out}: {trial.measurement.size_bytes:,} bytes, {metric}, "
            f"{latency_text(trial.measurement)}\n{manifest_path(out)}: its manifest\n"
            f"{loader_path(out)}: loads it\n"
        )
    return 0


def _picked(record: RecordReader, which: str) -> Trial:
    front: Front = answer_of(record).front
    if which not in ("best", "smallest", "fastest", "knee"):
        trial = find_trial(record, which, "--pick")
        if trial.measurement is None:
            raise InvalidRequest(f"--pick {which}: that trial failed: {trial.outcome}")
        return trial
    if not front.members or front.pick is None:
        raise InvalidRequest(
            f"--pick {which}: nothing in {record.spec.name} is within the budget; pick a trial by "
            "its number (`search front` lists the nearest)"
        )
    if which == "best":
        return front.pick
    if which == "smallest":
        return front.members[0]
    if which == "knee":
        return knee(front.members, record.judge)
    return min(front.members, key=lambda t: t.measurement.latency.median_ms if t.measurement else 0)


def export_trial(record: RecordReader, trial: Trial, out: Path) -> dict[str, Any]:
    """Write a trial's file and its manifest; a file that was not kept is made again.

    Returns:
        The manifest.

    Raises:
        OSError: `out` cannot be written.
        StudyBroken: the file is not the one that was measured, or cannot be made again.
    """
    values, spec = trial.measurement, record.spec
    assert values is not None
    kept = KeptFiles(record.judge, record.location.artifacts_dir, spec.artifact_format)
    source = kept.path(values.sha256)
    content = read_content(source) if exists(source) else _made_again(record, trial)
    found = digest(content)
    if found != values.sha256:
        raise StudyBroken(
            f"{source} was changed after it was measured: its sha256 is {found}; remove it, and "
            "it is made again"
        )
    test = record.test_scores().get(trial.identity.key)
    return _write_export(content, manifest_of(spec, record.profile, trial, test), out)


def _write_export(content: Content, manifest: dict[str, Any], out: Path) -> dict[str, Any]:
    """The file, its manifest and its loader; gives the manifest.

    Raises:
        OSError: `out` cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(out, content)
    text = (json.dumps(manifest, indent=2) + "\n").encode()
    _write_whole(manifest_path(out), {"": text})
    _write_whole(loader_path(out), {"": loader_of(manifest["format"], out.name).encode()})
    return manifest


def _write_whole(path: Path, content: Content) -> None:
    """Never a half-written file or package under this name, whenever the process dies.

    Raises:
        InvalidRequest: a folder that is no package of ours is in the way.
        OSError: it cannot be written.
    """
    path = path.resolve()  # of a link the file it leads to
    is_package = "" not in content
    if path.is_dir():
        if not (is_package and (path / "Manifest.json").is_file()):
            raise InvalidRequest(f"--out {path} must not be an existing folder, but is one")
        remove(path)
    elif path.exists() and not path.is_file() and not is_package:
        path.write_bytes(content[""])  # /dev/stdout is written to, not replaced
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write_content(partial, content)
        partial.replace(path)
    finally:
        remove(partial)


def _made_again(record: RecordReader, trial: Trial) -> Content:
    """A trial's file from its identity. Not among the kept ones: a driver may be at work there."""
    assert trial.measurement is not None
    engine = InProcessEngine()
    context = worker_context(record.spec, record.location, record.profile)
    with tempfile.TemporaryDirectory(prefix="search-export-") as folder:
        engine.configure(tasks.setup, replace(context, artifacts_dir=folder, store=""))
        check_network(record, engine)
        outcome = engine.submit(tasks.evaluate, trial.identity, trial.policy).result()
        sha256 = getattr(outcome, "sha256", None)
        if sha256 == trial.measurement.sha256:
            return read_content(next(Path(folder).glob(f"{sha256}.*")))
    raise StudyBroken(
        f"trial {trial.number} made again gave another file ({sha256 or outcome}); this "
        "machine or these library versions compute differently from those that measured it"
    )


def _in_format(record: RecordReader, trial: Trial, artifact_format: str) -> tuple[Trial, Content]:
    """A trial made again as a file of another format, with what that file is worth.

    Raises:
        InvalidRequest: the format is not installed, or cannot hold the trial's policy.
    """
    check_installed(artifact_format)
    engine = InProcessEngine()
    spec = replace(record.spec, artifact_format=artifact_format)
    context = worker_context(spec, record.location, None)
    identity = replace(trial.identity, artifact_format=artifact_format)
    with tempfile.TemporaryDirectory(prefix="search-export-") as folder:
        context = replace(context, artifacts_dir=folder, store="")
        engine.configure(tasks.setup, context)
        check_network(record, engine)
        # A latency is a ratio to the baseline's in the same runtime.
        profile = engine.submit(tasks.make_profile).result().profile
        engine.configure(tasks.setup, replace(context, profile=profile))
        outcome = engine.submit(tasks.evaluate, identity, trial.policy).result()
        if isinstance(outcome, Failure):
            raise InvalidRequest(f"--format {artifact_format}: {outcome}")
        content = read_content(next(Path(folder).glob(f"{outcome.sha256}.*")))
    return replace(trial, identity=identity, outcome=outcome), content


def verify_command(arguments: argparse.Namespace) -> int:
    """`search verify FILE`: exit 0 if the manifest is true to the last byte and sample."""
    file = Path(arguments.file)
    manifest = _read_manifest(file, arguments.workload)
    engine = InProcessEngine()
    context = WorkerContext(
        workload=arguments.workload or manifest["workload"],
        target="host",  # none is needed: nothing is timed
        artifact_format=_format_of(file, manifest),
        artifacts_dir=str(file.parent),
        device="cpu",
    )
    engine.configure(tasks.setup, context)
    found = engine.submit(tasks.verify, str(file)).result()
    metric = manifest.get("metric", {})
    checks = {
        "size_bytes": (found.size_bytes, manifest.get("size_bytes")),
        "sha256": (found.sha256, manifest.get("sha256")),
        "validation": (found.metric, metric.get("validation")),
        "samples": (found.metric_samples, metric.get("samples")),
    }
    for said in _secondary_of(file, manifest):
        reading = found.secondary.get(said["name"])
        checks[said["name"]] = (reading.value if reading else None, said["validation"])
    wrong = [name for name, (is_now, said) in checks.items() if said not in (None, is_now)]
    compared = any(said is not None for _, said in checks.values())
    if arguments.json:
        result = {"file": str(file), **asdict(found), "compared": compared, "differs": wrong}
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        verdict = "equal to its manifest" if compared else "no manifest to compare with"
        for name in wrong:
            sys.stdout.write(
                f"{name}: the manifest says {checks[name][1]}, it is {checks[name][0]}\n"
            )
        name = metric.get("name", "metric")
        sys.stdout.write(
            f"{file}: {found.size_bytes:,} bytes, {name} {found.metric:.6g} "
            f"± {found.metric_se:.2g} on {found.metric_samples:,} validation samples; "
            f"{'DIFFERS from its manifest' if wrong else verdict}\n"
        )
    return EXIT_MISMATCH if wrong else 0


def _secondary_of(file: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a manifest says beside the metric; [] of one from before there was anything.

    Raises:
        InvalidRequest: it is no list of names with figures.
    """
    entries = manifest.get("secondary", [])
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and "validation" in entry
        for entry in entries
    ):
        raise InvalidRequest(
            f"verify: {manifest_path(file)} is not a manifest: secondary is no list of figures"
        )
    return entries


def _format_of(file: Path, manifest: Mapping[str, Any]) -> str:
    """What the manifest says, else what the file's name does.

    Raises:
        InvalidRequest: neither names a format that can be read here.
    """
    name = manifest.get("format", file.suffix.removeprefix("."))
    if name not in FORMATS:
        raise InvalidRequest(
            f"verify: the format of {file} must be one of {', '.join(FORMATS)}, but got {name!r}"
        )
    check_installed(name)
    return str(name)


def _read_manifest(file: Path, workload: str | None) -> dict[str, Any]:
    if not exists(file):
        raise InvalidRequest(f"verify: there is no file {file}")
    beside = manifest_path(file)
    if not beside.is_file():
        if workload is not None:
            return {}
        raise InvalidRequest(f"verify: {beside} is missing; name the network with --workload")
    try:
        manifest = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"verify: {beside} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("workload"), str):
        raise InvalidRequest(f"verify: {beside} is not a manifest: it names no workload")
    if not isinstance(manifest.get("metric", {}), dict):
        raise InvalidRequest(f"verify: {beside} is not a manifest: its metric is no table")
    return manifest
