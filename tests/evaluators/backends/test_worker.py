"""A trial from policy to file and back: replayable, byte-true, and with a reason when it fails."""

import hashlib
import itertools
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators import worker as worker_module
from evaluators.artifacts.packed import Artifact, decode, encode
from evaluators.backends.pytorch.export import (
    ACTIVATIONS,
    activation_grids,
    artifact_of_model,
    load_artifact,
)
from evaluators.backends.pytorch.layers import (
    check_model,
    compressible_layers,
    excluded_modules,
)
from evaluators.backends.pytorch.score import evaluate
from evaluators.backends.pytorch.student import Student
from evaluators.tasks import WorkerContext
from evaluators.worker import Worker
from spaces import Distillation, Identity, InvalidRequest, LayerPolicy, Policy, StudyBroken
from tests import networks
from tests.evaluators.backends.conftest import Bench, uncoupled

ALL = Policy(
    ("distill", "prune", "cluster", "quantize"),  # type: ignore[arg-type]
    (
        ("1", LayerPolicy(sparsity=0.6, clusters=6, bits=4, bias_bits=8)),
        ("3", LayerPolicy(sparsity=0.3, bits=5)),
    ),
    Distillation("logits", 4.0, 0.5),
    activation_bits=8,
    cluster_init="random",
)
OTHER = Policy(("prune",), (("1", LayerPolicy(sparsity=0.9)),))  # type: ignore[arg-type]


def custom(tmp_path: Path, body: str, target: str = "m1") -> Bench:
    """A bench on a workload whose `make()` is written in a file of its own."""
    file = tmp_path / f"net_{hashlib.sha256(body.encode()).hexdigest()[:8]}.py"
    header = "import torch\nfrom torch import nn\nfrom tests import networks\n"
    file.write_text(header + body)
    return Bench(f"{file}:make", tmp_path, target)


# What is fine-tuned on ---------------------------------------------------------------------------

SETS = """
from dataclasses import replace
from evaluators.workloads.base import Split
def make():
    workload = networks.mlp()
    def give():
        x, y = workload.train.inputs, workload.train.targets
        return Split(torch.cat([x, x + 0.1])[:COUNT], torch.cat([y, y])[:COUNT])
    return replace(workload, fine_tuning=give)
"""


def test_whole_sets_are_fine_tuned_on(tmp_path: Path, bench: Callable[[str], Bench]) -> None:
    room = custom(tmp_path, SETS.replace("COUNT", "640"))
    assert len(room.worker.backend.data.split) == 2 * room.worker.backend.data.set_size == 640
    assert room.measure(ALL).sha256 != bench("mlp").measure(ALL).sha256


def test_a_set_that_is_not_whole_is_a_failure_that_says_so(tmp_path: Path) -> None:
    failure = custom(tmp_path, SETS.replace("COUNT", "500")).failure(OTHER)
    assert "fine_tuning must give whole sets of the 320 training samples, but gave 500" in str(
        failure
    )


# Replay (invariant 6) ----------------------------------------------------------------------------


