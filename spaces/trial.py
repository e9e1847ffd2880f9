"""Finished facts: what a policy was worth, or why it could not be had."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spaces.budget import Budget
from spaces.metric import Metric, Reading
from spaces.policy import Policy

__all__ = [
    "Failure",
    "Identity",
    "Latency",
    "LayerAudit",
    "LedgerLine",
    "Measurement",
    "StageAudit",
    "Trial",
    "tensor_name",
    "violations",
]


def tensor_name(layer: str, tensor: str) -> str:
    """`("fc1", "weight")` -> `"fc1.weight"`; a network that is one layer has the name "".

    This is how a state dict names it, and so how files, ledgers and checks do.
    """
    return f"{layer}.{tensor}" if layer else tensor


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two evaluations the same one. No identity is evaluated twice.

    Attributes:
        workload: name of the trained network and its data.
        artifact_format: e.g. "packed".
        policy_digest: of the policy.
        fidelity: training samples seen by fine-tuning; 0 = post-training.
        repeat: 0, 1, ... for further runs of one policy with other random numbers.
        seed: of the study.
    """

    workload: str
    artifact_format: str
    policy_digest: str
    fidelity: int
    repeat: int
    seed: int

    @property
    def key(self) -> str:
        """One line of text, unique to the identity."""
        return (
            f"{self.workload}/{self.artifact_format}/{self.policy_digest}"
            f"/f{self.fidelity}/r{self.repeat}/s{self.seed}"
        )


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """Bytes of one section of a file; the lines of a file sum to its size.

    Attributes:
        layer: the tensor, e.g. "fc1.weight", or "" for a section of the whole file.
        section: e.g. "positions", "codebook".
        size_bytes: counted by the section's own encoder.
    """

    layer: str
    section: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LayerAudit:
    """One layer's effective weights after a stage."""

    sparsity: float
    distinct_nonzero: int


