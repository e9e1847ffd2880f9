"""The opening of a search, the arithmetic behind it, and the filter on what follows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.cost import SizeModel, load_target, modelled_latency
from search.proposers.base import Proposal
from search.proposers.filter import BudgetFilter
from search.proposers.optuna_samplers import OptunaProposer
from search.proposers.references import REFERENCE_NAMES
from search.proposers.sensitivity import Damage, strength
from search.proposers.warm import (
    DEFAULT_ORDER,
    OTHER_ORDERS,
    RUNGS,
    Allocation,
    WarmProposer,
    binding_limit,
    ladder,
    nearest_policy,
    spread,
    warm_policies,
)
from spaces import (
    Budget,
    LayerPolicy,
    Policy,
    Sensitivity,
    Stage,
    Trial,
    build_space,
    format_order,
)
from spaces.policy import CRITERIA
from spaces.search_space import CLUSTERS, SPARSITIES
from tests.simulator import CAPABILITIES, Simulator, simulate

M1 = replace(load_target("m1"), artifact_format="packed")
SIM = simulate(layers=4)
MODEL = SizeModel(SIM.profile)


class RandomInner:
    """The simplest inner proposer."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim

    def propose(
        self, history: Sequence[Trial], running: Sequence[Policy], count: int
    ) -> list[Proposal]:
        rng = np.random.default_rng([len(history), len(running)])
        return [Proposal(self.sim.space.sample(rng), "random") for _ in range(count)]


def proposer(sim: Simulator = SIM, target: Any = M1, **settings: Any) -> WarmProposer:
    return WarmProposer(
        sim.space,
        sim.judge,
        target,
        CAPABILITIES,
        inner=RandomInner(sim),
        budget_filter=BudgetFilter(sim.judge, target),
        **settings,
    )


def opening(sim: Simulator = SIM, target: Any = M1) -> tuple[Policy, ...]:
    limit_bytes = sim.budget.size_bytes
    return warm_policies(sim.space, sim.judge, target, SizeModel(sim.profile), limit_bytes)


RESTRICTIONS: list[dict[str, Any]] = [
    {},
    {"order": ["quantize", "prune>quantize"]},
    {"order": ["prune"]},
    {"order": ["cluster>prune"], "distillation": {"kind": "none"}},
    {"layers": {"fc*": {"sparsity": {"min": 0.5, "max": 0.9}, "bits": 4}}},
    {"layers": {"*": {"clusters": [3, 5], "pattern": "channel"}}, "granularity": "channel"},
    {"layers": {"fc2": {"sparsity": "drop"}}, "scheme": "asymmetric"},
]


