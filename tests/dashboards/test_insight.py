import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dashboards import insight_tables, tables
from dashboards.figures.failures import draw_failures, failures_info
from dashboards.figures.heatmap import PolicyPanel, changes_words, draw_heatmap, heatmap_info
from dashboards.figures.importance import draw_importance, importance_info
from dashboards.figures.latency_layers import draw_latency_layers, latency_layers_info
from dashboards.figures.orders import draw_orders, orders_info
from dashboards.figures.parallel import ParallelInfo, brush_of, draw_parallel, parallel_info
from dashboards.figures.price import draw_price, price_info
from dashboards.figures.progress import draw_progress, progress_info
from dashboards.insight_tables import NO_CLUSTERS, NO_TEMPERATURE
from dashboards.sections import ReportInput
from dashboards.theme import DARK, LIGHT, Theme
from search.analysis import KnobImportance
from spaces import (
    ACCURACY,
    Budget,
    Distillation,
    Failure,
    Latency,
    LayerPolicy,
    Metric,
    Policy,
    parse_order,
)
from tests.dashboards.studies import EVIL, IMPOSSIBLE, hostile_study, study
from tests.simulator import simulate

GIVEN = study(100)
TABLE = tables.trial_table(GIVEN.trials, GIVEN.judge)
POLICIES = insight_tables.policies_by_digest(GIVEN.trials)
LAYERS = [layer.name for layer in GIVEN.profile.layers]
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
MAE = Metric("mae", "s", higher_is_better=False)


def rows(*values: tuple[object, ...]) -> pd.DataFrame:
    """(order, bytes, metric) -> the columns of a trial table that frames read; all on the front."""
    columns = ["order", "size_bytes", "metric", "metric_se", "status"]
    filled = [(*value, *(0.001, "front")[len(value) - 3 :]) for value in values]
    frame = pd.DataFrame(filled, columns=columns).assign(fidelity_samples=2000)
    frame.insert(0, "number", range(len(frame)))
    return frame.astype({"size_bytes": "Int64"})


# Importance --------------------------------------------------------------------------------------


def knobs(count: int) -> list[KnobImportance]:
    return [KnobImportance(f"fc{i}:bias_bits", i / 100, 1 - i / 100, 40) for i in range(count)]


def test_importance_shows_the_top_of_the_knobs_and_says_how_many_it_hides() -> None:
    info = importance_info(insight_tables.importance_frame(knobs(20)), ACCURACY, 40)
    assert info.labels[:2] == ("fc19 bias bits", "fc18 bias bits")
    assert len(info.labels) == 15
    assert list(info.on_loss) == sorted(info.on_loss, reverse=True)
    assert info.on_size[0] == pytest.approx(0.81)
    assert info.hidden == 5
    assert "Not shown: 5 knobs" in info.words
    assert "epsilon squared" in info.words
    bars = draw_importance(info, LIGHT).data
    assert [list(bar.x) for bar in bars] == [list(info.on_loss), list(info.on_size)]
    assert len({bar.marker.pattern.shape for bar in bars}) == 2


def test_importance_says_when_there_is_too_little_to_tell() -> None:
    frame = insight_tables.importance_frame([])
    info = importance_info(frame, ACCURACY, 7)
    assert info.words.startswith("7 finished trials are too few")
    figure = draw_importance(info, LIGHT)
    assert not figure.data
    assert "too few" in figure.layout.annotations[0].text
    assert "No knob has a choice" in importance_info(frame, ACCURACY, 70).words
    few = insight_tables.importance_frame(
        [KnobImportance("order", 0.5, 0.5, 30), KnobImportance("fc1:clusters", 0.0, 0.0, 3)]
    )
    few_info = importance_info(few, ACCURACY, 30)
    assert "1 knob with fewer than 12 trials" in few_info.words
    assert [bar.text for bar in draw_importance(few_info, LIGHT).data] == [("50 %", "too few")] * 2


# Orders ------------------------------------------------------------------------------------------


