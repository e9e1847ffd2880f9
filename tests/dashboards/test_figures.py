import numpy as np
import pytest

from dashboards import tables
from dashboards.figures import (
    ParetoInfo,
    PolicyPanel,
    audit_info,
    draw_audit,
    draw_heatmap,
    draw_ledger,
    draw_pareto,
    draw_progress,
    heatmap_info,
    ledger_info,
    pareto_info,
    progress_info,
)
from dashboards.figures.axes import colour_scale
from dashboards.theme import DARK, LIGHT, Theme
from spaces import Front, LayerPolicy, Policy, Stage
from tests.dashboards.studies import EVIL, IMPOSSIBLE, hostile_study, study
from tests.simulator import simulate

GIVEN = study(100)
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)


def pareto(given: object = GIVEN) -> ParetoInfo:
    trials = tables.trial_table(given.trials, given.judge)
    finalists = tables.trial_table(given.finalists, given.judge)
    return pareto_info(trials, finalists, given.judge)


def test_every_finished_trial_is_in_one_layer_of_the_plot() -> None:
    info = pareto()
    drawn = [*info.front["number"], *info.dominated["number"], *info.over_budget["number"]]
    finished = [trial.number for trial in GIVEN.trials if trial.measurement is not None]
    assert sorted(drawn) == finished


def test_the_staircase_rises_and_lies_on_the_front() -> None:
    info = pareto()
    assert info.staircase_is_feasible
    assert info.staircase["size_bytes"].is_monotonic_increasing
    assert info.staircase["metric"].is_monotonic_increasing
    corners = set(zip(info.staircase["size_bytes"], info.staircase["metric"], strict=True))
    assert corners <= set(zip(info.front["size_bytes"], info.front["metric"], strict=True))


def test_the_pick_is_a_finalist_when_there_is_one() -> None:
    final = Front.of(GIVEN.finalists, GIVEN.judge, GIVEN.spec.full_fidelity)
    assert final.pick is not None
    assert list(pareto().pick["key"]) == [final.pick.identity.key]
    searched = study(100, finalists=0)
    front = Front.of(searched.trials, searched.judge, searched.spec.fidelity)
    assert front.pick is not None
    assert list(pareto(searched).pick["key"]) == [front.pick.identity.key]


def test_limits_baseline_and_references_are_in_the_first_view() -> None:
    info = pareto()
    assert info.size_limit_bytes == 250_000
    assert info.metric_limit == pytest.approx(0.885)
    for size in (info.size_limit_bytes, info.baseline_size_bytes, *info.front["size_bytes"]):
        assert info.size_range[0] < size < info.size_range[1]
    for value in (info.metric_limit, info.baseline_metric, *info.front["metric"]):
        assert info.metric_range[0] < value < info.metric_range[1]
    assert list(info.references["reference"]) == ["fp16", "uniform int8", "classic"]
    assert list(info.views) == ["front", "all trials"]
    assert info.hidden_count > 0


def test_an_unmet_budget_shows_everything_and_no_pick() -> None:
    info = pareto(study(60, budget=IMPOSSIBLE))
    assert not info.staircase_is_feasible
    assert info.pick.empty
    assert info.front.empty
    assert info.hidden_count == 0
    assert info.views == {}


@THEMES
def test_the_pareto_figure_has_its_points_error_bars_and_shading(theme: Theme) -> None:
    info = pareto()
    figure = draw_pareto(info, theme)
    drawn = [trace for trace in figure.data if (trace.name or "").startswith("front: ")]
    assert sum(len(trace.x) for trace in drawn) == len(info.front)
    assert all(len(trace.error_y.array) == len(trace.x) for trace in drawn)
    assert {trace.marker.symbol for trace in drawn}.isdisjoint({"star", "x-thin"})
    assert [shape.type for shape in figure.layout.shapes] == ["rect", "line", "rect", "line"]
    assert [trace.marker.symbol for trace in figure.data][-1] == "star"
    assert figure.layout.xaxis.type == "log"


