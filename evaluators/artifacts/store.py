"""Files in an S3 bucket, for workers that share no folder with the driver.

    worker: file -> put(name, content)          driver: get(name), for those that stay; remove(name)

The transport is Optuna's artifact store, so that any of its S3-compatible services will do: boto3
reads endpoint and credentials from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
Needs the extra `s3`. An object is a tar of what is one file, or a package's several.
"""

import io
import re
import tarfile
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from evaluators.artifacts.files import MAX_BYTES, MAX_FILES, Content
from spaces import InvalidRequest, StorageLost, StudyBroken

__all__ = ["FileStore", "check_url", "open_store"]

T = TypeVar("T")

_URL = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9.-]{1,62})(?:/([^?#]*))?")
_PROBE = "is-it-there"
CONNECT_S, READ_S, ATTEMPTS = 5, 60, 2


def check_url(url: str) -> None:
    """Refuse a malformed address.

    Raises:
        InvalidRequest: it is none of a bucket.
    """
    if not _URL.fullmatch(url):
        raise InvalidRequest(
            f"--artifacts must be s3://BUCKET or s3://BUCKET/PREFIX, but got {url!r}"
        )


class FileStore:
    """Objects of one bucket under one prefix."""

    def __init__(self, url: str) -> None:
        """Args: url: s3://BUCKET/PREFIX.

        Raises:
            InvalidRequest: it is malformed, or the extra is missing.
        """
        check_url(url)
        self.url = url
        matched = _URL.fullmatch(url)
        assert matched is not None
        prefix = (matched[2] or "").strip("/")
        self._bucket, self._prefix = matched[1], prefix and f"{prefix}/"
        try:
            import boto3  # noqa: PLC0415 -- the extra `s3`
            from botocore.config import Config  # noqa: PLC0415
            from botocore.exceptions import ConnectionError as NoConnection  # noqa: PLC0415
            from botocore.exceptions import HTTPClientError  # noqa: PLC0415
            from optuna.artifacts import Boto3ArtifactStore  # noqa: PLC0415
        except ImportError as error:
            raise InvalidRequest(
                f"--artifacts {url} needs the extra `s3`: pip install 'compression-search[s3]' "
                f"({error})"
            ) from None
        config = Config(
            connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": ATTEMPTS}
        )

        def connect() -> Any:
            return boto3.client("s3", config=config)

        self._no_answer: tuple[type[Exception], ...] = (HTTPClientError, NoConnection)
        self._client = self._answer(connect, "be used")
        self._store = Boto3ArtifactStore(self._bucket, client=self._client)

    def check(self) -> None:
        """Write, read and remove something small, before anything depends on it.

        Raises:
            InvalidRequest: the bucket cannot be used from here.
        """
        try:
            self.put(_PROBE, {"": b"yes"})
            self.get(_PROBE)
            self.remove(_PROBE)
        except StudyBroken as error:
            raise InvalidRequest(str(error)) from None

    def put(self, name: str, content: Content) -> None:
        """Write a file; an object appears whole or not at all.

        Raises:
            StudyBroken: the store does not answer, or refuses.
        """
        body = io.BytesIO(_packed(content))
        self._answer(lambda: self._store.write(self._prefix + name, body), f"take {name}")

    def get(self, name: str) -> Content:
        """Read a file.

        Raises:
            StudyBroken: the store does not answer, or has no such file.
        """
        return _unpacked(
            self._answer(
                lambda: self._store.open_reader(self._prefix + name).read(), f"give {name}"
            ),
            f"{self.url}: {name}",
        )

    def remove(self, name: str) -> None:
        """Delete a file, if it is there.

        Raises:
            StudyBroken: the store does not answer, or refuses.
        """
        self._answer(lambda: self._store.remove(self._prefix + name), f"remove {name}")

    def names(self) -> list[str]:
        """All files. Optuna's stores do not list; S3 does.

        Raises:
            StudyBroken: the store does not answer, or refuses.
        """

        def listed() -> list[str]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
            return [key.removeprefix(self._prefix) for key in keys]

        return self._answer(listed, "be listed")

    def _answer(self, ask: Callable[[], T], doing: str) -> T:
        try:
            return ask()
        except Exception as error:  # boto3's, botocore's and Optuna's share no base
            what = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, self._no_answer):
                raise StorageLost(
                    f"--artifacts {self.url}: cannot {doing}: {what}; what was recorded is intact, "
                    "`search resume` goes on when it answers again"
                ) from None
            raise StudyBroken(f"--artifacts {self.url}: cannot {doing}: {what}") from None


@lru_cache(maxsize=4)
def open_store(url: str) -> FileStore:
    """The store at an address, connected once a process."""
    return FileStore(url)


#: The member that is a file which is not a package.
_ALONE = "file"


def _packed(content: Content) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(content):
            entry = tarfile.TarInfo(name or _ALONE)
            entry.size = len(content[name])
            tar.addfile(entry, io.BytesIO(content[name]))
    return whole.getvalue()


def _unpacked(data: bytes, what: str) -> Content:
    """Members are read into memory by name; none is extracted to a path of its choice."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = tar.getmembers()
            if len(members) > MAX_FILES or not all(map(_is_harmless, members)):
                raise StudyBroken(f"{what} holds what no file of ours does")
            content = {entry.name: tar.extractfile(entry) for entry in members}
            read = {name: opened.read() for name, opened in content.items() if opened}
    except tarfile.TarError as error:
        raise StudyBroken(f"{what} is no file of ours: {error}") from None
    return {"": read[_ALONE]} if set(read) == {_ALONE} else read


def _is_harmless(entry: tarfile.TarInfo) -> bool:
    parts = entry.name.split("/")
    return entry.isfile() and entry.size <= MAX_BYTES and ".." not in parts and parts[0] != ""