def test_each_bin_of_sizes_has_one_winner_and_names_what_is_as_good() -> None:
    table = rows(
        ("prune", 1_000, 0.90, 0.01),
        ("quantize", 1_500, 0.895, 0.01),  # half a standard error behind
        ("prune", 90_000, 0.95, 0.001),
        ("quantize", 100_000, 0.97, 0.001),
        ("cluster", 1_200, 0.99, 0.001, "misses a limit"),
    )
    bins = insight_tables.order_bin_frame(table, ACCURACY, 2)
    assert list(bins["bin"]) == [0, 0, 1, 1]
    assert list(bins["order"]) == ["prune", "quantize", "quantize", "prune"]
    assert list(bins["is_best"]) == [True, False, True, False]
    assert list(bins["is_tied"]) == [False, True, False, False]
    assert bins["low_bytes"].iloc[0] == pytest.approx(1_000)
    assert bins["high_bytes"].iloc[0] == pytest.approx(10_000)
    assert bins["high_bytes"].iloc[-1] == pytest.approx(100_000)
    assert bins["feasible"].all()


def test_the_winner_of_an_error_is_the_smallest_error() -> None:
    table = rows(("prune", 1_000, 3.0, 0.1), ("quantize", 1_000, 2.0, 0.1))
    bins = insight_tables.order_bin_frame(table, MAE)
    assert list(bins["order"][bins["is_best"]]) == ["quantize"]
    assert set(bins["bin"]) == {0}


def test_orders_of_several_fidelities_do_not_compare() -> None:
    mixed = pd.concat([TABLE, tables.trial_table(GIVEN.finalists, GIVEN.judge)])
    with pytest.raises(ValueError, match="one fidelity"):
        insight_tables.order_bin_frame(mixed, ACCURACY)
    with pytest.raises(ValueError, match="one fidelity"):
        insight_tables.price_frame(mixed, ACCURACY)


def test_every_order_that_wins_is_a_row_however_few_are_shown() -> None:
    orders = tables.order_frame(GIVEN.trials, GIVEN.judge)
    bins = insight_tables.order_bin_frame(TABLE, ACCURACY)
    info = orders_info(orders, bins, ACCURACY, limit=1)
    assert set(bins[bins["is_best"]]["order"]) <= set(info.orders)
    assert info.hidden == len(orders) - len(info.orders) > 0
    assert (info.wins.sum(axis=0) <= 1).all()
    assert info.wins.sum() == bins["bin"].nunique()
    # A winner is at least as good as everything that is shown of its sizes.
    for row, b in np.argwhere(info.wins):
        assert info.best[row, b] == np.nanmax(info.best[:, b])
    assert (np.diff(info.edges_bytes) > 0).all()
    figure = draw_orders(info, LIGHT)
    grid = next(trace for trace in figure.data if trace.type == "heatmap")
    assert sum("<b>" in text for text in np.ravel(grid.text)) == info.wins.sum()
    bar = next(trace for trace in figure.data if trace.type == "bar")
    assert list(bar.x) == list(info.front_shares)


def test_an_empty_bin_keeps_its_width_and_no_order_wins_it() -> None:
    table = rows(("prune", 1_000, 0.9), ("quantize", 10_000_000, 0.95))
    orders = tables.order_frame(GIVEN.trials, GIVEN.judge)
    bins = insight_tables.order_bin_frame(table, ACCURACY, 4)
    info = orders_info(orders, bins, ACCURACY)
    assert info.edges_bytes == pytest.approx([1e3, 1e4, 1e5, 1e6, 1e7])
    assert list(info.wins.any(axis=0)) == [True, False, False, True]
    assert len(info.words) == 1 + 2
    draw_orders(info, LIGHT)


def test_sizes_that_hardly_differ_have_axis_labels_that_do() -> None:
    table = rows(("prune", 344_752, 0.9), ("quantize", 345_008, 0.95))
    orders = tables.order_frame(GIVEN.trials, GIVEN.judge)
    info = orders_info(orders, insight_tables.order_bin_frame(table, ACCURACY, 4), ACCURACY)
    labels = draw_orders(info, LIGHT).layout.xaxis2.ticktext
    assert labels == ("344.75", "344.82", "344.88", "344.94", "345.01")
    assert "344,752 to 344,816 B" in info.words[1]


