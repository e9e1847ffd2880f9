"""The loop, its schedule, its precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.backends.pytorch.device import (
    Precision,
    choose_device,
    choose_precision,
)
from evaluators.backends.pytorch.train import (
    Diverged,
    TrainingData,
    _batches,
    fine_tune,
    learning_rate_factor,
)
from evaluators.workloads.base import Recipe, Split, identity
from spaces import InvalidRequest
from tests import networks

FP32 = Precision("cpu", None, scales_loss=False)


def task(_: Tensor, outputs: Tensor, targets: Tensor, __: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def run(
    model: nn.Module, samples: int, precision: Precision = FP32, batch: int = 20, **changes: object
) -> list[tuple[int, int]]:
    """(step, steps) of every step."""
    calls: list[tuple[int, int]] = []
    arguments = {
        "data": TrainingData(networks.images()[0], identity, len(networks.images()[0])),
        "recipe": Recipe(batch_size=batch, learning_rate=1e-2),
        "loss": task,
        "before_step": lambda step, steps: calls.append((step, steps)),
        "generator": torch.Generator().manual_seed(0),
    } | changes
    fine_tune(model=model, samples=samples, precision=precision, **arguments)  # type: ignore[arg-type]
    return calls


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return networks.make_mlp()


def loss_of(model: nn.Module) -> float:
    train = networks.images()[0]
    with torch.no_grad():
        return F.cross_entropy(model(train.inputs), train.targets).item()


def test_the_schedule_by_hand() -> None:
    recipe = Recipe(warmup_share=0.1, final_share=0.02)
    factors = [learning_rate_factor(step, 100, recipe) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[:10] == sorted(factors[:10])
    assert factors[9] == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    half = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * 0.5))
    assert factors[55] == pytest.approx(half) == pytest.approx(0.51)
    assert 0.02 < factors[99] < 0.021
    assert learning_rate_factor(100, 100, recipe) == pytest.approx(0.02)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_schedule_of_very_few_steps(steps: int) -> None:
    factors = [learning_rate_factor(step, steps, Recipe()) for step in range(steps)]
    assert factors[0] == 1.0
    assert all(0 < factor <= 1 for factor in factors)


def test_training_learns_and_counts_its_samples() -> None:
    model = network()
    before = loss_of(model)
    assert run(model, samples=1000) == [(step, 50) for step in range(50)]
    assert loss_of(model) < before / 2
    assert not model.training


@pytest.mark.parametrize(("samples", "steps"), [(0, 0), (9, 0), (10, 1), (29, 1), (30, 2), (50, 3)])
def test_samples_are_rounded_to_steps(samples: int, steps: int) -> None:
    assert len(run(network(), samples)) == steps


def test_a_split_smaller_than_a_batch_is_a_batch() -> None:
    train = networks.images()[0]
    small = Split(train.inputs[:8], train.targets[:8])
    assert len(run(network(), 80, batch=500, data=TrainingData(small, identity, len(small)))) == 10


def test_every_pass_sees_each_sample_once() -> None:
    data = TrainingData(Split(torch.zeros(100), torch.zeros(100)), identity, 100)
    batches = _batches(data, 30, 7, torch.Generator().manual_seed(0))
    assert [len(b) for b in batches] == [30] * 7
    for i in (0, 3):
        assert len(torch.cat(batches[i : i + 3]).unique()) == 90
    assert not torch.equal(torch.cat(batches[:3]), torch.cat(batches[3:6]))


def test_a_pass_takes_each_sample_from_one_of_its_sets() -> None:
    data = TrainingData(Split(torch.zeros(400), torch.zeros(400)), identity, 100)
    seen = torch.cat(_batches(data, 50, 2, torch.Generator().manual_seed(0)))
    assert len((seen % 100).unique()) == 100
    assert set((seen // 100).tolist()) == {0, 1, 2, 3}


def test_frozen_parameters_stay() -> None:
    model = network()
    model[1].weight.requires_grad_(False)
    frozen, free = model[1].weight.clone(), model[3].weight.clone()
    run(model, 200)
    assert torch.equal(model[1].weight, frozen)
    assert not torch.equal(model[3].weight, free)


def test_a_loss_that_is_not_finite_stops_at_once() -> None:
    calls = []

    def loss(*arguments: Tensor) -> Tensor:
        calls.append(1)
        return task(*arguments) * float("nan")

    with pytest.raises(Diverged, match="loss became nan at step 0"):
        run(network(), 1000, loss=loss)
    assert len(calls) == 1


def test_weights_that_are_not_finite_are_not_given_back() -> None:
    def loss(inputs: Tensor, outputs: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
        return outputs.sum().sub(outputs.sum()).sqrt()  # 0, whose gradient is not a number

    with pytest.raises(Diverged, match=r"weight is no longer finite|a weight is no longer"):
        run(network(), 20, loss=loss)


def test_the_processor_is_left_as_it_was() -> None:
    tiny = torch.tensor(1e-40)
    inside = []

    def loss(*arguments: Tensor) -> Tensor:
        inside.append(float(tiny * 1.0))
        return task(*arguments)

    assert float(tiny * 1.0) > 0
    run(network(), 40, loss=loss)
    assert inside == [0.0, 0.0]
    assert float(tiny * 1.0) > 0


def test_bf16_on_the_cpu_learns_what_fp32_learns() -> None:
    seen = []
    model = network()
    model[1].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    before = loss_of(network())
    run(model, 1000, Precision("cpu", torch.bfloat16, scales_loss=False))
    assert set(seen) == {torch.bfloat16}
    assert model[1].weight.dtype == torch.float32
    assert loss_of(model) < before / 2


def test_devices_and_precisions() -> None:
    assert choose_device("auto", cuda_available=False) == "cpu"
    assert choose_device("auto", cuda_available=True) == "cuda"
    assert choose_device("cpu", cuda_available=True) == "cpu"
    assert choose_device("cuda", cuda_available=True) == "cuda"
    with pytest.raises(InvalidRequest, match=r"--device cuda: .* no CUDA device"):
        choose_device("cuda", cuda_available=False)
    with pytest.raises(InvalidRequest, match="one of auto, cpu, cuda, but got tpu"):
        choose_device("tpu", cuda_available=True)
    assert choose_precision("cpu", cuda_has_bf16=True) == FP32
    bf16 = Precision("cuda", torch.bfloat16, scales_loss=False)
    assert choose_precision("cuda", cuda_has_bf16=True) == bf16
    fp16 = Precision("cuda", torch.float16, scales_loss=True)
    assert choose_precision("cuda", cuda_has_bf16=False) == fp16
