"""What a stage does to one layer: values that a wrapper is made from. Imports no TensorFlow."""

from dataclasses import dataclass

__all__ = ["Cluster", "Kept", "Prune", "Quantize", "Treatment"]


@dataclass(frozen=True, slots=True)
class Prune:
    """`prune_low_magnitude` with PolynomialDecay, to `sparsity` after 60 % of `steps`."""

    sparsity: float
    steps: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """`cluster_weights`: `clusters` shared non-zero values; zeros stay where there are any."""

    clusters: int
    init: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What is established stays: the zeros, and the shared values of `clusters`, if not None."""

    clusters: int | None


@dataclass(frozen=True, slots=True)
class Quantize:
    """Quantization-aware training of the weights in 8 bits, one scale a tensor or a channel.

    Attributes:
        per_channel: whether each output channel has a scale.
        keeps_zeros, keeps_clusters: what TFMOT's PQAT, CQAT and PCQAT quantizers preserve.
    """

    per_channel: bool
    keeps_zeros: bool
    keeps_clusters: bool


Treatment = Prune | Cluster | Kept | Quantize