def test_orders_without_a_feasible_trial_say_so() -> None:
    given = study(60, budget=IMPOSSIBLE)
    table = tables.trial_table(given.trials, given.judge)
    orders = tables.order_frame(given.trials, given.judge)
    info = orders_info(orders, insight_tables.order_bin_frame(table, ACCURACY), ACCURACY)
    assert not info.of_feasible
    assert "none has a feasible trial" in info.words[0]
    headings = [note.text for note in draw_orders(info, LIGHT).layout.annotations]
    assert any("over the budget too" in text for text in headings)


# Parallel coordinates ----------------------------------------------------------------------------


def parallel(**settings: object) -> ParallelInfo:
    return parallel_info(TABLE, POLICIES, GIVEN.judge, **settings)


def axis_of(info: ParallelInfo, name: str) -> object:
    return next(axis for axis in info.axes if axis.name == name)


def test_a_policy_in_a_few_numbers() -> None:
    sim = simulate(4)
    first, *others = [layer.name for layer in sim.profile.layers]
    weights = [layer.weight_count for layer in sim.profile.layers]
    policy = Policy(
        order=parse_order("prune>distill>cluster>quantize"),
        layers=(
            (first, LayerPolicy(sparsity=0.9, clusters=16, bits=8)),
            (others[0], LayerPolicy(clusters=4)),
        ),
        distillation=Distillation("logits", 4.0, 0.5),
        activation_bits=8,
    )
    trials = [sim.trial(0, policy), sim.trial(1, Policy())]
    found = insight_tables.knob_frame(
        tables.trial_table(trials, sim.judge),
        insight_tables.policies_by_digest(trials),
        sim.profile,
    )
    assert found["sparsity"].tolist() == pytest.approx([0.9 * weights[0] / sum(weights), 0])
    bits = (8 * weights[0] + 32 * sum(weights[1:])) / sum(weights)
    assert found["bits"].tolist() == pytest.approx([bits, 32])
    assert found["clusters"].tolist() == [10, NO_CLUSTERS]
    assert found["activation_bits"].tolist() == [8, 32]
    assert found["temperature"].tolist() == [4, NO_TEMPERATURE]


@pytest.mark.parametrize("max_lines", [1, 5, 20, 300])
def test_there_are_never_more_lines_than_asked_for_and_the_front_comes_first(
    max_lines: int,
) -> None:
    info = parallel(max_lines=max_lines)
    front = TABLE[TABLE["status"] == "front"]
    done = int(TABLE["metric"].notna().sum())
    assert len(info.names) == min(max_lines, done)
    assert info.on_front.sum() == min(max_lines, len(front))
    assert info.hidden == done - len(info.names)
    assert len(set(info.names)) == len(info.names)
    figure = draw_parallel(info, LIGHT)
    drawn = {
        name for trace in figure.data if trace.customdata is not None for name in trace.customdata
    }
    assert drawn == set(info.names)
    assert set(info.names) <= set(TABLE["name"])


def test_a_finalist_keeps_the_name_that_the_command_line_takes() -> None:
    table = tables.trial_table(GIVEN.finalists, GIVEN.judge, at_full=True)
    policies = insight_tables.policies_by_digest(GIVEN.finalists)
    assert "0@full" in parallel_info(table, policies, GIVEN.judge).names


def test_the_others_are_the_best_feasible_ones() -> None:
    front = int((TABLE["status"] == "front").sum())
    info = parallel(max_lines=front + 3)
    dominated = TABLE[TABLE["status"] == "dominated"].nlargest(3, "metric")
    others = [name for name, on in zip(info.names, info.on_front, strict=True) if not on]
    metrics = TABLE.set_index("number")["metric"]
    assert sorted(metrics[int(name)] for name in others) == sorted(dominated["metric"])


def test_positions_and_values_are_inverse_on_every_axis() -> None:
    info = parallel()
    assert [axis.name for axis in info.axes] == [
        "order", "sparsity", "clusters", "bits", "activation_bits", "temperature",
        "size_bytes", "latency_ms", "metric",
    ]  # fmt: skip
    for axis in info.axes:
        places = axis.positions(axis.values)
        assert ((places >= 0) & (places <= 1)).all()
        back = [axis.value_at(float(place)) for place in places]
        assert back == pytest.approx(list(axis.values)), axis.name
        assert len(axis.ticks) >= 2
        values = [value for value, _ in axis.ticks]
        assert values == sorted(values)


