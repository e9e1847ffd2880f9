"""What each stage does to a student. DESIGN: every constraint established stays in force."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.backends.kmeans import kmeans
from evaluators.backends.pytorch.channels import ChannelGroup
from evaluators.backends.pytorch.constraint import fit_grid
from evaluators.backends.pytorch.dead_paths import idle_weights, silent_inputs
from evaluators.backends.pytorch.rate import rate_importance
from evaluators.backends.pytorch.student import Student, StudentLayer
from evaluators.backends.schedule import RAMP_SHARE, UPDATE_EVERY
from spaces import LayerPolicy, Policy, kept_channels
from spaces.profile import ONE_SCALE_KINDS

__all__ = ["cluster", "prune_schedule", "quantize", "reassign", "settle"]


def cubic_sparsity(step: int, steps: int, final: float) -> float:
    """Sparsity after `step` of `steps`: final * (1 - (1 - t)^3) (Zhu and Gupta, 1710.01878)."""
    progress = min(1.0, step / max(1.0, RAMP_SHARE * steps))
    return final * (1 - (1 - progress) ** 3)


def prune_schedule(
    student: Student, policy: Policy, batch: Tensor | None = None
) -> Callable[[int, int], None]:
    """A callback (step, steps) that moves every mask along the ramp; (1, 0) goes to the end.

    Args:
        student: whose masks move.
        policy: sparsities, patterns and criterion.
        batch: prepared training inputs that tell which inputs of a layer are always 0; without
            them every input counts as alive.
    """
    asked = [(name, layer) for name, layer in policy.layers if layer.sparsity > 0]
    groups = {student.group_of(name).layers[0] for name, layer in asked if _whole(layer)}

    elements = _Elements(student, policy.criterion, batch)
    silent: dict[str, Tensor] | None = None

    def move(step: int, steps: int) -> None:
        nonlocal silent
        ramp_end = round(RAMP_SHARE * steps)
        if steps > 0 and (step > ramp_end or (step % UPDATE_EVERY and step != ramp_end)):
            return
        last = steps == 0 or step == ramp_end
        if (silent is None or last) and batch is not None:
            silent = silent_inputs(student, batch)
        for name, layer in asked:
            sparsity = cubic_sparsity(step, steps, layer.sparsity)
            if not _whole(layer):
                idle = idle_weights(student, name, (silent or {}).get(name))
                elements.prune(name, sparsity, idle, steps=steps, last=last)
            elif name in groups:
                _prune_channels(student, student.group_of(name), sparsity)

    return move


def _whole(layer: LayerPolicy) -> bool:
    return layer.pattern == "channel"


class _Elements:
    """Prunes single weights by the policy's criterion, along one prune stage."""

    def __init__(self, student: Student, criterion: str, batch: Tensor | None) -> None:
        self._student = student
        self._by_rate = "rate" in criterion
        self._regrows = "regrow" in criterion
        self._sample_shape = () if batch is None else tuple(batch.shape[1:])
        #: What earlier stages made 0; None where nothing is masked. It never comes back.
        self._established: dict[str, Tensor | None] = {}

    def prune(self, name: str, sparsity: float, idle: Tensor, *, steps: int, last: bool) -> None:
        """The least important go, but first of all the weights on dead paths, whatever their size.

        Args:
            name: of the layer.
            sparsity: share of its weights that are masked afterwards.
            idle: (weight shape) booleans, from `idle_weights`.
            steps: of the stage; 0 when its training is over.
            last: whether the ramp ends here.
        """
        layer = self._student.layers[name]
        constraint, latent = layer.constraint, layer.latent.detach()
        is_first = name not in self._established
        if is_first:
            self._established[name] = None if constraint.mask is None else constraint.mask == 0
        # Settled clusters have frozen latent weights: nothing could say what should come back.
        can_regrow = self._regrows and constraint.centroids is None
        magnitude = constraint.dense(latent).abs() if can_regrow else layer.effective().abs()
        barred = self._established[name]
        if steps == 0 and constraint.mask is not None and not constraint.regrows:
            # Training is over: what came back now would stand there untrained, instead of a weight
            # that turned idle after the ramp.
            magnitude, barred = layer.effective().abs(), constraint.mask == 0
        # Before this stage's first move every position costs the same.
        if self._by_rate and not is_first and constraint.mask is not None:
            magnitude = rate_importance(magnitude, constraint.mask, self._picture(latent))
        importance, hidden = magnitude.masked_fill(idle, -1.0), latent.abs().masked_fill(idle, -1.0)
        if barred is not None:
            importance = importance.masked_fill(barred, -float("inf"))
        effective = _flat(importance)
        pruned = smallest(effective, _flat(hidden), round(sparsity * len(effective)))
        keep = torch.from_numpy(~pruned).view(latent.shape).to(latent.device)
        if barred is not None:
            keep &= ~barred  # more may be barred than the sparsity asks for
        self._student.set_mask(name, keep)
        constraint.regrows = can_regrow and not last

    def _picture(self, weight: Tensor) -> tuple[int, ...] | None:
        """(channels, height, width) if the layer is linear and sees the network's input."""
        shape = self._sample_shape
        sees_it = weight.dim() == 2 and len(shape) == 3 and math.prod(shape) == weight.shape[1]
        return shape if sees_it else None


