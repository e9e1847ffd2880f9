"""Weights that do nothing: their input is always 0, or nobody reads their output.

Magnitude pruning keeps many of them (a twelfth to a quarter of what is left of a very sparse MLP),
for no gradient ever makes them small. Pruned first, they leave their places to weights that work.
"""

import torch
from torch import Tensor, nn

from evaluators.backends.pytorch.student import Student

__all__ = ["idle_weights", "silent_inputs"]


@torch.no_grad()
def silent_inputs(student: Student, batch: Tensor) -> dict[str, Tensor]:
    """Layer -> (inputs,) booleans: which of its input features or channels are 0 all through.

    Nothing is said of embeddings, whose inputs are numbers of rows, nor of recurrent layers.

    Args:
        student: as its stages have left it; in training mode it is put back into it.
        batch: prepared training inputs.
    """
    silent: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0]
            # Features stand last in a linear layer's input, channels second in a convolution's.
            axis = values.dim() - 1 if isinstance(module, nn.Linear) else 1
            zero = (values.movedim(axis, 0).flatten(1) == 0).all(dim=1)
            silent[name] = zero & silent.get(name, zero)

        return module.register_forward_pre_hook(hook)

    handles = [watch(name, layer.module) for name, layer in student.readers.items()]
    was_training = student.model.training
    try:
        student.model.eval()(batch.clone())
    finally:
        student.model.train(was_training)
        for handle in handles:
            handle.remove()
    return silent


@torch.no_grad()
def idle_weights(student: Student, name: str, silent: Tensor | None) -> Tensor:
    """(weight shape) booleans of one layer's weights on dead paths.

    Args:
        student: whose masks say who reads what.
        name: of the layer.
        silent: (inputs,) from `silent_inputs`, or None where nothing is known.
    """
    layer = student.layers[name]
    weight = layer.latent
    idle = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    if silent is not None and len(silent) == weight.shape[1]:
        idle |= silent.view(1, -1, *[1] * (weight.dim() - 2))
    group = student.group_of(name)
    # Only where the readers are known: removing a channel of such a group was tried.
    if group.removable and group.consumers:
        unread = torch.ones(weight.shape[0], dtype=torch.bool, device=weight.device)
        for consumer in group.consumers:
            mask = student.layers[consumer].constraint.mask
            if mask is None:
                return idle
            # Each channel is an equal run of the consumer's inputs, also behind a flatten.
            read = mask.reshape(mask.shape[0], weight.shape[0], -1)
            unread &= (read == 0).all(dim=2).all(dim=0)
        idle |= unread.view(-1, *[1] * (weight.dim() - 1))
    return idle
