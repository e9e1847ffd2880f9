"""What stands behind a worker: one framework with one workload loaded, and the files it writes.

`evaluators.worker.Worker` owns a trial's flow and knows no framework; what only a framework can do
is a method of `Backend`. Importing this module imports none.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from evaluators.artifacts.base import Slices
from evaluators.artifacts.files import Content
from evaluators.artifacts.packed import Artifact
from evaluators.workloads.recipe import Recipe
from spaces import (
    Failure,
    InvalidRequest,
    LayerAudit,
    LayerProfile,
    LedgerLine,
    Metric,
    Policy,
    Stage,
    StageAudit,
)

__all__ = [
    "AnyWorkload",
    "Backend",
    "Compressed",
    "FileFormat",
    "Removal",
    "Restored",
    "Scan",
    "Score",
    "Seeds",
    "SplitName",
    "destroyed",
    "mean_score",
    "stage_knobs",
    "stage_samples",
]

#: (metric, its standard error, samples)
Score = tuple[float, float, int]
SplitName = Literal["validation", "test"]
R_contra = TypeVar("R_contra", contravariant=True)


class AnyWorkload(Protocol):
    """What a worker must know of a workload, whichever framework its network is in."""

    @property
    def name(self) -> str:
        """Shown to people."""
        ...

    @property
    def backend(self) -> str:
        """Which framework: a key of `evaluators.capabilities`."""
        ...

    @property
    def metric(self) -> Metric:
        """What is measured."""
        ...

    @property
    def recipe(self) -> Recipe:
        """How to fine-tune."""
        ...

    @property
    def train(self) -> Sized:
        """The training split."""
        ...

    @property
    def test(self) -> Sized | None:
        """The test split, if there is one."""
        ...


class Removal(Protocol):
    """The output channels a policy removed from a file."""

    @property
    def slices(self) -> Slices:
        """What is left of each tensor that lost elements; {} where none did."""
        ...


@dataclass(frozen=True)
class Restored:
    """What a file gave back.

    Attributes:
        weights: tensor -> float32 values, in the file's own shapes.
        rounded_layers: whose inputs the file rounds.
        ledger: where its bytes are.
        run: (batch, ...) prepared inputs -> outputs, as the format's runtime computes them; both
            are the backend's tensors.
        content: the file, where its runtime loads it once more.
    """

    weights: Mapping[str, np.ndarray]
    rounded_layers: frozenset[str]
    ledger: tuple[LedgerLine, ...]
    run: Callable[[Any], Any]
    content: Content = field(default_factory=dict)


class FileFormat(Protocol[R_contra]):
    """One format as one backend writes it.

    `runtime` is what a measured latency names.
    """

    name: str
    runtime: str

    def stored(self, artifact: Artifact) -> Artifact:
        """The artifact as the format's number types hold it; what the file must give back.

        Raises:
            CannotHold: a value is out of their range.
        """
        ...

    def write(self, artifact: Artifact, removal: R_contra) -> Content:
        """The file.

        Raises:
            CannotHold: the format cannot store this.
        """
        ...

    def read(self, content: Content) -> Restored:
        """Read a file and load it.

        Raises:
            DamagedArtifact: bad bytes.
            InvalidRequest: a file of another network.
        """
        ...

    def timed(self, restored: Restored, removal: R_contra) -> Callable[[], object]:
        """One inference of one sample, ready to be called many times.

        Raises:
            CannotHold: the format's runtime is not on this machine, or cannot load the file.
        """
        ...


@dataclass(frozen=True)
class Compressed:
    """A network that went through its policy.

    Attributes:
        artifact: what its file is to hold.
        effective: tensor -> the values the trained network computes with, channels first.
        layers: names of the compressible layers whose inputs 8-bit activations round.
        removal: given an artifact as it is stored, the channels that need not be in the file.
        audit: one entry a stage.
    """

    artifact: Artifact
    effective: Mapping[str, np.ndarray]
    layers: tuple[str, ...]
    removal: Callable[[Artifact], Removal]
    audit: tuple[StageAudit, ...]


@dataclass(frozen=True)
class Scan:
    """What a profile needs of the network itself.

    Attributes:
        layers: in the order of the forward pass, with their sensitivity.
        excluded: (module, reason) of every module with weights that no stage touches.
        passes: of the sensitivity scan.
        channel_groups: layers whose output channels are coupled.
        other_bytes: fp32 bytes outside the compressible layers.
        gives_logits: whether outputs are class scores, or soft targets have a loss of their own.
        has_attention: whether network and teacher have feature maps of the same shapes.
    """

    layers: tuple[LayerProfile, ...]
    excluded: tuple[tuple[str, str], ...]
    passes: int
    channel_groups: tuple[tuple[str, ...], ...]
    other_bytes: int
    gives_logits: bool
    has_attention: bool


@dataclass(frozen=True, slots=True)
class Seeds:
    """What the random numbers of an evaluation come from, besides its stages."""

    seed: int
    repeat: int
    fidelity: int

    def of_stage(self, prefix: list[object]) -> int:
        """A 63-bit seed from the stages up to and with this one, so that prefixes are shared."""
        text = json.dumps([self.seed, self.repeat, self.fidelity, prefix], sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Backend(Protocol):
    """One framework with one workload loaded."""

    #: As in `evaluators.capabilities`.
    name: str
    #: Where fine-tuning runs, e.g. "cpu".
    device: str

    @property
    def workload(self) -> AnyWorkload:
        """The workload."""
        ...

    def baseline_artifact(self) -> Artifact:
        """The uncompressed fp32 network."""
        ...

    def whole(self) -> Removal:
        """The removal of no channel."""
        ...

    def file_format(self, name: str) -> FileFormat[Any]:
        """What writes and reads files of a format.

        Raises:
            InvalidRequest: this backend does not write it.
        """
        ...

    def scan(self) -> Scan:
        """Shapes, costs and the sensitivity of every layer."""
        ...

    def compress(self, policy: Policy, seeds: Seeds) -> Compressed | Failure:
        """Run a policy's stages in its order, with an audit after each."""
        ...

    def removal(self, policy: Policy, weights: Mapping[str, np.ndarray]) -> Removal:
        """The channels a policy removed, from the whole weights it left."""
        ...

    def call(self, run: Callable[[Any], Any]) -> Callable[[], object]:
        """One inference of one sample in the framework: the `run` of a `Restored`."""
        ...

    def baseline_score(self) -> Score:
        """The uncompressed network's metric on the validation split, in the framework."""
        ...

    def sample_scores(self, run: Callable[[Any], Any], split: SplitName) -> np.ndarray:
        """(samples,) float64 scores of a network on a split.

        Args:
            run: of a `Restored`.
            split: which samples; "test" only where the workload has one.

        Raises:
            InvalidRequest: `score` does not give one number a sample.
        """
        ...

    @property
    def secondary(self) -> tuple[Metric, ...]:
        """What is measured beside the workload's metric; () of most workloads."""
        ...

    def secondary_scores(
        self, run: Callable[[Any], Any], split: SplitName
    ) -> Mapping[str, np.ndarray]:
        """Name of each secondary metric -> (samples,) float64 scores; as `sample_scores`."""
        ...


