"""Sliders: where a limit stands, in Python when a page is built and in the browser afterwards."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashboards.app.answer import own_limits
from dashboards.app.controls import LIMITS, _position, limit_ranges, limit_sliders
from dashboards.app.library import Library, Snapshot
from dashboards.app.view import View
from tests.dashboards.app.asking import open_app
from tests.dashboards.app.browsing import Reader, serve
from tests.dashboards.app.places import MAE, write_study
from tests.dashboards.chromium import needs_chromium
from tests.dashboards.studies import IMPOSSIBLE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("controls")
    write_study(root, "one", 40)
    write_study(root, "mae", 20, metric=MAE)
    write_study(root, "impossible", 20, budget=IMPOSSIBLE, finalists=0)
    write_study(root, "single", 1, finalists=0)
    write_study(root, "empty", 0, finalists=0)
    return root


@pytest.fixture(scope="module")
def snapshots(place: Path) -> dict[str, Snapshot]:
    library = Library(str(place))
    return {name: library.get(name) for name in library.names()}


def spans(snapshots: dict[str, Snapshot]) -> Iterator[dict[str, Any]]:
    for snapshot in snapshots.values():
        yield from limit_ranges(snapshot).values()


def test_every_measured_value_lies_on_its_slider(snapshots: dict[str, Snapshot]) -> None:
    for snapshot in snapshots.values():
        ranges, own = limit_ranges(snapshot), own_limits(snapshot)
        if not snapshot.table["metric"].notna().any():
            assert ranges == {}
            continue
        assert set(ranges) == {"kb", "ms", "metric"}  # every file is its own packed form
        for span in ranges.values():
            assert span["low"] < span["high"]
        for trial in snapshot.trials:
            if trial.measurement is not None:
                kb, ms = trial.measurement.size_bytes / 1000, trial.measurement.latency.median_ms
                assert ranges["kb"]["low"] <= kb <= ranges["kb"]["high"]
                assert ranges["ms"]["low"] <= ms <= ranges["ms"]["high"]
        for name, span in ranges.items():
            limit = getattr(own, name)
            assert span["own"] == limit
            assert limit is None or span["low"] <= limit <= span["high"]


def test_positions_rise_with_the_limit_and_the_end_is_kept_for_none(
    snapshots: dict[str, Snapshot],
) -> None:
    for span in spans(snapshots):
        values = np.linspace(span["low"], span["high"], 50)
        places = [_position(float(value), span) for value in values]
        assert places == sorted(places)
        free = _position(None, span)
        assert free == (1000 if span["open"] == "high" else 0)
        assert free not in places
        assert all(0 <= place <= 1000 for place in places)
        for beyond in (1e-9, span["low"] / 10, span["high"] * 10, 1e12):
            assert _position(beyond, span) in (places[0], places[-1])


def test_a_better_metric_may_be_lower(snapshots: dict[str, Snapshot]) -> None:
    assert limit_ranges(snapshots["one"])["metric"]["open"] == "low"
    assert limit_ranges(snapshots["mae"])["metric"]["open"] == "high"


def test_controls_for_what_cannot_be_limited_are_out_of_sight(
    snapshots: dict[str, Snapshot],
) -> None:
    for snapshot in snapshots.values():
        shown = limit_sliders(snapshot, View())
        rows = [row for row in shown.children if getattr(row, "children", None)]
        known = limit_ranges(snapshot)
        hidden = [row for row in rows if getattr(row, "hidden", None)]
        assert len(hidden) == len(LIMITS) - len(known)


#: [range, value] pairs -> positions, by the page's own function.
_POSITIONS = """
const given = JSON.parse(arguments[0]);
return given.map(([range, value]) =>
  window.dash_clientside.dashboard.ownLimits(1, '', {...range, own: value})[1]);
"""
#: [range] -> for each position: what a slider put there writes, and whether it then stays there.
_MOVES = """
const no = window.dash_clientside.no_update;
const limit = window.dash_clientside.dashboard.limit;
window.dash_clientside.callback_context = {triggered_id: 'the slider'}; // as Dash sets it
return JSON.parse(arguments[0]).map((range) => {
  const jumped = [];
  for (let position = 0; position <= 1000; position += 1) {
    const [view] = limit(position, null, range, '');
    const query = view === no ? '' : view;
    // The page asks again with what it was given: nothing more may change.
    const [again, slider] = limit(position, null, range, query);
    if (again !== no || slider !== no) jumped.push([position, query, again]);
  }
  return jumped;
});
"""


@pytest.mark.browser
@needs_chromium
class TestInTheBrowser:
    @pytest.fixture(scope="class")
    @staticmethod
    def url(place: Path) -> Iterator[str]:
        with serve(open_app(place)) as found:
            yield found

    def test_python_and_the_page_agree_on_every_position(
        self, at_desk: Reader, snapshots: dict[str, Snapshot]
    ) -> None:
        rng = np.random.default_rng(0)
        pairs: list[tuple[dict[str, Any], float | None]] = []
        for span in spans(snapshots):
            low, high = span["low"], span["high"]
            values = [*rng.uniform(low, high, 200), low, high, low / 3, high * 3, 1e-9, 1e12]
            pairs += [(span, None), *((span, float(value)) for value in values)]
        reader = at_desk.open("/")
        found = reader.script(_POSITIONS, json.dumps(pairs))
        assert found == [_position(value, span) for span, value in pairs]
        assert len(set(found)) > 500

    def test_a_slider_stays_where_it_was_put(
        self, at_desk: Reader, snapshots: dict[str, Snapshot]
    ) -> None:
        reader = at_desk.open("/")
        jumped = reader.script(_MOVES, json.dumps(list(spans(snapshots))))
        assert all(moves == [] for moves in jumped), jumped
