"""Training only what is left gives what training everything under the mask would have given."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.backends.pytorch import sparse_kernels, stages
from evaluators.backends.pytorch.compact import (
    MOST_DENSITY,
    _csr,
    _SparseProduct,
    _transposed,
    compacted,
)
from evaluators.backends.pytorch.student import Student
from spaces import LayerPolicy, Policy
from tests import networks
from tests.evaluators.backends.conftest import uncoupled

SPARSITY = 0.95
KNOBS = [
    LayerPolicy(sparsity=SPARSITY),
    LayerPolicy(sparsity=SPARSITY, bits=4),
    LayerPolicy(sparsity=SPARSITY, clusters=3),
    LayerPolicy(sparsity=SPARSITY, clusters=3, bits=8),
]


def student(asked: LayerPolicy, make: object, granularity: str = "tensor") -> Student:
    model = networks.trained(make)  # type: ignore[arg-type]
    of = Student(model, uncoupled(model))
    layers = tuple((name, asked) for name in of.layers)
    policy = Policy(("prune", "cluster", "quantize"), layers, granularity=granularity)  # type: ignore[arg-type]
    stages.prune_schedule(of, policy)(1, 0)
    stages.cluster(of, policy, np.random.default_rng(0))
    stages.quantize(of, policy)
    return of


def steps(of: Student, count: int) -> list[float]:
    train = networks.images()[0]
    parameters = [p for p in of.model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.05)
    losses = []
    for step in range(count):
        stages.reassign(of, step)
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(of.model(train.inputs[:80]), train.targets[:80])
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("make", [networks.make_mlp, networks.make_conv])
@pytest.mark.parametrize("asked", KNOBS, ids=str)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_it_trains_as_the_whole_layers_do(
    asked: LayerPolicy, make: object, granularity: str
) -> None:
    whole, compact = student(asked, make, granularity), student(asked, make, granularity)
    expected = steps(whole, 12)
    before = {name: layer.latent for name, layer in compact.layers.items()}
    with compacted(compact):
        vectors = [layer.latent.dim() == 1 for layer in compact.layers.values()]
        found = steps(compact, 12)
    assert any(vectors), "no layer was sparse enough to show anything"
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert expected[-1] != expected[0]
    for name, layer in compact.layers.items():
        assert layer.latent is before[name]
        np.testing.assert_allclose(
            layer.effective().numpy(), whole.layers[name].effective().numpy(), atol=1e-3
        )
        assert torch.equal(layer.effective() != 0, whole.layers[name].effective() != 0)
    for stage_of in (whole, compact):
        stages.settle(stage_of)
        stage_of.audit()


def test_a_dense_layer_stays_whole() -> None:
    of = student(LayerPolicy(sparsity=1 - 2 * MOST_DENSITY), networks.make_mlp)
    with compacted(of):
        assert all(layer.latent.dim() == 2 for layer in of.layers.values())


def test_an_error_within_leaves_whole_layers() -> None:
    of = student(LayerPolicy(sparsity=SPARSITY), networks.make_mlp)
    expected = {name: layer.effective().clone() for name, layer in of.layers.items()}
    with pytest.raises(RuntimeError, match="on purpose"), compacted(of):
        raise RuntimeError("on purpose")
    for name, layer in of.layers.items():
        assert torch.equal(layer.effective(), expected[name])
    copy.deepcopy(of.model)(networks.images()[0].inputs[:2])


@pytest.mark.parametrize(("rows", "columns", "batch"), [(3, 5, 7), (1, 1, 1), (16, 40, 33)])
def test_the_product_and_its_gradients_are_the_dense_ones(
    rows: int, columns: int, batch: int
) -> None:
    generator = torch.Generator().manual_seed(rows)
    mask = torch.rand(rows, columns, generator=generator) < 0.3
    flat = mask.flatten().nonzero().squeeze(1)
    values = torch.randn(len(flat), generator=generator, requires_grad=True)
    inputs = torch.randn(batch, columns, generator=generator, requires_grad=True)
    seen = torch.randn(batch, rows, generator=generator)

    def dense() -> Tensor:
        weight = torch.zeros(rows * columns).scatter(0, flat, values).view(rows, columns)
        return inputs @ weight.t()

    expected = dense()
    gradients = torch.autograd.grad((expected * seen).sum(), [inputs, values])
    csr = _csr(flat.numpy(), rows, columns)
    product = _SparseProduct.apply(inputs, values, csr, _transposed(csr, columns))  # type: ignore[no-untyped-call]
    found = torch.autograd.grad((product * seen).sum(), [inputs, values])
    torch.testing.assert_close(product, expected)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_kernels_keep_nan() -> None:
    starts, columns = np.array([0, 1]), np.array([0])
    nan = np.full((1, 4), np.nan, dtype=np.float32)
    one = np.ones(1, dtype=np.float32)
    assert np.isnan(sparse_kernels.outputs(starts, columns, one, nan)).all()
    assert np.isnan(sparse_kernels.weight_gradients(starts, columns, nan, nan)).all()
