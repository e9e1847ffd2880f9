"""What a link saves: a trial's file, its policy, its manifest, and the trials as CSV.

Every name in these URLs is looked up in the record; none becomes part of a path. A file is found by
the hash that its trial recorded, must lie in the study's artifact folder, and must still have that
hash.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from flask import Flask, Response, request

from dashboards import tables
from dashboards.app.library import Library, Snapshot
from dashboards.app.trials import find
from dashboards.text import plain
from search.artifacts import Content, digest, exists, read_content
from search.manifest import manifest_of
from search.naming import storage_flag
from spaces import SearchError, Trial

__all__ = ["add_downloads", "csv_path", "file_path"]

_HASH = re.compile(r"[0-9a-f]{64}")
_FORMAT = re.compile(r"[a-z0-9]{1,16}")


def file_path(study: str, trial: str, what: str) -> str:
    """`what` is "file", "policy.json" or "manifest.json"."""
    return f"/download/{quote(study, safe='')}/{quote(trial, safe='@')}/{what}"


def csv_path(study: str) -> str:
    """Every trial and finalist."""
    return f"/download/{quote(study, safe='')}/trials.csv"


def add_downloads(server: Flask, library: Library) -> None:
    """Add the routes, after `access.protect`, which guards them like every other."""

    def asked(study: str, name: str) -> tuple[Snapshot, Trial] | Response:
        try:
            snapshot = library.get(study)
        except SearchError as error:
            return _refuse(str(error))
        trial = find(snapshot, name)
        if trial is None or trial.measurement is None:
            return _refuse(f"{study} has no finished trial {name}")
        return snapshot, trial

    @server.get("/download/<study>/<trial>/file")
    def file(study: str, trial: str) -> Response:
        found = asked(study, trial)
        return found if isinstance(found, Response) else _file(found[0], trial, found[1])

    @server.get("/download/<study>/<trial>/policy.json")
    def policy(study: str, trial: str) -> Response:
        found = asked(study, trial)
        if isinstance(found, Response):
            return found
        text = json.dumps(found[1].policy.to_dict(), indent=2) + "\n"
        return _save(text.encode(), f"{_stem(found[0], trial)}-policy.json", "application/json")

    @server.get("/download/<study>/<trial>/manifest.json")
    def manifest(study: str, trial: str) -> Response:
        found = asked(study, trial)
        if isinstance(found, Response):
            return found
        snapshot, what = found
        text = json.dumps(_manifest(snapshot, what), indent=2)
        return _save(text.encode(), f"{_stem(snapshot, trial)}.json", "application/json")

    @server.before_request
    def nothing() -> Response | None:
        is_one = request.path.startswith("/download/") and "study" not in (request.view_args or {})
        # Dash would answer with its page.
        return _refuse(f"there is nothing to save at {request.path}") if is_one else None

    @server.get("/download/<study>/trials.csv")
    def trials(study: str) -> Response:
        try:
            snapshot = library.get(study)
        except SearchError as error:
            return _refuse(str(error))
        everything = pd.concat([snapshot.table, snapshot.final_table], ignore_index=True)
        return _save(tables.to_csv(everything).encode(), f"{snapshot.name}-trials.csv", "text/csv")


def _manifest(snapshot: Snapshot, trial: Trial) -> dict[str, Any]:
    test = snapshot.test_scores.get(trial.identity.key)
    return manifest_of(snapshot.spec, snapshot.profile, trial, test)


def _stem(snapshot: Snapshot, name: str) -> str:
    return f"{snapshot.name}-{name.replace('@', '-')}"


def _file(snapshot: Snapshot, name: str, trial: Trial) -> Response:
    assert trial.measurement is not None
    sha256, kind = trial.measurement.sha256, trial.identity.artifact_format
    # A record may come from anywhere: its hash and its format become part of a path only as such.
    if not _HASH.fullmatch(sha256) or not _FORMAT.fullmatch(kind):
        return _refuse(f"the record of {snapshot.name} gives trial {name} no valid file")
    folder = snapshot.location.artifacts_dir.resolve()
    path = folder / f"{sha256}.{kind}"
    content = _read(path, folder)
    if content is None:
        flag = storage_flag(snapshot.location.place)
        return _refuse(
            f"the file of trial {name} was not kept; make it again with: "
            f"search export --study {snapshot.name}{flag} --pick {name}"
        )
    if digest(content) != sha256:
        return _refuse(f"{path.name} was changed after it was measured; it is not served")
    file = f"{_stem(snapshot, name)}.{kind}"
    if "" in content:
        return _save(content[""], file, "application/octet-stream")
    return _save(_zipped(content, file), f"{file}.zip", "application/zip")


def _read(path: Path, folder: Path) -> Content | None:
    """None when there is no such file, or when it is a link to somewhere else."""
    if path.resolve().parent != folder or not exists(path):
        return None
    return read_content(path)


def _zipped(content: Content, folder: str) -> bytes:
    """A package, which is a folder, as one download."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(content):
            archive.writestr(f"{folder}/{name}", content[name])
    return buffer.getvalue()


def _save(data: bytes, name: str, mimetype: str) -> Response:
    response = Response(data, mimetype=mimetype)
    # Study names are letters, digits and ._-, but a record's own name may say anything.
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:120]
    response.headers["Content-Disposition"] = f'attachment; filename="{safe}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _refuse(words: str) -> Response:
    return Response(f"{plain(words)}\n", status=404, mimetype="text/plain")
