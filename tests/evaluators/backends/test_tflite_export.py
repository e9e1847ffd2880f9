"""PyTorch networks written for LiteRT operator by operator: the same outputs, or a refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed import Artifact, GridTensor, dense
from evaluators.artifacts.packed import Tensor as StoredTensor
from evaluators.backends.pytorch.export import (
    activation_grids,
    artifact_of_model,
    load_artifact,
)
from evaluators.backends.pytorch.formats import Removal, make_format
from evaluators.workloads.cifar10 import ResNet20
from spaces import Failure, LayerPolicy, Policy, Stage
from tests import networks
from tests.evaluators.backends.conftest import Bench


def restored(model: nn.Module, *shape: int):  # type: ignore[no-untyped-def]
    sample = torch.zeros(1, *shape)
    kind = make_format("tflite", model.eval(), sample, lambda: sample)
    artifact = kind.stored(artifact_of_model(model))
    return kind.read(kind.write(artifact, Removal(model, sample)))


def varied() -> nn.Module:
    """A stride with padding, groups, every kind of pooling and activation but a few."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 16, 3, padding="same", groups=8),
        nn.Hardswish(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 4, (1, 3), dilation=(1, 1)),
        nn.SiLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.Softmax(-1),
    )


class ReadTwice(nn.Module):
    """A convolution whose outputs are also read without the ReLU behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 3, 3, padding=1), nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        found = self.conv(images)
        return torch.relu(self.drop(found)) - found


@pytest.mark.parametrize("make", [varied, ResNet20, ReadTwice])
def test_outputs_are_torchs(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().train()
    batch = torch.randn(6, 3, 16, 16)
    model(batch)  # batch-norms get statistics of their own
    with torch.no_grad():
        expected = model.eval()(batch).numpy()
    found = restored(model, 3, 16, 16).run(batch).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.PixelShuffle(2))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.inner(images)
        return found


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Turned(), (3, 8, 8), r"^inner\.1: tflite: operator .*pixel_shuffle.* is not translated"),
        (nn.Sequential(nn.Conv1d(3, 4, 3)), (3, 8), r"^0: tflite: operator .*conv1d"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), (4, 8, 8), r"^0: tflite: .* 2 groups"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, padding=1)),
            (3, 8, 8),
            r"^1: tflite: max-pooling with padding",
        ),
    ],
)
def test_what_has_no_translation_is_refused_by_its_layer(
    model: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CannotHold, match=message):
        restored(model, *shape)


# Integers throughout -----------------------------------------------------------------------------


def in_integers(model: nn.Module, granularity: str, *shape: int):  # type: ignore[no-untyped-def]
    """(what the file must hold, the file, the network with fake-quantized weights and inputs)."""
    from evaluators.backends.pytorch.activations import calibrate
    from evaluators.backends.pytorch.constraint import fit_grid
    from evaluators.backends.pytorch.layers import compressible_layers

    torch.manual_seed(1)
    model, inputs = model.eval(), torch.randn(64, *shape)
    layers = {name: model.get_submodule(name) for name in compressible_layers(model)}
    grids = calibrate(model, layers, inputs)
    tensors: dict[str, StoredTensor] = {t.name: t for t in artifact_of_model(model).tensors}
    for name, layer in layers.items():
        grid = fit_grid(layer.weight, 8, "symmetric", granularity)
        levels, scale = (x.detach().numpy() for x in (grid.levels(layer.weight), grid.scale))
        key = f"{name}.weight"
        tensors[key] = GridTensor(key, levels.astype(np.int32), scale.astype(np.float32))
    text = json.dumps({name: [grid.scale, grid.zero_point] for name, grid in grids.items()})
    artifact = Artifact(tuple(tensors.values()), {"activations": text})
    kind = make_format("tflite", model, inputs[:1], lambda: inputs)
    stored = kind.stored(artifact)
    return stored, kind.write(stored, Removal(model, inputs[:1])), load_artifact(model, stored)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("make", [varied, ResNet20, ReadTwice])
def test_integers_are_the_network_that_was_trained(make: type[nn.Module], granularity: str) -> None:
    """Within a few steps of 8 bits: what lies between the layers is rounded too."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from evaluators.artifacts.tflite.read import read
    from evaluators.artifacts.tflite.runtime import Session

    torch.manual_seed(0)
    stored, content, network = in_integers(make(), granularity, 3, 16, 16)
    file = read(content[""])
    for name, values in dense(stored).items():
        if name in file.weights:  # statistics of batch-norms are inside their weights
            assert np.array_equal(file.weights[name], values), name
    assert set(file.input_grids) == set(activation_grids(stored))
    for layer, (scale, zero_point) in file.input_grids.items():
        grid = activation_grids(stored)[layer]
        assert (scale, zero_point) == (np.float32(grid.scale), grid.zero_point)

    batch = torch.randn(20, 3, 16, 16)
    with torch.no_grad():
        expected = network(batch).numpy()
    session = Session(content[""])
    spread = expected.max() - expected.min()
    assert np.abs(session(batch.numpy()) - expected).max() < 0.06 * spread
    # Microcontrollers have the reference kernels, not XNNPACK's.
    plain = Interpreter(
        model_content=content[""], experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    plain.allocate_tensors()
    (given,), (found,) = plain.get_input_details(), plain.get_output_details()
    assert given["dtype"] == found["dtype"] == np.int8
    scale, zero_point = given["quantization"]
    levels = np.clip(np.rint(batch[:1].numpy() / scale) + zero_point, -128, 127)
    plain.set_tensor(given["index"], levels.astype(np.int8))
    plain.invoke()
    scale, zero_point = found["quantization"]
    outputs = (plain.get_tensor(found["index"]).astype(np.float32) - zero_point) * scale
    assert np.abs(outputs - session(batch[:1].numpy())).max() < 0.03 * spread


def test_a_network_without_batch_norms_has_no_floats_at_all() -> None:
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    from evaluators.artifacts.tflite.flat import unpack

    _, content, _ = in_integers(networks.make_conv(), "channel", 1, 8, 8)
    model = unpack(content[""])
    assert {t.type for t in model.subgraphs[0].tensors} <= {TensorType.INT8, TensorType.INT32}
    codes = {code.builtinCode for code in model.operatorCodes}
    assert BuiltinOperator.DEQUANTIZE not in codes


def test_a_bias_too_large_beside_its_weights_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
        model[0].bias.fill_(100.0)
    with pytest.raises(CannotHold, match=r"^0: tflite: a bias is too large beside such small"):
        in_integers(model, "tensor", 4)


def test_weights_of_8_bits_with_floats_are_refused_where_nothing_runs_them(tmp_path: Path) -> None:
    bench = Bench(networks.name("mlp"), tmp_path, "cortex-m7", "tflite")
    policy = Policy((Stage.QUANTIZE,), (("3", LayerPolicy(bits=8)),))
    failure = bench.failure(policy, fidelity=0)
    assert failure == Failure(
        "3",
        "write",
        "cortex-m7 has no kernel for 8-bit weights with float activations: activation_bits must "
        "be 8, but is 32",
    )