class TestWarmPolicies:
    @pytest.mark.parametrize("restrictions", RESTRICTIONS)
    def test_distinct_and_in_the_space(self, restrictions):
        # "out" cannot lose channels, so it cannot be restricted to them.
        if restrictions.get("layers", {}).get("*", {}).get("pattern"):
            rule = restrictions["layers"]["*"]
            restrictions = {**restrictions, "layers": {"fc*": rule}}
        sim = simulate(layers=3, restrictions=restrictions)
        found = opening(sim)
        assert found
        assert all(sim.space.contains(policy) for policy in found)
        assert len({policy.digest for policy in found}) == len(found)

    @pytest.mark.parametrize("layers", [1, 3, 6])
    def test_at_about_the_sizes_of_the_ladder(self, layers):
        sim = simulate(layers=layers)
        model = SizeModel(sim.profile)
        rungs = ladder(sim.profile, sim.budget.size_bytes)
        sizes = sorted(model.predict_bytes(policy) for policy in opening(sim))
        if layers > 1:
            assert len({round(size) for size in sizes}) >= RUNGS - 1
            assert min(sizes) < 1.5 * rungs[-1]

    def test_the_first_is_feasible_and_different_in_size_from_the_second(self):
        first, second = (SIM.measure(policy) for policy in opening()[:2])
        assert max(SIM.judge.violations(first).values()) <= 0
        assert first.size_bytes > 3 * second.size_bytes

    def test_far_better_than_as_many_random_policies(self):
        for seed in range(3):
            sim = simulate(layers=4, seed=seed)
            warm = [sim.trial(i, policy) for i, policy in enumerate(opening(sim))]
            random = sim.random_trials(5 * len(warm))
            assert sim.judge.hypervolume(warm) > 1.5 * sim.judge.hypervolume(random)

    def test_other_orders_are_tried(self):
        orders = {format_order(policy.order) for policy in opening(simulate(layers=6))}
        assert len(orders & set(OTHER_ORDERS.values())) >= 2
        assert DEFAULT_ORDER in orders

    def test_some_are_faster_where_that_is_modelled(self):
        untouched = modelled_latency(Policy(), SIM.profile, M1).median_ms
        latencies = [modelled_latency(p, SIM.profile, M1).median_ms for p in opening()]
        assert min(latencies) < 0.8 * untouched

    def test_the_fast_ones_leave_a_layer_in_floats_where_integers_are_slower(self):
        target = replace(load_target("x86"), is_this_machine=False)
        sim = simulate(layers=6)

        def fast_bits(name, target):
            policies = warm_policies(sim.space, sim.judge, target, SizeModel(sim.profile), None)
            fast = [p for p in policies if p.activation_bits == 8]
            assert fast
            return {policy.layer(name).bits for policy in fast}

        assert fast_bits("conv1", target) == {16}
        assert fast_bits("conv2", target) == {7}
        assert fast_bits("conv2", replace(target, int8_weight_bits=8)) == {8}
        assert fast_bits("conv1", replace(target, int8_shallow_ratio=None)) == {7}

    def test_a_latency_budget_brings_the_fast_ones_forward(self):
        limit = 0.8 * modelled_latency(Policy(), SIM.profile, M1).median_ms
        sim = simulate(layers=4, budget=Budget(size_bytes=200_000, latency_ms=limit))
        second = opening(sim)[1]
        assert modelled_latency(second, sim.profile, M1).median_ms <= limit

    def test_without_a_scan_the_weights_decide(self):
        layers = tuple(replace(layer, sensitivity=()) for layer in SIM.profile.layers)
        profile = replace(SIM.profile, layers=layers)
        judge = replace(SIM.judge, profile=profile)
        space = build_space(profile, CAPABILITIES)
        assert len(warm_policies(space, judge, M1, SizeModel(profile), None)) >= RUNGS - 1

    def test_the_same_every_time(self):
        assert [p.digest for p in opening()] == [p.digest for p in opening()]


