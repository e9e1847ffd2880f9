"""Plain files and packages: written, read back, hashed, removed alike."""

from pathlib import Path

import pytest

from evaluators.artifacts.files import (
    MAX_FILES,
    digest,
    exists,
    plain_file,
    read_content,
    remove,
    size_bytes,
    write_content,
)
from spaces import InvalidRequest

PLAIN = {"": b"abc"}
PACKAGE = {"Manifest.json": b"{}", "Data/weights/weight.bin": b"\x00\x01"}


@pytest.mark.parametrize("content", [PLAIN, PACKAGE])
def test_what_is_written_comes_back(tmp_path: Path, content: dict[str, bytes]) -> None:
    path = tmp_path / "thing"
    write_content(path, content)
    assert exists(path)
    assert read_content(path) == content
    assert size_bytes(content) == sum(map(len, content.values()))
    remove(path)
    assert not exists(path)
    remove(path)  # once more: nothing is there, and that is fine


def test_a_plain_files_hash_is_its_own() -> None:
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(PLAIN) == abc
    assert plain_file(PLAIN) == b"abc"


def test_a_packages_hash_sees_names_and_bytes() -> None:
    renamed = {"Manifest.json": b"{}", "Data/weights/weights.bin": b"\x00\x01"}
    changed = {**PACKAGE, "Manifest.json": b"[]"}
    moved = {"Manifest.json": b"{}\x00", "Data/weights/weight.bin": b"\x01"}
    assert len({digest(x) for x in (PACKAGE, renamed, changed, moved)}) == 4
    with pytest.raises(InvalidRequest, match="this is a folder"):
        plain_file(PACKAGE)


def test_a_folder_that_is_no_package_is_not_swallowed(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 1):
        (tmp_path / str(number)).touch()
    with pytest.raises(OSError, match="more than 64 files"):
        read_content(tmp_path)
