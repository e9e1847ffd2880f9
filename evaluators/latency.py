"""Measured latency of a file on this host, in its format's runtime: one sample, one thread.

What runs is what a user would run: of a `packed` file the decoded dense fp32 weights in torch,
without the channels that were pruned; of another format its own runtime with the file's bytes.
Unstructured zeros and shared values make no kernel faster, and it shows.
"""

import fcntl
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaces import Latency

__all__ = ["Call", "SelfTimed", "device_name", "measure_ms", "measure_relative"]

#: One inference of one network.
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class SelfTimed:
    """A `Call` whose runtime says itself how long an inference took.

    Attributes:
        run_ms: how many inferences -> the milliseconds of each.
    """

    run_ms: Callable[[int], Sequence[float]]

    def __call__(self) -> None:
        """One inference."""
        self.run_ms(1)


#: Blocks of calls, alternating between the two networks, and the least time of a block.
ROUNDS = 20
BLOCK_MS = 2.0
WARMUP_CALLS = 10


def device_name(runtime: str) -> str:
    """What a measured latency is labelled with, e.g. "onnxruntime on build-7"."""
    return f"{runtime} on {platform.node() or 'this machine'}"


@contextmanager
def one_probe_at_a_time() -> Iterator[None]:
    """Parallel probes on one machine corrupt each other: a lock shared by all its processes."""
    path = Path(tempfile.gettempdir()) / "compression-search-latency.lock"
    # Only opened for reading: another user of the machine may have made it, and a lock needs no
    # more. O_CREAT on such a file is refused in a sticky folder, so it is only for the first.
    try:
        lock = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        lock = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _block_ms(call: Call, calls: int) -> float:
    """Mean milliseconds of so many calls in a row, by our clock or the runtime's own."""
    if isinstance(call, SelfTimed):
        return float(np.mean(call.run_ms(calls)))
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) * 1000 / calls


def _calls_a_block(call: Call) -> int:
    once = min(_block_ms(call, 3) for _ in range(3))
    return max(1, round(BLOCK_MS / max(once, 1e-4)))


def _series(networks: Sequence[Call]) -> np.ndarray:
    """(networks, rounds) ms a call.

    The networks take turns, so that drift hits all alike, and every other round runs backwards:
    whoever comes second finds the caches and the clock as the first one left them.
    """
    for call in networks:
        _block_ms(call, WARMUP_CALLS)
    calls = [_calls_a_block(call) for call in networks]
    times = np.empty((len(networks), ROUNDS))
    for turn in range(ROUNDS):
        order = range(len(networks)) if turn % 2 == 0 else reversed(range(len(networks)))
        for i in order:
            times[i, turn] = _block_ms(networks[i], calls[i])
    return times


def measure_ms(network: Call, device: str) -> Latency:
    """The baseline's own latency: the median and p95 over blocks of calls."""
    with one_probe_at_a_time():
        times = _series([network])[0]
    return Latency(float(np.median(times)), _p95(times), "measured", device)


def measure_relative(network: Call, baseline: Call, baseline_ms: float, device: str) -> Latency:
    """A candidate's latency, interleaved with the baseline's.

    The ratio of the two is what one run can say on a shared machine; it is scaled by the latency
    the baseline had when the study began, so that trials hours apart compare.

    Args:
        network, baseline: one inference each.
        baseline_ms: from `measure_ms` at the start of the study.
        device: of both, from `device_name`.
    """
    with one_probe_at_a_time():
        candidate, reference = _series([network, baseline])
    ratios = candidate / reference
    return Latency(
        median_ms=float(np.median(ratios)) * baseline_ms,
        p95_ms=_p95(ratios) * baseline_ms,
        source="measured",
        device=device,
    )


def _p95(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.95))