def test_equal_values_still_have_an_axis_and_an_inverse() -> None:
    trial = GIVEN.trials[3]
    table = tables.trial_table([trial], GIVEN.judge)
    info = parallel_info(table, POLICIES, GIVEN.judge)
    for axis in info.axes:
        place = float(axis.positions(axis.values)[0])
        assert axis.value_at(place) == pytest.approx(axis.values[0])
    draw_parallel(info, LIGHT)


def test_a_better_metric_lies_to_the_right_only_where_higher_is_better() -> None:
    axis = axis_of(parallel(), "metric")
    assert (np.diff(axis.positions(np.sort(axis.values))) >= 0).all()
    low, high = axis.values.min(), axis.values.max()
    # Stretched near the best: the better half of the range takes more than half of the axis.
    assert axis.positions(np.array([(low + high) / 2]))[0] < 0.5
    judge = replace(GIVEN.judge, metric=MAE, budget=Budget())
    table = tables.trial_table(GIVEN.trials, judge)
    error = axis_of(parallel_info(table, POLICIES, judge), "metric")
    middle = (error.values.min() + error.values.max()) / 2
    assert error.positions(np.array([middle]))[0] > 0.5
    assert error.value_at(error.positions(np.array([middle]))[0]) == pytest.approx(middle)


def test_a_brush_leaves_inside_what_it_holds() -> None:
    info = parallel(brushes={"bits": (8.0, 4.0), "metric": (0.5, 0.97)})
    bits, metric = axis_of(info, "bits").values, axis_of(info, "metric").values
    expected = (bits >= 4) & (bits <= 8) & (metric >= 0.5) & (metric <= 0.97)
    assert 0 < expected.sum() < len(expected)
    assert list(info.inside) == list(expected)
    assert f"{expected.sum()} lines are within the brushes on bits, metric" in info.words
    figure = draw_parallel(info, LIGHT)
    outside = next(t for t in figure.data if t.name.startswith("outside"))
    assert set(outside.customdata) == set(np.array(info.names)[~expected])
    assert outside.line.color == LIGHT.grid
    assert len(figure.layout.shapes) == 2
    with pytest.raises(ValueError, match="bytes"):
        parallel(brushes={"bytes": (0.0, 1.0)})


def test_a_box_over_an_axis_is_a_brush_in_its_unit() -> None:
    info = parallel()
    for row, axis in enumerate(info.axes):
        found = brush_of(info, [0.75, 0.25], [row + 0.2, row - 0.3])
        assert found is not None
        name, (low, high) = found
        assert name == axis.name
        assert axis.positions(np.array([low, high])) == pytest.approx([0.25, 0.75])
        # It goes through a browser and comes back.
        again = parallel(brushes=json.loads(json.dumps({name: (low, high)})))
        places = axis.positions(axis.values)
        assert list(again.inside) == list((places > 0.25 - 1e-9) & (places < 0.75 + 1e-9))


def test_a_box_over_a_whole_axis_keeps_every_line_none_included() -> None:
    info = parallel()
    for row in range(len(info.axes)):
        found = brush_of(info, [-0.1, 1.1], [row - 0.1, row + 0.1])
        assert found is not None
        assert parallel(brushes=dict([found])).inside.all()
    clusters = [axis.name for axis in info.axes].index("clusters")
    found = brush_of(info, [0.95, 1.0], [clusters - 0.1, clusters + 0.1])
    assert found is not None
    assert found[1][1] == pytest.approx(NO_CLUSTERS)
    kept = parallel(brushes=dict([found]))
    assert (axis_of(kept, "clusters").values[kept.inside] == NO_CLUSTERS).all()
    assert kept.inside.any()


def test_a_click_or_a_box_beside_every_axis_is_no_brush() -> None:
    info = parallel()
    assert brush_of(info, [0.5, 0.5], [1.0, 1.0]) is None
    assert brush_of(info, [0.1, 0.9], [-3.0, -2.0]) is None
    assert brush_of(info, [1.2, 1.4], [1.0, 1.1]) is None
    # Over two axes: the one nearer to its middle.
    found = brush_of(info, [0.1, 0.9], [0.9, 2.6])
    assert found is not None
    assert found[0] == info.axes[2].name


