"""The same queries under several settings, side by side."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import QueryError
from oraculo_kit.evaluating.comparison import Comparison
from oraculo_kit.evaluating.measures import rank_biased_overlap
from oraculo_kit.storage import VetorStorage, open_storage
from oraculo_kit.storage.results import Hit, SearchResults
from tests.storage.kit import TinyEmbeddings, texts

HOSTILE = "<img src=x onerror=alert(1)> nota \x1b[31m fiscal \u202e"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VetorStorage]:
    with open_storage(tmp_path / "base", TinyEmbeddings()) as opened:
        opened.write([Document(text, metadata={"source": f"{n}.md"}) for n, text in enumerate(texts())])
        yield opened


def results(*ids: str, query: str = "nota") -> SearchResults:
    hits = tuple(Hit(id, f"texto {id}", 1 / place, id, {"source": id}) for place, id in enumerate(ids, 1))
    return SearchResults(hits, query)


def three() -> Comparison:
    found = {"um": (results("a", "b", "c"),), "dois": (results("c", "a", "d"),), "três": (results(),)}
    return Comparison(("nota",), found)


def test_a_row_per_chunk_says_its_rank_under_each_and_the_difference() -> None:
    frame = three().to_pandas().set_index("id")
    assert list(frame.index) == ["a", "c", "b", "d"]
    assert frame["um rank"].tolist() == [1, 3, 2, pd.NA]
    assert frame["dois rank"].tolist() == [2, 1, pd.NA, 3]
    assert frame["dois difference"].tolist() == [-1, 2, pd.NA, pd.NA]
    assert frame["três rank"].isna().all()
    assert frame.loc["c", "dois score"] == 1.0
    assert "um difference" not in frame


def test_the_overlap_is_counted_and_weighed() -> None:
    overlap = three().overlap
    assert list(overlap["configuration"]) == ["dois", "três"]
    assert list(overlap["common"]) == [2, 0]
    assert list(overlap["share"]) == [pytest.approx(2 / 3), 0]
    assert list(overlap["rbo"]) == [rank_biased_overlap("abc", "cad"), 0]


def test_a_table_shows_who_moved_who_is_new_and_who_is_gone() -> None:
    shown = repr(three())
    assert "'nota' (dois 2 in common, " in shown
    cells = [re.split(r"\s{2,}", line)[:4] for line in shown.split("\n")]
    assert ["1", "2 (-1)", "-", "a"] in cells
    assert ["3", "1 (+2)", "-", "c"] in cells
    assert ["2", "-", "-", "b"] in cells
    assert ["-", "3 (new)", "-", "d"] in cells
    assert shown.endswith("três shares 0% of the hits with um (rank-biased overlap 0.00)")


def test_modes_are_compared_on_a_real_store(store: VetorStorage) -> None:
    found = oraculo.compare(
        ["nota fiscal", "férias"], ["hybrid", "vector", {"mode": "text", "k": 2}], 4, store=store
    )
    assert found.names == ("hybrid", "vector", "text, k=2")
    frame = found.to_pandas()
    for name, results_ in found.results.items():
        for query, result in zip(found.queries, results_, strict=True):
            ranked = frame[frame["query"] == query].dropna(subset=f"{name} rank").sort_values(f"{name} rank")
            assert list(ranked["id"]) == [hit.id for hit in result]
            assert list(ranked[f"{name} score"]) == [hit.score for hit in result]
    assert len(found.results["text, k=2"][0]) == 2
    assert len(found.overlap) == 4


def test_the_same_setting_twice_is_the_same_ranking(store: VetorStorage) -> None:
    found = oraculo.compare("nota fiscal", ["hybrid", "hybrid"], store=store)
    assert list(found.overlap["rbo"]) == [1.0]
    assert set(found.to_pandas()["hybrid (2) difference"]) == {0}
    assert "(=)" in repr(found)


def test_two_stores_are_compared(store: VetorStorage, tmp_path: Path) -> None:
    with open_storage(tmp_path / "outra", TinyEmbeddings(salt="x")) as other:
        other.write([Document(text, metadata={"source": f"{n}.md"}) for n, text in enumerate(texts())])
        found = oraculo.compare("nota", [{"mode": "text"}, {"mode": "text", "store": other}], store=store)
    assert found.names == ("text", "text, store=outra")
    assert list(found.overlap["share"]) == [1.0]


def test_nothing_of_a_document_query_or_name_is_obeyed(tmp_path: Path) -> None:
    with open_storage(tmp_path / "base", TinyEmbeddings()) as hostile:
        hostile.write([Document(HOSTILE, metadata={"source": HOSTILE})])
        found = oraculo.compare(HOSTILE, {HOSTILE: {}, "<b>": {"mode": "text"}}, store=hostile)
    for shown in (repr(found), found._repr_html_(), found.summary()):
        assert not {"\x1b", "\u202e"} & set(shown)
    assert "<img" not in found._repr_html_()
    assert "<b>" not in found._repr_html_()
    assert "mathjax_ignore" in found._repr_html_()


def test_many_queries_show_the_first_ones_and_say_how_many_more_there_are() -> None:
    found = Comparison(tuple(map(str, range(500))), {"a": (results("x"),) * 500, "b": (results("x"),) * 500})
    for shown in (repr(found), found._repr_html_()):
        assert "... and 490 more; .to_pandas() has them all" in shown
        assert len(shown) < 12_000
    assert len(found.to_pandas()) == 500


def test_finding_nothing_is_shown_too(tmp_path: Path) -> None:
    with open_storage(tmp_path / "vazia", TinyEmbeddings()) as empty:
        found = oraculo.compare("nota", ["hybrid", "text"], store=empty)
    assert found.to_pandas().empty
    assert list(found.overlap["rbo"]) == [1.0]
    assert "'nota'" in repr(found)


def test_a_comparison_travels() -> None:
    assert pickle.loads(pickle.dumps(three())) == three()


@pytest.mark.parametrize(
    ("queries", "configurations", "said"),
    [
        ([], ["text", "vector"], "got no query"),
        (["a", 3], ["text", "vector"], "got a query of type int"),
        ([None], ["text", "vector"], "got a query of type NoneType"),
        (None, ["text", "vector"], "got a query of type NoneType"),
        ("a", ["text"], "got one configuration .'text'., expected two or more"),
        ("a", ["text", "fuzzy"], "mode is 'fuzzy'"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    store: VetorStorage, queries: Any, configurations: Any, said: str
) -> None:
    with pytest.raises(QueryError, match=said):
        oraculo.compare(queries, configurations, store=store)
