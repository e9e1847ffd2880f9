"""Whether two machines see the same folder: one leaves a token there, the other looks for it."""

import platform
import secrets
import time
from pathlib import Path

from spaces import InvalidRequest, StudyBroken

__all__ = ["check_token", "leave_token", "left_token"]

NAME = ".token"
#: Network file systems show a new file to other machines after seconds, not at once.
PATIENCE_S = 5.0


def leave_token(folder: Path) -> str:
    """Write a new token into a folder, which is made if missing.

    Raises:
        StudyBroken: it cannot be written.
    """
    token = secrets.token_hex(8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).write_text(token, encoding="ascii")
    except OSError as error:
        raise StudyBroken(f"cannot write to {folder}: {error.strerror}") from None
    return token


def check_token(folder: Path, token: str) -> None:
    """Refuse a folder without this very token.

    Raises:
        InvalidRequest: this machine sees another folder under the same path, or none.
    """
    deadline = time.monotonic() + PATIENCE_S
    while left_token(folder) != token:
        if time.monotonic() > deadline:
            raise InvalidRequest(
                f"--storage: node {platform.node()} does not see the driver's folder {folder}; put "
                "it on storage that every node mounts under the same path, or keep files in an S3 "
                "bucket (--artifacts s3://BUCKET/PREFIX)"
            )
        time.sleep(0.2)


def left_token(folder: Path) -> str:
    """The token in a folder; "" without one."""
    try:
        return (folder / NAME).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
