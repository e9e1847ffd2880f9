from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dashboards import tables
from dashboards.figures.pareto import draw_pareto, reference_label
from dashboards.figures.pareto3d import draw_pareto_3d
from dashboards.figures.pareto_data import ParetoInfo, XAxis, pareto_info
from dashboards.report import ReportInput
from dashboards.theme import DARK, LIGHT, Theme
from spaces import Budget, Front, Judge, Metric, nondominated
from tests.dashboards.studies import EVIL, IMPOSSIBLE, ROOMY, hostile_study, study
from tests.simulator import simulate

GIVEN = study(100)
AXES: tuple[XAxis, ...] = ("size_bytes", "download_bytes", "latency_ms")
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
EACH_AXIS = pytest.mark.parametrize("x", AXES)
MAE = Metric("mae", "s", higher_is_better=False)


def frames(given: ReportInput = GIVEN) -> tuple[pd.DataFrame, pd.DataFrame]:
    trials = tables.trial_table(given.trials, given.judge)
    return trials, tables.trial_table(given.finalists, given.judge, at_full=True)


def pareto(given: ReportInput = GIVEN, **arguments: object) -> ParetoInfo:
    return pareto_info(*frames(given), given.judge, **arguments)


def drawn_numbers(info: ParetoInfo) -> list[int]:
    rows = (info.front, info.dominated.rows, info.over_budget.rows)
    return sorted(number for frame in rows for number in frame["number"])


def legend(figure: go.Figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend is not False]


# What is drawn -----------------------------------------------------------------------------------


@EACH_AXIS
def test_every_finished_trial_is_in_one_layer_of_the_plot(x: XAxis) -> None:
    finished = [trial.number for trial in GIVEN.trials if trial.measurement is not None]
    info = pareto(x=x)
    assert drawn_numbers(info) == finished
    assert info.dominated.total + info.over_budget.total + len(info.front) == len(finished)
    assert not info.is_thinned


@EACH_AXIS
def test_the_staircase_is_what_nothing_beats_on_the_two_axes(x: XAxis) -> None:
    info = pareto(x=x)
    assert info.staircase_is_feasible
    assert info.staircase["x"].is_monotonic_increasing
    assert info.staircase["metric"].is_monotonic_increasing
    front = info.front
    points = np.column_stack([front[x].astype(float), -front["metric"]])
    expected = points[nondominated(points)]
    assert set(map(tuple, expected * [1, -1])) == set(map(tuple, info.staircase.to_numpy()))


def test_equal_places_are_one_corner() -> None:
    trials, finalists = frames()
    twice = pd.concat([trials, trials.assign(latency_ms=trials["latency_ms"] / 2)])
    info = pareto_info(twice, finalists, GIVEN.judge)
    assert len(info.front) == 2 * len(pareto().front)
    pd.testing.assert_frame_equal(info.staircase, pareto().staircase)


def test_the_pick_is_a_finalist_when_there_is_one() -> None:
    final = Front.of(GIVEN.finalists, GIVEN.judge, GIVEN.spec.full_fidelity)
    assert final.pick is not None
    assert list(pareto().pick["key"]) == [final.pick.identity.key]
    assert list(pareto().pick["name"]) == [f"{final.pick.number}@full"]
    searched = study(100, finalists=0)
    front = Front.of(searched.trials, searched.judge, searched.spec.fidelity)
    assert front.pick is not None
    assert list(pareto(searched).pick["key"]) == [front.pick.identity.key]


@EACH_AXIS
def test_limits_baseline_and_references_are_in_the_first_view(x: XAxis) -> None:
    budget = Budget(size_bytes=250_000, download_bytes=240_000, latency_ms=0.04, max_drop=0.1)
    info = pareto(study(100, budget=budget), x=x)
    assert info.x_limit == getattr(budget, x)
    assert info.metric_limit == pytest.approx(0.885)
    profile = GIVEN.profile
    in_file = profile.baseline_size_bytes
    assert info.baseline_x == (profile.baseline_latency_ms if x == "latency_ms" else in_file)
    for value in (info.x_limit, info.baseline_x, *info.front[x]):
        assert info.x_range[0] < value < info.x_range[1]
    for value in (info.metric_limit, info.baseline_metric, *info.front["metric"]):
        assert info.metric_range[0] < value < info.metric_range[1]
    assert list(info.references["reference"]) == ["fp16", "uniform int8", "classic"]
    assert list(info.views) == ["front", "all trials"]
    assert info.views["front"]["xaxis.range"] == pytest.approx(list(np.log10(info.x_range)))
    assert info.hidden_count > 0


