"""Files in a bucket of a real S3 server on loopback."""

from collections.abc import Iterator

import pytest

from evaluators.artifacts.store import FileStore, check_url
from spaces import InvalidRequest, StudyBroken
from tests.s3 import s3_server

PACKAGE = {"Data/weights/weight.bin": b"\x00\x01" * 500, "Manifest.json": b"{}"}


@pytest.fixture(scope="module")
def store() -> Iterator[FileStore]:
    with s3_server() as bucket:
        yield FileStore(f"{bucket}/runs/study")


@pytest.mark.parametrize("content", [{"": b"weights"}, {"": b""}, PACKAGE], ids=str)
def test_what_is_put_comes_back(store: FileStore, content: dict[str, bytes]) -> None:
    store.put("a", content)
    assert store.get("a") == content
    assert store.names() == ["a"]
    store.remove("a")
    store.remove("a")
    assert store.names() == []
    with pytest.raises(StudyBroken, match=r"cannot give a: .*not found"):
        store.get("a")


def test_a_check_leaves_nothing(store: FileStore) -> None:
    store.check()
    assert store.names() == []


def test_studies_do_not_see_each_other(store: FileStore) -> None:
    other = FileStore(store.url.removesuffix("study") + "study-2")
    other.put("b", {"": b"x"})
    assert store.names() == []
    other.remove("b")


def test_bad_bytes_are_no_file(store: FileStore) -> None:
    store._client.put_object(Bucket="bucket", Key="runs/study/odd", Body=b"odd")
    with pytest.raises(StudyBroken, match="odd is no file of ours"):
        store.get("odd")
    store.remove("odd")


@pytest.mark.parametrize("url", ["s3:/bucket", "http://bucket/x", "s3://", "s3://b?x=1"])
def test_a_malformed_address(url: str) -> None:
    with pytest.raises(InvalidRequest, match="--artifacts must be s3://BUCKET or"):
        check_url(url)


def test_no_such_bucket_and_no_server(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store
    with pytest.raises(InvalidRequest, match=r"s3://missing/x: cannot take .*does not exist"):
        FileStore("s3://missing/x").check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InvalidRequest, match=r"cannot take .*Could not connect"):
        FileStore("s3://bucket/x").check()
