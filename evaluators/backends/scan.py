"""What the sensitivity scan tries, the same in every backend."""

from spaces import LayerPolicy

__all__ = ["QUANTILES", "SCAN", "passes_of", "scan_samples"]

QUANTILES = 129
#: Training samples of a pass, and what a whole scan may cost before they get fewer: some two
#: minutes of one core. ResNet-20 would take eleven minutes (374 passes); it gets 326 samples.
MOST_SAMPLES, LEAST_SAMPLES = 2000, 250
MOST_MACS = 5e12

#: What the scan tries on each layer alone, untrained.
SCAN: tuple[tuple[str, LayerPolicy], ...] = (
    *(("sparsity", LayerPolicy(sparsity=s)) for s in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)),
    *(("clusters", LayerPolicy(clusters=k)) for k in (2, 4, 8, 16, 64)),
    *(("bits", LayerPolicy(bits=b)) for b in (2, 3, 4, 6, 8)),
)


def passes_of(layers: int) -> int:
    """Passes of a scan over so many layers: each alone with each choice, and none."""
    return 1 + layers * len(SCAN)


def scan_samples(macs: int, layers: int) -> int:
    """Training samples a pass; of the network alone, not of the clock, so that it repeats.

    Args:
        macs: multiply-accumulates of one inference of all the layers.
        layers: how many are scanned.
    """
    affordable = MOST_MACS / max(1, macs * passes_of(layers))
    return round(min(MOST_SAMPLES, max(LEAST_SAMPLES, affordable)))
