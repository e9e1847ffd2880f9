"""Our Adam beside torch's own, bit for bit; what it spares a process."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluators.backends.pytorch.adam import Adam
from tests import networks

BETAS = (0.9, 0.99)


def torch_own(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01, betas=BETAS, fused=True)


def ours(parameters: list[nn.Parameter]) -> Adam:
    return Adam(parameters, 0.01, BETAS)


def trained(make: Callable[[list[nn.Parameter]], Any], *, scales_loss: bool) -> dict[str, Any]:
    """Weights after 30 steps; in three of them a layer has no gradient, in one it is infinite."""
    torch.manual_seed(0)
    model = networks.make_mlp()
    optimiser = make(list(model.parameters()))
    scaler = torch.amp.GradScaler("cpu", enabled=scales_loss)
    train = networks.images()[0]
    for step in range(30):
        rate = 0.01 * (1 - step / 30)
        if isinstance(optimiser, Adam):
            optimiser.learning_rate = rate
        else:
            optimiser.param_groups[0]["lr"] = rate
        for parameter in model[1].parameters():
            parameter.requires_grad_(step not in (0, 11, 12))
        batch = slice(step * 10, step * 10 + 10)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(train.inputs[batch]), train.targets[batch])
        if step == 20 and scales_loss:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
    return model.state_dict() | {"scale": torch.tensor(scaler.get_scale())}


@pytest.mark.parametrize("scales_loss", [False, True])
def test_it_moves_as_torch_s_own(scales_loss: bool) -> None:
    with torch.random.fork_rng():
        expected = trained(torch_own, scales_loss=scales_loss)
        found = trained(ours, scales_loss=scales_loss)
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    assert all(values.isfinite().all() for values in found.values())
    if scales_loss:
        assert found["scale"] == 2**15, "the infinite step was noticed and skipped"


def test_a_worker_never_imports_torch_s_compiler() -> None:
    """Two seconds and a third of the modules of a worker process."""
    code = (
        "import sys, tempfile; from pathlib import Path; from tests import networks;"
        "from tests.contracts.test_backends import PRUNE, DISTILL, CLUSTER, QUANTIZE, uniform;"
        "from tests.evaluators.backends.conftest import Bench;"
        "bench = Bench(networks.name('conv'), Path(tempfile.mkdtemp()));"
        "order = (PRUNE, DISTILL, CLUSTER, QUANTIZE);"
        "bench.measure(uniform('conv', *order, sparsity=0.6, clusters=5, bits=8));"
        "print([m for m in ('torch._dynamo', 'torch._inductor', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