def test_a_page_without_an_answer_to_brushes_draws_no_box() -> None:
    info = parallel()
    assert draw_parallel(info, LIGHT).layout.dragmode == "select"
    assert draw_parallel(info, LIGHT).layout.selectdirection == "d"
    assert draw_parallel(info, LIGHT, can_brush=False).layout.dragmode is False


def test_labels_of_an_axis_do_not_overlap_on_a_telephone() -> None:
    width_px, character_px = 320, 6
    for axis in parallel().axes:
        ends = []
        for value, label in axis.ticks:
            at = width_px * axis.positions(np.array([value]))[0]
            half = character_px * len(label) / 2
            ends.append((max(0.0, at - half), at + half))
        gaps = [right[0] - left[1] for left, right in itertools.pairwise(ends)]
        assert min(gaps) > 0, axis.ticks


# Price -------------------------------------------------------------------------------------------


def test_the_price_skips_members_of_the_front_that_cost_bytes_and_gain_nothing() -> None:
    table = rows(
        ("prune", 1_000, 0.90),
        ("prune", 2_000, 0.80),  # on the front for its latency alone
        ("prune", 11_000, 0.95),
        ("prune", 31_000, 0.96),
        ("prune", 40_000, 0.94),  # and so is this one
    )
    prices = insight_tables.price_frame(table.sample(frac=1, random_state=1), ACCURACY)
    assert list(prices["from_trial"]) == [0, 2]
    assert list(prices["to_trial"]) == [2, 3]
    assert list(prices["gain_per_10_kb"]) == pytest.approx([0.05, 0.005])
    assert not prices["is_noise"].any()
    info = price_info(prices, ACCURACY)
    assert info.words[0] == (
        "From 1.00 KB (trial 0) to 11.0 KB (trial 2): +5 points for 10.0 KB, +5 points per 10 KB."
    )
    figure = draw_price(info, LIGHT)
    drawn = next(
        trace for trace in figure.data if trace.name == "gain more than one standard error"
    )
    assert np.nanmax(drawn.y) == pytest.approx(5)
    assert np.nanmin(drawn.x) == 1_000


def test_a_step_within_one_standard_error_is_joined_to_the_next() -> None:
    table = rows(
        ("prune", 1_000, 0.900, 0.003),
        ("prune", 1_010, 0.902, 0.003),  # 2 points for 10 bytes would be 2000 for 10 KB
        ("prune", 2_000, 0.910, 0.003),
        ("prune", 3_000, 0.911, 0.003),
    )
    prices = insight_tables.price_frame(table, ACCURACY)
    assert list(prices["to_trial"]) == [2, 3]
    assert list(prices["is_noise"]) == [False, True]
    assert prices["gain"].sum() == pytest.approx(0.011)
    assert "within one standard error" in price_info(prices, ACCURACY).words[1]


def test_the_price_of_a_smaller_error() -> None:
    table = rows(("prune", 1_000, 3.0, 0.01), ("prune", 21_000, 1.0, 0.01))
    prices = insight_tables.price_frame(table, MAE)
    assert list(prices["gain_per_10_kb"]) == [1.0]
    assert "2 s better for 20.0 KB" in price_info(prices, MAE).words[0]


def test_the_price_of_a_study_is_drawn_or_missed_in_words() -> None:
    prices = insight_tables.price_frame(TABLE, ACCURACY)
    assert len(prices) > 1
    assert (prices["gain"] > 0).all()
    assert (prices["extra_bytes"] > 0).all()
    assert list(prices["from_trial"][1:]) == list(prices["to_trial"][:-1])
    nothing = price_info(insight_tables.price_frame(TABLE.iloc[:0], ACCURACY), ACCURACY)
    assert len(nothing.words) == 1
    assert not draw_price(nothing, LIGHT).data


# Latency of layers -------------------------------------------------------------------------------


def test_the_layers_times_stand_in_the_order_of_the_network_beside_the_baselines() -> None:
    latency = Latency(4.0, 4.0, "modelled", "m1", {"out": 1.0, "extra": 0.0, "fc1": 3.0})
    frame = insight_tables.layer_latency_frame(latency, LAYERS, {"fc1": 9.0})
    assert list(frame["layer"]) == ["fc1", "out", "extra"]
    assert list(frame["share"]) == [0.75, 0.25, 0.0]
    info = latency_layers_info(frame, latency, "trial 17")
    assert info.title == "trial 17: 4 ms modelled, m1"
    assert info.has_baseline
    assert "fc1 takes 75 % of them" in info.words
    bars = draw_latency_layers(info, LIGHT).data
    assert [bar.name for bar in bars] == ["trial 17", "baseline"]
    assert bars[1].x[0] == 9.0
    assert math.isnan(bars[1].x[1])
    alone = insight_tables.layer_latency_frame(latency, LAYERS)
    assert len(draw_latency_layers(latency_layers_info(alone, latency, "x"), LIGHT).data) == 1


