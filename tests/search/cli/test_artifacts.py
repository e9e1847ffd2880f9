"""`search run --artifacts s3://...`: workers that share no folder with the driver."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluators.artifacts.store import FileStore, open_store
from search.kept import KeptFiles
from search.location import StudyLocation
from search.record import RecordReader
from spaces import StorageLost
from tests.s3 import s3_server
from tests.search.cli.conftest import Search


@pytest.fixture
def bucket() -> Iterator[str]:
    open_store.cache_clear()  # another test's server is gone
    with s3_server() as url:
        yield url
    open_store.cache_clear()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def expected(reader: RecordReader) -> set[str]:
    spec, folder = reader.spec, reader.location.artifacts_dir
    trials, finalists = reader.trials(), reader.finalists()
    kept = KeptFiles.replay(reader.judge, folder, spec.artifact_format, trials, finalists)
    return {kept.path(sha256).name for sha256 in kept.hashes}


def test_bucket_and_folder_hold_what_the_record_asks_for(
    net: Path, bucket: str, search: Search
) -> None:
    asked = ["--trials=6", "--finalists=1", "--target=m1", "--format=packed", "--study=far"]
    how = ["--engine=in-process", f"--artifacts={bucket}/runs/"]
    said = search("run", f"{net}:workload", *asked, *how, "--json")
    assert said.json["trials"] == 6
    store, location = FileStore(f"{bucket}/runs/far"), StudyLocation("search-runs", "far")
    reader = RecordReader.open(location)
    assert set(store.names()) == expected(reader) == names(location.artifacts_dir)
    assert search("verify", said.json["file"]).code == 0
    assert search("export", "--study=far", "--pick=0").code == 0
    # Another machine goes on: it has the record, and gets the files that stay.
    shutil.rmtree(location.artifacts_dir)
    store.put("stray.packed", {"": b"of a killed worker"})
    assert search("resume", "far", "--trials=8", "--engine=in-process").code == 0
    assert len(reader.trials()) == 8
    assert set(store.names()) == expected(reader) == names(location.artifacts_dir)


def test_a_store_that_does_not_answer(
    net: Path, bucket: str, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", f"{net}:workload", "--engine=in-process", "--target=m1", "--format=packed"]
    for place, said in (("bucket", "must be s3://BUCKET"), ("s3://missing", "does not exist")):
        answer = search(*run, f"--artifacts={place}")
        assert answer.code == 2
        assert said in answer.err
    assert search(*run, "--trials=2", f"--artifacts={bucket}", "--study=far").code == 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    answer = search("resume", "far", "--trials=3", "--engine=in-process")
    assert answer.code == 2
    assert "s3://bucket/far: cannot take" in answer.err
    with pytest.raises(StorageLost, match="`search resume` goes on when it answers again"):
        FileStore(f"{bucket}/far").get("any.packed")
    assert "Traceback" not in answer.err
    assert not Path("search-runs/net-m1-1").exists()