def mean_score(values: np.ndarray, workload: str) -> Score:
    """(samples,) scores -> their mean, its standard error sd / sqrt(samples), samples.

    Raises:
        InvalidRequest: the mean is not a finite number.
    """
    mean = float(values.mean())
    if not math.isfinite(mean):
        raise InvalidRequest(f"workload {workload}: the metric is {mean}, not a finite number")
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return mean, deviation / math.sqrt(len(values)), len(values)


# A policy's stages -------------------------------------------------------------------------------


def stage_samples(total: int, count: int, batch_size: int) -> list[int]:
    """Training samples of each of `count` stages: a quarter each, the last also what is left.

    Equal totals compare equal compute, however many stages a policy has; so the quarters are whole
    batches, or rounding each stage to steps would give each count of stages another total.
    """
    if count == 0:
        return []
    quarter = total // 4 // batch_size * batch_size
    return [quarter] * (count - 1) + [total - quarter * (count - 1)]


def stage_knobs(policy: Policy, stage: Stage) -> object:
    """The knobs that decide what a stage computes, JSON-ready."""
    match stage:
        case Stage.PRUNE:
            knobs = [(name, x.sparsity, x.pattern) for name, x in policy.layers]
            # Seeds of records made before there was a choice of criterion stay as they are.
            return knobs if policy.criterion == "magnitude" else [policy.criterion, knobs]
        case Stage.CLUSTER:
            return [policy.cluster_init, [(name, x.clusters) for name, x in policy.layers]]
        case Stage.QUANTIZE:
            grid = [policy.scheme, policy.granularity, policy.activation_bits]
            return [grid, [(name, x.bits, x.bias_bits) for name, x in policy.layers]]
        case Stage.DISTILL:
            distillation = policy.distillation
            return [distillation.kind, distillation.temperature, distillation.weight]


def destroyed(
    policy: Policy,
    done: Sequence[Stage],
    shapes: Mapping[str, Sequence[int]],
    layers: Mapping[str, LayerAudit],
) -> dict[str, str]:
    """Layer -> what an earlier stage established and the weights no longer show.

    Args:
        policy: what was asked.
        done: the stages so far.
        shapes: layer -> of its weight, output channels first.
        layers: what the audit after the last of them found.
    """
    broken = {}
    for name, asked in policy.layers:
        audit, shape = layers[name], shapes[name]
        if Stage.PRUNE in done:
            # What rounds to whole weights or channels, one of which always stays.
            count = shape[0] if asked.pattern == "channel" else math.prod(shape)
            pruned = math.floor(asked.sparsity * count)
            least = min(pruned, count - 1) / count if asked.pattern == "channel" else pruned / count
            if audit.sparsity < least - 1e-6:  # audits are rounded
                broken[name] = f"sparsity {audit.sparsity:.4f} of {asked.sparsity}"
        most = _most_distinct(policy, asked.clusters, asked.bits, done)
        if most is not None and audit.distinct_nonzero > most:
            values = f"{audit.distinct_nonzero} distinct values of {most}"
            broken[name] = f"{broken[name]}, {values}" if name in broken else values
    return broken


def _most_distinct(
    policy: Policy, clusters: int | None, bits: int, done: Sequence[Stage]
) -> int | None:
    limits = []
    if clusters is not None and Stage.CLUSTER in done:
        limits.append(clusters)
    per_tensor = policy.granularity == "tensor" or clusters is not None
    if bits < 16 and Stage.QUANTIZE in done and per_tensor:
        limits.append(2**bits - 1)  # one of the levels is zero
    return min(limits, default=None)
