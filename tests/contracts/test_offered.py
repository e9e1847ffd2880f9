"""Whatever a target's space offers is written exactly, or is a failure with layer and reason.

Every choice of every knob occurs, in policies that pair them at random. The worker compares each
file's weights with the network it trained, bit for bit, and lets the checker look for what was
asked; so a measurement here is a policy that was kept to the letter.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evaluators.cost.targets import list_targets, load_target
from evaluators.formats import choose_format
from search.session import capabilities_of
from spaces import Failure, Measurement, Policy, SearchSpace, build_space
from tests import networks
from tests.evaluators.backends.conftest import Bench


class Place:
    """A tiny network on a target, in the target's own format."""

    def __init__(self, target_name: str, folder: Path) -> None:
        target = load_target(target_name)
        chosen, why = choose_format(None, target)
        if why:
            pytest.skip(why)
        self.bench = Bench(networks.name("conv"), folder, target_name, chosen)
        self.space, self.names = self._space(replace(target, artifact_format=chosen))

    def _space(self, target: object) -> tuple[SearchSpace, set[str]]:
        profile = self.bench.worker.profile
        can, _ = capabilities_of(profile, target, fidelity=0)  # type: ignore[arg-type]
        return build_space(profile, can), {layer.name for layer in profile.layers}

    def holds_or_says_why(self, policy: Policy) -> Measurement | Failure:
        outcome = self.bench.outcome(policy, fidelity=0)
        if isinstance(outcome, Failure):
            assert outcome.layer in self.names, str(outcome)
            assert outcome.stage != "evaluate", f"not expected by any code: {outcome}"
            assert outcome.reason
        else:
            assert outcome.size_bytes == sum(line.size_bytes for line in outcome.ledger)
        return outcome


@pytest.fixture(scope="module", params=list_targets())
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(request.param, tmp_path_factory.mktemp(request.param))


def covering(space: SearchSpace) -> list[Policy]:
    """Policies in which every choice of every knob occurs."""
    rng = np.random.default_rng(0)
    count = int(space.sizes.max())
    columns = [rng.permutation(np.arange(count) % size) for size in space.sizes]
    found = [space.decode([int(i) for i in vector]) for vector in np.stack(columns, axis=1)]
    return list({policy.digest: policy for policy in found}.values())


def test_every_choice_is_written_exactly_or_refused_by_its_layer(place: Place) -> None:
    policies = covering(place.space)
    outcomes = [place.holds_or_says_why(policy) for policy in policies]
    kept = sum(isinstance(outcome, Measurement) for outcome in outcomes)
    # What is refused is refused in few words; what the space is for must work.
    assert kept >= 0.9 * len(policies), [str(o) for o in outcomes if isinstance(o, Failure)]


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_policy_of_the_space(place: Place, data: st.DataObject) -> None:
    vector = [data.draw(st.integers(0, int(size) - 1)) for size in place.space.sizes]
    place.holds_or_says_why(place.space.decode(vector))
