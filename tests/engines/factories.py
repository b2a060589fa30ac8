"""LangChain vector stores that the tests make bases in, as a user's own module would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

FOLDER = "TEST_ENGINE_FOLDER"
"""Environment variable that says where they keep their files; children of a test read it too."""


@contextmanager
def qdrant(embeddings: Embeddings) -> Iterator[VectorStore]:
    """Give a Qdrant on this disk; no server. Only one process at a time may have it open."""
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=os.path.join(os.environ[FOLDER], "qdrant"))
    try:
        if not client.collection_exists("oraculo"):
            size = len(embeddings.embed_query("how long is a vector?"))
            options = models.VectorParams(size=size, distance=models.Distance.COSINE)
            client.create_collection("oraculo", vectors_config=options)
        yield QdrantVectorStore(client, "oraculo", embeddings)
    finally:
        client.close()


class Counting(InMemoryVectorStore):
    """A vector store that can be watched and broken; it lives in `made`, as a server's would."""

    broken = False
    full = False
    """It still answers, and takes nothing more."""

    def __init__(self, embedding: Embeddings) -> None:
        super().__init__(embedding)
        self.asked: list[int] = []

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **options: Any
    ) -> list[Document]:
        self._work()
        self.asked.append(k)
        return super().similarity_search_by_vector(embedding, k, **options)

    def add_texts(self, *given: Any, **options: Any) -> list[str]:
        self._work()
        if self.full:
            raise OSError("the disk is full")
        return super().add_texts(*given, **options)

    def delete(self, *given: Any, **options: Any) -> None:
        self._work()
        if self.full:
            raise OSError("the disk is full")
        super().delete(*given, **options)

    def _work(self) -> None:
        if self.broken:
            raise ConnectionError("the server is down")


made: list[Counting] = []


def counting(embeddings: Embeddings) -> VectorStore:
    """Give the one that is there, with what it holds."""
    if not made:
        made.append(Counting(embeddings))
    return made[0]


def by_text(embeddings: Embeddings) -> VectorStore:
    """Give a vector store that cannot be asked by vector."""

    class ByText(InMemoryVectorStore):
        similarity_search_by_vector = VectorStore.similarity_search_by_vector

    return ByText(embeddings)


def keeping(embeddings: Embeddings) -> VectorStore:
    """Give a vector store that cannot delete."""

    class Keeping(InMemoryVectorStore):
        delete = VectorStore.delete

    return Keeping(embeddings)


def failing(embeddings: Embeddings) -> VectorStore:
    """Fail as a factory does whose server is not there."""
    raise ConnectionError("no server")


def nothing(embeddings: Embeddings) -> Any:
    """Give no vector store."""
    return 3
