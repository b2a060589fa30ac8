"""The interface that every store implements: `VetorStorage`.

Everything above the storage layer (services, ingestion, retrieval, LangChain) speaks to this interface only, so
that an analyst can outgrow the embedded store without rewriting anything.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from oraculo_kit.storage.filters import Filter
from oraculo_kit.storage.records import LedgerEntry
from oraculo_kit.storage.results import SearchResults

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage.verify import VerifyReport

Mode = Literal["hybrid", "vector", "text"]
MODES: tuple[Mode, ...] = ("hybrid", "vector", "text")


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Figures of a store.

    Attributes
    ----------
    location : str
    chunks, sources : int
    segments : int
        Files of vectors.
    pending : int
        Vectors that are not in a segment yet.
    dead : int
        Deleted vectors that still take space.
    bytes : int
        Size of all files on disk.
    dimension : int
        Length of a vector; 0 while the store is empty.
    embedder : str
        Name of the embedder that built it; empty while unknown.
    commit : int
        Number of commits so far.
    """

    location: str
    chunks: int
    sources: int
    segments: int
    pending: int
    dead: int
    bytes: int
    dimension: int
    embedder: str
    commit: int


@dataclass(frozen=True, slots=True)
class SourceDocuments:
    """All chunks of one source, ready to replace what the store has of it.

    Attributes
    ----------
    source : str
        Key of the source.
    documents : sequence of Document
    vectors : numpy.ndarray
        float32, shape (len(documents), dimension).
    ledger : LedgerEntry
    """

    source: str
    documents: Sequence[Document]
    vectors: NDArray[np.float32]
    ledger: LedgerEntry


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A line of the ledger."""

    source: str
    chunks: int
    language: str | None
    written_at: str
    metadata: Mapping[str, Any]
    ledger: LedgerEntry


class VetorStorage(abc.ABC):
    """A store of chunks, their vectors, their full text and the ledger of their sources.

    Use it in a ``with`` block, or call `close`. All methods may be called from several threads.

    Attributes
    ----------
    location : str
        Path or URL.
    embedder : Embedder
        Turns texts into vectors where the caller brings none.
    """

    location: str
    embedder: Embedder

    @abc.abstractmethod
    def write(
        self,
        documents: Sequence[Document],
        vectors: NDArray[np.float32] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Store chunks, in one commit; an id that exists is replaced.

        Parameters
        ----------
        documents : sequence of Document
            The chunks; ``metadata["source"]`` names their source.
        vectors : numpy.ndarray, optional
            float32, shape (len(documents), dimension); embedded from the texts when not given.
        ids : sequence of str, optional
            One per document; by default the document's own id, else a hash of source, place and text.

        Returns
        -------
        list of str
            The ids, in order. Once it returns, the chunks are durable.

        Raises
        ------
        VectorsError
            Wrong shape, dtype, NaN or infinity.
        EmbedderMismatchError
            The store was built with another embedder.
        EmbeddingError
            The embedder failed; nothing was stored.
        """

    @abc.abstractmethod
    def replace(
        self, source: str, documents: Sequence[Document], vectors: NDArray[np.float32] | None = None
    ) -> list[str]:
        """Replace everything stored of a source by these chunks, atomically.

        Without documents the source is removed. Parameters, returns and errors as `write`; after an error
        the old version stands.
        """

    @abc.abstractmethod
    def replace_many(self, sources: Sequence[SourceDocuments]) -> None:
        """Replace many whole sources in one commit, with their ledger entries."""

    @abc.abstractmethod
    def search(
        self,
        query: Any,
        k: int = 5,
        *,
        mode: Mode = "hybrid",
        filter: Filter | None = None,
    ) -> Any:
        """Find the chunks that answer a query best.

        Parameters
        ----------
        query : str, sequence of str, or numpy.ndarray
            A text, many texts, or float32 vectors of shape (dimension,) or (n, dimension).
        k : int
            How many hits per query.
        mode : {"hybrid", "vector", "text"}
            Full text and vectors together, or one of them. Vectors as query are searched by vector.
        filter : dict, optional
            Metadata filter; see `oraculo_kit.storage.filters`.

        Returns
        -------
        SearchResults or list of SearchResults
            A list when many queries were given.

        Raises
        ------
        QueryError
            For a query, k, mode or filter that cannot be understood.
        """

    def read(self, query: str, k: int = 5, filter: Filter | None = None) -> list[Document]:
        """Return the documents that answer a query best; an empty list means that nothing was found.

        Raises
        ------
        QueryError
            As `search`.
        """
        results: SearchResults = self.search(query, k, filter=filter)
        return results.documents

    @abc.abstractmethod
    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return the chunks with these ids, in order; unknown ids are left out."""

    @abc.abstractmethod
    def remove(self, ids: Sequence[str]) -> int:
        """Delete chunks by id and return how many there were."""

    @abc.abstractmethod
    def remove_by_metadata(self, key: str, value: Any) -> int:
        """Delete the chunks whose metadata `key` equals `value` and return how many there were.

        ``remove_by_metadata("source", path)`` deletes a whole source.
        """

    @abc.abstractmethod
    def sources(self) -> list[SourceRow]:
        """Return the ledger: one row per source, by key."""

    @abc.abstractmethod
    def ledger(self, keys: Sequence[str]) -> dict[str, LedgerEntry]:
        """Return what the ledger knows of these sources; unknown ones are left out."""

    @abc.abstractmethod
    def iter_documents(self, batch: int = 1000) -> Iterator[list[Document]]:
        """Yield all chunks as documents, `batch` at a time, without holding a version of the store."""

    @abc.abstractmethod
    def to_pandas(self) -> pd.DataFrame:
        """Return all chunks as a DataFrame with the columns id, source, ordinal, text, metadata."""

    @abc.abstractmethod
    def stats(self) -> StoreStats:
        """Return figures of the store."""

    @abc.abstractmethod
    def verify(self) -> VerifyReport:
        """Check every invariant of the store, beside readers and writers, and change nothing.

        Returns
        -------
        VerifyReport
            Its `ok` tells whether all is well, its `problems` what is not. Damage is reported, never raised.
        """

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of chunks."""

    def __bool__(self) -> bool:
        """Return True: a store is something even while it is empty."""
        return True

    @abc.abstractmethod
    def close(self) -> None:
        """Release files and connections; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
