"""Pictures of three channels in `onnx`: a fourth of zeros changes nothing but the kernel."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnx
from onnx import TensorProto, helper, numpy_helper

from evaluators.artifacts.onnx.graph import build
from evaluators.artifacts.onnx.read import read
from evaluators.artifacts.onnx.runtime import Session
from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    DamagedArtifact,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
)

RNG = np.random.default_rng(0)
SCALE = np.array([0.01], np.float32)
GRID = (0.02, 120)


def on_grid(shape: tuple[int, ...]) -> GridTensor:
    # Levels of 7 bits: pairs of products stay within 16 bits on every CPU.
    return GridTensor("stem.weight", RNG.integers(-63, 64, shape).astype(np.int32), SCALE)


def each_its_scale(shape: tuple[int, ...]) -> GridTensor:
    scales = RNG.uniform(0.002, 0.02, shape[0]).astype(np.float32)
    return GridTensor("stem.weight", on_grid(shape).levels, scales)


def by_index(shape: tuple[int, ...]) -> CodebookTensor:
    book = GridCodebook(np.array([-63, 5, 40], np.int32), SCALE)
    return CodebookTensor("stem.weight", RNG.integers(0, 4, shape).astype(np.int32), book)


def exported(shape: tuple[int, ...], *, groups: int = 1, is_read_twice: bool = False) -> bytes:
    """A convolution, as the first layer of a network, and one more reader of its picture."""
    outputs, inputs = shape[0], shape[1] * groups
    nodes = [helper.make_node("Conv", ["x", "stem.weight"], ["y"], group=groups)]
    given = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs, 6, 6])]
    weights = {"stem.weight": np.zeros(shape, np.float32)}
    if is_read_twice:
        nodes.append(helper.make_node("Conv", ["x", "second.weight"], ["z"]))
        given.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 2, 8, 8]))
        weights["second.weight"] = np.zeros((2, inputs, 1, 1), np.float32)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs, 8, 8])],
        given,
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def pads_in(data: bytes) -> int:
    graph = onnx.load_model_from_string(data).graph
    return sum(node.op_type == "Pad" for node in graph.node)


@pytest.mark.parametrize(
    "weight",
    [on_grid((16, 3, 3, 3)), each_its_scale((20, 3, 3, 3)), by_index((32, 3, 3, 3))],
    ids=["one scale", "a scale each", "codebook"],
)
def test_the_fourth_channel_changes_no_result_and_is_not_stored(weight: Tensor) -> None:
    data = build(exported(weight.shape), Artifact((weight,)), {"stem": GRID}, {"stem": (0.1, 128)})
    assert pads_in(data) == 2  # the picture's and the weight's
    file = read(data)
    assert np.array_equal(file.weights["stem.weight"], weight.decode())
    assert file.rounded_layers == {"stem"}
    assert sum(line.size_bytes for line in file.ledger) == len(data)
    inputs = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    levels = np.clip(np.round(inputs / np.float32(GRID[0])) + GRID[1], 0, 255) - GRID[1]
    picture = torch.from_numpy(levels.astype(np.float32) * np.float32(GRID[0]))
    exact = F.conv2d(picture, torch.from_numpy(weight.decode())).numpy()
    rounded = (np.clip(np.round(exact / 0.1) + 128, 0, 255) - 128) * 0.1
    # A value between two levels may go either way.
    assert (np.abs(Session(data)(inputs) - rounded) < 0.1 + 1e-4).all()
    assert (np.abs(Session(data)(inputs) - rounded) < 1e-4).mean() > 0.99


@pytest.mark.parametrize(
    "shape", [(16, 1, 3, 3), (16, 4, 3, 3), (15, 3, 3, 3)], ids=["1 in", "4 in", "15 out"]
)
def test_other_convolutions_stay(shape: tuple[int, ...]) -> None:
    assert pads_in(build(exported(shape), Artifact((on_grid(shape),)), {"stem": GRID})) == 0


def test_grouped_convolutions_and_floats_stay() -> None:
    shape = (16, 3, 3, 3)
    grouped = build(exported(shape, groups=2), Artifact((on_grid(shape),)), {"stem": GRID})
    floats = FloatTensor("stem.weight", RNG.normal(size=shape).astype(np.float32))
    halves = FloatTensor("stem.weight", np.ones(shape, np.float32), 16)
    assert pads_in(grouped) == 0
    assert pads_in(build(exported(shape), Artifact((on_grid(shape),)), {})) == 0
    for weight in (floats, halves):
        assert pads_in(build(exported(shape), Artifact((weight,)), {"stem": GRID})) == 0


def test_a_picture_that_others_read_stays() -> None:
    shape = (16, 3, 3, 3)
    levels = RNG.integers(-63, 64, (2, 3, 1, 1)).astype(np.int32)
    second = GridTensor("second.weight", levels, SCALE)
    graph = exported(shape, is_read_twice=True)
    grids = {"stem": GRID, "second": GRID}
    assert pads_in(build(graph, Artifact((on_grid(shape), second)), grids)) == 0


def changed(pads: list[int], zero_point: int) -> bytes:
    """A file with other padding than the writer's, or whose level 0 is another number."""
    weight = on_grid((16, 3, 3, 3))
    model = onnx.load_model_from_string(
        build(exported(weight.shape), Artifact((weight,)), {"stem": GRID})
    )
    for tensor in model.graph.initializer:
        if tensor.name == "stem.weight/pads":
            tensor.CopyFrom(numpy_helper.from_array(np.array(pads, np.int64), tensor.name))
        if tensor.name == "stem.weight/zero_point":
            tensor.CopyFrom(numpy_helper.from_array(np.array(zero_point, np.int8), tensor.name))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("pads", "zero_point", "reason"),
    [
        ([0, 0, 0, 0, 0, 1, 0, 0], 1, "other values than zeros"),
        ([0, 0, 0, 0, 0, -1, 0, 0], 0, "not one this reader knows"),
        ([0, 0, 0, 0, 0, 1 << 40, 0, 0], 0, "not one this reader knows"),
        ([0, 0, 0, 0, 1, 0], 0, "not one this reader knows"),
    ],
)
def test_padding_that_would_change_a_weight_is_refused(
    pads: list[int], zero_point: int, reason: str
) -> None:
    with pytest.raises(DamagedArtifact, match=rf"stem\.weight.*{reason}"):
        read(changed(pads, zero_point))


def test_zeros_on_any_side_are_left_out() -> None:
    data = changed([0, 1, 2, 0, 1, 1, 0, 0], 0)
    assert read(data).weights["stem.weight"].shape == (16, 3, 3, 3)
    plain = changed([0, 0, 0, 0, 0, 1, 0, 0], 0)
    assert read(plain).weights["stem.weight"].any()
