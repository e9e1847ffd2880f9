"""The worker's doors: plain values in and out, and no framework before the first call."""

import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from evaluators import tasks
from evaluators.tasks import Profiled, Verified, WorkerContext
from spaces import Failure, Identity, InvalidRequest, LayerPolicy, Measurement, Policy
from tests import networks

ASKED = Policy(("prune",), (("1", LayerPolicy(sparsity=0.5)),))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_worker", None)


def context(folder: Path) -> WorkerContext:
    return WorkerContext(networks.name("mlp"), "m1", "packed", str(folder), "cpu")


def test_importing_the_doors_imports_no_framework() -> None:
    script = (
        "import sys, evaluators.tasks, evaluators.capabilities, evaluators.workloads.registry\n"
        "import evaluators.backends.base, evaluators.formats\n"
        "heavy = ('torch', 'torch_pruning', 'tensorflow', 'tf_keras', 'keras', 'ai_edge_litert')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


def test_a_whole_study_through_the_doors(tmp_path: Path) -> None:
    """profile, configure, evaluate, test score, verify: every value crosses as a pickle."""

    def crossing(value: object) -> object:
        data = pickle.dumps(value)
        assert len(data) < 60_000
        return pickle.loads(data)

    tasks.setup(crossing(context(tmp_path)))  # type: ignore[arg-type]
    profiled = crossing(tasks.make_profile())
    assert isinstance(profiled, Profiled)
    assert profiled.backend == "torch"
    assert profiled.device == "cpu"
    assert (profiled.train_samples, profiled.batch_size) == (networks.TRAIN, networks.BATCH)
    assert profiled.search_fidelity == 2 * networks.TRAIN
    assert profiled.has_test
    worker = tasks._worker
    tasks.setup(replace(context(tmp_path), profile=profiled.profile))
    assert tasks._worker is worker  # the workload is loaded once
    identity = Identity("tiny", "packed", ASKED.digest, 100, 0, 0)
    measurement = crossing(tasks.evaluate(identity, ASKED))
    assert isinstance(measurement, Measurement)
    assert Measurement.from_dict(tasks_json(measurement)) == measurement
    verified = crossing(tasks.verify(str(tmp_path / f"{measurement.sha256}.packed")))
    assert verified == Verified(
        measurement.size_bytes,
        measurement.sha256,
        measurement.metric,
        measurement.metric_se,
        measurement.metric_samples,
    )
    score = tasks.score_test(measurement.sha256)
    assert score is not None
    assert score.metric_samples == networks.TEST
    unknown = Policy(("prune",), (("9", LayerPolicy(sparsity=0.5)),))  # type: ignore[arg-type]
    assert isinstance(crossing(tasks.evaluate(identity, unknown)), Failure)


def tasks_json(measurement: Measurement) -> dict[str, object]:
    return json.loads(json.dumps(asdict(measurement)))  # type: ignore[no-any-return]


def test_the_profile_knows_its_network(tmp_path: Path) -> None:
    tasks.setup(context(tmp_path))
    profile = tasks.make_profile().profile
    layer = profile.layers[0]
    assert (layer.name, layer.kind, layer.weight_shape) == ("1", "Linear", (24, 64))
    assert (layer.macs, layer.input_elements, layer.output_elements) == (1536, 64, 24)
    assert [x.can_prune_channels for x in profile.layers] == [True, True, False]
    assert list(layer.weight_quantiles) == sorted(layer.weight_quantiles)
    damage = {(s.knob, s.value): s.loss_increase for s in layer.sensitivity}
    assert damage["sparsity", 0.99] > damage["sparsity", 0.5]
    assert damage["clusters", 2.0] > damage["clusters", 64.0]
    assert damage["bits", 2.0] > damage["bits", 8.0]
    assert profile.other_bytes == 0
    assert profile.baseline_metric > 0.9


def test_doors_without_a_worker() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        tasks.make_profile()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workload": "resnet-9000"}, "resnet-9000"),
        ({"target": "abacus"}, "--target must be one of"),
        ({"device": "cuda"}, "no CUDA device"),
    ],
)
def test_what_cannot_be_had_is_said_at_set_up(
    change: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        tasks.setup(replace(context(tmp_path), **change))
    assert tasks._worker is None
