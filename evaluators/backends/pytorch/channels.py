"""Which output channels must be removed together, found by Torch-Pruning's dependency graph.

A residual add couples the channels of its two sides; a batch-norm behind a convolution has an
affine pair a channel, which would turn a zeroed channel back into a constant.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch_pruning as tp
from torch import Tensor, nn

from evaluators.backends.pytorch.layers import CHANNEL_KINDS, COMPRESSIBLE, RECURRENT_KINDS

__all__ = ["ChannelGroup", "channel_groups", "remove_channels"]

_OUT = {
    "Linear": tp.prune_linear_out_channels,
    "Conv1d": tp.prune_conv_out_channels,
    "Conv2d": tp.prune_conv_out_channels,
}
#: Kinds without removable channels -> why.
_WHY_ALONE = {
    "Embedding": "its channels are every word's values, which are pruned one by one",
    **dict.fromkeys(
        RECURRENT_KINDS, "its channels are gates of a state that every step reads again"
    ),
}
_IN = (tp.prune_linear_in_channels, tp.prune_conv_in_channels)


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channel c is one and the same feature.

    Attributes:
        layers: names, in module order.
        norms: names of the batch-norms behind them.
        why_kept: why its channels cannot be removed; "" = they can.
        consumers: compressible layers whose whole input is these channels, each equally often: a
            share of the channels is the same share of their input. Not a layer which reads a
            concatenation with something else, a part of them, or which is a grouped convolution.
    """

    layers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    why_kept: str = ""
    consumers: tuple[str, ...] = ()

    @property
    def removable(self) -> bool:
        """Whether pattern "channel" can be asked of its layers."""
        return not self.why_kept


def _traced_copy(model: nn.Module, sample: Tensor) -> tuple[nn.Module, tp.DependencyGraph]:
    copied = copy.deepcopy(model).eval()
    for parameter in copied.parameters():
        parameter.requires_grad_(True)
    # The graph is traced through autograd, also for a caller who needs no gradient.
    with warnings.catch_warnings(), torch.enable_grad():
        # Torch-Pruning warns of parameters it does not know; those are simply not coupled.
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(copied, example_inputs=sample.clone())
        return copied, graph


def _out_function(module: nn.Module) -> object:
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == module.out_channels > 1:
        return tp.prune_depthwise_conv_out_channels
    return _OUT[COMPRESSIBLE[type(module)]]


def channel_groups(
    model: nn.Module, layers: Iterable[str], sample: Tensor
) -> tuple[ChannelGroup, ...]:
    """Every compressible layer is in exactly one group.

    A group is removable only where removing some of its zeroed channels was TRIED and left the
    outputs as they were: an activation with f(0) != 0, a normalisation without an affine pair or a
    plain tensor operation between the layers are nothing a dependency graph knows of. Grouped (also
    depthwise) convolutions are never removable: their channels are coupled with their own inputs,
    which a mask of output channels cannot say.

    Args:
        model: every one of `layers` takes part in its forward pass.
        layers: names of the compressible layers.
        sample: (1, ...) prepared input.
    """
    modules = dict(model.named_modules())
    kinds = {name: COMPRESSIBLE[type(modules[name])] for name in layers}
    layers = [name for name, kind in kinds.items() if kind in CHANNEL_KINDS]
    alone = tuple(
        ChannelGroup((name,), why_kept=_WHY_ALONE[kind])
        for name, kind in kinds.items()
        if kind not in CHANNEL_KINDS
    )
    return alone + (_found_groups(model, layers, sample) if layers else ())


def _found_groups(model: nn.Module, layers: list[str], sample: Tensor) -> tuple[ChannelGroup, ...]:
    try:
        traced, graph = _traced_copy(model, sample)
        found = _coupled(traced, graph, layers)
    except Exception as error:  # whatever a tracer meets in a network it does not understand
        why = f"the channels of this network cannot be traced ({type(error).__name__})"
        return tuple(ChannelGroup((name,), why_kept=why) for name in layers)
    candidates = [group for group in found if group.removable]
    # All at once first: one more trace instead of one a group, for the usual network.
    if _removal_changes_nothing(model, candidates, sample):
        return tuple(found)
    why = "removing zeroed channels changes the network's outputs"
    return tuple(
        group
        if not group.removable or _removal_changes_nothing(model, [group], sample)
        else replace(group, why_kept=why)
        for group in found
    )


