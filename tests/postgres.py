"""A real PostgreSQL for tests: its files and its socket are in a folder of theirs."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Postgres", "postgres", "postgres_server"]


def _binaries() -> Path | None:
    """Where initdb and postgres are: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


@dataclass(frozen=True)
class Postgres:
    """A server, running when it is given.

    Attributes:
        binaries: where its programs are.
        folder: of its files and its socket.
        user: who runs it; None = whoever runs the test.
    """

    binaries: Path
    folder: Path
    user: str | None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg2://tester@/postgres?host={self.folder}"

    @property
    def _data(self) -> str:
        return f"--pgdata={self.folder / 'data'}"

    def make(self) -> None:
        """An empty database."""
        self._run("initdb", self._data, "--auth=trust", "--username=tester", "--no-sync")

    def start(self) -> None:
        """It answers when this returns."""
        # fsync stays on: a server that is stopped at once must keep what it said it has.
        settings = f"-c listen_addresses='' -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "start", "--wait", self._data, "-o", settings)

    def stop(self) -> None:
        """At once, as in a crash: nothing is flushed, sessions are cut off."""
        self._run("pg_ctl", "stop", "--mode=immediate", self._data)

    def _run(self, program: str, *arguments: str) -> None:
        log = self.folder / "log"
        with log.open("a") as said:
            done = subprocess.run(
                [str(self.binaries / program), *arguments],
                user=self.user,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
            )
        assert done.returncode == 0, log.read_text()


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A server with an empty database; skips, with the reason, where there is no PostgreSQL.

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
    server = Postgres(binaries, folder, user)
    server.make()
    server.start()
    try:
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """The URL of `postgres`."""
    with postgres(folder) as server:
        yield server.url


def _other_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