def _prune_channels(student: Student, group: ChannelGroup, sparsity: float) -> None:
    """The channels with the least summed magnitude over the group's layers go."""
    importance = sum(
        student.layers[name].effective().abs().flatten(1).sum(dim=1) for name in group.layers
    )
    latent = sum(
        student.layers[name].latent.detach().abs().flatten(1).sum(dim=1) for name in group.layers
    )
    assert isinstance(importance, Tensor)
    assert isinstance(latent, Tensor)
    count = len(importance)
    pruned = smallest(_flat(importance), _flat(latent), count - kept_channels(count, sparsity))
    student.remove_channels(group, torch.from_numpy(~pruned).to(latent.device))


def smallest(effective: np.ndarray, latent: np.ndarray, count: int) -> np.ndarray:
    """(n,), (n,) -> (n,) booleans, True for the `count` that go first.

    The effective magnitude decides; after cluster or quantize many are equal, and the latent
    magnitude says which of them the training pulls towards zero; then the position. The first of
    `np.lexsort((latent, effective))`, without sorting what is far from the border.
    """
    if count == 0:
        return np.zeros(len(effective), dtype=bool)
    border = np.partition(effective, count - 1)[count - 1]
    chosen: np.ndarray = effective < border
    tied = np.flatnonzero(effective == border)
    order = np.argsort(latent[tied], kind="stable")
    chosen[tied[order[: count - int(chosen.sum())]]] = True
    return chosen


def _flat(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.flatten().cpu().numpy()
    return array


@torch.no_grad()
def cluster(student: Student, policy: Policy, rng: np.random.Generator) -> None:
    """Give each asked layer K centroids by k-means over its non-zero effective weights."""
    for name, asked in policy.layers:
        if asked.clusters is None:
            continue
        layer = student.layers[name]
        effective = layer.effective().cpu().numpy()
        nonzero = effective[effective != 0]
        if len(nonzero) == 0:
            nonzero = np.zeros(1, dtype=np.float32)
        centroids = kmeans(nonzero, asked.clusters, policy.cluster_init, rng)
        constraint = layer.constraint
        # Weights which are already 0 (on a grid, unmasked) stay 0: K counts the non-zeros.
        student.set_mask(name, layer.effective() != 0)
        values = torch.from_numpy(centroids.astype(np.float32)).to(layer.latent.device)
        layer.latent.copy_(layer.effective())
        constraint.centroids = nn.Parameter(values)
        constraint.moving = True
        constraint.reassign(layer.latent)


def reassign(student: Student, step: int) -> None:
    """Let moving assignments follow their latent weights, every few steps."""
    if step % UPDATE_EVERY == 0:
        for layer in student.layers.values():
            if layer.constraint.moving:
                layer.constraint.reassign(layer.latent.detach())


@torch.no_grad()
def settle(student: Student) -> None:
    """End of the cluster stage: assignments stay from now on, only centroids go on learning."""
    for layer in student.layers.values():
        if layer.constraint.moving:
            layer.constraint.reassign(layer.latent.detach())
            layer.constraint.moving = False
            layer.latent.requires_grad_(False)


@torch.no_grad()
def quantize(student: Student, policy: Policy) -> None:
    """Round each asked layer's weights (or codebook) and bias to a grid, from now on."""
    for name, asked in policy.layers:
        layer = student.layers[name]
        if asked.bits < 32:
            _quantize_weight(layer, asked, policy)
        if asked.bias_bits < 32:
            assert layer.bias is not None
            if asked.bias_bits < 16:
                values = layer.effective_bias()[None]
                layer.bias.grid = fit_grid(values, asked.bias_bits, "symmetric", "tensor")
            layer.bias.bits = asked.bias_bits


def _quantize_weight(layer: StudentLayer, asked: LayerPolicy, policy: Policy) -> None:
    constraint = layer.constraint
    constraint.bits = asked.bits
    if asked.bits == 16:
        return
    if constraint.centroids is not None:
        values = constraint.centroids.detach()[None]
        constraint.grid = fit_grid(values, asked.bits, policy.scheme, "tensor")
    else:
        # A layer that is still to be clustered needs one scale, or the codebook would be
        # multiplied by the number of channels; some kinds have one whatever is asked.
        is_one = asked.clusters is not None or layer.kind in ONE_SCALE_KINDS
        granularity = "tensor" if is_one else policy.granularity
        constraint.grid = fit_grid(layer.effective(), asked.bits, policy.scheme, granularity)