class TestArithmetic:
    def test_ladder_falls_below_the_budget(self):
        rungs = ladder(SIM.profile, 100_000)
        assert rungs[0] == pytest.approx(95_000)
        assert list(rungs) == sorted(rungs, reverse=True)
        assert len(rungs) == RUNGS

    def test_a_tiny_budget_has_a_short_ladder(self):
        rungs = ladder(SIM.profile, 1_000)
        assert rungs[0] == pytest.approx(950)
        assert rungs[-1] == pytest.approx(0.3 * 950)

    def test_without_a_budget_the_ladder_starts_at_a_quarter(self):
        assert ladder(SIM.profile, None)[0] == SIM.profile.baseline_size_bytes / 4

    def test_spread(self):
        assert spread(10)[:4] == [0, 9, 4, 2]
        assert sorted(spread(10)) == list(range(10))
        assert spread(1) == [0]

    @given(st.floats(2_000, 300_000), st.floats(2_000, 300_000))
    def test_a_smaller_aim_never_makes_a_larger_file(self, one, other):
        allocation = ALLOCATION
        small, large = (self._size(allocation.at(size)) for size in sorted((one, other)))
        assert small <= large + 1e-6

    @given(st.floats(8_000, 300_000))
    def test_the_aim_is_kept(self, size_bytes):
        assert self._size(ALLOCATION.at(size_bytes)) <= size_bytes + 1e-6

    def test_no_single_change_is_better(self):
        """At a corner of the hull, whatever is smaller for one layer is more harmful."""
        layers = ALLOCATION.at(30_000)
        for layer in SIM.profile.layers:
            damage, asked = Damage(layer), layers[layer.name]
            here = MODEL.layer(layer, asked).total_bytes
            for sparsity in SPARSITIES:
                for clusters in CLUSTERS[1:]:
                    other = LayerPolicy(sparsity, "element", clusters, 8, asked.bias_bits)
                    if MODEL.layer(layer, other).total_bytes < here - 1e-6:
                        assert damage(other) >= damage(asked) - 1e-9

    @staticmethod
    def _size(layers: dict[str, LayerPolicy]) -> float:
        policy = Policy((Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE), tuple(layers.items()))
        return MODEL.predict_bytes(policy)

    def test_nearest_policy_of_a_policy_of_the_space_is_itself(self):
        policy = Policy((Stage.PRUNE,), (("fc1", LayerPolicy(0.9)),))
        wanted = {"order": "prune", "fc1:sparsity": 0.9}
        assert nearest_policy(SIM.space, wanted) == policy

    def test_nearest_choices(self):
        policy = nearest_policy(
            SIM.space,
            {"order": "cluster>prune>quantize", "fc1:sparsity": 0.91, "fc1:clusters": 14}
            | {"fc1:bits": 9, "fc2:clusters": 1000},
        )
        assert policy.layer("fc1") == LayerPolicy(0.9, "element", 16, 8)
        assert policy.layer("fc2").clusters == 256
        assert format_order(policy.order) == "cluster>prune>quantize"

    def test_the_order_that_agrees_most_is_taken(self):
        space = simulate(restrictions={"order": ["quantize>prune", "prune>quantize"]}).space
        wanted = {"order": "prune>distill>cluster>quantize", "fc1:sparsity": 0.5, "fc1:bits": 8}
        assert format_order(nearest_policy(space, wanted).order) == "prune>quantize"


ALLOCATION = Allocation(SIM.space, MODEL, (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE))


class TestDamage:
    @given(st.lists(st.floats(-0.01, 12.0), min_size=1, max_size=5))
    def test_harm_rises_with_the_treatment_and_never_levels_off(self, losses):
        scan = tuple(
            Sensitivity("sparsity", value, loss)
            for value, loss in zip((0.5, 0.8, 0.9, 0.95, 0.98), losses, strict=False)
        )
        damage = Damage(replace(SIM.profile.layers[0], sensitivity=scan))
        harm = [damage(LayerPolicy(sparsity)) for sparsity in SPARSITIES]
        assert harm[0] == 0
        assert np.all(np.diff(harm) > 0)
        x = np.array([strength("sparsity", sparsity) for sparsity in SPARSITIES])
        slopes = np.diff(harm) / np.diff(x)
        # The tie-break by energy is worth 0.02 at most.
        assert np.all(np.diff(slopes) > -0.1)

    def test_fewer_clusters_and_bits_harm_more(self):
        damage = Damage(SIM.profile.layers[0])
        clusters = [damage(LayerPolicy(clusters=k)) for k in CLUSTERS]
        bits = [damage(LayerPolicy(bits=b)) for b in (32, 16, 8, 6, 4, 3, 2)]
        assert clusters == sorted(clusters)
        assert bits == sorted(bits)
        assert clusters[0] == bits[0] == 0

    def test_entries_of_a_codebook_cost_nothing(self):
        damage = Damage(SIM.profile.layers[0])
        assert damage(LayerPolicy(clusters=4, bits=8)) == damage(LayerPolicy(clusters=4))


