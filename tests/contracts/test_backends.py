"""What every backend must keep, whatever its framework: a new one is one line in `BACKENDS`."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from evaluators.artifacts.packed import decode, dense
from evaluators.capabilities import _BACKENDS as KNOWN
from evaluators.checker import broken_constraints
from evaluators.cost.targets import load_target
from search.session import capabilities_of
from spaces import (
    Distillation,
    Failure,
    LayerPolicy,
    Measurement,
    Policy,
    SearchSpace,
    Stage,
    build_space,
)
from tests import keras_networks, networks
from tests.evaluators.backends.conftest import Bench

#: Backend -> its tiny networks, and the libraries it needs.
BACKENDS: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "torch": (networks, ()),
    "keras": (keras_networks, ("tensorflow", "tf_keras", "tensorflow_model_optimization")),
}
PRUNE, CLUSTER, QUANTIZE, DISTILL = Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE, Stage.DISTILL
LAYERS = {
    "mlp": ("1", "3", "5"),
    "conv": ("0", "4"),
    "lstm": ("embed", "lstm.input", "lstm.recurrent", "fc"),
}
WITHOUT_BIAS = {"embed", "lstm.recurrent"}
FIDELITY = 320


def test_every_backend_is_tried() -> None:
    assert set(BACKENDS) == set(KNOWN)


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def room(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bench]:
    """Name of a network -> its bench in one backend, made once."""
    source, libraries = BACKENDS[request.param]
    if missing := [name for name in libraries if find_spec(name) is None]:
        pytest.skip(f"the extra {request.param} is not installed: no {', '.join(missing)}")
    made: dict[str, Bench] = {}

    def make(network: str) -> Bench:
        if not hasattr(source, network):
            pytest.skip(f"backend {request.param} has no tiny network {network}")
        if network not in made:
            folder = tmp_path_factory.mktemp(f"{request.param}-{network}")
            made[network] = Bench(source.name(network), folder)
        return made[network]

    return make


def uniform(network: str, *order: Stage, granularity: str = "tensor", **knobs: object) -> Policy:
    """The same LayerPolicy for every layer; distills where the order says so."""
    asked = LayerPolicy(**knobs)  # type: ignore[arg-type]
    layers = tuple(
        (name, replace(asked, bias_bits=32) if name in WITHOUT_BIAS else asked)
        for name in LAYERS[network]
    )
    distillation = Distillation("logits", 2.0, 0.5) if DISTILL in order else Distillation()
    return Policy(order, layers, distillation=distillation, granularity=granularity)


ALONE = {
    PRUNE: {"sparsity": 0.7},
    CLUSTER: {"clusters": 4},
    QUANTIZE: {"bits": 8, "bias_bits": 16},
    DISTILL: {},
}


@pytest.mark.parametrize("network", ["mlp", "lstm"])
@pytest.mark.parametrize("stage", Stage)
def test_a_stage_establishes_what_is_asked(
    room: Callable[[str], Bench], stage: Stage, network: str
) -> None:
    bench = room(network)
    policy = uniform(network, stage, **ALONE[stage])
    measured = bench.measure(policy)
    (audit,) = measured.audit
    assert (audit.stage, audit.samples, audit.destroyed) == (stage, FIDELITY, ())
    assert math.isfinite(audit.metric)
    for name in LAYERS[network]:
        found, whole = (
            audit.layers[name],
            math.prod(bench.worker.profile.layer_map[name].weight_shape),
        )
        if stage is PRUNE:
            assert found.sparsity == pytest.approx(round(0.7 * whole) / whole, abs=1e-5)
        if stage is CLUSTER:
            assert 2 <= found.distinct_nonzero <= 4
        if stage is QUANTIZE:
            assert found.distinct_nonzero <= 254
    assert broken_constraints(policy, bench.weights(measured)) == []


@pytest.mark.parametrize(
    ("network", "order"),
    [
        ("mlp", (PRUNE, DISTILL, CLUSTER, QUANTIZE)),
        ("conv", (PRUNE, CLUSTER, QUANTIZE, DISTILL)),
        ("lstm", (PRUNE, DISTILL, CLUSTER, QUANTIZE)),
    ],
)
def test_later_stages_keep_what_earlier_ones_established(
    room: Callable[[str], Bench], network: str, order: tuple[Stage, ...]
) -> None:
    bench = room(network)
    policy = uniform(network, *order, sparsity=0.6, clusters=5, bits=8)
    measured = bench.measure(policy)
    assert tuple(audit.stage for audit in measured.audit) == order
    assert sum(audit.samples for audit in measured.audit) == FIDELITY
    assert all(audit.destroyed == () for audit in measured.audit)
    for number, audit in enumerate(measured.audit):
        for name in LAYERS[network]:
            assert audit.layers[name].sparsity >= 0.6 - 1 / 32
            if number >= order.index(CLUSTER):
                assert audit.layers[name].distinct_nonzero <= 5
    assert broken_constraints(policy, bench.weights(measured)) == []


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_order_is_real(room: Callable[[str], Bench], network: str) -> None:
    bench = room(network)
    orders = ((DISTILL, PRUNE), (PRUNE, DISTILL))
    first, second = (bench.measure(uniform(network, *order, sparsity=0.6)) for order in orders)
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("network", ["conv", "lstm"])
def test_the_same_identity_gives_the_same_file(room: Callable[[str], Bench], network: str) -> None:
    bench = room(network)
    policy = uniform(network, PRUNE, sparsity=0.5)
    first, again, other = (bench.measure(policy, repeat=n).sha256 for n in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("network", ["conv", "lstm"])
def test_a_file_is_true_to_the_byte(room: Callable[[str], Bench], network: str) -> None:
    """Decoded without the backend its weights satisfy the policy; read back they score the same."""
    bench = room(network)
    policy = uniform(network, CLUSTER, clusters=6)
    measured = bench.measure(policy)
    data = bench.file(measured).read_bytes()
    assert measured.size_bytes == measured.download_bytes == len(data)
    assert sum(line.size_bytes for line in measured.ledger) == len(data)
    weights = dense(decode(data))
    # Six and, where a padding row was 0 already, zero.
    assert all(len(np.unique(weights[f"{name}.weight"])) <= 7 for name in LAYERS[network])
    again = bench.worker.verify(bench.file(measured))
    assert (again.metric, again.size_bytes) == (measured.metric, len(data))
    scores = bench.worker.score_samples(measured.sha256)
    assert scores.mean() == pytest.approx(measured.metric, abs=1e-6)
    test = bench.worker.score_test(measured.sha256)
    assert test is not None
    assert test.metric_samples == 80


def test_no_stage_gives_the_network_as_it_was(room: Callable[[str], Bench]) -> None:
    bench = room("conv")
    measured, profile = bench.measure(Policy()), bench.worker.profile
    assert measured.audit == ()
    assert measured.metric == profile.baseline_metric > 0.8
    assert measured.size_bytes == profile.baseline_size_bytes


def test_the_profile_knows_its_network(room: Callable[[str], Bench]) -> None:
    profiled = room("conv").worker.make_profile()
    convolution, dense_layer = profiled.profile.layers
    assert (convolution.kind, convolution.weight_shape) == ("Conv2d", (8, 1, 3, 3))
    assert (convolution.macs, convolution.output_elements) == (36 * 72, 36 * 8)
    assert (dense_layer.kind, dense_layer.weight_shape, dense_layer.bias_size) == (
        "Linear",
        (4, 72),
        4,
    )
    damage = {(s.knob, s.value): s.loss_increase for s in dense_layer.sensitivity}
    assert damage["sparsity", 0.99] > damage["sparsity", 0.5]
    assert damage["clusters", 2.0] > damage["clusters", 64.0]
    assert profiled.profile.gives_logits
    assert (profiled.train_samples, profiled.batch_size, profiled.has_test) == (320, 20, True)


def test_the_profile_knows_recurrent_layers_by_their_parts(room: Callable[[str], Bench]) -> None:
    """Twelve steps, each of which multiplies by both matrices; a look-up multiplies nothing."""
    layers = room("lstm").worker.profile.layer_map
    found = {n: (x.kind, x.weight_shape, x.bias_size, x.macs) for n, x in layers.items()}
    assert found == {
        "embed": ("Embedding", (40, 8), 0, 0),
        "lstm.input": ("LSTM", (48, 8), 48, 12 * 48 * 8),
        "lstm.recurrent": ("LSTM", (48, 12), 0, 12 * 48 * 12),
        "fc": ("Linear", (4, 12), 4, 48),
    }
    assert layers["embed"].weights_read == 12 * 8
    assert not any(layers[n].can_prune_channels for n in ("embed", "lstm.input", "lstm.recurrent"))


def offered(bench: Bench) -> SearchSpace:
    target = load_target("host")
    profile = bench.worker.profile
    both, _ = capabilities_of(profile, target, FIDELITY)
    return build_space(profile, both)


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_what_is_offered_can_be_honoured(room: Callable[[str], Bench], network: str) -> None:
    """Whatever the space samples is measured: nothing in it fails for what TFMOT cannot do."""
    bench = room(network)
    space, rng = offered(bench), np.random.default_rng(1)
    for _ in range(5):
        policy = space.sample(rng)
        outcome = bench.outcome(policy, fidelity=0)
        assert isinstance(outcome, Measurement), f"{outcome} of {policy.canonical_json}"


def test_what_is_not_offered_fails_with_layer_stage_and_reason(
    room: Callable[[str], Bench],
) -> None:
    bench = room("mlp")
    everything = {
        "prune": uniform("mlp", CLUSTER, PRUNE, clusters=4, sparsity=0.5),
        "cluster": uniform("mlp", QUANTIZE, CLUSTER, clusters=4, bits=8),
        "quantize": uniform("mlp", QUANTIZE, bits=3),
    }
    space = offered(bench)
    for stage, policy in everything.items():
        outcome = bench.outcome(policy, fidelity=0)
        if space.contains(policy):
            assert isinstance(outcome, Measurement), str(outcome)
        else:
            assert isinstance(outcome, Failure)
            assert (outcome.layer, outcome.stage) == ("1", stage)
            assert "TF" in outcome.reason


def test_a_layer_that_is_not_there(room: Callable[[str], Bench]) -> None:
    failure = room("mlp").failure(Policy((PRUNE,), (("9", LayerPolicy(sparsity=0.5)),)))
    assert failure.layer == "9"
    assert "it has 1, 3, 5" in failure.reason


def test_a_loss_that_is_no_number_is_a_failure(room: Callable[[str], Bench]) -> None:
    failure = room("diverging").failure(uniform("conv", PRUNE, sparsity=0.5))
    assert failure.stage == PRUNE
    assert "the loss became nan at step 0" in failure.reason


def test_a_damaged_file_is_refused(room: Callable[[str], Bench], tmp_path: Path) -> None:
    bench = room("conv")
    data = bytearray(bench.file(bench.measure(Policy())).read_bytes())
    data[len(data) // 2] ^= 0xFF
    broken = tmp_path / "broken.packed"
    broken.write_bytes(bytes(data))
    with pytest.raises(Exception, match=r"broken\.packed"):
        bench.worker.verify(broken)


def test_outcomes_are_plain_values(room: Callable[[str], Bench]) -> None:
    """They cross between processes as JSON, and back to the same."""
    measured = room("conv").measure(uniform("conv", PRUNE, sparsity=0.5))
    assert Measurement.from_dict(json.loads(json.dumps(asdict(measured)))) == measured
