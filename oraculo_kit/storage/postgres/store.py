"""`PostgresVetorStorage`: the store in a PostgreSQL server with pgvector, for many machines at once.

Ledger, chunks, full text and vectors change in one transaction; workers write directly, each over connections of its
own. Searches rank by the same code as the embedded store (`oraculo_kit.storage.hybrid`), over the same stems, the same
BM25 and the same cosines, so the same texts give the same results: by vector the same ids, by text and hybrid the same
but for chunks whose scores agree in five digits, and in large bases for a weight of words that is up to 2 % out of date.

Its modules: ``location connection`` (where, and the line to it), ``schema encoding`` (what stands there, and how),
``writing moving ledger`` (commits), ``versions words filters`` (searches), ``browsing listing`` (what people look at),
``upkeep optimizing reembedding checking`` (looking after it).
"""

from __future__ import annotations

import os
import threading
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
    StoreCorruptedError,
    StoreReadOnlyError,
    StoreUnsupportedError,
)
from oraculo_kit.storage.arguments import check_batch, check_end, check_limit, checked_documents, checked_ids
from oraculo_kit.storage.base import Mode, VetorStorage
from oraculo_kit.storage.browsing import source_page
from oraculo_kit.storage.capabilities import POSTGRES
from oraculo_kit.storage.export import published, write_pages
from oraculo_kit.storage.filters import Filter
from oraculo_kit.storage.identity import EmbedderIdentity, embedder_mismatch
from oraculo_kit.storage.options import SearchOptions
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.postgres import (
    browsing,
    checking,
    ledger,
    listing,
    moving,
    optimizing,
    reembedding,
    schema,
    upkeep,
    writing,
)
from oraculo_kit.storage.postgres.connection import Pool, Session
from oraculo_kit.storage.postgres.encoding import read, text_array
from oraculo_kit.storage.postgres.filters import PostgresFilter
from oraculo_kit.storage.postgres.location import parse_location
from oraculo_kit.storage.postgres.versions import PostgresReader, PostgresVersion, indexed_keys, matching
from oraculo_kit.storage.prepare import (
    check_vectors,
    given_ids,
    prepare_chunks,
    prepare_source,
    prepare_sources,
)
from oraculo_kit.storage.searching import Searcher
from oraculo_kit.storage.transfer import read_sources, stored_identity

if TYPE_CHECKING:
    import pandas as pd
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.storage.browsing import MetadataKey
    from oraculo_kit.storage.compaction import CompactReport
    from oraculo_kit.storage.feedback import Feedback
    from oraculo_kit.storage.health import HealthReport
    from oraculo_kit.storage.listing import SourceOrder, SourcePage, StoreSample
    from oraculo_kit.storage.optimizing import OptimizeReport
    from oraculo_kit.storage.records import LedgerEntry, SourceWrite
    from oraculo_kit.storage.reembedding import ReembedReport
    from oraculo_kit.storage.repairing import RepairReport
    from oraculo_kit.storage.runs import RunRecord, SourceOutcome
    from oraculo_kit.storage.snapshot import StoredChunk
    from oraculo_kit.storage.values import SourceDocuments, SourceMove, SourceRow, StoreStats
    from oraculo_kit.storage.verify import VerifyReport

_PAGE = 1000
_open_stores: weakref.WeakSet[PostgresVetorStorage] = weakref.WeakSet()


