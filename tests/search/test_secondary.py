"""A second metric from the spec to what people and scripts read; it decides nothing."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from dashboards.columns import reference_columns, trial_columns
from dashboards.figures.pareto import draw_pareto
from dashboards.figures.pareto_data import pareto_info
from dashboards.tables import secondary_column, trial_table
from dashboards.text import format_drop, format_spread, secondary_tiles
from dashboards.theme import LIGHT
from search.cli.screen import front_table, print_answer, trial_details
from search.manifest import manifest_of
from search.session import Answer
from spaces import Budget, Front, Judge, Metric, Reading, Trial
from tests.simulator import Simulator, simulate

DELAY = Metric("time-to-full error", "s", higher_is_better=False, shown_unit="min")


@pytest.fixture
def sim() -> Simulator:
    return simulate(3, budget=Budget())


@pytest.fixture
def judge(sim: Simulator) -> Judge:
    profile = replace(sim.profile, baseline_secondary={DELAY.name: Reading(240.0, 6.0)})
    return replace(sim.judge, profile=profile, secondary=(DELAY,))


@pytest.fixture
def trials(sim: Simulator) -> list[Trial]:
    """Trial n is off by n + 1 minutes with an error of 6 s; the last is of before there was one."""
    found = sim.random_trials(6)
    for number, trial in enumerate(found):
        reading = {DELAY.name: Reading(60.0 * (number + 1), 6.0)}
        outcome = replace(trial.measurement, secondary=reading if number < 5 else {})
        found[number] = replace(trial, outcome=outcome)
    return found


def shown(draw) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None, emoji=False)
    draw(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_judges_nothing(sim: Simulator, judge: Judge, trials: list[Trial]) -> None:
    fidelity = sim.spec.fidelity
    with_it, without = (Front.of(trials, j, fidelity) for j in (judge, sim.judge))
    assert with_it == without
    assert judge.reference.tolist() == sim.judge.reference.tolist()


def test_front_and_answer_say_it_in_minutes(
    sim: Simulator, judge: Judge, trials: list[Trial]
) -> None:
    spec = replace(sim.spec, secondary=(DELAY,))
    front = Front.of(trials, judge, spec.fidelity)
    assert front.pick is not None
    table = shown(lambda console: console.print(front_table(front, judge, spec, {})))
    assert DELAY.name in table
    for member in front.members:
        reading = member.measurement.secondary.get(DELAY.name)
        assert reading is None or f"{reading.value / 60:g} min" in table
    answer = shown(lambda console: print_answer(console, Answer(front, judge, {}, None), spec))
    assert "of the baseline time-to-full error 4 min ± 0.1." in " ".join(answer.split())
    plain = shown(lambda console: console.print(front_table(front, sim.judge, sim.spec, {})))
    assert DELAY.name not in plain


def test_show_says_it_where_it_was_measured(judge: Judge, trials: list[Trial]) -> None:
    said = [shown(lambda c, t=trial: trial_details(c, t, judge, "x")) for trial in trials]
    assert "time-to-full error 3 min ± 0.1\n" in said[2]
    assert DELAY.name not in said[5]


def test_the_manifest_holds_seconds(sim: Simulator, trials: list[Trial]) -> None:
    spec = replace(sim.spec, secondary=(DELAY,))
    manifests = [manifest_of(spec, sim.profile, trial, None) for trial in (trials[2], trials[5])]
    assert [json.loads(json.dumps(m))["secondary"] for m in manifests] == [
        [{"name": DELAY.name, "unit": "s", "validation": 180.0, "standard_error": 6.0}],
        [],
    ]


def test_tables_have_a_column_with_its_unit(judge: Judge, trials: list[Trial]) -> None:
    name = secondary_column(DELAY)
    assert name == "secondary_time_to_full_error_s"
    table = trial_table(trials, judge)
    assert table[name].tolist()[:5] == [60.0, 120.0, 180.0, 240.0, 300.0]
    assert table[name].isna().tolist() == [False] * 5 + [True]
    for columns in (
        trial_columns(judge.metric, (DELAY,), with_status=True),
        reference_columns(judge.metric, (DELAY,)),
    ):
        (column,) = [each for each in columns if each.heading == DELAY.name]
        rows = table.to_dict("records")
        assert column.show(rows[2]) == "3 min ± 0.1"
        assert column.show(rows[5]) == ""


def test_hover_texts_and_tiles_say_it(judge: Judge, trials: list[Trial]) -> None:
    table = trial_table(trials, judge)
    figure = draw_pareto(pareto_info(table, table.iloc[:0], judge), LIGHT)
    hovers = {
        row[0]: row[1]
        for trace in figure.data
        if trace.customdata is not None
        for row in trace.customdata
        if len(row) == 2
    }
    drawn = {n: text for n, text in hovers.items() if n and DELAY.name in text}
    assert drawn
    for number, text in drawn.items():
        assert f"{DELAY.name} {int(number) + 1} min ± 0.1" in text
    measurement = trials[2].measurement
    assert secondary_tiles((DELAY,), measurement, judge.profile) == [
        (f"validation {DELAY.name}", "3 min", "± 0.1; baseline 4 min")
    ]
    assert secondary_tiles((DELAY,), trials[5].measurement, judge.profile) == []


def test_words_about_a_shown_unit() -> None:
    assert format_spread(DELAY, 6.0) == "± 0.1"
    assert format_drop(DELAY, 90.0) == "1.5 min worse"
