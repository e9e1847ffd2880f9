"""Studies as jobs of a Ray cluster: sent, followed, looked at and stopped over its job server.

The driver then runs on the cluster and outlives the terminal that sent it. What it records is an
ordinary study in a folder all nodes see, so nothing else of the product knows of jobs.
"""

import asyncio
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from search.engines.ray import cluster  # noqa: F401 -- settles how Ray is imported
from spaces import InvalidRequest, StudyBroken

try:
    import aiohttp
    from ray.job_submission import JobDetails, JobSubmissionClient
except ImportError as error:
    raise InvalidRequest(
        "jobs on a Ray cluster need the extra `ray`: pip install 'compression-search[ray]' "
        f"({error})"
    ) from None

__all__ = ["Job", "JobServer"]

# They report uploads and how a connection closed, in the middle of what the job prints.
for _chatty in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
    logging.getLogger(f"ray.{_chatty}").setLevel(logging.WARNING)
logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CONNECT_S = 5.0
#: A stopped driver gets SIGTERM and, by default 3 s later, SIGKILL; both leave the record whole.
STOP_S = 30.0
POLL_S = 0.5
_STUDY, _STORAGE = "search_study", "search_storage"


@dataclass(frozen=True)
class Job:
    """One job of ours.

    Attributes:
        name: on the job server.
        study, storage: what it runs, and where the record is.
        status: Ray's word, in lower case: pending, running, stopped, succeeded, failed.
        message: what Ray says of it.
        exit_code: of the driver; None before it ended, or if it was killed with its node.
        started_at, ended_at: seconds since the epoch; None before.
    """

    name: str
    study: str
    storage: str
    status: str
    message: str
    exit_code: int | None
    started_at: float | None
    ended_at: float | None

    @property
    def is_over(self) -> bool:
        """Whether its driver has ended."""
        return self.status in ("stopped", "succeeded", "failed")


class JobServer:
    """The job server of one cluster, at the address of its dashboard."""

    def __init__(self, address: str | None = None) -> None:
        """Connect.

        Args:
            address: http://HOST:PORT; None takes $RAY_API_SERVER_ADDRESS, else this machine's.

        Raises:
            InvalidRequest: it is no such address, nothing answers, or it is no job server.
        """
        self.address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
        _check(self.address)
        try:
            self._client = JobSubmissionClient(self.address)
        except Exception as error:  # Ray's errors here share no base
            raise InvalidRequest(
                f"--address {self.address}: no job server of Ray: {_line(error)}"
            ) from None

    def submit(
        self, arguments: Sequence[str], study: str, storage: str, working_dir: Path | None
    ) -> str:
        """Start `search ARGUMENTS` on the cluster.

        Args:
            arguments: of the command line there, from the command on.
            study, storage: what it will run, for `jobs`.
            working_dir: uploaded, and the job starts in it.

        Returns:
            The job's name.

        Raises:
            InvalidRequest: the cluster refuses it.
        """
        taken = {job.name for job in self.jobs()}
        name = next(
            name
            for name in (f"search-{study}", *(f"search-{study}-{i}" for i in range(2, 10_000)))
            if name not in taken
        )
        environment: dict[str, Any] = {"env_vars": {"RAY_USAGE_STATS_ENABLED": "0"}}
        if working_dir is not None:
            environment["working_dir"] = str(working_dir)
        try:
            self._client.submit_job(
                entrypoint=shlex.join(["python", "-m", "search.cli", *arguments]),
                submission_id=name,
                runtime_env=environment,
                metadata={_STUDY: study, _STORAGE: storage},
            )
        except Exception as error:  # as above
            raise InvalidRequest(
                f"--address {self.address}: the job was refused: {_line(error)}"
            ) from None
        return name

    def jobs(self) -> list[Job]:
        """Ours, the latest first."""
        try:
            found = [_job(details) for details in self._client.list_jobs()]
        except Exception as error:  # as above
            raise StudyBroken(f"{self.address} does not answer any more: {_line(error)}") from None
        ours = [job for job in found if job is not None]
        return sorted(ours, key=lambda job: job.started_at or 0.0, reverse=True)

    def find(self, name: str | None) -> Job:
        """The latest job of a study, or of that name; None = the latest of all.

        Raises:
            InvalidRequest: there is none.
        """
        jobs = self.jobs()
        for job in jobs:
            if name in (None, job.study, job.name):
                return job
        known = ", ".join(job.name for job in jobs[:10]) or "none"
        wanted = "no job of a study" if name is None else f"no study or job {name!r}"
        raise InvalidRequest(f"{wanted} at {self.address}; its jobs: {known}")

    def logs(self, name: str) -> str:
        """All that the driver has printed so far."""
        try:
            return str(self._client.get_job_logs(name))
        except Exception as error:  # as above
            raise StudyBroken(f"{self.address} does not answer any more: {_line(error)}") from None

    def follow(self, name: str, show: Callable[[str], None]) -> Job:
        """Pass on what the driver prints until it ends.

        Raises:
            StudyBroken: the connection is lost. The job goes on.
        """

        async def tail() -> None:
            async for lines in self._client.tail_job_logs(name):
                show(lines)

        try:
            asyncio.run(tail())
        except (RuntimeError, aiohttp.ClientError, OSError) as error:
            raise StudyBroken(
                f"lost sight of job {name}, which goes on: {_line(error)}; "
                f"look again with: search status {name} --address {self.address} --follow"
            ) from None
        return self._ended(name)

    def stop(self, name: str) -> Job:
        """End a job's driver, and wait for it. What it recorded stays."""
        try:
            self._client.stop_job(name)
        except Exception as error:  # as above
            raise StudyBroken(f"cannot stop job {name}: {_line(error)}") from None
        return self._ended(name)

    def _ended(self, name: str) -> Job:
        """The job once its status says that it ended; as it is after `STOP_S`."""
        until = time.monotonic() + STOP_S
        while not (job := self.find(name)).is_over and time.monotonic() < until:
            time.sleep(POLL_S)
        return job


def _check(address: str) -> None:
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
        raise InvalidRequest(
            "--address must be that of the cluster's dashboard, http://HOST:PORT (usually port "
            f"8265), but got {address!r}"
        )
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise InvalidRequest(
            f"--address {address}: nothing answers there: {error}; `ray start --head "
            "--include-dashboard=true` prints the address of a cluster's dashboard"
        ) from None


def _job(details: JobDetails) -> Job | None:
    """None for a job that is not ours."""
    metadata = details.metadata or {}
    if _STUDY not in metadata or details.submission_id is None:
        return None
    return Job(
        name=details.submission_id,
        study=metadata[_STUDY],
        storage=metadata.get(_STORAGE, ""),
        status=str(details.status.value).lower(),
        message=_line(details.message or ""),
        exit_code=details.driver_exit_code,
        started_at=None if details.start_time is None else details.start_time / 1000,
        ended_at=None if not details.end_time else details.end_time / 1000,
    )


def _line(what: object) -> str:
    return " ".join(str(what).split())[:500] or type(what).__name__
