"""The hard limits a user sets."""

import math
from dataclasses import dataclass, fields

from spaces.errors import InvalidRequest
from spaces.metric import Metric

__all__ = ["BYTES_PER_KB", "Budget"]

#: 1 KB is 1000 bytes, everywhere in this product.
BYTES_PER_KB = 1000


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard limits; None = no limit.

    Attributes:
        size_bytes: of the target format's file, as deployed.
        download_bytes: of the `packed` file.
        latency_ms: of one inference on the target.
        min_metric: the least acceptable metric (the greatest, where lower is better).
        max_drop: the most the metric may be worse than the baseline's, in the metric's unit.
    """

    size_bytes: int | None = None
    download_bytes: int | None = None
    latency_ms: float | None = None
    min_metric: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.to_dict().items():
            if not math.isfinite(limit):
                raise InvalidRequest(f"budget {name} must be finite, but got {limit}")
        for name in ("size_bytes", "download_bytes", "latency_ms"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidRequest(f"budget {name} must be above 0, but got {value}")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise InvalidRequest(f"budget max_drop must be at least 0, but got {self.max_drop}")

    def metric_limit(self, metric: Metric, baseline: float) -> float | None:
        """The tightest of `min_metric` and `max_drop`, as a value of the metric."""
        limits = [] if self.min_metric is None else [self.min_metric]
        if self.max_drop is not None:
            sign = 1 if metric.higher_is_better else -1
            limits.append(baseline - sign * self.max_drop)
        if not limits:
            return None
        return max(limits) if metric.higher_is_better else min(limits)

    def to_dict(self) -> dict[str, float]:
        """The limits that are set."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in pairs if value is not None}
