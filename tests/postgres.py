"""A real PostgreSQL for tests: its files and its socket are in a folder of theirs."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["postgres_server"]


def _binaries() -> Path | None:
    """Where initdb and postgres are: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """The URL of an empty database; skips, with the reason, where there is no PostgreSQL.

    Args:
        folder: an empty one, with a short path: a socket's may have about 100 letters.
    """
    pytest.importorskip("psycopg2", reason="the extra `postgres` is not installed")
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here: no initdb on the path nor in /usr/lib/postgresql")
    # PostgreSQL refuses to run as root.
    user = _other_user() if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"

    def run(program: str, *arguments: str) -> None:
        with log.open("a") as said:
            done = subprocess.run(
                [str(binaries / program), *arguments],
                user=user,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
            )
        assert done.returncode == 0, log.read_text()

    run("initdb", f"--pgdata={data}", "--auth=trust", "--username=tester", "--no-sync")
    settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "start", "--wait", f"--pgdata={data}", "-o", settings)
    try:
        yield f"postgresql+psycopg2://tester@/postgres?host={folder}"
    finally:
        run("pg_ctl", "stop", "--mode=immediate", f"--pgdata={data}")


def _other_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