def test_trials_outside_of_the_first_view_are_counted() -> None:
    info = pareto()
    trials, finalists = frames()
    rows = pd.concat([trials[trials["metric"].notna()], finalists])
    inside = rows["size_bytes"].astype(float).between(*info.x_range)
    inside &= rows["metric"].between(*info.metric_range)
    assert info.hidden_count == (~inside).sum()
    # One that was shown grows far beyond the baseline; a reference policy is shown wherever it is.
    shown = info.dominated.rows["size_bytes"].astype(float).between(*info.x_range)
    shown &= info.dominated.rows["metric"].between(*info.metric_range)
    references = trials["name"][trials["reference"] != ""]
    names = info.dominated.rows["name"][shown]
    name = names[~names.isin(references)].iloc[0]
    grown = trials["size_bytes"].mask(trials["name"] == name, 10**8)
    far = pareto_info(trials.assign(size_bytes=grown), finalists, GIVEN.judge)
    assert far.x_range == info.x_range
    assert far.hidden_count == info.hidden_count + 1


def test_an_unmet_budget_shows_everything_and_no_pick() -> None:
    info = pareto(study(60, budget=IMPOSSIBLE))
    assert not info.staircase_is_feasible
    assert info.pick.empty
    assert info.front.empty
    assert info.hidden_count == 0
    assert info.views == {}


@EACH_AXIS
def test_an_empty_study_is_an_empty_plot(x: XAxis) -> None:
    info = pareto_info(*[tables.trial_table([], GIVEN.judge)] * 2, GIVEN.judge, x=x)
    assert drawn_numbers(info) == []
    assert len(draw_pareto(info, LIGHT).data) == 4
    assert len(draw_pareto_3d(info, LIGHT).data) == 3


def test_a_download_without_a_known_baseline_draws_none() -> None:
    trials, finalists = frames()
    trials = trials.assign(download_bytes=trials["download_bytes"] // 2)
    info = pareto_info(trials, finalists, GIVEN.judge, x="download_bytes")
    assert info.baseline_x is None
    assert not any("baseline" in name for name in legend(draw_pareto(info, LIGHT)))


def test_fine_tuning_joins_a_searched_trial_and_its_finalist() -> None:
    info = pareto()
    assert len(info.tuned) == len(GIVEN.finalists)
    by_digest = {t.identity.policy_digest: t.measurement for t in GIVEN.trials}
    pairs = {
        (by_digest[t.identity.policy_digest].metric, t.measurement.metric) for t in GIVEN.finalists
    }
    assert set(zip(info.tuned["metric_from"], info.tuned["metric_to"], strict=True)) == pairs


# Another budget ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "budget",
    [
        Budget(size_bytes=120_000, max_drop=0.05),
        Budget(latency_ms=0.02, download_bytes=400_000),
        Budget(),
        IMPOSSIBLE,
    ],
)
def test_another_budget_gives_the_table_that_it_would_have_had(budget: Budget) -> None:
    judge = replace(GIVEN.judge, budget=budget)
    expected = tables.trial_table(GIVEN.trials, judge)
    front = Front.of(GIVEN.trials, judge, GIVEN.spec.fidelity)
    feasible = [judge.is_feasible(t) for t in GIVEN.trials if t.measurement is not None]
    chosen = tables.with_choice(
        frames()[0],
        np.array(feasible),
        {member.identity.key for member in front.members},
        front.pick.identity.key if front.pick else None,
    )
    assert (chosen["over_limits"] == "").all()
    pd.testing.assert_frame_equal(tables.with_over_limits(chosen, judge), expected)
    # The plot words what it shows by itself.
    nobody = tables.trial_table([], judge)
    over = pareto_info(chosen, nobody, judge).over_budget.rows
    assert list(over["over_limits"]) == list(expected.loc[over.index, "over_limits"])
    assert (over["over_limits"] != "").all()


def test_a_choice_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="91 measured rows, but got 100"):
        tables.with_choice(frames()[0], np.ones(100, dtype=bool), set(), None)


def test_rounding_puts_nothing_over_a_limit() -> None:
    # In floats 0.9703 - 0.1 is a little more than 0.8703.
    profile = replace(GIVEN.profile, baseline_metric=0.9703)
    judge = replace(GIVEN.judge, budget=Budget(max_drop=0.1), profile=profile)
    rows = frames()[0].head(1)
    assert tables.with_over_limits(rows.assign(metric=0.8703), judge)["over_limits"].item() == ""
    worse = tables.with_over_limits(rows.assign(metric=0.8702), judge)["over_limits"].item()
    assert worse == "accuracy 0.01 points short"


