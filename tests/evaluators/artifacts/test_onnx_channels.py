"""Pictures of three channels in `onnx`: a fourth of zeros changes nothing but the kernel."""

from pathlib import Path

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
from tests.evaluators.artifacts.optimised import operators

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


def exported(
    shape: tuple[int, ...],
    *,
    groups: int = 1,
    before: list[onnx.NodeProto] | None = None,
    beside: list[onnx.NodeProto] | None = None,
    outputs: tuple[str, ...] = ("y",),
) -> bytes:
    """A convolution, as the first layer of a network.

    Args:
        shape: of its weight.
        groups: of its channels.
        before: what makes "picture" of the input "x".
        beside: other nodes.
        outputs: of the graph.
    """
    before = before or [helper.make_node("Identity", ["x"], ["picture"])]
    weights = {
        "stem.weight": shape,
        "second.weight": (2, shape[1] * groups, 1, 1),
        "first.weight": (shape[1] * groups, shape[1] * groups, 1, 1),
    }
    conv = helper.make_node(
        "Conv", ["picture", "stem.weight"], ["y"], group=groups, pads=[1, 1, 1, 1]
    )
    nodes = [*before, conv, *(beside or [])]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", shape[1] * groups, 8, 8])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [*"bchw"]) for n in outputs],
        [
            numpy_helper.from_array(np.zeros(sizes, np.float32), name)
            for name, sizes in weights.items()
            if name in read
        ],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def pads_in(data: bytes) -> int:
    graph = onnx.load_model_from_string(data).graph
    return sum(node.op_type == "Pad" for node in graph.node)


@pytest.mark.parametrize(
    "weight",
    [on_grid((16, 3, 3, 3)), each_its_scale((24, 3, 3, 3)), by_index((32, 3, 3, 3))],
    ids=["one scale", "a scale each", "codebook"],
)
def test_the_fourth_channel_changes_no_result_and_is_not_stored(
    weight: Tensor, tmp_path: Path
) -> None:
    outputs = {"stem": (0.1, 128)}
    data = build(exported(weight.shape), Artifact((weight,)), {"stem": GRID}, outputs)
    file = read(data)
    assert np.array_equal(file.weights["stem.weight"], weight.decode())
    assert file.rounded_layers == {"stem"}
    assert sum(line.size_bytes for line in file.ledger) == len(data)
    found = operators(data, tmp_path)
    # The weight's padding is gone, folded when the file was loaded.
    assert (found.count("Pad"), found.count("QLinearConv"), found.count("Conv")) == (1, 1, 0)
    inputs = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    levels = np.clip(np.round(inputs / np.float32(GRID[0])) + GRID[1], 0, 255) - GRID[1]
    picture = torch.from_numpy(levels.astype(np.float32) * np.float32(GRID[0]))
    exact = F.conv2d(picture, torch.from_numpy(weight.decode()), padding=1).numpy()
    rounded = (np.clip(np.round(exact / 0.1) + 128, 0, 255) - 128) * 0.1
    # A value between two levels may go either way.
    assert (np.abs(Session(data)(inputs) - rounded) < 0.1 + 1e-4).all()
    assert (np.abs(Session(data)(inputs) - rounded) < 1e-4).mean() > 0.99


@pytest.mark.parametrize("sizes", [(16, 1), (16, 4), (15, 3), (8, 3), (20, 3)], ids=str)
def test_other_numbers_of_channels_stay(sizes: tuple[int, int]) -> None:
    shape = (*sizes, 3, 3)
    assert pads_in(build(exported(shape), Artifact((on_grid(shape),)), {"stem": GRID})) == 0


SHAPE = (16, 3, 3, 3)


def test_grouped_convolutions_and_floats_stay() -> None:
    grouped = build(exported(SHAPE, groups=2), Artifact((on_grid(SHAPE),)), {"stem": GRID})
    floats = FloatTensor("stem.weight", RNG.normal(size=SHAPE).astype(np.float32))
    halves = FloatTensor("stem.weight", np.ones(SHAPE, np.float32), 16)
    assert pads_in(grouped) == 0
    assert pads_in(build(exported(SHAPE), Artifact((on_grid(SHAPE),)), {})) == 0
    for weight in (floats, halves):
        assert pads_in(build(exported(SHAPE), Artifact((weight,)), {"stem": GRID})) == 0


def small(name: str, outputs: int) -> GridTensor:
    levels = RNG.integers(-63, 64, (outputs, 3, 1, 1)).astype(np.int32)
    return GridTensor(f"{name}.weight", levels, SCALE)


def test_a_picture_that_others_read_stays() -> None:
    beside = [helper.make_node("Conv", ["picture", "second.weight"], ["z"])]
    graph = exported(SHAPE, beside=beside, outputs=("y", "z"))
    artifact = Artifact((on_grid(SHAPE), small("second", 2)))
    assert pads_in(build(graph, artifact, {"stem": GRID, "second": GRID})) == 0


