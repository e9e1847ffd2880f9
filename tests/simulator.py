"""A compression study without a network: everything the loop, record and pages need, in numpy.

    sim = simulate(layers=4, seed=0)
    sim.spec, sim.profile, sim.space, sim.judge      what a study is made from
    sim.measure(policy)                              -> Measurement, the same one every time
    sim.trial(number, policy)                        -> Trial

The loss is a sum over layers of sensitivity * distortion (share of the weights' energy lost), less
what fine-tuning and distillation recover, more what a bad order of stages destroys. The size is an
entropy, the latency a roofline. `seed` makes another network, never another format.

With `interaction` the loss is no sum any more: what neighbouring layers lose multiplies, and so
does what pruning and rounding take from one layer, depending on which came first. No scan of one
layer and one knob can see either.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from search.spec import StudySpec
from spaces import (
    ACCURACY,
    Budget,
    Capabilities,
    Failure,
    Judge,
    Latency,
    LayerAudit,
    LayerCapabilities,
    LayerPolicy,
    LayerProfile,
    LedgerLine,
    Measurement,
    ModelProfile,
    Policy,
    SearchSpace,
    Sensitivity,
    Stage,
    StageAudit,
    Trial,
    build_space,
)

__all__ = ["CAPABILITIES", "Simulator", "simulate"]

VALIDATION_SAMPLES = 10_000
BASELINE_ACCURACY = 0.985
CHANCE_ACCURACY = 0.1
FIDELITY = 2_000
FULL_FIDELITY = 20_000

_ANY = LayerCapabilities(
    bits=frozenset({32, 16, 8, 7, 6, 5, 4, 3, 2}),
    clusters=frozenset({None, 256, 128, 64, 32, 16, 12, 8, 6, 5, 4, 3, 2}),
    patterns=frozenset({"element", "channel"}),
    bias_bits=frozenset({32, 16, 8}),
)
CAPABILITIES = Capabilities(
    name="simulator",
    layers={"Linear": _ANY, "Conv2d": _ANY},
    activation_bits=frozenset({32, 8}),
    distillation_kinds=frozenset({"none", "logits"}),
)

#: (name, kind, weight shape, output positions); a network of n layers is the last n.
_LAYERS: Sequence[tuple[str, str, tuple[int, ...], int]] = (
    ("stem1", "Conv2d", (8, 3, 3, 3), 1024),
    ("stem2", "Conv2d", (8, 8, 3, 3), 1024),
    ("stem3", "Conv2d", (16, 8, 3, 3), 576),
    ("stem4", "Conv2d", (16, 16, 3, 3), 576),
    ("stem5", "Conv2d", (16, 16, 3, 3), 576),
    ("stem6", "Conv2d", (1, 16, 1, 1), 576),
    ("conv1", "Conv2d", (16, 1, 5, 5), 576),
    ("conv2", "Conv2d", (32, 16, 5, 5), 64),
    ("fc1", "Linear", (300, 784), 1),
    ("fc2", "Linear", (150, 300), 1),
    ("fc3", "Linear", (100, 150), 1),
    ("out", "Linear", (10, 100), 1),
)
_SCAN: Mapping[str, Sequence[float]] = {
    "sparsity": (0.5, 0.8, 0.9, 0.95, 0.98),
    "clusters": (32, 16, 8, 4, 2),
    "bits": (8, 6, 4, 3, 2),
}


def _entropy_bits(share: float) -> float:
    """Bits of one yes/no of probability `share`."""
    if share in (0.0, 1.0):
        return 0.0
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)


def _pruned_energy(sparsity: float) -> float:
    """Share of a Laplace layer's energy in its smallest magnitudes."""
    if sparsity == 0.0:
        return 0.0
    threshold = -math.log1p(-sparsity)
    return 1 - (1 - sparsity) * (threshold**2 / 2 + threshold + 1)


