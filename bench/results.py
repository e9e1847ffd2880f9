"""How every bench writes its results: NAME.json for programs, NAME.md for people."""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["cpu", "today", "write_results"]

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("numpy", "optuna", "torch", "numba")


def write_results(
    name: str,
    title: str,
    command: str,
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> None:
    """Write and print one table.

    Args:
        name: of the files.
        title: of the table.
        command: makes it again.
        rows: the same keys in each; units in the keys.
        notes: sentences a reader needs.
    """
    FOLDER.mkdir(exist_ok=True)
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    about = {
        "command": command,
        "date": today(),
        "machine": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "blas_threads": os.environ.get("OMP_NUM_THREADS"),  # see bench/__init__
            "system": f"{platform.system()} {platform.machine()}",
            "load_1min": round(os.getloadavg()[0], 1),
        },
        "versions": {"python": platform.python_version(), **versions},
    }
    data = {"title": title, **about, "notes": list(notes), "rows": [dict(row) for row in rows]}
    (FOLDER / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    table = _markdown(rows)
    machine = about["machine"]
    assert isinstance(machine, dict)
    described = (
        f"{machine['cores']} cores, {machine['cpu']}, BLAS in {machine['blas_threads']} thread(s), "
        f"load {machine['load_1min']} at the end"
    )
    shown = ", ".join(
        f"{key} {value}" for key, value in {"python": platform.python_version(), **versions}.items()
    )
    page = [
        f"# {title}",
        "",
        f"`{command}`, {about['date']}: {described}; {shown}.",
        "",
        *table,
        "",
        *(f"- {note}" for note in notes),
    ]
    (FOLDER / f"{name}.md").write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")
    print("\n".join(page))


def today() -> str:
    """The date, for rows that may be older than their table."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["no rows"]
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    return lines + ["| " + " | ".join(_cell(row.get(key)) for key in keys) + " |" for row in rows]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


#: What decides how fast integers and halves are, the most telling first, as Linux names it.
_INSTRUCTIONS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}


def cpu() -> str:
    """Name and instructions: machines of one name in a cloud differ by twice in the latter."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()

    def value(key: str) -> str:
        return next((x.partition(":")[2].strip() for x in lines if x.startswith(key)), "")

    flags = set(value("flags").split())
    best = next((word for flag, word in _INSTRUCTIONS.items() if flag in flags), "")
    return f"{value('model name')} ({best})" if best else value("model name")
