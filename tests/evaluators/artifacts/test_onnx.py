"""The `onnx` format without a network: what is stored is what comes back, to the last bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnx
from onnx import TensorProto, helper

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.onnx.graph import build
from evaluators.artifacts.onnx.read import read
from evaluators.artifacts.onnx.runtime import Session
from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    DamagedArtifact,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
)

ROWS, COLUMNS = 6, 5
RNG = np.random.default_rng(0)
BIAS = FloatTensor("fc.bias", RNG.normal(size=ROWS).astype(np.float32))


def exported() -> bytes:
    """Gemm(x, fc.weight, fc.bias), as torch exports a Linear."""
    zeros = [
        helper.make_tensor("fc.weight", TensorProto.FLOAT, (ROWS, COLUMNS), [0.0] * 30),
        helper.make_tensor("fc.bias", TensorProto.FLOAT, (ROWS,), [0.0] * ROWS),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], transB=1)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", ROWS])],
        zeros,
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def written(weight: Tensor, grids: dict[str, tuple[float, int]] | None = None) -> bytes:
    return build(exported(), Artifact((weight, BIAS)), grids or {})


def levels_of(most: int) -> GridTensor:
    levels = RNG.integers(-most, most + 1, (ROWS, COLUMNS)).astype(np.int32)
    levels[0, 0] = most
    return GridTensor("fc.weight", levels, np.array([0.03], np.float32))


def codes_of(entries: int, *, bits: int = 32) -> CodebookTensor:
    indices = RNG.integers(0, entries + 1, (ROWS, COLUMNS)).astype(np.int32)
    values = RNG.normal(size=entries).astype(np.float16 if bits == 16 else np.float32)
    return CodebookTensor("fc.weight", indices, FloatCodebook(values.astype(np.float32), bits))


@st.composite
def storable(draw: st.DrawFn) -> Tensor:
    """Any weight the format holds."""
    match draw(st.sampled_from(["float", "half", "grid", "channels", "codes", "grid codes"])):
        case "float":
            return FloatTensor("fc.weight", RNG.normal(size=(ROWS, COLUMNS)).astype(np.float32))
        case "half":
            halves = RNG.normal(size=(ROWS, COLUMNS)).astype(np.float16)
            return FloatTensor("fc.weight", halves.astype(np.float32), 16)
        case "grid":
            return levels_of(draw(st.sampled_from([1, 3, 7, 15, 127])))
        case "channels":
            levels = levels_of(draw(st.sampled_from([1, 7, 127]))).levels
            return GridTensor("fc.weight", levels, RNG.uniform(0, 1, ROWS).astype(np.float32))
        case "codes":
            return codes_of(draw(st.integers(1, 255)), bits=draw(st.sampled_from([16, 32])))
    entries = draw(st.integers(1, 40))
    book = GridCodebook(
        RNG.integers(-127, 128, entries).astype(np.int32), np.array([0.01], np.float32)
    )
    indices = RNG.integers(0, entries + 1, (ROWS, COLUMNS)).astype(np.int32)
    return CodebookTensor("fc.weight", indices, book)


@given(storable(), st.booleans())
def test_every_value_comes_back_and_every_byte_is_counted(weight: Tensor, rounded: bool) -> None:
    data = written(weight, {"fc": (0.02, 3)} if rounded else None)
    file = read(data)
    assert np.array_equal(file.weights["fc.weight"], weight.decode())
    assert np.array_equal(file.weights["fc.bias"], BIAS.decode())
    assert file.rounded_layers == ({"fc"} if rounded else set())
    assert sum(line.size_bytes for line in file.ledger) == len(data)


@given(storable())
def test_the_runtime_computes_with_the_stored_values(weight: Tensor) -> None:
    inputs = RNG.normal(size=(3, COLUMNS)).astype(np.float32)
    expected = inputs @ weight.decode().T + BIAS.decode()
    outputs = Session(written(weight))(inputs)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_rounded_inputs_reach_the_integer_kernel() -> None:
    """What it computes is x rounded to the grid, times the levels, to float rounding."""
    scale, zero_point, weight = 0.02, 128, levels_of(7)
    inputs = RNG.normal(size=(3, COLUMNS)).astype(np.float32)
    rounded = (np.clip(np.round(inputs / scale) + zero_point, 0, 255) - zero_point) * scale
    outputs = Session(written(weight, {"fc": (scale, zero_point)}))(inputs)
    expected = rounded @ weight.decode().T + BIAS.decode()
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("weight", "bits"),
    [
        (levels_of(1), 2),
        (levels_of(7), 4),
        (levels_of(8), 8),
        (codes_of(3), 2),
        (codes_of(4), 4),
        (codes_of(15), 4),
        (codes_of(16), 8),
    ],
)
def test_codes_take_the_fewest_bits(weight: Tensor, bits: int) -> None:
    model = onnx.load_model_from_string(written(weight))
    codes = next(t for t in model.graph.initializer if t.name in CODES)
    assert len(codes.raw_data) == -(-ROWS * COLUMNS * bits // 8)


CODES = ("fc.weight/levels", "fc.weight/indices")


@pytest.mark.parametrize("weight", [levels_of(200), codes_of(256)])
def test_what_eight_bits_cannot_hold_is_refused(weight: Tensor) -> None:
    with pytest.raises(CannotHold, match=r"fc\.weight: onnx: "):
        written(weight)


def test_a_tensor_the_exporter_folded_is_refused() -> None:
    norm = FloatTensor("norm.weight", np.ones(3, np.float32))
    with pytest.raises(CannotHold, match=r"norm\.weight: .*folded"):
        build(exported(), Artifact((BIAS, norm)), {})


@given(st.data())
def test_damaged_files_give_one_clear_error(data: st.DataObject) -> None:
    good = written(codes_of(5))
    cut = data.draw(st.integers(0, len(good) - 1))
    try:
        weights = read(good[:cut]).weights
    except DamagedArtifact:
        return
    # A cut may end between two fields, where what is left is well-formed but has no weights.
    assert "fc.weight" not in weights


def test_a_file_that_points_to_other_files_is_refused() -> None:
    model = onnx.load_model_from_string(written(levels_of(7)))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(DamagedArtifact, match=r"not a usable|another file"):
        read(model.SerializeToString())