class TestFilter:
    def budget(self, **limits: Any) -> BudgetFilter:
        return BudgetFilter(replace(SIM.judge, budget=Budget(**limits)), M1)

    @pytest.mark.parametrize("limit", [5_000, 40_000, 200_000])
    @pytest.mark.parametrize("ratio", [0.75, 1.0])
    def test_never_rejects_what_is_within_the_budget_when_the_model_is_right(self, limit, ratio):
        """Real bytes = ratio x prediction x up to 10 % either way."""
        rng = np.random.default_rng(0)

        def sized(number: int, policy: Policy) -> Trial:
            size = round(MODEL.predict_bytes(policy) * ratio * rng.uniform(0.92, 1.08))
            measurement = replace(SIM.measure(policy), size_bytes=size, download_bytes=size)
            return replace(SIM.trial(number, policy), outcome=measurement)

        trials = [sized(i, SIM.space.sample(rng)) for i in range(400)]
        for seen in (0, 10, 100):
            checked = self.budget(size_bytes=limit)
            checked.update(trials[:seen])
            rejected = [t for t in trials[100:] if not checked.accept(t.policy)]
            fitting = [t for t in rejected if t.measurement.size_bytes <= limit]
            assert rejected
            assert not fitting

    def test_says_why(self):
        assert "size at least" in self.budget(size_bytes=100).reason(Policy())
        assert "download at least" in self.budget(download_bytes=100).reason(Policy())
        assert "latency" in self.budget(latency_ms=1e-6).reason(Policy())
        assert self.budget(size_bytes=10**9, latency_ms=10.0).reason(Policy()) == ""

    def test_the_baseline_keeps_its_own_latency(self):
        own = modelled_latency(Policy(), SIM.profile, M1).median_ms
        assert self.budget(latency_ms=own).accept(Policy())

    def test_a_measured_latency_is_never_predicted(self):
        judge = replace(SIM.judge, budget=Budget(latency_ms=1e-6))
        assert BudgetFilter(judge, load_target("host")).accept(Policy())

    def test_another_history_is_forgotten(self):
        policy = SIM.space.sample(np.random.default_rng(1))
        fresh, used = self.budget(size_bytes=1000), self.budget(size_bytes=1000)
        used.update(SIM.random_trials(20))
        used.update(())
        assert used.size.predict(policy) == fresh.size.predict(policy)


