"""The plain values that cross between a driver and its workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spaces import Metric, ModelProfile, Reading

__all__ = ["Profiled", "Scored", "Verified", "WorkerContext"]


@dataclass(frozen=True)
class WorkerContext:
    """What a worker must know once.

    Attributes:
        workload, target: by name; the worker resolves them itself.
        artifact_format: e.g. "packed".
        artifacts_dir: where files are written.
        device: "auto", "cpu" or "cuda".
        profile: None until it is made.
        store: s3://... of the study's files; "" = they lie in `artifacts_dir`, which all see.
        token: what the driver left in the folder above `artifacts_dir`; "" = not looked for.
    """

    workload: str
    target: str
    artifact_format: str
    artifacts_dir: str
    device: str = "auto"
    profile: ModelProfile | None = None
    store: str = ""
    token: str = ""


@dataclass(frozen=True)
class Profiled:
    """The profile and what else the driver must know of a workload.

    Attributes:
        search_fidelity, full_fidelity: the recipe's defaults, in training samples.
        has_test: whether there is a test split to report on.
        secondary: what is measured beside the metric.
    """

    profile: ModelProfile
    metric: Metric
    backend: str
    device: str
    train_samples: int
    search_fidelity: int
    full_fidelity: int
    batch_size: int
    has_test: bool
    secondary: tuple[Metric, ...] = ()


@dataclass(frozen=True, slots=True)
class Verified:
    """What a fresh decode of a file gave; `secondary` as `Measurement.secondary`."""

    size_bytes: int
    sha256: str
    metric: float
    metric_se: float
    metric_samples: int
    secondary: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a kept file is worth on a split; `secondary` as `Measurement.secondary`."""

    metric: float
    metric_se: float
    metric_samples: int
    secondary: Mapping[str, Reading] = field(default_factory=dict)
