"""`FaissVetorStorage`: the embedded store, a folder that many processes read and write at once.

::

    <store>/catalog.sqlite3    the truth; see `oraculo_kit.storage.catalog`
    <store>/segments/*.f32     immutable vectors, mapped; see `oraculo_kit.storage.segments`
    <store>/writer.lock        one writer at a time; see `oraculo_kit.storage.lock`
    <store>/writer.queue       its turnstile

How a write becomes durable is told in `oraculo_kit.storage.commit`, how a search sees one consistent version in
`oraculo_kit.storage.snapshot`. This class joins the two, checks what comes in, and keeps the promise of one
embedder per store: the name is compared when the store is opened, the model itself (by a probe vector) at its
first use.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.embed import Embedder
from oraculo_kit.errors import (
    QueryError,
    SettingsError,
    StoreClosedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from oraculo_kit.storage.arguments import check_batch, check_end, check_limit, checked_documents, checked_ids
from oraculo_kit.storage.base import Mode, Progress, VetorStorage
from oraculo_kit.storage.browsing import MetadataKey, known_keys, sampled_values, source_page
from oraculo_kit.storage.capabilities import EMBEDDED
from oraculo_kit.storage.columns import stored_values
from oraculo_kit.storage.commit import Writer
from oraculo_kit.storage.compaction import CompactReport
from oraculo_kit.storage.compaction import compact as compact_store
from oraculo_kit.storage.export import vector_pages, vectors_by_id, write_parquet
from oraculo_kit.storage.feedback import Feedback, insert_feedback, read_feedback
from oraculo_kit.storage.filter_indexes import checked_key, create_index, drop_index, indexed_keys
from oraculo_kit.storage.filters import CompiledFilter, Filter
from oraculo_kit.storage.folders import make_folder, refuse_network
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.guards import check_not_behind, check_not_lost
from oraculo_kit.storage.health import HealthReport, examine
from oraculo_kit.storage.identity import EmbedderIdentity, embedder_mismatch
from oraculo_kit.storage.ledger import (
    drop_empty,
    ledger_entries,
    ledger_rows,
    sources_by_hash,
    touch_sources,
)
from oraculo_kit.storage.listing import SourceOrder, SourcePage, StoreSample, list_sources, sample_base
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.matching import matching
from oraculo_kit.storage.moving import move_sources
from oraculo_kit.storage.optimizing import OptimizeReport
from oraculo_kit.storage.optimizing import optimize as optimize_store
from oraculo_kit.storage.options import SearchOptions
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.prepare import (
    check_vectors,
    given_ids,
    prepare_chunks,
    prepare_source,
    prepare_sources,
)
from oraculo_kit.storage.purging import purge as purge_store
from oraculo_kit.storage.records import LedgerEntry
from oraculo_kit.storage.reembedding import ReembedReport, reembed_store
from oraculo_kit.storage.rows import next_commit, numbers_of_ids
from oraculo_kit.storage.runs import (
    RunRecord,
    SourceOutcome,
    begin_run,
    end_run,
    insert_outcomes,
    read_outcomes,
    read_runs,
)
from oraculo_kit.storage.searching import Searcher
from oraculo_kit.storage.snapshot import Reader, StoredChunk
from oraculo_kit.storage.transfer import read_sources, stored_identity
from oraculo_kit.storage.values import SourceDocuments, SourceMove, SourceRow, StoreStats
from oraculo_kit.storage.verify import VerifyReport, verify_store

if TYPE_CHECKING:
    import pandas as pd
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.storage.catalog import Catalog
    from oraculo_kit.storage.records import SourceWrite
    from oraculo_kit.storage.repairing import RepairReport

_open_stores: weakref.WeakSet[FaissVetorStorage] = weakref.WeakSet()
_log = logging.getLogger("oraculo_kit.storage")


class FaissVetorStorage(VetorStorage):
    """The embedded store: SQLite for the truth, FAISS for the vectors.

    Parameters
    ----------
    location : path
        The store's folder; made when it is missing, unless `read_only`.
    embedder : Embedder, Embeddings or str, optional
        The default model when not given.
    read_only : bool
        Never write; works in a folder that cannot be written.
    durability : {"power", "process"}
        ``"power"``: a write that returned survives a power cut (one fsync per commit).
        ``"process"``: it survives a killed process; the last ones may be lost in a power cut.
    lock_timeout : float
        Longest wait for the writer lock, in seconds.
    precision : {"float32", "float16"}
        How a store that is made now holds its vectors; one that exists keeps what it has. Half precision takes half
        the space and scans in half the time; what it costs is measured at every write and told by `stats`.

    Raises
    ------
    StoreNotFoundError
        When `read_only` and there is no store.
    StoreLocationError
        When it lies on a network file system, and not `read_only`.
    StoreCorruptedError, StoreFormatError
        When what is there cannot be trusted or read; nothing is changed then.
    EmbedderMismatchError
        When `embedder` is given and the store was built with another one.

    Examples
    --------
    >>> import tempfile
    >>> from langchain_core.documents import Document
    >>> with tempfile.TemporaryDirectory() as folder, FaissVetorStorage(folder) as store:
    ...     ids = store.write([Document("Como emitir nota fiscal", metadata={"source": "ajuda.md"})])
    ...     store.search("emissão de notas fiscais", k=1)[0].source
    'ajuda.md'
    """

    capabilities = EMBEDDED

    def __init__(
        self,
        location: str | os.PathLike[str],
        embedder: Any = None,
        read_only: bool = False,
        *,
        durability: str = "power",
        lock_timeout: float = 60.0,
        precision: str = "float32",
    ) -> None:
        if durability not in ("power", "process"):
            raise SettingsError(f"durability is {durability!r}, expected 'power' or 'process'")
        if precision not in ("float32", "float16"):
            raise SettingsError(f"precision is {precision!r}, expected 'float32' or 'float16'")
        if (
            isinstance(lock_timeout, bool)
            or not isinstance(lock_timeout, int | float)
            or not lock_timeout >= 0
        ):
            raise SettingsError(f"lock_timeout is {lock_timeout!r}, expected seconds from 0")
        self.location = os.path.abspath(location)
        self.read_only = read_only
        self.embedder = embedder if isinstance(embedder, Embedder) else Embedder(embedder or "wordllama")
        self._folder = Path(self.location)
        self._identity: EmbedderIdentity | None = None
        self._identity_seen: tuple[Any, ...] | None = None
        self._identity_lock = threading.Lock()
        self._closed = False
        self._reader = Reader(self._folder, read_only=read_only)
        self._searcher = Searcher(self.location, self._reading, self._embedded_queries)
        self._writer = (
            None
            if read_only
            else Writer(self._folder, durability=durability, lock_timeout=lock_timeout, precision=precision)
        )
        with gate.passage():  # a fork sees either the store that is not open yet, or one that it can close
            _open_stores.add(self)
        try:
            self._open(embedder is not None)
        except BaseException:
            self.close()
            raise

    def _open(self, check_embedder: bool) -> None:
        # Before any look at the catalog; see check_not_behind.
        remembered = WriterLock(self._folder, 0).commit_number()
        if self._writer is not None:
            refuse_network(self._folder)
            make_folder(self._folder)
            self._writer.make_ready()
        else:
            check_not_lost(self._folder, remembered)
            catalog = self._folder / "catalog.sqlite3"
            if not catalog.is_file() or not catalog.stat().st_size:
                raise StoreNotFoundError(
                    f"there is no store at {self.location}. Check the path (ORACULO_STORE), or ingest documents first"
                )
        with self._reader.pin() as snapshot:
            check_not_behind(snapshot.catalog, remembered)
            stored = snapshot.catalog.meta("embedder")
        if check_embedder and stored is not None and stored != self.embedder.name:
            raise embedder_mismatch(self._folder, stored, self.embedder.name, "")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "read-only" if self.read_only else "open"
        return f"<FaissVetorStorage {self.location} ({state})>"

    def _writing(self) -> Writer:
        if self._closed:
            raise StoreClosedError(f"the store {self.location} was closed; open it again with open_storage()")
        if self._writer is None:
            raise StoreReadOnlyError(
                f"the store {self.location} is open for reading only: read_only was asked for, or its folder cannot be "
                "written to. Open it without read_only, or choose another one (ORACULO_STORE)"
            )
        return self._writer

    def _reading(self) -> Reader:
        if self._closed:
            raise StoreClosedError(f"the store {self.location} was closed; open it again with open_storage()")
        return self._reader

    def _checked_identity(self) -> EmbedderIdentity:
        """Return the embedder's identity, compared with the store's whenever that may have changed."""
        with self._identity_lock:
            if self._identity is None:
                self._identity = EmbedderIdentity(self.embedder.name, self.embedder.probe())
            with self._reading().pin() as snapshot:
                seen = (snapshot.manifest.epoch, snapshot.manifest.embedder, snapshot.catalog.meta("probe"))
                if seen != self._identity_seen:
                    self._identity.check(snapshot.catalog, self._folder)
                    self._identity_seen = seen
            return self._identity

    def _vectors_for(self, texts: list[str]) -> tuple[NDArray[np.float32], EmbedderIdentity]:
        identity = self._checked_identity()
        return self.embedder.embed(texts), identity

    def write(
        self,
        documents: Sequence[Document],
        vectors: NDArray[np.float32] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        writer = self._writing()
        documents = checked_documents(documents)
        given = given_ids(documents, ids)
        if not documents:
            return []
        matrix, identity = self._matrix(documents, vectors)
        writes, names = prepare_chunks(documents, matrix, given)
        writer.commit(writes, identity)
        return names

    def _matrix(
        self, documents: Sequence[Document], vectors: Any
    ) -> tuple[NDArray[np.float32], EmbedderIdentity | None]:
        if vectors is not None:
            return check_vectors(vectors, len(documents)), None
        return self._vectors_for([document.page_content for document in documents])

    def replace(
        self, source: str, documents: Sequence[Document], vectors: NDArray[np.float32] | None = None
    ) -> list[str]:
        writer = self._writing()
        if not isinstance(source, str):
            raise QueryError(f"got {type(source).__name__} as source, expected its key, a text")
        documents = checked_documents(documents)
        if not documents:
            self.remove_by_metadata("source", source)
            return []
        matrix, identity = self._matrix(documents, vectors)
        write = prepare_source(source, documents, matrix, [document.id for document in documents], whole=True)
        writer.commit([write], identity)
        return [row.id for row in write.rows]

    def replace_many(self, sources: Sequence[SourceDocuments]) -> list[str]:
        writer = self._writing()
        writes = prepare_sources(sources)
        if not writes:
            return []
        made = writer.commit(writes, self._checked_identity())
        return ["replaced" if was_there else "added" for was_there in made.replaced]

    def move_many(self, moves: Sequence[SourceMove]) -> list[bool]:
        writer = self._writing()
        if not moves:
            return []
        with writer.transaction(f"move {len(moves)} sources") as catalog:
            return move_sources(catalog, moves)

    def read_sources(self, keys: Sequence[str]) -> list[SourceWrite]:
        with self._reading().pin() as snapshot:
            return read_sources(snapshot, ledger_entries(snapshot.catalog, keys), self.location)

    def put_sources(self, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None) -> list[str]:
        made = self._writing().commit(writes, embedder)
        return ["replaced" if was_there else "added" for was_there in made.replaced]

    def stored_embedder(self) -> EmbedderIdentity | None:
        with self._reading().pin() as snapshot:
            return stored_identity(snapshot.catalog)

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
        self._reading()
        options = SearchOptions(k, mode, filter, min_score, mmr, group_by, context, unique, explain, exact)
        return self._searcher.search(query, options)

    def _embedded_queries(self, texts: list[str]) -> NDArray[np.float32]:
        self._checked_identity()
        return self.embedder.embed_queries(texts)

    def get(self, ids: Sequence[str]) -> list[Document]:
        with self._reading().pin() as snapshot:
            return [_document(chunk) for chunk in snapshot.chunks_by_id(checked_ids(ids))]

    def chunks(self, ids: Sequence[str]) -> list[StoredChunk]:
        with self._reading().pin() as snapshot:
            return snapshot.chunks_by_id(checked_ids(ids))

    def remove(self, ids: Sequence[str]) -> int:
        wanted = checked_ids(ids)

        def select(catalog: Catalog) -> NDArray[np.int64]:
            return numbers_of_ids(catalog, wanted)

        return self._writing().remove(select, "remove chunks")

    def remove_by_metadata(self, key: str, value: Any) -> int:
        compiled = CompiledFilter({key: {"$eq": value}})

        def select(catalog: Catalog) -> NDArray[np.int64]:
            if key == "source" and isinstance(value, str):  # one without chunks leaves no chunk to find it by
                drop_empty(catalog, value)
            return matching(catalog, compiled)

        return self._writing().remove(select, "remove by metadata")

    def sources(self) -> list[SourceRow]:
        with self._reading().pin() as snapshot:
            return ledger_rows(snapshot.catalog)

    def list_sources(
        self,
        contains: str = "",
        *,
        order: SourceOrder = "source",
        descending: bool = False,
        first: int = 0,
        count: int = 50,
    ) -> SourcePage:
        with self._reading().pin() as snapshot:
            return list_sources(snapshot, contains, order, descending, first, count)

    def sample(self) -> StoreSample:
        with self._reading().pin() as snapshot:
            return sample_base(snapshot)

    def ledger(self, keys: Sequence[str]) -> dict[str, LedgerEntry]:
        with self._reading().pin() as snapshot:
            return ledger_entries(snapshot.catalog, keys)

    def sources_with(self, content_hashes: Iterable[str]) -> dict[str, list[str]]:
        with self._reading().pin() as snapshot:
            return sources_by_hash(snapshot.catalog, content_hashes)

    def touch(self, entries: Mapping[str, LedgerEntry]) -> None:
        if entries:
            with self._writing().transaction("refresh the ledger") as catalog:
                next_commit(catalog)
                touch_sources(catalog, entries)

    def metadata_keys(self) -> list[MetadataKey]:
        with self._reading().pin() as snapshot:
            return known_keys(snapshot)

    def metadata_values(self, key: str, limit: int = 50) -> list[tuple[Any, int]]:
        with self._reading().pin() as snapshot:
            return sampled_values(snapshot, key, limit)

    def _value_pages(self, key: str, batch: int) -> Iterator[tuple[list[str], list[Any]]]:
        return stored_values(self._reading, key, batch)

    def source_chunks(self, source: str, first: int = 0, last: int = 999) -> list[StoredChunk]:
        with self._reading().pin() as snapshot:
            return source_page(snapshot, source, first, last)

    def iter_documents(self, batch: int = 1000) -> Iterator[list[Document]]:
        check_batch(batch)  # at the call, not at the first step of the iterator
        return self._document_pages(batch)

    def _document_pages(self, batch: int) -> Iterator[list[Document]]:
        after = -1
        while True:
            with self._reading().pin() as snapshot:
                chunks = snapshot.page(after, batch)
            if not chunks:
                return
            yield [_document(chunk) for chunk in chunks]
            after = chunks[-1].number

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        rows: list[tuple[Any, ...]] = []
        after = -1
        # One version for the whole table: a page at a time, within one pinned snapshot.
        with self._reading().pin() as snapshot:
            while chunks := snapshot.page(after, 1000):
                rows.extend(
                    (chunk.id, chunk.source, chunk.ordinal, chunk.text, chunk.metadata) for chunk in chunks
                )
                after = chunks[-1].number
        return pd.DataFrame(rows, columns=["id", "source", "ordinal", "text", "metadata"])

    def to_parquet(self, path: str | os.PathLike[str]) -> int:
        return write_parquet(self._reading(), path)

    def iter_vectors(self, batch: int = 1000) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        return vector_pages(self._reading, batch)

    def vectors(self, ids: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
        return vectors_by_id(self._reading(), checked_ids(ids))

    def stats(self) -> StoreStats:
        with self._reading().pin() as snapshot:
            catalog, manifest = snapshot.catalog, snapshot.manifest
            return StoreStats(
                location=self.location,
                chunks=snapshot.count(),
                sources=int(catalog.one("SELECT count(*) FROM sources")),
                segments=len(manifest.segments),
                pending=int(manifest.alive(manifest.pending_numbers).sum()),
                dead=len(manifest.dead),
                bytes=_size_of(self._folder),
                dimension=manifest.dimension,
                precision=catalog.meta("precision"),
                recall=catalog.one(
                    "SELECT sum(recall * rows) / sum(iif(recall IS NULL, 0, rows)) FROM segments"
                ),
                embedder=catalog.meta("embedder") or "",
                commit=manifest.commit,
            )

    def compact(self, *, purge: bool = False, progress: Progress | None = None) -> CompactReport:
        if not isinstance(purge, bool):
            raise QueryError(f"purge is {purge!r}, expected True or False")
        writer, started, before = self._writing(), time.perf_counter(), self.stats()
        dropped = (purge_store if purge else compact_store)(writer, progress)
        after = self.stats()
        return CompactReport(
            location=self.location,
            segments_before=before.segments,
            segments=after.segments,
            dropped=dropped,
            bytes_before=before.bytes,
            bytes=after.bytes,
            purged=purge,
            seconds=time.perf_counter() - started,
        )

    def optimize(
        self,
        recall: float = 0.95,
        queries: NDArray[np.float32] | None = None,
        *,
        progress: Progress | None = None,
    ) -> OptimizeReport:
        writer = self._writing()
        if queries is not None:
            queries = check_vectors(queries, len(queries))
        return optimize_store(writer, recall, queries, progress)

    def create_filter_index(self, key: str) -> bool:
        if checked_key(key) in self.filter_indexes():
            return False  # without the lock
        with self._writing().transaction("create a filter index") as catalog:
            return create_index(catalog, key)

    def drop_filter_index(self, key: str) -> bool:
        with self._writing().transaction("drop a filter index") as catalog:
            return drop_index(catalog, key)

    def filter_indexes(self) -> list[str]:
        with self._reading().pin() as snapshot:
            return indexed_keys(snapshot.catalog)

    def reembed(self, embedder: Any, progress: Callable[[int, int], None] | None = None) -> ReembedReport:
        writer = self._writing()
        model = embedder if isinstance(embedder, Embedder) else Embedder(embedder)
        identity = EmbedderIdentity(model.name, model.probe())
        report = reembed_store(writer, self._reading(), model, identity, progress)
        with self._identity_lock:
            self.embedder, self._identity, self._identity_seen = model, identity, None
        return report

    def add_feedback(self, feedback: Feedback) -> int:
        with self._writing().transaction("keep feedback") as catalog:
            next_commit(catalog)
            return insert_feedback(catalog, feedback)

    def feedback(self) -> list[Feedback]:
        with self._reading().pin() as snapshot:
            return read_feedback(snapshot.catalog)

    def start_run(self, run: str, options: Mapping[str, Any]) -> None:
        writer, owner = self._writing(), Owner.this_process()
        with writer.transaction("begin a run") as catalog:
            next_commit(catalog)
            begin_run(catalog, run, options, owner)

    def note_outcomes(self, run: str, outcomes: Sequence[SourceOutcome]) -> None:
        writer = self._writing()
        if outcomes:
            with writer.transaction(f"note {len(outcomes)} outcomes") as catalog:
                next_commit(catalog)
                insert_outcomes(catalog, ((run, outcome) for outcome in outcomes))

    def finish_run(self, run: str, state: str, counts: Mapping[str, int]) -> bool:
        check_end(state)
        with self._writing().transaction("end a run") as catalog:
            next_commit(catalog)
            return end_run(catalog, run, state, counts)

    def runs(self, limit: int = 20) -> list[RunRecord]:
        check_limit(limit)
        with self._reading().pin() as snapshot:
            return read_runs(snapshot.catalog, limit)

    def outcomes(self, run: str) -> list[SourceOutcome]:
        with self._reading().pin() as snapshot:
            return read_outcomes(snapshot.catalog, run, self.location)

    def health(self) -> HealthReport:
        with self._reading().pin() as snapshot:
            return examine(self._folder, snapshot)

    def verify(self, *, progress: Progress | None = None) -> VerifyReport:
        self._reading()
        return verify_store(self._folder, progress)

    def repair(self) -> RepairReport:
        from oraculo_kit.storage.repairing import repair_store  # rarely needed: not at every import

        return repair_store(self._folder, self.embedder, lock_timeout=self._writing().lock.timeout)

    def snapshot(self, path: str | os.PathLike[str]) -> Path:
        from oraculo_kit.storage.copies import copy_store

        self._reading()
        return copy_store(self._folder, Path(os.path.abspath(path)))

    def __len__(self) -> int:
        with self._reading().pin() as snapshot:
            return snapshot.count()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._reader.close()
        if self._writer is not None:
            self._writer.close()

    def _rest(self) -> None:
        """Close idle connections before the process forks; see `oraculo_kit.storage.forks`."""
        self._reader.rest()
        if self._writer is not None:
            self._writer.rest()

    def _abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        self._identity_lock = threading.Lock()
        self._reader.abandon()
        if self._writer is not None:
            self._writer.abandon()


def _document(chunk: Any) -> Document:
    from langchain_core.documents import Document

    return Document(page_content=chunk.text, metadata=chunk.metadata, id=chunk.id)


def _size_of(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a segment may be replaced at any moment
            size += path.stat().st_size
    return size


def _before_fork() -> None:
    if gate.close():
        for store in list(_open_stores):
            store._rest()
    else:
        _log.warning(
            "process %d forked in the middle of an access to a store; the child may not get at it",
            os.getpid(),
        )


def _after_fork_in_child() -> None:
    gate.reset()
    for store in list(_open_stores):
        store._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=gate.open, after_in_child=_after_fork_in_child)
