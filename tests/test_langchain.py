"""The store behind LangChain's interface, by LangChain's own test suite."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from oraculo_kit.errors import QueryError
from oraculo_kit.langchain import OraculoVectorStore
from oraculo_kit.storage import open_storage


class TestOraculoVectorStore(VectorStoreIntegrationTests):
    """LangChain's integration tests, all of them, sync and async."""

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Generator[VectorStore]:  # type: ignore[override]
        with open_storage(tmp_path / "store", self.get_embeddings()) as storage:
            yield OraculoVectorStore(storage)


@pytest.fixture
def store(tmp_path: Path) -> Generator[OraculoVectorStore]:
    """Return an empty store with the default embedder."""
    with open_storage(tmp_path / "store") as storage:
        yield OraculoVectorStore(storage)


def test_it_works_as_a_retriever_with_a_filter(store: OraculoVectorStore) -> None:
    store.add_texts(["nota fiscal", "nota musical"], [{"tema": "imposto"}, {"tema": "música"}])
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"tema": "música"}})
    assert [document.page_content for document in retriever.invoke("nota")] == ["nota musical"]


async def _ainvoke(store: OraculoVectorStore) -> list[Document]:
    return await store.as_retriever(search_kwargs={"k": 1}).ainvoke("nota fiscal")


def test_the_retriever_works_in_an_event_loop(store: OraculoVectorStore) -> None:
    store.add_texts(["nota fiscal", "gato"])
    assert asyncio.run(_ainvoke(store))[0].page_content == "nota fiscal"


def _indexed(
    store: OraculoVectorStore, records: InMemoryRecordManager, texts: dict[str, str], how: str, cleanup: Any
) -> dict[str, int]:
    """Index one document per source, with LangChain's own function, and return what it did."""
    documents = [Document(text, metadata={"source": source}) for source, text in texts.items()]
    options: Any = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "sha256"}
    if how == "sync":
        done: Any = index(documents, records, store, **options)
    else:
        done = asyncio.run(aindex(documents, records, store, **options))
    return {name: count for name, count in done.items() if count}


@pytest.fixture
def records() -> InMemoryRecordManager:
    """Return LangChain's memory of what was indexed."""
    manager = InMemoryRecordManager("test")
    manager.create_schema()
    return manager


def _texts(store: OraculoVectorStore) -> list[str]:
    return sorted(document.page_content for page in store.storage.iter_documents() for document in page)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_langchains_full_indexing_skips_replaces_and_deletes(
    store: OraculoVectorStore, records: InMemoryRecordManager, how: str
) -> None:
    assert _indexed(store, records, {"a": "um", "b": "dois"}, how, "full") == {"num_added": 2}
    assert _indexed(store, records, {"a": "um", "b": "dois"}, how, "full") == {"num_skipped": 2}
    changed = _indexed(store, records, {"a": "novo"}, how, "full")
    assert changed == {"num_added": 1, "num_deleted": 2}
    assert _texts(store) == ["novo"]
    assert [row.source for row in store.storage.sources() if row.chunks] == ["a"]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_langchains_incremental_indexing_replaces_only_the_sources_given(
    store: OraculoVectorStore, records: InMemoryRecordManager, how: str
) -> None:
    _indexed(store, records, {"a": "um", "b": "dois"}, how, "incremental")
    changed = _indexed(store, records, {"a": "novo"}, how, "incremental")
    assert changed == {"num_added": 1, "num_deleted": 1}
    assert _texts(store) == ["dois", "novo"]


def test_mmr_prefers_documents_that_differ(store: OraculoVectorStore) -> None:
    store.add_texts(["nota fiscal eletrônica", "nota fiscal eletrônica.", "gato preto no telhado"])
    found = store.max_marginal_relevance_search("nota fiscal", k=2, fetch_k=3, lambda_mult=0.1)
    assert found[1].page_content == "gato preto no telhado"


