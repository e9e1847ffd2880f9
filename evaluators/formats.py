"""The file formats by name: what each one needs and can store. Imports no library of theirs."""

from dataclasses import dataclass, replace
from importlib.util import find_spec

from evaluators.capabilities import backend_capabilities
from spaces import Capabilities, InvalidRequest, LayerCapabilities, Stage, Target
from spaces.policy import ALL_ORDERS, CRITERIA, GRANULARITIES, PATTERNS, SCHEMES
from spaces.search_space import BITS, CLUSTERS

__all__ = [
    "FORMATS",
    "Format",
    "check_installed",
    "choose_format",
    "format_capabilities",
    "missing_libraries",
]

#: Kinds of layers whose weights files store compressed.
_KINDS = ("Linear", "Conv1d", "Conv2d")
#: Kinds that some formats store compressed too: `packed` and `onnx` whatever has weights. A GRU is
#: a loop of operators in Core ML and in LiteRT, which is not written.
_MORE_KINDS = {
    "packed": ("Embedding", "LSTM", "GRU"),
    "onnx": ("Embedding", "LSTM", "GRU"),
    "mlpackage": ("Embedding", "LSTM"),
    "tflite": ("Embedding", "LSTM"),
}


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        extra: of this package, which installs its libraries; "" = none is needed.
        libraries: import names.
        most_clusters: entries of a codebook besides 0; None = any that the space offers.
        schemes: of quantization grids.
        runtime: that runs it on this machine, "" if nothing here does.
        backends: which write it.
    """

    extra: str
    libraries: tuple[str, ...]
    most_clusters: int | None
    schemes: frozenset[str]
    runtime: str
    backends: frozenset[str] = frozenset({"torch"})


FORMATS = {
    "packed": Format("", (), None, frozenset(SCHEMES), "torch", frozenset({"torch", "keras"})),
    # Lookup tables have 8-bit indices at most, one of them for 0. The integer kernels want weights
    # without a zero point.
    "onnx": Format(
        "onnx",
        ("onnx", "onnxscript", "onnxruntime"),
        255,
        frozenset({"symmetric"}),
        "ONNX Runtime",
    ),
    # Tables have 8-bit indices at most; floats and biases are half precision; activations too.
    "mlpackage": Format("coreml", ("coremltools",), 255, frozenset({"symmetric"}), ""),
    # Shared values are levels or floats there, so any number of them does.
    "tflite": Format(
        "litert",
        ("ai_edge_litert",),
        None,
        frozenset({"symmetric"}),
        "LiteRT",
        frozenset({"torch", "keras"}),
    ),
}
#: What a half-precision format offers: 16 bits would be the same file as "leave".
_HALF_BITS = frozenset(BITS) - {16}


def missing_libraries(name: str) -> tuple[str, ...]:
    """Import names of a format's libraries that are not installed."""
    return tuple(library for library in FORMATS[name].libraries if find_spec(library) is None)