@dataclass(frozen=True, slots=True)
class StageAudit:
    """What a stage did. `destroyed` names what an earlier stage established and this one broke."""

    stage: str
    samples: int
    seconds: float
    metric: float
    layers: Mapping[str, LayerAudit]
    destroyed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one inference.

    Attributes:
        median_ms, p95_ms: p95 equals the median for a model.
        source: "measured", "calibrated" or "modelled".
        device: what it was measured on or modelled for, e.g. "torch-cpu on build-7".
        layers_ms: per layer, where a model gives it.
    """

    median_ms: float
    p95_ms: float
    source: str
    device: str
    layers_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """Everything a finished evaluation knows.

    A network whose metric is not a finite number is a `Failure`, never a measurement: NaN would be
    within every limit, and nothing would dominate it.

    Attributes:
        metric, metric_se: on the validation split, of the DECODED file's network.
        metric_samples: how many samples stand behind it.
        size_bytes: of the file on disk in the target's format.
        download_bytes: of the `packed` form.
        sha256: of the file.
        ledger: where the bytes are.
        macs: multiply-accumulates of one inference without pruned channels.
        latency: on the target.
        seconds: phase -> wall seconds ("train", "encode", "score", "latency").
        audit: one entry a stage.
        device: where it was fine-tuned.
        secondary: name of a further metric -> its reading, on the same samples of the same
            network. No budget acts on them and no front is made of them; {} in records of before.
    """

    metric: float
    metric_se: float
    metric_samples: int
    size_bytes: int
    download_bytes: int
    sha256: str
    ledger: tuple[LedgerLine, ...]
    macs: int
    latency: Latency
    seconds: Mapping[str, float]
    audit: tuple[StageAudit, ...]
    device: str = "cpu"
    secondary: Mapping[str, Reading] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("metric", "metric_se"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, but got {getattr(self, name)}")
        positive = {"size_bytes": self.size_bytes, "latency median_ms": self.latency.median_ms}
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, but got {value}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; equal to `dataclasses.asdict`, which takes five times as long."""
        latency = self.latency
        audit = tuple(
            {
                **_fields(stage),
                "layers": {name: _fields(layer) for name, layer in stage.layers.items()},
            }
            for stage in self.audit
        )
        return {
            **_fields(self),
            "ledger": tuple(map(_fields, self.ledger)),
            "latency": {**_fields(latency), "layers_ms": dict(latency.layers_ms)},
            "seconds": dict(self.seconds),
            "audit": audit,
            "secondary": {name: _fields(reading) for name, reading in self.secondary.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Measurement":
        """The inverse of `to_dict`, also after JSON."""
        audit = tuple(
            StageAudit(
                **{
                    **stage,
                    "layers": {n: LayerAudit(**a) for n, a in stage["layers"].items()},
                    "destroyed": tuple(stage["destroyed"]),
                }
            )
            for stage in data["audit"]
        )
        ledger = tuple(LedgerLine(**line) for line in data["ledger"])
        latency = Latency(**data["latency"])
        secondary = {n: Reading(**r) for n, r in data.get("secondary", {}).items()}
        changed = {"audit": audit, "ledger": ledger, "latency": latency, "secondary": secondary}
        return cls(**{**data, **changed})


@dataclass(frozen=True, slots=True)
class Failure:
    """An expected failure of one evaluation, as a value."""

    layer: str
    stage: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return _fields(self)

    def __str__(self) -> str:
        where = " ".join(part for part in (self.stage, self.layer) if part)
        return f"{where}: {self.reason}" if where else self.reason


@dataclass(frozen=True)
class Trial:
    """A finished evaluation. Running work is a Future, never a Trial.

    Attributes:
        number: position in the record, from 0.
        identity, policy, outcome: what was asked and what came of it.
        origin: who proposed it: "reference:NAME", "warm start", "tpe", "finalist", ...
        seen: how many finished trials the proposer had seen.
        running: identity keys in flight when it was proposed, so that a run can be replayed.
        sampler_attrs: what an Optuna sampler wants to find again on this trial.
        finished_at: seconds since the epoch.
    """

    number: int
    identity: Identity
    policy: Policy
    outcome: Measurement | Failure
    origin: str = ""
    seen: int = 0
    running: tuple[str, ...] = ()
    sampler_attrs: Mapping[str, Any] = field(default_factory=dict)
    finished_at: float = 0.0

    @property
    def measurement(self) -> Measurement | None:
        """The measurement, or None of a failed trial."""
        return self.outcome if isinstance(self.outcome, Measurement) else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        kind = "measurement" if isinstance(self.outcome, Measurement) else "failure"
        return {
            "number": self.number,
            "identity": _fields(self.identity),
            "policy": self.policy.to_dict(),
            kind: self.outcome.to_dict(),
            "origin": self.origin,
            "seen": self.seen,
            "running": list(self.running),
            "sampler_attrs": dict(self.sampler_attrs),
            "finished_at": self.finished_at,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Trial":
        """The inverse of `to_dict`."""
        outcome: Measurement | Failure
        if "measurement" in data:
            outcome = Measurement.from_dict(data["measurement"])
        else:
            outcome = Failure(**data["failure"])
        return cls(
            number=data["number"],
            identity=Identity(**data["identity"]),
            policy=Policy.from_dict(data["policy"]),
            outcome=outcome,
            origin=data["origin"],
            seen=data["seen"],
            running=tuple(data["running"]),
            sampler_attrs=data["sampler_attrs"],
            finished_at=data["finished_at"],
        )

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass of plain values as `dataclasses.asdict` gives it, a record line's time faster."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def violations(
    measurement: Measurement, budget: Budget, metric: Metric, baseline_metric: float
) -> dict[str, float]:
    """How far a measurement is over each limit; <= 0 keeps it. Every key is always present.

    Excesses are relative (0.04 = 4 % over) for bytes and latency, in the metric's unit for the
    metric; -1 where there is no limit. Point estimates judge, not error bars.
    """

    def relative(value: float, limit: float | None) -> float:
        return -1.0 if limit is None else value / limit - 1.0

    limit = budget.metric_limit(metric, baseline_metric)
    # The tolerance is for rounding: in floats 0.9812 - 0.01 is not exactly 0.9712.
    metric_excess = -1.0 if limit is None else metric.drop(measurement.metric, limit) - 1e-9
    return {
        "size_bytes": relative(measurement.size_bytes, budget.size_bytes),
        "download_bytes": relative(measurement.download_bytes, budget.download_bytes),
        "latency_ms": relative(measurement.latency.median_ms, budget.latency_ms),
        "metric": metric_excess,
    }
