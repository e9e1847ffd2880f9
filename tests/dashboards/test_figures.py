import pytest

from dashboards import tables
from dashboards.figures import (
    PolicyPanel,
    audit_info,
    draw_audit,
    draw_heatmap,
    draw_ledger,
    draw_progress,
    heatmap_info,
    ledger_info,
    progress_info,
)
from dashboards.theme import DARK, LIGHT, Theme
from spaces import Front, LayerPolicy, Policy, Stage
from tests.dashboards.studies import EVIL, hostile_study, study
from tests.simulator import simulate

GIVEN = study(100)
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)


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
