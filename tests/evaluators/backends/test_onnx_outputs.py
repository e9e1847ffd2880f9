"""Convolutions before a residual add: their outputs get a grid, so that the 8-bit kernel runs."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnx
import onnxruntime

from evaluators.artifacts.onnx.calibrate import output_grids
from evaluators.artifacts.onnx.graph import open_convolutions
from evaluators.backends.pytorch.export import artifact_of_model
from evaluators.backends.pytorch.formats import OnnxFormat, Removal
from spaces import LayerPolicy, Policy, Stage
from tests import networks
from tests.evaluators.backends.conftest import Bench

GRIDS = {"stem": (0.02, 128), "inner": (0.02, 0), "outer": (0.02, 0), "head": (0.02, 0)}


def plain_file() -> bytes:
    workload = networks.residual()
    removal = Removal(workload.model, workload.validation.inputs[:1])
    writer = OnnxFormat(lambda: workload.train.inputs[:50])
    return writer.write(artifact_of_model(workload.model), removal)[""]


def test_norms_and_adds_leave_a_convolution_open() -> None:
    graph = onnx.load_model_from_string(plain_file()).graph
    assert open_convolutions(graph, GRIDS) == ["inner", "outer", "stem"]
    assert open_convolutions(graph, {"head": GRIDS["head"]}) == []


def test_a_chain_has_none() -> None:
    workload = networks.narrow()
    removal = Removal(workload.model, workload.validation.inputs[:1])
    data = OnnxFormat(lambda: workload.train.inputs[:9]).write(
        artifact_of_model(workload.model), removal
    )[""]
    graph = onnx.load_model_from_string(data).graph
    grids = {"0": (0.02, 128), "2": (0.02, 0), "5": (0.02, 0)}
    assert open_convolutions(graph, grids) == []


def test_grids_span_what_the_outputs_take() -> None:
    batches = [networks.images()[0].inputs[start : start + 20].numpy() for start in (0, 20)]
    grids = output_grids(plain_file(), GRIDS, batches)
    assert set(grids) == {"stem", "inner", "outer"}
    for scale, zero_point in grids.values():
        assert scale > 0
        assert 0 <= zero_point <= 255


def test_a_layer_of_floats_beside_integers_stays_a_float_kernel(tmp_path: Path) -> None:
    """As the first convolution should: with one channel the integer kernel takes thrice as long."""
    bench = Bench(networks.name("conv"), tmp_path, "x86", "onnx")
    layers = (("0", LayerPolicy(bits=16)), ("4", LayerPolicy(bits=8)))
    measured = bench.measure(Policy((Stage.QUANTIZE,), layers, activation_bits=8), fidelity=0)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(bench.file(measured)), options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.index("Conv") < kinds.index("MaxPool") < kinds.index("QuantizeLinear")
    assert not {"QLinearConv", "ConvInteger"} & set(kinds)
    assert {"QGemm", "MatMulIntegerToFloat"} & set(kinds)
    assert np.isclose(measured.metric, bench.worker.profile.baseline_metric, atol=0.05)


def test_the_file_rounds_them_and_the_network_still_works(tmp_path: Path) -> None:
    bench = Bench(networks.name("residual"), tmp_path, "x86", "onnx")
    layers = tuple((n, LayerPolicy(bits=8)) for n in ("stem", "inner", "outer", "head"))
    measured = bench.measure(Policy((Stage.QUANTIZE,), layers, activation_bits=8), fidelity=0)
    graph = onnx.load(bench.file(measured)).graph
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    inputs, outputs = len({n.input[0] for n in pairs}), 3
    assert inputs >= outputs + 3
    assert np.isclose(measured.metric, bench.worker.profile.baseline_metric, atol=0.05)
