"""kill -9 in a Ray cluster of three nodes; `python -m bench.ray_kills` is the long version."""

import random
from pathlib import Path
from typing import Any

import pytest

from bench.ray_kills import VICTIMS, kill_once
from search.engines import LocalEngine
from tests.clusters import HAS_RAY, add_member, session_cluster


class Members:
    """The session's cluster; only nodes beside its head are killed."""

    def __init__(self) -> None:
        self._cluster = session_cluster()
        self.address = self._cluster.address

    @property
    def worker_nodes(self) -> Any:
        return self._cluster.worker_nodes

    def remove_node(self, node: Any, *, allow_graceful: bool) -> None:
        self._cluster.remove_node(node, allow_graceful=allow_graceful)

    def add_node(self, num_cpus: int) -> None:
        assert num_cpus == 1
        add_member(self._cluster)


@pytest.mark.kill
@pytest.mark.skipif(not HAS_RAY, reason="the extra `ray` is not installed")
def test_nothing_is_lost_and_nothing_is_twice(tmp_path: Path) -> None:
    """Another victim each time the suite runs; the seed in a failure's message makes it again."""
    seed = random.SystemRandom().randrange(10**6)
    rng, victim = random.Random(seed), VICTIMS[seed % len(VICTIMS)]
    flags = ["--resource-per-trial", "member=0.5"]
    with LocalEngine(1) as engine:
        row = kill_once(tmp_path, Members(), victim, rng, engine, flags)
    assert row["passed"] == "yes", f"seed {seed}, {victim}: {row}"
    assert row["trials_after"] == 8
