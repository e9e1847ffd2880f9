"""What a page shows and its URL are the same thing."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dashboards.app.view import (
    PAGES,
    SHAPES,
    X_AXES,
    Limits,
    Place,
    View,
    place_of,
    study_path,
)
from spaces import Budget, InvalidRequest

#: What a browser can send: any text but lone surrogates, which UTF-8 has no bytes for.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NAMES = ("kb", "download_kb", "ms", "metric")
LIMITS = st.fixed_dictionaries(
    {}, optional={name: st.none() | st.floats(1e-9, 1e12) for name in NAMES}
)
VIEWS = st.builds(
    View,
    limits=LIMITS.map(lambda given: tuple((name, given[name]) for name in NAMES if name in given)),
    x=st.sampled_from(X_AXES),
    shape=st.sampled_from(SHAPES),
    beside=TEXTS,
    a=TEXTS,
    b=TEXTS,
    over=st.sampled_from(["trials", "seconds"]),
    sort=TEXTS,
    text=TEXTS,
    page=st.integers(0, 999_999),
)


class TestQuery:
    @given(VIEWS)
    @example(View(limits=(("kb", 0.1 + 0.2), ("metric", 0.9349999999999999))))
    @example(View(a="3@full", text="&kb=5#%2F", beside="a+b c"))
    def test_parsing_it_gives_the_view_again(self, view: View) -> None:
        assert View.parse(view.query()) == view

    def test_what_is_as_it_was_is_left_out(self) -> None:
        assert View().query() == ""
        assert View(limits=(("kb", 100.0), ("ms", None)), a="17").query() == "?kb=100&ms=none&a=17"

    @given(st.text(max_size=60) | st.text("?&=;%+.e0123kbmsnoapgex-", max_size=60))
    @example("?kb=1e400&ms=nan&metric=-1&download_kb=")
    @example("?page=\u0663&x=size&shape=4d&over=&kb=0")
    @example("?a=%ff%00&b=%&kb=none&kb=twelve")
    @example("?a=\ud800")
    def test_nonsense_is_left_at_its_default(self, search: str) -> None:
        view = View.parse(search)
        assert all(v is None or 0 < v < math.inf for _, v in view.limits)
        assert View.parse(view.query()).query() == view.query()

    @pytest.mark.parametrize(
        "query",
        ["?kb=-3", "?kb=0", "?kb=nan", "?kb=inf", "?kb=1e300", "?ms=1e-320", "?page=1.5", "?x=kb"],
    )
    def test_values_that_make_no_sense_are_no_values(self, query: str) -> None:
        assert View.parse(query) == View()


class TestLimits:
    @given(LIMITS.map(lambda given: Limits(**given)))
    def test_any_limits_make_a_budget(self, limits: Limits) -> None:
        budget = limits.budget()
        assert (budget.size_bytes is None) == (limits.kb is None)
        assert budget.latency_ms == limits.ms
        assert budget.min_metric == limits.metric

    @given(st.integers(1, 10**12), st.integers(1, 10**12))
    def test_a_studys_own_budget_survives_the_sliders(self, size: int, download: int) -> None:
        budget = Budget(size_bytes=size, download_bytes=download, latency_ms=0.3, min_metric=0.9)
        assert Limits.of(budget, 0.9).budget() == budget

    def test_only_those_moved_replace_the_studys_own(self) -> None:
        own = Limits(kb=250.0, ms=2.0)
        view = View(limits=(("kb", 100.0), ("ms", None), ("metric", 0.9)))
        assert view.limits_on(own) == Limits(kb=100.0, ms=None, metric=0.9)
        assert View().limits_on(own) == own


class TestPlaces:
    @given(TEXTS.filter(lambda text: text.strip("/")), st.sampled_from(PAGES))
    def test_a_path_leads_back_to_its_study(self, study: str, page: str) -> None:
        assert place_of(study_path(study, page)) == Place(study, page)

    def test_the_list_and_the_first_page(self) -> None:
        assert place_of("/") == Place()
        assert place_of("/study/a") == Place("a", "front")

    @pytest.mark.parametrize("path", ["/foo", "/study", "/study/a/b", "/study/a/front/x", "/%2f"])
    def test_there_is_no_other_page(self, path: str) -> None:
        with pytest.raises(InvalidRequest, match="list of studies is at /"):
            place_of(path)
