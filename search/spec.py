"""What a study is: everything that decides which trials it makes. Plain JSON in the record."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spaces import Budget, Identity, Metric, Policy

__all__ = ["FULL_SUFFIX", "StudySpec"]

#: The Optuna study NAME@full holds the finalists at full fidelity.
FULL_SUFFIX = "@full"


@dataclass(frozen=True)
class StudySpec:
    """A request, units converted. A record belongs to exactly one spec.

    Attributes:
        name: of the study.
        workload: a registered name, or "path/to/file.py:function".
        target: name of the hardware profile.
        artifact_format: what size_bytes is measured in.
        budget: the hard limits.
        metric: what the workload is judged by.
        proposer: name, e.g. "warm".
        seed: of everything random.
        trials: how many finished trials are asked for.
        fidelity: training samples a searched trial sees.
        full_fidelity: training samples a finalist sees.
        finalists: how many distinct front members are run again at full fidelity.
        device: "auto", "cpu" or "cuda", for fine-tuning.
        restrictions: the parsed `--space` file.
        target_sha256: of the target's figures; "" in records of before it was kept.
        artifacts: s3://... where files are kept; "" = in the study's folder.
        notes: sentences the user should read; they decide nothing.
        secondary: what is measured beside the metric, to be shown; decides nothing either.
    """

    name: str
    workload: str
    target: str
    artifact_format: str
    budget: Budget
    metric: Metric
    proposer: str
    seed: int
    trials: int
    fidelity: int
    full_fidelity: int
    finalists: int
    device: str = "auto"
    restrictions: Mapping[str, Any] = field(default_factory=dict)
    target_sha256: str = ""
    artifacts: str = ""
    notes: tuple[str, ...] = ()
    secondary: tuple[Metric, ...] = ()

    def identity(self, policy: Policy, fidelity: int, repeat: int = 0) -> Identity:
        """The identity of one evaluation in this study."""
        effective = policy.post_training() if fidelity == 0 else policy
        return Identity(
            workload=self.workload,
            artifact_format=self.artifact_format,
            policy_digest=effective.digest,
            fidelity=fidelity,
            repeat=repeat,
            seed=self.seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        lists = {
            "restrictions": dict(self.restrictions),
            "notes": list(self.notes),
            "secondary": [asdict(metric) for metric in self.secondary],
        }
        return {**asdict(self), **lists}

    def to_json(self) -> str:
        """Sorted keys, one line."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "StudySpec":
        """The inverse of `to_dict`."""
        budget, metric = Budget(**data["budget"]), Metric(**data["metric"])
        notes = tuple(data.get("notes", ()))
        secondary = tuple(Metric(**each) for each in data.get("secondary", ()))
        read = {"budget": budget, "metric": metric, "notes": notes, "secondary": secondary}
        return cls(**{**data, **read})
