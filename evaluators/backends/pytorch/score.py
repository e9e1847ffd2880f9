"""The metric of a network on a split."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evaluators.backends.base import Score, mean_score
from evaluators.workloads.base import Split, Workload, correct
from spaces import InvalidRequest

__all__ = ["evaluate", "sample_scores", "task_loss"]

#: Samples a forward pass: more are no faster, and feature maps fall out of the cache.
BATCH = 250


@torch.no_grad()
def evaluate(model: Callable[[Tensor], Tensor], workload: Workload, split: Split) -> Score:
    """Mean score over a split with its standard error, sd / sqrt(samples).

    Args:
        model: in eval mode, on the split's device; or another runtime's network.
        workload: gives `prepare` and `score`.
        split: which samples.

    Raises:
        InvalidRequest: `score` does not give one finite number a sample.
    """
    values = sample_scores(model, workload, split).cpu().numpy()
    return mean_score(values, workload.name)


@torch.no_grad()
def sample_scores(
    model: Callable[[Tensor], Tensor],
    workload: Workload,
    split: Split,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """(samples,) float64, each sample's score.

    Args:
        model: in eval mode, on the split's device; or another runtime's network.
        workload: gives `prepare` and `score`.
        split: which samples.
        score: of a secondary metric; None = the workload's own.

    Raises:
        InvalidRequest: `score` does not give one number a sample.
    """
    score = score or workload.score
    scores = []
    for inputs, targets in zip(split.inputs.split(BATCH), split.targets.split(BATCH), strict=True):
        # A copy: a network that computes in place would change the stored samples.
        values = score(model(workload.prepare(inputs.clone())), targets)
        if values.shape != targets.shape[:1]:
            raise InvalidRequest(
                f"workload {workload.name}: score must give one number a sample, shape "
                f"{tuple(targets.shape[:1])}, but gave shape {tuple(values.shape)}{_hint(score)}"
            )
        scores.append(values.double())
    return torch.cat(scores)


@torch.no_grad()
def task_loss(model: nn.Module, workload: Workload, split: Split) -> float:
    """The task loss (the workload's own, without distillation), averaged over a split."""
    total = 0.0
    for inputs, targets in zip(split.inputs.split(BATCH), split.targets.split(BATCH), strict=True):
        outputs = model(workload.prepare(inputs.clone()))
        total += workload.loss(outputs, targets).item() * len(targets)
    return total / len(split)


def _hint(score: Callable[[Tensor, Tensor], Tensor]) -> str:
    if score is not correct:
        return ""
    return "; the default score is accuracy: give one, e.g. lambda o, t: ((o - t) ** 2).mean(1)"