def test_the_limit_of_an_axis_that_is_not_drawn_shades_nothing() -> None:
    judge = replace(GIVEN.judge, budget=Budget(latency_ms=0.02))
    trials = tables.trial_table(GIVEN.trials, judge)
    nobody = tables.trial_table([], judge)
    by_size = draw_pareto(pareto_info(trials, nobody, judge), LIGHT)
    assert list(by_size.layout.shapes) == []
    over = by_size.data[0]
    assert over.marker.symbol == "x-thin"
    assert len(over.x) == (trials["status"] == "misses a limit").sum() > 0
    by_latency = draw_pareto(pareto_info(trials, nobody, judge, x="latency_ms"), LIGHT)
    assert [shape.type for shape in by_latency.layout.shapes] == ["rect", "line"]
    assert by_latency.layout.shapes[1].x0 == 0.02
    assert by_latency.layout.shapes[1].label.text == "budget 0.02 ms"


# The figure --------------------------------------------------------------------------------------


@THEMES
@EACH_AXIS
def test_the_figure_has_its_points_error_bars_and_shading(theme: Theme, x: XAxis) -> None:
    budget = replace(ROOMY, download_bytes=260_000, latency_ms=0.045)
    given = study(100, budget=budget)
    info = pareto(given, x=x)
    figure = draw_pareto(info, theme)
    drawn = [trace for trace in figure.data if (trace.name or "").startswith("front: ")]
    assert sum(len(trace.x) for trace in drawn) == len(info.front)
    assert sorted(v for trace in drawn for v in trace.x) == sorted(info.front[x].astype(float))
    assert all(len(trace.error_y.array) == len(trace.x) for trace in drawn)
    assert {trace.marker.symbol for trace in drawn}.isdisjoint({"star", "x-thin"})
    assert [shape.type for shape in figure.layout.shapes] == ["rect", "line", "rect", "line"]
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[1].x0 == getattr(budget, x)
    assert [trace.marker.symbol for trace in figure.data][-1] == "star"
    assert figure.layout.xaxis.type == "log"


def test_colour_is_the_size_where_the_latency_has_the_axis() -> None:
    for x, column, words in (
        ("size_bytes", "latency_ms", "latency, ms (modelled)"),
        ("latency_ms", "size_bytes", "file size"),
    ):
        info = pareto(x=x)
        figure = draw_pareto(info, LIGHT)
        colours = [c for t in figure.data if (t.name or "").startswith("front") and t.marker.color
                   is not None for c in t.marker.color]  # fmt: skip
        scale = figure.layout.coloraxis
        encoded = info.front[column].astype(float)
        if column == "size_bytes" and encoded.max() > 20 * encoded.min():
            encoded = np.log10(encoded)
        assert sorted(colours) == pytest.approx(sorted(encoded))
        assert scale.cmin <= min(colours) <= max(colours) <= scale.cmax
        assert figure.layout.annotations[0].text == words


def test_a_point_carries_the_name_that_search_show_takes() -> None:
    figure = draw_pareto(pareto(), LIGHT)
    by_name = {trace.name: trace for trace in figure.data}
    assert [row[0] for row in by_name["finalist, full fine-tuning"].customdata] == [
        f"{trial.number}@full" for trial in GIVEN.finalists
    ]
    assert [row[0] for row in by_name["reference policy"].customdata] == ["0", "1", "2"]
    assert by_name["the pick"].customdata[0][0].endswith("@full")
    assert "customdata[0]" in by_name["the pick"].hovertemplate


def test_reference_labels_leave_the_order_to_the_hover_text() -> None:
    assert reference_label("classic prune>distill>cluster>quantize") == "classic"
    assert reference_label("uniform 80% sparse int8") == "80% sparse int8"
    assert reference_label("prune>quantize") == "prune>quantize"


def test_selected_points_have_rings_above_everything_that_let_the_pointer_through() -> None:
    info = pareto()
    figure = draw_pareto(info, LIGHT, selected=[("A", 50_000.0, 0.95), ("B", 90_000.0, 0.97)])
    ring = figure.data[-1]
    assert ring.marker.symbol == "circle-open"
    assert (ring.x, ring.y) == ((50_000.0, 90_000.0), (0.95, 0.97))
    assert ring.text == ("<b>A</b>", "<b>B</b>")
    assert ring.hoverinfo == "skip"
    assert ring.showlegend is False
    assert len(figure.data) == len(draw_pareto(info, LIGHT).data) + 1


# Two studies -------------------------------------------------------------------------------------


