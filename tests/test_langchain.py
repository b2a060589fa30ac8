"""The store behind LangChain's interface, by LangChain's own test suite."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

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
    import asyncio

    store.add_texts(["nota fiscal", "gato"])
    assert asyncio.run(_ainvoke(store))[0].page_content == "nota fiscal"


def test_langchains_own_indexing_skips_and_cleans_up(store: OraculoVectorStore) -> None:
    records = InMemoryRecordManager("test")
    records.create_schema()
    documents = [Document("um", metadata={"source": "a"}), Document("dois", metadata={"source": "b"})]
    options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    assert index(documents, records, store, **options)["num_added"] == 2  # type: ignore[arg-type]
    assert index(documents, records, store, **options)["num_skipped"] == 2  # type: ignore[arg-type]
    assert index(documents[:1], records, store, **options)["num_deleted"] == 1  # type: ignore[arg-type]
    assert len(store.storage) == 1


def test_mmr_prefers_documents_that_differ(store: OraculoVectorStore) -> None:
    store.add_texts(["nota fiscal eletrônica", "nota fiscal eletrônica.", "gato preto no telhado"])
    found = store.max_marginal_relevance_search("nota fiscal", k=2, fetch_k=3, lambda_mult=0.1)
    assert found[1].page_content == "gato preto no telhado"


def test_from_texts_makes_the_store_at_a_location(tmp_path: Path) -> None:
    embedding = DeterministicFakeEmbedding(size=8)
    store = OraculoVectorStore.from_texts(["a", "b"], embedding, location=str(tmp_path / "s"))
    assert len(store.storage) == 2
    store.storage.close()
    with pytest.raises(ValueError, match="needs location="):
        OraculoVectorStore.from_texts(["a"], embedding)
