"""Which format a study gets, and what is said where it is not the target's own."""

import pytest

from evaluators import formats
from evaluators.cost.targets import list_targets, load_target
from evaluators.formats import FORMATS, check_installed, choose_format, format_capabilities
from spaces import InvalidRequest, Stage

X86 = load_target("x86")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)


def test_every_target_has_a_format_that_exists() -> None:
    assert all(load_target(name).artifact_format in FORMATS for name in list_targets())


def test_a_missing_extra_means_packed_and_one_sentence(nothing_installed: None) -> None:
    chosen, why = choose_format(None, X86)
    assert chosen == "packed"
    assert "needs onnx, onnxscript, onnxruntime" in why
    assert "pip install 'compression-search[onnx]'" in why


def test_an_asked_format_is_never_replaced(nothing_installed: None) -> None:
    with pytest.raises(InvalidRequest, match=r"format onnx needs .*compression-search\[onnx\]"):
        choose_format("onnx", X86)
    assert choose_format("packed", X86) == ("packed", "")


def test_an_unknown_format() -> None:
    with pytest.raises(InvalidRequest, match=r"--format must be one of packed, .* 'pickle'"):
        check_installed("pickle")
    with pytest.raises(InvalidRequest, match="artifact_format must be one of"):
        format_capabilities("pickle")


def test_onnx_offers_what_its_tables_hold() -> None:
    can = format_capabilities("onnx")
    clusters = can.layers["Linear"].clusters
    assert max(k for k in clusters if k is not None) == 128
    assert can.schemes == {"symmetric"}


def test_networks_are_judged_by_tflite_where_the_runtime_is_litert() -> None:
    pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")
    for name in ("rpi4", "pixel"):
        assert choose_format(None, load_target(name), "keras") == ("tflite", "")
        assert choose_format(None, load_target(name)) == ("tflite", "")
    assert choose_format(None, load_target("cortex-m7")) == ("tflite", "")
    assert choose_format(None, load_target("host"), "keras") == ("packed", "")
    chosen, why = choose_format(None, X86, "keras")
    assert chosen == "packed"
    assert "its format onnx is not written from keras networks" in why


def test_a_missing_litert_means_packed_and_names_its_extra(nothing_installed: None) -> None:
    chosen, why = choose_format(None, load_target("rpi4"))
    assert chosen == "packed"
    assert "pip install 'compression-search[litert]'" in why


def test_a_format_that_a_backend_does_not_write_is_refused() -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    with pytest.raises(InvalidRequest, match=r"onnx is not written from keras .*; packed, tflite"):
        choose_format("onnx", X86, "keras")


def test_tflite_offers_the_widths_of_its_kernels() -> None:
    can = format_capabilities("tflite")
    assert can.layers["Conv2d"].bits == {4, 8, 16, 32}
    assert can.layers["Conv2d"].bias_bits == can.activation_bits == {32}
    assert can.schemes == {"symmetric"}


def test_a_target_of_integers_only_is_offered_nothing_else() -> None:
    can = format_capabilities("tflite", integer_only=True)
    assert can.activation_bits == can.layers["Conv2d"].bits == {8}
    assert all(Stage.QUANTIZE in order for order in can.orders)
    # No other format is what such a target loads.
    assert format_capabilities("packed", integer_only=True) == format_capabilities("packed")


def test_keras_networks_have_no_integers_throughout() -> None:
    pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")
    chosen, why = choose_format(None, load_target("cortex-m7"), "keras")
    assert chosen == "packed"
    assert "it runs 8-bit integers only, and keras networks have no 8-bit activations" in why
    with pytest.raises(InvalidRequest, match="must compute in 8-bit integers throughout"):
        choose_format("tflite", load_target("cortex-m7"), "keras")