def test_mmr_takes_the_stored_vectors_and_embeds_nothing_again(tmp_path: Path) -> None:
    class Counting(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            asked.extend(texts)
            return super().embed_documents(texts)

    asked: list[str] = []
    texts = ["a", "b", "c"]
    # The stored vectors are not those of the texts: two alike, one apart.
    matrix = np.array([[1, 0.1, 0, 0], [1, 0.11, 0, 0], [0.5, 0, 1, 0]], np.float32)
    with open_storage(tmp_path / "store", Counting(size=4)) as storage:
        storage.write([Document(text) for text in texts], vectors=matrix, ids=texts)
        store = OraculoVectorStore(storage)
        found = store.max_marginal_relevance_search_by_vector([1.0, 0, 0, 0], k=2, lambda_mult=0.3)
        assert [document.page_content for document in found] == ["a", "c"]
        store.as_retriever(search_type="mmr").invoke("a")
        assert not set(asked) & set(texts)
        assert store.max_marginal_relevance_search(" ") == []


@pytest.mark.parametrize("search_type", ["similarity", "mmr", "similarity_score_threshold"])
@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_a_retriever_of_every_search_type_works_in_every_mode_sync_and_async(
    store: OraculoVectorStore, search_type: str, mode: str
) -> None:
    store.mode = mode
    store.add_texts(["nota fiscal eletrônica", "nota musical", "gato preto"], [{"n": n} for n in range(3)])
    options: dict[str, Any] = {"k": 2, "filter": {"n": {"$lt": 2}}}
    if search_type == "similarity_score_threshold":
        options["score_threshold"] = 0.05
    retriever = store.as_retriever(search_type=search_type, search_kwargs=options)
    found = [document.page_content for document in retriever.invoke("nota fiscal")]
    assert found[0] == "nota fiscal eletrônica"
    assert "gato preto" not in found
    assert [document.page_content for document in asyncio.run(retriever.ainvoke("nota fiscal"))] == found


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_relevance_lies_between_0_and_1_and_keeps_the_order(
    store: OraculoVectorStore, mode: str, how: str
) -> None:
    texts = ["nota fiscal", "nota fiscal de serviço", "música e nota", "gato preto", "o telhado da casa"]
    store.add_texts(texts * 3, ids=[str(place) for place in range(15)])
    for query in ("nota fiscal", "nota", "um gato no telhado", "xyzzy"):
        if how == "sync":
            relevant = store.similarity_search_with_relevance_scores(query, k=15, mode=mode)
        else:
            relevant = asyncio.run(store.asimilarity_search_with_relevance_scores(query, k=15, mode=mode))
        scored = store.similarity_search_with_score(query, k=15, mode=mode)
        assert [document.id for document, _ in relevant] == [document.id for document, _ in scored]
        values = [value for _, value in relevant]
        assert values == sorted(values, reverse=True)
        assert all(0 <= value <= 1 for value in values)


def test_relevance_is_the_cosine_by_vector_and_relative_to_the_best_hit_by_text(tmp_path: Path) -> None:
    with open_storage(tmp_path / "store", DeterministicFakeEmbedding(size=2)) as storage:
        query = storage.embedder.embed_queries(["nota"])[0]
        away = np.array([query, -query, [query[1], -query[0]]], np.float32)
        storage.write(
            [Document("nota nota"), Document("nota e mais palavras"), Document("gato")], vectors=away
        )
        store = OraculoVectorStore(storage)
        by_vector = store.similarity_search_with_relevance_scores("nota", mode="vector")
        assert [round(value, 5) for _, value in by_vector] == [1, 0, 0]
        by_text = store.similarity_search_with_relevance_scores("nota", mode="text")
        assert by_text[0][1] == 1
        assert 0 < by_text[1][1] < 1
        kept = store.similarity_search_with_relevance_scores("nota", mode="text", score_threshold=1.0)
        assert len(kept) == 1


def test_from_texts_makes_the_store_at_a_location(tmp_path: Path) -> None:
    embedding = DeterministicFakeEmbedding(size=8)
    store = OraculoVectorStore.from_texts(["a", "b"], embedding, location=str(tmp_path / "s"))
    assert len(store.storage) == 2
    store.storage.close()
    with pytest.raises(ValueError, match="needs location="):
        OraculoVectorStore.from_texts(["a"], embedding)


# -- keywords ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_a_score_threshold_is_the_least_cosine_in_every_mode(store: OraculoVectorStore, mode: str) -> None:
    store.add_texts(["nota fiscal de serviço", "nota musical", "um gato"])
    assert store.similarity_search("nota fiscal", mode=mode, score_threshold=0.99) == []
    every = store.similarity_search("nota fiscal", mode=mode)
    (first,) = store.similarity_search("nota fiscal", mode=mode, score_threshold=0.6)
    assert first.page_content == every[0].page_content == "nota fiscal de serviço"
    retriever = store.as_retriever(search_kwargs={"score_threshold": 0.99, "mode": mode})
    assert retriever.invoke("nota fiscal") == []
    assert store.max_marginal_relevance_search("nota fiscal", mode=mode, score_threshold=0.99) == []
    with pytest.raises(TypeError, match="give one of them"):
        store.similarity_search("nota", score_threshold=0.5, min_score=0.5)


def test_keywords_of_the_store_are_passed_on_and_unknown_ones_refused(store: OraculoVectorStore) -> None:
    store.add_texts(["nota fiscal", "nota fiscal"], [{"source": "a"}, {"source": "b"}])
    assert len(store.similarity_search("nota", unique=True)) == 1
    vector = store.embeddings.embed_query("nota")
    assert len(store.similarity_search_by_vector(vector, unique=True)) == 1
    searches: list[tuple[Any, Any]] = [
        (store.similarity_search, "nota"),
        (store.similarity_search_with_score, "nota"),
        (store.similarity_search_with_relevance_scores, "nota"),
        (store.similarity_search_by_vector, vector),
        (store.max_marginal_relevance_search, "nota"),
        (store.max_marginal_relevance_search_by_vector, vector),
    ]
    for search, query in searches:
        with pytest.raises(TypeError, match=r"unknown keywords filtro, expected some of mode, filter, "):
            search(query, filtro={"source": "a"})
    with pytest.raises(QueryError, match="can only be searched for by vector"):
        store.similarity_search_by_vector(vector, mode="text")


def test_results_that_differ_are_found_by_the_mode_of_the_store(tmp_path: Path) -> None:
    class Away(DeterministicFakeEmbedding):
        """Vectors that know nothing of words."""

    texts = [f"assunto {number}" for number in range(40)] + ["nota fiscal eletrônica"]
    with open_storage(tmp_path / "store", Away(size=64)) as storage:
        store = OraculoVectorStore(storage)
        store.add_texts(texts)
        retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 3})
        assert retriever.invoke("nota fiscal")[0].page_content == "nota fiscal eletrônica"
        by_text = store.max_marginal_relevance_search("assunto nota", k=2, mode="text", lambda_mult=1.0)
        assert [each.id for each in by_text] == [
            each.id for each in store.similarity_search("assunto nota", 2, mode="text")
        ]
        by_vector = store.max_marginal_relevance_search("nota fiscal", k=2, mode="vector", lambda_mult=1.0)
        query = store.embeddings.embed_query("nota fiscal")
        assert by_vector == store.max_marginal_relevance_search_by_vector(query, k=2, lambda_mult=1.0)


def test_one_text_and_another_number_of_metadatas_are_refused(store: OraculoVectorStore) -> None:
    with pytest.raises(QueryError, match="got a str as texts, expected a list"):
        store.add_texts("texto")
    with pytest.raises(ValueError, match="got 2 metadatas for 1 texts, expected one for each"):
        store.add_texts(["a"], metadatas=[{}, {}])
    assert len(store.storage) == 0


def test_a_store_is_not_pickled_and_says_how_to_open_it_there(store: OraculoVectorStore) -> None:
    for each in (store, store.storage):
        with pytest.raises(
            TypeError, match=r"got a FaissVetorStorage to pickle .*open_storage\(store.location\)"
        ):
            pickle.dumps(each)
