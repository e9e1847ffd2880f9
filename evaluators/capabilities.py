"""What each backend can do. Importable without its framework: the driver builds the space."""

from spaces import Capabilities, InvalidRequest, LayerCapabilities
from spaces.policy import CRITERIA, PATTERNS
from spaces.search_space import BITS, CLUSTERS

__all__ = ["backend_capabilities"]

_TORCH_LAYER = LayerCapabilities(
    bits=frozenset(BITS),
    clusters=frozenset(CLUSTERS),
    patterns=frozenset(PATTERNS),
    bias_bits=frozenset(BITS),
)
_BACKENDS = {
    "torch": Capabilities(
        name="torch",
        layers=dict.fromkeys(("Linear", "Conv1d", "Conv2d"), _TORCH_LAYER),
        activation_bits=frozenset({32, 8}),
        criteria=frozenset(CRITERIA),
    )
}


def backend_capabilities(backend: str) -> Capabilities:
    """What a backend can do.

    Args:
        backend: "torch".

    Raises:
        InvalidRequest: an unknown backend.
    """
    if backend not in _BACKENDS:
        raise InvalidRequest(f"backend must be one of {', '.join(_BACKENDS)}, but got {backend!r}")
    return _BACKENDS[backend]