def _coupled(
    model: nn.Module, graph: tp.DependencyGraph, layers: Sequence[str]
) -> list[ChannelGroup]:
    """The groups as the dependency graph has them."""
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items()}
    found: list[ChannelGroup] = []
    done: set[str] = set()
    for name in layers:
        if name in done:
            continue
        module = modules[name]
        channels = list(range(_width(module)))
        group = graph.get_pruning_group(module, _out_function(module), idxs=channels)
        members, norms, consumers, consumed = [name], [], [], False
        simple = getattr(module, "groups", 1) == 1
        for item in group:
            dependency, indices = item
            target, handler = dependency.target.module, dependency.handler
            other = names.get(target, "")
            if handler in _IN:
                consumed = True
                simple &= getattr(target, "groups", 1) == 1
                if other in layers and _is_whole_input(target, indices, item.root_idxs, channels):
                    consumers.append(other)
            elif isinstance(target, nn.modules.batchnorm._BatchNorm):
                norms.append(other)
                simple &= target.affine  # else nothing keeps a zeroed channel at zero
            elif other in layers and target is not module:
                members.append(other)
                # A concatenation gives shifted channels, a depthwise layer shares them: neither
                # is "the same channel of both", which is all a common mask can express.
                whole = len(indices) == len(channels) == target.weight.shape[0]
                simple &= whole and getattr(target, "groups", 1) == 1
        done.update(members)
        why_kept = ""
        if not consumed:
            why_kept = "its output channels are the network's output"
        elif len(channels) == 1:
            why_kept = "it has one output channel, which must stay"
        elif not simple:
            why_kept = "its channels are tied to a grouped layer, a concatenation or a plain norm"
        ordered = tuple(n for n in layers if n in members)
        readers = tuple(n for n in layers if n in consumers)
        found.append(ChannelGroup(ordered, tuple(dict.fromkeys(norms)), why_kept, readers))
    return found


def _is_whole_input(
    reader: nn.Module, indices: Sequence[int], sources: Sequence[int], channels: Sequence[int]
) -> bool:
    """Whether a layer's input is a group's channels, all of them equally often.

    Args:
        reader: an ungrouped Linear or convolution.
        indices: its input channels that come from the group.
        sources: for each of those, the group's channel it is.
        channels: the group's channels.
    """
    weight = reader.weight
    assert isinstance(weight, Tensor)
    if sorted(indices) != list(range(weight.shape[1])):
        return False
    often = Counter(sources)
    return often.keys() == set(channels) and len(set(often.values())) == 1


def _width(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


@torch.no_grad()
def _removal_changes_nothing(
    model: nn.Module, groups: Sequence[ChannelGroup], sample: Tensor
) -> bool:
    """Zero some channels of each group, as a mask does, then remove them and compare."""
    zeroed = copy.deepcopy(model).eval()
    modules = dict(zeroed.named_modules())
    dead: dict[str, list[int]] = {}
    for group in groups:
        count = _width(modules[group.layers[0]])
        # Irregular on purpose: what holds for every second channel may hold for no other choice.
        chosen = [c for c in range(count - 1) if c % 3 == 0 or c < count // 4]
        dead[group.layers[0]] = chosen
        for name in (*group.layers, *group.norms):
            for values in (modules[name].weight, modules[name].bias):
                if isinstance(values, Tensor):
                    values[chosen] = 0.0
    expected = zeroed(sample.clone())
    try:
        given = remove_channels(zeroed, sample, dead)(sample.clone())
    except Exception:  # shapes that no longer fit, in whatever words the network's operations have
        return False
    return _all_close(given, expected)


def _all_close(given: object, expected: object) -> bool:
    """Whether two outputs (tensors, or sequences of them) differ by rounding only."""
    if isinstance(given, Tensor) and isinstance(expected, Tensor):
        close = given.shape == expected.shape
        return close and torch.allclose(given, expected, rtol=1e-3, atol=1e-4)
    if isinstance(given, tuple | list) and isinstance(expected, tuple | list):
        return len(given) == len(expected) and all(map(_all_close, given, expected))
    return False


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
        compact(sample.clone())
    return compact.eval()
