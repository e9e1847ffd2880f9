"""What the sensitivity scan tries, the same in every backend."""

from spaces import LayerPolicy

__all__ = ["QUANTILES", "SCAN", "SCAN_SAMPLES"]

QUANTILES = 129
SCAN_SAMPLES = 2000

#: What the scan tries on each layer alone, untrained.
SCAN: tuple[tuple[str, LayerPolicy], ...] = (
    *(("sparsity", LayerPolicy(sparsity=s)) for s in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)),
    *(("clusters", LayerPolicy(clusters=k)) for k in (2, 4, 8, 16, 64)),
    *(("bits", LayerPolicy(bits=b)) for b in (2, 3, 4, 6, 8)),
)
