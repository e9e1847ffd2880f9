"""The recommendation under the sliders is the product's own: that of `Front.of`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plotly.utils import PlotlyJSONEncoder

from dashboards import tables
from dashboards.app.answer import answer_under, draw_answer, frames_under, own_limits
from dashboards.app.library import Library, Snapshot
from dashboards.app.view import Limits, View
from spaces import Front, Judge
from tests.dashboards.app.asking import texts
from tests.dashboards.app.places import MAE, front_pick, write_study
from tests.dashboards.studies import IMPOSSIBLE

STUDIES = ("with", "without", "impossible", "mae")


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Snapshot]:
    root = tmp_path_factory.mktemp("answers")
    write_study(root, "with", 80, finalists=4)
    write_study(root, "without", 50, seed=2, finalists=0)
    write_study(root, "impossible", 40, budget=IMPOSSIBLE, finalists=2)
    write_study(root, "mae", 40, metric=MAE, finalists=2)
    library = Library(str(root))
    return {name: library.get(name) for name in STUDIES}


def moved(rng: np.random.Generator, snapshot: Snapshot) -> View:
    """Any of the four limits moved to where it binds, and often to exactly what a trial has."""
    measured = [t.measurement for t in [*snapshot.trials, *snapshot.finalists] if t.measurement]
    columns = {
        "kb": [m.size_bytes / 1000 for m in measured],
        "download_kb": [m.download_bytes / 1000 for m in measured],
        "ms": [m.latency.median_ms for m in measured],
        "metric": [m.metric for m in measured],
    }
    limits = []
    for name, values in columns.items():
        choices = {
            "taken away": None,
            "exactly a trial's": float(rng.choice(values)),
            "anywhere": float(rng.uniform(0.5 * min(values), 1.2 * max(values))),
        }
        how = rng.choice(["left alone", *choices])
        if how in choices:
            limits.append((name, choices[how]))
    return View(limits=tuple(limits))


@pytest.mark.parametrize("name", STUDIES)
def test_it_is_what_the_front_says_under_the_same_budget(
    snapshots: dict[str, Snapshot], name: str
) -> None:
    rng = np.random.default_rng(0)
    answers = [check(snapshots[name], moved(rng, snapshots[name])) for _ in range(40)]
    assert len(set(answers)) >= 3  # the sliders do change something
    assert "" in answers


def check(snapshot: Snapshot, view: View) -> str:
    spec = snapshot.spec
    answer = answer_under(snapshot, view)
    judge = Judge(spec.metric, view.limits_on(own_limits(snapshot)).budget(), snapshot.profile)
    fidelities = (spec.fidelity, spec.full_fidelity)
    assert answer.name == front_pick(snapshot.trials, snapshot.finalists, judge, fidelities)
    assert answer.judge == judge
    front = Front.of(snapshot.trials, judge, spec.fidelity)
    found = [snapshot.candidates.trials[i].number for i in answer.searched.front]
    assert found == [member.number for member in front.members]

    # The tables under the plot say the same, row by row.
    searched, final = frames_under(snapshot, answer)
    for frame, trials, at_full in (
        (searched, snapshot.trials, False),
        (final, snapshot.finalists, True),
    ):
        expected = tables.trial_table(trials, judge, at_full=at_full)
        assert list(frame["status"]) == list(expected["status"])
        assert list(frame["is_pick"]) == list(expected["is_pick"])
    # And the words never fail, whatever is left.
    assert draw_answer(snapshot, view, answer).children
    return answer.name


def test_unmoved_it_is_the_studys_own_answer(snapshots: dict[str, Snapshot]) -> None:
    for snapshot in snapshots.values():
        spec = snapshot.spec
        fidelities = (spec.fidelity, spec.full_fidelity)
        answer = answer_under(snapshot, View())
        assert answer.name == front_pick(
            snapshot.trials, snapshot.finalists, snapshot.judge, fidelities
        )


def sentences(snapshot: Snapshot, **limits: float | None) -> str:
    view = View(limits=tuple(limits.items()))
    shown = draw_answer(snapshot, view, answer_under(snapshot, view))
    return texts(json.loads(json.dumps(shown, cls=PlotlyJSONEncoder)))


def test_the_words_say_why(snapshots: dict[str, Snapshot]) -> None:
    snapshot = snapshots["with"]
    view = View()
    answer = answer_under(snapshot, view)
    words = sentences(snapshot)
    assert f"finalist {answer.name}" in words
    kept = int(answer.final.feasible.sum())
    assert f"{kept} of {len(snapshot.finalists)} measured finalists keep these limits" in words
    assert "standard error of it" in words
    over = answer.searched.binding["size_bytes"]
    assert over > 0
    assert f"the file size alone shuts out {over}" in words


def test_when_nothing_keeps_the_limits_the_closest_is_named(
    snapshots: dict[str, Snapshot],
) -> None:
    snapshot = snapshots["with"]
    words = sentences(snapshot, kb=0.5)
    assert "Nothing measured keeps these limits" in words
    closest = answer_under(snapshot, View(limits=(("kb", 0.5),))).searched.closest
    assert closest is not None
    assert f"The closest is \n{snapshot.candidates.trials[closest].number}\n" in words
    assert "It misses: " in words


def test_a_finalist_makes_way_for_a_searched_trial_that_keeps_the_limits(
    snapshots: dict[str, Snapshot],
) -> None:
    snapshot = snapshots["with"]
    sizes = sorted(t.measurement.size_bytes for t in snapshot.finalists if t.measurement)
    smallest = min(t.measurement.size_bytes for t in snapshot.trials if t.measurement)
    assert smallest < sizes[0]
    words = sentences(snapshot, kb=(sizes[0] - 1) / 1000, metric=None)
    assert "No finalist keeps these limits" in words
    assert "Ship \ntrial " in words


def test_a_study_without_a_trial_says_so(tmp_path: Path) -> None:
    write_study(tmp_path, "empty", 0, finalists=0)
    assert "No trial has finished yet" in sentences(Library(str(tmp_path)).get("empty"))


@given(st.integers(1, 10**9))
@example(100_000)
def test_limits_of_a_link_are_exactly_the_sliders(size_bytes: int) -> None:
    limits = Limits(kb=size_bytes / 1000)
    view = View(limits=(("kb", limits.kb),))
    again = View.parse(view.query())
    assert replace(limits, **dict(again.limits)).budget().size_bytes == size_bytes


def test_statuses_do_not_depend_on_the_order_of_sizes(snapshots: dict[str, Snapshot]) -> None:
    """Candidates come by size, rows by number: mixing them up would colour the wrong points."""
    snapshot = snapshots["with"]
    numbers = [trial.number for trial in snapshot.candidates.trials]
    assert numbers != sorted(numbers)
    view = View(limits=(("kb", 60.0),))
    frame = frames_under(snapshot, answer_under(snapshot, view))[0]
    over = frame["status"] == tables.MISSES_LIMIT
    too_large = frame["size_bytes"].to_numpy(dtype=float, na_value=np.nan) > 60_000
    assert over[too_large].all()
