"""Residual adds in `onnx`: in integers where all they read is rounded, else as they were."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from evaluators.artifacts.onnx.adds import round_adds
from evaluators.artifacts.onnx.graph import build
from evaluators.artifacts.packed import Artifact, GridTensor
from tests.evaluators.artifacts.optimised import operators

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(5, 4, 6, 6)).astype(np.float32)
SHAPES = {"first": (8, 4, 3, 3), "second": (8, 8, 3, 3), "after": (3, 8, 1, 1)}
LEVELS = {name: RNG.integers(-127, 128, shape) for name, shape in SHAPES.items()}
SCALE = np.float32(0.002)
#: A coarse grid where the skip connection begins, with 0 in its middle: whether the skip is rounded
#: shows, and so does level 0 in the place of the number.
GRIDS = {"first": (0.05, 120), "second": (0.01, 0), "after": (0.02, 0)}
OUTPUTS = {"second": (0.02, 128)}
#: What stands between the block's input and its add.
SLICE = helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["cut"])
SHORTCUTS = {
    "zeros": [helper.make_node("Pad", ["cut", "pads"], ["skip"])],
    "a written zero": [helper.make_node("Pad", ["cut", "pads", "zero"], ["skip"])],
    "halves": [helper.make_node("Pad", ["cut", "pads", "half"], ["skip"])],
    "edges": [helper.make_node("Pad", ["cut", "pads"], ["skip"], mode="edge")],
    "the cut is read too": [
        helper.make_node("Pad", ["cut", "pads"], ["skip"]),
        helper.make_node("Abs", ["cut"], ["second_output"]),
    ],
    "the skip is an output": [helper.make_node("Pad", ["cut", "pads"], ["skip"])],
}
FILLED = {"halves": {"value": 0.5}, "edges": {"mode": "replicate"}}
MORE_OUTPUTS = {"the cut is read too": "second_output", "the skip is an output": "skip"}


def exported(shortcut: str) -> bytes:
    """A block of stride 2 whose skip connection is cut and padded, then a convolution."""
    constants = {
        "starts": np.int64([0, 0]),
        "ends": np.int64([99, 99]),
        "axes": np.int64([2, 3]),
        "steps": np.int64([2, 2]),
        "pads": np.int64([0, 2, 0, 0, 0, 2, 0, 0]),
        "zero": np.float32(0),
        "half": np.float32(0.5),
    }
    zeros = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    nodes = [
        SLICE,
        *SHORTCUTS[shortcut],
        helper.make_node(
            "Conv", ["x", "first.weight"], ["wide"], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["wide"], ["inner"]),
        helper.make_node("Conv", ["inner", "second.weight"], ["branch"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["branch", "skip"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["block"]),
        helper.make_node("Conv", ["block", "after.weight"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 3, 3])]
    if name := MORE_OUTPUTS.get(shortcut):
        sizes = ["batch", 8 if name == "skip" else 4, 3, 3]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        outputs,
        [numpy_helper.from_array(v, name) for name, v in {**constants, **zeros}.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def written(shortcut: str, outputs: dict[str, tuple[float, int]]) -> bytes:
    tensors = (
        GridTensor(f"{name}.weight", levels.astype(np.int32), np.array([SCALE]))
        for name, levels in LEVELS.items()
    )
    return build(exported(shortcut), Artifact(tuple(tensors)), GRIDS, outputs)


def rounded(values: torch.Tensor, grid: tuple[float, int]) -> torch.Tensor:
    scale, zero_point = np.float32(grid[0]), grid[1]
    levels = torch.clip(torch.round(values / scale) + zero_point, 0, 255)
    return (levels - zero_point) * scale


def computed(shortcut: str, *, skip_is_rounded: bool, branch_is_rounded: bool) -> np.ndarray:
    """The same in torch, rounding by rounding."""
    weights = {name: torch.from_numpy(levels * SCALE).float() for name, levels in LEVELS.items()}
    trunk = torch.from_numpy(INPUTS)
    read = rounded(trunk, GRIDS["first"])
    inner = torch.relu(F.conv2d(read, weights["first"], stride=2, padding=1))
    branch = F.conv2d(rounded(inner, GRIDS["second"]), weights["second"], padding=1)
    if branch_is_rounded:
        branch = rounded(branch, OUTPUTS["second"])
    skip = (read if skip_is_rounded else trunk)[:, :, ::2, ::2]
    # torch repeats edges along the last axes only, so channels become the last.
    turned = F.pad(skip.permute(0, 2, 3, 1), (2, 2, 0, 0), **FILLED.get(shortcut, {}))
    block = rounded(torch.relu(branch + turned.permute(0, 3, 1, 2)), GRIDS["after"])
    return F.conv2d(block, weights["after"]).numpy()


def check(data: bytes, expected: np.ndarray, other: np.ndarray) -> None:
    """It computes what is expected, and not the other."""
    # As written: without VNNI the integer kernels add pairs of products in 16 bits, which overflow.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    found = session.run(["y"], {"x": INPUTS})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - other).mean() > 1e-3


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_only_what_moves_levels_unchanged_is_moved(shortcut: str, tmp_path: Path) -> None:
    data = written(shortcut, OUTPUTS)
    in_integers = shortcut in ("zeros", "a written zero")
    assert ("QLinearAdd" in operators(data, tmp_path)) == in_integers
    expected, other = (
        computed(shortcut, skip_is_rounded=is_so, branch_is_rounded=True)
        for is_so in (in_integers, not in_integers)
    )
    check(data, expected, other)


def test_an_add_behind_floats_stays_as_it_is(tmp_path: Path) -> None:
    data = written("zeros", {})
    assert "QLinearAdd" not in operators(data, tmp_path)
    expected, other = (
        computed("zeros", skip_is_rounded=is_so, branch_is_rounded=False) for is_so in (False, True)
    )
    check(data, expected, other)


def small(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    """A graph of one value x (batch, 4) that a layer reads rounded, with 4-wide y."""
    grid = [
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.uint8(7), "zero_point"),
        numpy_helper.from_array(np.int64([0]), "from"),
        numpy_helper.from_array(np.int64([4]), "to"),
        numpy_helper.from_array(np.int64([1]), "axis"),
    ]
    pair = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero_point"], ["rounded"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")
    )
    return helper.make_graph([*pair, *nodes], "net", [x], [y], grid)


TWICE = [
    helper.make_node("Slice", ["x", "from", "to", "axis"], ["part"]),
    helper.make_node("Add", ["part", "part"], ["y"]),
]
OF_FLOATS = [
    helper.make_node("Abs", ["x"], ["other"]),
    helper.make_node("QuantizeLinear", ["other", "scale", "zero_point"], ["again"]),
    helper.make_node("DequantizeLinear", ["again", "scale", "zero_point"], ["second"]),
    helper.make_node("Add", ["x", "other"], ["y"]),
]


@pytest.mark.parametrize("nodes", [TWICE, OF_FLOATS], ids=["one value twice", "floats"])
def test_an_add_of_what_no_integer_kernel_gives_stays(nodes: list[onnx.NodeProto]) -> None:
    """Though layers read all of it rounded."""
    graph = small(nodes)
    before = graph.SerializeToString()
    round_adds(graph)
    assert graph.SerializeToString() == before


def test_the_first_of_two_roundings_is_read() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["again"]),
        helper.make_node("DequantizeLinear", ["again", "scale", "zero_point"], ["second"]),
        helper.make_node("Add", ["second", "x"], ["y"]),
    ]
    graph = small(nodes)
    round_adds(graph)
    assert list(graph.node[-1].input) == ["second", "rounded"]


def stem_and_block() -> bytes:
    """A convolution, rectified, whose values the next one and an add read."""
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["trunk"]),
        helper.make_node("Conv", ["trunk", "inner.weight"], ["branch"]),
        helper.make_node("Add", ["branch", "trunk"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["block"]),
        helper.make_node("Conv", ["block", "after.weight"], ["y"]),
    ]
    zeros = [
        numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), f"{name}.weight")
        for name in ("stem", "inner", "after")
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 6, 6])
        for name in ("x", "y")
    )
    graph = helper.make_graph(nodes, "net", [x], [y], zeros)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def test_a_convolution_s_own_grid_goes_where_all_that_reads_it_rounds_again() -> None:
    """It had one for the add, which reads the next layer's rounding now."""
    grids = {"stem": (0.05, 128), "inner": (0.01, 0), "after": (0.02, 0)}
    outputs = {"inner": (0.02, 128), "stem": (0.03, 128)}
    levels = RNG.integers(-127, 128, (4, 4, 1, 1)).astype(np.int32)
    tensors = (GridTensor(f"{n}.weight", levels, np.array([SCALE])) for n in grids)
    model = onnx.load_model_from_string(
        build(stem_and_block(), Artifact(tuple(tensors)), grids, outputs)
    )
    names = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = [
        float(numpy_helper.to_array(names[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert scales == pytest.approx([0.05, 0.01, 0.02, 0.02]), "input, trunk, branch, block"
    assert not [name for name in names if name.startswith("output1/")]
    (stem,) = (node for node in model.graph.node if node.input[:1] == ["activation2/rounded"])
    assert stem.output == ["wide"]
