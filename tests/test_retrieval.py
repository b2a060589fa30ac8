"""Asking the base of this process."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.errors import QueryError, SourceNotFoundError
from oraculo_kit.storage.base import SourceDocuments
from oraculo_kit.storage.records import LedgerEntry

HOSTILE = "<img src=x onerror=alert(1)> nota \x1b[31m fiscal"


@pytest.fixture
def base(project: Path) -> Path:
    """Return a project whose base holds three documents."""
    oraculo.ingest(
        [
            Document("Como emitir nota fiscal de serviço", metadata={"source": "nota.md", "ano": 2024}),
            Document("O gato dorme no telhado", metadata={"source": "gato.md", "ano": 2023}),
            Document(HOSTILE, metadata={"source": "<b>hostile</b>", "ano": 2024}),
        ],
        progress=False,
    )
    return project


def test_hits_come_best_first_with_both_scores(base: Path) -> None:
    results = oraculo.search("emissão de notas fiscais", k=3)
    assert results[0].source == "nota.md"
    assert [hit.score for hit in results] == sorted((hit.score for hit in results), reverse=True)
    assert -1 <= (results[0].vector_score or 0) <= 1
    assert (results[0].text_score or 0) > 0


def test_results_are_a_table_a_frame_and_documents(base: Path) -> None:
    results = oraculo.search("nota", k=2)
    assert "nota.md" in repr(results)
    assert list(results.to_pandas().columns)[:2] == ["id", "score"]
    assert [document.id for document in results.documents] == [hit.id for hit in results]
    assert "<mark>nota</mark>" in results._repr_html_()


def test_nothing_of_a_document_is_obeyed_by_notebook_or_terminal(base: Path) -> None:
    results = oraculo.search("nota", k=3)
    assert "<img" not in results._repr_html_()
    assert "<b>" not in results._repr_html_()
    assert "\x1b" not in repr(results)


def test_many_queries_give_many_results_and_vectors_are_queries_too(base: Path) -> None:
    one, other = oraculo.search(["nota fiscal", "gato"], k=1)
    assert (one[0].source, other[0].source) == ("nota.md", "gato.md")
    vector = oraculo.vetor_storage().embedder.embed(["gato no telhado"])[0]
    assert oraculo.search(vector, k=1)[0].source == "gato.md"
    assert len(oraculo.search(np.stack([vector, vector]), k=1)) == 2


def test_a_filter_never_costs_results(base: Path) -> None:
    found = oraculo.search("gato dorme", k=2, filter={"ano": 2024})
    assert {hit.metadata["ano"] for hit in found} == {2024}
    assert len(found) == 2


@pytest.mark.parametrize(
    "query", ['"', "a AND", "nota*", "(((", "col:x", "NEAR(", "\x00", "😀", "-", "^", "'; DROP TABLE"]
)
def test_no_query_is_syntax(base: Path, query: str) -> None:
    oraculo.search(query, k=2)


def test_a_text_that_stands_in_two_documents_is_found_once(base: Path) -> None:
    copy = Document("Como emitir nota fiscal de serviço", metadata={"source": "copia.md", "ano": 2024})
    oraculo.ingest([copy], progress=False)
    found = oraculo.search("como emitir nota fiscal", k=2)
    assert [hit.source for hit in found][0] == "nota.md"
    assert len({hit.text for hit in found}) == 2
    both = oraculo.search("como emitir nota fiscal", k=2, unique=False)
    assert {hit.source for hit in both} == {"nota.md", "copia.md"}


def test_options_reach_the_store(base: Path) -> None:
    assert len(oraculo.search("nota", k=3, group_by="ano")) == 2
    assert len(oraculo.search("nota", k=3, mmr=True)) == 3
    assert len(oraculo.search("nota", k=3, min_score=1.0)) == 0
    hit = oraculo.search("gato", k=1, context=1, explain=True, exact=True)[0]
    assert hit.explanation is not None
    assert hit.context_text == hit.text


def test_a_reranker_chooses_from_more_than_k(base: Path) -> None:
    read: list[str] = []

    def by_length(query: str, texts: list[str]) -> list[float]:
        read.extend(texts)
        return [-float(len(text)) for text in texts]

    explained = oraculo.search("nota fiscal", k=1, rerank=by_length, explain=True)
    assert "\n1: before reranking, " in repr(explained)
    assert "before reranking, how the scores came about" in explained._repr_html_()
    assert "reranking" not in repr(oraculo.search("nota fiscal", k=1, explain=True))
    read.clear()
    found = oraculo.search("nota fiscal", k=1, rerank=by_length)
    assert len(read) == 3
    assert (found[0].source, found[0].score) == ("gato.md", -float(len("O gato dorme no telhado")))
    assert found[0].vector_score is not None
    one, other = oraculo.search(["nota", "gato"], k=2, rerank=by_length, group_by="source")
    assert one.hits[0].source == other.hits[0].source == "gato.md"
    assert len(oraculo.search("-", rerank=by_length)) == 0


@pytest.mark.parametrize(
    ("query", "options", "said"),
    [
        (np.ones(256, np.float32), {}, "rerank needs the text of the question"),
        ("nota", {"mmr": True}, "got mmr and rerank"),
        ("nota", {"k": 0}, "k is 0"),
    ],
)
def test_what_cannot_be_reranked_is_refused(
    base: Path, query: object, options: dict[str, object], said: str
) -> None:
    with pytest.raises(QueryError, match=said):
        oraculo.search(query, rerank=lambda query, texts: [0.0] * len(texts), **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 2.5}, "k is 2.5"),
        ({"mode": "fuzzy"}, "mode is 'fuzzy'"),
        ({"filter": "pt"}, "as filter"),
    ],
)
def test_what_cannot_be_understood_is_refused(base: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(QueryError, match=said):
        oraculo.search("nota", **arguments)  # type: ignore[arg-type]


def test_an_unknown_filter_key_warns_with_the_nearest(base: Path) -> None:
    with pytest.warns(UserWarning, match="did you mean 'ano'"):
        assert len(oraculo.search("nota", filter={"anno": 2024})) == 0


@pytest.mark.parametrize("query", ["", "  \n", "-", "\u200b", "...", "-nota"])
def test_asking_nothing_finds_nothing(base: Path, query: str) -> None:
    assert len(oraculo.search(query)) == 0


def test_money_is_not_set_as_a_formula_and_long_passages_fold(base: Path) -> None:
    text = "Hospedagem: R$ 380,00 por diária. " * 40 + "Táxi: R$ 120,00."
    oraculo.ingest([Document(text, metadata={"source": "limites"})], progress=False)
    html = oraculo.search("diária do táxi", k=1)._repr_html_()
    assert "mathjax_ignore" in html
    assert "<details><summary>" in html


def test_an_empty_base_finds_nothing_and_says_so(project: Path) -> None:
    results = oraculo.search("nota")
    assert len(results) == 0
    assert "nothing found" in repr(results)


def test_sources_lists_the_base_and_remove_deletes_one(base: Path) -> None:
    assert list(oraculo.sources()["source"]) == ["<b>hostile</b>", "gato.md", "nota.md"]
    assert oraculo.remove("gato.md") == 1
    assert len(oraculo.sources()) == 2
    with pytest.raises(SourceNotFoundError, match="did you mean"):
        oraculo.remove("nota.mx")
    with pytest.raises(SourceNotFoundError, match=r"oraculo_kit.sources\(\) lists what there is"):
        oraculo.remove("ata da reunião.md")
    with pytest.raises(QueryError, match="got NoneType as source"):
        oraculo.remove(None)  # type: ignore[arg-type]


def test_a_file_can_be_removed_by_a_relative_path(project: Path) -> None:
    (project / "a.txt").write_text("um texto", encoding="utf-8")
    oraculo.ingest("a.txt", progress=False)
    assert oraculo.remove("a.txt") == 1
    assert (project / "a.txt").exists()


def test_a_source_without_chunks_can_be_removed_too(project: Path) -> None:
    oraculo.start_services()
    vectors = np.zeros((0, 256), np.float32)
    oraculo.vetor_storage().replace_many([SourceDocuments("vazia", [], vectors, LedgerEntry())])
    assert list(oraculo.sources()["source"]) == ["vazia"]
    assert oraculo.remove("vazia") == 0
    assert len(oraculo.sources()) == 0


def test_equal_searches_give_equal_results_and_copies_travel(base: Path) -> None:
    results = oraculo.search("nota", k=3)
    assert oraculo.search("nota", k=3) == results
    copy = pickle.loads(pickle.dumps(results))
    assert copy == results
    assert copy._repr_html_() == results._repr_html_()
    assert len({*results, *copy}) == len(results)


def test_a_slice_of_results_is_shown_like_results(base: Path) -> None:
    results = oraculo.search("nota", k=3)
    assert results[:1].hits == results.hits[:1]
    assert results[:1].query == "nota"
    assert results[-1] is results.hits[-1]


def test_what_is_done_to_a_document_does_not_change_the_hit(project: Path) -> None:
    oraculo.ingest(Document("um texto", metadata={"source": "x", "tags": ["a"]}), progress=False)
    results = oraculo.search("texto", k=1)
    results.documents[0].metadata["tags"].append("b")
    assert results[0].metadata["tags"] == ["a"]
