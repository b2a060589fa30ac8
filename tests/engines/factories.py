"""LangChain vector stores that the tests make bases in, as a user's own module would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

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
