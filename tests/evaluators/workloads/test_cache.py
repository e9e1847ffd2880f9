"""Made once a machine, whole or not at all."""

import threading
from pathlib import Path

import numpy as np
import pytest

from evaluators.workloads.cache import cache_folder, cached_array, cached_parts
from spaces import InvalidRequest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_made_once_and_writes_stay_private(folder: Path) -> None:
    calls = []

    def make() -> np.ndarray:
        calls.append(1)
        return np.arange(6, dtype=np.float32)

    first = cached_array("six", make)
    first[0] = 99
    assert cached_array("six", make).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(calls) == 1
    assert (folder / "six.npy").exists()


def test_many_at_once_make_it_once(folder: Path) -> None:
    calls = []

    def make() -> np.ndarray:
        calls.append(1)
        return np.zeros(1000)

    threads = [threading.Thread(target=cached_array, args=("many", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert not list(folder.glob("*.partial"))


def test_parts_are_shared_among_those_that_want_them(folder: Path) -> None:
    calls: list[int] = []
    both = threading.Barrier(2, timeout=20)

    def make(part: int) -> np.ndarray:
        calls.append(part)
        if part < 2:
            both.wait()  # only if another one makes another part meanwhile
        return np.full((2, 3), part)

    made: list[np.ndarray] = []

    def want() -> None:
        made.append(cached_parts("parts", 3, make))

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == [0, 1, 2]
    assert [array[:, 0].tolist() for array in made] == [[0, 0, 1, 1, 2, 2]] * 2
    assert not list(folder.glob("*.partial"))


def test_a_maker_that_fails_leaves_nothing(folder: Path) -> None:
    def make() -> np.ndarray:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        cached_array("none", make)
    assert not (folder / "none.npy").exists()


def test_a_damaged_file_or_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "bad.npy").write_bytes(b"not an array")
    with pytest.raises(InvalidRequest, match=r"bad\.npy: the cache .*SEARCH_CACHE"):
        cached_array("bad", lambda: np.zeros(1))
    (folder / "file").write_text("")
    monkeypatch.setenv("SEARCH_CACHE", str(folder / "file" / "below"))
    with pytest.raises(InvalidRequest, match="SEARCH_CACHE"):
        cached_array("x", lambda: np.zeros(1))


def test_the_folder_follows_the_platforms_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEARCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/compression-search")


def test_a_part_that_cannot_be_written_is_made_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is said at once, not after every part was made for nothing."""
    calls: list[int] = []

    def make(part: int) -> np.ndarray:
        calls.append(part)
        raise OSError(28, "No space left on device")

    with pytest.raises(InvalidRequest, match=r"whole-0\.npy: .*No space left"):
        cached_parts("whole", 3, make)
    assert calls == [0]
