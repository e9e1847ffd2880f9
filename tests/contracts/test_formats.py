"""What every file format must keep, whatever it is: a new one is one line in `CASES`."""

import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bench.kills import write_workload
from evaluators.artifacts.files import digest, read_content
from evaluators.capabilities import backend_capabilities
from evaluators.formats import FORMATS as KNOWN
from evaluators.formats import format_capabilities, missing_libraries
from spaces import Capabilities, LayerPolicy, Measurement, Policy, Stage
from tests import keras_networks, networks
from tests.evaluators.backends.conftest import Bench

#: Case -> the format, a target that has it, and networks of a backend that writes it.
CASES = {
    "packed": ("packed", "host", networks),
    "onnx": ("onnx", "x86", networks),
    "mlpackage": ("mlpackage", "m1", networks),
    "tflite": ("tflite", "host", networks),
    "tflite in integers": ("tflite", "cortex-m7", networks),
    "tflite of Keras": ("tflite", "host", keras_networks),
}
PRUNE, CLUSTER, QUANTIZE = Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE
LAYERS = {
    "mlp": ("1", "3", "5"),
    "conv": ("0", "4"),
    "residual": ("stem", "inner", "outer"),
    "lstm": ("embed", "lstm.input", "lstm.recurrent", "fc"),
}


def test_every_format_is_tried() -> None:
    assert {name for name, _, _ in CASES.values()} == set(KNOWN)


@pytest.fixture(scope="module", params=sorted(CASES))
def room(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bench]:
    """Name of a network -> its bench in one format, made once."""
    name, target, source = CASES[request.param]
    if missing := missing_libraries(name):
        pytest.skip(f"format {name} needs {', '.join(missing)}")
    if source is keras_networks and find_spec("tensorflow_model_optimization") is None:
        pytest.skip("Keras networks need the extra keras")
    made: dict[str, Bench] = {}

    def make(network: str) -> Bench:
        if not hasattr(source, network):
            pytest.skip(f"{name} is written from {source.__name__}, which has no {network}")
        if network == "lstm" and name == "tflite":
            pytest.skip("Keras' own has tests of its own, and no other LSTM is written as tflite")
        if network not in made:
            folder = tmp_path_factory.mktemp(f"{name}-{network}")
            made[network] = Bench(source.name(network), folder, target, name)
        return made[network]

    return make


def uniform(
    network: str,
    *order: Stage,
    activations: int = 32,
    granularity: str = "tensor",
    **knobs: object,
) -> Policy:
    layers = tuple((name, LayerPolicy(**knobs)) for name in LAYERS[network])  # type: ignore[arg-type]
    return Policy(order, layers, activation_bits=activations, granularity=granularity)


POLICIES = {
    "nothing": lambda network: Policy(),
    "halves": lambda network: uniform(network, QUANTIZE, bits=16),
    "int3 a channel": lambda network: uniform(network, QUANTIZE, granularity="channel", bits=3),
    "sparse int8 a channel": lambda network: uniform(
        network, PRUNE, QUANTIZE, granularity="channel", sparsity=0.9, bits=8
    ),
    "sparse": lambda network: uniform(network, PRUNE, sparsity=0.9),
    "int8": lambda network: uniform(network, QUANTIZE, bits=8),
    "int8, rounded inputs": lambda network: uniform(network, QUANTIZE, activations=8, bits=8),
    "int4": lambda network: uniform(network, QUANTIZE, bits=4),
    "sparse clusters": lambda network: uniform(network, PRUNE, CLUSTER, sparsity=0.7, clusters=5),
    "sparse clusters, int8, rounded inputs": lambda network: uniform(
        network, PRUNE, CLUSTER, QUANTIZE, activations=8, sparsity=0.7, clusters=5, bits=8
    ),
    "clusters on a grid": lambda network: uniform(
        network, CLUSTER, QUANTIZE, activations=8, clusters=6, bits=6
    ),
}


def fitting(bench: Bench, policy: Policy) -> Policy:
    """As asked; a width that the format or the backend has not is left out of the test."""
    trained = backend_capabilities(bench.worker.backend.name)
    can = capabilities(bench).layers["Linear"].bits & trained.layers["Linear"].bits
    if wrong := {layer.bits for _, layer in policy.layers} - can:
        pytest.skip(f"{bench.worker.format.name} has no {min(wrong)} bits")
    return without_rounding(bench, policy)


def capabilities(bench: Bench) -> Capabilities:
    only = bench.worker.target.integer_only
    return format_capabilities(bench.worker.format.name, integer_only=only)


