"""The vocabulary: policies, spaces, measurements, fronts. Standard library and numpy only."""

from spaces.budget import BYTES_PER_KB, Budget
from spaces.capabilities import Capabilities, LayerCapabilities
from spaces.errors import InvalidRequest, SearchError, StorageLost, StudyBroken, WorkerLost
from spaces.front import Certificate, Front, Judge, Step, hypervolume, nondominated
from spaces.metric import ACCURACY, Metric, Reading
from spaces.policy import (
    Distillation,
    LayerPolicy,
    Policy,
    Stage,
    format_order,
    kept_channels,
    parse_order,
)
from spaces.profile import LayerProfile, ModelProfile, Sensitivity
from spaces.search_space import Knob, SearchSpace, build_space
from spaces.target import Figure, Target
from spaces.trial import (
    Failure,
    Identity,
    Latency,
    LayerAudit,
    LedgerLine,
    Measurement,
    StageAudit,
    Trial,
    tensor_name,
)

__all__ = [
    "ACCURACY",
    "BYTES_PER_KB",
    "Budget",
    "Capabilities",
    "Certificate",
    "Distillation",
    "Failure",
    "Figure",
    "Front",
    "Identity",
    "InvalidRequest",
    "Judge",
    "Knob",
    "Latency",
    "LayerAudit",
    "LayerCapabilities",
    "LayerPolicy",
    "LayerProfile",
    "LedgerLine",
    "Measurement",
    "Metric",
    "ModelProfile",
    "Policy",
    "Reading",
    "SearchError",
    "SearchSpace",
    "Sensitivity",
    "Stage",
    "StageAudit",
    "Step",
    "StorageLost",
    "StudyBroken",
    "Target",
    "Trial",
    "WorkerLost",
    "build_space",
    "format_order",
    "hypervolume",
    "kept_channels",
    "nondominated",
    "parse_order",
    "tensor_name",
]
