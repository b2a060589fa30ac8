"""The interface that every store implements: `VetorStorage`.

Everything above the storage layer (services, ingestion, retrieval, LangChain) speaks to this interface only, so
that an analyst can outgrow the embedded store without rewriting anything.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Self, TypedDict, Unpack, overload

from oraculo_kit.storage.arguments import check_batch
from oraculo_kit.storage.capabilities import Capabilities
from oraculo_kit.storage.columns import check_key, plain_value
from oraculo_kit.storage.filters import Filter
from oraculo_kit.storage.records import LedgerEntry
from oraculo_kit.storage.results import SearchResults
from oraculo_kit.storage.runs import RunRecord, SourceOutcome
from oraculo_kit.storage.values import SourceDocuments, SourceMove, SourceRow, StoreStats

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage.browsing import MetadataKey
    from oraculo_kit.storage.compaction import CompactReport
    from oraculo_kit.storage.feedback import Feedback
    from oraculo_kit.storage.health import HealthReport
    from oraculo_kit.storage.identity import EmbedderIdentity
    from oraculo_kit.storage.listing import SourceOrder, SourcePage, StoreSample
    from oraculo_kit.storage.optimizing import OptimizeReport
    from oraculo_kit.storage.records import SourceWrite
    from oraculo_kit.storage.reembedding import ReembedReport
    from oraculo_kit.storage.repairing import RepairReport
    from oraculo_kit.storage.snapshot import StoredChunk
    from oraculo_kit.storage.verify import VerifyReport

__all__ = [
    "MODES",
    "LedgerEntry",
    "Mode",
    "Progress",
    "RunRecord",
    "SearchKeywords",
    "SourceDocuments",
    "SourceMove",
    "SourceOutcome",
    "SourceRow",
    "StoreStats",
    "VetorStorage",
]

Mode = Literal["hybrid", "vector", "text"]
MODES: tuple[Mode, ...] = ("hybrid", "vector", "text")

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""


class SearchKeywords(TypedDict, total=False):
    """Keywords of `VetorStorage.search`, for its overloads."""

    mode: Mode
    filter: Filter | None
    min_score: float | None
    mmr: bool | float | None
    group_by: str | None
    context: int
    unique: bool
    explain: bool
    exact: bool


class VetorStorage(abc.ABC):
    """A store of chunks, their vectors, their full text and the ledger of their sources.

    Use it in a ``with`` block, or call `close`. All methods may be called from several threads.

    Attributes
    ----------
    location : str
        Path or URL.
    embedder : Embedder
        Turns texts into vectors where the caller brings none.
    read_only : bool
        Whether every method that writes is refused.
    capabilities : Capabilities
        What this engine can do and what it guarantees.
    """

    location: str
    embedder: Embedder
    read_only: bool = False
    capabilities: ClassVar[Capabilities]

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
    def replace_many(self, sources: Sequence[SourceDocuments]) -> list[str]:
        """Replace many whole sources in one commit, with their ledger entries and outcomes.

        Parameters
        ----------
        sources : sequence of SourceDocuments

        Returns
        -------
        list of str
            "added" or "replaced" for each: whether the ledger knew it at the moment of the commit.

        Raises
        ------
        SourceError, VectorsError, EmbedderMismatchError, EmbeddingError
            As `write`; nothing was stored then.
        """

    @abc.abstractmethod
    def move_many(self, moves: Sequence[SourceMove]) -> list[bool]:
        """Give sources other keys in one commit; nothing is embedded, and no vector is touched.

        Ids that are hashes over the source's key change with it, in feedback that cites them too; ids that a user gave
        stay. Readers see the old key or the new one, with all chunks.

        Parameters
        ----------
        moves : sequence of SourceMove
            Carried out in this order.

        Returns
        -------
        list of bool
            False where nothing was moved: `old` is not there any more or has another content, `new` is there, a row
            of the source is damaged, or one of the new ids is taken. Ingest such a source as a new one.

        Raises
        ------
        SourceError
            For metadata that cannot be stored; nothing was moved then.

        Notes
        -----
        The texts are read again under the writer lock, for their hashes: some 20 µs per chunk. Writers wait
        meanwhile, so move some hundred sources per call.
        """

    @abc.abstractmethod
    def read_sources(self, keys: Sequence[str]) -> list[SourceWrite]:
        """Return whole sources as another store takes them, for `oraculo_kit.copying`; unknown ones are left out.

        All in one version of the store. A store of half precision gives its vectors as float32.

        Raises
        ------
        StoreCorruptedError
            When a row is damaged, or a chunk has no vector.
        """

    @abc.abstractmethod
    def put_sources(self, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None) -> list[str]:
        """Replace whole sources by what `read_sources` of another store gave, in one commit; nothing is embedded.

        Or by what `oraculo_kit.storage.prepare` made of documents, here or on another machine.

        Parameters
        ----------
        writes : sequence of SourceWrite
        embedder : EmbedderIdentity or None
            Who made the vectors. An empty store takes it over.

        Returns
        -------
        list of str
            "added" or "replaced", as for `replace_many`.

        Raises
        ------
        EmbedderMismatchError, VectorsError
            When the store holds vectors of another embedder or dimension.
        """

    @abc.abstractmethod
    def stored_embedder(self) -> EmbedderIdentity | None:
        """Return the embedder that built the store; None while it is empty, or when all vectors were ready-made."""

    @overload
    def search(self, query: str, k: int = ..., **options: Unpack[SearchKeywords]) -> SearchResults: ...
    @overload
    def search(
        self, query: list[str] | tuple[str, ...], k: int = ..., **options: Unpack[SearchKeywords]
    ) -> list[SearchResults]: ...
    @overload
    def search(self, query: NDArray[Any], k: int = ..., **options: Unpack[SearchKeywords]) -> Any: ...
    @abc.abstractmethod
    def search(
        self,
        query: Any,
        k: int = 5,
        *,
        mode: Mode = "hybrid",
        filter: Filter | None = None,
        min_score: float | None = None,
        mmr: bool | float | None = None,
        group_by: str | None = None,
        context: int = 0,
        unique: bool = False,
        explain: bool = False,
        exact: bool = False,
    ) -> Any:
        """Find the chunks that answer a query best: k hits, if there are k that meet the conditions.

        A text is data, whatever is in it. Of its signs two have a meaning: ``"words in a row"`` must stand in a hit
        like that, and ``-word`` or ``-"words"`` must not. A text without a letter or digit asks nothing and finds
        nothing.

        Parameters
        ----------
        query : str, list of str, or numpy.ndarray
            A text, many texts, or float32 vectors of shape (dimension,) or (n, dimension).
        k : int
            How many hits per query, from 1 to 100,000.
        mode : {"hybrid", "vector", "text"}
            Full text and vectors together, or one of them. Text needs no embedder. Vectors as query are searched by
            vector.
        filter : dict, optional
            Metadata filter; see `oraculo_kit.storage.filters`.
        min_score : float, optional
            Only chunks whose cosine with the query is at least this, from -1 to 1; the same in every mode. (The
            fused score and BM25 mean nothing across queries, so there is no threshold for them.) What a good value is
            depends on the embedder: look at the ``vector_score`` of some hits.
        mmr : bool or float, optional
            Hits that differ from each other, by maximal marginal relevance over the stored vectors (Carbonell &
            Goldstein, SIGIR 1998): lambda from 0 (only difference counts) to 1 (only relevance counts), True is 0.5.
            Chosen from the best 4 k hits, at least 20. Relevance is the cosine, the fused score, or BM25 divided by
            that of the best.
        group_by : str, optional
            Only the best hit of each group: a metadata key such as "source". Chunks without it are one group.
        context : int
            Read so many neighbouring chunks on either side too, at most 100: ``hit.before``, ``hit.after`` and
            ``hit.context_text``, in which overlaps stand once.
        unique : bool
            Of chunks with the same text only the best one. False here, because a store answers for every chunk it
            has; `oraculo_kit.search` has True, because a person wants to read a text once.
        explain : bool
            Tell of each hit how its score came about: ``hit.explanation``.
        exact : bool
            Compare the query with every vector even where the store has an approximate index.

        Returns
        -------
        SearchResults or list of SearchResults
            A list when many queries were given. Empty results mean that nothing was found.

        Raises
        ------
        QueryError
            For a query or an option that cannot be understood.
        VectorsError
            For a vector of another dimension than the store's.
        """

    def read(self, query: str, k: int = 5, filter: Filter | None = None) -> list[Document]:
        """Return the documents that answer a query best; an empty list means that nothing was found.

        Raises
        ------
        QueryError
            As `search`.
        """
        return self.search(query, k, filter=filter).documents

    @abc.abstractmethod
    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return the chunks with these ids, in order; unknown ids are left out."""

    @abc.abstractmethod
    def chunks(self, ids: Sequence[str]) -> list[StoredChunk]:
        """Return the chunks with these ids and their places in their sources, in order; unknown ids are left out."""

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

    def list_sources(
        self,
        contains: str = "",
        *,
        order: SourceOrder = "source",
        descending: bool = False,
        first: int = 0,
        count: int = 50,
    ) -> SourcePage:
        """Return a page of the ledger, in milliseconds however large it is.

        Parameters
        ----------
        contains : str
            Only sources whose key has this in it; upper and lower case are the same.
        order : {"source", "chunks", "bytes", "written_at"}
            What they are sorted by; equals are sorted by key.
        descending : bool
        first : int
            How many to leave out.
        count : int
            How many to return at most, up to 1000.

        Returns
        -------
        SourcePage
            With `rows` and the `total` of all pages.

        Raises
        ------
        QueryError
            For what cannot be listed.
        """
        from oraculo_kit.storage.listing import list_rows

        return list_rows(self.sources(), contains, order, descending, first, count)

    def sample(self) -> StoreSample:
        """Return sources and lengths of chunks to draw figures from: 10,000 of each at most, from all over the store."""
        from oraculo_kit.storage.listing import sample_store

        return sample_store(self)

    @abc.abstractmethod
    def ledger(self, keys: Sequence[str]) -> dict[str, LedgerEntry]:
        """Return what the ledger knows of these sources; unknown ones are left out."""

    @abc.abstractmethod
    def sources_with(self, content_hashes: Iterable[str]) -> dict[str, list[str]]:
        """Return the keys of the sources that have these content hashes.

        Parameters
        ----------
        content_hashes : iterable of str

        Returns
        -------
        dict of str to list of str
            By content hash, keys sorted; hashes that no source has are left out.
        """

    @abc.abstractmethod
    def touch(self, entries: Mapping[str, LedgerEntry]) -> None:
        """Note new sizes and times of sources whose content is what it was; in one commit.

        Parameters
        ----------
        entries : mapping of str to LedgerEntry
            By source key. One whose `content_hash` is not the ledger's any more is left alone: somebody else stored
            another version meanwhile.
        """

    @abc.abstractmethod
    def metadata_keys(self) -> list[MetadataKey]:
        """Return every metadata key but ``source``, by name; one that no chunk has any more may be listed."""

    @abc.abstractmethod
    def metadata_values(self, key: str, limit: int = 50) -> list[tuple[Any, int]]:
        """Return values of a metadata key, for somebody to choose from, in milliseconds however large the store is.

        Parameters
        ----------
        key : str
            A metadata key, or ``"source"``.
        limit : int
            How many values at most.

        Returns
        -------
        list of (value, int)
            Texts, numbers and truth values with the number of chunks that have them, the most frequent first. Beyond
            10,000 sources or chunks a sample is counted, and rare values may be missing.

        Raises
        ------
        QueryError
            When `key` is no text, or `limit` no number of at least 1.
        """

    def iter_values(self, key: str, batch: int = 10_000) -> Iterator[tuple[list[str], list[Any]]]:
        """Yield the ids of all chunks with their values of a metadata key, `batch` at a time; no text is read.

        What is written meanwhile comes at the end; what is deleted meanwhile may be missing.

        Parameters
        ----------
        key : str
            A metadata key, or ``"source"``.
        batch : int
            Chunks per step.

        Yields
        ------
        ids : list of str
        values : list
            Texts, numbers and truth values; None where a chunk has none of these. A million take 1 s in the embedded store.

        Raises
        ------
        QueryError
            When `key` is no text, or `batch` not a whole number of at least 1.
        """
        check_key(key)
        check_batch(batch)
        return self._value_pages(key, batch)

    def _value_pages(self, key: str, batch: int) -> Iterator[tuple[list[str], list[Any]]]:
        for documents in self.iter_documents(batch):
            values = [plain_value(document.metadata.get(key)) for document in documents]
            yield [str(document.id) for document in documents], values

    @abc.abstractmethod
    def source_chunks(self, source: str, first: int = 0, last: int = 999) -> list[StoredChunk]:
        """Return the chunks of a source from place `first` to place `last`, both included, in order.

        Parameters
        ----------
        source : str
            Its key. An unknown one has no chunks.
        first, last : int
            Places in the source, from 0; at most 1000 chunks.

        Returns
        -------
        list of StoredChunk
            With `id`, `source`, `ordinal`, `text` and `metadata`.

        Raises
        ------
        QueryError
            When the arguments are no text and no whole numbers, or too far apart.
        """

    @abc.abstractmethod
    def iter_documents(self, batch: int = 1000) -> Iterator[list[Document]]:
        """Yield all chunks as documents, `batch` at a time, without holding a version of the store."""

    @abc.abstractmethod
    def to_pandas(self) -> pd.DataFrame:
        """Return all chunks as a DataFrame with the columns id, source, ordinal, text, metadata."""

    @abc.abstractmethod
    def to_parquet(self, path: str | os.PathLike[str]) -> int:
        """Write all chunks and their vectors to a Parquet file, for pandas, DuckDB, Spark or polars.

        The file holds one version of the store, and is there whole or not at all: it replaces an older one in one
        step. Memory stays bounded (some 100 MB), however large the store is.

        ========  ===================================  =================================================
        column    type                                 content
        ========  ===================================  =================================================
        id        string
        source    string                               key of the source
        ordinal   int64                                place in its source, from 0
        text      string
        metadata  string                               a JSON object, ``source`` included
        vector    fixed-size list of float32           length one; its size is the store's dimension
        ========  ===================================  =================================================

        The file's own metadata names ``oraculo_kit.embedder``, ``oraculo_kit.dimension`` and
        ``oraculo_kit.commit``.

        Parameters
        ----------
        path : path
            The file, in a folder that exists.

        Returns
        -------
        int
            How many chunks were written.

        Raises
        ------
        StorageError
            When pyarrow is not installed (``pip install "oraculo_kit[parquet]"``), or the file cannot be written.
        StoreCorruptedError
            When a chunk is damaged, or chunks and vectors disagree; no file is left then.

        Notes
        -----
        20,000 chunks of 800 characters with 256 dimensions take two to three seconds.
        """

    @abc.abstractmethod
    def iter_vectors(self, batch: int = 1000) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield the ids and vectors of all chunks, `batch` at a time, without holding a version of the store.

        What is written meanwhile comes at the end; what is deleted meanwhile may be missing.

        Parameters
        ----------
        batch : int
            Chunks per step.

        Yields
        ------
        ids : list of str
        vectors : numpy.ndarray
            float32, shape (len(ids), dimension), rows of length one; a copy.

        Raises
        ------
        QueryError
            When `batch` is not a whole number of at least 1.
        """

    @abc.abstractmethod
    def vectors(self, ids: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
        """Return the vectors of chunks as they are stored.

        Parameters
        ----------
        ids : sequence of str

        Returns
        -------
        ids : list of str
            Those that exist, in the order given; unknown ones are left out.
        vectors : numpy.ndarray
            float32, shape (len(ids), dimension), rows of length one; a copy.
        """

    @abc.abstractmethod
    def stats(self) -> StoreStats:
        """Return figures of the store."""

    @abc.abstractmethod
    def health(self) -> HealthReport:
        """Tell, in some milliseconds, what the store would want done: compaction, an index, space.

        Returns
        -------
        HealthReport
            Its `ok` tells whether there is nothing to do, its `findings` name figure and fix. For whether everything
            stored is sound see `verify`.
        """

    @abc.abstractmethod
    def verify(self, *, progress: Progress | None = None) -> VerifyReport:
        """Check every invariant of the store, beside readers and writers, and change nothing.

        Parameters
        ----------
        progress : callable, optional
            Called with (chunks checked, chunks in all), some thousand chunks apart. It may raise to end the check.

        Returns
        -------
        VerifyReport
            Its `ok` tells whether all is well, its `problems` what is not. Damage is reported, never raised.
        """

    @abc.abstractmethod
    def repair(self) -> RepairReport:
        """Rebuild whatever can be rebuilt, and name what is lost.

        Vectors are made again by the store's embedder, from the stored texts; the full-text index and the ledger's
        counts are made again too; damaged pages of the catalog are left behind. Chunks whose text is damaged are
        removed, and their sources are read again by the next ingestion. What is replaced or removed is kept in the
        folder ``damaged`` of the store, until a purge. A sound store is left alone. Killed at any point, a repair can
        be repeated. For a store that cannot be opened there is `oraculo_kit.storage.repairing.repair_store`.

        Returns
        -------
        RepairReport
            Its `ok` tells whether the store is sound now; `done` and `lost` are sentences.

        Raises
        ------
        StoreCorruptedError
            When nothing can be rebuilt: the catalog is missing, or is no database any more.
        StorageError
            When the disk refuses.
        """

    @abc.abstractmethod
    def snapshot(self, path: str | os.PathLike[str]) -> Path:
        """Copy one version of the store, beside readers and writers, to a store of its own.

        It can be opened, copied and archived, and put back with `oraculo_kit.restore_store`. It is there
        whole or not at all.

        Parameters
        ----------
        path : path
            A folder that does not exist, or is empty.

        Returns
        -------
        pathlib.Path
            The folder of the copy.

        Raises
        ------
        StoreLocationError
            When something stands at `path`, or it lies inside the store.
        StoreCorruptedError
            When a segment is damaged or missing: the copy would be, too.
        StorageError
            When the disk refuses; nothing is left behind then.
        """

    @abc.abstractmethod
    def compact(self, *, purge: bool = False, progress: Progress | None = None) -> CompactReport:
        """Merge what many small writes left, drop what was deleted, and give the space back.

        Safe beside readers and writers of other processes; interrupted at any point it changes nothing.

        Parameters
        ----------
        purge : bool
            Also erase what was deleted: no text or vector of it remains in any file of the store (for duties such as
            the LGPD's). Writers wait for about 3 s per million chunks. Copies made before are not touched.
        progress : callable, optional
            Called with (vectors copied, vectors to copy). It may raise to end the work, which leaves a whole store.

        Returns
        -------
        CompactReport

        Raises
        ------
        StorageError
            When another process is compacting the store, or the disk refuses.
        StoreLockTimeoutError
            When a purge finds no moment without readers.
        """

    @abc.abstractmethod
    def optimize(
        self,
        recall: float = 0.95,
        queries: NDArray[np.float32] | None = None,
        *,
        progress: Progress | None = None,
    ) -> OptimizeReport:
        """Make searches of a large store many times faster, at a recall that is measured.

        Compacts first, then builds an approximate index for each segment of 50,000 vectors and more, tuned on held-out
        queries against exact results. Scores stay exact; of the true best a share of `recall` is found. What is written
        later is searched exactly, and found at once; `health` says when calling this again is worth it.

        Parameters
        ----------
        recall : float
            Share of the true ten nearest to be found, from 0.5 to 1.
        queries : numpy.ndarray, optional
            float32, shape (n, dimension): vectors of real past queries to tune on; made from stored rows by default.
        progress : callable, optional
            Called with (vectors indexed, vectors to index), once per index. It may raise to end the work: what is
            built by then stays.

        Returns
        -------
        OptimizeReport
            With measured recall and time per query; its `reached` tells whether every index has the recall asked for.

        Raises
        ------
        QueryError
            For a recall out of range.
        StorageError
            When another process is optimising or compacting the store, or the disk refuses.
        """

    @abc.abstractmethod
    def create_filter_index(self, key: str) -> bool:
        """Make filters on a metadata key fast; for keys that are asked for often.

        Results are the same with and without. The index stays in step with every later write. Making one for a million
        chunks took 2.5 s of CPU time on one core, with the writer lock held: readers go on, writers wait.

        Parameters
        ----------
        key : str
            A metadata key; no chunk need have it yet. ``source`` needs none.

        Returns
        -------
        bool
            False when there was one already; nothing is done then.

        Raises
        ------
        FilterError
            When a filter could not ask for the key: it is no text, or begins with ``$``.
        StoreReadOnlyError
        """

    @abc.abstractmethod
    def drop_filter_index(self, key: str) -> bool:
        """Drop the index of a metadata key; filters on it read all chunks again.

        Returns
        -------
        bool
            False when there was none.

        Raises
        ------
        FilterError, StoreReadOnlyError
        """

    @abc.abstractmethod
    def filter_indexes(self) -> list[str]:
        """Return the metadata keys that have a filter index, sorted."""

    @abc.abstractmethod
    def reembed(self, embedder: Any, progress: Callable[[int, int], None] | None = None) -> ReembedReport:
        """Embed every stored text anew with another model, and change over to it in one commit.

        Until that commit every search sees the old version, and other processes may write. A run that was stopped or
        killed is taken up where it was by the next call with the same model.

        Parameters
        ----------
        embedder : Embedder, Embeddings or str
        progress : callable, optional
            Called with (chunks done, chunks in all).

        Returns
        -------
        ReembedReport

        Raises
        ------
        EmbeddingError
            The model failed; the store is as it was, and what was embedded so far is kept for the next call.
        StorageError
            When another process is at it, or the disk refuses.
        StoreLockTimeoutError
            When others write so much that the change never comes to an end.
        """

    @abc.abstractmethod
    def add_feedback(self, feedback: Feedback) -> int:
        """Keep a verdict on an answer, in a commit of its own, and return its number."""

    @abc.abstractmethod
    def feedback(self) -> list[Feedback]:
        """Return all verdicts, oldest first."""

    @abc.abstractmethod
    def start_run(self, run: str, options: Mapping[str, Any]) -> None:
        """Note that an ingestion run begins in this process, or that one that stopped goes on.

        The last 50 runs are kept, and those under way; older ones are forgotten with their outcomes. A run that goes on
        keeps its outcomes.

        Parameters
        ----------
        run : str
            Its id.
        options : mapping
            What it was called with, as JSON can hold it. No secrets: they are stored as they are.

        Raises
        ------
        SourceError
            For an option that JSON cannot hold.
        StorageError
            When another process is at this very run.
        """

    @abc.abstractmethod
    def note_outcomes(self, run: str, outcomes: Sequence[SourceOutcome]) -> None:
        """Note what became of sources that no `replace_many` or `move_many` noted: failed, skipped, pruned.

        Each takes the place of an earlier outcome of its source in this run.

        Parameters
        ----------
        run : str
            One that was started here; outcomes of an unknown or forgotten one are not kept.
        outcomes : sequence of SourceOutcome
            Their messages are stored as they are.
        """

    @abc.abstractmethod
    def finish_run(self, run: str, state: str, counts: Mapping[str, int]) -> bool:
        """Note how a run ended; one that is not under way is left alone.

        Parameters
        ----------
        run : str
        state : {"finished", "cancelled", "failed"}
        counts : mapping of str to int
            Sources by status, unchanged ones included.

        Returns
        -------
        bool
            Whether it was under way here. If not, and it was begun in this place, another store was put there since:
            a snapshot was restored, and what the run stored before is not in it.

        Raises
        ------
        QueryError
            For another state.
        """

    @abc.abstractmethod
    def runs(self, limit: int = 20) -> list[RunRecord]:
        """Return the last ingestion runs, newest first.

        Parameters
        ----------
        limit : int
            How many at most.

        Raises
        ------
        QueryError
            When `limit` is not a whole number of at least 1.
        StoreCorruptedError
            When the row of a run is damaged.
        """

    @abc.abstractmethod
    def outcomes(self, run: str) -> list[SourceOutcome]:
        """Return what became of each source in a run, in the order in which they were first noted.

        Unchanged sources are only counted, in the run itself. Of an unknown run there are no outcomes.

        Raises
        ------
        StoreCorruptedError
            When a row is damaged.
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

    def __reduce__(self) -> NoReturn:
        # Not with its location: that of a server may hold a password.
        raise TypeError(
            f"got a {type(self).__name__} to pickle or copy, and it holds open files and locks. Send its location, "
            "and open it again there: oraculo_kit.open_storage(store.location)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
