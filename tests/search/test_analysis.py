"""Analysis of finished trials, against brute force and cases known by construction."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.analysis import (
    LEAST_TRIALS,
    failures_by_reason,
    importance,
    knee,
    knob_value,
    order_table,
    price_of_kb,
    progress,
)
from spaces import Budget, Failure, Front, Policy, Trial
from tests.simulator import FIDELITY, FULL_FIDELITY, simulate

SIM = simulate(layers=4, budget=Budget(size_bytes=500_000, max_drop=0.1))
TRIALS = SIM.random_trials(150)


def renumbered(trials: list[Trial]) -> list[Trial]:
    return [replace(trial, number=number) for number, trial in enumerate(trials)]


class TestImportance:
    def test_finds_the_knob_that_decides(self):
        """Trials whose loss depends on one knob alone, at a size that depends on another."""
        found = []
        for trial in TRIALS:
            sparsity = trial.policy.layer("fc2").sparsity
            measurement = replace(
                trial.measurement,
                metric=0.9 - 0.1 * sparsity,
                size_bytes=1000 if trial.policy.layer("fc1").pattern == "element" else 2000,
            )
            found.append(replace(trial, outcome=measurement))
        rows = {row.knob: row for row in importance(found, SIM.space, SIM.judge)}
        assert next(iter(rows)) == "fc2:sparsity"
        assert rows["fc2:sparsity"].on_loss > 0.9
        assert rows["fc1:pattern"].on_size == pytest.approx(1.0)
        assert rows["fc1:bias_bits"].on_loss < 0.1

    def test_noise_has_no_importance(self):
        rng = np.random.default_rng(0)
        found = [
            replace(
                trial,
                outcome=replace(
                    trial.measurement,
                    metric=float(rng.uniform(0.8, 0.9)),
                    size_bytes=int(rng.integers(1000, 2000)),
                ),
            )
            for trial in TRIALS
        ]
        rows = importance(found, SIM.space, SIM.judge)
        assert np.median([row.on_loss for row in rows]) < 0.02

    def test_shares_are_shares_and_every_open_knob_has_a_row(self):
        rows = importance(TRIALS, SIM.space, SIM.judge)
        assert {row.knob for row in rows} == {k.name for k in SIM.space.knobs if len(k.choices) > 1}
        assert all(0 <= share <= 1 for row in rows for share in (row.on_loss, row.on_size))
        assert [row.on_loss for row in rows] == sorted((r.on_loss for r in rows), reverse=True)

    def test_a_stages_knobs_count_where_the_stage_ran(self):
        ran = sum("prune" in trial.policy.order for trial in TRIALS)
        rows = {row.knob: row for row in importance(TRIALS, SIM.space, SIM.judge)}
        assert rows["fc1:sparsity"].trials == ran
        assert rows["order"].trials == len(TRIALS)

    def test_the_order_of_trials_does_not_matter(self):
        rows = importance(TRIALS, SIM.space, SIM.judge)
        for one, other in zip(rows, importance(TRIALS[::-1], SIM.space, SIM.judge), strict=True):
            assert one.on_loss == pytest.approx(other.on_loss)

    def test_too_few_trials_say_nothing(self):
        assert importance(TRIALS[: LEAST_TRIALS - 1], SIM.space, SIM.judge) == ()

    def test_equal_trials_have_nothing_to_explain(self):
        rows = importance([TRIALS[0]] * 20, SIM.space, SIM.judge)
        assert all(row.on_loss == row.on_size == 0 for row in rows)

    def test_knob_values_are_those_of_the_space(self):
        for trial in TRIALS[:30]:
            decoded = SIM.space.decode(SIM.space.encode(trial.policy))
            for knob in SIM.space.knobs:
                value = knob_value(decoded, knob.name)
                assert value in knob.choices or knob.name == "distillation.weight"


class TestProgress:
    @settings(max_examples=25)
    @given(st.permutations(range(40)))
    def test_the_last_point_is_the_front(self, order):
        trials = [TRIALS[i] for i in order]
        last = progress(trials, SIM.judge)[-1]
        front = Front.of(trials, SIM.judge, FIDELITY)
        assert last.hypervolume == pytest.approx(front.hypervolume)
        assert last.feasible == front.feasible
        if front.members:
            assert last.smallest_bytes == front.members[0].measurement.size_bytes
            assert last.best_metric == max(t.measurement.metric for t in front.members)

    def test_every_point_is_the_front_until_then(self):
        for at, point in enumerate(progress(TRIALS[:60], SIM.judge)):
            expected = SIM.judge.hypervolume(TRIALS[: at + 1])
            assert point.hypervolume == pytest.approx(expected)

    def test_it_never_falls(self):
        points = progress(TRIALS, SIM.judge)
        volumes = [point.hypervolume for point in points]
        assert volumes == sorted(volumes)
        assert points[-1].seconds == pytest.approx(
            sum(sum(t.measurement.seconds.values()) for t in TRIALS)
        )
        assert volumes[-1] > 0

    def test_a_dominated_or_failed_trial_changes_nothing(self):
        failed = SIM.trial(150, TRIALS[0].policy, failure="no memory")
        points = progress([*TRIALS, TRIALS[0], failed], SIM.judge)
        assert points[-1].hypervolume == points[-3].hypervolume
        assert points[-1].best_metric == points[-3].best_metric
        assert points[-1].number == 150

    def test_ten_thousand_trials(self):
        """Linear in the trials: each costs one comparison with the front."""
        many = renumbered([trial for trial in TRIALS for _ in range(67)])[:10_000]
        points = progress(many, SIM.judge)
        assert len(points) == 10_000
        assert points[-1].hypervolume == pytest.approx(SIM.judge.hypervolume(TRIALS))

    def test_no_trials(self):
        assert progress([], SIM.judge) == ()


class TestOrderTable:
    def test_counts_add_up(self):
        failed = SIM.trial(150, TRIALS[0].policy, failure="no memory")
        rows = order_table([*TRIALS, failed], SIM.judge)
        front = Front.of(TRIALS, SIM.judge, FIDELITY)
        assert sum(row.trials for row in rows) == 151
        assert sum(row.failed for row in rows) == 1
        assert sum(row.feasible for row in rows) == front.feasible
        assert sum(row.on_front for row in rows) == len(front.members)
        assert sum(row.share_of_front for row in rows) == pytest.approx(1)
        best = [row.best_metric for row in rows if row.best_metric is not None]
        assert max(best) == max(t.measurement.metric for t in front.members)

    def test_nothing_feasible(self):
        sim = simulate(layers=4, budget=Budget(size_bytes=10))
        rows = order_table(sim.random_trials(10), sim.judge)
        assert all(row.best_metric is None and row.smallest_bytes is None for row in rows)
        assert all(row.share_of_front == 0 for row in rows)

    def test_several_fidelities_are_refused(self):
        other = SIM.trial(1, TRIALS[0].policy, fidelity=FULL_FIDELITY)
        with pytest.raises(ValueError, match="one fidelity at a time"):
            order_table([TRIALS[0], other], SIM.judge)

    def test_no_trials(self):
        assert order_table([], SIM.judge) == ()


def test_price_of_kb_climbs_the_front():
    steps = price_of_kb(TRIALS, SIM.judge, FIDELITY)
    assert steps
    assert all(step.gain > 0 and step.extra_bytes > 0 for step in steps)
    members = {t.number for t in Front.of(TRIALS, SIM.judge, FIDELITY).members}
    assert {s.from_trial for s in steps} | {s.to_trial for s in steps} <= members
    assert price_of_kb(TRIALS, SIM.judge, FULL_FIDELITY) == ()


def test_failures_name_each_layer_once_the_first_ones_first():
    def failed(number: int, layer: str) -> Trial:
        return replace(TRIALS[0], number=number, outcome=Failure(layer, "prune", "too small"))

    trials = [failed(3, "out"), failed(0, "fc2"), failed(2, ""), failed(1, "out"), failed(4, "fc2")]
    (group,) = failures_by_reason(trials)
    assert group.layers == ("fc2", "out")
    (nowhere,) = failures_by_reason([failed(0, "")])
    assert nowhere.layers == ()


def test_failures_by_reason():
    policy = TRIALS[0].policy
    trials = [
        SIM.trial(0, policy, failure="no memory"),
        SIM.trial(1, policy),
        SIM.trial(2, policy, failure="loss is not finite"),
        SIM.trial(3, policy, failure="no memory"),
    ]
    first, second = failures_by_reason(trials)
    assert (first.reason, first.count, first.trials) == ("cluster: no memory", 2, (0, 3))
    assert second.count == 1
    assert first.example == f"cluster {SIM.profile.layers[0].name}: no memory"
    assert failures_by_reason([trials[1]]) == ()


def test_the_knee_is_nearest_the_ideal_point() -> None:
    """The ends are best at one thing and worst at another; the middle is close to both."""
    sim = simulate()
    one = sim.trial(0, Policy())
    assert one.measurement is not None
    trials = [
        replace(one, outcome=replace(one.measurement, metric=metric, size_bytes=size))
        for metric, size in ((0.80, 1000), (0.95, 2000), (0.97, 9000))
    ]
    assert knee(trials, sim.judge) is trials[1]
    assert knee(trials[:1], sim.judge) is trials[0]
