"""The command line as a user meets it: in this process, in a folder with a tiny network."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search.cli.main import main

#: A network of 99 parameters, trained when it is loaded; `{extra}` changes the Workload.
NET = """\
import torch
from torch import nn

from evaluators.backends.pytorch.adam import Adam
from evaluators.workloads.base import Recipe, Workload


def clouds(samples, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % 3
    return 2.0 * torch.eye(4)[targets] + torch.randn(samples, 4, generator=generator), targets


def workload():
    print("a user's own print")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    inputs, targets = clouds(600, 1)
    optimiser = Adam(list(model.parameters()), 0.02, (0.9, 0.999))
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    settings = dict(
        recipe=Recipe(batch_size=50, search_epochs=0.5, full_epochs=1.0), test=clouds(500, 3)
    )
    settings.update({extra})
    return Workload("clouds", model, (inputs, targets), clouds(500, 2), **settings)
"""


def write_net(folder: Path, name: str = "net.py", extra: str = "", head: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(head + NET.replace("{extra}", extra), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout holds one JSON document and nothing else."""
        assert self.code in (0, 3), self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


Search = Callable[..., Said]


@pytest.fixture
def search(capsys: pytest.CaptureFixture[str]) -> Search:
    """`search("front", "--json")` in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny network in the current folder, where nothing else is."""
    monkeypatch.chdir(tmp_path)
    return write_net(tmp_path)


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study `done` (12 trials, budget 0.3 KB), made once."""
    folder = tmp_path_factory.mktemp("finished")
    net = write_net(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        asked = "--trials 12 --finalists 2 --budget-kb 0.3 --study done --seed 1"
        where = ["--target", "m1", "--format", "packed", "--engine", "in-process"]
        assert main(["run", f"{net}:workload", *where, *asked.split()]) == 0
    return folder


@pytest.fixture
def done(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is that of the finished study."""
    monkeypatch.chdir(finished)
    return finished
