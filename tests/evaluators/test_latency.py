"""How an inference is timed: by our clock, or by a runtime's own."""

import time
from collections.abc import Sequence

import numpy as np

from evaluators.latency import SelfTimed, measure_ms, measure_relative

OVERHEAD_S = 0.003
SMALL, LARGE = (np.ones((size, size), np.float32) for size in (32, 256))


def product(matrix: np.ndarray) -> SelfTimed:
    """Tells the time of the product alone, as Core ML does, whatever is around it."""

    def run_ms(count: int) -> Sequence[float]:
        found = []
        for _ in range(count):
            time.sleep(OVERHEAD_S / count)
            started = time.perf_counter()
            matrix @ matrix
            found.append((time.perf_counter() - started) * 1000)
        return found

    return SelfTimed(run_ms)


def test_what_the_runtime_says_of_itself_counts() -> None:
    latency = measure_ms(product(SMALL), "numpy on here")
    assert 0 < latency.median_ms < OVERHEAD_S * 1000 / 2
    assert (latency.source, latency.device) == ("measured", "numpy on here")


def test_both_networks_of_a_ratio_by_the_same_clock() -> None:
    latency = measure_relative(product(LARGE), product(SMALL), 1.0, "numpy on here")
    # 512 times the work; with the overhead counted the two would be about equal.
    assert latency.median_ms > 5


def test_it_can_be_called_like_any_other() -> None:
    counts: list[int] = []
    call = SelfTimed(lambda count: [float(counts.append(count) is None)] * count)
    call()
    assert counts == [1]
