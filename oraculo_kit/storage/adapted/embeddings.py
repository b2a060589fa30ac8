"""The embedder that a factory is given: it embeds as the base does, and gives back vectors that are ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from langchain_core.embeddings import Embeddings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.embed import Embedder


class ReadyEmbeddings(Embeddings):
    """A LangChain embedder over ours.

    A vector store embeds what it is given, and we have the vectors already: inside `answering` the texts named there
    get theirs, whatever thread the vector store asks in.

    Parameters
    ----------
    embedder : Embedder
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._ready: Mapping[str, NDArray[np.float32]] = {}

    @contextmanager
    def answering(self, ready: Mapping[str, NDArray[np.float32]]) -> Iterator[None]:
        """Give these texts these vectors; one thread at a time."""
        self._ready = ready
        try:
            yield
        finally:
            self._ready = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector per text."""
        ready = self._ready
        if all(text in ready for text in texts):
            return [_plain(ready[text]) for text in texts]
        return [_plain(vector) for vector in self._embedder.embed(texts)]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        ready = self._ready.get(text)
        return _plain(ready if ready is not None else self._embedder.embed_queries([text])[0])


def _plain(vector: NDArray[np.float32]) -> list[float]:
    plain: list[float] = vector.tolist()
    return plain
