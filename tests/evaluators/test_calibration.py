"""A fit gives figures that explain times, and says how well on times it was not shown."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluators.calibration import (
    ProbeTime,
    at_one_speed,
    fit_target,
    relative_errors,
    target_toml,
)
from evaluators.cost import load_target, modelled_latency
from spaces import Figure, LayerPolicy, LayerProfile, ModelProfile, Policy, Stage, Target

X86 = load_target("x86")


def truth() -> Target:
    """Far from where the fit starts."""
    figure = {"fp32": Figure(55.0, "made up"), "int8": Figure(160.0, "made up")}
    return replace(
        X86,
        throughput_gmacs=figure,
        bandwidth_gbps=Figure(30.0, "made up"),
        overhead_us=Figure(0.8, "made up"),
        call_overhead_us=Figure(4.0, "made up"),
        output_element_ns=Figure(1.5, "made up"),
        int8_shallow_ratio=Figure(0.7, "made up"),
    )


def network(number: int) -> ModelProfile:
    rng = random.Random(number)
    layers = []
    if number % 3 == 0:  # reads grey images
        outputs = int(10 ** rng.uniform(1, 2))
        layers.append(
            LayerProfile(
                name="conv", kind="Conv2d", weight_shape=(outputs, 1, 5, 5), bias_size=outputs,
                macs=25 * outputs * 576, input_elements=784, output_elements=outputs * 576,
                weight_quantiles=(), can_prune_channels=False,
            )
        )  # fmt: skip
    for i in range(rng.randint(1, 5)):
        inputs, outputs = (int(10 ** rng.uniform(1, 3.2)) for _ in range(2))
        reuse = rng.choice((1, 1, 64, 400))  # as of a convolution's positions
        layers.append(
            LayerProfile(
                name=f"layer{i}", kind="Linear", weight_shape=(outputs, inputs), bias_size=outputs,
                macs=inputs * outputs * reuse, input_elements=inputs,
                output_elements=outputs * reuse, weight_quantiles=(), can_prune_channels=False,
            )
        )  # fmt: skip
    return ModelProfile(tuple(layers), (), (), 0, 0.9, 0.01, 1000, 1.0, "measured")


def probes(count: int, noise: float = 0.0, disturbed: int = 0) -> list[ProbeTime]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        profile = network(number)
        asked = tuple((layer.name, LayerPolicy(bits=8)) for layer in profile.layers)
        for policy in (Policy(), Policy((Stage.QUANTIZE,), asked, activation_bits=8)):
            ms = modelled_latency(policy, profile, truth()).median_ms
            ms *= float(np.exp(rng.normal(0, noise)))
            ms *= 20 if number < disturbed else 1
            held_out = number % 4 == 3
            found.append(ProbeTime(f"n{number}", policy, profile, ms, held_out, reference_ms=0.5))
    return found


def test_exact_times_give_the_figures_back() -> None:
    fit = fit_target(probes(60), X86, "fitted")
    assert fit.unseen_error < 0.01
    assert fit.seen_error < 0.01
    assert fit.before_error > 0.3
    for kind, figure in truth().throughput_gmacs.items():
        assert fit.target.throughput_gmacs[kind].value == pytest.approx(figure.value, rel=0.05)
    assert fit.target.overhead_us.value == pytest.approx(0.8, rel=0.1)
    assert fit.target.call_overhead_us is not None
    assert fit.target.call_overhead_us.value == pytest.approx(4.0, rel=0.1)
    assert fit.target.output_element_ns is not None
    assert fit.target.output_element_ns.value == pytest.approx(1.5, rel=0.1)
    assert fit.target.int8_shallow_ratio is not None
    assert fit.target.int8_shallow_ratio.value == pytest.approx(0.7, rel=0.1)
    assert fit.target.overhead_us.source == "fitted"


def test_what_was_not_timed_is_not_fitted() -> None:
    floats = [probe for probe in probes(60) if not probe.policy.order]
    fit = fit_target(floats, X86, "fitted")
    assert fit.target.int8_shallow_ratio == X86.int8_shallow_ratio
    assert fit.target.throughput_gmacs["int8"] == X86.throughput_gmacs["int8"]
    without = fit_target(probes(60), replace(X86, int8_shallow_ratio=None), "fitted")
    assert without.target.int8_shallow_ratio is None


def test_noise_shows_in_the_error_and_a_disturbed_probe_bends_nothing() -> None:
    clean = fit_target(probes(60), X86, "fitted").target
    fit = fit_target(probes(60, noise=0.15, disturbed=3), X86, "fitted")
    assert 0.03 < fit.unseen_error < 0.25
    undisturbed = probes(60)
    assert np.median(np.abs(relative_errors(undisturbed, fit.target))) < 0.12
    assert np.median(np.abs(relative_errors(undisturbed, clean))) < 0.01


def test_a_machine_that_gets_slower_meanwhile_bends_nothing() -> None:
    steady = probes(60)
    slower = [
        replace(p, median_ms=p.median_ms * factor, reference_ms=p.reference_ms * factor)
        for p, factor in zip(steady, np.geomspace(0.5, 2.0, len(steady)), strict=True)
    ]
    assert fit_target(slower, X86, "fitted").unseen_error > 0.1
    found = at_one_speed(slower)
    assert len({p.reference_ms for p in found}) == 1
    expected = [p.median_ms * found[0].reference_ms / 0.5 for p in steady]
    assert [p.median_ms for p in found] == pytest.approx(expected)
    assert fit_target(found, X86, "fitted").unseen_error < 0.01


def test_too_few_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        fit_target(probes(3), X86, "fitted")
    with pytest.raises(ValueError, match="0 held out"):
        fit_target([replace(p, held_out=False) for p in probes(20)], X86, "fitted")


@pytest.mark.parametrize("name", ["host", "x86", "m1", "cortex-m7"])
def test_the_file_of_a_profile_is_that_profile(name: str, tmp_path: Path) -> None:
    target = load_target(name)
    asked = replace(
        target,
        machines=(),
        is_this_machine=False,
        call_overhead_us=Figure(2.5, 'a "quoted" source\\ with\nlines'),
        output_element_ns=Figure(0.25, "made up"),
    )
    path = tmp_path / "board.toml"
    path.write_text(target_toml(asked, ("made here",)), encoding="utf-8")
    found = load_target(str(path))
    assert found.call_overhead_us is not None
    assert found.call_overhead_us.value == 2.5
    assert found.output_element_ns == Figure(0.25, "made up")
    assert replace(found, call_overhead_us=None) == replace(asked, call_overhead_us=None)
