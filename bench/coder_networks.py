"""The networks `bench.coder` measures: compressed by the product itself, kept as files.

They are trained once and stay in a folder; files of any coder serve, since they are read again.
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluators.artifacts.packed import Artifact, decode
from spaces import Identity, LayerPolicy, Policy, Stage

__all__ = ["NETWORKS", "Network", "artifact_of"]

PRUNED = (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE)


@dataclass(frozen=True)
class Network:
    """How one network is compressed.

    Attributes:
        name: of the row.
        workload: by name.
        tuned: whether the coder's constants were chosen with this network in sight.
        everywhere: what every layer must satisfy.
        sparsity: by layer, where it differs.
        samples: of training; about half a minute for LeNet-300-100.
    """

    name: str
    workload: str
    tuned: bool
    everywhere: LayerPolicy
    sparsity: Mapping[str, float] = field(default_factory=dict)
    order: tuple[Stage, ...] = PRUNED
    samples: int = 300_000


def clusters(count: int, sparsity: float = 0.0) -> LayerPolicy:
    """Clustered to `count` shared values of 8 bits, biases of 4."""
    return LayerPolicy(sparsity, clusters=count, bits=8, bias_bits=4)


SLIM300 = {"fc1": 0.98, "fc2": 0.95, "fc3": 0.7}
DENSE = (Stage.QUANTIZE,)
NETWORKS = (
    Network("lenet300 90 % k16", "lenet300-mnist", False, clusters(16, 0.9)),
    Network("lenet300 95 % k8", "lenet300-mnist", True, clusters(8, 0.95)),
    Network("lenet300 97 % k6", "lenet300-mnist", False, clusters(6, 0.97)),
    Network("lenet300 3 % by layer k5", "lenet300-mnist", True, clusters(5), SLIM300),
    Network("lenet300 3 % by layer k6", "lenet300-mnist", False, clusters(6), SLIM300,
            samples=600_000),
    Network("lenet300 98 % k5", "lenet300-mnist", False, clusters(5, 0.98)),
    Network("cnn 80 % k16", "cnn-mnist", False, clusters(16, 0.8), samples=120_000),
    Network("cnn 85 % k6", "cnn-mnist", True, clusters(6, 0.85), samples=120_000),
    Network("lenet5 97 % k6", "lenet5-mnist", True, clusters(6),
            {"conv1": 0.5, "conv2": 0.9, "fc1": 0.98, "fc2": 0.9}, samples=60_000),
    Network("lenet5 98 % k5", "lenet5-mnist", False, clusters(5),
            {"conv1": 0.5, "conv2": 0.92, "fc1": 0.99, "fc2": 0.9}, samples=60_000),
    Network("lenet300 95 % 8 bits", "lenet300-mnist", True,
            LayerPolicy(0.95, bits=8, bias_bits=8), order=(Stage.PRUNE, Stage.QUANTIZE)),
    Network("lenet300 90 % 4 bits", "lenet300-mnist", False,
            LayerPolicy(0.9, bits=4, bias_bits=8), order=(Stage.PRUNE, Stage.QUANTIZE),
            samples=120_000),
    Network("lenet300 60 % channels 8 bits", "lenet300-mnist", False,
            LayerPolicy(0.6, "channel", bits=8, bias_bits=8), {"fc3": 0.0},
            order=(Stage.PRUNE, Stage.QUANTIZE), samples=60_000),
    Network("lenet300 dense 8 bits", "lenet300-mnist", True,
            LayerPolicy(bits=8, bias_bits=8), order=DENSE, samples=60_000),
    Network("lenet300 dense 4 bits", "lenet300-mnist", False,
            LayerPolicy(bits=4, bias_bits=8), order=DENSE, samples=60_000),
    Network("lenet300 dense k16", "lenet300-mnist", True,
            LayerPolicy(clusters=16, bits=8, bias_bits=8), order=(Stage.CLUSTER, Stage.QUANTIZE),
            samples=60_000),
    Network("cnn dense 8 bits", "cnn-mnist", False,
            LayerPolicy(bits=8, bias_bits=8), order=DENSE, samples=60_000),
    Network("cnn dense 4 bits", "cnn-mnist", True,
            LayerPolicy(bits=4, bias_bits=8), order=DENSE, samples=60_000),
    Network("lenet5 dense 8 bits", "lenet5-mnist", False,
            LayerPolicy(bits=8, bias_bits=8), order=DENSE, samples=10_000),
)  # fmt: skip


def artifact_of(network: Network, folder: Path) -> Artifact:
    """What the network's file holds; trains it unless the folder has it."""
    path = folder / f"{network.name.replace(' ', '-').replace('%', 'pct')}.packed"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"training {network.name}", file=sys.stderr)
        path.write_bytes(trained(network))
    return decode(path.read_bytes())


def trained(network: Network) -> bytes:
    """Return the file of the trained and compressed network."""
    from evaluators import tasks
    from evaluators.messages import WorkerContext
    from spaces import Failure

    with tempfile.TemporaryDirectory() as folder:
        context = WorkerContext(network.workload, "m1", "packed", folder, "cpu")
        tasks.setup(context)
        profile = tasks.make_profile().profile
        tasks.setup(replace(context, profile=profile))
        layers = tuple(
            (layer.name, replace(network.everywhere, sparsity=network.sparsity[layer.name]))
            if layer.name in network.sparsity
            else (layer.name, network.everywhere)
            for layer in profile.layers
        )
        policy = Policy(network.order, layers)
        identity = Identity(network.workload, "packed", policy.digest, network.samples, 0, 0)
        found = tasks.evaluate(identity, policy)
        if isinstance(found, Failure):
            raise SystemExit(f"{network.name}: {found}")
        print(f"{network.name}: {found.size_bytes} bytes, {found.metric:.4f}", file=sys.stderr)
        (path,) = Path(folder).glob(f"**/{found.sha256}*")
        return path.read_bytes()
