"""Recurrent layers whose matrices are layers of their own: NAME.input and NAME.recurrent.

An `nn.LSTM` has all its weights as parameters of one module. In a `parted` network each matrix is
a small module with a weight and a bias like any other layer, so masks, codebooks and grids reach it
by the same parametrization, and files name it by the same rule: "lstm.input.weight". What a layer
computes is untouched: torch's own kernels get the matrices in torch's own order of gates.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "GateWeights",
    "GruWeights",
    "LstmWeights",
    "lstm_tensors",
    "parted",
    "recurrent_parts",
    "steps_read",
]


class GateWeights(nn.Module):
    """One matrix of a recurrent layer, the rows of its gates one after the other.

    Attributes:
        weight: (gates * units, inputs).
        bias: (gates * units,), or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # A parameter is taken as it is: who else has it must be seen to share it.
        self.weight = _parameter(weight)
        self.register_parameter("bias", None if bias is None else _parameter(bias))

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """What the layer is to compute with now."""
        return self.weight, self.bias


def _parameter(values: Tensor) -> nn.Parameter:
    return values if isinstance(values, nn.Parameter) else nn.Parameter(values)


class LstmWeights(GateWeights):
    """Gates i, f, g, o."""


class GruWeights(GateWeights):
    """Gates r, z, n."""


class _Parted(nn.RNNBase):
    """What `nn.LSTM` and `nn.GRU` in parts have in common: where their flat weights come from.

    `forward` is torch's; it reads `_flat_weights`, which are there while it runs. Elsewhere torch
    keeps them beside the parameters, as a cache that here would only go stale.
    """

    _flat_weights: list[Tensor | None]

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 -- torch's own signature
        """As of torch's layer."""
        self._flat_weights = list(self._gathered())
        try:
            return super().forward(input, hx)
        finally:
            self._flat_weights = []

    def _gathered(self) -> Iterator[Tensor | None]:
        """Weights of the input and of the state, then their biases, layer by layer."""
        for suffix in _suffixes(self):
            weight, bias = getattr(self, f"input{suffix}")()
            recurrent_weight, recurrent_bias = getattr(self, f"recurrent{suffix}")()
            yield from (weight, recurrent_weight)
            if bias is not None:
                yield bias
                yield torch.zeros_like(bias) if recurrent_bias is None else recurrent_bias

    def _init_flat_weights(self) -> None:
        pass

    def _update_flat_weights(self) -> None:
        pass

    def flatten_parameters(self) -> None:
        """Nothing: cuDNN copies the weights together itself."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)


class _PartedLSTM(_Parted, nn.LSTM):
    pass


class _PartedGRU(_Parted, nn.GRU):
    pass


def parted(model: nn.Module) -> nn.Module:
    """A copy with every `nn.LSTM` and `nn.GRU` in parts; the network itself where it has none.

    Layers of LSTMs with a projection stay as they are, and so do subclasses, whose `forward` may be
    anything. An LSTM only ever adds its two biases, so the sum becomes that of the input; a GRU's
    stay two, for one of its gates weighs the second alone.
    """
    if not any(_can_part(module) for module in model.modules()):
        return model
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        if _can_part(module):
            assert isinstance(module, nn.RNNBase)
            _part(module)
    return copied


def _can_part(module: nn.Module) -> bool:
    return type(module) is nn.GRU or (type(module) is nn.LSTM and module.proj_size == 0)


def _suffixes(module: nn.RNNBase) -> Iterator[str]:
    """Of each layer's and direction's parts: "", "_reverse", "_l1", "_l1_reverse", ..."""
    for layer in range(module.num_layers):
        for direction in ("", "_reverse") if module.bidirectional else ("",):
            yield (f"_l{layer}" if layer else "") + direction


@torch.no_grad()
def _part(module: nn.RNNBase) -> None:
    """In place, so that whoever holds the module holds the parted one."""
    is_lstm = isinstance(module, nn.LSTM)
    make = LstmWeights if is_lstm else GruWeights
    parts: dict[str, GateWeights] = {}
    for suffix, names in zip(_suffixes(module), module._all_weights, strict=True):
        tensors = [getattr(module, name) for name in names]
        weight, recurrent_weight = tensors[:2]
        bias, recurrent_bias = tensors[2:] or (None, None)
        if is_lstm and bias is not None:
            bias, recurrent_bias = bias + recurrent_bias, None
        parts[f"input{suffix}"] = make(weight, bias)
        parts[f"recurrent{suffix}"] = make(recurrent_weight, recurrent_bias)
    module._parameters.clear()
    module._flat_weights, module._flat_weights_names = [], []
    module._flat_weight_refs, module._all_weights = [], []
    module.__class__ = _PartedLSTM if is_lstm else _PartedGRU
    for name, part in parts.items():
        module.add_module(name, part)


def recurrent_parts(module: nn.Module) -> dict[str, GateWeights]:
    """Name in the module -> part, in the order they are computed; {} of any other module."""
    if not isinstance(module, _Parted):
        return {}
    return {name: part for name, part in module.named_children() if isinstance(part, GateWeights)}


def lstm_tensors(model: nn.Module) -> frozenset[str]:
    """Names of the tensors of a parted network whose rows are an LSTM's four gates."""
    return frozenset(
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, LstmWeights)
        for name, _ in module.named_parameters(recurse=False)
    )


def steps_read(inputs: object) -> int:
    """Steps that a recurrent layer takes over its input, summed over the batch.

    Args:
        inputs: (batch, steps, features) in any order, (steps, features), or a `PackedSequence`.
    """
    values = inputs.data if isinstance(inputs, nn.utils.rnn.PackedSequence) else inputs
    assert isinstance(values, Tensor)
    return values.numel() // values.shape[-1]
