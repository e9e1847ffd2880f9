"""Fits a hardware profile's figures to times that a runtime really took. Numpy and scipy only.

The figures are those of the roofline in `evaluators.cost.latency`, which is also what judges a fit:
no second formula. Networks that the fit has not seen say how far it can be trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from evaluators.cost.latency import modelled_latency
from spaces import Figure, ModelProfile, Policy, Target

__all__ = ["Fit", "ProbeTime", "at_one_speed", "fit_target", "relative_errors", "target_toml"]

#: A miss of more than this factor (as a logarithm) counts less than in proportion: one probe that
#: something else disturbed must not bend the figures.
SOFT = 0.2


@dataclass(frozen=True)
class ProbeTime:
    """One network's time.

    Attributes:
        name: of the network.
        policy: what was timed: the empty policy is fp32, another the network under it.
        profile: of the network; only its layers count.
        median_ms: one inference, one sample.
        held_out: not shown to the fit.
        reference_ms: what the reference network took in the same moment.
    """

    name: str
    policy: Policy
    profile: ModelProfile
    median_ms: float
    held_out: bool
    reference_ms: float

    @property
    def kind(self) -> str:
        """fp32, or int8 where activations are rounded too."""
        return "int8" if self.policy.activation_bits == 8 else "fp32"


@dataclass(frozen=True)
class Fit:
    """A fitted profile and how it does.

    Attributes:
        target: with the fitted figures.
        seen_error, unseen_error: median of |modelled / measured - 1| over the probes that were
            fitted, and over those that were not.
        before_error: of the profile as it was, over the latter.
    """

    target: Target
    seen_error: float
    unseen_error: float
    before_error: float


def at_one_speed(probes: Sequence[ProbeTime]) -> list[ProbeTime]:
    """The times as if the machine had been as fast as in the median all along.

    A shared machine, or one that gets warm, changes its speed by a factor of two within minutes.
    What the reference network took beside each probe says by how much.

    Args:
        probes: timed in one runtime, by one reference.
    """
    typical_ms = float(np.median([probe.reference_ms for probe in probes]))
    return [
        replace(
            probe,
            median_ms=probe.median_ms * typical_ms / probe.reference_ms,
            reference_ms=typical_ms,
        )
        for probe in probes
    ]


def relative_errors(probes: Sequence[ProbeTime], target: Target) -> np.ndarray:
    """(n,) modelled / measured - 1."""
    return np.array([_modelled_ms(p, target) / p.median_ms - 1 for p in probes])


def fit_target(probes: Sequence[ProbeTime], start: Target, source: str) -> Fit:
    """Fit throughput of each type, bandwidth, and what an operation, an element and a call cost.

    And what is left of an integer convolution's speed on one channel, where `start` knows of it.

    Least squares of the logarithms, so that a microsecond network counts like a millisecond one.

    Args:
        probes: of both kinds that `start` has figures for; some held out.
        start: where the fit begins.
        source: of the figures, for the profile: what was timed, where and when.

    Raises:
        ValueError: fewer than 10 probes to fit, or none held out.
    """
    seen = [probe for probe in probes if not probe.held_out]
    unseen = [probe for probe in probes if probe.held_out]
    if len(seen) < 10 or not unseen:
        raise ValueError(f"{len(seen)} probes to fit and {len(unseen)} held out are too few")
    timed = {probe.kind for probe in seen}
    kinds = tuple(kind for kind in start.throughput_gmacs if kind in timed)
    call_us = start.call_overhead_us.value if start.call_overhead_us else 1.0
    element_ns = start.output_element_ns.value if start.output_element_ns else 1.0
    # Of a kind that was not timed nothing is learned.
    shallow = start.int8_shallow_ratio if "int8" in timed else None
    first = np.log(
        [
            *([shallow.value] if shallow else []),
            *(start.throughput_gmacs[kind].value for kind in kinds),
            start.bandwidth_gbps.value,
            start.overhead_us.value,
            call_us,
            element_ns,
        ]
    )

    def at(logs: np.ndarray) -> Target:
        figures = [Figure(float(x), source) for x in np.exp(logs)]
        ratio = figures.pop(0) if shallow else start.int8_shallow_ratio
        *throughput, bandwidth, overhead, call, element = figures
        return replace(
            start,
            int8_shallow_ratio=ratio,
            throughput_gmacs={
                **start.throughput_gmacs,
                **dict(zip(kinds, throughput, strict=True)),
            },
            bandwidth_gbps=bandwidth,
            overhead_us=overhead,
            call_overhead_us=call,
            output_element_ns=element,
        )

    def misses(logs: np.ndarray) -> np.ndarray:
        target = at(logs)
        return np.log([_modelled_ms(p, target) / p.median_ms for p in seen])

    # Within a factor of 1,000 of the start: a figure that no probe depends on must not run away.
    bounds = (first - np.log(1000), first + np.log(1000))
    found = least_squares(misses, first, bounds=bounds, loss="soft_l1", f_scale=SOFT)
    target = at(found.x)
    return Fit(
        target,
        seen_error=_median_error(seen, target),
        unseen_error=_median_error(unseen, target),
        before_error=_median_error(unseen, start),
    )


def _modelled_ms(probe: ProbeTime, target: Target) -> float:
    return modelled_latency(probe.policy, probe.profile, target).median_ms


def _median_error(probes: Sequence[ProbeTime], target: Target) -> float:
    return float(np.median(np.abs(relative_errors(probes, target))))


def target_toml(target: Target, comment: Sequence[str]) -> str:
    """The profile as the TOML file that `--target FILE.toml` reads.

    Args:
        target: the profile.
        comment: lines above it.
    """
    lines = [f"# {line}" for line in comment]
    texts = ("name", "description", "artifact_format", "native_format", "compute_dtype")
    lines += [f"{key} = {_quoted(getattr(target, key))}" for key in texts]
    lines.append(f"int8_needs_activation_bits = {str(target.int8_needs_activation_bits).lower()}")
    if target.int8_weight_bits != 8:
        lines.append(f"int8_weight_bits = {target.int8_weight_bits}")
    if target.integer_only:
        lines.append("integer_only = true")
    lines.append(f"is_this_machine = {str(target.is_this_machine).lower()}")
    truth = [f"  {_quoted(words)}," for words in target.kernel_truth]
    lines += ["kernel_truth = [", *truth, "]", "", "[throughput_gmacs]"]
    lines += [f"{kind} = {_figure(figure)}" for kind, figure in target.throughput_gmacs.items()]
    for key in (
        "bandwidth_gbps",
        "overhead_us",
        "call_overhead_us",
        "output_element_ns",
        "int8_shallow_ratio",
    ):
        figure = getattr(target, key)
        if figure is not None:
            value, source = f"{figure.value:.6g}", _quoted(figure.source)
            lines += ["", f"[{key}]", f"value = {value}", f"source = {source}"]
    return "\n".join(lines) + "\n"


def _figure(figure: Figure) -> str:
    return f"{{ value = {figure.value:.6g}, source = {_quoted(figure.source)} }}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else " " for c in escaped) + '"'