@cache
def two() -> tuple[ParetoInfo, ParetoInfo]:
    other = simulate(4, seed=7, study="other", budget=Budget(size_bytes=2_000_000, max_drop=0.3))
    trials = other.random_trials(200, seed=3)
    nobody = tables.trial_table([], other.judge)
    return pareto(), pareto_info(tables.trial_table(trials, other.judge), nobody, other.judge)


@THEMES
def test_a_second_study_is_drawn_over_the_first(theme: Theme) -> None:
    mine, other = two()
    figure = draw_pareto(mine, theme, other=other, names=("mine", "theirs"))
    by_name = {trace.name: trace for trace in figure.data}
    assert {"front of mine", "the pick of mine"} <= set(by_name)
    line, marks = by_name["front of theirs"], by_name["trials on the front of theirs"]
    pick = by_name["pick of theirs"]
    assert len(marks.x) == len(other.front)
    assert line.line.dash == "dashdot"
    assert line.line.color == marks.marker.color == pick.marker.color != theme.front
    own = {t.marker.symbol for t in draw_pareto(mine, theme).data}
    assert own.isdisjoint({marks.marker.symbol, pick.marker.symbol})
    # A click on them must not open this study's trial of that number.
    assert {row[0] for row in (*marks.customdata, *pick.customdata)} == {""}
    assert [row[2] for row in marks.customdata] == list(other.front["name"])


def test_the_views_show_both_studies() -> None:
    mine, other = two()
    assert mine.x_range[1] < other.x_range[1]
    both = mine.covering(other)
    for name in ("x_range", "metric_range", "all_x_range", "all_metric_range"):
        low, high = getattr(both, name)
        assert low == min(getattr(mine, name)[0], getattr(other, name)[0])
        assert high == max(getattr(mine, name)[1], getattr(other, name)[1])
    assert both.shown == (both.x_range, both.metric_range)
    figure = draw_pareto(mine, LIGHT, other=other)
    assert list(figure.layout.xaxis.range) == pytest.approx(list(np.log10(both.x_range)))
    zoomed = pareto(shown=((50_000.0, 60_000.0), (0.9, 0.95))).covering(other)
    assert zoomed.shown == ((50_000.0, 60_000.0), (0.9, 0.95))


def test_studies_with_other_axes_are_not_drawn_together() -> None:
    mine, other = two()
    with pytest.raises(ValueError, match="one x: size_bytes and latency_ms"):
        draw_pareto(mine, LIGHT, other=pareto(x="latency_ms"))
    with pytest.raises(ValueError, match="one metric"):
        draw_pareto(mine, LIGHT, other=other._replace(metric=MAE))


# Many trials -------------------------------------------------------------------------------------


@cache
def many(count: int = 10_000) -> pd.DataFrame:
    """The trials of GIVEN, each many times, at other sizes and metrics."""
    table = frames()[0]
    done = table[table["metric"].notna()]
    rng = np.random.default_rng(0)
    rows = done.iloc[rng.integers(0, len(done), count)].reset_index(drop=True)
    sizes = np.exp(rng.uniform(np.log(8_000), np.log(1_500_000), count)).astype(int)
    metrics = np.round(0.985 - rng.exponential(0.08, count).clip(0, 0.8), 5)
    rows = rows.assign(
        number=range(count),
        name=[str(n) for n in range(count)],
        key=[f"k{n}" for n in range(count)],
        size_bytes=pd.array(sizes, dtype="Int64"),
        metric=metrics,
        reference="",
    )
    feasible = (sizes <= 250_000) & (metrics >= 0.885)
    points = np.column_stack([sizes, -metrics, rows["latency_ms"]])
    on_front = np.zeros(count, dtype=bool)
    on_front[np.flatnonzero(feasible)[nondominated(points[feasible])]] = True
    keys = set(rows["key"][on_front])
    return tables.with_choice(rows, feasible, keys, min(keys))


def test_ten_thousand_trials_share_marks_and_stay_light() -> None:
    rows = many()
    info = pareto_info(rows, frames()[1], GIVEN.judge)
    assert info.is_thinned
    counts = rows["status"].value_counts()
    assert info.dominated.total == counts["dominated"]
    assert info.over_budget.total == counts["misses a limit"]
    marks = len(info.dominated.rows) + len(info.over_budget.rows)
    assert 300 < marks <= 600
    assert len(info.front) == counts["front"]  # never thinned
    figure = draw_pareto(info, LIGHT)
    assert f"misses a limit ({counts['misses a limit']:,})" in legend(figure)
    assert len(figure.to_json()) < 300_000
    shared = info.dominated.counts.argmax()
    hover = figure.data[1].customdata[shared][1]
    assert f"and {info.dominated.counts[shared] - 1:,} more trials here" in hover
    assert not any("more trial" in row[1] for trace in figure.data[2:] if trace.customdata
                   is not None for row in trace.customdata)  # fmt: skip


