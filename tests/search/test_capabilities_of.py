"""What a study's fidelity takes from the space."""

from evaluators.cost.targets import load_target
from search.session import capabilities_of
from spaces.policy import CRITERIA
from tests.simulator import simulate


def test_without_training_there_is_no_choice_of_criterion() -> None:
    profile, target = simulate(3).profile, load_target("m1")
    trained, _ = capabilities_of(profile, target, 1000)
    untrained, _ = capabilities_of(profile, target, 0)
    assert trained.criteria == set(CRITERIA)
    assert untrained.criteria == {"magnitude"}
    assert untrained.distillation_kinds == {"none"}