def _clustered_energy(clusters: int | None) -> float:
    return 0.0 if clusters is None else 1.2 / clusters**2


def _quantized_energy(bits: int, granularity: str) -> float:
    return 0.0 if bits >= 16 else (6.0 if granularity == "channel" else 12.0) * 4.0**-bits


def _rng(*parts: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class Simulator:
    """One simulated network.

    Attributes:
        layer_count: 1 to 12.
        seed: which network: the layers' sensitivities and the evaluations' noise.
        budget: the study's limits.
        study: name of the study.
        trials: asked number of trials.
        proposer: name in the spec.
        restrictions: of the space.
        noise: factor on the metric's sampling noise; 0 = none.
        interaction: factor on what is lost together beyond the sum of the parts; 0 = additive.
    """

    layer_count: int = 4
    seed: int = 0
    budget: Budget = field(default_factory=lambda: Budget(size_bytes=100_000, max_drop=0.03))
    study: str = "sim"
    trials: int = 100
    proposer: str = "tpe"
    restrictions: Mapping[str, Any] = field(default_factory=dict)
    noise: float = 1.0
    interaction: float = 0.0

    @cached_property
    def sensitivities(self) -> Mapping[str, float]:
        """Layer -> metric lost per share of energy lost; first and last layers matter most."""
        shapes = _LAYERS[-self.layer_count :]
        drawn = _rng("sensitivity", self.seed).lognormal(0.0, 0.7, len(shapes))
        ends = {0, len(shapes) - 1}
        return {
            name: float(0.1 * drawn[i] * (2.0 if i in ends else 1.0))
            for i, (name, *_) in enumerate(shapes)
        }

    @cached_property
    def profile(self) -> ModelProfile:
        """What a worker would have found out about the network."""
        layers = tuple(self._layer(*shape) for shape in _LAYERS[-self.layer_count :])
        neutral = ModelProfile(
            layers=layers,
            channel_groups=(),
            excluded=(),
            other_bytes=0,
            baseline_metric=BASELINE_ACCURACY,
            baseline_metric_se=_standard_error(BASELINE_ACCURACY),
            baseline_size_bytes=1,
            baseline_latency_ms=1.0,
            latency_source="modelled",
            scan_passes=sum(map(len, _SCAN.values())) * len(layers),
            scan_seconds=3.0,
        )
        ledger = _ledger(neutral, Policy())
        latency = _latency(neutral, Policy())
        return ModelProfile(
            **{
                **{name: getattr(neutral, name) for name in neutral.__dataclass_fields__},
                "baseline_size_bytes": sum(line.size_bytes for line in ledger),
                "baseline_latency_ms": latency.median_ms,
            }
        )

    def _layer(self, name: str, kind: str, shape: tuple[int, ...], positions: int) -> LayerProfile:
        quantiles = np.linspace(0.0, 1.0, 33)[1:-1] - 0.5
        laplace = -0.05 * np.sign(quantiles) * np.log1p(-2 * np.abs(quantiles))
        edge = 0.05 * math.log(math.prod(shape))
        return LayerProfile(
            name=name,
            kind=kind,
            weight_shape=shape,
            bias_size=shape[0],
            macs=math.prod(shape) * positions,
            input_elements=shape[1] * positions,
            output_elements=shape[0] * positions,
            weight_quantiles=(-edge, *(float(q) for q in laplace), edge),
            can_prune_channels=name != "out",
            sensitivity=self._scan(name),
            input_group=self._before(name),
        )

    def _before(self, name: str) -> str:
        names = [shape[0] for shape in _LAYERS[-self.layer_count :]]
        return names[names.index(name) - 1] if name != names[0] else ""

    def _scan(self, name: str) -> tuple[Sensitivity, ...]:
        """Untrained, one layer at a time, seen through a few samples: within some 30 per cent."""
        noise = _rng("scan", self.seed, name)
        energies = {
            "sparsity": [_pruned_energy(s) for s in _SCAN["sparsity"]],
            "clusters": [_clustered_energy(int(k)) for k in _SCAN["clusters"]],
            "bits": [_quantized_energy(int(b), "tensor") for b in _SCAN["bits"]],
        }
        return tuple(
            Sensitivity(
                knob=knob,
                value=value,
                loss_increase=4 * self.sensitivities[name] * energy * float(noise.lognormal(0, 0.3))
                + float(noise.normal(0, 1e-3)),
            )
            for knob in _SCAN
            for value, energy in zip(_SCAN[knob], energies[knob], strict=True)
        )

    @cached_property
    def space(self) -> SearchSpace:
        """The whole space under `restrictions`."""
        return build_space(self.profile, CAPABILITIES, self.restrictions)

    @cached_property
    def spec(self) -> StudySpec:
        """The request."""
        return StudySpec(
            name=self.study,
            workload="simulated",
            target="m1",
            artifact_format="packed",
            budget=self.budget,
            metric=ACCURACY,
            proposer=self.proposer,
            seed=self.seed,
            trials=self.trials,
            fidelity=FIDELITY,
            full_fidelity=FULL_FIDELITY,
            finalists=3,
            device="cpu",
            restrictions=self.restrictions,
        )

    @cached_property
    def judge(self) -> Judge:
        """Metric, budget and profile."""
        return Judge(ACCURACY, self.budget, self.profile)

    def true_metric(self, policy: Policy, fidelity: int = FIDELITY) -> float:
        """The metric without sampling noise."""
        lost = sum(self._distortion(policy, name) for name in self.sensitivities)
        if self.interaction:
            lost += self.interaction * self._lost_together(policy)
        recovered = 0.75 * (1 - math.exp(-fidelity / 3_000)) if policy.order else 0.0
        lost *= (1 - recovered) * (1 - _distillation_gain(policy))
        span = BASELINE_ACCURACY - CHANCE_ACCURACY
        return CHANCE_ACCURACY + span * math.exp(-lost / span)

    def _lost_together(self, policy: Policy) -> float:
        """Products of energies lost: of neighbours, and within a layer of pruning and rounding.

        A layer that reads wrong inputs and is wrong itself is worse than both alone; distilling
        after the damage halves that. Pruning what is rounded already takes the rounding's error
        with it, so within a layer the order decides, against the additive part's order.
        """
        names = list(self.sensitivities)
        shares = [self._distortion(policy, name) / self.sensitivities[name] for name in names]
        neighbours = sum(
            (self.sensitivities[a] + self.sensitivities[b]) * shares[i] * shares[i + 1]
            for i, (a, b) in enumerate(itertools.pairwise(names))
        )
        distilled_after = _runs_before(policy, Stage.PRUNE, Stage.DISTILL)
        within = 0.0
        for name, sensitivity in self.sensitivities.items():
            layer = policy.layer(name)
            pruned = _pruned_energy(layer.sparsity)
            pruned_last = 0.2 if _runs_before(policy, Stage.CLUSTER, Stage.PRUNE) else 1.0
            within += sensitivity * pruned * _clustered_energy(layer.clusters) * pruned_last
            pruned_last = 0.2 if _runs_before(policy, Stage.QUANTIZE, Stage.PRUNE) else 1.0
            rounded = _quantized_energy(layer.bits, policy.granularity)
            within += sensitivity * pruned * rounded * pruned_last
        return 4 * neighbours * (0.5 if distilled_after else 1.0) + 8 * within

    def _distortion(self, policy: Policy, name: str) -> float:
        layer = policy.layer(name)
        pruned = _pruned_energy(layer.sparsity) * (2.5 if layer.pattern == "channel" else 1.0)
        clustered = _clustered_energy(layer.clusters)
        quantized = _quantized_energy(layer.bits, policy.granularity)
        if _runs_before(policy, Stage.CLUSTER, Stage.PRUNE):
            pruned *= 1.5  # whole clusters are lost, and their centroids were placed for nothing
        if _runs_before(policy, Stage.QUANTIZE, Stage.PRUNE):
            pruned *= 1.2
        if _runs_before(policy, Stage.QUANTIZE, Stage.CLUSTER):
            clustered *= 1.4  # centroids must lie on the grid
        return self.sensitivities[name] * (pruned + clustered + quantized)

    def measure(self, policy: Policy, fidelity: int = FIDELITY, repeat: int = 0) -> Measurement:
        """What a worker would report; the same arguments give the same answer."""
        true = self.true_metric(policy, fidelity)
        error = _standard_error(true)
        drawn = float(_rng("noise", self.seed, policy.digest, fidelity, repeat).normal())
        metric = min(1.0, max(0.0, true + self.noise * error * drawn))
        metric = round(metric * VALIDATION_SAMPLES) / VALIDATION_SAMPLES
        ledger = _ledger(self.profile, policy)
        size_bytes = sum(line.size_bytes for line in ledger)
        return Measurement(
            metric=metric,
            metric_se=_standard_error(metric),
            metric_samples=VALIDATION_SAMPLES,
            size_bytes=size_bytes,
            download_bytes=size_bytes,
            sha256=hashlib.sha256(f"{policy.digest}/{fidelity}/{repeat}".encode()).hexdigest(),
            ledger=ledger,
            macs=sum(_macs(self.profile, policy).values()),
            latency=_latency(self.profile, policy),
            seconds={"train": fidelity / 1000, "encode": 0.2, "score": 0.5, "latency": 0.1},
            audit=self._audit(policy, fidelity),
        )

    def _audit(self, policy: Policy, fidelity: int) -> tuple[StageAudit, ...]:
        entries = []
        for at, stage in enumerate(policy.order):
            so_far = Policy(
                policy.order[: at + 1],
                policy.layers,
                policy.distillation,
                policy.activation_bits,
                policy.cluster_init,
                policy.scheme,
                policy.granularity,
                policy.criterion,
            )
            last = at == len(policy.order) - 1
            samples = fidelity - at * (fidelity // 4) if last else fidelity // 4
            layers = {
                layer.name: _layer_audit(layer, so_far.layer(layer.name))
                for layer in self.profile.layers
            }
            metric = self.true_metric(so_far, fidelity)
            entries.append(StageAudit(stage.value, samples, samples / 1000, metric, layers))
        return tuple(entries)

    def trial(
        self,
        number: int,
        policy: Policy,
        *,
        fidelity: int = FIDELITY,
        repeat: int = 0,
        origin: str = "random",
        failure: str = "",
        sampler_attrs: Mapping[str, Any] | None = None,
        seen: int = 0,
    ) -> Trial:
        """A finished trial; `failure` makes it a failed one, with that reason."""
        outcome: Measurement | Failure
        if failure:
            outcome = Failure(layer=self.profile.layers[0].name, stage="cluster", reason=failure)
        else:
            outcome = self.measure(policy, fidelity, repeat)
        return Trial(
            number=number,
            identity=self.spec.identity(policy, fidelity, repeat),
            policy=policy,
            outcome=outcome,
            origin=origin,
            seen=seen,
            sampler_attrs=sampler_attrs or {},
            finished_at=1_790_000_000.0 + 5.0 * number,
        )

    def random_trials(self, count: int, seed: int = 0) -> list[Trial]:
        """Distinct policies, uniform over vectors."""
        rng = np.random.default_rng(seed)
        found: dict[str, Policy] = {}
        while len(found) < count:
            policy = self.space.sample(rng)
            found[policy.digest] = policy
        return [self.trial(number, policy) for number, policy in enumerate(found.values())]


def simulate(layers: int = 4, seed: int = 0, **settings: Any) -> Simulator:
    """`Simulator` with its commonest arguments first."""
    return Simulator(layer_count=layers, seed=seed, **settings)


def _standard_error(metric: float) -> float:
    return math.sqrt(max(metric * (1 - metric), 1e-6) / VALIDATION_SAMPLES)


def _runs_before(policy: Policy, first: Stage, second: Stage) -> bool:
    order = policy.order
    return first in order and second in order and order.index(first) < order.index(second)


def _distillation_gain(policy: Policy) -> float:
    """Share of the loss a teacher takes away: best early, near weight 0.75 and temperature 4."""
    if Stage.DISTILL not in policy.order:
        return 0.0
    distillation = policy.distillation
    weight = 1 - abs(distillation.weight - 0.75)
    temperature = math.exp(-(math.log2(distillation.temperature / 4) ** 2) / 4)
    early = 1 - 0.5 * policy.order.index(Stage.DISTILL) / len(policy.order)
    return 0.35 * weight * temperature * early


def _layer_audit(layer: LayerProfile, policy: LayerPolicy) -> LayerAudit:
    kept = max(1, round(layer.weight_count * (1 - policy.sparsity)))
    if policy.clusters is not None:
        distinct = min(policy.clusters, kept)
    elif policy.bits < 16:
        distinct = min(2**policy.bits - 1, kept)
    else:
        distinct = kept
    return LayerAudit(sparsity=1 - kept / layer.weight_count, distinct_nonzero=distinct)


def _ledger(profile: ModelProfile, policy: Policy) -> tuple[LedgerLine, ...]:
    lines = [LedgerLine("", "header", 64 + 16 * len(profile.layers))]
    for layer in profile.layers:
        asked = policy.layer(layer.name)
        kept = layer.weight_count * (1 - asked.sparsity)
        unit = layer.weight_shape[0] if asked.pattern == "channel" else layer.weight_count
        positions = unit * _entropy_bits(asked.sparsity) / 8
        if asked.clusters is not None:
            values = kept * 0.93 * math.log2(max(asked.clusters, 2)) / 8
            codebook = asked.clusters * asked.bits / 8
        else:
            values = kept * asked.bits * (0.85 if asked.bits < 16 else 1.0) / 8
            codebook = 0.0
        sections = {
            "positions": positions,
            "codebook": codebook,
            "indices" if asked.clusters is not None else "values": values,
        }
        bias = layer.bias_size * asked.bias_bits / 8
        tensors = {"weight": sections, "bias": {"levels": bias}}
        lines += [
            LedgerLine(f"{layer.name}.{tensor}", section, math.ceil(size))
            for tensor, sections in tensors.items()
            for section, size in sections.items()
            if size > 0
        ]
    return tuple(lines)


def _macs(profile: ModelProfile, policy: Policy) -> Mapping[str, int]:
    """Only removed channels save work."""
    macs = {}
    inputs_kept = 1.0
    for layer in profile.layers:
        asked = policy.layer(layer.name)
        outputs_kept = 1 - asked.sparsity if asked.pattern == "channel" else 1.0
        macs[layer.name] = max(1, round(layer.macs * outputs_kept * inputs_kept))
        inputs_kept = outputs_kept
    return macs


def _latency(profile: ModelProfile, policy: Policy) -> Latency:
    """Roofline: 0.002 ms an operation + the larger of compute and weight traffic."""
    macs = _macs(profile, policy)
    layers_ms = {}
    for layer in profile.layers:
        bits = policy.layer(layer.name).bits
        is_integer = bits <= 8 and policy.activation_bits == 8
        compute_ms = macs[layer.name] / (40e6 if is_integer else 20e6)
        share = macs[layer.name] / layer.macs
        traffic_ms = layer.weight_count * share * (1 if bits <= 8 else 4) / 30e6
        layers_ms[layer.name] = 0.002 + max(compute_ms, traffic_ms)
    total = sum(layers_ms.values())
    return Latency(total, total, "modelled", "m1 (simulated)", layers_ms)
