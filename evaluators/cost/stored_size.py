"""Predicted bytes of a file that is not entropy coded, by its format: codes of a fixed width.

The graph and what no stage touches are known from the uncompressed network's own file.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from evaluators.cost.latency import channels
from evaluators.cost.size import LayerSize, SizeModel
from spaces import LayerPolicy, LayerProfile, ModelProfile

__all__ = ["StoredSizeModel", "code_bits", "size_model", "stored_formats"]


@dataclass(frozen=True, slots=True)
class _Rules:
    """How a format stores weights.

    Attributes:
        widths: of a code, in bits, ascending.
        float_bits: of a float that is left as it is; also of codebook entries and scales.
        masks_zeros: whether zeros can be one bit of a mask each.
        decodes: whether shared values that are no levels are stored as indices; else as floats.
        sparse_floats: whether floats can be stored as rows of positions and values.
        tensor_bytes: of a compressed tensor besides codes and tables: names, headers, operators.
    """

    widths: tuple[int, ...]
    float_bits: int
    masks_zeros: bool
    tensor_bytes: int
    decodes: bool = True
    sparse_floats: bool = False


_RULES = {
    "onnx": _Rules((2, 4, 8), 32, masks_zeros=False, tensor_bytes=150),
    "tflite": _Rules(
        (4, 8), 32, masks_zeros=False, tensor_bytes=60, decodes=False, sparse_floats=True
    ),
    "mlpackage": _Rules((1, 2, 3, 4, 6, 8), 16, masks_zeros=True, tensor_bytes=700),
}


class StoredSizeModel(SizeModel):
    """Sizes of one network's policies in one of these formats."""

    prior_ratio = 1.0

    def __init__(self, profile: ModelProfile, artifact_format: str) -> None:
        """Args: profile: of the network; artifact_format: a key of `_RULES`."""
        super().__init__(profile)
        self._rules = _RULES[artifact_format]
        weights_bytes = profile.fp32_bytes * self._rules.float_bits // 32
        self._graph_bytes = max(0, profile.baseline_size_bytes - weights_bytes)

    def layer(
        self,
        layer: LayerProfile,
        asked: LayerPolicy,
        scheme: str = "symmetric",  # noqa: ARG002 -- as many bits either way
        granularity: str = "tensor",
        inputs_kept: float = 1.0,
    ) -> LayerSize:
        """One layer under one LayerPolicy; see `SizeModel.layer`."""
        kept, count = channels(layer, asked)
        return _layer_size(self._rules, layer, asked, granularity, inputs_kept, kept / count)

    @cached_property
    def rest(self) -> LayerSize:
        """The graph, and what belongs to no layer that stages touch."""
        other_bytes = self.profile.other_bytes * self._rules.float_bits / 32
        return LayerSize("", values_bytes=other_bytes, overhead_bytes=self._graph_bytes)


def _layer_size(
    rules: _Rules,
    layer: LayerProfile,
    asked: LayerPolicy,
    granularity: str,
    inputs: float,
    outputs: float,
) -> LayerSize:
    if asked.pattern == "channel":
        # Whole channels go, so what is left of the layer is as dense as before.
        asked = replace(asked, sparsity=0.0, pattern="element")
    count = layer.weight_count * inputs * outputs
    per_channel = asked.bits < 16 and asked.clusters is None and granularity == "channel"
    per_channel = per_channel and not layer.has_one_scale
    bits, positions = _weight_bits(rules, asked, per_channel=per_channel)
    if rules.sparse_floats and (bits >= 16 or layer.has_one_scale):
        bits, positions = _row_bits(layer, asked, bits)
    bias_bits = _weight_bits(rules, LayerPolicy(bits=asked.bias_bits), per_channel=False)[0]
    return LayerSize(
        layer.name,
        positions_bytes=count * positions / 8,
        values_bytes=count * bits / 8,
        tables_bytes=_tables_bytes(rules, layer, asked, outputs, per_channel=per_channel),
        bias_bytes=layer.bias_size * outputs * bias_bits / 8,
        overhead_bytes=0 if asked == LayerPolicy() else rules.tensor_bytes,
    )


def _weight_bits(rules: _Rules, asked: LayerPolicy, *, per_channel: bool) -> tuple[float, float]:
    """(bits of codes, bits of a mask) a weight, zeros masked where that is smaller."""
    if not rules.decodes and asked.bits >= 16:
        return float(min(asked.bits, rules.float_bits)), 0.0
    if not rules.decodes:
        asked = replace(asked, clusters=None)  # shared values are levels like any others
    dense = code_bits(rules.widths, asked, rules.float_bits)
    if per_channel and rules.masks_zeros:
        return (4.0 if dense <= 4 else 8.0), 0.0  # Core ML has 4- and 8-bit levels only
    if not rules.masks_zeros:
        return float(dense), 0.0
    kept = 1.0 - asked.sparsity
    masked = kept * code_bits(rules.widths, asked, rules.float_bits, zero=0)
    return (masked, 1.0) if 1.0 + masked < dense else (float(dense), 0.0)


def _row_bits(layer: LayerProfile, asked: LayerPolicy, float_bits: float) -> tuple[float, float]:
    """(bits of values, bits of positions) a weight of TFLite's sparse rows, or the dense ones.

    A row is what one position of the kernel reads: (inputs,). Each kept weight has its place in the
    row, each row the number of weights before it, both in the narrowest of 1, 2 and 4 bytes.
    """
    row, count = layer.weight_shape[1], layer.weight_count
    kept = 1.0 - asked.sparsity
    gates = 4 if layer.kind == "LSTM" else 1  # a tensor each
    place, before = (
        next(width for width in (8, 16, 32) if top < 2**width)
        for top in (row - 1, kept * count / gates)
    )
    positions = kept * place + before / row
    # Halves behind rows are not read right by what is not a convolution or a product.
    row_bits = 32.0 if layer.has_one_scale and float_bits == 16 else float_bits
    if kept * row_bits + positions + 8 * 270 * gates / count < float_bits:
        return kept * row_bits, positions
    return float_bits, 0.0


def code_bits(widths: tuple[int, ...], asked: LayerPolicy, float_bits: int, zero: int = 1) -> int:
    """Width of one weight's code: of a level or an index, else of a float.

    Args:
        widths: those the format has, ascending.
        asked: of the layer.
        float_bits: of a float that is left alone.
        zero: 1 if zero needs a code too, 0 if it has a mask.
    """
    if asked.clusters is None and asked.bits >= 16:
        return min(asked.bits, float_bits)
    # A symmetric grid has 2^bits - 2 levels besides zero.
    values = 2**asked.bits - 2 if asked.bits < 16 else None
    most = min(v for v in (asked.clusters, values) if v is not None)
    return next((bits for bits in widths if most + zero <= 2**bits), 16)


def _tables_bytes(
    rules: _Rules, layer: LayerProfile, asked: LayerPolicy, outputs: float, *, per_channel: bool
) -> float:
    entry_bits = 8 if asked.bits < 16 else min(asked.bits, rules.float_bits)
    entries = 0 if asked.clusters is None or not rules.decodes else asked.clusters + 1
    scales = 0.0
    if asked.bits < 16:
        scales = layer.weight_shape[0] * outputs if per_channel else 1.0
    return entries * entry_bits / 8 + scales * rules.float_bits / 8


def stored_formats() -> tuple[str, ...]:
    """The formats this module knows."""
    return tuple(_RULES)


def size_model(profile: ModelProfile, artifact_format: str) -> SizeModel:
    """The model of a format's files."""
    if artifact_format == "packed":
        return SizeModel(profile)
    return StoredSizeModel(profile, artifact_format)