class TestWarmProposer:
    def test_references_then_warm_then_the_inner_proposer(self):
        made = proposer()
        proposals = made.propose([], [], 40)
        origins = [p.origin for p in proposals]
        fp16, int8, sparse, deep, classic = (f"reference: {name}" for name in REFERENCE_NAMES)
        # Those that may keep the budget first.
        assert origins[: len(REFERENCE_NAMES)] == [sparse, deep, classic, fp16, int8]
        assert origins[len(REFERENCE_NAMES)] == "warm start"
        assert origins[len(made.opening) :] == ["random"] * (40 - len(made.opening))
        assert made.left_out == ()

    def test_what_runs_or_finished_is_not_proposed_again(self):
        first = proposer().propose([], [], 5)
        history = [SIM.trial(i, p.policy) for i, p in enumerate(first[:3])]
        running = [p.policy for p in first[3:]]
        again = proposer().propose(history, running, 4)
        assert not {p.policy.digest for p in first} & {p.policy.digest for p in again}

    @pytest.mark.parametrize(("seen", "count"), [(0, 3), (3, 6), (10, 4), (16, 2), (30, 1)])
    def test_a_new_instance_goes_on_where_another_stopped(self, seen, count):
        used = proposer()
        history: list[Trial] = []
        while len(history) < seen:
            proposal = used.propose(history, [], 1)[0]
            history.append(SIM.trial(len(history), proposal.policy))
        used.propose(history, [], 7)
        assert proposer().propose(history, [], count) == used.propose(history, [], count)

    def test_the_opening_is_proposed_unless_trials_rule_it_out(self):
        made = proposer()
        history = [SIM.trial(i, p.policy) for i, p in enumerate(made.opening[:5])]
        proposals = made.propose(history, [], len(made.opening))
        checked = BudgetFilter(SIM.judge, M1)
        checked.update(history)
        left = [p for p in made.opening[5:] if checked.accept(p.policy)]
        assert proposals[: len(left)] == left

    def test_references_are_tried_even_over_budget(self):
        sim = simulate(layers=4, budget=Budget(size_bytes=500))
        origins = [p.origin for p in proposer(sim).propose([], [], 4)]
        assert all(origin.startswith("reference") for origin in origins)

    def test_a_budget_no_policy_can_keep_leaves_the_inner_proposer(self):
        sim = simulate(layers=4, budget=Budget(size_bytes=200))
        origins = {p.origin for p in proposer(sim).propose([], [], 20)}
        assert "warm start" not in origins
        assert "random" in origins

    def test_references_outside_of_a_restricted_space_are_named(self):
        sim = simulate(layers=3, restrictions={"order": ["prune>quantize", "quantize"]})
        made = proposer(sim)
        assert [name for name, _ in made.left_out] == list(REFERENCE_NAMES[3:])
        assert all(sim.space.contains(p.policy) for p in made.opening)

    def test_without_a_teacher_distillation_is_not_proposed(self):
        """As at fidelity 0, and for networks whose outputs are no class scores."""
        without = replace(CAPABILITIES, distillation_kinds=frozenset({"none"}))
        space = build_space(SIM.profile, without)
        checked = BudgetFilter(SIM.judge, M1)
        made = WarmProposer(
            space, SIM.judge, M1, without, inner=RandomInner(SIM), budget_filter=checked
        )
        assert all(Stage.DISTILL not in p.policy.order for p in made.opening)
        assert len(made.opening) > len(REFERENCE_NAMES)

    def test_a_plain_sampler_gets_the_references_only(self):
        made = proposer(warm_start=False)
        fp16, int8, sparse, deep, classic = (f"reference: {name}" for name in REFERENCE_NAMES)
        assert [p.origin for p in made.opening] == [sparse, deep, classic, fp16, int8]

    def test_it_goes_on_with_optuna(self):
        def made() -> WarmProposer:
            checked = BudgetFilter(SIM.judge, M1)
            inner = OptunaProposer("tpe", SIM.space, SIM.judge, 1, accept=checked.accept)
            return WarmProposer(
                SIM.space, SIM.judge, M1, CAPABILITIES, inner=inner, budget_filter=checked
            )

        history = [SIM.trial(i, p.policy) for i, p in enumerate(made().opening)]
        proposals = made().propose(history, [], 2)
        assert all(p.origin.startswith("tpe") for p in proposals)
        assert [p.policy for p in made().propose(history, [], 2)] == [p.policy for p in proposals]