def check_installed(name: str) -> None:
    """Refuse a format that does not exist or whose libraries are missing.

    Raises:
        InvalidRequest: naming the extra.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise InvalidRequest(f"--format must be one of {known}, but got {name!r}")
    if missing := missing_libraries(name):
        extra = FORMATS[name].extra
        raise InvalidRequest(
            f"format {name} needs {', '.join(missing)}, not installed here: "
            f"pip install 'compression-search[{extra}]'"
        )


def choose_format(asked: str | None, target: Target, backend: str = "torch") -> tuple[str, str]:
    """(format of a new study, a sentence for the user where it is not the target's own).

    Args:
        asked: `--format`; None = the target's own where its libraries are installed, else packed.
        target: of the study.
        backend: of the workload.

    Raises:
        InvalidRequest: `asked` does not exist, is not installed or is not written by the backend.
    """
    if asked is not None:
        check_installed(asked)
        if asked == "tflite" and not _can_be_integers(target, backend):
            raise InvalidRequest(
                f"--format tflite for {target.name} must compute in 8-bit integers throughout, "
                f"and {backend} networks have no 8-bit activations; packed is written from them"
            )
        if backend not in FORMATS[asked].backends:
            able = ", ".join(name for name, kind in FORMATS.items() if backend in kind.backends)
            raise InvalidRequest(
                f"--format {asked} is not written from {backend} networks; {able} are"
            )
        return asked, ""
    own = target.artifact_format
    native = FORMATS.get(target.native_format)
    if native is not None and backend in native.backends:
        own = target.native_format
    if backend not in FORMATS[own].backends:
        return "packed", (
            f"target {target.name}: its format {own} is not written from {backend} networks, so "
            "sizes are those of the packed file"
        )
    if own == "tflite" and not _can_be_integers(target, backend):
        return "packed", (
            f"target {target.name}: it runs 8-bit integers only, and {backend} networks have no "
            "8-bit activations, so sizes are those of the packed file"
        )
    if missing := missing_libraries(own):
        return "packed", (
            f"target {target.name}: its format {own} needs {', '.join(missing)}, so sizes are "
            f"those of the packed file; pip install 'compression-search[{FORMATS[own].extra}]'"
        )
    return own, ""


def _can_be_integers(target: Target, backend: str) -> bool:
    """Whether a backend trains what a target that runs integers only can run."""
    return not target.integer_only or 8 in backend_capabilities(backend).activation_bits


def format_capabilities(name: str, *, integer_only: bool = False) -> Capabilities:
    """What a format can store.

    Args:
        name: of the format.
        integer_only: whether the target runs nothing else; see `Target`.

    Raises:
        InvalidRequest: no such format.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise InvalidRequest(f"artifact_format must be one of {known}, but got {name!r}")
    kind = FORMATS[name]
    most = kind.most_clusters
    if name == "tflite":
        return _integer_capabilities() if integer_only else _tflite_capabilities()
    layer = LayerCapabilities(
        bits=_HALF_BITS if name == "mlpackage" else frozenset(BITS),
        clusters=frozenset(k for k in CLUSTERS if k is None or most is None or k <= most),
        patterns=frozenset(PATTERNS),
        bias_bits=frozenset({32}) if name == "mlpackage" else frozenset(BITS),
    )
    return Capabilities(
        name=name,
        layers=dict.fromkeys((*_KINDS, *_MORE_KINDS.get(name, ())), layer),
        activation_bits=frozenset({32}) if name == "mlpackage" else frozenset({8, 32}),
        schemes=kind.schemes,
        granularities=frozenset(GRANULARITIES),
        criteria=frozenset(CRITERIA),  # it decides what is pruned, not how it is stored
    )


def _tflite_capabilities() -> Capabilities:
    """Kernels of 4 and 8 bits, and floats; what is between the layers stays float."""
    layer = LayerCapabilities(
        bits=frozenset({4, 8, 16, 32}),
        clusters=frozenset(CLUSTERS),
        patterns=frozenset(PATTERNS),
        bias_bits=frozenset({32}),
    )
    # Neither GATHER nor the fused LSTM reads int4.
    wide = replace(layer, bits=layer.bits - {4})
    return Capabilities(
        name="tflite",
        layers=dict.fromkeys(_KINDS, layer) | dict.fromkeys(_MORE_KINDS["tflite"], wide),
        schemes=FORMATS["tflite"].schemes,
        granularities=frozenset(GRANULARITIES),
        criteria=frozenset(CRITERIA),
    )


def _integer_capabilities() -> Capabilities:
    """Integers throughout: every policy quantizes weights and activations to 8 bits."""
    layer = LayerCapabilities(
        bits=frozenset({8}),
        clusters=frozenset(CLUSTERS),
        patterns=frozenset(PATTERNS),
        bias_bits=frozenset({32}),  # 32-bit integers, on the grid of the sums
    )
    return Capabilities(
        name="tflite in integers",
        layers=dict.fromkeys(("Linear", "Conv2d"), layer),
        activation_bits=frozenset({8}),
        orders=frozenset(order for order in ALL_ORDERS if Stage.QUANTIZE in order),
        schemes=FORMATS["tflite"].schemes,
        granularities=frozenset(GRANULARITIES),
        criteria=frozenset(CRITERIA),
    )
