"""Tiny trained networks on learnable synthetic data: one evaluation takes a fraction of a second.

Used by name, as a user's own file would be: `networks.name("mlp")` is "…/tests/networks.py:mlp".
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.backends.pytorch.adam import Adam
from evaluators.workloads.base import Recipe, SecondaryScore, Split, Workload
from spaces import Metric

CLASSES = 4
TRAIN, VALIDATION, TEST = 320, 200, 80
BATCH = 20


def name(function: str) -> str:
    """What `--workload` would be given."""
    return f"{__file__}:{function}"


@lru_cache
def images(seed: int = 0) -> tuple[Split, Split, Split]:
    """Noisy (1, 8, 8) pictures of four prototypes; learnable, but not to the last sample."""
    generator = torch.Generator().manual_seed(seed)
    count = TRAIN + VALIDATION + TEST
    prototypes = torch.rand(CLASSES, 1, 8, 8, generator=generator)
    targets = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    parts = (TRAIN, VALIDATION, TEST)
    inputs = prototypes[targets] + 0.5 * noise
    splits = zip(inputs.split(parts), targets.split(parts), strict=True)
    train, validation, test = (Split(x, y) for x, y in splits)
    return train, validation, test


WORDS, STEPS = 40, 12


@lru_cache
def texts(seed: int = 0) -> tuple[Split, Split, Split]:
    """(12,) ids of words, some of which are likelier in texts of one of four classes."""
    generator = torch.Generator().manual_seed(seed)
    count = TRAIN + VALIDATION + TEST
    targets = torch.randint(CLASSES, (count,), generator=generator)
    shape = (count, STEPS)
    hints = 1 + 3 * targets[:, None] + torch.randint(3, shape, generator=generator)
    others = torch.randint(1 + 3 * CLASSES, WORDS, shape, generator=generator)
    inputs = torch.where(torch.rand(shape, generator=generator) < 0.3, hints, others)
    parts = (TRAIN, VALIDATION, TEST)
    splits = zip(inputs.split(parts), targets.split(parts), strict=True)
    train, validation, test = (Split(x, y) for x, y in splits)
    return train, validation, test


@lru_cache
def trained(
    make: Callable[[], nn.Module], splits: Callable[[], tuple[Split, ...]] = images
) -> nn.Module:
    """The network after 120 steps; the same weights every time."""
    train = splits()[0]
    # Sums of one thread: another process must train the very same network.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        # The workers' own: torch.optim would import TorchDynamo, two seconds of every process.
        optimiser = Adam(list(model.parameters()), 3e-3, (0.9, 0.999))
        for step in range(120):
            batch = slice(step * 40 % TRAIN, step * 40 % TRAIN + 40)
            loss = F.cross_entropy(model(train.inputs[batch]), train.targets[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    torch.set_num_threads(threads)
    return model.eval()


def make_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4)
    )


def make_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4)
    )


def make_narrow() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
    )


class Residual(nn.Module):
    """Conv, norm, then conv, norm and conv, norm beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.outer, self.outer_norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        trunk = F.max_pool2d(F.relu(self.stem_norm(self.stem(images))), 2)
        branch = self.outer_norm(self.outer(F.relu(self.inner_norm(self.inner(trunk)))))
        return self.head(F.max_pool2d(F.relu(trunk + branch), 2).flatten(1))


def workload(model: nn.Module, **changes: Any) -> Workload:
    """The synthetic task for any network that takes (1, 8, 8) pictures."""
    train, validation, test = images()
    given: dict[str, Any] = {
        "name": "tiny",
        "model": model,
        "train": train,
        "validation": validation,
        "test": test,
        "recipe": Recipe(batch_size=BATCH, learning_rate=2e-3),
    }
    return Workload(**(given | changes))


def mlp() -> Workload:
    return workload(trained(make_mlp))


def conv() -> Workload:
    return workload(trained(make_conv))


def narrow() -> Workload:
    """Its first layer has a single output channel."""
    return workload(trained(make_narrow))


def residual() -> Workload:
    return workload(trained(Residual))


class Words(nn.Module):
    """Embedding, a recurrent layer, dense."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8, padding_idx=0)
        self.lstm = kind(8, 12, batch_first=True, **options)
        self.fc = nn.Linear(24 if self.lstm.bidirectional else 12, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.lstm(self.embed(ids))[0][:, -1])


def make_gru() -> nn.Module:
    return Words(nn.GRU)


def make_stacked() -> nn.Module:
    return Words(num_layers=2, bidirectional=True, dropout=0.2)


def _of_texts(make: Callable[[], nn.Module]) -> Workload:
    train, validation, test = texts()
    model = trained(make, texts)
    return workload(model, train=train, validation=validation, test=test)


def lstm() -> Workload:
    return _of_texts(Words)


def gru() -> Workload:
    return _of_texts(make_gru)


def stacked() -> Workload:
    """Two LSTM layers in both directions."""
    return _of_texts(make_stacked)


def ink(outputs: Tensor, targets: Tensor) -> Tensor:
    """A second figure of `two_figures`: how far the first logit is from the class number."""
    return (outputs[:, 0] - targets).abs()


def two_figures() -> Workload:
    """`mlp` with a second metric, and a loss of its own for soft targets."""

    def imitation(outputs: Tensor, soft_targets: Tensor, temperature: float) -> Tensor:
        return F.mse_loss(outputs, soft_targets) / temperature

    delay = Metric("delay", "s", higher_is_better=False, shown_unit="min")
    return replace(mlp(), secondary=(SecondaryScore(delay, ink),), imitation=imitation)


def regression() -> Workload:
    """Predict the mean brightness; an error in lumens, smaller is better."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))
    splits = [Split(s.inputs, s.inputs.mean(dim=(1, 2, 3))[:, None]) for s in images()]
    return workload(
        model,
        train=splits[0],
        validation=splits[1],
        test=None,
        metric=Metric("error", "lm", higher_is_better=False),
        score=lambda outputs, targets: (outputs - targets).abs().squeeze(1),
        loss=F.mse_loss,
    )


def make_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 4)
    )


def dropout() -> Workload:
    """Given in training mode, as a careless user would."""
    return workload(copy.deepcopy(trained(make_dropout)).train())


def diverging() -> Workload:
    """Its loss is not a number where it is trained with."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) * (float("nan") if outputs.requires_grad else 1.0)

    return workload(trained(make_conv), loss=loss)
