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

from evaluators.artifacts.onnx.graph import build
from evaluators.artifacts.onnx.runtime import Session
from evaluators.artifacts.packed import Artifact, GridTensor

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(5, 4, 6, 6)).astype(np.float32)
SHAPES = {"first": (8, 4, 3, 3), "second": (8, 8, 3, 3), "after": (3, 8, 1, 1)}
LEVELS = {name: RNG.integers(-127, 128, shape) for name, shape in SHAPES.items()}
SCALE = np.float32(0.002)
#: A coarse grid where the skip connection begins: whether it is rounded shows.
GRIDS = {"first": (0.1, 0), "second": (0.01, 0), "after": (0.02, 0)}
OUTPUTS = {"second": (0.02, 128)}


def exported(filling: float) -> bytes:
    """A block of stride 2 whose skip connection is cut and padded, then a convolution."""
    constants = {
        "starts": np.int64([0, 0]),
        "ends": np.int64([99, 99]),
        "axes": np.int64([2, 3]),
        "steps": np.int64([2, 2]),
        "pads": np.int64([0, 2, 0, 0, 0, 2, 0, 0]),
    }
    if filling:
        constants["filling"] = np.float32(filling)
    zeros = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    pad = ["cut", "pads", *(["filling"] if filling else [])]
    nodes = [
        helper.make_node("Relu", ["x"], ["trunk"]),
        helper.make_node("Slice", ["trunk", "starts", "ends", "axes", "steps"], ["cut"]),
        helper.make_node("Pad", pad, ["skip"]),
        helper.make_node(
            "Conv", ["trunk", "first.weight"], ["wide"], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["wide"], ["inner"]),
        helper.make_node("Conv", ["inner", "second.weight"], ["branch"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["branch", "skip"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["block"]),
        helper.make_node("Conv", ["block", "after.weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 3, 3])],
        [numpy_helper.from_array(v, name) for name, v in {**constants, **zeros}.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def written(filling: float, outputs: dict[str, tuple[float, int]]) -> bytes:
    tensors = (
        GridTensor(f"{name}.weight", levels.astype(np.int32), np.array([SCALE]))
        for name, levels in LEVELS.items()
    )
    return build(exported(filling), Artifact(tuple(tensors)), GRIDS, outputs)


def rounded(values: torch.Tensor, grid: tuple[float, int]) -> torch.Tensor:
    scale, zero_point = np.float32(grid[0]), grid[1]
    levels = torch.clip(torch.round(values / scale) + zero_point, 0, 255)
    return (levels - zero_point) * scale


def computed(filling: float, *, skip_is_rounded: bool, branch_is_rounded: bool) -> np.ndarray:
    """The same in torch, rounding by rounding."""
    weights = {name: torch.from_numpy(levels * SCALE).float() for name, levels in LEVELS.items()}
    trunk = torch.relu(torch.from_numpy(INPUTS))
    read = rounded(trunk, GRIDS["first"])
    inner = torch.relu(F.conv2d(read, weights["first"], stride=2, padding=1))
    branch = F.conv2d(rounded(inner, GRIDS["second"]), weights["second"], padding=1)
    if branch_is_rounded:
        branch = rounded(branch, OUTPUTS["second"])
    skip = (read if skip_is_rounded else trunk)[:, :, ::2, ::2]
    skip = F.pad(skip, (0, 0, 0, 0, 2, 2), value=filling)
    block = rounded(torch.relu(branch + skip), GRIDS["after"])
    return F.conv2d(block, weights["after"]).numpy()


def operators(data: bytes, folder: Path) -> list[str]:
    """What the runtime makes of the file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


@pytest.mark.parametrize(
    ("filling", "outputs", "in_integers"),
    [(0.0, OUTPUTS, True), (0.5, OUTPUTS, False), (0.0, {}, False)],
    ids=["zeros are added", "halves are added", "the branch stays in floats"],
)
def test_only_where_every_operand_is_rounded(
    filling: float, outputs: dict[str, tuple[float, int]], in_integers: bool, tmp_path: Path
) -> None:
    data = written(filling, outputs)
    assert ("QLinearAdd" in operators(data, tmp_path)) == in_integers
    found = Session(data)(INPUTS)
    expected, other = (
        computed(filling, skip_is_rounded=is_so, branch_is_rounded=bool(outputs))
        for is_so in (in_integers, not in_integers)
    )
    # A sum that falls between two levels may be rounded to either.
    level = GRIDS["after"][0] * float(np.abs(LEVELS["after"] * SCALE).max())
    errors = np.abs(found - expected)
    assert errors.max() <= 3 * level
    assert errors.mean() < 0.1 * np.abs(found - other).mean(), "it is the one, not the other"
