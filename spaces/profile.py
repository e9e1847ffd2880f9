"""What is known of a network before any training: made once by a worker, kept in the record."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from spaces.metric import Reading

__all__ = ["ONE_SCALE_KINDS", "LayerProfile", "ModelProfile", "Sensitivity"]

#: Kinds whose weight has one scale, whatever a policy's granularity: a row of an embedding would
#: pay 32 bits for a handful of weights, and recurrent kernels take one scale a matrix.
ONE_SCALE_KINDS = frozenset({"Embedding", "LSTM", "GRU"})


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much one treatment of ONE layer, untrained, raises the task loss on scan samples.

    Attributes:
        knob: "sparsity", "clusters" or "bits".
        value: the knob's value in the scan.
        loss_increase: task loss (nats) minus the untouched network's; may be slightly negative.
    """

    knob: str
    value: float
    loss_increase: float


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One compressible layer.

    Attributes:
        name: the module's path, e.g. "features.0". A recurrent layer is two of these, "NAME.input"
            (what multiplies its input, with the bias) and "NAME.recurrent" (its own last output).
        kind: "Linear", "Conv1d", "Conv2d", "Embedding", "LSTM" or "GRU".
        weight_shape: output channels first, e.g. (300, 784); the gates' rows one after the other;
            of an embedding (words, values a word).
        bias_size: entries of the bias, 0 without one.
        macs: multiply-accumulates of one inference.
        input_elements, output_elements: activations read and written by one inference.
        weight_quantiles: evenly spaced quantiles of the weights, first = min, last = max.
        can_prune_channels: False where a removed channel would be seen outside, as at the output.
        sensitivity: the scan's results for this layer.
        input_group: first layer of the channel group that alone is this layer's input, each of
            its output channels equally often; "" where that is not so (the network's input, a
            concatenation, a part of the channels, a grouped convolution) or not known.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    bias_size: int
    macs: int
    input_elements: int
    output_elements: int
    weight_quantiles: tuple[float, ...]
    can_prune_channels: bool
    sensitivity: tuple[Sensitivity, ...] = ()
    input_group: str = ""

    @property
    def has_one_scale(self) -> bool:
        """Whether its weight has one scale even where the policy asks for one a channel."""
        return self.kind in ONE_SCALE_KINDS

    @property
    def weights_read(self) -> int:
        """Weights that one inference reads: of an embedding only the rows it looks up."""
        if self.kind == "Embedding":
            return min(self.weight_count, self.output_elements)
        return self.weight_count

    @property
    def weight_count(self) -> int:
        """How many weights, without the bias."""
        count = 1
        for size in self.weight_shape:
            count *= size
        return count


@dataclass(frozen=True)
class ModelProfile:
    """The network's layers and the baseline every candidate is compared with.

    Attributes:
        layers: the compressible layers, in the order of the forward pass.
        channel_groups: names of layers whose OUTPUT channels are coupled (residual adds);
            channel pruning takes such layers together.
        excluded: (module, reason) of every module with weights that no stage touches.
        other_bytes: fp32 bytes of the excluded parameters and buffers.
        baseline_metric, baseline_metric_se: on the validation split.
        baseline_size_bytes: the uncompressed fp32 network in the target's format.
        baseline_latency_ms, latency_source: on the target, "measured" or "modelled".
        scan_passes, scan_seconds: what the sensitivity scan cost.
        baseline_sha256: of the uncompressed network's file, so that another network under the same
            name is noticed; "" in records of before it was kept.
        latency_device: what the baseline's latency is of; "" likewise.
        gives_logits: whether the outputs are class scores, which a teacher can soften, or the
            workload says how else its soft targets are imitated.
        has_attention: whether network and teacher have feature maps of the same shapes.
        backend: that compresses it, a key of `evaluators.capabilities`.
        baseline_secondary: as `Measurement.secondary`, of the baseline.
    """

    layers: tuple[LayerProfile, ...]
    channel_groups: tuple[tuple[str, ...], ...]
    excluded: tuple[tuple[str, str], ...]
    other_bytes: int
    baseline_metric: float
    baseline_metric_se: float
    baseline_size_bytes: int
    baseline_latency_ms: float
    latency_source: str
    scan_passes: int = 0
    scan_seconds: float = 0.0
    baseline_sha256: str = ""
    latency_device: str = ""
    gives_logits: bool = True
    has_attention: bool = True
    backend: str = "torch"
    baseline_secondary: Mapping[str, Reading] = field(default_factory=dict, hash=False)

    @cached_property
    def layer_map(self) -> Mapping[str, LayerProfile]:
        """Layer name -> LayerProfile."""
        return {layer.name: layer for layer in self.layers}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference of the uncompressed network."""
        return sum(layer.macs for layer in self.layers)

    @property
    def fp32_bytes(self) -> int:
        """Of all parameters, 4 bytes each: what ratios are taken of, as the literature does."""
        return 4 * self.parameter_count

    @property
    def parameter_count(self) -> int:
        """All weights and biases, the excluded modules' included (4 bytes each)."""
        compressible = sum(layer.weight_count + layer.bias_size for layer in self.layers)
        return compressible + self.other_bytes // 4

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelProfile":
        """The inverse of `to_dict`, also after JSON turned its tuples into lists."""
        layers = tuple(
            LayerProfile(
                **{
                    **layer,
                    "weight_shape": tuple(layer["weight_shape"]),
                    "weight_quantiles": tuple(layer["weight_quantiles"]),
                    "sensitivity": tuple(Sensitivity(**s) for s in layer["sensitivity"]),
                }
            )
            for layer in data["layers"]
        )
        return cls(
            **{
                **data,
                "layers": layers,
                "channel_groups": tuple(tuple(group) for group in data["channel_groups"]),
                "excluded": tuple((name, reason) for name, reason in data["excluded"]),
                "baseline_secondary": {
                    name: Reading(**reading)
                    for name, reading in data.get("baseline_secondary", {}).items()
                },
            }
        )