def test_a_measured_latency_has_no_layers_and_says_why() -> None:
    latency = Latency(1.2, 1.3, "measured", "torch-cpu on build-7")
    info = latency_layers_info(
        insight_tables.layer_latency_frame(latency, LAYERS), latency, "trial 3"
    )
    assert "was measured for the whole network" in info.words
    figure = draw_latency_layers(info, LIGHT)
    assert not figure.data
    assert "measured" in figure.layout.annotations[0].text
    modelled = replace(latency, source="modelled")
    frame = insight_tables.layer_latency_frame(modelled, LAYERS)
    assert "measured" not in latency_layers_info(frame, modelled, "trial 3").words


# Failures ----------------------------------------------------------------------------------------


def test_failures_name_their_layers_also_where_a_finalist_has_a_trials_number() -> None:
    failed = [trial for trial in GIVEN.trials if isinstance(trial.outcome, Failure)]
    again = [replace(failed[0], outcome=Failure("out", "cluster", "loss became NaN"))]
    other = [replace(failed[1], outcome=Failure("", "", "out of memory"))]
    frame = insight_tables.failure_frame([*failed, *again, *other])
    count = len(failed) + 1
    assert list(frame["reason"]) == ["cluster: loss became NaN", "out of memory"]
    assert list(frame["layers"]) == [f"fc1 ({count - 1}), out (1)", ""]
    assert list(frame["share"]) == pytest.approx([count / (count + 1), 1 / (count + 1)])
    info = failures_info(frame, 90, limit=1)
    assert list(info.counts) == [count]
    assert info.words[-1] == "Not drawn: 1 rarer reason."
    assert f"fc1 ({count - 1})" in info.words[0]
    bar = draw_failures(info, LIGHT).data[0]
    assert list(bar.x) == [count]
    assert bar.customdata[0][1] == f"fc1 ({count - 1}), out (1)"


def test_no_failure_is_a_sentence() -> None:
    finished = [trial for trial in GIVEN.trials if trial.measurement is not None]
    info = failures_info(insight_tables.failure_frame(finished), len(finished))
    assert info.words == (f"No trial failed; {len(finished)} finished.",)
    assert not draw_failures(info, LIGHT).data


# Progress ----------------------------------------------------------------------------------------


