"""Small networks whose time says how fast a runtime is here. Weights are random: time ignores them.

Drawn networks cover what people compress (a few linear layers, a few convolutions); the known ones
are held out, so that an error on them is one on networks nobody fitted.
"""

import itertools
import random
import statistics
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from evaluators.backends.base import FileFormat, Seeds
from evaluators.backends.pytorch.backend import TorchBackend
from evaluators.backends.pytorch.layers import compressible_layers, trace_shapes
from evaluators.calibration import ProbeTime
from evaluators.latency import Call, device_name, measure_ms, measure_relative
from evaluators.workloads.base import Recipe, Split, Workload
from evaluators.workloads.cifar10 import ResNet20
from evaluators.workloads.mnist import cnn, lenet5, lenet300
from spaces import (
    Failure,
    LayerPolicy,
    LayerProfile,
    ModelProfile,
    Policy,
    Stage,
    StudyBroken,
)

__all__ = ["HELD_OUT_EVERY", "KNOWN", "time_probe"]

#: Of the drawn networks one in so many is held out too.
HELD_OUT_EVERY = 4
#: A network's time is the median of so many interleaved runs.
RUNS = 3
SAMPLES = 16
_Made = tuple[str, nn.Module, tuple[int, ...]]

KNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet300": (lenet300, (1, 28, 28)),
    "lenet5": (lenet5, (1, 28, 28)),
    "cnn": (cnn, (1, 28, 28)),
    "resnet20": (ResNet20, (3, 32, 32)),
}


def time_probe(number: int, artifact_format: str, kinds: tuple[str, ...]) -> list[ProbeTime]:
    """Time one network in a format's runtime on this machine, one thread.

    It takes turns with a reference network, the same for all: what `at_one_speed` needs.

    Args:
        number: below len(KNOWN) a known network, else a drawn one.
        artifact_format: "packed" (torch) or "onnx" (ONNX Runtime).
        kinds: "fp32", "int8".

    Raises:
        StudyBroken: the network cannot be written, which no probe should meet.
    """
    torch.manual_seed(number)
    name, model, shape = _made(number)
    layers = _layers(model.eval(), torch.zeros(1, *shape))
    held_out = number < len(KNOWN) or number % HELD_OUT_EVERY == 0
    reference, device = _reference(artifact_format)
    found = []
    for kind in kinds:
        policy = Policy() if kind == "fp32" else _int8(layers)
        network, _ = _call(name, model, shape, artifact_format, policy)
        reference_ms = measure_ms(reference, device).median_ms
        runs = [
            measure_relative(network, reference, reference_ms, device).median_ms
            for _ in range(RUNS)
        ]
        median_ms = statistics.median(runs)
        profile = _profile(layers)
        found.append(ProbeTime(name, policy, profile, median_ms, held_out, reference_ms))
    return found


@cache
def _reference(artifact_format: str) -> tuple[Call, str]:
    """What every probe takes turns with: of middle size, with what most networks compute."""
    network = nn.Sequential(
        nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    return _call("reference", network, (8, 28, 28), artifact_format, Policy())


def _call(
    name: str, model: nn.Module, shape: tuple[int, ...], artifact_format: str, policy: Policy
) -> tuple[Call, str]:
    """One inference of the network's file under a policy, and the device's name."""
    samples = Split(torch.randn(SAMPLES, *shape), torch.arange(SAMPLES) % 2)
    workload = Workload(
        name=name,
        model=model.eval(),
        train=samples,
        validation=samples,
        recipe=Recipe(batch_size=SAMPLES),
    )
    backend = TorchBackend(workload, "cpu")
    done = backend.compress(policy, Seeds(0, 0, 0))
    if isinstance(done, Failure):
        raise StudyBroken(f"probe {name} with {policy.activation_bits}-bit activations: {done}")
    files: FileFormat[Any] = backend.file_format(artifact_format)
    stored = files.stored(done.artifact)
    removal = done.removal(stored)
    restored = files.read(files.write(stored, removal))
    return files.timed(restored, removal), device_name(files.runtime)


def _made(number: int) -> _Made:
    if number < len(KNOWN):
        name, (make, shape) = list(KNOWN.items())[number]
        return name, make(), shape
    rng = random.Random(number)  # noqa: S311 -- no secret
    drawn = _linear(rng) if rng.random() < 0.4 else _convolutional(rng)
    return f"drawn {number}", *drawn


def _linear(rng: random.Random) -> tuple[nn.Module, tuple[int, ...]]:
    widths = [rng.choice((16, 64, 256, 784, 1024))]
    widths += [rng.choice((16, 32, 64, 128, 256, 512, 1024)) for _ in range(rng.randint(2, 4))]
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        modules += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*modules[:-1]), (widths[0],)


def _convolutional(rng: random.Random) -> tuple[nn.Module, tuple[int, ...]]:
    channels, side = rng.choice((1, 3, 8, 16)), rng.choice((8, 14, 28, 32))
    shape = (channels, side, side)
    modules: list[nn.Module] = []
    for _ in range(rng.randint(1, 4)):
        outputs, kernel = rng.choice((8, 16, 32, 64)), rng.choice((1, 3, 3, 5))
        modules += [nn.Conv2d(channels, outputs, kernel, padding=kernel // 2), nn.ReLU()]
        channels = outputs
        if side >= 8 and rng.random() < 0.5:
            modules.append(nn.MaxPool2d(2))
            side //= 2
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels * side**2, 10)), shape


def _layers(model: nn.Module, sample: torch.Tensor) -> tuple[LayerProfile, ...]:
    modules = compressible_layers(model)
    shapes = trace_shapes(model, modules, sample)
    return tuple(
        LayerProfile(
            name=name,
            kind=type(modules[name]).__name__,
            weight_shape=tuple(modules[name].weight.shape),  # type: ignore[arg-type]
            bias_size=0 if modules[name].bias is None else len(modules[name].bias),  # type: ignore[arg-type]
            macs=shape.macs,
            input_elements=shape.input_elements,
            output_elements=shape.output_elements,
            weight_quantiles=(),
            can_prune_channels=False,
        )
        for name, shape in shapes.items()
    )


def _int8(layers: tuple[LayerProfile, ...]) -> Policy:
    asked = tuple((layer.name, LayerPolicy(bits=8)) for layer in layers)
    return Policy((Stage.QUANTIZE,), asked, activation_bits=8)


def _profile(layers: tuple[LayerProfile, ...]) -> ModelProfile:
    """What a latency model reads; a probe has no metric and no file of interest."""
    return ModelProfile(
        layers=layers,
        channel_groups=(),
        excluded=(),
        other_bytes=0,
        baseline_metric=0.0,
        baseline_metric_se=0.0,
        baseline_size_bytes=1,
        baseline_latency_ms=1.0,
        latency_source="measured",
    )
