import io

import pandas as pd
import pytest

from dashboards import tables
from spaces import Certificate, Front, LayerPolicy, Policy, Stage
from tests.dashboards.studies import IMPOSSIBLE, study
from tests.simulator import FULL_FIDELITY, simulate

GIVEN = study(100)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return tables.trial_table(GIVEN.trials, GIVEN.judge)


def test_one_row_a_trial_and_every_status(table: pd.DataFrame) -> None:
    assert list(table["number"]) == list(range(100))
    assert set(table["status"]) == {"front", "dominated", "misses a limit", "failed"}
    failed = table[table["status"] == "failed"]
    assert (failed["failure"] == "cluster fc1: loss became NaN").all()
    assert failed[["metric", "size_bytes", "latency_ms"]].isna().all().all()


def test_names_are_what_search_show_takes(table: pd.DataFrame) -> None:
    assert list(table["name"]) == [str(number) for number in range(100)]
    finalists = tables.trial_table(GIVEN.finalists, GIVEN.judge, at_full=True)
    assert list(finalists["name"]) == ["0@full", "1@full", "2@full"]
    assert list(finalists["number"]) == [0, 1, 2]


def test_front_and_pick_are_those_of_the_front(table: pd.DataFrame) -> None:
    front = Front.of(GIVEN.trials, GIVEN.judge, GIVEN.spec.fidelity)
    rows = tables.front_rows(table)
    assert list(rows["number"]) == [member.number for member in front.members]
    assert front.pick is not None
    assert list(table[table["is_pick"]]["number"]) == [front.pick.number]


def test_each_fidelity_has_a_front_of_its_own() -> None:
    both = tables.trial_table([*GIVEN.trials, *GIVEN.finalists], GIVEN.judge)
    picks = both[both["is_pick"]]
    assert sorted(picks["fidelity_samples"]) == [GIVEN.spec.fidelity, FULL_FIDELITY]


def test_over_limits_says_what_and_how_much(table: pd.DataFrame) -> None:
    row = table[table["reference"] == "fp16"].iloc[0]
    excess = row["size_bytes"] / 250_000 - 1
    assert row["over_limits"] == f"file {100 * excess:.3g} % over"
    assert row["status"] == "misses a limit"


def test_selected_trials_hold_the_front_the_references_and_the_best(table: pd.DataFrame) -> None:
    rows = tables.select_trials(table, GIVEN.spec.metric, best=5)
    first = table[(table["status"] == "front") | (table["reference"] != "")]
    assert len(rows) == len(first) + 5
    assert set(first["number"]) <= set(rows["number"])
    feasible = table[(table["status"] == "dominated") & (table["reference"] == "")]
    expected = feasible.sort_values("metric", ascending=False)["metric"].head(5)
    assert list(rows["metric"].tail(5)) == list(expected)


def test_policy_summary_gives_ranges() -> None:
    policy = Policy(
        order=(Stage.PRUNE, Stage.QUANTIZE),
        layers=(
            ("a", LayerPolicy(sparsity=0.9, bits=8)),
            ("b", LayerPolicy(sparsity=0.985, pattern="channel", bits=4)),
        ),
        activation_bits=8,
    )
    summary = "90-98.5 % sparse · 1 by channel · 4-8 bit · 8 bit activations"
    assert tables.policy_summary(policy) == summary
    assert tables.policy_summary(Policy()) == "nothing changed"


def test_ledger_sums_to_the_file(table: pd.DataFrame) -> None:
    measurement = GIVEN.trials[0].measurement
    assert measurement is not None
    ledger = tables.ledger_table(measurement)
    assert ledger["size_bytes"].sum() == measurement.size_bytes
    assert ledger["share"].sum() == pytest.approx(1)


def test_policy_table_follows_the_forward_pass_and_fills_neutral_layers() -> None:
    sim = simulate(4)
    rows = tables.policy_table(Policy(), sim.profile)
    assert list(rows["layer"]) == [layer.name for layer in sim.profile.layers]
    assert rows["clusters"].isna().all()
    assert set(rows["bits"]) == {32}


def test_audit_has_every_stage_and_layer() -> None:
    measurement = GIVEN.trials[2].measurement
    assert measurement is not None
    stages, audit = tables.stage_table(measurement), tables.audit_table(measurement)
    assert list(stages["stage"]) == ["prune", "distill", "cluster", "quantize"]
    assert list(stages["position"]) == [1, 2, 3, 4]
    assert len(audit) == 4 * len(GIVEN.profile.layers)


def test_certificate_tables() -> None:
    given = study(60, budget=IMPOSSIBLE)
    certificate = Certificate.of(given.trials, given.judge, given.spec.fidelity)
    over = tables.excess_table(certificate, given.judge)
    assert set(over["limit"]) <= {"size_bytes", "latency_ms", "metric"}
    assert (over["excess"] > 0).all()
    assert len(tables.step_table(certificate.steps)) == len(certificate.steps)


def test_progress_ends_at_the_fronts_hypervolume() -> None:
    progress = tables.progress_table(GIVEN.trials, GIVEN.judge)
    front = Front.of(GIVEN.trials, GIVEN.judge, GIVEN.spec.fidelity)
    assert list(progress["finished"]) == list(range(1, 101))
    assert progress["hypervolume"].is_monotonic_increasing
    assert progress["hypervolume"].iloc[-1] == pytest.approx(front.hypervolume)


def test_failures_name_reason_count_and_trials() -> None:
    failures = tables.failure_table(GIVEN.trials)
    assert list(failures["reason"]) == ["cluster: loss became NaN"]
    assert list(failures["count"]) == [9]
    assert failures["trials"].iloc[0] == "5, 16, 27, 38, 49, 60, 71, 82, ..."


def test_orders_count_every_trial() -> None:
    assert tables.order_frame(GIVEN.trials, GIVEN.judge)["trials"].sum() == 100


def test_csv_round_trips_and_holds_no_formula(table: pd.DataFrame) -> None:
    evil = table.assign(origin="=HYPERLINK(1)")
    back = pd.read_csv(io.StringIO(tables.to_csv(evil)))
    assert (back["origin"] == "'=HYPERLINK(1)").all()
    assert back["size_bytes"].dropna().tolist() == table["size_bytes"].dropna().tolist()


@pytest.mark.parametrize("count", [0])
def test_an_empty_study_has_empty_tables(count: int) -> None:
    table = tables.trial_table([], GIVEN.judge)
    assert table.empty
    assert tables.progress_table([], GIVEN.judge).empty
    assert tables.failure_table([]).empty
    assert tables.front_rows(table).empty
