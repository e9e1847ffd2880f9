"""What each backend can do. Importable without its framework: the driver builds the space."""

from dataclasses import replace

from spaces import Capabilities, InvalidRequest, LayerCapabilities
from spaces.policy import ALL_ORDERS, CRITERIA, PATTERNS, Stage
from spaces.search_space import BITS, CLUSTERS

__all__ = ["backend_capabilities"]

_TORCH_LAYER = LayerCapabilities(
    bits=frozenset(BITS),
    clusters=frozenset(CLUSTERS),
    patterns=frozenset(PATTERNS),
    bias_bits=frozenset(BITS),
)
#: Rows of an embedding are words and rows of a gate are read by every step: single weights go.
_TORCH_ELEMENTS = replace(_TORCH_LAYER, patterns=frozenset({"element"}))
#: TFMOT prunes single weights, and its nearest-centroid search costs weights x clusters of memory;
#: TFLite has kernels for 8, 16 and 32 bits.
_KERAS_LAYER = LayerCapabilities(
    bits=frozenset({8, 16, 32}),
    clusters=frozenset(k for k in CLUSTERS if k is None or k <= 64),
    patterns=frozenset({"element"}),
    bias_bits=frozenset({16, 32}),
)
#: Embeddings and LSTMs have a wrapper of our own, which counts no distances; one scale a weight
#: whatever the granularity (`spaces.profile.ONE_SCALE_KINDS`).
_KERAS_OWN_LAYER = replace(_KERAS_LAYER, clusters=frozenset(CLUSTERS))
_CHAIN = (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE)
#: TFMOT preserves along prune, cluster, quantize and never back; distillation goes anywhere.
_KERAS_ORDERS = frozenset(
    order
    for order in ALL_ORDERS
    if [s for s in order if s in _CHAIN] == [s for s in _CHAIN if s in order]
)
_BACKENDS = {
    "keras": Capabilities(
        name="keras",
        layers={
            **dict.fromkeys(("Linear", "Conv1d", "Conv2d"), _KERAS_LAYER),
            **dict.fromkeys(("Embedding", "LSTM"), _KERAS_OWN_LAYER),
        },
        orders=_KERAS_ORDERS,
        distillation_kinds=frozenset({"none", "logits"}),
        schemes=frozenset({"symmetric"}),
    ),
    "torch": Capabilities(
        name="torch",
        layers={
            **dict.fromkeys(("Linear", "Conv1d", "Conv2d"), _TORCH_LAYER),
            **dict.fromkeys(("Embedding", "LSTM", "GRU"), _TORCH_ELEMENTS),
        },
        activation_bits=frozenset({32, 8}),
        criteria=frozenset(CRITERIA),
    ),
}


def backend_capabilities(backend: str) -> Capabilities:
    """What a backend can do.

    Args:
        backend: "torch" or "keras".

    Raises:
        InvalidRequest: an unknown backend.
    """
    if backend not in _BACKENDS:
        raise InvalidRequest(f"backend must be one of {', '.join(_BACKENDS)}, but got {backend!r}")
    return _BACKENDS[backend]