def without_rounding(bench: Bench, policy: Policy) -> Policy:
    """As asked, but for rounded activations where the format has none, or nothing else."""
    can = capabilities(bench).activation_bits
    if any(layer.kind == "LSTM" for layer in bench.worker.profile.layers):
        can = can & {32}  # a state stays in floats
    return policy if policy.activation_bits in can else replace(policy, activation_bits=min(can))


@pytest.mark.parametrize("network", sorted(LAYERS))
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_files_are_true_to_the_byte(
    room: Callable[[str], Bench], network: str, policy: str
) -> None:
    """The worker itself compares every weight, bit for bit, and fails where one differs."""
    bench = room(network)
    asked = POLICIES[policy](network)
    measured = bench.measure(fitting(bench, asked), fidelity=0)
    content = read_content(bench.file(measured))
    assert measured.size_bytes == sum(len(data) for data in content.values())
    assert measured.sha256 == digest(content)
    assert sum(line.size_bytes for line in measured.ledger) == measured.size_bytes
    assert bench.worker.verify(bench.file(measured)).metric == measured.metric


def test_the_same_identity_gives_the_same_file(
    room: Callable[[str], Bench],
) -> None:
    policy = uniform("mlp", PRUNE, CLUSTER, sparsity=0.5, clusters=4)
    first, second = (room("mlp").measure(policy).sha256 for _ in range(2))
    assert first == second


def test_the_weights_do_not_depend_on_the_format(
    room: Callable[[str], Bench], tmp_path: Path
) -> None:
    """So the packed download of any format's trial is what a `packed` study would have made."""
    if room("conv").worker.format.name == "mlpackage":
        pytest.skip("half precision: the same but for rounding, which is another packed file")
    if room("conv").worker.target.integer_only:
        pytest.skip(
            "32-bit integer biases: the same but for rounding, which is another packed file"
        )
    policy = uniform("conv", PRUNE, QUANTIZE, sparsity=0.5, bits=8)
    backend = room("conv").worker.backend.name
    source = keras_networks if backend == "keras" else networks
    packed = Bench(source.name("conv"), tmp_path)
    assert room("conv").measure(policy).download_bytes == packed.measure(policy).size_bytes


def test_removed_channels_change_no_output(room: Callable[[str], Bench]) -> None:
    half = uniform("residual", PRUNE, sparsity=0.5, pattern="channel")
    bench = room("residual")
    measured = bench.measure(half)
    packed = POLICIES["nothing"]("residual")
    assert measured.macs < bench.measure(packed, fidelity=0).macs
    assert bench.worker.verify(bench.file(measured)).metric == measured.metric


def test_latency_says_what_it_was_measured_on(room: Callable[[str], Bench]) -> None:
    bench = room("mlp")
    if bench.worker.target.machines and platform.machine() not in bench.worker.target.machines:
        pytest.skip("this machine is not the target")
    latency = bench.measure(Policy(), fidelity=0).latency
    if not bench.worker.target.is_this_machine:
        assert (latency.source, latency.device) == ("modelled", bench.worker.target.name)
        return
    assert latency.source == "measured"
    assert latency.device.startswith(f"{bench.worker.format.runtime} on ")


def test_rounded_inputs_score_as_the_network_that_was_trained(
    room: Callable[[str], Bench],
) -> None:
    """The runtime's own kernels may round otherwise; a sample in a hundred may tip."""
    bench = room("conv")
    policy = without_rounding(bench, POLICIES["int8, rounded inputs"]("conv"))
    measured: Measurement = bench.measure(policy)
    trained = measured.audit[-1].metric
    assert abs(measured.metric - trained) <= 0.02
    assert np.isfinite(measured.latency.median_ms)


def test_no_lock_between_processes_is_left_behind(room: Callable[[str], Bench]) -> None:
    """Engines kill their workers: Python would warn of a semaphore that nobody released."""
    room("mlp").measure(Policy(), fidelity=0)
    std = pytest.importorskip("tqdm.std")
    lock = getattr(std.tqdm, "_lock", None)
    assert not isinstance(lock, std.TqdmDefaultWriteLock)


@pytest.mark.parametrize(
    "case", sorted(case for case, (_, _, source) in CASES.items() if source is networks)
)
def test_tensors_too_small_for_a_section_of_their_own(case: str, tmp_path: Path) -> None:
    """99 weights, nearly all zero: Core ML has them all inside the graph, and none beside it."""
    name, target, _ = CASES[case]
    if missing := missing_libraries(name):
        pytest.skip(f"format {name} needs {', '.join(missing)}")
    bench = Bench(f"{write_workload(tmp_path)}:workload", tmp_path, target, name)
    layers = tuple((layer, LayerPolicy(sparsity=0.9)) for layer in ("0", "2"))
    measured = bench.measure(Policy((PRUNE,), layers), fidelity=0)
    assert sum(line.size_bytes for line in measured.ledger) == measured.size_bytes