class PostgresVetorStorage(VetorStorage):
    """The store in PostgreSQL.

    Parameters
    ----------
    location : str
        ``postgresql://user:password@host:5432/database?schema=name``; see `oraculo_kit.storage.postgres.location`. The
        tables are made when they are missing, unless `read_only`; the database must exist.
    embedder : Embedder, Embeddings or str, optional
        The default model when not given.
    read_only : bool
        Never write; the rights to read are enough.
    durability : {"power", "process"}
        ``"process"`` lets the server acknowledge a commit before its log is on disk: a killed worker loses nothing
        then, a server that loses its power some of the last commits.
    lock_timeout : float
        Longest wait for another writer, in seconds.
    precision : {"float32"}
        Vectors are stored whole; beyond 2,000 dimensions their index is of half precision.

    Attributes
    ----------
    location : str
        The URL without its password.

    Raises
    ------
    SettingsError
        For a URL that cannot be understood.
    StoreNotFoundError
        When there is no such database; when `read_only` and there is no store.
    StoreFormatError
        When it was written by a newer oraculo_kit.
    EmbedderMismatchError
        When `embedder` is given and the store was built with another one.
    StorageError
        When the server cannot be reached or refuses, lacks pgvector, or pg8000 is not installed.
    """

    capabilities = POSTGRES

    def __init__(
        self,
        location: str,
        embedder: Any = None,
        read_only: bool = False,
        *,
        durability: str = "power",
        lock_timeout: float = 60.0,
        precision: str = "float32",
    ) -> None:
        if durability not in ("power", "process"):
            raise SettingsError(f"durability is {durability!r}, expected 'power' or 'process'")
        if precision != "float32":
            raise SettingsError(f"precision is {precision!r}, expected 'float32' for a store in PostgreSQL")
        if (
            isinstance(lock_timeout, bool)
            or not isinstance(lock_timeout, int | float)
            or not lock_timeout >= 0
        ):
            raise SettingsError(f"lock_timeout is {lock_timeout!r}, expected seconds from 0")
        where = parse_location(location)
        self.location = where.shown
        self.read_only = read_only
        self.embedder = embedder if isinstance(embedder, Embedder) else Embedder(embedder or "wordllama")
        self._pool = Pool(where, lock_timeout, durability)
        self._reader = PostgresReader(self._pool)
        self._searcher = Searcher(self.location, self._reading, self._embedded_queries)
        self._identity: EmbedderIdentity | None = None
        self._identity_seen: tuple[Any, ...] | None = None
        self._identity_lock = threading.Lock()
        self._closed = False
        _open_stores.add(self)
        try:
            schema.make_ready(self._pool, read_only=read_only)
            with self._reader.pin() as version:
                stored = version.manifest.embedder
            if embedder is not None and stored is not None and stored != self.embedder.name:
                raise embedder_mismatch(self.location, stored, self.embedder.name, "")
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        state = "closed" if self._closed else "read-only" if self.read_only else "open"
        return f"<PostgresVetorStorage {self.location} ({state})>"

    def _reading(self) -> PostgresReader:
        if self._closed:
            raise StoreClosedError(f"the store {self.location} was closed; open it again with open_storage()")
        return self._reader

    def _writing(self) -> Pool:
        self._reading()
        if self.read_only:
            raise StoreReadOnlyError(
                f"the store {self.location} is open for reading only: read_only was asked for, or its user may not write. "
                "Open it without read_only, or choose another one (ORACULO_STORE)"
            )
        return self._pool

    def _checked_identity(self) -> EmbedderIdentity:
        """Return the embedder's identity, compared with the store's whenever that may have changed."""
        lock = self._identity_lock
        with lock:
            if self._identity is None:
                self._identity = EmbedderIdentity(self.embedder.name, self.embedder.probe())
            with self._reading().pin() as version:
                seen = (version.manifest.epoch, version.manifest.embedder, version.facts.meta("probe"))
                if seen != self._identity_seen:
                    self._identity.check(version.facts, self.location)
                    self._identity_seen = seen
            return self._identity

    def _embedded_queries(self, texts: list[str]) -> NDArray[np.float32]:
        self._checked_identity()
        return self.embedder.embed_queries(texts)

    def _matrix(
        self, documents: Sequence[Document], vectors: Any
    ) -> tuple[NDArray[np.float32], EmbedderIdentity | None]:
        if vectors is not None:
            return check_vectors(vectors, len(documents)), None
        identity = self._checked_identity()
        return self.embedder.embed([document.page_content for document in documents]), identity

    def _committed(self, writes: Sequence[SourceWrite], identity: EmbedderIdentity | None) -> list[bool]:
        return writing.commit(self._writing(), writes, identity)

    def write(
        self,
        documents: Sequence[Document],
        vectors: NDArray[np.float32] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        self._writing()
        documents = checked_documents(documents)
        given = given_ids(documents, ids)
        if not documents:
            return []
        matrix, identity = self._matrix(documents, vectors)
        writes, names = prepare_chunks(documents, matrix, given)
        self._committed(writes, identity)
        return names

    def replace(
        self, source: str, documents: Sequence[Document], vectors: NDArray[np.float32] | None = None
    ) -> list[str]:
        self._writing()
        if not isinstance(source, str):
            raise QueryError(f"got {type(source).__name__} as source, expected its key, a text")
        documents = checked_documents(documents)
        if not documents:
            self.remove_by_metadata("source", source)
            return []
        matrix, identity = self._matrix(documents, vectors)
        write = prepare_source(source, documents, matrix, [document.id for document in documents], whole=True)
        self._committed([write], identity)
        return [row.id for row in write.rows]

    def replace_many(self, sources: Sequence[SourceDocuments]) -> list[str]:
        self._writing()
        writes = prepare_sources(sources)
        if not writes:
            return []
        known = self._committed(writes, self._checked_identity())
        return ["replaced" if was_there else "added" for was_there in known]

    def move_many(self, moves: Sequence[SourceMove]) -> list[bool]:
        pool = self._writing()
        return moving.move_sources(pool, moves) if moves else []

    def read_sources(self, keys: Sequence[str]) -> list[SourceWrite]:
        with self._reading().pin() as version:
            return read_sources(version, ledger.ledger_entries(version.session, keys), self.location)

    def put_sources(self, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None) -> list[str]:
        known = self._committed(writes, embedder)
        return ["replaced" if was_there else "added" for was_there in known]

    def stored_embedder(self) -> EmbedderIdentity | None:
        with self._reading().pin() as version:
            return stored_identity(version.facts)

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

    def get(self, ids: Sequence[str]) -> list[Document]:
        with self._reading().pin() as version:
            return [_document(chunk) for chunk in version.chunks_by_id(checked_ids(ids))]

    def chunks(self, ids: Sequence[str]) -> list[StoredChunk]:
        with self._reading().pin() as version:
            return version.chunks_by_id(checked_ids(ids))

    def remove(self, ids: Sequence[str]) -> int:
        wanted = checked_ids(ids)

        def select(session: Session) -> NDArray[np.int64]:
            rows = session.rows(
                "SELECT number FROM oraculo_chunks WHERE id = ANY($1::text[])", text_array(wanted)
            )
            return np.array([number for (number,) in rows], np.int64)

        return writing.remove(self._writing(), select)

    def remove_by_metadata(self, key: str, value: Any) -> int:
        asked: Filter = {key: {"$eq": value}}
        PostgresFilter(asked)  # refuses before anything is begun

        def select(session: Session) -> NDArray[np.int64]:
            if key == "source" and isinstance(value, str):  # one without chunks leaves no chunk to find it by
                ledger.drop_empty(session, value)
            return matching(session, PostgresFilter(asked, indexed_keys(session)))

        return writing.remove(self._writing(), select)

    def sources(self) -> list[SourceRow]:
        with self._reading().pin() as version:
            return ledger.ledger_rows(version.session, self.location)

    def list_sources(
        self,
        contains: str = "",
        *,
        order: SourceOrder = "source",
        descending: bool = False,
        first: int = 0,
        count: int = 50,
    ) -> SourcePage:
        with self._reading().pin() as version:
            return listing.list_sources(version, contains, order, descending, first, count)

    def sample(self) -> StoreSample:
        with self._reading().pin() as version:
            return listing.sample_base(version)

    def ledger(self, keys: Sequence[str]) -> dict[str, LedgerEntry]:
        with self._reading().pin() as version:
            return ledger.ledger_entries(version.session, keys)

    def sources_with(self, content_hashes: Iterable[str]) -> dict[str, list[str]]:
        with self._reading().pin() as version:
            return ledger.sources_by_hash(version.session, content_hashes)

    def touch(self, entries: Mapping[str, LedgerEntry]) -> None:
        pool = self._writing()
        if entries:
            pool.committing(lambda session: ledger.touch_sources(session, entries))

    def metadata_keys(self) -> list[MetadataKey]:
        with self._reading().pin() as version:
            return browsing.known_keys(version)

    def metadata_values(self, key: str, limit: int = 50) -> list[tuple[Any, int]]:
        with self._reading().pin() as version:
            return browsing.sampled_values(version, key, limit)

    def _value_pages(self, key: str, batch: int) -> Iterator[tuple[list[str], list[Any]]]:
        return listing.stored_values(self._reading, key, batch)

    def source_chunks(self, source: str, first: int = 0, last: int = 999) -> list[StoredChunk]:
        with self._reading().pin() as version:
            return source_page(version, source, first, last)

    def iter_documents(self, batch: int = 1000) -> Iterator[list[Document]]:
        check_batch(batch)  # at the call, not at the first step of the iterator
        return self._document_pages(batch)

    def _document_pages(self, batch: int) -> Iterator[list[Document]]:
        after = -1
        while True:
            with self._reading().pin() as version:
                chunks = version.page(after, batch)
            if not chunks:
                return
            yield [_document(chunk) for chunk in chunks]
            after = chunks[-1].number

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        rows: list[tuple[Any, ...]] = []
        with self._reading().pin() as version:
            for chunks, _ in _pages(version, vectors=False):
                rows.extend(
                    (chunk.id, chunk.source, chunk.ordinal, chunk.text, chunk.metadata) for chunk in chunks
                )
        return pd.DataFrame(rows, columns=["id", "source", "ordinal", "text", "metadata"])

    def to_parquet(self, path: str | os.PathLike[str]) -> int:
        def write(temporary: Path) -> int:
            with self._reading().pin() as version:
                about = {
                    "oraculo_kit.embedder": version.manifest.embedder or "",
                    "oraculo_kit.dimension": str(version.manifest.dimension),
                    "oraculo_kit.commit": str(upkeep.stats(version).commit),
                }
                write_pages(temporary, _pages(version), version.manifest.dimension, about)
                return version.count()

        return published(path, write)

    def iter_vectors(self, batch: int = 1000) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        check_batch(batch)
        return self._vector_pages(batch)

    def _vector_pages(self, batch: int) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        after = -1
        while True:
            with self._reading().pin() as version:
                rows = version.session.rows(
                    "SELECT number, id FROM oraculo_chunks WHERE number > $1::bigint ORDER BY number LIMIT $2::bigint",
                    after,
                    batch,
                )
                if not rows:
                    return
                page = _ids(rows), _vectors(version, np.array([number for number, _ in rows], np.int64))
            yield page
            after = rows[-1][0]

    def vectors(self, ids: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
        wanted = checked_ids(ids)
        with self._reading().pin() as version:
            rows = version.session.rows(
                "SELECT number, id FROM oraculo_chunks WHERE id = ANY($1::text[])", text_array(wanted)
            )
            numbers = dict(zip(_ids(rows), [number for number, _ in rows], strict=True))
            found = [each for each in wanted if each in numbers]
            return found, _vectors(version, np.array([numbers[each] for each in found], np.int64))

    def stats(self) -> StoreStats:
        with self._reading().pin() as version:
            return upkeep.stats(version)

    def health(self) -> HealthReport:
        with self._reading().pin() as version:
            return upkeep.examine(version)

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        self._reading()
        return checking.verify(self._pool, progress)

    def repair(self) -> RepairReport:
        pool = self._writing()
        return checking.repair(
            pool, self.embedder, EmbedderIdentity(self.embedder.name, self.embedder.probe())
        )

    def snapshot(self, path: str | os.PathLike[str]) -> Path:
        self._reading()
        raise StoreUnsupportedError(
            f"a store in PostgreSQL is no folder to copy: make a backup of {self.location} with the server's own tool "
            f"(pg_dump --format=custom --schema={self._pool.location.schema} ..., pg_restore), or write the chunks and "
            "vectors to a file with to_parquet()"
        )

    def compact(
        self, *, purge: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> CompactReport:
        if not isinstance(purge, bool):
            raise QueryError(f"purge is {purge!r}, expected True or False")
        return upkeep.compact(self._writing(), purge=purge, progress=progress)

    def optimize(
        self,
        recall: float = 0.95,
        queries: NDArray[np.float32] | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> OptimizeReport:
        pool = self._writing()
        if queries is not None:
            queries = check_vectors(queries, len(queries))
        report = optimizing.optimize(pool, self._reader, recall, queries)
        if progress is not None:  # the server builds the index in one piece
            progress(1, 1)
        return report

    def create_filter_index(self, key: str) -> bool:
        return upkeep.create_filter_index(self._writing(), key)

    def drop_filter_index(self, key: str) -> bool:
        return upkeep.drop_filter_index(self._writing(), key)

    def filter_indexes(self) -> list[str]:
        with self._reading().pin() as version:
            return version.indexed_keys()

    def reembed(self, embedder: Any, progress: Callable[[int, int], None] | None = None) -> ReembedReport:
        pool = self._writing()
        model = embedder if isinstance(embedder, Embedder) else Embedder(embedder)
        identity = EmbedderIdentity(model.name, model.probe())
        report = reembedding.reembed(pool, model, identity, progress)
        with self._identity_lock:
            self.embedder, self._identity, self._identity_seen = model, identity, None
        return report

    def add_feedback(self, feedback: Feedback) -> int:
        return self._writing().committing(lambda session: ledger.insert_feedback(session, feedback))

    def feedback(self) -> list[Feedback]:
        with self._reading().pin() as version:
            return ledger.read_feedback(version.session)

    def start_run(self, run: str, options: Mapping[str, Any]) -> None:
        pool, owner = self._writing(), Owner.this_process()
        pool.committing(lambda session: ledger.begin_run(session, run, options, owner))

    def note_outcomes(self, run: str, outcomes: Sequence[SourceOutcome]) -> None:
        pool = self._writing()
        if outcomes:
            pool.committing(
                lambda session: ledger.insert_outcomes(session, ((run, outcome) for outcome in outcomes))
            )

    def finish_run(self, run: str, state: str, counts: Mapping[str, int]) -> bool:
        check_end(state)
        return self._writing().committing(lambda session: ledger.end_run(session, run, state, counts))

    def runs(self, limit: int = 20) -> list[RunRecord]:
        check_limit(limit)
        with self._reading().pin() as version:
            return ledger.read_runs(version.session, limit)

    def outcomes(self, run: str) -> list[SourceOutcome]:
        with self._reading().pin() as version:
            return ledger.read_outcomes(version.session, run, self.location)

    def __len__(self) -> int:
        with self._reading().pin() as version:
            return version.count()

    def close(self) -> None:
        self._closed = True
        self._reader.close()
        self._pool.close()

    def _abandon(self) -> None:
        """In a forked child: a lock that a thread of the parent held is held for ever."""
        self._identity_lock = threading.Lock()


def _document(chunk: Any) -> Document:
    from langchain_core.documents import Document

    return Document(page_content=chunk.text, metadata=chunk.metadata, id=chunk.id)


def _ids(rows: list[list[Any]]) -> list[str]:
    return [read(name) for _, name in rows]


def _pages(
    version: PostgresVersion, *, vectors: bool = True
) -> Iterator[tuple[list[StoredChunk], NDArray[np.float32]]]:
    """Yield all chunks of one version, with their vectors."""
    after, none = -1, np.zeros((0, 0), np.float32)
    while chunks := version.page(after, _PAGE):
        numbers = np.array([chunk.number for chunk in chunks], np.int64)
        yield chunks, _vectors(version, numbers) if vectors else none
        after = chunks[-1].number


def _vectors(version: PostgresVersion, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    matrix, found = version.manifest.vectors_of(numbers)
    if not found.all():
        raise StoreCorruptedError(
            f"the chunk number {numbers[~found][0]} in {version.shown} has no vector. Run `oraculo verify` to see what else "
            "is damaged; ingesting its source again mends it"
        )
    return matrix


def _after_fork_in_child() -> None:
    for store in list(_open_stores):
        store._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["PostgresVetorStorage"]