def test_the_same_trial_is_the_same_file_whatever_ran_in_between(
    bench: Callable[[str], Bench],
) -> None:
    room = bench("mlp")
    first = room.measure(ALL)
    data = room.file(first).read_bytes()
    room.file(first).unlink()
    room.measure(OTHER)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 -- the global generators must play no part
    again = room.measure(ALL)
    assert room.file(again).read_bytes() == data
    same = ("seconds", "latency", "audit")
    assert replace(again, **{n: getattr(first, n) for n in same}) == first
    for one, other in zip(again.audit, first.audit, strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
    assert room.measure(ALL, repeat=1).sha256 != first.sha256


@pytest.mark.parametrize("function", ["mlp", "dropout"])
def test_a_fresh_process_writes_the_same_file(
    function: str, bench: Callable[[str], Bench], tmp_path: Path
) -> None:
    """Also for a network given in training mode, in a process which did not make the profile."""
    asked = ALL
    if function == "dropout":
        layers = (("1", LayerPolicy(sparsity=0.5, bits=4)), ("4", LayerPolicy(bits=16)))
        asked = Policy(("quantize", "prune"), layers, activation_bits=8)  # type: ignore[arg-type]
    room = bench(function)
    expected = room.measure(asked)
    script = (
        "import sys, pickle\n"
        "from evaluators import tasks\n"
        "context, identity, policy = pickle.load(sys.stdin.buffer)\n"
        "tasks.setup(context)\n"
        "print(tasks.evaluate(identity, policy).sha256)\n"
    )
    identity = Identity("tiny", "packed", asked.digest, 320, 0, 0)
    context = replace(room.worker.context, artifacts_dir=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        input=pickle.dumps((context, identity, asked)),
        capture_output=True,
        check=True,
    )
    sha256 = done.stdout.decode().strip()
    assert sha256 == expected.sha256
    assert (tmp_path / f"{sha256}.packed").read_bytes() == room.file(expected).read_bytes()


def test_what_the_user_gave_is_left_as_it_was(bench: Callable[[str], Bench]) -> None:
    room = bench("dropout")
    workload = room.worker.backend.workload
    weights = {n: v.clone() for n, v in workload.model.state_dict().items()}
    inputs = workload.validation.inputs.clone()
    random, threads = torch.random.get_rng_state(), torch.get_num_threads()
    room.measure(Policy(("prune",), (("1", LayerPolicy(sparsity=0.5)),)))  # type: ignore[arg-type]
    assert workload.model.training
    assert all(torch.equal(weights[n], v) for n, v in workload.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in workload.model.parameters())
    assert torch.equal(workload.validation.inputs, inputs)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.get_num_threads() == threads == 1


def test_a_network_that_computes_in_place_does_not_change_the_samples(tmp_path: Path) -> None:
    room = custom(
        tmp_path,
        "def make():\n"
        "    net = nn.Sequential(nn.ReLU(inplace=True), *networks.make_mlp())\n"
        "    return networks.workload(net)\n",
    )
    splits = (room.worker.backend.workload.train, room.worker.backend.workload.validation)
    asked = Policy(
        ("distill", "quantize"),  # type: ignore[arg-type]
        (("2", LayerPolicy(bits=8)),),
        Distillation("logits", 2.0, 0.5),
        activation_bits=8,
    )
    room.measure(asked)
    for split in splits:
        assert bool((split.inputs < 0).any())


# Bytes (invariants 1, 2) -------------------------------------------------------------------------


def test_the_file_on_disk_is_what_was_measured(bench: Callable[[str], Bench]) -> None:
    room = bench("mlp")
    measurement = room.measure(ALL)
    data = room.file(measurement).read_bytes()
    assert len(data) == measurement.size_bytes == sum(x.size_bytes for x in measurement.ledger)
    assert hashlib.sha256(data).hexdigest() == measurement.sha256
    assert not list(room.folder.glob("*.partial"))
    verified = room.worker.verify(room.file(measurement))
    assert verified.metric == measurement.metric
    assert verified.metric_se == measurement.metric_se
    assert verified.metric_samples == measurement.metric_samples == networks.VALIDATION
    assert verified.sha256 == measurement.sha256


def test_the_metric_is_that_of_the_decoded_weights_alone(bench: Callable[[str], Bench]) -> None:
    """By hand: decoded arrays into a plain network, activations rounded as the file says."""
    room = bench("mlp")
    measurement = room.measure(replace(ALL, activation_bits=32))
    weights = room.weights(measurement)
    x = networks.images()[1].inputs.flatten(1).numpy().astype(np.float64)
    for index in ("1", "3", "5"):
        x = x @ weights[f"{index}.weight"].T.astype(np.float64) + weights[f"{index}.bias"]
        x = np.maximum(x, 0) if index != "5" else x
    hits = x.argmax(1) == networks.images()[1].targets.numpy()
    assert measurement.metric == pytest.approx(hits.mean())
    assert measurement.metric_se == pytest.approx(hits.std(ddof=1) / np.sqrt(len(hits)))


def test_eight_bit_activations_travel_in_the_file(bench: Callable[[str], Bench]) -> None:
    """Of the layers whose weights are integers; the others read floats."""
    room = bench("mlp")
    bits = (("1", LayerPolicy(bits=8)), ("3", LayerPolicy(bits=16)), ("5", LayerPolicy(bits=8)))
    asked = Policy(("quantize",), bits, activation_bits=8)  # type: ignore[arg-type]
    measurement = room.measure(asked)
    artifact = decode(room.file(measurement).read_bytes())
    model = load_artifact(room.worker.backend.workload.model, artifact)
    plain = load_artifact(room.worker.backend.workload.model, replace(artifact, attributes={}))
    assert set(activation_grids(artifact)) == {"1", "5"}
    seen: list[Tensor] = []
    for name in ("1", "5"):
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0])
        )
    images = networks.images()[1].inputs
    with torch.no_grad():
        assert not torch.equal(model(images), plain(images))
    assert all(len(values.unique()) <= 256 for values in seen)
    assert all(0.0 in values.unique() for values in seen[1:])  # a ReLU's zero stays exactly zero
    assert (
        evaluate(model, room.worker.backend.workload, room.worker.backend.workload.validation)[0]
        == measurement.metric
    )


