"""A file of a format as its content: one file's bytes, or those of a folder that is one thing.

`{"": bytes}` is a plain file; `{"Manifest.json": bytes, "Data/...": bytes}` a package.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from spaces import InvalidRequest

__all__ = [
    "Content",
    "digest",
    "exists",
    "plain_file",
    "read_content",
    "remove",
    "size_bytes",
    "write_content",
]

#: Relative path with "/" -> bytes; "" alone = a plain file.
Content = Mapping[str, bytes]

#: A package has a handful of files; more, or larger ones, are not read.
MAX_FILES, MAX_BYTES = 64, 1 << 31


def plain_file(content: Content) -> bytes:
    """The bytes of a content that is one file.

    Raises:
        InvalidRequest: it is a folder.
    """
    if set(content) != {""}:
        raise InvalidRequest("a file is wanted, but this is a folder")
    return content[""]


def size_bytes(content: Content) -> int:
    """All bytes of all files."""
    return sum(len(data) for data in content.values())


def digest(content: Content) -> str:
    """sha256: of a plain file its own; of a package that of its files' names, sizes and bytes."""
    if set(content) == {""}:
        return hashlib.sha256(content[""]).hexdigest()
    whole = hashlib.sha256()
    for name in sorted(content):
        whole.update(f"{name}\n{len(content[name])}\n".encode())
        whole.update(content[name])
    return whole.hexdigest()


def exists(path: Path) -> bool:
    """Whether there is a plain file or a package."""
    return path.is_file() or path.is_dir()


def read_content(path: Path) -> Content:
    """What lies at a path.

    Raises:
        OSError: it cannot be read, or is too large to be a file of ours.
    """
    if not path.is_dir():
        return {"": path.read_bytes()}
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    if len(files) > MAX_FILES or sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise OSError(0, f"holds more than {MAX_FILES} files or {MAX_BYTES} bytes")
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def write_content(path: Path, content: Content) -> None:
    """Write to a path that does not exist yet, and have it on the disk.

    Raises:
        OSError: it cannot be written.
    """
    for name, data in content.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())


def remove(path: Path) -> None:
    """Delete a file or a package, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
