"""Predicted bytes of a file that is not entropy coded, by its format: codes of a fixed width.

The graph and what no stage touches are known from the uncompressed network's own file.
"""

from dataclasses import replace

from evaluators.cost.latency import layer_shares
from evaluators.cost.size import LayerSize, SizeModel
from spaces import LayerPolicy, LayerProfile, ModelProfile, Policy

__all__ = ["StoredSizeModel", "size_model"]

#: Bytes of an initializer besides its data: names, shape, the operators that decode it.
_INITIALIZER_BYTES = 150


class StoredSizeModel(SizeModel):
    """Sizes of one network's policies as `onnx` files."""

    prior_ratio = 1.0

    def __init__(self, profile: ModelProfile) -> None:
        super().__init__(profile)
        self._graph_bytes = max(0, profile.baseline_size_bytes - profile.fp32_bytes)

    def layer(
        self,
        layer: LayerProfile,
        asked: LayerPolicy,
        scheme: str = "symmetric",  # noqa: ARG002 -- as many bits either way
        granularity: str = "tensor",
    ) -> LayerSize:
        """One layer, whose inputs are all there."""
        return _layer_size(layer, asked, granularity, 1.0, 1.0)

    def breakdown(self, policy: Policy) -> tuple[LayerSize, ...]:
        """One entry a layer in forward order, then the file's own."""
        shares = layer_shares(policy, self.profile)
        layers = [
            _layer_size(layer, policy.layer(layer.name), policy.granularity, *shares[layer.name])
            for layer in self.profile.layers
        ]
        rest = LayerSize(
            "", values_bytes=self.profile.other_bytes, overhead_bytes=self._graph_bytes
        )
        return (*layers, rest)


def _layer_size(
    layer: LayerProfile, asked: LayerPolicy, granularity: str, inputs: float, outputs: float
) -> LayerSize:
    bits = stored_bits(asked)
    entries = 0 if asked.clusters is None else asked.clusters + 1
    entry_bits = max(8, asked.bits)
    scales = 0
    if asked.bits < 16:
        per_channel = granularity == "channel" and asked.clusters is None
        scales = round(layer.weight_shape[0] * outputs) if per_channel else 1
    return LayerSize(
        layer.name,
        values_bytes=layer.weight_count * inputs * outputs * bits / 8,
        tables_bytes=entries * entry_bits / 8 + 4 * scales,
        bias_bytes=layer.bias_size * outputs * stored_bits(replace(asked, bits=asked.bias_bits,
            clusters=None)) / 8,
        overhead_bytes=0 if asked == LayerPolicy() else _INITIALIZER_BYTES,
    )  # fmt: skip


def stored_bits(asked: LayerPolicy) -> int:
    """Width of one weight's code: 2, 4 or 8 bits of a level or an index, else 16 or 32."""
    if asked.clusters is not None:
        most = asked.clusters if asked.bits >= 16 else min(asked.clusters, 2**asked.bits - 1)
        return next((b for b in (2, 4, 8) if most < 2**b), 16)
    if asked.bits >= 16:
        return asked.bits
    return 2 if asked.bits == 2 else 4 if asked.bits <= 4 else 8


def size_model(profile: ModelProfile, artifact_format: str) -> SizeModel:
    """The model of a format's files."""
    return SizeModel(profile) if artifact_format == "packed" else StoredSizeModel(profile)
