"""Sizes of files with codes of a fixed width, against the closed form by hand."""

import pytest

from evaluators.cost import SizeModel, size_model
from evaluators.cost.stored_size import StoredSizeModel, code_bits, stored_formats
from evaluators.formats import FORMATS
from spaces import LayerPolicy, Policy, Stage
from tests.simulator import simulate

PROFILE = simulate().profile
LAYER = PROFILE.layers[0]


@pytest.mark.parametrize(
    ("asked", "onnx", "mlpackage"),
    [
        (LayerPolicy(), 32, 16),
        (LayerPolicy(bits=16), 16, 16),
        (LayerPolicy(bits=8), 8, 8),
        (LayerPolicy(bits=5), 8, 6),
        (LayerPolicy(bits=4), 4, 4),
        (LayerPolicy(bits=3), 4, 3),
        (LayerPolicy(bits=2), 2, 2),
        (LayerPolicy(clusters=1), 2, 1),
        (LayerPolicy(clusters=3), 2, 2),
        (LayerPolicy(clusters=4), 4, 3),
        (LayerPolicy(clusters=16), 8, 6),
        (LayerPolicy(clusters=128), 8, 8),
        (LayerPolicy(clusters=128, bits=4), 4, 4),
    ],
)
def test_width_of_a_code(asked: LayerPolicy, onnx: int, mlpackage: int) -> None:
    assert code_bits((2, 4, 8), asked, 32) == onnx
    assert code_bits((1, 2, 3, 4, 6, 8), asked, 16) == mlpackage


def test_a_known_layer() -> None:
    policy = Policy((Stage.QUANTIZE,), ((LAYER.name, LayerPolicy(bits=4)),))
    model = StoredSizeModel(PROFILE, "onnx")
    saved = model.predict_bytes(Policy()) - model.predict_bytes(policy)
    # 32 bits become 4; a scale and what an initializer costs besides come on top.
    assert saved == pytest.approx(LAYER.weight_count * 28 / 8 - 4 - 150)


def test_the_uncompressed_file_is_the_one_that_was_measured() -> None:
    for name, weights in (("onnx", PROFILE.fp32_bytes), ("mlpackage", PROFILE.fp32_bytes / 2)):
        predicted = StoredSizeModel(PROFILE, name).predict_bytes(Policy())
        assert predicted == max(PROFILE.baseline_size_bytes, weights)


def sparse(share: float) -> Policy:
    asked = LayerPolicy(sparsity=share, clusters=15)
    return Policy((Stage.PRUNE, Stage.CLUSTER), ((LAYER.name, asked),))


def test_zeros_save_bytes_only_where_there_are_masks() -> None:
    onnx, coreml = (StoredSizeModel(PROFILE, name) for name in ("onnx", "mlpackage"))
    assert onnx.predict_bytes(sparse(0.0)) == onnx.predict_bytes(sparse(0.9))
    saved = coreml.predict_bytes(sparse(0.0)) - coreml.predict_bytes(sparse(0.9))
    # 4 bits each become one bit of a mask each and 4 bits for a tenth.
    assert saved == pytest.approx(LAYER.weight_count * (4 - 1 - 0.4) / 8)


def test_each_format_has_its_model() -> None:
    assert {"packed", *stored_formats()} == set(FORMATS)
    assert type(size_model(PROFILE, "packed")) is SizeModel
    assert isinstance(size_model(PROFILE, "onnx"), StoredSizeModel)


def test_tflite_stores_levels_floats_and_sparse_floats() -> None:
    model = StoredSizeModel(PROFILE, "tflite")

    def bits(asked: LayerPolicy, *order: Stage) -> float:
        policy = Policy(order, ((LAYER.name, asked),))
        saved = model.predict_bytes(Policy()) - model.predict_bytes(policy)
        return 32 - saved * 8 / LAYER.weight_count

    overhead = 8 * 60 / LAYER.weight_count
    assert bits(LayerPolicy(bits=8), Stage.QUANTIZE) == pytest.approx(8, abs=2 * overhead)
    assert bits(LayerPolicy(bits=4), Stage.QUANTIZE) == pytest.approx(4, abs=2 * overhead)
    shared = LayerPolicy(clusters=12, bits=8)
    assert bits(shared, Stage.CLUSTER, Stage.QUANTIZE) == pytest.approx(8, abs=2 * overhead)
    assert bits(LayerPolicy(clusters=16), Stage.CLUSTER) == pytest.approx(32 + overhead)
    row = LAYER.weight_shape[1]
    place = 8 if row <= 256 else 16
    sparse_bits = bits(LayerPolicy(sparsity=0.9), Stage.PRUNE)
    assert sparse_bits == pytest.approx(0.1 * (32 + place), rel=0.1, abs=2 * overhead)