def test_colours_span_decades_by_logarithm_and_one_value_has_a_bar() -> None:
    assert colour_scale(np.array([0.01, 0.1, 1.0])).is_log
    linear = colour_scale(np.array([0.2, 0.3]))
    assert (linear.is_log, linear.low, linear.high) == (False, 0.2, 0.3)
    single = colour_scale(np.array([0.2, 0.2]))
    assert single.low < 0.2 < single.high
    assert colour_scale(np.array([])).ticks == []


def test_the_heat_map_puts_the_policy_beside_the_baseline() -> None:
    profile = simulate(4).profile
    asked = Policy(
        order=(Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE),
        layers=(("fc1", LayerPolicy(sparsity=0.995, pattern="channel", clusters=2, bits=2)),),
    )
    panels = [
        PolicyPanel("baseline", tables.policy_table(Policy(), profile), {}),
        PolicyPanel("pick", tables.policy_table(asked, profile), {"fc1": 1000}),
    ]
    info = heatmap_info(panels)
    assert info.strength.shape == info.texts.shape == (2, 4, 5)
    assert not info.strength[0].any()
    assert info.layers[0] == "fc1"
    assert info.strength[1, 0, :3] == pytest.approx([1, 1, 1])
    assert list(info.texts[1, 0]) == ["99.5 ch", "2", "2", "32", "1"]
    assert list(info.texts[0, 0]) == ["0", "-", "32", "32", "941"]
    figure = draw_heatmap(info, LIGHT)
    assert figure.data[0].z.shape == (4, 10)


def test_the_ledger_keeps_every_byte() -> None:
    measurement = GIVEN.trials[2].measurement
    assert measurement is not None
    layers = [layer.name for layer in GIVEN.profile.layers]
    order = [f"{name}.{tensor}" for name in layers for tensor in ("weight", "bias")]
    info = ledger_info(tables.ledger_table(measurement), order)
    assert info.sizes_bytes.sum() == measurement.size_bytes
    assert info.layers == (*order, "")
    totals = info.sizes_bytes.sum(axis=0)
    assert list(totals) == sorted(totals, reverse=True)
    bars = [trace for trace in draw_ledger(info, LIGHT).data if trace.type == "bar"]
    assert sum(trace.x.sum() for trace in bars) * 1000 == pytest.approx(measurement.size_bytes)


def test_the_audit_starts_at_the_baseline() -> None:
    measurement = GIVEN.trials[2].measurement
    assert measurement is not None
    info = audit_info(
        tables.stage_table(measurement),
        tables.audit_table(measurement),
        GIVEN.spec.metric,
        GIVEN.profile.baseline_metric,
    )
    assert info.stages == ("baseline", "1 prune", "2 distill", "3 cluster", "4 quantize")
    assert info.sparsity.shape == info.distinct.shape == (4, 4)
    assert info.metric_values[0] == GIVEN.profile.baseline_metric
    assert list(info.metric_values[1:]) == [entry.metric for entry in measurement.audit]
    assert len(draw_audit(info, DARK).data) == 2 * 4 + 1


def test_progress_is_drawn_as_it_was_computed() -> None:
    progress = tables.progress_table(GIVEN.trials, GIVEN.judge)
    info = progress_info(progress, GIVEN.spec.metric, GIVEN.profile.baseline_metric)
    figure = draw_progress(info, LIGHT)
    assert list(figure.data[0].y) == list(progress["hypervolume"])


@THEMES
def test_no_text_of_a_record_is_markup_in_a_figure(theme: Theme) -> None:
    given = hostile_study()
    pick = Front.of(given.trials, given.judge, given.spec.fidelity).pick
    assert pick is not None
    measurement = pick.measurement
    assert measurement is not None
    policy = tables.policy_table(pick.policy, given.profile)
    stages, audit = tables.stage_table(measurement), tables.audit_table(measurement)
    figures = [
        draw_pareto(pareto(given), theme),
        draw_heatmap(heatmap_info([PolicyPanel(EVIL, policy, {})]), theme),
        draw_ledger(ledger_info(tables.ledger_table(measurement), []), theme),
        draw_audit(audit_info(stages, audit, given.spec.metric, 0.98), theme),
    ]
    for figure in figures:
        text = str(figure.to_json())
        assert "<img" not in text
        assert "\\u003cimg" not in text
        assert "<script" not in text
        assert "&lt;" in text
