"""Size and latency before any training: closed forms in numpy, importable without torch."""

from evaluators.cost.latency import (
    call_latency_ms,
    channels,
    layer_latency_ms,
    layer_macs,
    macs,
    modelled_latency,
)
from evaluators.cost.size import (
    KINDS,
    CalibratedSize,
    LayerSize,
    SizeBand,
    SizeModel,
    file_kind,
    layer_kind,
    predicted_bytes,
)
from evaluators.cost.stored_size import size_model
from evaluators.cost.targets import list_targets, load_target
from evaluators.formats import format_capabilities

__all__ = [
    "KINDS",
    "CalibratedSize",
    "LayerSize",
    "SizeBand",
    "SizeModel",
    "call_latency_ms",
    "channels",
    "file_kind",
    "format_capabilities",
    "layer_kind",
    "layer_latency_ms",
    "layer_macs",
    "list_targets",
    "load_target",
    "macs",
    "modelled_latency",
    "predicted_bytes",
    "size_model",
]
