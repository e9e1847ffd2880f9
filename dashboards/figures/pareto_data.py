"""What the Pareto plot shows: which trials, thinned where they hide each other, and which views."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from dashboards.figures.axes import padded, padded_log
from dashboards.figures.thinning import CELLS, thin
from dashboards.tables import DOMINATED, FRONT, MISSES_LIMIT, losses_of, with_over_limits
from spaces import Judge, Metric

__all__ = [
    "SYMBOLS",
    "Faint",
    "ParetoInfo",
    "Ranges",
    "XAxis",
    "numbers",
    "pareto_info",
    "places_of",
]

XAxis = Literal["size_bytes", "download_bytes", "latency_ms"]
#: A view: (lowest, highest) of x, and of the metric, in the data's units.
Ranges = tuple[tuple[float, float], tuple[float, float]]
#: Orders of the front with a symbol of their own.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon")
#: More faint points than this share marks where they would hide each other, on a grid that is
#: coarsened until there are no more marks than this: the figure stays below 400 KB.
_MOST_MARKS = 600
_COARSER = 0.85


class Faint(NamedTuple):
    """Trials of the background. Those that would hide each other share a mark.

    Attributes:
        rows: of the trial table, one a mark.
        counts: (marks,), how many trials each stands for, itself included.
    """

    rows: pd.DataFrame
    counts: np.ndarray

    @property
    def total(self) -> int:
        """Trials, drawn or stood for."""
        return int(self.counts.sum())


class ParetoInfo(NamedTuple):
    """Everything the Pareto plot shows.

    Attributes:
        metric: of the vertical axis.
        x: the column of the horizontal axis.
        dominated, over_budget: of the search's fidelity, thinned where they lie dense.
        front: rows of the trial table, of the search's fidelity.
        finalists: rows of the trial table of the full fidelity, feasible or not.
        references: rows of either status that are reference policies.
        pick: the row to ship, a frame of no or one row.
        tuned: x_from, metric_from, x_to, metric_to: what full fine-tuning made of a searched trial.
        staircase: x, metric: corners, small to large, no corner beaten in the two.
        staircase_is_feasible: False when nothing kept the budget: the corners of everything.
        orders: the stage orders that have a symbol of their own, commonest on the front first.
        baseline_metric, baseline_size_bytes, baseline_latency_ms: the uncompressed network.
        baseline_x: of these, the horizontal axis; None where it is not known.
        x_limit, metric_limit: the budget's lines on these two axes, None without.
        x_range, metric_range: the first view.
        all_x_range, all_metric_range: what shows every trial.
        shown: what a reader looks at now: the first view, or where they zoomed to.
        hidden_count: trials outside the first view.
        latency_words: what the latencies are, e.g. "modelled".
        secondary: what hover texts say beside the metric.
    """

    metric: Metric
    x: XAxis
    dominated: Faint
    over_budget: Faint
    front: pd.DataFrame
    finalists: pd.DataFrame
    references: pd.DataFrame
    pick: pd.DataFrame
    tuned: pd.DataFrame
    staircase: pd.DataFrame
    staircase_is_feasible: bool
    orders: tuple[str, ...]
    baseline_metric: float
    baseline_size_bytes: int
    baseline_latency_ms: float
    baseline_x: float | None
    x_limit: float | None
    metric_limit: float | None
    x_range: tuple[float, float]
    metric_range: tuple[float, float]
    all_x_range: tuple[float, float]
    all_metric_range: tuple[float, float]
    shown: Ranges
    hidden_count: int
    latency_words: str
    secondary: tuple[Metric, ...] = ()

    @property
    def views(self) -> dict[str, dict[str, list[float]]]:
        """Name of a view -> plotly's relayout arguments; the first is how it is drawn."""
        if self.x_range == self.all_x_range and self.metric_range == self.all_metric_range:
            return {}

        def view(x: tuple[float, float], metric: tuple[float, float]) -> dict[str, list[float]]:
            return {
                "xaxis.range": [math.log10(limit) for limit in x],
                "yaxis.range": list(metric),
            }

        return {
            "front": view(self.x_range, self.metric_range),
            "all trials": view(self.all_x_range, self.all_metric_range),
        }

    @property
    def is_thinned(self) -> bool:
        """Whether some marks stand for several trials."""
        return any(len(f.rows) < f.total for f in (self.dominated, self.over_budget))

    def covering(self, other: "ParetoInfo") -> "ParetoInfo":
        """This study in views that show the other one too.

        Raises:
            ValueError: the two have different axes.
        """
        for name in ("metric", "x"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"two studies in one plot need one {name}: {mine} and {theirs}")
        x_range = _union(self.x_range, other.x_range)
        metric_range = _union(self.metric_range, other.metric_range)
        is_zoomed = self.shown != (self.x_range, self.metric_range)
        return self._replace(
            x_range=x_range,
            metric_range=metric_range,
            all_x_range=_union(self.all_x_range, other.all_x_range),
            all_metric_range=_union(self.all_metric_range, other.all_metric_range),
            shown=self.shown if is_zoomed else (x_range, metric_range),
        )


