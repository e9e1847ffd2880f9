"""The built-in hardware profiles are complete, and say where each figure comes from."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from evaluators.cost import format_capabilities, list_targets, load_target
from spaces import InvalidRequest, build_space
from tests.simulator import CAPABILITIES, simulate

KNOWN = ("cortex-m7", "host", "m1", "pixel", "rpi4", "t4", "x86")


def test_the_known_names():
    assert list_targets() == KNOWN


@pytest.mark.parametrize("name", KNOWN)
def test_every_figure_has_a_source(name):
    target = load_target(name)
    assert target.name == name
    figures = [*target.throughput_gmacs.values(), target.bandwidth_gbps, target.overhead_us]
    for figure in figures:
        assert figure.value > 0
        assert figure.source.startswith(("assumed: ", "derived: ", "measured: ", "published: "))
    assert any("parsity" in sentence or "zeros" in sentence for sentence in target.kernel_truth)


def test_what_is_measured_here(monkeypatch):
    """An x86 is measured on one, and modelled anywhere else."""
    for machine, measured in (("x86_64", ["host", "x86"]), ("arm64", ["host"])):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert [name for name in KNOWN if load_target(name).is_this_machine] == measured


def test_an_unknown_name_gets_the_known_ones():
    with pytest.raises(InvalidRequest, match="one of cortex-m7, host, m1") as caught:
        load_target("toaster")
    assert "'toaster'" in str(caught.value)


def test_a_users_own_file(tmp_path):
    path = tmp_path / "mine.toml"
    text = _own_toml()
    path.write_text(text)
    assert load_target(str(path)).name == "mine"
    assert load_target(str(path)).int8_weight_bits == 8


def _own_toml(**changes: str) -> str:
    lines = {
        "name": '"mine"',
        "description": '"a board"',
        "artifact_format": '"packed"',
        "native_format": '"tflite"',
        "compute_dtype": '"fp32"',
        "int8_needs_activation_bits": "true",
        "kernel_truth": "[]",
        "throughput_gmacs": '{fp32 = {value = 1.0, source = "assumed: a guess"}}',
        "bandwidth_gbps": '{value = 1.0, source = "assumed: a guess"}',
        "overhead_us": '{value = 1.0, source = "assumed: a guess"}',
        **changes,
    }
    return "\n".join(f"{key} = {value}" for key, value in lines.items() if value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "missing keys name"),
        ({"colour": '"red"'}, "unknown keys colour"),
        ({"name": "3"}, "name must be a text"),
        ({"is_this_machine": '"yes"'}, "must be true or false"),
        ({"throughput_gmacs": '{fp8 = {value = 1.0, source = "x"}}'}, "must be a table of fp32"),
        ({"overhead_us": "3.0"}, "overhead_us must be"),
        ({"overhead_us": '{value = 0, source = "x"}'}, "value = above 0"),
        ({"bandwidth_gbps": '{value = true, source = "x"}'}, "bandwidth_gbps must be"),
        ({"compute_dtype": '"fp16"'}, "compute_dtype 'fp16' has no throughput_gmacs"),
        ({"artifact_format": '"zip"'}, "artifact_format must be one of packed"),
        ({"int8_weight_bits": "9"}, "int8_weight_bits must be 2 to 8, but got 9"),
        ({"int8_weight_bits": "1"}, "int8_weight_bits must be 2 to 8, but got 1"),
        ({"int8_weight_bits": "7.0"}, "int8_weight_bits must be 2 to 8, but got 7.0"),
        ({"int8_weight_bits": "true"}, "int8_weight_bits must be 2 to 8"),
        ({"kernel_truth": '"fast"'}, "kernel_truth must be a list of texts"),
        ({"name": '"unclosed'}, "not a TOML file"),
    ],
)
def test_a_broken_file_gets_one_clear_error(tmp_path, changes, message):
    path = tmp_path / "mine.toml"
    path.write_text(_own_toml(**changes))
    with pytest.raises(InvalidRequest, match=message):
        load_target(str(path))


def test_a_missing_file():
    with pytest.raises(InvalidRequest, match=r"cannot read nowhere/x\.toml"):
        load_target("nowhere/x.toml")


def test_packed_can_store_every_choice_of_the_space():
    both, removed = CAPABILITIES.intersect(format_capabilities("packed"))
    assert not any(sentence.startswith("packed cannot") for sentence in removed)
    sim = simulate()
    assert [k.choices for k in build_space(sim.profile, both).knobs] == [
        k.choices for k in sim.space.knobs
    ]


def test_the_cost_models_need_no_torch():
    code = "import sys, evaluators.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_documented_example_is_a_target():
    example = Path(__file__).parents[3] / "docs" / "examples" / "my_board.toml"
    target = load_target(str(example))
    assert target.name == "my-board"
    assert not target.is_this_machine
    assert target.bandwidth_gbps.is_assumed
