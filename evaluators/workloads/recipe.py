"""How a workload's network is fine-tuned, whichever framework it is in."""

from dataclasses import dataclass

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How the network is fine-tuned; the same for every candidate, reference and baseline.

    Attributes:
        batch_size: samples a step.
        learning_rate: Adam's peak; warm-up over the first `warmup_share` of a stage's steps, then
            a cosine down to `final_share` of the peak.
        search_epochs: default fidelity of a search, in passes over the training split.
        full_epochs: default fidelity of the finalists.
    """

    batch_size: int = 250
    learning_rate: float = 1e-3
    warmup_share: float = 0.05
    final_share: float = 0.02
    search_epochs: float = 2.0
    full_epochs: float = 10.0
