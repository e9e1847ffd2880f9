"""Which modules of a network can be compressed, and what a forward pass costs each of them."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evaluators.backends.pytorch.recurrent import (
    GateWeights,
    GruWeights,
    LstmWeights,
    recurrent_parts,
    steps_read,
)
from spaces import InvalidRequest

__all__ = [
    "CHANNEL_KINDS",
    "COMPRESSIBLE",
    "RECURRENT_KINDS",
    "LayerShape",
    "check_model",
    "compressible_layers",
    "excluded_modules",
    "trace_shapes",
]

COMPRESSIBLE: dict[type[nn.Module], str] = {
    nn.Linear: "Linear",
    nn.Conv1d: "Conv1d",
    nn.Conv2d: "Conv2d",
    nn.Embedding: "Embedding",
    LstmWeights: "LSTM",
    GruWeights: "GRU",
}
#: Kinds that read features and write channels, some of which may go; the others look rows up or
#: carry a state along.
CHANNEL_KINDS = frozenset({"Linear", "Conv1d", "Conv2d"})
RECURRENT_KINDS = frozenset({"LSTM", "GRU"})
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one inference (one sample) costs a layer."""

    macs: int
    input_elements: int
    output_elements: int


def check_model(model: nn.Module) -> None:
    """Refuse what the stages and the files cannot hold.

    Raises:
        InvalidRequest: a parametrized module, or weights which are not float32.
    """
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise InvalidRequest(
                f"workload model: {name or 'the model'} is parametrized; fold its weight in with "
                "torch.nn.utils.parametrize.remove_parametrizations first"
            )
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if values.is_floating_point() and values.dtype != torch.float32:
            raise InvalidRequest(
                f"workload model must have float32 weights, but {name} is {values.dtype}; "
                "call .float() on it"
            )


def compressible_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of every layer of a known kind that alone has its weight, in module order.

    Recurrent layers are known by their parts: `recurrent.parted` makes those.

    Raises:
        InvalidRequest: there is none.
    """
    owners = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )
    found = {
        name: module
        for name, module in model.named_modules()
        # A constraint on one of two layers with one weight would not hold for the other.
        if type(module) in COMPRESSIBLE and owners[id(module.weight)] == 1 and not _why_kept(module)
    }
    if not found:
        kinds = ", ".join(COMPRESSIBLE.values())
        reasons = "; ".join(f"{n or 'the model'}: {why}" for n, why in excluded_modules(model, {}))
        raise InvalidRequest(
            f"workload model has no layer that can be compressed ({kinds}); "
            f"{reasons or 'it has no weights'}"
        )
    return found


def excluded_modules(model: nn.Module, layers: dict[str, nn.Module]) -> tuple[tuple[str, str], ...]:
    """(module, reason) of every module with own parameters that no stage touches."""
    excluded = []
    for name, module in model.named_modules():
        if name in layers or not list(module.parameters(recurse=False)):
            continue
        if isinstance(module, _NORMS):
            reason = "normalisation, kept as it is"
        elif why := _why_kept(module):
            reason = why
        elif type(module) in COMPRESSIBLE:
            reason = "its weight is shared with another layer, which is not supported yet"
        else:
            kind = type(module).__name__
            reason = f"{kind} layers are not supported yet, kept as they are"
        excluded.append((name, reason))
    return tuple(excluded)


def _why_kept(module: nn.Module) -> str:
    """Why a module of a known kind is left as it is all the same; "" where nothing speaks so."""
    if isinstance(module, nn.Embedding) and module.sparse:
        return "embeddings with sparse gradients are not supported, kept as they are"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "embeddings with max_norm rescale their own weights, kept as they are"
    if isinstance(module, nn.LSTM) and module.proj_size:
        return "LSTM layers with a projection are not supported yet, kept as they are"
    return ""


@torch.no_grad()
def trace_shapes(
    model: nn.Module, layers: dict[str, nn.Module], sample: Tensor
) -> dict[str, LayerShape]:
    """Run one sample: the layers it reaches, in the order of execution.

    Args:
        model: in eval mode.
        layers: name -> module.
        sample: (1, ...) prepared network input.

    Raises:
        InvalidRequest: the forward pass reaches none of them.
    """
    shapes: dict[str, LayerShape] = {}

    def add(name: str, macs: int, input_elements: int, output_elements: int) -> None:
        before = shapes.get(name, LayerShape(0, 0, 0))
        shapes[name] = LayerShape(
            before.macs + macs,
            before.input_elements + input_elements,
            before.output_elements + output_elements,
        )

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            # Each output element costs one MAC for every weight that feeds its channel; what is
            # looked up costs none.
            each = 0 if isinstance(module, nn.Embedding) else weight.numel() // weight.shape[0]
            add(name, output.numel() * each, inputs[0].numel(), output.numel())

        return module.register_forward_hook(hook)

    def watch_parts(
        parts: dict[str, GateWeights], module: nn.Module
    ) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[object, ...], __: object) -> None:
            steps = steps_read(inputs[0])
            for name, part in parts.items():
                rows, columns = part.weight.shape
                add(name, steps * rows * columns, steps * columns, steps * rows)

        return module.register_forward_hook(hook)

    whole = {n: x for n, x in layers.items() if not isinstance(x, GateWeights)}
    handles = [watch(name, module) for name, module in whole.items()]
    for prefix, module in model.named_modules():
        found = {f"{prefix}.{n}" if prefix else n: x for n, x in recurrent_parts(module).items()}
        if parts := {name: part for name, part in found.items() if name in layers}:
            handles.append(watch_parts(parts, module))
    try:
        model(sample)
    finally:
        for handle in handles:
            handle.remove()
    if not shapes:
        raise InvalidRequest(f"workload model uses none of its layers {', '.join(layers)}")
    return shapes
