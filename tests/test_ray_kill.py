"""kill -9 in a Ray cluster of three nodes; `python -m bench.ray_kills` is the long version."""

import random
import subprocess
import sys

import pytest

from bench.ray_kills import VICTIMS
from tests.clusters import HAS_RAY


@pytest.mark.kill
@pytest.mark.skipif(not HAS_RAY, reason="the extra `ray` is not installed")
def test_nothing_is_lost_and_nothing_is_twice() -> None:
    """Another victim each time the suite runs; in a process of its own, with its own cluster."""
    seed = random.SystemRandom().randrange(10**6)
    command = ["-m", "bench.ray_kills", "--quick", "--times=1", f"--seed={seed}"]
    only = f"--only={VICTIMS[seed % len(VICTIMS)]}"
    done = subprocess.run(
        [sys.executable, *command, only], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"seed {seed}, {only}:\n{done.stdout}{done.stderr}"
    assert '"passed": "yes"' in done.stdout
