"""Forecasts of vectors are, to the last digit, what is said of the policies they decode to."""

import dataclasses

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evaluators.cost import SizeModel, file_kind, modelled_latency, size_model
from evaluators.cost.targets import load_target
from search.proposers import forecast
from search.proposers.filter import BudgetFilter
from search.proposers.forecast import Forecast
from search.proposers.surrogate import Features
from spaces import ACCURACY, Budget, Figure, Judge, ModelProfile, SearchSpace, Target
from tests.simulator import Simulator, simulate
from tests.strategies.spaces import capabilities, profiles, restrictions, try_build, vectors

TARGETS = [load_target(name) for name in ("m1", "host", "x86")]
TARGETS.append(
    dataclasses.replace(
        TARGETS[0],
        call_overhead_us=Figure(7.0, "assumed"),
        output_element_ns=Figure(2.0, "assumed"),
    )
)


def forecaster(space: SearchSpace, profile: ModelProfile, target: Target) -> Forecast:
    judge = Judge(ACCURACY, Budget(), profile)
    models = size_model(profile, target.artifact_format), SizeModel(profile)
    return Forecast(space, target, models, Features(judge))


def check(space: SearchSpace, profile: ModelProfile, target: Target, rows: np.ndarray) -> None:
    found = forecaster(space, profile, target).of(rows)
    policies = [space.decode([int(i) for i in row]) for row in rows]
    model = size_model(profile, target.artifact_format)
    features = Features(Judge(ACCURACY, Budget(), profile))
    assert found.works.tolist() == [bool(p.order) for p in policies]
    for sizes, by in ((found.size, model), (found.download, SizeModel(profile))):
        assert sizes.closed_form_bytes.tolist() == [by.predict_bytes(p) for p in policies]
        assert sizes.kinds.tolist() == [file_kind(by, p) for p in policies]
    expected_ms = [modelled_latency(p, profile, target).median_ms for p in policies]
    assert found.latency_ms.tolist() == expected_ms
    np.testing.assert_array_equal(found.features, features.of(policies))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_space_and_profile(data: st.DataObject) -> None:
    drawn = data.draw(profiles())
    # The strategy's scans hold values that no scan looks at, such as a sparsity of 28.
    layers = tuple(dataclasses.replace(layer, sensitivity=()) for layer in drawn.layers)
    profile = dataclasses.replace(drawn, layers=layers)
    space = try_build(profile, data.draw(capabilities()), data.draw(restrictions()))
    assume(space is not None)
    assert space is not None
    rows = np.array(data.draw(st.lists(vectors(space), min_size=1, max_size=5)))
    check(space, profile, data.draw(st.sampled_from(TARGETS)), rows)


def test_many_vectors_of_the_simulated_network_with_coupled_layers() -> None:
    sim = simulate(6)
    coupled = dataclasses.replace(sim.profile, channel_groups=(("conv1", "conv2"),))
    for profile in (sim.profile, coupled):
        space = SearchSpace(sim.space.knobs, profile)
        rows = np.random.default_rng(0).integers(0, space.sizes, size=(400, len(space)))
        check(space, profile, TARGETS[0], rows)


def test_what_was_forgotten_is_computed_again() -> None:
    sim = simulate(3)
    made = forecaster(sim.space, sim.profile, TARGETS[0])
    rows = np.random.default_rng(1).integers(0, sim.space.sizes, size=(50, len(sim.space)))
    first = made.of(rows)
    made._forget()
    assert not any(layer.by_code for layer in made._layers)
    again = made.of(rows[::-1])
    np.testing.assert_array_equal(again.features[::-1], first.features)
    assert all(layer.by_code for layer in made._layers)
    assert forecast.MOST_REMEMBERED > 10_000


def accepted_both_ways(sim: Simulator, target: Target) -> tuple[list[bool], list[bool]]:
    budget_filter = BudgetFilter(sim.judge, target)
    budget_filter.update(sim.random_trials(40))
    rows = np.random.default_rng(2).integers(0, sim.space.sizes, size=(300, len(sim.space)))
    found = forecaster(sim.space, sim.profile, target).of(rows)
    many = budget_filter.accepted(found.size, found.download, found.latency_ms)
    one_by_one = [budget_filter.accept(sim.space.decode([int(i) for i in row])) for row in rows]
    return many.tolist(), one_by_one


def test_the_filter_says_the_same_of_many_as_of_each() -> None:
    latency_ms = 0.9 * modelled_latency_ms(simulate(5), TARGETS[0])
    for budget in (
        Budget(size_bytes=30_000),
        Budget(download_bytes=20_000),
        Budget(latency_ms=latency_ms),
        Budget(size_bytes=60_000, latency_ms=latency_ms),
    ):
        for target in TARGETS[:2]:
            many, one_by_one = accepted_both_ways(simulate(5, budget=budget), target)
            assert many == one_by_one
            is_limit_seen = not (target.is_this_machine and budget.size_bytes is None)
            if is_limit_seen and budget.download_bytes is None:
                assert 0 < sum(many) < len(many)


def modelled_latency_ms(sim: Simulator, target: Target) -> float:
    rows = np.random.default_rng(2).integers(0, sim.space.sizes, size=(300, len(sim.space)))
    return float(np.median(forecaster(sim.space, sim.profile, target).of(rows).latency_ms)) / 0.9
