"""Measured latency of a decoded network on this host: torch on the CPU, one sample, one thread.

What runs is the network a user would run: dense fp32 weights as decoded, without the channels that
were pruned. Unstructured zeros and shared values make no kernel of torch faster, and it shows.
"""

import fcntl
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spaces import Latency

__all__ = ["device_name", "measure_ms", "measure_relative"]

#: Blocks of calls, alternating between the two networks, and the least time of a block.
ROUNDS = 20
BLOCK_MS = 2.0
WARMUP_CALLS = 10


def device_name() -> str:
    """What a measured latency is labelled with."""
    return f"torch-cpu on {platform.node() or 'this machine'}"


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


@torch.inference_mode()
def _block_ms(model: nn.Module, sample: Tensor, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        model(sample)
    return (time.perf_counter() - started) * 1000 / calls


def _calls_a_block(model: nn.Module, sample: Tensor) -> int:
    once = min(_block_ms(model, sample, 3) for _ in range(3))
    return max(1, round(BLOCK_MS / max(once, 1e-4)))


def _series(models: list[nn.Module], sample: Tensor) -> np.ndarray:
    """(models, rounds) ms a call.

    The models take turns, so that drift hits all alike, and every other round runs backwards:
    whoever comes second finds the caches and the clock as the first one left them.
    """
    for model in models:
        _block_ms(model, sample, WARMUP_CALLS)
    calls = [_calls_a_block(model, sample) for model in models]
    times = np.empty((len(models), ROUNDS))
    for turn in range(ROUNDS):
        order = range(len(models)) if turn % 2 == 0 else reversed(range(len(models)))
        for i in order:
            times[i, turn] = _block_ms(models[i], sample, calls[i])
    return times


def measure_ms(model: nn.Module, sample: Tensor) -> Latency:
    """The baseline's own latency: the median and p95 over blocks of calls."""
    with one_probe_at_a_time():
        times = _series([model], sample)[0]
    return Latency(float(np.median(times)), _p95(times), "measured", device_name())


def measure_relative(
    model: nn.Module, baseline: nn.Module, sample: Tensor, baseline_ms: float
) -> Latency:
    """A candidate's latency, interleaved with the baseline's.

    The ratio of the two is what one run can say on a shared machine; it is scaled by the latency
    the baseline had when the study began, so that trials hours apart compare.

    Args:
        model, baseline: in eval mode, on the CPU.
        sample: (1, ...) prepared input.
        baseline_ms: from `measure_ms` at the start of the study.
    """
    with one_probe_at_a_time():
        candidate, reference = _series([model, baseline], sample)
    ratios = candidate / reference
    return Latency(
        median_ms=float(np.median(ratios)) * baseline_ms,
        p95_ms=_p95(ratios) * baseline_ms,
        source="measured",
        device=device_name(),
    )


def _p95(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.95))