def test_an_asked_constraint_that_does_not_hold_is_a_failure_without_a_file(
    bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = bench("mlp")
    before = set(room.folder.iterdir())
    monkeypatch.setattr(worker_module, "broken_constraints", lambda *_: ["1: too many"])
    failure = room.failure(replace(OTHER, layers=(("1", LayerPolicy(sparsity=0.77)),)))
    assert (failure.stage, failure.reason) == ("check", "asked is not applied: 1: too many")
    assert set(room.folder.iterdir()) == before
    monkeypatch.undo()
    kept = room.measure(OTHER)
    monkeypatch.setattr(worker_module, "broken_constraints", lambda *_: ["1: too many"])
    room.failure(OTHER)  # the same bytes as a trial that was kept
    assert room.file(kept).is_file()


@pytest.mark.parametrize("part", ["effective", "effective_bias"])
def test_a_file_that_differs_from_the_network_is_a_failure(
    part: str, bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = bench("mlp")
    real = worker_module.dense

    def damaged(artifact: Artifact) -> dict[str, np.ndarray]:
        weights = real(artifact)
        weights["1.weight" if part == "effective" else "1.bias"].flat[-1] += 1e-3
        return weights

    monkeypatch.setattr(worker_module, "dense", damaged)
    assert "the file's values are not the network's" in room.failure(OTHER).reason


def test_no_stage_gives_the_network_as_it_was(bench: Callable[[str], Bench]) -> None:
    room = bench("residual")
    measurement = room.measure(Policy())
    profile = room.worker.profile
    assert measurement.audit == ()
    assert measurement.metric == profile.baseline_metric
    assert measurement.size_bytes == profile.baseline_size_bytes


def test_a_folder_that_cannot_be_written_breaks_the_study(
    bench: Callable[[str], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = bench("mlp")
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(
        room.worker, "context", replace(room.worker.context, artifacts_dir=str(blocked / "below"))
    )
    with pytest.raises(StudyBroken, match=r"cannot write to .*below"):
        room.outcome(OTHER)


def test_an_error_of_the_users_own_files_does_not_blame_the_folder(tmp_path: Path) -> None:
    room = custom(
        tmp_path,
        "def loss(outputs, targets):\n"
        "    if outputs.requires_grad: raise FileNotFoundError('weights.csv')\n"
        "    return nn.functional.cross_entropy(outputs, targets)\n"
        "def make():\n"
        "    return networks.workload(networks.trained(networks.make_mlp), loss=loss)\n",
    )
    assert room.failure(OTHER).reason == "FileNotFoundError: weights.csv"


# Failures as values ------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["prune", "cluster", "quantize"])
def test_a_loss_that_is_not_a_number_names_its_stage(stage: str, tmp_path: Path) -> None:
    room = custom(
        tmp_path,
        "from torch.nn import functional as F\n"
        "def loss(outputs, targets):\n"
        "    value = F.cross_entropy(outputs, targets)\n"
        "    return value * (float('nan') if value.requires_grad else 1)\n"
        "def make():\n"
        "    return networks.workload(networks.trained(networks.make_mlp), loss=loss)\n",
    )
    asked = Policy((stage,), (("1", LayerPolicy(0.5, clusters=4, bits=4)),))  # type: ignore[arg-type]
    failure = room.failure(asked)
    assert (failure.stage, failure.reason) == (stage, "the loss became nan at step 0")
    room.measure(asked, fidelity=0)


def test_a_layer_that_does_not_exist(bench: Callable[[str], Bench]) -> None:
    asked = Policy(("prune",), (("fc9", LayerPolicy(sparsity=0.5)),))  # type: ignore[arg-type]
    failure = bench("mlp").failure(asked)
    assert failure.layer == "fc9"
    assert "it has 1, 3, 5" in failure.reason


def test_bias_bits_of_a_layer_without_a_bias(bench: Callable[[str], Bench]) -> None:
    asked = Policy(("quantize",), (("inner", LayerPolicy(bias_bits=8)),))  # type: ignore[arg-type]
    failure = bench("residual").failure(asked)
    assert (failure.layer, failure.stage) == ("inner", "quantize")


def test_a_damaged_or_foreign_file(bench: Callable[[str], Bench], tmp_path: Path) -> None:
    mlp, residual = bench("mlp"), bench("residual")
    file = mlp.file(mlp.measure(OTHER))
    with pytest.raises(InvalidRequest, match="not those of workload tiny: the file has no tensor"):
        residual.worker.verify(file)
    torn = tmp_path / "torn.packed"
    torn.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InvalidRequest, match=r"torn.packed"):
        mlp.worker.verify(torn)
    with pytest.raises(InvalidRequest, match="cannot read"):
        mlp.worker.verify(tmp_path / "absent.packed")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[1]", "7", "{", '{"1": 3}', '{"1": [1, 2, 3]}', '{"1": ["x", 0]}', '{"1": [0, 0]}'),
        *('{"1": [-1.0, 0]}', '{"1": [1e999, 0]}', '{"1": [NaN, 0]}', '{"1": [1.0, 256]}'),
        *('{"1": [1.0, 1e999]}', '{"nowhere": [1.0, 0]}', "[" * 100_000),
    ],
)
def test_hostile_activation_grids(text: str, bench: Callable[[str], Bench], tmp_path: Path) -> None:
    """The attribute is inside the checksum, so only its meaning can be wrong."""
    room = bench("mlp")
    artifact = artifact_of_model(room.worker.backend.workload.model)
    file = tmp_path / "hostile.packed"
    file.write_bytes(encode(replace(artifact, attributes={ACTIVATIONS: text})).data)
    with pytest.raises(InvalidRequest, match=r"hostile.packed"):
        room.worker.verify(file)


# Networks of other kinds -------------------------------------------------------------------------


def test_layers_that_are_not_supported_are_excluded_by_name(tmp_path: Path) -> None:
    room = custom(
        tmp_path,
        "class Words(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed, self.rnn = nn.Embedding(9, 6, max_norm=9.0), nn.RNN(6, 6)\n"
        "        self.head = nn.Linear(6, 4)\n"
        "    def forward(self, words):\n"
        "        return self.head(self.rnn(self.embed(words.t()))[0][-1])\n"
        "def make():\n"
        "    words, labels = torch.randint(9, (80, 5)), torch.randint(4, (80,))\n"
        "    split = (words, labels)\n"
        "    return networks.workload(Words(), train=split, validation=split)\n",
    )
    excluded = dict(room.worker.profile.excluded)
    assert "embeddings with max_norm rescale their own weights" in excluded["embed"]
    assert "RNN layers are not supported yet" in excluded["rnn"]
    assert [layer.name for layer in room.worker.profile.layers] == ["head"]
    measurement = room.measure(Policy(("quantize",), (("head", LayerPolicy(bits=4)),)))  # type: ignore[arg-type]
    assert "rnn.weight_hh_l0" in room.weights(measurement)
    failure = room.failure(Policy(("prune",), (("rnn", LayerPolicy(sparsity=0.5)),)))  # type: ignore[arg-type]
    assert failure.layer == "rnn"


def test_nothing_to_compress(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"Linear, Conv1d, Conv2d.*it has no weights"):
        compressible_layers(nn.Flatten())
    with pytest.raises(InvalidRequest, match="the model: RNN layers are not supported yet"):
        compressible_layers(nn.RNN(3, 3))


def test_a_layer_that_forward_never_uses(tmp_path: Path) -> None:
    body = (
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.used, self.idle = nn.Linear(64, 4), nn.Linear(64, 4)\n"
        "    def forward(self, images):\n"
        "        return self.used(images.flatten(1))\n"
        "def make():\n"
        "    return networks.workload(Net())\n"
    )
    room = custom(tmp_path, body)
    profile = room.worker.profile
    assert [layer.name for layer in profile.layers] == ["used"]
    assert ("idle", "forward() never uses it, kept as it is") in profile.excluded
    policy = Policy(("quantize",), (("used", LayerPolicy(bits=8)),), activation_bits=8)
    assert room.measure(policy).size_bytes > 64 * 4


class Tied(nn.Module):
    """Encoder and decoder are each other's transpose in spirit: one weight, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(images.flatten(1))))))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    room = custom(
        tmp_path,
        "from tests.evaluators.backends.test_worker import Tied\n"
        "def make():\n"
        "    return networks.workload(networks.trained(Tied))\n",
    )
    excluded = dict(room.worker.profile.excluded)
    assert set(excluded) == {"first", "second"}
    assert "shared with another layer" in excluded["first"]
    failure = room.failure(Policy(("prune",), (("first", LayerPolicy(sparsity=0.5)),)))  # type: ignore[arg-type]
    assert failure.layer == "first"
    measurement = room.measure(Policy(("prune",), (("head", LayerPolicy(sparsity=0.5)),)))  # type: ignore[arg-type]
    weights = room.weights(measurement)
    assert "first.weight" in weights  # once: as a device would hold it
    assert "second.weight" not in weights
    loaded = load_artifact(
        room.worker.backend.workload.model, decode(room.file(measurement).read_bytes())
    )
    assert loaded.second.weight is loaded.first.weight  # type: ignore[union-attr]
    assert np.array_equal(loaded.second.weight.detach().numpy(), weights["first.weight"])  # type: ignore[union-attr,operator]
    assert room.worker.verify(room.file(measurement)).metric == measurement.metric


def test_a_layer_used_under_two_names(tmp_path: Path) -> None:
    room = custom(
        tmp_path,
        "def make():\n"
        "    twice = nn.Linear(64, 64)\n"
        "    net = nn.Sequential(nn.Flatten(), twice, nn.ReLU(), twice, nn.Linear(64, 4))\n"
        "    return networks.workload(net)\n",
    )
    asked = Policy(("prune",), (("1", LayerPolicy(sparsity=0.5)),))  # type: ignore[arg-type]
    measurement = room.measure(asked)
    assert set(room.weights(measurement)) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    assert room.worker.verify(room.file(measurement)).metric == measurement.metric


def test_weights_that_a_file_would_not_give_back_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"float32 weights, but 1.weight is torch.float64"):
        check_model(networks.make_mlp().double())
    normed = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    with pytest.raises(InvalidRequest, match="0 is parametrized"):
        check_model(normed)
    check_model(networks.Residual())


def test_norms_are_excluded_with_a_reason() -> None:
    model = networks.Residual()
    found = dict(excluded_modules(model, compressible_layers(model)))
    assert found == dict.fromkeys(
        ["stem_norm", "inner_norm", "outer_norm"], "normalisation, kept as it is"
    )


def test_a_regression(bench: Callable[[str], Bench]) -> None:
    """Its metric is an error with a unit; its loss is not its score."""
    room = bench("regression")
    profiled = room.worker.make_profile()
    assert (profiled.metric.unit, profiled.metric.higher_is_better) == ("lm", False)
    assert not profiled.has_test
    asked = Policy(("prune",), (("1", LayerPolicy(sparsity=0.5)),))  # type: ignore[arg-type]
    untrained, trained = room.measure(asked, fidelity=0), room.measure(asked, fidelity=6400)
    assert 0 < trained.metric < untrained.metric
    assert room.worker.score_test(trained.sha256) is None
    weights = room.weights(trained)
    x = networks.images()[1].inputs.flatten(1).numpy()
    hidden = np.maximum(x @ weights["1.weight"].T + weights["1.bias"], 0)
    given = (hidden @ weights["3.weight"].T + weights["3.bias"])[:, 0]
    errors = np.abs(given - x.mean(axis=1))
    assert trained.metric == pytest.approx(errors.mean(), rel=1e-4)
    assert trained.metric_se == pytest.approx(errors.std(ddof=1) / np.sqrt(200), rel=1e-3)


def test_sample_scores_are_those_of_the_kept_file(bench: Callable[[str], Bench]) -> None:
    room = bench("mlp")
    trained = room.measure(OTHER)
    scores = room.worker.score_samples(trained.sha256)
    assert scores.shape == (trained.metric_samples,)
    assert scores.mean() == pytest.approx(trained.metric, abs=1e-6)


def test_the_test_split_is_scored_from_the_kept_file(bench: Callable[[str], Bench]) -> None:
    room = bench("mlp")
    score = room.worker.score_test(room.measure(OTHER).sha256)
    assert score is not None
    assert score.metric_samples == networks.TEST


def test_measured_latency_on_this_machine(tmp_path: Path) -> None:
    room = Bench(networks.name("residual"), tmp_path, target="host")
    half = Policy(
        ("prune",),  # type: ignore[arg-type]
        tuple((n, LayerPolicy(0.5, "channel")) for n in ("stem", "inner", "outer")),
    )
    latency = room.measure(half).latency
    assert latency.source == "measured"
    assert latency.device.startswith("torch-cpu on ")
    assert 0 < latency.median_ms <= latency.p95_ms


def test_measured_latency_after_a_resume_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its milliseconds are still those of the machine on which the study began, and say so."""
    room = Bench(networks.name("mlp"), tmp_path, target="host")
    there = room.worker.profile.latency_device
    assert there.startswith("torch-cpu on ")
    assert room.measure(OTHER).latency.device == there
    monkeypatch.setattr(worker_module, "device_name", lambda runtime: f"{runtime} on node7")
    device = room.measure(OTHER, repeat=1).latency.device
    assert device == f"torch-cpu on node7, as a ratio to the baseline measured on {there}"


def test_the_baseline_names_the_network(tmp_path: Path) -> None:
    body = "import copy\ndef make():\n    workload = copy.deepcopy(networks.mlp())\n"
    ours, theirs = (
        custom(tmp_path, f"{body}    workload.model[3].weight.data[0, 0] += {step}\n{end}")
        for step, end in ((0.0, "    return workload\n"), (1e-6, "    return workload\n"))
    )
    digests = [room.worker.baseline_sha256() for room in (ours, theirs)]
    assert digests == [room.worker.profile.baseline_sha256 for room in (ours, theirs)]
    assert digests[0] != digests[1]


def test_score_must_give_one_number_a_sample(tmp_path: Path) -> None:
    body = (
        "def make():\n"
        "    score = lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()\n"
        "    return networks.workload(networks.make_mlp(), score=score)\n"
    )
    with pytest.raises(InvalidRequest, match=r"one number a sample, shape \(200,\), .* shape \(\)"):
        custom(tmp_path, body)


def test_a_network_that_does_not_fit_its_data(tmp_path: Path) -> None:
    body = "def make():\n    return networks.workload(nn.Linear(5, 4))\n"
    with pytest.raises(InvalidRequest, match="fails on the data: RuntimeError: mat1 and mat2"):
        custom(tmp_path, body)


def test_only_the_profile_may_change_under_a_worker(bench: Callable[[str], Bench]) -> None:
    worker = bench("mlp").worker
    configured = worker.context
    assert worker.with_context(replace(configured, profile=None)) is worker
    assert worker.with_context(configured) is worker
    other = worker.with_context(replace(worker.context, artifacts_dir="elsewhere"))
    assert other is not worker


def test_the_users_code_may_set_the_threads(tmp_path: Path) -> None:
    file = tmp_path / "greedy.py"
    file.write_text(
        "import torch\nfrom tests import networks\n"
        "def make():\n    torch.set_num_threads(2)\n    return networks.mlp()\n"
    )
    Worker(WorkerContext(f"{file}:make", "m1", "packed", str(tmp_path), "cpu"))
    assert torch.get_num_threads() == 1


def test_a_workload_without_a_seed_is_the_same_network_in_every_worker(tmp_path: Path) -> None:
    body = (
        "import random\nimport numpy as np\n"
        "def make():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
        "    net[1].bias.data[0] = random.random() + np.random.rand()\n"
        "    return networks.workload(net)\n"
    )
    before = (random.getstate(), torch.get_rng_state())
    first = custom(tmp_path, body).worker.backend.workload.model.state_dict()
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    torch.rand(3)
    random.random()
    again = custom(tmp_path, body).worker.backend.workload.model.state_dict()
    assert all(torch.equal(first[name], values) for name, values in again.items())


def test_every_tensor_of_a_student_is_a_copy() -> None:
    model = networks.trained(networks.Residual)
    student = Student(model, uncoupled(model))
    ours = {t.data_ptr() for t in itertools.chain(model.parameters(), model.buffers())}
    theirs = {t.data_ptr() for t in student.model.parameters()}
    assert not ours & theirs


def test_calibration_neither_drops_nor_moves_what_a_network_has_learned(
    bench: Callable[[str], Bench],
) -> None:
    """The workload's network is in training mode: its norms would follow the calibration batch."""
    room = bench("dropout")
    layers = (("1", LayerPolicy(bits=8)),)
    asked = Policy(("quantize",), layers, activation_bits=8)  # type: ignore[arg-type]
    weights = room.weights(room.measure(asked, fidelity=0))
    state = room.worker.backend.workload.model.state_dict()
    kept = {name: values for name, values in weights.items() if name != "1.weight"}
    assert len(kept) >= 6
    assert all(np.array_equal(values, state[name].numpy()) for name, values in kept.items())


# A second metric ---------------------------------------------------------------------------------


def test_a_second_metric_is_measured_on_the_decoded_file(bench: Callable[[str], Bench]) -> None:
    room = bench("two_figures")
    measured = room.measure(ALL)
    assert measured.metric == bench("mlp").worker.verify(room.file(measured)).metric
    decoded = load_artifact(
        room.worker.backend.workload.model, decode(room.file(measured).read_bytes())
    )
    on_test = room.worker.score_test(measured.sha256)
    assert on_test is not None
    for split, found in (
        (networks.images()[1], measured.secondary),
        (networks.images()[2], on_test.secondary),
    ):
        with torch.no_grad():
            values = networks.ink(decoded(split.inputs), split.targets)
        assert set(found) == {"delay"}
        assert found["delay"].value == pytest.approx(float(values.mean()), rel=1e-5)
        error = float(values.std()) / len(values) ** 0.5
        assert found["delay"].standard_error == pytest.approx(error, rel=1e-5)
    assert room.worker.verify(room.file(measured)).secondary == measured.secondary


def test_the_baseline_has_it_too_and_other_workloads_have_none(
    bench: Callable[[str], Bench],
) -> None:
    room = bench("two_figures")
    profile = room.worker.profile
    assert profile.baseline_secondary == room.measure(Policy()).secondary
    assert [metric.name for metric in room.worker.backend.secondary] == ["delay"]
    plain = bench("mlp")
    assert plain.worker.profile.baseline_secondary == plain.measure(Policy()).secondary == {}


def test_a_workload_says_how_its_soft_targets_are_imitated(bench: Callable[[str], Bench]) -> None:
    """The same policy and seed train another network, because the loss is another."""
    policy = Policy(("distill",), (), Distillation("logits", 4.0, 0.5))  # type: ignore[arg-type]
    assert bench("two_figures").measure(policy).sha256 != bench("mlp").measure(policy).sha256
    assert bench("two_figures").measure(OTHER).sha256 == bench("mlp").measure(OTHER).sha256


def test_two_metrics_of_one_name_are_refused() -> None:
    workload = networks.two_figures()
    with pytest.raises(InvalidRequest, match="a name of its own, but got accuracy, delay, delay"):
        replace(workload, secondary=workload.secondary * 2)
