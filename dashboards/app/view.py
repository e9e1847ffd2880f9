"""What a page shows, as its URL: a shared link shows the same.

`/` lists the studies; `/study/NAME/front?kb=100&a=17` is a page of one. The query holds what a
reader moved away from the default, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar
from urllib.parse import parse_qs, quote, unquote, urlencode

from dashboards.figures import Over, XAxis
from spaces import BYTES_PER_KB, Budget, InvalidRequest

__all__ = ["PAGES", "Limits", "Place", "View", "place_of", "study_path"]

#: Pages of a study, in the order of the tabs.
PAGES = ("front", "trials", "progress", "insight")
X_AXES: tuple[XAxis, ...] = ("size_bytes", "download_bytes", "latency_ms")
SHAPES = ("2d", "3d")
OVERS: tuple[Over, ...] = ("trials", "seconds")
#: In the URL a limit that was taken away altogether, as opposed to one that was left alone.
_NONE = "none"
#: Limits beyond these are nonsense; also in assets/dashboard.js.
_LEAST, _MOST = 1e-9, 1e12

Text = TypeVar("Text", bound=str)


@dataclass(frozen=True)
class Limits:
    """The sliders: None = no limit.

    Attributes:
        kb, download_kb: of the file and of its packed form; 1 KB = 1000 bytes.
        ms: latency of one inference.
        metric: the least acceptable metric (the greatest, where lower is better).
    """

    kb: float | None = None
    download_kb: float | None = None
    ms: float | None = None
    metric: float | None = None

    def budget(self) -> Budget:
        """As the search understands it."""

        def whole_bytes(kb: float | None) -> int | None:
            return None if kb is None else max(1, round(kb * BYTES_PER_KB))

        return Budget(
            size_bytes=whole_bytes(self.kb),
            download_bytes=whole_bytes(self.download_kb),
            latency_ms=self.ms,
            min_metric=self.metric,
        )

    @classmethod
    def of(cls, budget: Budget, metric_limit: float | None) -> "Limits":
        """A study's own. `metric_limit` is `Budget.metric_limit`: a drop becomes a value."""

        def kb(size_bytes: int | None) -> float | None:
            return None if size_bytes is None else size_bytes / BYTES_PER_KB

        return cls(
            kb(budget.size_bytes), kb(budget.download_bytes), budget.latency_ms, metric_limit
        )


@dataclass(frozen=True)
class View:
    """What a reader chose; a default is left out of the URL.

    Attributes:
        limits: limit -> value, None for "no limit"; only those moved away from the study's own.
        x: the horizontal axis of the front, one of X_AXES.
        shape: "2d" or "3d".
        beside: another study drawn over this one, "" for none.
        a, b: trials by name ("17", "3@full"): the point looked at, and what it is compared with.
        over: progress over "trials" or "seconds".
        sort, text, page: of the trial table.
    """

    limits: tuple[tuple[str, float | None], ...] = ()
    x: XAxis = X_AXES[0]
    shape: str = SHAPES[0]
    beside: str = ""
    a: str = ""
    b: str = ""
    over: Over = OVERS[0]
    sort: str = ""
    text: str = ""
    page: int = 1

    def limits_on(self, own: Limits) -> Limits:
        """The study's own limits, but those that were moved."""
        moved = dict(self.limits)
        return replace(own, **{name: moved[name] for name in moved})

    def query(self) -> str:
        """`"?kb=100&a=17"`, or "" where everything is as it was."""
        pairs = [(name, _limit_text(value)) for name, value in self.limits]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "limits" and value != field.default:
                pairs.append((field.name, str(value)))
        # A lone surrogate, which a browser may send, cannot be encoded.
        return f"?{urlencode(pairs, errors='replace')}" if pairs else ""

    @classmethod
    def parse(cls, search: str) -> "View":
        """From a URL's query. What does not fit is left at its default: links get mangled."""
        given = {name: values[-1] for name, values in parse_qs(search.lstrip("?")).items()}
        limits = [
            (field.name, _limit(given[field.name]))
            for field in fields(Limits)
            if field.name in given and not _is_nonsense(given[field.name])
        ]
        page = given.get("page", "1")
        return cls(
            limits=tuple(limits),
            x=_one_of(given, "x", X_AXES),
            shape=_one_of(given, "shape", SHAPES),
            beside=given.get("beside", ""),
            a=given.get("a", ""),
            b=given.get("b", ""),
            over=_one_of(given, "over", OVERS),
            sort=given.get("sort", ""),
            text=given.get("text", ""),
            page=int(page) if page.isascii() and page.isdigit() and len(page) < 7 else 1,
        )


def _limit(text: str) -> float | None:
    return None if text == _NONE else float(text)


def _limit_text(value: float | None) -> str:
    """Every digit: a link must give the same answer. `100.0` -> `"100"`."""
    return _NONE if value is None else repr(value).removesuffix(".0")


def _is_nonsense(text: str) -> bool:
    if text == _NONE:
        return False
    try:
        value = float(text)
    except ValueError:
        return True
    return not _LEAST <= value <= _MOST  # NaN is neither


def _one_of(given: Mapping[str, str], name: str, allowed: tuple[Text, ...]) -> Text:
    return next((value for value in allowed if value == given.get(name)), allowed[0])


@dataclass(frozen=True)
class Place:
    """Where in the site: the list of studies (`study` is ""), or a page of one."""

    study: str = ""
    page: str = ""


def place_of(path: str) -> Place:
    """A URL's path.

    Raises:
        InvalidRequest: there is no such page.
    """
    parts = [unquote(part) for part in path.split("/") if part]
    if not parts:
        return Place()
    if parts[0] == "study" and len(parts) in (2, 3):
        page = parts[2] if len(parts) == 3 else PAGES[0]
        if page in PAGES:
            return Place(parts[1], page)
    raise InvalidRequest(f"there is no page {path}; the list of studies is at /")


def study_path(study: str, page: str = PAGES[0]) -> str:
    """`"/study/NAME/front"`."""
    return f"/study/{quote(study, safe='')}/{page}"
