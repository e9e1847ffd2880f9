"""Workers on the tiny workloads, and short ways to evaluate and to read a file back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from evaluators.artifacts.packed import decode, dense
from evaluators.backends.pytorch.channels import ChannelGroup
from evaluators.backends.pytorch.layers import compressible_layers
from evaluators.tasks import WorkerContext
from evaluators.worker import Worker
from spaces import Failure, Identity, Measurement, Policy
from tests import networks

FIDELITY = 320


def uncoupled(model: nn.Module) -> tuple[ChannelGroup, ...]:
    """Each layer in a group of its own, as in a chain."""
    return tuple(ChannelGroup((name,)) for name in compressible_layers(model))


class Bench:
    """A worker with its profile, made for one workload in one folder."""

    def __init__(
        self, workload: str, folder: Path, target: str = "m1", artifact_format: str = "packed"
    ) -> None:
        context = WorkerContext(workload, target, artifact_format, str(folder), "cpu")
        self.worker = Worker(context)
        self.folder = folder
        profile = self.worker.make_profile().profile
        self.worker = self.worker.with_context(replace(context, profile=profile))

    def outcome(
        self, policy: Policy, fidelity: int = FIDELITY, repeat: int = 0
    ) -> Measurement | Failure:
        identity = Identity("tiny", "packed", policy.digest, fidelity, repeat, 0)
        return self.worker.evaluate(identity, policy)

    def measure(self, policy: Policy, fidelity: int = FIDELITY, repeat: int = 0) -> Measurement:
        outcome = self.outcome(policy, fidelity, repeat)
        assert isinstance(outcome, Measurement), str(outcome)
        return outcome

    def failure(self, policy: Policy, fidelity: int = FIDELITY) -> Failure:
        outcome = self.outcome(policy, fidelity)
        assert isinstance(outcome, Failure), outcome
        return outcome

    def file(self, measurement: Measurement) -> Path:
        return self.folder / f"{measurement.sha256}.{self.worker.context.artifact_format}"

    def weights(self, measurement: Measurement) -> dict[str, np.ndarray]:
        """Decoded from the disk, by the format's reader alone."""
        return dense(decode(self.file(measurement).read_bytes()))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """Name of a function in tests/networks.py -> its bench, made once."""
    made: dict[str, Bench] = {}

    def make(function: str) -> Bench:
        if function not in made:
            folder = tmp_path_factory.mktemp(function)
            made[function] = Bench(networks.name(function), folder)
        return made[function]

    return make
