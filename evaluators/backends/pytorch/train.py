"""The fine-tuning loop, shared by every stage: a number of samples, a loss, a callback a step."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from evaluators.backends.pytorch.adam import Adam
from evaluators.backends.pytorch.device import Precision
from evaluators.backends.schedule import CHECK_EVERY, Diverged, learning_rate_factor, steps_of
from evaluators.workloads.base import Recipe, Split

__all__ = ["Diverged", "TrainingData", "fine_tune"]


@dataclass(frozen=True)
class TrainingData:
    """What is fine-tuned on, on the training device.

    Attributes:
        split: samples and targets; whole sets of the training split, one after the other.
        prepare: stored inputs -> network input.
        set_size: samples of the training split itself.
    """

    split: Split
    prepare: Callable[[Tensor], Tensor]
    set_size: int


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Numbers below 1e-38 are 0 in here: the moments of pruned weights decay into them.

    Arithmetic on denormals is some hundred times slower. It is a mode of the processor, so the
    decoder, which must give the same bits on any machine, never runs in it.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@denormals_flushed()
def fine_tune(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    samples: int,
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    before_step: Callable[[int, int], None],
    generator: torch.Generator,
    precision: Precision,
) -> None:
    """Train every parameter that requires a gradient.

    Args:
        model: changed in place; left in eval mode.
        data: where batches come from, in random order without replacement within a pass.
        recipe: batch size and learning rate.
        samples: how many training samples to see, rounded to whole steps.
        loss: (inputs, outputs, targets, sample indices) -> scalar.
        before_step: called with (step, steps), e.g. to move a pruning schedule on.
        generator: of the sample order.
        precision: of the forward pass.

    Raises:
        Diverged: the loss or a weight became NaN or infinite.
    """
    batch_size = min(recipe.batch_size, data.set_size)
    steps = steps_of(samples, batch_size)
    if steps == 0:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = Adam(parameters, recipe.learning_rate, betas=(0.9, 0.99))
    scaler = torch.amp.GradScaler(precision.device, enabled=precision.scales_loss)
    batches = _batches(data, batch_size, steps, generator)
    model.train()
    for step, indices in enumerate(batches):
        before_step(step, steps)
        optimiser.learning_rate = recipe.learning_rate * learning_rate_factor(step, steps, recipe)
        chosen = indices.to(data.split.inputs.device)
        inputs, targets = data.prepare(data.split.inputs[chosen]), data.split.targets[chosen]
        optimiser.zero_grad()
        with precision.autocast():
            value = loss(inputs, model(inputs), targets, chosen)
        if step % CHECK_EVERY == 0 or step == steps - 1:
            _require_finite(value, step)
        scaler.scale(value).backward()
        scaler.step(cast(torch.optim.Optimizer, optimiser))
        scaler.update()
    model.eval()
    if not all(bool(p.isfinite().all()) for p in parameters):
        raise Diverged("a weight is no longer a finite number")


def _require_finite(value: Tensor, step: int) -> None:
    number = value.item()
    if not math.isfinite(number):
        raise Diverged(f"the loss became {number} at step {step}")


def _batches(
    data: TrainingData, batch_size: int, steps: int, generator: torch.Generator
) -> list[Tensor]:
    """`steps` index tensors; each pass sees every training sample once, from a random set.

    Each pass is a new permutation, tails dropped.
    """
    count, sets = data.set_size, len(data.split) // data.set_size
    batches: list[Tensor] = []
    while len(batches) < steps:
        order = torch.randperm(count, generator=generator)
        if sets > 1:
            order += count * torch.randint(sets, (count,), generator=generator)
        batches += [b for b in order.split(batch_size) if len(b) == batch_size]
    return batches[:steps]
