"""The search explorer without a browser: real widgets, a real store."""

from __future__ import annotations

import contextlib
import gc
import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.embed import Embedder
from oraculo_kit.errors import EmbedderError, QueryError, StorageError
from oraculo_kit.evaluating.comparison import Comparison
from oraculo_kit.split import split_documents
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.results import SearchResults
from oraculo_kit.widgets.nodes import as_html, as_text
from oraculo_kit.widgets.reading import read_passage, reader
from oraculo_kit.widgets.search import SearchExplorer
from oraculo_kit.widgets.searching import Condition, Question, Way, typed_value
from oraculo_kit.widgets.tabs import EXPLORERS
from tests.openai_server import KEY, OpenAIServer, embeds, server

__all__ = ["server"]

TEXT = "\n\n".join(
    f"Passo {place}: a nota fiscal número {place} é emitida no portal da prefeitura." for place in range(40)
)


@pytest.fixture
def store(project: Path) -> Iterator[FaissVetorStorage]:
    with FaissVetorStorage(project / "base", durability="process") as opened:
        for year in (2023, 2024):
            document = Document(
                TEXT,
                metadata={"source": f"manual-{year}.md", "ano": year, "lang": "pt", "final": year > 2023},
            )
            opened.replace(
                f"manual-{year}.md", split_documents([document], chunk_size=300, chunk_overlap=120)
            )
        opened.replace(
            "gato.md", [Document("O gato dorme no telhado", metadata={"source": "gato.md", "ano": "s/d"})]
        )
        yield opened


@pytest.fixture
def explorer(store: FaissVetorStorage) -> Iterator[SearchExplorer]:
    shown = SearchExplorer("nota fiscal", store=store)
    assert shown.wait()
    assert shown.error is None
    yield shown
    shown.close()


def lists(explorer: SearchExplorer) -> str:
    return "\n".join(as_text(child) for pane in explorer._lists for child in pane.children)


def ran(code: str) -> dict[str, Any]:
    """Run code as a user would, and return its names; ``last`` is what its last line gave."""
    lines = code.rstrip("\n")
    names: dict[str, Any] = {}
    import ast

    tree = ast.parse(lines)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<code>", "exec"), names)
        names["last"] = eval(compile(ast.Expression(last.value), "<code>", "eval"), names)
    names["printed"] = printed.getvalue()
    return names


def test_a_question_is_answered_with_marks_and_parts(explorer: SearchExplorer) -> None:
    assert isinstance(explorer.results, SearchResults)
    assert len(explorer.results) > 10
    shown = lists(explorer)
    assert "1. manual-202" in shown
    assert "BM25" in shown
    html = "".join(as_html(child) for child in explorer._lists[0].children)
    assert "<mark>nota</mark> <mark>fiscal</mark>" in html


def test_code_gives_the_page_that_is_on_the_screen(explorer: SearchExplorer) -> None:
    explorer._told("A", "page", 1, None)
    assert isinstance(explorer.results, SearchResults)
    found = ran(explorer.code())
    assert found["results"].hits == explorer.results.hits
    assert found["last"] == explorer.results[10:20]
    found["store"].close()


def test_code_gives_filter_way_and_the_passage_that_is_open(explorer: SearchExplorer) -> None:
    explorer._way.mode.value = "text"
    explorer._way.one_per_source.value = True
    explorer._filter.add()
    assert explorer.wait()
    row = explorer._filter.children[0]
    row.key.value = "ano"
    assert explorer.wait()
    row.value.value = "2024"
    assert explorer.wait()
    assert isinstance(explorer.results, SearchResults)
    assert {hit.source for hit in explorer.results} == {"manual-2024.md"}
    explorer.open_hit(0)
    assert explorer.wait()
    found = ran(explorer.code())
    assert found["results"].hits == explorer.results.hits
    assert explorer.results[0].text in found["printed"]
    assert "filter={'ano': 2024}" in explorer.code()
    found["store"].close()


def test_code_of_a_comparison_gives_the_comparison(explorer: SearchExplorer) -> None:
    explorer._compare.value = True
    assert explorer.wait()
    assert isinstance(explorer.results, Comparison)
    assert "A: hybrid" in lists(explorer)
    assert "B: text" in lists(explorer)
    assert ran(explorer.code())["last"].to_pandas().equals(explorer.results.to_pandas())