def long_progress(count: int, steps: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rises = np.zeros(count)
    rises[rng.choice(np.arange(50, count), steps, replace=False)] = 0.01
    # The best metric may rise where the hypervolume does not: beyond its reference's latency.
    best = 0.9 + 1e-5 * (np.arange(count) // 777)
    best[:100] = np.nan
    return pd.DataFrame(
        {
            "finished": np.arange(1, count + 1),
            "seconds": 2.5 * np.arange(count),
            "hypervolume": np.cumsum(rises),
            "best_metric": best,
        }
    )


def step_values(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """An "hv" line at some places."""
    return y[np.searchsorted(x, at, side="right") - 1]


@pytest.mark.parametrize("steps", [3, 150, 2_500])
def test_thinned_progress_is_the_same_curve(steps: int) -> None:
    progress = long_progress(20_000, steps)
    info = progress_info(progress, ACCURACY, 0.985)
    kept = len(info.finished)
    assert kept <= max(2_000, steps + 2 + 20_000 // 777 + 1)
    assert kept >= 2_000
    for name, drawn in (("hypervolume", info.hypervolume), ("best_metric", info.best_metric)):
        curve = step_values(info.finished, drawn, progress["finished"].to_numpy())
        np.testing.assert_array_equal(curve, progress[name].to_numpy())
    assert (info.finished[0], info.finished[-1]) == (1, 20_000)


def test_progress_over_what_it_cost() -> None:
    progress = long_progress(10_000, 20)
    info = progress_info(progress, ACCURACY, 0.985, over="seconds")
    figure = draw_progress(info, LIGHT)
    assert figure.data[0].x[-1] == pytest.approx(2.5 * 9_999 / 3600)
    assert "hours" in figure.layout.xaxis2.title.text
    assert figure.data[0].customdata[-1] == 10_000
    trials = draw_progress(progress_info(progress, ACCURACY, 0.985), LIGHT)
    assert trials.data[0].x[-1] == 10_000
    assert trials.layout.xaxis2.title.text == "finished trials"
    short = draw_progress(progress_info(progress.head(10), ACCURACY, 0.985, over="seconds"), LIGHT)
    assert short.data[0].x[-1] == pytest.approx(22.5)
    assert "seconds" in short.layout.xaxis2.title.text


# What changed ------------------------------------------------------------------------------------


def uniform(order: str, layer: LayerPolicy, **settings: object) -> Policy:
    return Policy(parse_order(order), tuple((name, layer) for name in LAYERS), **settings)


def test_changed_knobs_are_bold_and_framed_and_the_rest_is_not() -> None:
    a = uniform("prune>quantize", LayerPolicy(sparsity=0.9, bits=8))
    b = Policy(a.order, (*a.layers[:-1], ("out", LayerPolicy(sparsity=0.95, bits=8))))
    panels = [
        PolicyPanel(name, tables.policy_table(policy, GIVEN.profile), {"fc1": size})
        for name, policy, size in (("a", a, 900), ("b", b, 800))
    ]
    plain = heatmap_info(panels)
    assert not plain.changed.any()
    assert len(draw_heatmap(plain, LIGHT).data) == 1
    info = heatmap_info(panels, mark_changes=True)
    assert np.argwhere(info.changed).tolist() == [[0, 3, 0], [1, 3, 0]]
    heat, frames = draw_heatmap(info, LIGHT).data
    assert heat.text[3][0] == "<b>90</b>"
    assert heat.text[3][6 - 1] == "<b>95</b>"
    assert sum("<b>" in text for text in np.ravel(heat.text)) == 2
    assert np.isnan(frames.x).sum() == 2
    # The info's own words stay as they were.
    assert info.texts[0, 3, 0] == "90"


def test_a_deep_network_has_rows_that_are_readable_and_not_too_high() -> None:
    layer = GIVEN.profile.layers[0]
    deep = replace(GIVEN.profile, layers=tuple(replace(layer, name=f"layer{i}") for i in range(64)))
    panel = PolicyPanel("deep", tables.policy_table(Policy(), deep), {})
    height = draw_heatmap(heatmap_info([panel, panel], mark_changes=True), LIGHT).layout.height
    assert 64 * 15 < height < 64 * 26


def test_changes_in_words() -> None:
    a = uniform("prune>distill>quantize", LayerPolicy(sparsity=0.9, bits=8),
                distillation=Distillation("logits", 4.0, 0.5))  # fmt: skip
    layers = dict(a.layers) | {"fc1": LayerPolicy(sparsity=0.95, clusters=16, bits=8)}
    b = Policy(parse_order("prune>cluster>quantize"), tuple(layers.items()))
    assert changes_words(a, b, GIVEN.profile) == [
        "order: prune>cluster>quantize instead of prune>distill>quantize",
        "distillation: none instead of logits, temperature 4, weight 0.5",
        "fc1: sparsity 95 % instead of 90 %, clusters 16 instead of none",
    ]
    fewer = uniform("prune>distill>quantize", LayerPolicy(sparsity=0.9, bits=4),
                    distillation=Distillation("logits", 4.0, 0.5))  # fmt: skip
    assert changes_words(a, fewer, GIVEN.profile) == ["all 4 layers: bits 4 instead of 8"]
    assert changes_words(a, a, GIVEN.profile) == []


def test_layers_that_change_alike_share_a_line_and_many_are_counted() -> None:
    names = [f"layer{i:02}" for i in range(10)]
    layer = GIVEN.profile.layers[0]
    profile = replace(GIVEN.profile, layers=tuple(replace(layer, name=name) for name in names))

    def policy(changed: int) -> Policy:
        bits = [4 if i < changed else 8 for i in range(10)]
        asked = tuple((n, LayerPolicy(bits=b)) for n, b in zip(names, bits, strict=True))
        return Policy(parse_order("quantize"), asked)

    assert changes_words(policy(0), policy(2), profile) == ["layer00, layer01: bits 4 instead of 8"]
    (words,) = changes_words(policy(0), policy(9), profile)
    assert words.endswith("layer05 and 3 more layers: bits 4 instead of 8")


# Every figure ------------------------------------------------------------------------------------


def every_figure(given: ReportInput, theme: Theme) -> dict[str, go.Figure]:
    judge, metric, profile = given.judge, given.judge.metric, given.profile
    table = tables.trial_table(given.trials, judge)
    names = [layer.name for layer in profile.layers]
    importances = [KnobImportance(f"{name}:bits", 0.4, 0.2, 30) for name in names]
    latency = given.trials[0].measurement.latency
    layers = insight_tables.layer_latency_frame(latency, names, latency.layers_ms)
    bins = insight_tables.order_bin_frame(table, metric)
    orders = orders_info(tables.order_frame(given.trials, judge), bins, metric)
    failures = insight_tables.failure_frame(given.trials)
    policies = insight_tables.policies_by_digest(given.trials)
    panels = [
        PolicyPanel(EVIL, tables.policy_table(trial.policy, profile), {})
        for trial in given.trials[:2]
    ]
    importance = insight_tables.importance_frame(importances)
    progress = tables.progress_table(given.trials, judge)
    return {
        "importance": draw_importance(importance_info(importance, metric, 30), theme),
        "orders": draw_orders(orders, theme),
        "parallel": draw_parallel(
            parallel_info(table, policies, judge, brushes={"bits": (4, 8)}), theme
        ),
        "price": draw_price(price_info(insight_tables.price_frame(table, metric), metric), theme),
        "latency": draw_latency_layers(latency_layers_info(layers, latency, EVIL), theme),
        "failures": draw_failures(failures_info(failures, 30), theme),
        "progress": draw_progress(progress_info(progress, metric, 0.985), theme),
        "heatmap": draw_heatmap(heatmap_info(panels, mark_changes=True), theme),
    }


@THEMES
def test_no_text_of_a_record_is_markup_in_an_insight_figure(theme: Theme) -> None:
    given = hostile_study()
    evil_metric = Metric(EVIL, EVIL, higher_is_better=True)
    given = replace(given, judge=replace(given.judge, metric=evil_metric))
    found = every_figure(given, theme)
    for name, figure in found.items():
        text = json.dumps(json.loads(str(figure.to_json())), ensure_ascii=False)
        assert "<img" not in text, name
        assert "<script" not in text, name
        assert "</script" not in text, name
        assert "\u202e" not in text, name
    for name in ("importance", "latency", "failures", "heatmap", "parallel", "orders", "price"):
        assert "&lt;" in str(found[name].to_json()), name


@THEMES
def test_figures_are_svg_and_tell_a_narrow_page_their_height(theme: Theme) -> None:
    for name, figure in every_figure(GIVEN, theme).items():
        assert {trace.type for trace in figure.data} <= {"scatter", "bar", "heatmap"}, name
        assert figure.layout.height > 100, name
        if name != "progress":
            assert figure.layout.meta["narrow_height"] >= figure.layout.height, name
        assert figure.layout.template.layout.paper_bgcolor == theme.page


def test_every_figure_has_an_answer_for_no_trial_at_all() -> None:
    empty = tables.trial_table([], GIVEN.judge)
    orders = tables.order_frame([], GIVEN.judge)
    info = orders_info(orders, insight_tables.order_bin_frame(empty, ACCURACY), ACCURACY)
    assert "No trial has finished" in info.words[0]
    figures = [
        draw_orders(info, LIGHT),
        draw_parallel(parallel_info(empty, {}, GIVEN.judge), LIGHT),
        draw_price(price_info(insight_tables.price_frame(empty, ACCURACY), ACCURACY), LIGHT),
        draw_failures(failures_info(insight_tables.failure_frame([]), 0), LIGHT),
    ]
    for figure in figures:
        assert len(figure.layout.annotations) == 1
    # A brush kept from before is no reason to fail: nothing has an axis yet.
    parallel_info(empty, {}, GIVEN.judge, brushes={"bits": (4, 8)})
