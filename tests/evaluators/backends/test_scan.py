"""The sensitivity scan's cost."""

from hypothesis import given
from hypothesis import strategies as st

from evaluators.backends.scan import (
    LEAST_SAMPLES,
    MOST_MACS,
    MOST_SAMPLES,
    SCAN,
    passes_of,
    scan_samples,
)


@given(st.integers(0, 10**12), st.integers(1, 500))
def test_a_scan_has_its_samples_or_keeps_to_its_cost(macs: int, layers: int) -> None:
    samples = scan_samples(macs, layers)
    assert LEAST_SAMPLES <= samples <= MOST_SAMPLES
    if samples > LEAST_SAMPLES:
        assert samples * macs * passes_of(layers) <= MOST_MACS + macs * passes_of(layers)
    if samples < MOST_SAMPLES:
        assert (samples + 1) * macs * passes_of(layers) > MOST_MACS


def test_networks_of_mnist_are_scanned_in_full_and_resnet20_is_not() -> None:
    assert scan_samples(266_200, 3) == MOST_SAMPLES
    assert scan_samples(2_293_000, 4) == MOST_SAMPLES
    assert LEAST_SAMPLES < scan_samples(40_800_000, 22) < 400
    assert passes_of(22) == 1 + 22 * len(SCAN)