def test_code_of_the_base_of_the_services_needs_no_store(project: Path) -> None:
    oraculo.ingest([Document("Como emitir nota fiscal", metadata={"source": "a.md"})], progress=False)
    explorer = oraculo.SearchExplorer("nota\x1b[31m 'fiscal\"", k=10)
    assert explorer.wait()
    assert ran(explorer.code())["last"] == explorer.results
    explorer.close()


def test_ticked_hits_are_the_selection_else_the_open_one(explorer: SearchExplorer) -> None:
    assert len(explorer.selection) == 0
    assert list(explorer.selection.columns)[:3] == ["id", "score", "vector_score"]
    explorer.open_hit(2)
    assert explorer.wait()
    assert isinstance(explorer.results, SearchResults)
    assert list(explorer.selection["id"]) == [explorer.results[2].id]
    explorer._told("A", "tick", {"place": 0, "name": "A"}, True)
    explorer._told("A", "tick", {"place": 1, "name": "A"}, True)
    explorer._told("A", "tick", {"place": 1, "name": "A"}, False)
    assert list(explorer.selection["id"]) == [explorer.results[0].id]


def test_a_newer_question_takes_the_place_of_an_older(explorer: SearchExplorer) -> None:
    for word in ("gato", "passo", "portal", "prefeitura", "gato dorme"):
        explorer.search(word)
    assert explorer.wait()
    assert explorer.question.query == "gato dorme"
    assert isinstance(explorer.results, SearchResults)
    assert explorer.results.query == "gato dorme"
    assert explorer.results[0].source == "gato.md"


def test_a_question_that_cannot_be_asked_is_shown_as_text(
    explorer: SearchExplorer, store: FaissVetorStorage
) -> None:
    store.close()
    explorer.search("outra pergunta")
    assert explorer.wait()
    assert isinstance(explorer.error, StorageError)
    assert "open it again" in "".join(as_text(child) for child in explorer._message.children)


def test_asking_nothing_shows_nothing(explorer: SearchExplorer) -> None:
    explorer.search("  ")
    assert explorer.wait()
    assert explorer.results is None
    assert "Ask something" in lists(explorer)


def test_a_hit_is_read_with_its_neighbours_and_what_they_share(
    explorer: SearchExplorer, store: FaissVetorStorage
) -> None:
    passage = read_passage(store, "manual-2024.md", 3)
    assert passage.before is not None
    assert passage.after is not None
    tree = reader(passage, lambda text: text, title="manual-2024.md")
    html = as_html(tree)
    assert html.count("oraculo-overlap") == 2
    whole = as_text(tree)
    assert f"chunk {4}" in whole
    shown = "".join(whole.split())
    start, end = passage.before.metadata["start"], passage.after.metadata["end"]
    assert "".join(TEXT[start:end].split()) in shown  # nothing twice, nothing left out


def test_the_ends_of_a_document_have_no_neighbour(store: FaissVetorStorage) -> None:
    only = read_passage(store, "gato.md", 0)
    assert (only.before, only.after) == (None, None)
    with pytest.raises(QueryError, match="not in the store any more"):
        read_passage(store, "gato.md", 1)


