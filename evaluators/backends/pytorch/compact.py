"""Fine-tuning of the weights that are left: a layer's survivors as a vector, the zeros nowhere.

Once the masks are final, most of a sparse layer's arithmetic would be spent on zeros: products,
rounding, the optimiser's moments. In here a stage sees the same constraint over a vector of the
survivors, and on the CPU a linear layer multiplies by them alone (`sparse_kernels`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.backends.pytorch import sparse_kernels
from evaluators.backends.pytorch.constraint import Grid, WeightConstraint, channels_last
from evaluators.backends.pytorch.recurrent import GateWeights
from evaluators.backends.pytorch.student import Student, StudentLayer

__all__ = ["compacted"]

#: A layer with at most this share of its weights left is worth it.
MOST_DENSITY = 0.12


@contextmanager
def compacted(student: Student) -> Iterator[None]:
    """Within, the student's sparse layers are vectors of their survivors; afterwards whole again.

    The masks must not move within.
    """
    whole = dict(student.layers)
    compacts = {n: _CompactLayer(x) for n, x in whole.items() if _density(x) <= MOST_DENSITY}
    # Whoever follows the weights of a layer finds the vector and its constraint in their place.
    for name, compact in compacts.items():
        student.layers[name] = replace(whole[name], constraint=compact.constraint)
    try:
        yield
    finally:
        student.layers.update(whole)
        for compact in compacts.values():
            compact.expand()


def _density(layer: StudentLayer) -> float:
    mask = layer.constraint.mask
    return 1.0 if mask is None else float(mask.mean())


class _CompactLayer:
    """One layer in its compact form, from construction to `expand`.

    Attributes:
        constraint: the layer's, over the vector of its survivors.
    """

    def __init__(self, layer: StudentLayer) -> None:
        self._layer, self._dense = layer, layer.latent
        mask = layer.constraint.mask
        assert mask is not None
        self._shape = mask.shape
        self._flat = mask.flatten().nonzero().squeeze(1)
        self.constraint = self._compact_constraint(layer.constraint)
        self._values = nn.Parameter(
            self._dense.detach().flatten()[self._flat], self._dense.requires_grad
        )
        self._original = layer.module.forward
        # The optimiser looks for parameters in the module: the vector takes the tensor's place.
        self._parametrizations().original = self._values
        self._is_sparse_product = isinstance(layer.module, nn.Linear) and mask.device.type == "cpu"
        if self._is_sparse_product:
            self._csr = _csr(self._flat.numpy(), mask.shape[0], mask.shape[1])
            self._transposed = _transposed(self._csr, mask.shape[1])
        layer.module.forward = self._forward

    def _compact_constraint(self, whole: WeightConstraint) -> WeightConstraint:
        compact = WeightConstraint()
        if whole.indices is not None:
            compact.indices = whole.indices.flatten()[self._flat]
        compact.centroids, compact.bits, compact.moving = whole.centroids, whole.bits, whole.moving
        if whole.grid is not None:
            rows = self._flat // (self._shape.numel() // self._shape[0])
            parts = (whole.grid.scale, whole.grid.low, whole.grid.high)
            scale, low, high = (x if x.numel() == 1 else x[rows] for x in parts)
            compact.grid = Grid(scale, low, high, whole.grid.bits)
        return compact

    def _forward(self, *given: Tensor) -> Any:
        """As the module's own `forward`."""
        effective = self.constraint(self._values)
        module: Any = self._layer.module
        if self._is_sparse_product:
            (inputs,) = given
            flat = inputs.reshape(-1, self._shape[1])
            product: Tensor = _SparseProduct.apply(  # type: ignore[no-untyped-call]
                flat, effective, self._csr, self._transposed
            )
            product = product.view(*inputs.shape[:-1], self._shape[0])
            return product if module.bias is None else product + module.bias
        weight = effective.new_zeros(self._shape.numel())
        weight = weight.scatter(0, self._flat, effective).view(self._shape)
        if isinstance(module, GateWeights):
            return weight, module.bias
        (inputs,) = given
        if isinstance(module, nn.Linear):
            return F.linear(inputs, weight, module.bias)
        if isinstance(module, nn.Embedding):
            return F.embedding(
                inputs, weight, module.padding_idx, scale_grad_by_freq=module.scale_grad_by_freq
            )
        return module._conv_forward(inputs, channels_last(weight), module.bias)

    @torch.no_grad()
    def expand(self) -> None:
        """Give the whole layer what its survivors learned."""
        constraint, compact = self._layer.constraint, self.constraint
        self._dense.view(-1)[self._flat] = self._values.detach()
        if compact.indices is not None:
            whole = torch.zeros(self._shape, dtype=torch.int64, device=self._flat.device)
            whole.view(-1)[self._flat] = compact.indices
            constraint.indices = whole
        self._parametrizations().original = self._dense
        self._layer.module.forward = self._original

    def _parametrizations(self) -> Any:
        return self._layer.module.parametrizations.weight  # type: ignore[union-attr]


_Csr = tuple[np.ndarray, np.ndarray, np.ndarray]


def _csr(flat: np.ndarray, rows: int, columns: int) -> _Csr:
    """(where each row starts, column of each weight, its place among the values)."""
    starts = np.searchsorted(flat, np.arange(rows + 1) * columns)
    return starts, flat % columns, np.arange(len(flat))


def _transposed(csr: _Csr, columns: int) -> _Csr:
    starts, column_of, _ = csr
    row_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.argsort(column_of, kind="stable")
    return np.searchsorted(column_of[order], np.arange(columns + 1)), row_of[order], order


class _SparseProduct(torch.autograd.Function):
    """inputs (batch, columns), values (n,) -> (batch, rows)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, values: Tensor, csr: _Csr, transposed: _Csr) -> Tensor:
        turned = inputs.t().contiguous()
        ctx.save_for_backward(turned, values)
        ctx.csr, ctx.transposed = csr, transposed
        starts, columns, _ = csr
        product = sparse_kernels.outputs(starts, columns, values.numpy(), turned.numpy())
        return torch.from_numpy(product).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        turned, values = ctx.saved_tensors
        gradient = gradients[0].t().contiguous().numpy()
        of_inputs = of_values = None
        if ctx.needs_input_grad[0]:
            starts, rows, order = ctx.transposed
            product = sparse_kernels.outputs(starts, rows, values.numpy()[order], gradient)
            of_inputs = torch.from_numpy(product).t()
        if ctx.needs_input_grad[1]:
            starts, columns, _ = ctx.csr
            summed = sparse_kernels.weight_gradients(starts, columns, gradient, turned.numpy())
            of_values = torch.from_numpy(summed)
        return of_inputs, of_values, None, None
