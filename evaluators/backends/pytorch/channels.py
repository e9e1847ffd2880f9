"""Which output channels must be removed together, found by Torch-Pruning's dependency graph.

A residual add couples the channels of its two sides; a batch-norm behind a convolution has an
affine pair a channel, which would turn a zeroed channel back into a constant.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn

from evaluators.backends.pytorch.layers import COMPRESSIBLE

__all__ = ["ChannelGroup", "channel_groups", "remove_channels"]

_OUT = {
    "Linear": tp.prune_linear_out_channels,
    "Conv1d": tp.prune_conv_out_channels,
    "Conv2d": tp.prune_conv_out_channels,
}
_IN = (tp.prune_linear_in_channels, tp.prune_conv_in_channels)


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channel c is one and the same feature.

    Attributes:
        layers: names, in module order.
        norms: names of the batch-norms behind them.
        removable: False where the channels reach the network's output.
    """

    layers: tuple[str, ...]
    norms: tuple[str, ...]
    removable: bool


def _traced_copy(model: nn.Module, sample: Tensor) -> tuple[nn.Module, tp.DependencyGraph]:
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.requires_grad_(True)  # the graph is traced through autograd
    with warnings.catch_warnings():
        # Torch-Pruning warns of parameters it does not know; those are simply not coupled.
        warnings.simplefilter("ignore")
        return copied, tp.DependencyGraph().build_dependency(copied, example_inputs=sample)


def _out_function(module: nn.Module) -> object:
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == module.out_channels > 1:
        return tp.prune_depthwise_conv_out_channels
    return _OUT[COMPRESSIBLE[type(module)]]


def channel_groups(
    model: nn.Module, layers: Iterable[str], sample: Tensor
) -> tuple[ChannelGroup, ...]:
    """Every compressible layer is in exactly one group.

    Grouped (also depthwise) convolutions are never removable: their channels are coupled with
    their own inputs, which a mask of output channels cannot say.
    """
    model, graph = _traced_copy(model, sample)
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items()}
    found: list[ChannelGroup] = []
    done: set[str] = set()
    layers = list(layers)
    for name in layers:
        if name in done:
            continue
        module = modules[name]
        channels = list(range(module.weight.shape[0]))  # type: ignore[arg-type]
        group = graph.get_pruning_group(module, _out_function(module), idxs=channels)
        members, norms, consumed = [name], [], False
        simple = getattr(module, "groups", 1) == 1
        for dependency, indices in group:
            target, handler = dependency.target.module, dependency.handler
            other = names.get(target, "")
            if handler in _IN:
                consumed = True
            elif isinstance(target, nn.modules.batchnorm._BatchNorm):
                norms.append(other)
            elif other in layers and target is not module:
                members.append(other)
                # A concatenation gives shifted channels, a depthwise layer shares them: neither
                # is "the same channel of both", which is all a common mask can express.
                whole = len(indices) == len(channels) == target.weight.shape[0]
                simple &= whole and getattr(target, "groups", 1) == 1
        done.update(members)
        ordered = tuple(n for n in layers if n in members)
        found.append(ChannelGroup(ordered, tuple(dict.fromkeys(norms)), consumed and simple))
    return tuple(found)


def remove_channels(
    model: nn.Module, sample: Tensor, dead: Mapping[str, Sequence[int]]
) -> nn.Module:
    """A smaller copy of the network without its dead output channels.

    Args:
        model: whose dead channels give exactly 0.
        sample: (1, ...) prepared input.
        dead: first layer of each group -> channel indices.

    Returns:
        The compact copy; its outputs differ by rounding only.
    """
    compact, graph = _traced_copy(model, sample)
    modules = dict(compact.named_modules())
    for name, channels in dead.items():
        if channels:
            module = modules[name]
            graph.get_pruning_group(module, _out_function(module), idxs=list(channels)).prune()
    with torch.no_grad():
        compact(sample)
    return compact.eval()
