"""The losses by closed form, and who is asked how often."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.backends.pytorch.backend import TorchBackend
from evaluators.backends.pytorch.distill import (
    AttentionMaps,
    CannotDistill,
    Teacher,
    attention_loss,
    distilled_loss,
    softened_loss,
)
from evaluators.backends.pytorch.train import TrainingData
from evaluators.workloads.base import identity
from spaces import Distillation, LayerPolicy, Policy
from tests import networks
from tests.evaluators.backends.conftest import Bench

DATA = TrainingData(networks.images()[0], identity, len(networks.images()[0]))


@pytest.mark.parametrize("temperature", [1.0, 2.5, 20.0])
def test_softened_loss_by_hand(temperature: float) -> None:
    """Two classes: T^2 * (p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)))."""
    p, q = 1 / (1 + math.exp(-3 / temperature)), 1 / (1 + math.exp(1 / temperature))
    expected = temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    student, teacher = torch.tensor([[0.0, 1.0]] * 5), torch.tensor([[5.0, 2.0]] * 5)
    assert softened_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-4)
    assert softened_loss(teacher + 7, teacher, temperature).item() == pytest.approx(0, abs=1e-5)


def test_its_gradient_keeps_its_size_as_the_temperature_grows() -> None:
    """Towards infinity it is half the squared distance of the centred logits over the classes."""
    student = torch.tensor([[1.0, -1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.5, -1.0]])
    (gradient,) = torch.autograd.grad(softened_loss(student, teacher, 1000.0), student)
    assert torch.allclose(gradient, (student - teacher) / 3, atol=2e-3)


def test_attention_loss_by_hand() -> None:
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]])  # 1 sample, 2 channels, 1x2: (9, 16)/2
    teacher = torch.tensor([[[[1.0, 1.0]]]])  # one channel: (1, 1)
    length = math.hypot(9, 16)
    expected = (9 / length - 2**-0.5) ** 2 + (16 / length - 2**-0.5) ** 2
    assert attention_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert attention_loss(student * 9, student).item() == pytest.approx(0, abs=1e-6)


def test_weight_mixes_the_two_losses() -> None:
    teacher = Teacher(lambda inputs: torch.ones(len(inputs), 4), DATA)
    outputs, targets = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    indices = torch.arange(6)
    parts = []
    for weight in (0.0, 1.0, 0.25):
        loss = distilled_loss(F.cross_entropy, Distillation("logits", 3.0, weight), teacher, None)
        parts.append(loss(DATA.split.inputs[:6], outputs, targets, indices).item())
    assert parts[0] == pytest.approx(F.cross_entropy(outputs, targets).item())
    assert parts[2] == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], rel=1e-5)


def test_kept_soft_targets_are_taken_instead_of_asking() -> None:
    def network(inputs: Tensor) -> Tensor:
        raise AssertionError("never asked")

    soft = torch.randn(networks.TRAIN, 4)
    teacher = Teacher(network, DATA, lambda: soft)
    assert torch.equal(teacher.logits(torch.tensor([7, 2])), soft[[7, 2]])
    with pytest.raises(CannotDistill, match=r"one row for each of the 320 .* but gave 5"):
        Teacher(network, DATA, lambda: soft[:5]).logits(torch.tensor([1]))


def test_the_teacher_is_asked_once_for_each_sample() -> None:
    asked: list[int] = []

    def network(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return inputs.flatten(1)[:, :4]

    teacher = Teacher(network, DATA)
    for _ in range(3):
        indices = torch.tensor([5, 3, 300])
        expected = DATA.split.inputs[indices].flatten(1)[:, :4]
        assert torch.equal(teacher.logits(indices), expected)
    assert sum(asked) == networks.TRAIN


def test_of_a_short_training_only_its_samples_are_asked_about() -> None:
    asked: list[int] = []

    def network(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return inputs.flatten(1)[:, :4]

    inputs, targets = DATA.split.inputs[3:9], torch.zeros(6, dtype=torch.long)
    outputs, indices = torch.randn(6, 4), torch.arange(3, 9)
    asks = Distillation("logits", 2.0, 0.5)
    teacher = Teacher(network, DATA)
    short = distilled_loss(F.cross_entropy, asks, teacher, None, is_short=True)
    loss = short(inputs, outputs, targets, indices)
    assert asked == [6]
    whole = distilled_loss(F.cross_entropy, asks, teacher, None)
    assert torch.equal(loss, whole(inputs, outputs, targets, indices))
    # What somebody keeps is never asked for.
    soft = torch.randn(networks.TRAIN, 4)
    kept = Teacher(network, DATA, lambda: soft)
    assert torch.equal(kept.logits(indices, inputs), soft[3:9])


@pytest.mark.parametrize(
    ("outputs", "soft", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3, 1), "2 classes or more"),
        (torch.zeros(3), torch.zeros(3), "2 classes or more"),
        (torch.zeros(3, 4), torch.zeros(3, 10), r"shape \(4,\), its teacher's \(10,\)"),
    ],
)
def test_outputs_that_cannot_be_compared(outputs: Tensor, soft: Tensor, message: str) -> None:
    """A softmax over one output is 1 whatever it is: the loss would be asked for and absent."""
    teacher = Teacher(lambda inputs: soft[:1].expand(len(inputs), *soft.shape[1:]), DATA)
    loss = distilled_loss(F.mse_loss, Distillation("logits", 3.0, 0.5), teacher, None)
    with pytest.raises(CannotDistill, match=message):
        loss(DATA.split.inputs[:3], outputs, outputs, torch.arange(3))


def test_maps_are_collected_in_one_mode_only() -> None:
    model = networks.make_conv()
    maps = AttentionMaps(model, training=True)
    model.eval()(torch.rand(2, 1, 8, 8))
    assert maps.take() == []
    model.train()(torch.rand(2, 1, 8, 8))
    assert [tuple(features.shape) for features in maps.take()] == [(2, 8, 6, 6)]
    model(torch.rand(2, 1, 8, 8))
    maps.close()
    assert maps.features == []
    model(torch.rand(2, 1, 8, 8))
    assert maps.take() == []


ATTENTION = Policy(
    ("distill", "prune"),  # type: ignore[arg-type]
    (("0", LayerPolicy(sparsity=0.5)),),
    Distillation("attention", 1.0, 0.5),
)


def test_attention_in_every_stage_and_then_gone(bench: Callable[[str], Bench]) -> None:
    """The audit between two stages runs the network too: its maps are not those of a step."""
    room = bench("conv")
    first = room.measure(ATTENTION)
    assert room.measure(ATTENTION).sha256 == first.sha256
    teacher = room.worker.backend.teacher.network
    assert isinstance(teacher, nn.Module)
    assert not any(module._forward_hooks for module in teacher.modules())


def test_hooks_are_removed_after_a_failure_too(
    bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = bench("conv")
    before = room.measure(ATTENTION).sha256
    other = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU()).eval()
    monkeypatch.setattr(room.worker.backend.teacher, "network", other)
    failure = room.failure(ATTENTION)
    assert failure.stage == "distill"
    assert "same shapes, but the network has [(6, 6)] and its teacher [(4, 4)]" in failure.reason
    assert not any(module._forward_hooks for module in other.modules())
    monkeypatch.undo()
    assert room.measure(ATTENTION).sha256 == before


@pytest.mark.parametrize(
    ("make", "teacher", "same"),
    [
        (networks.make_conv, None, True),
        (networks.make_conv, networks.make_conv, True),
        (networks.make_conv, lambda: nn.Conv2d(1, 4, 5), False),
        (networks.make_conv, lambda: lambda inputs: inputs, False),  # no network: no maps
        (networks.make_mlp, None, False),
    ],
)
def test_the_scan_knows_whether_attention_can_be_compared(
    make: Callable[[], nn.Module], teacher: Callable[[], Any] | None, same: bool
) -> None:
    workload = networks.workload(make().eval(), teacher=teacher and teacher())
    backend = TorchBackend(workload, "cpu")
    assert backend.scan().has_attention is same
    modules = [m for m in (workload.model, workload.teacher) if isinstance(m, nn.Module)]
    assert not any(part._forward_hooks for module in modules for part in module.modules())


def test_attention_without_convolutions_is_a_failure(bench: Callable[[str], Bench]) -> None:
    asked = Policy(("distill",), (), Distillation("attention", 1.0, 0.5))  # type: ignore[arg-type]
    failure = bench("mlp").failure(asked)
    assert failure.stage == "distill"
    assert "needs convolutions" in failure.reason


def test_logits_of_a_regression_are_a_failure(bench: Callable[[str], Bench]) -> None:
    asked = Policy(("distill",), (), Distillation("logits", 4.0, 0.5))  # type: ignore[arg-type]
    assert "2 classes or more" in bench("regression").failure(asked).reason


def test_any_callable_can_teach(tmp_path: Path) -> None:
    """A forest, an ensemble, a service: here a rule on the pixels."""
    file = tmp_path / "taught.py"
    file.write_text(
        "from tests import networks\n"
        "def rule(inputs):\n"
        "    return inputs.flatten(1)[:, :4] * 3\n"
        "def taught():\n"
        "    return networks.workload(networks.trained(networks.make_mlp), teacher=rule)\n"
    )
    room = Bench(f"{file}:taught", tmp_path)
    asked = Policy(("distill",), (), Distillation("logits", 4.0, 1.0))  # type: ignore[arg-type]
    assert room.measure(asked, fidelity=6400).metric < 0.5  # it imitates the rule, which is wrong
