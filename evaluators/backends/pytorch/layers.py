"""Which modules of a network can be compressed, and what a forward pass costs each of them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaces import InvalidRequest

__all__ = ["COMPRESSIBLE", "LayerShape", "compressible_layers", "excluded_modules", "trace_shapes"]

COMPRESSIBLE: dict[type[nn.Module], str] = {
    nn.Linear: "Linear",
    nn.Conv1d: "Conv1d",
    nn.Conv2d: "Conv2d",
}
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one inference (one sample) costs a layer."""

    macs: int
    input_elements: int
    output_elements: int


def compressible_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of every Linear, Conv1d and Conv2d that owns its weight, in module order.

    Raises:
        InvalidRequest: there is none.
    """
    found: dict[str, nn.Module] = {}
    owners: set[int] = set()
    for name, module in model.named_modules():
        if type(module) in COMPRESSIBLE and id(module.weight) not in owners:
            owners.add(id(module.weight))
            found[name] = module
    if not found:
        kinds = ", ".join(COMPRESSIBLE.values())
        reasons = "; ".join(f"{n or 'the model'}: {why}" for n, why in excluded_modules(model, {}))
        raise InvalidRequest(
            f"workload model has no layer that can be compressed ({kinds}); {reasons or 'no weights'}"
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
        elif type(module) in COMPRESSIBLE:
            reason = "shares its weight with another layer, which is not supported yet"
        else:
            kind = type(module).__name__
            reason = f"{kind} layers are not supported yet, kept as they are"
        excluded.append((name, reason))
    return tuple(excluded)


@torch.no_grad()
def trace_shapes(
    model: nn.Module, layers: dict[str, nn.Module], sample: Tensor
) -> dict[str, LayerShape]:
    """Run one sample, in the order of execution.

    Args:
        model: in eval mode.
        layers: name -> module.
        sample: (1, ...) prepared network input.

    Raises:
        InvalidRequest: a layer the forward pass never reaches.
    """
    shapes: dict[str, LayerShape] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            # Each output element costs one MAC for every weight that feeds its channel.
            macs = output.numel() * (weight.numel() // weight.shape[0])
            before = shapes.get(name, LayerShape(0, 0, 0))
            shapes[name] = LayerShape(
                before.macs + macs,
                before.input_elements + inputs[0].numel(),
                before.output_elements + output.numel(),
            )

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in layers.items()]
    try:
        model(sample)
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for name in layers if name not in shapes]
    if unused:
        raise InvalidRequest(f"workload model never uses its layer {unused[0]} in forward()")
    return shapes
