"""The modelled MACs are those of the network that is left when the removed channels are gone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.backends.pytorch import stages
from evaluators.backends.pytorch.channels import channel_groups, remove_channels
from evaluators.backends.pytorch.layers import compressible_layers, trace_shapes
from evaluators.backends.pytorch.profile import layer_profiles
from evaluators.backends.pytorch.student import Student, policy_failure
from evaluators.cost import layer_macs, macs
from evaluators.workloads.base import Split
from spaces import LayerPolicy, ModelProfile, Policy, Stage
from tests import networks
from tests.simulator import simulate

SAMPLE = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Branches(nn.Module):
    """A trunk, two layers beside one another that read it, and one behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(64, 32)
        self.ha, self.hb = nn.Linear(32, 32), nn.Linear(32, 32)
        self.oa, self.ob = nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        trunk = F.relu(self.trunk(images.flatten(1)))
        first, second = F.relu(self.ha(trunk)), F.relu(self.hb(trunk))
        return self.oa(first) + self.ob(second)


class Down(nn.Module):
    """A residual block whose skip connection has a layer of its own, then a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 7, 3, padding=1), nn.BatchNorm2d(7)
        self.skip = nn.Conv2d(7, 10, 1, stride=2, bias=False)
        self.one = nn.Conv2d(7, 9, 3, stride=2, padding=1)
        self.two, self.two_norm = nn.Conv2d(9, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.three, self.four = nn.Conv2d(10, 5, 1), nn.Conv2d(5, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.stem(images)))
        hidden = self.skip(hidden) + self.two_norm(self.two(F.relu(self.one(hidden))))
        hidden = F.relu(hidden)
        hidden = hidden + self.four(F.relu(self.three(hidden)))
        return self.head(hidden.mean(dim=(2, 3)))


class Joined(nn.Module):
    """What `last` reads: both sides, one and the input, one twice, or a part of one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 6, 3, padding=1)
        width = {"both": 14, "input": 9, "twice": 16, "part": 5, "dense": 8}[how]
        self.mid = nn.Conv2d(8, 6, 3, padding=1)
        self.last = nn.Conv2d(width, 4, 3, padding=1)
        self.head = nn.Linear(4 + 6 + 6, 4)

    def forward(self, images: Tensor) -> Tensor:
        a, b = F.relu(self.a(images)), F.relu(self.b(images))
        mid = F.relu(self.mid(a))
        match self.how:
            case "both":
                joined = torch.cat([a, b], 1)
            case "input":
                joined = torch.cat([a, images], 1)
            case "twice":
                joined = torch.cat([a, a], 1)
            case "part":
                joined = a[:, :5]
            case _:
                joined = a
        parts = [F.relu(self.last(joined)), b, mid]
        return self.head(torch.cat([part.mean(dim=(2, 3)) for part in parts], 1))


def make_chain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(7, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(20, 11), nn.BatchNorm1d(11), nn.ReLU(), nn.Linear(11, 4)),
    )


class Case:
    """A network with its groups and its profile."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = make().eval()
        self.groups = channel_groups(self.model, compressible_layers(self.model), SAMPLE)
        train = networks.images()[0]
        few = Split(train.inputs[:4], train.targets[:4])
        layers = layer_profiles(networks.workload(self.model, train=few), self.groups)[0]
        self.profile: ModelProfile = replace(simulate().profile, layers=layers)

    def inputs(self) -> dict[str, str]:
        return {layer.name: layer.input_group for layer in self.profile.layers}

    def asked(self, sparsity: Callable[[], float]) -> Policy:
        """Every removable group loses channels, each at a sparsity of its own."""
        layers = []
        for group in self.groups:
            if group.removable and (share := sparsity()) > 0:
                layers += [(name, LayerPolicy(share, "channel")) for name in group.layers]
        return Policy((Stage.PRUNE,), tuple(layers))

    def counted(self, policy: Policy) -> dict[str, int]:
        """What the prune stage leaves, run once without the dead channels."""
        student = Student(self.model, self.groups)
        assert policy_failure(policy, student) is None
        stages.prune_schedule(student, policy)(1, 0)
        dead = {}
        for group in self.groups:
            weight = student.layers[group.layers[0]].effective().flatten(1)
            dead[group.layers[0]] = np.flatnonzero((weight == 0).all(dim=1).numpy()).tolist()
        smaller = remove_channels(self.model, SAMPLE, dead)
        shapes = trace_shapes(smaller, compressible_layers(smaller), SAMPLE)
        return {name: shape.macs for name, shape in shapes.items()}

    def policies(self) -> list[Policy]:
        rng = np.random.default_rng(0)
        some = (0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 0.9, 0.995)
        equal = [self.asked(lambda share=share: share) for share in some]  # type: ignore[misc]
        return equal + [self.asked(lambda: float(rng.choice(some))) for _ in range(8)]


@pytest.mark.parametrize(
    "make",
    [
        networks.make_mlp,
        networks.make_conv,
        networks.make_narrow,
        make_chain,
        networks.Residual,
        Down,
        Branches,
        lambda: Joined("twice"),
        lambda: Joined("dense"),
    ],
    ids=["mlp", "conv", "narrow", "chain", "residual", "down", "branches", "twice", "dense"],
)
def test_modelled_macs_are_those_of_the_smaller_network(make: Callable[[], nn.Module]) -> None:
    case = Case(make)
    policies = case.policies()
    if isinstance(case.model, Joined):  # its head reads a concatenation: no credit there
        for policy in policies:
            modelled, counted = layer_macs(policy, case.profile), case.counted(policy)
            assert modelled.pop("head") >= counted.pop("head")
            assert modelled == counted
        return
    for policy in policies:
        assert layer_macs(policy, case.profile) == case.counted(policy), policy.canonical_json
    assert len({macs(policy, case.profile) for policy in policies}) >= 3


@pytest.mark.parametrize("how", ["both", "input", "part"])
def test_a_concatenation_or_a_part_gives_no_credit(how: str) -> None:
    case = Case(lambda: Joined(how))
    assert case.inputs() == {"a": "", "b": "", "mid": "a", "last": "", "head": ""}
    over = False
    for policy in case.policies():
        modelled, counted = layer_macs(policy, case.profile), case.counted(policy)
        assert all(modelled[name] >= counted[name] for name in modelled)
        over |= macs(policy, case.profile) > sum(counted.values())
        assert {n: modelled[n] for n in ("a", "b", "mid")} == {
            n: counted[n] for n in ("a", "b", "mid")
        }
    assert over  # something was pruned in front of it


def test_parallel_layers_read_the_trunk_not_one_another() -> None:
    case = Case(Branches)
    assert case.inputs() == {"trunk": "", "ha": "trunk", "hb": "trunk", "oa": "ha", "ob": "hb"}
    policy = Policy((Stage.PRUNE,), (("ha", LayerPolicy(0.9, "channel")),))
    found = layer_macs(policy, case.profile)
    assert found == {"trunk": 64 * 32, "ha": 32 * 3, "hb": 32 * 32, "oa": 3 * 4, "ob": 32 * 4}


def test_a_residual_net_reads_its_coupled_group() -> None:
    inputs = Case(Down).inputs()
    assert inputs == {
        "stem": "",
        "skip": "stem",
        "one": "stem",
        "two": "one",
        "three": "skip",
        "four": "three",
        "head": "skip",
    }


def test_a_grouped_convolution_reads_no_group() -> None:
    case = Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()),
            *(nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 4)),
        )
    )
    assert [layer.can_prune_channels for layer in case.profile.layers] == [False] * 5
    assert case.inputs()["2"] == case.inputs()["5"] == ""
