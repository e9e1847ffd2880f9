"""Hypothesis profiles, and which tests share a process.

`HYPOTHESIS_PROFILE=ci` makes every run draw the same examples.
"""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# As the product's own processes do (search/cli): two processes share the cores already, and threads
# that wait for each other take the time of those that compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

#: Files that start Ray. A cluster costs a start and a tenth of a core for as long as it stays, and
#: such tests wait for it most of their time: one process has them all, beside those that compute.
ON_RAY = {
    "contracts/test_engines.py",
    "search/cli/test_jobs.py",
    "search/engines/test_measuring.py",
    "search/engines/test_ray.py",
    "search/test_storage_lost.py",
    "search/tune/test_study.py",
    "test_ray_kill.py",
}


def _group(nodeid: str) -> str:
    """What stays in one process: a file, or all on Ray."""
    path = nodeid.split("::", maxsplit=1)[0]
    return "ray" if path.removeprefix("tests/") in ON_RAY else path


class ByGroup(LoadFileScheduling):
    """As `--dist loadfile`; pytest-xdist's own groups do not reach it with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByGroup | None:
    """Ours for `--dist loadfile`, xdist's for any other."""
    return ByGroup(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: a long group that begins last keeps the others waiting."""
    items.sort(key=lambda item: _group(item.nodeid) != "ray")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ray's daemons end with the last test that needs them, not with the process."""
    if _group(item.nodeid) == "ray" and (nextitem is None or _group(nextitem.nodeid) != "ray"):
        clusters = sys.modules.get("tests.clusters")
        if clusters is not None:
            clusters.end_session_cluster()


@pytest.fixture(autouse=True, scope="session")
def listens_to_ctrl_c() -> Iterator[None]:
    """A suite that a shell started in the background ignores SIGINT, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
