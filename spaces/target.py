"""A hardware profile: what a device stores, how fast it computes, each figure with its source."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Figure", "Target"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its source; `assumed` where nothing was measured or published."""

    value: float
    source: str

    @property
    def is_assumed(self) -> bool:
        """True when no source stands behind the value."""
        return self.source.startswith("assumed")


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        name, description: as in `--target NAME`.
        artifact_format: the format size_bytes is measured in.
        native_format: the format the device's own runtime loads; where it is another one, it is
            not built yet.
        throughput_gmacs: data type ("fp32", "fp16", "int8") -> 10^9 multiply-accumulates a second.
        bandwidth_gbps: memory bandwidth, 10^9 bytes a second.
        overhead_us: fixed cost of one operation, microseconds.
        call_overhead_us: fixed cost of one inference, microseconds; None where it is not known.
        output_element_ns: cost of one element that a layer writes, nanoseconds: activation, pooling
            and change of layout behind it; None where it is not known.
        int8_shallow_ratio: speed of the int8 kernel of a convolution that reads the network's
            input of 1 channel, over the same one's in `compute_dtype`; None
            where it is as fast as any.
        compute_dtype: what weights that are not 8-bit integers compute in.
        int8_needs_activation_bits: whether integer kernels run only with 8-bit activations.
        int8_weight_bits: width of the widest weights that every such device's int8 kernels compute
            with exactly; 7 where some add products of 8 bits in sums that overflow.
        kernel_truth: what is faster, slower or equal, in words, shown to the user.
        integer_only: whether its runtime runs nothing but 8-bit weights with 8-bit activations, so
            that every file of its own format must be so.
        is_this_machine: the latency is measured here rather than modelled.
        machines: `platform.machine()` of computers that are such a device; () = any is. On others
            the latency is modelled.
    """

    name: str
    description: str
    artifact_format: str
    native_format: str
    throughput_gmacs: Mapping[str, Figure]
    bandwidth_gbps: Figure
    overhead_us: Figure
    compute_dtype: str
    int8_needs_activation_bits: bool
    kernel_truth: tuple[str, ...]
    is_this_machine: bool = False
    machines: tuple[str, ...] = ()
    call_overhead_us: Figure | None = None
    output_element_ns: Figure | None = None
    int8_shallow_ratio: Figure | None = None
    integer_only: bool = False
    int8_weight_bits: int = 8