class TestBudgetsThatMayBeOutOfReach:
    """The certificate needs to know where the metric returns."""

    def opening(self, size_bytes: int) -> list[Proposal]:
        sim = simulate(layers=4, budget=Budget(size_bytes=size_bytes))
        return proposer(sim).propose([], [], 100)

    def test_scouts_run_beyond_a_tight_budget(self) -> None:
        tight = round(0.002 * SIM.profile.baseline_size_bytes)
        proposals = self.opening(tight)
        scouts = [p.policy for p in proposals if p.origin == "beyond the budget"]
        sizes = [SizeModel(SIM.profile).predict_bytes(policy) for policy in scouts]
        assert len(scouts) >= 2
        assert min(sizes) > tight
        assert len(set(sizes)) == len(sizes)

    def test_an_ordinary_budget_has_none(self) -> None:
        proposals = self.opening(SIM.profile.baseline_size_bytes // 4)
        assert not [p for p in proposals if p.origin == "beyond the budget"]


class TestCriterion:
    """Rungs are pruned by the best criterion known, where there is a choice."""

    def rungs(self, criteria: frozenset[str]) -> list[Policy]:
        space = build_space(SIM.profile, replace(CAPABILITIES, criteria=criteria))
        policies = warm_policies(space, SIM.judge, M1, SizeModel(SIM.profile), None)
        return [
            policy
            for policy in policies
            if any(x.sparsity > 0 and x.pattern == "element" for _, x in policy.layers)
        ]

    def test_it_is_regrow_rate_where_the_space_offers_it(self) -> None:
        rungs = self.rungs(frozenset(CRITERIA))
        assert len(rungs) >= 5
        assert {policy.criterion for policy in rungs} == {"regrow-rate"}

    def test_it_is_magnitude_elsewhere(self) -> None:
        rungs = self.rungs(frozenset({"magnitude"}))
        assert len(rungs) >= 5
        assert {policy.criterion for policy in rungs} == {"magnitude"}


class TestFormatsThatStoreZeros:
    """A Core ML package pays for every zero, so its small files have fewer channels."""

    M1 = replace(load_target("m1"), artifact_format="mlpackage")

    #: Halves and a graph.
    PROFILE = replace(SIM.profile, baseline_size_bytes=SIM.profile.fp32_bytes // 2 + 5000)
    SPACE = build_space(PROFILE, CAPABILITIES)

    def opening(self, budget: Budget) -> tuple[SizeModel, list[Proposal]]:
        judge = replace(SIM.judge, budget=budget, profile=self.PROFILE)
        checked = BudgetFilter(judge, self.M1)
        made = WarmProposer(
            self.SPACE, judge, self.M1, CAPABILITIES, inner=RandomInner(SIM), budget_filter=checked
        )
        return checked.model, made.propose([], [], len(made.opening))

    def test_the_ladder_goes_on_by_channel_where_single_zeros_end(self) -> None:
        model, proposals = self.opening(Budget())
        rungs = [p.policy for p in proposals if p.origin == "warm start"]
        sizes = {
            pattern: [
                model.predict_bytes(policy)
                for policy in rungs
                if any(x.pattern == pattern and x.sparsity > 0 for _, x in policy.layers)
            ]
            for pattern in ("element", "channel")
        }
        smallest = {
            pattern: Allocation(self.SPACE, model, Stage, pattern).smallest_bytes
            for pattern in ("element", "channel")
        }
        assert smallest["channel"] < smallest["element"] / 2
        assert min(sizes["element"]) > smallest["element"]
        assert min(sizes["channel"]) < smallest["element"]
        assert min(sizes["channel"]) >= smallest["channel"]
        assert len(rungs) >= RUNGS - 2

    def test_scouts_run_though_rungs_are_the_same_policies(self) -> None:
        model, proposals = self.opening(Budget(size_bytes=100))
        scouts = [p.policy for p in proposals if p.origin == "beyond the budget"]
        assert len(scouts) >= 2
        assert min(model.predict_bytes(policy) for policy in scouts) > 100


@pytest.mark.parametrize(
    ("budget", "is_download"),
    [
        (Budget(download_bytes=40_000), True),
        (Budget(size_bytes=40_000), False),
        (Budget(size_bytes=40_000, download_bytes=40_000), False),
        (Budget(size_bytes=310_000, download_bytes=20_000), True),
        (Budget(size_bytes=45_000, download_bytes=40_000), False),
    ],
)
def test_the_ladder_aims_at_the_limit_that_asks_more(budget: Budget, is_download: bool) -> None:
    """A download of 40 KB is a larger file in flash: aiming at 40 KB there would ask too much."""
    sim = simulate(layers=4, budget=budget)
    pixel = replace(load_target("pixel"), artifact_format="tflite")
    sizes = BudgetFilter(sim.judge, pixel)
    model, limit_bytes = binding_limit(sim.space, sizes)
    assert model is (sizes.download_model if is_download else sizes.model)
    assert limit_bytes == (budget.download_bytes if is_download else budget.size_bytes)
    first = next(p for p in proposer(sim, pixel).opening if p.origin == "warm start").policy
    for other, most in sizes.byte_limits:
        assert other.predict_bytes(first) <= most
    assert model.predict_bytes(first) > 0.7 * limit_bytes


def test_no_limit_on_bytes_binds_nothing() -> None:
    sim = simulate(layers=4, budget=Budget(latency_ms=1.0))
    sizes = BudgetFilter(sim.judge, M1)
    assert binding_limit(sim.space, sizes) == (sizes.model, None)