def test_values_to_choose_from_keep_their_types(store: FaissVetorStorage) -> None:
    assert [key.name for key in store.metadata_keys()] == ["ano", "end", "final", "lang", "start"]
    values = dict(store.metadata_values("ano"))
    assert set(values) == {2023, 2024, "s/d"}
    assert values["s/d"] == 1
    assert set(dict(store.metadata_values("final"))) == {True, False}
    assert [value for value, _ in store.metadata_values("source", 2)] == ["manual-2023.md", "manual-2024.md"]
    assert store.metadata_values("nobody has it") == []
    assert len(store.metadata_values("start", 3)) == 3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda store: store.metadata_values(3), "got int as metadata key"),
        (lambda store: store.metadata_values("ano", 0), "limit is 0"),
        (lambda store: store.source_chunks(None), "got NoneType as source"),
        (lambda store: store.source_chunks("a", 0.5), "first is 0.5"),
        (lambda store: store.source_chunks("a", 0, 1000), "1000 chunks at most"),
        (lambda store: SearchExplorer(3, store=store), "got int as query"),
        (lambda store: SearchExplorer(mode="fuzzy", store=store), "mode is 'fuzzy'"),
        (lambda store: SearchExplorer(k=0, store=store), "k is 0"),
    ],
)
def test_wrong_arguments_are_named(store: FaissVetorStorage, call: Any, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        call(store)


def test_conditions_make_a_filter() -> None:
    assert Question().filter is None
    both = (Condition("ano", "$gte", 2023), Condition("ano", "$exists"))
    assert Question(conditions=both).filter == {"$and": [{"ano": {"$gte": 2023}}, {"ano": {"$exists": True}}]}
    assert Way("vector", diverse=True).keywords() == {"mode": "vector", "mmr": True}
    assert typed_value("1e3", [1.5]) == 1000.0


def test_explore_answers_as_the_explorer_in_front(project: Path) -> None:
    explorers = oraculo.explore()
    assert explorers.current.title == "Search"
    assert explorers.code() == explorers.current.code()
    assert list(explorers.selection.columns) == list(explorers.current.selection.columns)
    assert "Ask something" in explorers.snapshot()
    explorers.close()


def test_an_empty_base_says_so(project: Path) -> None:
    with FaissVetorStorage(project / "empty", durability="process") as empty:
        explorer = SearchExplorer("nota", store=empty)
        assert explorer.wait()
        assert "The base is empty. Fill it: oraculo.ingest" in lists(explorer)
        empty.write([Document("A nota fiscal")])
        explorer.search("zzzz -nota")
        assert explorer.wait()
        assert "The base is empty" not in lists(explorer)
        explorer.close()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "show",
    [
        oraculo.explore,
        *(partial(kind, store="base") for kind in EXPLORERS),
    ],
)
def test_what_is_no_store_is_refused_and_leaves_nothing_behind(
    show: Callable[..., object], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    given = () if isinstance(show, partial) else ("base",)
    with pytest.raises(QueryError, match=r"got str as store, expected a VetorStorage, such as open_storage"):
        show(*given)
    gc.collect()
    assert unraisable == []


def test_the_explorer_speaks_portuguese(store: FaissVetorStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACULO_LANG", "pt_BR")
    explorer = SearchExplorer("nota", store=store)
    assert explorer.wait()
    assert explorer._button.description == "Buscar"
    assert 'lang="pt-BR"' in explorer.snapshot()
    explorer.close()


def test_the_model_is_ready_before_the_first_question_is_typed(store: FaissVetorStorage) -> None:
    fresh = Embedder("wordllama")
    with FaissVetorStorage(store.location, embedder=fresh) as reopened:
        explorer = SearchExplorer(store=reopened)
        assert explorer.wait()
        assert fresh._model is not None
        assert explorer.results is None
        assert explorer.error is None
        explorer.close()


def test_a_model_in_a_server_is_asked_nothing_that_nobody_asked(
    project: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.route = embeds()
    with FaissVetorStorage(project / "remote", embedder=Embedder("openai:text-embedding-test")) as store:
        store.write([Document("nota fiscal", metadata={"source": "a.md"})])
        server.requests.clear()
        explorer = SearchExplorer(store=store)
        assert explorer.wait()
        assert not server.requests
        explorer.search("nota")
        assert explorer.wait()
        assert server.texts == ["nota"]
        explorer.close()


def test_a_model_that_cannot_be_loaded_is_told_before_anybody_asks(project: Path) -> None:
    embedder = Embedder("sentence-transformers:there-is-no-such-model")
    with FaissVetorStorage(project / "base", embedder=embedder) as store:
        explorer = SearchExplorer(store=store)
        assert explorer.wait()
        assert isinstance(explorer.error, EmbedderError)
        assert "there-is-no-such-model" in as_text(explorer._message.children[0])
        explorer.close()


def test_a_new_key_does_not_offer_the_values_of_the_one_before(explorer: SearchExplorer) -> None:
    explorer._filter.add()
    assert explorer.wait()
    row = explorer._filter.children[0]
    assert "gato.md" in row.value.options
    offered: list[tuple[str, ...]] = []
    row.value.observe(lambda change: offered.append(change["new"]), "options")
    row.key.value = "ano"
    assert explorer.wait()
    assert offered[0] == ()
    assert "2023" in offered[-1]
