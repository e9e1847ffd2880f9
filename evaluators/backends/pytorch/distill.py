"""Losses that draw the student towards its teacher."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.backends.pytorch.train import TrainingData
from spaces import Distillation

__all__ = [
    "AttentionMaps",
    "CannotDistill",
    "Teacher",
    "attention_loss",
    "distilled_loss",
    "have_same_maps",
    "softened_loss",
]

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
BATCH = 250


class CannotDistill(Exception):
    """The network and its teacher have nothing this distillation could compare."""


class Teacher:
    """The network to imitate; its logits on the fine-tuning split are computed once and kept."""

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        data: TrainingData,
        soft_targets: Callable[[], Tensor] | None = None,
    ) -> None:
        """Wrap a trained network.

        Args:
            network: any callable from prepared inputs to logits.
            data: whose samples `logits` are asked for.
            soft_targets: gives the (samples, classes) logits, where somebody keeps them.
        """
        self.network = network
        self._data = data
        self._soft_targets = soft_targets
        self._logits: Tensor | None = None

    @torch.no_grad()
    def logits(self, indices: Tensor, inputs: Tensor | None = None) -> Tensor:
        """(batch,) training sample indices -> (batch, classes).

        Args:
            indices: of the samples.
            inputs: the samples themselves, prepared. Where given, and nobody keeps the logits, the
                network is asked about them alone: a short training sees few of the samples.
        """
        if inputs is not None and self._soft_targets is None:
            return self.network(inputs).detach().float()
        if self._logits is None:
            self._logits = self._all_logits()
        return self._logits[indices]

    def _all_logits(self) -> Tensor:
        split = self._data.split
        if self._soft_targets is None:
            return torch.cat([self._of_batch(batch) for batch in split.inputs.split(BATCH)]).float()
        logits = self._soft_targets().float()
        if len(logits) != len(split):
            raise CannotDistill(
                f"soft_targets must give one row for each of the {len(split)} samples that are "
                f"fine-tuned on, but gave {len(logits)}"
            )
        return logits.to(split.inputs.device)

    def _of_batch(self, batch: Tensor) -> Tensor:
        # A copy: a network that computes in place would change the stored samples.
        return self.network(self._data.prepare(batch.clone())).detach()


def softened_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL(teacher || student) at that temperature (Hinton et al., 1503.02531).

    Args:
        student, teacher: (batch, classes) logits.
        temperature: above 0. Its square keeps the gradient's size as the temperature grows.
    """
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of normalised attention maps (Zagoruyko and Komodakis, 1612.03928).

    Args:
        student, teacher: (batch, channels, ...) features of the same spatial shape; the channel
            counts may differ.
    """

    def attention(features: Tensor) -> Tensor:
        return F.normalize(features.square().mean(dim=1).flatten(1), dim=1)

    return (attention(student) - attention(teacher)).square().sum(dim=1).mean()


class AttentionMaps:
    """Collects the outputs of a network's convolutions during a forward pass."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        """Hook every Conv1d and Conv2d of the model.

        Args:
            model: whose features are wanted.
            training: in which mode; a student's audits, in eval mode, are not collected.
        """
        self.features: list[Tensor] = []
        self._training = training
        self._handles = [
            module.register_forward_hook(self._keep)
            for module in model.modules()
            if isinstance(module, nn.Conv1d | nn.Conv2d)
        ]

    @property
    def is_empty(self) -> bool:
        """True for a network without convolutions."""
        return not self._handles

    def _keep(self, module: nn.Module, _: object, output: Tensor) -> None:
        if module.training == self._training:
            self.features.append(output)

    def take(self) -> list[Tensor]:
        """The features since the last call."""
        taken, self.features = self.features, []
        return taken

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self.features = []


@torch.no_grad()
def have_same_maps(student: nn.Module, teacher: nn.Module, inputs: Tensor) -> bool:
    """Whether attention can be transferred: both have convolutions, of the same spatial shapes.

    Args:
        student, teacher: trained networks.
        inputs: (batch, ...) prepared samples.
    """
    shapes = []
    for network in (student, teacher):
        still = copy.deepcopy(network).cpu().eval()
        maps = AttentionMaps(still, training=False)
        still(inputs)
        shapes.append(_spatial_shapes(maps.take()))
    return bool(shapes[0]) and shapes[0] == shapes[1]


def distilled_loss(
    task: Callable[[Tensor, Tensor], Tensor],
    distillation: Distillation,
    teacher: Teacher,
    maps: tuple[AttentionMaps, AttentionMaps] | None,
    imitate: Callable[[Tensor, Tensor, float], Tensor] | None = None,
    *,
    is_short: bool = False,
) -> Loss:
    """(1 - weight) * task loss + weight * distillation loss.

    Args:
        task: (outputs, targets) -> scalar.
        distillation: kind, temperature, weight.
        teacher: of the softened logits.
        maps: (student's, teacher's) for kind "attention".
        imitate: (outputs, soft targets, temperature) -> scalar; None = `softened_loss`.
        is_short: whether the teacher is asked batch by batch: see `Teacher.logits`.
    """
    weight = distillation.weight

    def loss(inputs: Tensor, outputs: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        if maps is None:
            soft_targets = teacher.logits(indices, inputs if is_short else None)
            _require_comparable(outputs, soft_targets)
            imitation = (imitate or softened_loss)(outputs, soft_targets, distillation.temperature)
        else:
            student_maps = maps[0].take()
            with torch.no_grad():
                teacher.network(inputs)
            teacher_maps = maps[1].take()
            _require_same_maps(student_maps, teacher_maps)
            pairs = zip(student_maps, teacher_maps, strict=True)
            imitation = torch.stack([attention_loss(s, t) for s, t in pairs]).sum()
        return (1 - weight) * task(outputs, targets) + weight * imitation

    return loss


def _require_comparable(outputs: Tensor, soft_targets: Tensor) -> None:
    if outputs.dim() < 2 or outputs.shape[1] < 2:
        shape = tuple(outputs.shape[1:])
        raise CannotDistill(f"softened logits need 2 classes or more, but outputs have {shape}")
    if outputs.shape != soft_targets.shape:
        ours, theirs = tuple(outputs.shape[1:]), tuple(soft_targets.shape[1:])
        raise CannotDistill(f"the network's outputs have shape {ours}, its teacher's {theirs}")


def _spatial_shapes(maps: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(features.shape[2:]) for features in maps]


def _require_same_maps(student: list[Tensor], teacher: list[Tensor]) -> None:
    ours, theirs = _spatial_shapes(student), _spatial_shapes(teacher)
    if ours != theirs:
        raise CannotDistill(
            "attention transfer needs feature maps of the same shapes, but the network has "
            f"{ours} and its teacher {theirs}"
        )
