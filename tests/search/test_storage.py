"""Databases behind a record: who makes the tables, and what others see meanwhile."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import create_engine, inspect, text

from search._storage import StorageMissing, drive_database, read_database
from tests.postgres import Postgres, postgres


def test_a_reader_makes_no_tables_for_a_driver_that_is_at_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    engine = create_engine(url)
    BaseModel.metadata.create_all(engine)  # the first half of what Optuna does
    with pytest.raises(StorageMissing, match="holds no studies yet"):
        read_database(url)
    assert not inspect(engine).has_table("alembic_version")
    drive_database(url)
    assert read_database(url).get_all_studies() == []


@pytest.fixture
def server() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, postgres(Path(folder)) as ours:
        yield ours


def test_drivers_that_open_a_new_database_at_once(server: Postgres) -> None:
    engine, drivers = create_engine(server.url), 4
    for _ in range(5):
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        gate = Barrier(drivers)

        def open_it(_: int, gate: Barrier = gate) -> int:
            gate.wait()
            storage, holder = drive_database(server.url)
            found = len(storage.get_all_studies())
            holder.engine.dispose()
            return found

        with ThreadPoolExecutor(drivers) as pool:
            assert list(pool.map(open_it, range(drivers))) == [0] * drivers
    engine.dispose()
