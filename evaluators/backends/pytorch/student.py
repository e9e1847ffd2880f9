"""A copy of the network under compression: its layers, their constraints, what is established."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evaluators.backends.pytorch.activations import ActivationGrid, add_activation_grid
from evaluators.backends.pytorch.channels import ChannelGroup
from evaluators.backends.pytorch.constraint import (
    BiasConstraint,
    NormConstraint,
    WeightConstraint,
)
from evaluators.backends.pytorch.layers import (
    CHANNEL_KINDS,
    COMPRESSIBLE,
    RECURRENT_KINDS,
    compressible_layers,
)
from spaces import Failure, LayerAudit, Policy, Stage

__all__ = ["Student", "StudentLayer", "policy_failure"]


@dataclass(frozen=True)
class StudentLayer:
    """One compressible layer of a student.

    Attributes:
        name: as in the model.
        kind: as in `LayerProfile`.
        module: its parametrized copy.
        constraint, bias: what is established; `bias` is None without a bias.
    """

    name: str
    kind: str
    module: nn.Module
    constraint: WeightConstraint
    bias: BiasConstraint | None

    @property
    def latent(self) -> nn.Parameter:
        """What the optimiser moves, (weight shape)."""
        original = self.module.parametrizations.weight.original  # type: ignore[union-attr]
        assert isinstance(original, nn.Parameter)
        return original

    @property
    def latent_bias(self) -> nn.Parameter:
        """What the optimiser moves of the bias, (channels,)."""
        original = self.module.parametrizations.bias.original  # type: ignore[union-attr]
        assert isinstance(original, nn.Parameter)
        return original

    @torch.no_grad()
    def effective(self) -> Tensor:
        """What the network computes with and the file stores, (weight shape), in C order."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach().contiguous()

    @torch.no_grad()
    def effective_bias(self) -> Tensor:
        """As `effective`, of the bias, (channels,)."""
        bias = self.module.bias
        assert isinstance(bias, Tensor)
        return bias.detach()


class Student:
    """A network in the making. Stages change its constraints; training moves its latent weights."""

    def __init__(self, model: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
        """A constrained deep copy.

        Args:
            model: the trained network; never changed.
            groups: of its output channels, from `channel_groups`.
        """
        # A layer in no group takes no part in the forward pass: it stays as it is.
        grouped = {name for group in groups for name in group.layers}
        names = [name for name in compressible_layers(model) if name in grouped]
        self.groups = groups
        self.model = copy.deepcopy(model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        modules = dict(self.model.named_modules())
        self.layers: dict[str, StudentLayer] = {n: _constrain(n, modules[n]) for n in names}
        self.activations: dict[str, ActivationGrid] = {}
        self._norms: dict[str, NormConstraint] = {}

    def group_of(self, name: str) -> ChannelGroup:
        """The channel group a layer belongs to."""
        return next(group for group in self.groups if name in group.layers)

    @torch.no_grad()
    def set_mask(self, name: str, keep: Tensor) -> None:
        """Weights outside `keep` (weight shape, booleans) become 0 and stay 0."""
        constraint = self.layers[name].constraint
        constraint.mask = keep.float()
        if constraint.indices is not None:
            constraint.indices = constraint.indices * keep.long()

    @torch.no_grad()
    def remove_channels(self, group: ChannelGroup, keep: Tensor) -> None:
        """Output channels outside `keep` (channels,) become 0 in every layer of the group.

        Their biases and the batch-norms behind them too, or a removed channel would still put a
        constant into the next layer.
        """
        for name in group.layers:
            layer = self.layers[name]
            shape = (-1, *[1] * (layer.latent.dim() - 1))
            self.set_mask(name, keep.view(shape).expand_as(layer.latent))
            if layer.bias is not None:
                layer.bias.mask = keep.float()
        modules = dict(self.model.named_modules())
        for norm in group.norms:
            if norm not in self._norms:
                self._norms[norm] = NormConstraint(len(keep)).to(keep.device)
                for parameter in ("weight", "bias"):
                    if getattr(modules[norm], parameter) is not None:
                        parametrize.register_parametrization(
                            modules[norm], parameter, self._norms[norm]
                        )
            self._norms[norm].mask = keep.float()

    @property
    def readers(self) -> dict[str, StudentLayer]:
        """The layers that read features: neither look-ups nor what carries a state along."""
        return {n: layer for n, layer in self.layers.items() if layer.kind in CHANNEL_KINDS}

    def quantize_activations(self, grids: Mapping[str, ActivationGrid]) -> None:
        """From now on each named layer's input is rounded to its grid."""
        modules = dict(self.model.named_modules())
        for name, grid in grids.items():
            add_activation_grid(modules[name], grid)
        self.activations = dict(grids)

    def audit(self) -> dict[str, LayerAudit]:
        """Sparsity and distinct non-zero values of every layer's effective weights."""
        audits = {}
        for name, layer in self.layers.items():
            weight = layer.effective()
            nonzero = weight[weight != 0]
            audits[name] = LayerAudit(
                sparsity=round(1.0 - nonzero.numel() / weight.numel(), 6),
                distinct_nonzero=nonzero.unique().numel(),
            )
        return audits


def _constrain(name: str, module: nn.Module) -> StudentLayer:
    kind = COMPRESSIBLE[type(module)]  # before a parametrization gives it a class of its own
    constraint = WeightConstraint()
    parametrize.register_parametrization(module, "weight", constraint)
    bias = None
    if getattr(module, "bias", None) is not None:
        bias = BiasConstraint()
        parametrize.register_parametrization(module, "bias", bias)
    return StudentLayer(name, kind, module, constraint, bias)


def policy_failure(policy: Policy, student: Student) -> Failure | None:
    """Why a policy cannot be applied to this network, naming the layer; None when it can."""
    for name, layer in policy.layers:
        if name not in student.layers:
            known = ", ".join(student.layers)
            return Failure(name, "", f"the network has no such layer to compress; it has {known}")
        if layer.bias_bits != 32 and student.layers[name].bias is None:
            return Failure(name, Stage.QUANTIZE, "bias_bits asked of a layer without a bias")
        if layer.pattern == "channel":
            group = student.group_of(name)
            if not group.removable:
                return Failure(name, Stage.PRUNE, f"pattern channel: {group.why_kept}")
            for other in group.layers:
                twin = policy.layer(other)
                if (twin.pattern, twin.sparsity) != (layer.pattern, layer.sparsity):
                    reason = f"pattern channel: its channels are coupled with {other}'s"
                    return Failure(name, Stage.PRUNE, f"{reason}, which asks for something else")
    if policy.activation_bits != 32:
        for name, found in student.layers.items():
            if found.kind in RECURRENT_KINDS:
                reason = f"activation_bits: the state of {found.kind} layers stays in floats"
                return Failure(name, Stage.QUANTIZE, reason)
    return None