def _union(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


def pareto_info(
    trials: pd.DataFrame,
    finalists: pd.DataFrame,
    judge: Judge,
    *,
    x: XAxis = "size_bytes",
    shown: Ranges | None = None,
) -> ParetoInfo:
    """What to draw of two trial tables: the search's, and the finalists' at full fidelity.

    Args:
        trials, finalists: of `trial_table`, or of `with_choice` for another budget.
        judge: with the budget that gave the tables their statuses.
        x: the horizontal axis.
        shown: where a reader zoomed to; faint points are thinned for it. None: the first view.
    """
    done = trials[trials["metric"].notna()]
    final = finalists[finalists["metric"].notna()]
    status = done["status"].to_numpy()
    front = done[status == FRONT]
    references = done[(done["reference"] != "").to_numpy()]
    picks = [rows[rows["is_pick"].to_numpy(dtype=bool)] for rows in (final, done)]
    pick = next((rows for rows in picks if len(rows)), done.iloc[:0])
    staircase = _staircase(front if len(front) else done, judge.metric, x)
    baseline_x = _baseline_x(done, judge, x)
    views = _views(
        places_of(done, x),
        places_of(front, x),
        np.concatenate([places_of(final, x), places_of(references, x), staircase.to_numpy()]),
        judge,
        [value for value in (baseline_x, getattr(judge.budget, x)) if value is not None],
    )
    now = shown or views.first
    dominated, over_budget = _faint(done, status, x, judge.metric, now)
    return ParetoInfo(
        metric=judge.metric,
        x=x,
        dominated=dominated._replace(rows=with_over_limits(dominated.rows, judge)),
        over_budget=over_budget._replace(rows=with_over_limits(over_budget.rows, judge)),
        front=front,
        finalists=with_over_limits(final, judge),
        references=with_over_limits(references, judge),
        pick=with_over_limits(pick, judge),
        tuned=_tuned(done, final, x),
        staircase=staircase,
        staircase_is_feasible=len(front) > 0,
        orders=tuple(front["order"].value_counts().index[: len(SYMBOLS)]),
        baseline_metric=judge.profile.baseline_metric,
        baseline_size_bytes=judge.profile.baseline_size_bytes,
        baseline_latency_ms=judge.profile.baseline_latency_ms,
        baseline_x=baseline_x,
        x_limit=getattr(judge.budget, x),
        metric_limit=judge.budget.metric_limit(judge.metric, judge.profile.baseline_metric),
        x_range=views.first[0],
        metric_range=views.first[1],
        all_x_range=views.whole[0],
        all_metric_range=views.whole[1],
        shown=now,
        hidden_count=_count_outside(
            np.concatenate([places_of(done, x), places_of(final, x)]), views.first
        ),
        latency_words=" / ".join(sorted(set(done["latency_source"]))),
        secondary=judge.secondary,
    )


def places_of(rows: pd.DataFrame, x: str) -> np.ndarray:
    """(rows, 2): x and the metric."""
    return np.column_stack([numbers(rows, x), numbers(rows, "metric")])


def numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """A column of the trial table as floats; what is missing is NaN."""
    values: np.ndarray = rows[column].to_numpy(dtype=float, na_value=np.nan)
    return values


def _baseline_x(done: pd.DataFrame, judge: Judge, x: XAxis) -> float | None:
    if x == "latency_ms":
        return judge.profile.baseline_latency_ms
    # The profile knows the baseline's file alone. Where every file is its own packed form, that
    # is the baseline's download too.
    is_known = x == "size_bytes" or bool((done[x] == done["size_bytes"]).all())
    return float(judge.profile.baseline_size_bytes) if is_known else None


class _Views(NamedTuple):
    first: Ranges
    whole: Ranges


def _views(
    done: np.ndarray, front: np.ndarray, others: np.ndarray, judge: Judge, marks: Sequence[float]
) -> _Views:
    """What is worth a close look, and everything.

    Args:
        done, front, others: (trials, 2), x and metric: all of the search, its front, and what
            else should be in the first view.
        judge: baseline and limits.
        marks: on the x axis: limit and baseline.
    """
    metric, profile = judge.metric, judge.profile
    limit = judge.budget.metric_limit(metric, profile.baseline_metric)
    focus = np.concatenate([front, others])
    x = np.append(_worth_a_look(focus, judge)[:, 0], marks)
    must = np.array(
        [
            *([] if limit is None else [limit]),
            profile.baseline_metric,
            *_worth_a_look(front, judge)[:, 1],
        ]
    )
    y = np.append(must, _readable(metric, focus[:, 1], must))
    whole = (
        padded_log(np.concatenate([x, done[:, 0]])),
        padded(np.concatenate([y, done[:, 1], focus[:, 1]])),
    )
    # Without a front there is nothing to look at closely: show what was found.
    if len(front) == 0:
        return _Views(whole, whole)
    return _Views((padded_log(x) if len(x) else whole[0], padded(y, 0.1)), whole)


def _worth_a_look(places: np.ndarray, judge: Judge) -> np.ndarray:
    """Those that add hypervolume: without a metric limit a network that guesses is on the front."""
    losses = losses_of(judge.metric, places[:, 1])
    worth: np.ndarray = places[losses < judge.reference[0]]
    return worth


def _readable(metric: Metric, values: np.ndarray, must: np.ndarray) -> np.ndarray:
    """The values worth an axis: those not much worse than the worst of `must`.

    One network destroyed to chance level would press the whole front into a line at the top.
    """
    losses = losses_of(metric, must)
    worst = float(losses.max())
    spread = worst - float(losses.min())
    limit = worst + max(spread, 0.02 if metric.unit == "share" else 0.1 * abs(worst))
    return values[losses_of(metric, values) <= limit]


def _staircase(rows: pd.DataFrame, metric: Metric, x: XAxis) -> pd.DataFrame:
    """The places no other beats in x and metric. A 3-D front has members beyond them."""
    places = places_of(rows, x)
    losses = losses_of(metric, places[:, 1])
    order = np.lexsort((losses, places[:, 0]))
    best_before = np.minimum.accumulate(np.append(np.inf, losses[order]))[:-1]
    return pd.DataFrame(places[order[losses[order] < best_before]], columns=["x", "metric"])


def _faint(
    done: pd.DataFrame, status: np.ndarray, x: XAxis, metric: Metric, shown: Ranges
) -> tuple[Faint, Faint]:
    """The dominated trials and those over the budget, thinned together when they are many."""
    places = places_of(done, x)
    kinds = [np.flatnonzero(status == kind) for kind in (DOMINATED, MISSES_LIMIT)]
    if sum(map(len, kinds)) <= _MOST_MARKS:
        dominated, over = (Faint(done.iloc[at], np.ones(len(at), dtype=int)) for at in kinds)
        return dominated, over
    cells = CELLS
    while True:
        marks = [
            thin(
                places[at, 0],
                places[at, 1],
                *shown,
                cells,
                higher_is_better=metric.higher_is_better,
            )
            for at in kinds
        ]
        if sum(len(chosen) for chosen, _ in marks) <= _MOST_MARKS:
            break
        cells = (int(cells[0] * _COARSER), int(cells[1] * _COARSER))
    dominated, over = (
        Faint(done.iloc[at[chosen]], counts)
        for at, (chosen, counts) in zip(kinds, marks, strict=True)
    )
    return dominated, over


def _tuned(done: pd.DataFrame, final: pd.DataFrame, x: XAxis) -> pd.DataFrame:
    """Searched trials beside the finalists of the same policy."""
    columns = ["policy_digest", x, "metric"]
    searched = done.loc[done["policy_digest"].isin(final["policy_digest"]), columns]
    pairs = searched.merge(final[columns], on="policy_digest", suffixes=("_from", "_to"))
    names = {f"{x}_from": "x_from", f"{x}_to": "x_to"}
    return pairs.rename(columns=names)[["x_from", "metric_from", "x_to", "metric_to"]].astype(float)


def _count_outside(places: np.ndarray, view: Ranges) -> int:
    low, high = np.array(view).T
    return int(((places < low) | (places > high)).any(axis=1).sum())


# Drawing -----------------------------------------------------------------------------------------
