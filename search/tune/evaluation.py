"""What a Tune trial does: one policy, from the config to the numbers Tune's loggers see.

Imports no Ray: it is sent to worker processes by value.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluators import tasks
from evaluators.messages import WorkerContext
from spaces import Failure, Identity, InvalidRequest, Measurement, Policy

__all__ = ["OUTCOME", "Evaluation", "config_of", "job_parts", "outcome_of"]

#: The key of a result that holds everything the searcher learns from, as JSON in one string:
#: loggers would make a column of each of its hundreds of numbers.
OUTCOME = "outcome"


def config_of(identity: Identity, policy: Policy, origin: str) -> dict[str, Any]:
    """What Tune hands to a trial: plain values, so that Tune's tables show every knob."""
    return {"identity": asdict(identity), "policy": policy.to_dict(), "origin": origin}


def job_parts(config: Mapping[str, Any]) -> tuple[Identity, Policy, str]:
    """The inverse of `config_of`.

    Raises:
        InvalidRequest: the config is not one of a `PolicySearcher`.
    """
    try:
        identity = Identity(**config["identity"])
        return identity, Policy.from_dict(config["policy"]), str(config["origin"])
    except (KeyError, TypeError):
        raise InvalidRequest(
            "config must be one that a PolicySearcher suggested, with `identity`, `policy` and "
            f"`origin`, but has {', '.join(sorted(map(str, config))) or 'nothing'}"
        ) from None


@dataclass(frozen=True)
class Evaluation:
    """Compresses, writes, decodes, scores and times the policy of a trial's config.

    A process loads the workload once, however many trials it runs (`reuse_actors`).

    Attributes:
        context: of the study's workers.
        metric_name: what the metric is called in results.
    """

    context: WorkerContext
    metric_name: str

    def __call__(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's config -> the result to report.

        Returns:
            The metric, `size_bytes`, `download_bytes`, `latency_ms` with `latency_source` (as known
            here: a node that is the target times files later), `failure` ("" or the reason, the
            numbers are NaN then), and `outcome`, which the searcher needs as it is.

        Raises:
            InvalidRequest: the config is not one of a `PolicySearcher`, or the workload cannot be
                loaded here.
            StudyBroken: the file cannot be written.
        """
        identity, policy, _ = job_parts(config)
        tasks.setup(self.context)
        return self.report(tasks.evaluate(identity, policy))

    def report(self, outcome: Measurement | Failure) -> dict[str, Any]:
        """An outcome as a result."""
        kind = "measurement" if isinstance(outcome, Measurement) else "failure"
        return {**self._numbers(outcome), OUTCOME: json.dumps({kind: outcome.to_dict()})}

    def _numbers(self, outcome: Measurement | Failure) -> dict[str, Any]:
        if isinstance(outcome, Failure):
            names = (self.metric_name, "size_bytes", "download_bytes", "latency_ms")
            numbers = dict.fromkeys(names, math.nan)
            return {**numbers, "latency_source": "", "failure": str(outcome)}
        return {
            self.metric_name: outcome.metric,
            "size_bytes": outcome.size_bytes,
            "download_bytes": outcome.download_bytes,
            "latency_ms": outcome.latency.median_ms,
            "latency_source": outcome.latency.source,
            "failure": "",
        }


def outcome_of(result: Mapping[str, Any] | None) -> Measurement | Failure:
    """What a Tune result says, also one that is incomplete: stopped early, or of another trainable.

    Args:
        result: Tune's last result of the trial; None = it raised.
    """
    if result is None:
        return Failure("", "tune", "the trial raised, or its process died")
    if OUTCOME not in result:
        return Failure("", "tune", f"the trial ended without reporting `{OUTCOME}`")
    data = json.loads(result[OUTCOME])
    if "measurement" in data:
        return Measurement.from_dict(data["measurement"])
    return Failure(**data["failure"])
