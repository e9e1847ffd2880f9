"""Recurrent layers in `onnx`: what the runtime can fold it folds when it loads a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from evaluators.artifacts.onnx.graph import build
from evaluators.artifacts.onnx.runtime import Session
from evaluators.artifacts.onnx.shapes import fold_shapes
from evaluators.artifacts.packed import Artifact, FloatTensor, GridTensor, Tensor
from evaluators.backends.pytorch.export import plain_state
from evaluators.backends.pytorch.onnx_export import export_graph
from evaluators.backends.pytorch.recurrent import parted
from tests.networks import WORDS, Words, make_gru, make_stacked

IDS = torch.from_numpy(np.random.default_rng(0).integers(0, WORDS, (3, 9)))


@pytest.mark.parametrize("make", [Words, make_gru, make_stacked])
def test_weights_are_constants_to_the_runtime(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    """Else it would cut and join the gates in every call, and pack no weights for its kernels."""
    model = parted(make()).eval()
    tensors: list[Tensor] = []
    for name, values in plain_state(model).items():
        floats = values.numpy()
        if floats.ndim == 2:
            scale = np.float32([np.abs(floats).max() / 127])
            tensors.append(GridTensor(name, np.rint(floats / scale).astype(np.int32), scale))
        else:
            tensors.append(FloatTensor(name, floats))
    data = build(export_graph(model, IDS[:1]), Artifact(tuple(tensors)), {})
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    constants = {tensor.name for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("LSTM", "GRU")]
    assert layers
    for node in layers:
        assert set(node.input[1:4]) <= constants, "weights of input and state, and biases"
    with torch.no_grad():
        for name, values in plain_state(model).items():
            (tensor,) = [tensor for tensor in tensors if tensor.name == name]
            values.copy_(torch.from_numpy(tensor.decode()))
        expected = model(IDS).numpy()
    np.testing.assert_allclose(Session(data)(IDS.numpy()), expected, atol=2e-6)


def shaped() -> onnx.ModelProto:
    """x * w cut in two at a place that is computed from the shape of `state`, (batch, 4)."""
    nodes = [
        helper.make_node("Shape", ["state"], ["units"], start=1, end=2),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.int64([2]))),
        helper.make_node("Div", ["units", "two"], ["half"]),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.int64([0]))),
        helper.make_node("Sub", ["half", "half"], ["nothing"]),
        helper.make_node("Slice", ["w", "zero", "half", "nothing"], ["part"]),
        helper.make_node("Shape", ["state"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "half"], ["open"], axis=0),
        helper.make_node("Expand", ["part", "open"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.float32([1, 2, 3, 4]), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_only_what_no_input_decides_is_folded() -> None:
    model = shaped()
    before = Session(model.SerializeToString())
    fold_shapes(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Constant", "Constant", "Slice", "Shape", "Concat", "Expand"], (
        "each number once"
    )
    assert [tensor.name for tensor in model.graph.initializer] == ["w"], "weights stay as they are"
    onnx.checker.check_model(model, full_check=True)
    state = np.zeros((3, 4), np.float32)
    np.testing.assert_array_equal(Session(model.SerializeToString())(state), before(state))
