"""Which parts of a bench a user asks for, and the studies of the product that parts begin with."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["chosen", "search"]


def chosen(variable: str, allowed: Sequence[str]) -> list[str]:
    """The names in an environment variable, with commas between; all where it is empty.

    Raises:
        SystemExit: a name that is not allowed.
    """
    asked = [name for name in os.environ.get(variable, "").split(",") if name]
    for name in asked:
        if name not in allowed:
            known = ", ".join(allowed)
            raise SystemExit(f"{variable} must be of {known}, but got {name!r}")
    return asked or list(allowed)


def search(folder: Path, study: str, request: Sequence[str]) -> None:
    """Start a study by the product's own command line, or go on with it.

    Args:
        folder: the storage.
        study: its name.
        request: what follows `search run`, but for name and storage.

    Raises:
        SystemExit: the command failed; exit code 3, a budget that is not met, is an answer.
    """
    place = ["--storage", str(folder)]
    if (folder / study).exists():
        arguments = ["resume", study, *place]
    else:
        arguments = ["run", *request, "--study", study, *place]
    code = subprocess.run([sys.executable, "-m", "search.cli", *arguments], check=False).returncode
    if code not in (0, 3):
        raise SystemExit(f"search {' '.join(arguments)} ended with exit code {code}")