def test_a_zoom_is_thinned_anew() -> None:
    rows = many()
    place = ((100_000.0, 110_000.0), (0.95, 0.97))

    def marks_inside(info: ParetoInfo) -> int:
        drawn = info.dominated.rows
        inside = drawn["size_bytes"].astype(float).between(*place[0])
        return int((inside & drawn["metric"].between(*place[1])).sum())

    first = pareto_info(rows, frames()[1], GIVEN.judge)
    zoomed = pareto_info(rows, frames()[1], GIVEN.judge, shown=place)
    inside = rows["size_bytes"].astype(float).between(*place[0])
    inside &= rows["metric"].between(*place[1]) & (rows["status"] == "dominated")
    assert marks_inside(first) < marks_inside(zoomed)
    assert marks_inside(zoomed) >= 0.9 * inside.sum() > 10
    assert zoomed.dominated.total == first.dominated.total
    # The axes stay those of the first view: a browser keeps the zoom by itself.
    assert (zoomed.x_range, zoomed.metric_range) == (first.x_range, first.metric_range)


# A metric where lower is better ------------------------------------------------------------------


def test_an_error_is_judged_the_other_way_round() -> None:
    """The same study seen as 1 - accuracy."""
    profile = replace(GIVEN.profile, baseline_metric=1 - GIVEN.profile.baseline_metric)
    judge = Judge(MAE, replace(ROOMY, size_bytes=150_000), profile)
    trials = [
        trial if trial.measurement is None
        else replace(trial, outcome=replace(trial.measurement, metric=1 - trial.measurement.metric))
        for trial in GIVEN.trials
    ]  # fmt: skip
    table = tables.trial_table(trials, judge)
    info = pareto_info(table, tables.trial_table([], judge), judge)
    assert info.staircase["metric"].is_monotonic_decreasing
    worst = info.over_budget.rows.sort_values("metric").iloc[-1]
    excess = worst["metric"] - info.metric_limit
    assert f"mae {excess:.3g} over" in worst["over_limits"]
    assert "short" not in " ".join(table["over_limits"])
    assert worst["over_limits"] == table.loc[worst.name, "over_limits"]
    shade = draw_pareto(info, LIGHT).layout.shapes[2]
    assert shade.y0 > shade.y1 == info.metric_limit


# Three dimensions --------------------------------------------------------------------------------


@THEMES
@EACH_AXIS
def test_three_dimensions_show_the_same_trials(theme: Theme, x: XAxis) -> None:
    info = pareto(x=x)
    figure = draw_pareto_3d(info, theme, selected=[("A", 50_000.0, 0.03, 0.95)])
    assert {trace.type for trace in figure.data} == {"scatter3d"}
    by_name = {trace.name: trace for trace in figure.data}
    front = [trace for trace in figure.data if trace.name.startswith("front: ")]
    assert sum(len(trace.x) for trace in front) == len(info.front)
    shown = [row[0] for trace in (*front, *figure.data[:2]) for row in trace.customdata]
    assert sorted(map(int, shown)) == drawn_numbers(info)
    pick = by_name["the pick"]
    expected = [info.pick[c].item() for c in ("size_bytes", "latency_ms", "metric")]
    assert [pick.x[0], pick.y[0], pick.z[0]] == expected
    assert by_name["selected"].z == (0.95,)
    scene = figure.layout.scene
    assert (scene.xaxis.type, scene.yaxis.type) == ("log", "log")
    for axis, values in ((scene.xaxis, front[0].x), (scene.yaxis, front[0].y)):
        assert axis.range[0] < np.log10(min(values)) <= np.log10(max(values)) < axis.range[1]


# Texts of a record -------------------------------------------------------------------------------


@THEMES
@EACH_AXIS
def test_no_text_of_a_record_is_markup(theme: Theme, x: XAxis) -> None:
    given = hostile_study()
    judge = replace(given.judge, metric=Metric(EVIL, EVIL, higher_is_better=True))
    evil = [table.assign(latency_source=EVIL) for table in frames(given)]
    info = pareto_info(*evil, judge, x=x)
    flat = draw_pareto(info, theme, other=info, names=(EVIL, EVIL), selected=[(EVIL, 1e5, 0.9)])
    deep = draw_pareto_3d(info, theme, selected=[(EVIL, 1e5, 0.03, 0.9)])
    for figure in (flat, deep):
        text = str(figure.to_json())
        for tag in ("<img", "<script", "</script"):
            assert tag not in text
            assert tag.replace("<", "\\u003c") not in text
        assert "&lt;" in text
