"""A second opinion on the order of hits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document

from oraculo_kit.errors import OraculoError, RerankingError
from oraculo_kit.reranking import rerank
from oraculo_kit.storage.results import Hit

SECRET = "sk-planted-9d1c4b7a"
HITS = [
    Hit("1", "nota fiscal", 0.9, "a.md", {"page": 1}, 0, 0.5, 3.0),
    Hit("2", "prazo da nota", 0.8, "b.md", {"tags": ["x"]}, 4, 0.4, 2.0),
    Hit("3", "o gato dorme", 0.7, "c.md", {}, 0, None, 0.0),
]


class CrossEncoder(BaseCrossEncoder):
    """Scores a pair by the words that both texts have."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [float(len(set(query.split()) & set(text.split()))) for query, text in text_pairs]


class SentenceTransformersLike:
    def predict(self, sentences: list[tuple[str, str]]) -> Any:
        return np.array(CrossEncoder().score(sentences), np.float32)


class Compressor(BaseDocumentCompressor):
    """As LangChain's cross-encoder reranker: the best two, with or without their scores."""

    scored: bool = True
    copied: bool = False

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        scores = CrossEncoder().score([(query, document.page_content) for document in documents])
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[:2]
        for place in order:
            documents[place].metadata.setdefault("tags", []).append("changed")
            if self.scored:
                documents[place].metadata["relevance_score"] = scores[place]
        if self.copied:
            return [
                Document(documents[place].page_content, metadata=documents[place].metadata) for place in order
            ]
        return [documents[place] for place in order]


def by_function(query: str, texts: list[str]) -> Any:
    return (score for score in CrossEncoder().score([(query, text) for text in texts]))


@pytest.mark.parametrize("reranker", [CrossEncoder(), SentenceTransformersLike(), by_function])
def test_every_kind_of_scorer_orders_the_hits_and_keeps_all_else(reranker: Any) -> None:
    found = rerank("prazo da entrega", HITS, reranker)
    assert [(hit.id, hit.score) for hit in found] == [("2", 2.0), ("1", 0.0), ("3", 0.0)]
    assert all(type(hit.score) is float for hit in found)
    [second] = [hit for hit in found if hit.id == "2"]
    assert (second.vector_score, second.text_score, second.ordinal, second.source) == (0.4, 2.0, 4, "b.md")
    assert second.metadata is HITS[1].metadata


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_a_compressor_orders_and_leaves_out_and_cannot_change_a_hit(scored: bool, copied: bool) -> None:
    found = rerank("prazo da entrega", HITS, Compressor(scored=scored, copied=copied))
    assert [hit.id for hit in found] == ["2", "1"]
    assert found[0].score == (2.0 if scored else 0.8)
    assert found[0].metadata == {"tags": ["x"]}


def test_nothing_is_asked_about_no_hits() -> None:
    assert rerank("prazo", [], lambda query, texts: 1 / 0) == []
    with pytest.raises(RerankingError, match="got int as reranker"):
        rerank("prazo", [], 3)


@pytest.mark.parametrize(
    ("reranker", "said"),
    [
        (3, "got int as reranker"),
        (CrossEncoder, "got CrossEncoder as reranker"),
        (lambda query, texts: [1.0], "returned 1 scores for 3 hits"),
        (lambda query, texts: [1.0, float("nan"), 2.0], "expected one finite number"),
        (lambda query, texts: "abc", "not one number per hit"),
        (lambda query, texts: None, "NoneType that is not one number"),
        (lambda query, texts: np.zeros((3, 2)), "not one number per hit"),
    ],
)
def test_what_cannot_be_used_is_refused(reranker: Any, said: str) -> None:
    with pytest.raises(RerankingError, match=said):
        rerank("prazo", HITS, reranker)


def test_a_compressor_that_invents_documents_is_refused() -> None:
    class Inventor(Compressor):
        def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> list[Document]:
            return [Document("inventado")]

    with pytest.raises(RerankingError, match="a document that it was not given"):
        rerank("prazo", HITS, Inventor())


def test_a_reranker_that_fails_says_why_without_its_key() -> None:
    before = dict(os.environ)
    os.environ["COHERE_API_KEY"] = SECRET

    def fail(query: str, texts: list[str]) -> list[float]:
        raise ConnectionError(f"403 for key {SECRET}")

    try:
        with pytest.raises(
            RerankingError, match=r"the reranker fail failed: ConnectionError: 403 for key \*\*\*"
        ) as caught:
            rerank("prazo", HITS, fail)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert isinstance(caught.value, OraculoError)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
