"""Sizes of files with codes of a fixed width, against the closed form by hand."""

import pytest

from evaluators.cost import SizeModel, size_model
from evaluators.cost.stored_size import StoredSizeModel, stored_bits
from spaces import LayerPolicy, Policy, Stage
from tests.simulator import simulate

PROFILE = simulate().profile
LAYER = PROFILE.layers[0]


@pytest.mark.parametrize(
    ("asked", "bits"),
    [
        (LayerPolicy(), 32),
        (LayerPolicy(bits=16), 16),
        (LayerPolicy(bits=8), 8),
        (LayerPolicy(bits=5), 8),
        (LayerPolicy(bits=4), 4),
        (LayerPolicy(bits=3), 4),
        (LayerPolicy(bits=2), 2),
        (LayerPolicy(clusters=3), 2),
        (LayerPolicy(clusters=4), 4),
        (LayerPolicy(clusters=128), 8),
        (LayerPolicy(clusters=128, bits=4), 4),
        (LayerPolicy(sparsity=0.99, clusters=16), 8),
    ],
)
def test_width_of_a_code(asked: LayerPolicy, bits: int) -> None:
    assert stored_bits(asked) == bits


def test_a_known_layer() -> None:
    policy = Policy((Stage.QUANTIZE,), ((LAYER.name, LayerPolicy(bits=4)),))
    model = StoredSizeModel(PROFILE)
    saved = model.predict_bytes(Policy()) - model.predict_bytes(policy)
    # 32 bits become 4; a scale and what an initializer costs besides come on top.
    assert saved == pytest.approx(LAYER.weight_count * 28 / 8 - 4 - 150)


def test_the_uncompressed_file_is_the_one_that_was_measured() -> None:
    weights = PROFILE.fp32_bytes
    assert StoredSizeModel(PROFILE).predict_bytes(Policy()) == max(
        PROFILE.baseline_size_bytes, weights
    )


def test_element_sparsity_saves_nothing() -> None:
    model = StoredSizeModel(PROFILE)
    dense, sparse = (
        Policy((Stage.PRUNE, Stage.QUANTIZE), ((LAYER.name, LayerPolicy(sparsity=s, bits=8)),))
        for s in (0.0, 0.9)
    )
    assert model.predict_bytes(dense) == model.predict_bytes(sparse)


def test_each_format_has_its_model() -> None:
    assert type(size_model(PROFILE, "packed")) is SizeModel
    assert isinstance(size_model(PROFILE, "onnx"), StoredSizeModel)
