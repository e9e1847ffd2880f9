"""VGG-16 and ResNet-18 as definitions: folding, every stage, files; and the command for weights."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.artifacts.files import read_content
from evaluators.backends.pytorch import profile
from evaluators.cost import macs
from evaluators.formats import missing_libraries
from evaluators.workloads import cifar10, train_cifar10
from evaluators.workloads.cifar_networks import NETWORKS, folded
from evaluators.workloads.registry import load_workload
from spaces import InvalidRequest, LayerPolicy, Policy, Stage
from tests import cifar_networks
from tests.evaluators.backends.conftest import Bench

PRUNE, CLUSTER, QUANTIZE = Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE
NAMES = sorted(NETWORKS)


def parameters(model: nn.Module) -> int:
    return sum(values.numel() for values in model.parameters())


def test_the_widths_of_the_papers() -> None:
    with torch.device("meta"):
        vgg, resnet = NETWORKS["vgg16"](1.0), NETWORKS["resnet18"](1.0)
    assert parameters(vgg) == 14_724_042
    assert parameters(resnet) == 11_173_962
    convolutions = [m for m in vgg.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 13
    assert len([m for m in resnet.modules() if isinstance(m, nn.Conv2d)]) == 20


@pytest.mark.parametrize("network", NAMES)
def test_folding_changes_no_output(network: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[network](cifar_networks.WIDTH).train()
    batch = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        model(batch)
        expected = model.eval()(batch)
        found = folded(model)(batch)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Bench]]:
    made: dict[str, Bench] = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(
        profile, "SCAN", ()
    )  # twenty layers, and nothing here asks how sensitive they are

    def make(network: str) -> Bench:
        if missing := missing_libraries("onnx"):
            pytest.skip(f"format onnx needs {', '.join(missing)}")
        if network not in made:
            folder = tmp_path_factory.mktemp(network)
            made[network] = Bench(cifar_networks.name(network), folder, "m1", "onnx")
        return made[network]

    yield make
    patch.undo()


def policies(bench: Bench) -> dict[str, Policy]:
    layers = bench.worker.profile.layers

    def uniform(*order: Stage, **knobs: object) -> Policy:
        asked = LayerPolicy(**knobs)  # type: ignore[arg-type]
        return Policy(order, tuple((layer.name, asked) for layer in layers))

    channels = tuple(
        (layer.name, LayerPolicy(sparsity=0.5, pattern="channel"))
        for layer in layers
        if layer.can_prune_channels
    )
    assert channels
    return {
        "prune elements": uniform(PRUNE, sparsity=0.8),
        "prune channels": Policy((PRUNE,), channels),
        "cluster": uniform(CLUSTER, clusters=8),
        "quantize": uniform(QUANTIZE, bits=4),
        "prune, cluster, quantize": uniform(
            PRUNE, CLUSTER, QUANTIZE, sparsity=0.5, clusters=6, bits=8
        ),
    }


KINDS = (
    "prune elements",
    "prune channels",
    "cluster",
    "quantize",
    "prune, cluster, quantize",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NAMES)
def test_every_stage_ends_in_a_file_that_is_read_back_bit_for_bit(
    bench: Callable[[str], Bench], network: str, kind: str
) -> None:
    """The worker compares every weight, of the file and of its packed form, bit for bit."""
    room = bench(network)
    policy = policies(room)[kind]
    measured = room.measure(policy, fidelity=40)
    content = read_content(room.file(measured))
    assert measured.size_bytes == sum(len(data) for data in content.values())
    assert room.worker.verify(room.file(measured)).metric == measured.metric
    whole = room.worker.profile
    if kind == "prune channels":
        assert measured.macs < macs(Policy(), whole)
    if kind != "prune elements":  # a zero is a float in onnx
        assert measured.size_bytes < whole.baseline_size_bytes


def data_without_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cifar10").mkdir()
    (folder / "cifar10" / "labels.npz").write_bytes(b"")
    monkeypatch.setenv("SEARCH_DATA", str(folder))


@pytest.mark.parametrize("network", NAMES)
def test_without_weights_it_says_which_command_makes_them(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_without_weights(tmp_path, monkeypatch)
    command = rf"`python -m evaluators\.workloads\.train_cifar10 {network}` trains them"
    with pytest.raises(InvalidRequest, match=command):
        load_workload(f"{network}-cifar10")
    monkeypatch.setenv("SEARCH_DATA", "/nowhere")
    with pytest.raises(InvalidRequest, match=r"here '/nowhere', which must hold cifar10/labels"):
        load_workload(f"{network}-cifar10")


def test_the_command_writes_what_the_workload_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On random pictures in CIFAR-10's place: two steps of training, no accuracy to speak of."""
    data_without_weights(tmp_path, monkeypatch)
    splits = tuple(cifar_networks.pictures(count, seed) for seed, count in enumerate((256, 20, 20)))
    for module in (cifar10, train_cifar10):
        monkeypatch.setattr(module, "images", lambda: splits)
    flags = ["--width", "0.125", "--epochs", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train_cifar10", "vgg16", *flags])
    train_cifar10.main()
    printed = capsys.readouterr().out
    assert "trained-cifar10/vgg16.safetensors" in printed
    workload = load_workload("vgg16-cifar10")
    assert isinstance(workload, cifar10.Workload)
    assert parameters(workload.model) == parameters(cifar_networks.make("vgg16"))
    validation = train_cifar10.accuracy(workload.model, splits[1], "cpu")
    assert f"{100 * validation:.2f} %" in printed
    (tmp_path / "trained-cifar10" / "vgg16.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(
        InvalidRequest, match=r"vgg16\.safetensors is not what `python -m .* writes"
    ):
        load_workload("vgg16-cifar10")


def test_distorted_pictures_are_crops_of_the_padded_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.arange(1, 3 * 32 * 32 + 1).reshape(1, 3, 32, 32).float()
    found = train_cifar10.distorted(picture.repeat(50, 1, 1, 1), generator)
    padded = torch.nn.functional.pad(picture, [4] * 4)[0]
    crops = {
        tuple(crop.flatten().tolist())
        for top in range(9)
        for left in range(9)
        for plain in (padded[:, top : top + 32, left : left + 32],)
        for crop in (plain, plain.flip(2))
    }
    assert found.shape == (50, 3, 32, 32)
    assert all(tuple(each.flatten().tolist()) in crops for each in found)
    assert len({tuple(each.flatten().tolist()) for each in found}) > 20