def test_a_weight_that_others_read_stays() -> None:
    """As in stem(x) + stem(flipped x), where only one of the two is rounded."""
    beside = [
        helper.make_node("Neg", ["x"], ["turned"]),
        helper.make_node("Conv", ["turned", "stem.weight"], ["z"]),
    ]
    data = build(
        exported(SHAPE, beside=beside, outputs=("y", "z")),
        Artifact((on_grid(SHAPE),)),
        {"stem": GRID},
    )
    assert pads_in(data) == 0
    assert Session(data)(np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 16, 8, 8)


@pytest.mark.parametrize(
    ("before", "pads"),
    [
        ([helper.make_node("Neg", ["x"], ["picture"])], 2),
        ([helper.make_node("Add", ["x", "x"], ["picture"])], 2),
        ([helper.make_node("Conv", ["x", "first.weight"], ["picture"])], 0),
        (
            [
                helper.make_node("Conv", ["x", "first.weight"], ["wide"]),
                helper.make_node("MaxPool", ["wide"], ["pooled"], kernel_shape=[1, 1]),
                helper.make_node("Add", ["x", "pooled"], ["picture"]),
            ],
            0,
        ),
    ],
    ids=["turned", "added", "a layer's", "partly a layer's"],
)
def test_a_normalised_picture_is_one_and_a_layer_s_output_is_none(
    before: list[onnx.NodeProto], pads: int
) -> None:
    names = {name for node in before for name in node.input}
    tensors = [on_grid(SHAPE), *([small("first", 3)] if "first.weight" in names else [])]
    data = build(exported(SHAPE, before=before), Artifact(tuple(tensors)), {"stem": GRID})
    assert pads_in(data) == pads


def changed(
    pads: list[int], *, zero_point: int = 0, of: tuple[str, ...] = ("picture", "weight")
) -> bytes:
    """A file with other padding than the writer's, or whose level 0 is another number.

    Args:
        pads: what is added.
        zero_point: of the weight.
        of: what is padded so; the other keeps one channel more.
    """
    weight = on_grid(SHAPE)
    written = build(exported(SHAPE), Artifact((weight,)), {"stem": GRID})
    model = onnx.load_model_from_string(written)
    model.graph.initializer.append(numpy_helper.from_array(np.array(pads, np.int64), "others"))
    for node in model.graph.node:
        if node.op_type == "Pad":
            kind = "weight" if node.input[0] == "stem.weight/int8" else "picture"
            node.input[1] = "others" if kind in of else node.input[1]
    for tensor in model.graph.initializer:
        if tensor.name == "stem.weight/zero_point":
            tensor.CopyFrom(numpy_helper.from_array(np.array(zero_point, np.int8), tensor.name))
    return model.SerializeToString()


ONE_MORE = [0, 0, 0, 0, 0, 1, 0, 0]


def test_a_file_with_the_writer_s_padding_is_read() -> None:
    assert read(changed(ONE_MORE)).weights["stem.weight"].shape == SHAPE
    assert read(changed([0, 0, 0, 0, 0, 3, 0, 0])).weights["stem.weight"].shape == SHAPE


@pytest.mark.parametrize(
    "pads",
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, -1, 0, 0],
        [0, 0, 0, 0, 0, 4, 0, 0],
        [0, 0, 0, 0, 0, 1 << 62, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0, 0],
    ],
    ids=str,
)
def test_other_padding_is_refused(pads: list[int]) -> None:
    with pytest.raises(DamagedArtifact, match=r"stem\.weight/padded: its padding is not one"):
        read(changed(pads))


@pytest.mark.parametrize(
    "data",
    [
        changed(ONE_MORE, zero_point=1),
        changed([0, 1, 0, 0, 0, 0, 0, 0], of=("picture",)),
        changed([0, 0, 0, 0, 0, 2, 0, 0], of=("picture",)),
    ],
    ids=["not zeros", "the picture before", "the picture by more"],
)
def test_a_weight_that_the_runtime_would_not_compute_with_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedArtifact, match=r"stem\.weight: it is widened by more than zeros"):
        read(data)


def test_a_weight_that_something_else_reads_wide_is_refused() -> None:
    model = onnx.load_model_from_string(changed(ONE_MORE))
    model.graph.node.append(helper.make_node("Neg", ["stem.weight"], ["more"]))
    with pytest.raises(DamagedArtifact, match=r"stem\.weight: it is widened"):
        read(model.SerializeToString())


@pytest.mark.parametrize("kind", ["Pad", "DequantizeLinear"])
def test_operators_of_others_are_no_decoding(kind: str) -> None:
    """The checker lets any such node pass, also one with nothing in it."""
    model = onnx.load_model_from_string(changed(ONE_MORE))
    model.opset_import.append(helper.make_opsetid("others", 1))
    model.graph.node.append(helper.make_node(kind, [], [], domain="others"))
    with pytest.raises(DamagedArtifact, match="not a usable ONNX model"):
        read(model.SerializeToString())


def test_decoding_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.artifacts.onnx.read.MAX_COMPUTED", 1000)
    with pytest.raises(DamagedArtifact, match="more than 1000 elements when decoded"):
        read(changed(ONE_MORE))
