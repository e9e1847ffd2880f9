"""Hypothesis profiles: `HYPOTHESIS_PROFILE=ci` makes every run draw the same examples."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


#: They wait most of their time, so they begin beside those that compute.
LONG_WAITS = (
    "test_measuring.py",
    "test_ray_kill.py",
    "test_kill.py",
    "test_storage_lost.py",
    "test_study.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: one that begins last keeps the others waiting."""
    items.sort(key=lambda item: item.path.name not in LONG_WAITS)


@pytest.fixture(autouse=True, scope="session")
def listens_to_ctrl_c() -> Iterator[None]:
    """A suite that a shell started in the background ignores SIGINT, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
