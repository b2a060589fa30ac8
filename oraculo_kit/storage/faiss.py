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
import json
import logging
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.embed import Embedder
from oraculo_kit.errors import (
    QueryError,
    SettingsError,
    StorageError,
    StoreClosedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from oraculo_kit.storage.base import Mode, SourceDocuments, SourceRow, StoreStats, VetorStorage
from oraculo_kit.storage.commit import Writer
from oraculo_kit.storage.filters import CompiledFilter, Filter
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.guards import check_not_behind, check_not_lost
from oraculo_kit.storage.identity import EmbedderIdentity, embedder_mismatch
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.prepare import check_vectors, prepare_source
from oraculo_kit.storage.records import LedgerEntry, clean_text, grouped
from oraculo_kit.storage.searching import Searcher
from oraculo_kit.storage.segments import sync_folder
from oraculo_kit.storage.snapshot import Reader, matching
from oraculo_kit.storage.verify import VerifyReport, verify_store

if TYPE_CHECKING:
    import pandas as pd
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.storage.catalog import Catalog

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

    Raises
    ------
    StoreNotFoundError
        When `read_only` and there is no store.
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

    def __init__(
        self,
        location: str | os.PathLike[str],
        embedder: Any = None,
        read_only: bool = False,
        *,
        durability: str = "power",
        lock_timeout: float = 60.0,
    ) -> None:
        if durability not in ("power", "process"):
            raise SettingsError(f"durability is {durability!r}, expected 'power' or 'process'")
        self.location = os.path.abspath(location)
        self.read_only = read_only
        self.embedder = embedder if isinstance(embedder, Embedder) else Embedder(embedder or "wordllama")
        self._folder = Path(self.location)
        self._identity: EmbedderIdentity | None = None
        self._identity_lock = threading.Lock()
        self._closed = False
        self._reader = Reader(self._folder, read_only=read_only)
        self._searcher = Searcher(self.location, self._reader, self._embedded_queries)
        self._writer = (
            None if read_only else Writer(self._folder, durability=durability, lock_timeout=lock_timeout)
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
            _make_folder(self._folder)
            self._writer.create_if_missing()
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
                f"the store {self.location} was opened read-only; open it without read_only"
            )
        return self._writer

    def _reading(self) -> Reader:
        if self._closed:
            raise StoreClosedError(f"the store {self.location} was closed; open it again with open_storage()")
        return self._reader

    def _checked_identity(self) -> EmbedderIdentity:
        """Return the embedder's identity, compared with the store's once per process."""
        with self._identity_lock:
            if self._identity is None:
                identity = EmbedderIdentity(self.embedder.name, self.embedder.probe())
                with self._reading().pin() as snapshot:
                    identity.check(snapshot.catalog, self._folder)
                self._identity = identity
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
        documents = list(documents)
        if ids is not None and len(ids) != len(documents):
            raise QueryError(f"got {len(ids)} ids for {len(documents)} documents, expected one per document")
        if not documents:
            return []
        matrix, identity = self._matrix(documents, vectors)
        given = list(ids) if ids is not None else [document.id for document in documents]
        groups = grouped(str(document.metadata.get("source") or "") for document in documents)
        writes, names = [], [""] * len(documents)
        for source, places in groups.items():
            write = prepare_source(
                source,
                [documents[place] for place in places],
                matrix[places] if len(groups) > 1 else matrix,
                [given[place] for place in places],
                whole=False,
            )
            writes.append(write)
            by_ordinal = {row.ordinal: row.id for row in write.rows}
            for ordinal, place in enumerate(places):
                names[place] = by_ordinal.get(ordinal) or str(given[place])
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
        if not documents:
            self.remove_by_metadata("source", source)
            return []
        matrix, identity = self._matrix(documents, vectors)
        write = prepare_source(source, documents, matrix, [document.id for document in documents], whole=True)
        writer.commit([write], identity)
        return [row.id for row in write.rows]

    def replace_many(self, sources: Sequence[SourceDocuments]) -> None:
        writer = self._writing()
        writes = [
            prepare_source(
                item.source,
                item.documents,
                check_vectors(item.vectors, len(item.documents)) if len(item.documents) else item.vectors,
                [document.id for document in item.documents],
                whole=True,
                ledger=item.ledger,
            )
            for item in sources
        ]
        if writes:
            writer.commit(writes, self._checked_identity())

    def search(self, query: Any, k: int = 5, *, mode: Mode = "hybrid", filter: Filter | None = None) -> Any:
        self._reading()
        return self._searcher.search(query, k, mode=mode, filter=filter)

    def _embedded_queries(self, texts: list[str]) -> NDArray[np.float32]:
        self._checked_identity()
        return self.embedder.embed_queries(texts)

    def get(self, ids: Sequence[str]) -> list[Document]:
        with self._reading().pin() as snapshot:
            return [_document(chunk) for chunk in snapshot.chunks_by_id(list(ids))]

    def remove(self, ids: Sequence[str]) -> int:
        wanted = json.dumps(list(ids))

        def select(catalog: Catalog) -> NDArray[np.int64]:
            rows = catalog.rows(
                "SELECT number FROM chunks WHERE id IN (SELECT value FROM json_each(?))", (wanted,)
            )
            return np.array([number for (number,) in rows], np.int64)

        return self._writing().remove(select, "remove chunks")

    def remove_by_metadata(self, key: str, value: Any) -> int:
        compiled = CompiledFilter({key: {"$eq": value}})

        def select(catalog: Catalog) -> NDArray[np.int64]:
            if key == "source" and isinstance(value, str):  # one without chunks leaves no chunk to find it by
                catalog.db.execute(
                    "DELETE FROM sources WHERE key = ? AND chunk_count = 0", (clean_text(value),)
                )
            return matching(catalog, compiled)

        return self._writing().remove(select, "remove by metadata")

    def sources(self) -> list[SourceRow]:
        with self._reading().pin() as snapshot:
            rows = snapshot.catalog.rows(
                "SELECT key, chunk_count, language, written_at, metadata, content_hash, bytes, mtime_ns, "
                "pipeline, run FROM sources ORDER BY key"
            )
        return [
            SourceRow(key, chunks, language, written_at, json.loads(metadata), LedgerEntry(*ledger))
            for key, chunks, language, written_at, metadata, *ledger in rows
        ]

    def ledger(self, keys: Sequence[str]) -> dict[str, LedgerEntry]:
        with self._reading().pin() as snapshot:
            rows = snapshot.catalog.rows(
                "SELECT key, content_hash, bytes, mtime_ns, pipeline, run FROM sources "
                "WHERE key IN (SELECT value FROM json_each(?))",
                (json.dumps(list(keys)),),
            )
        return {row[0]: LedgerEntry(*row[1:]) for row in rows}

    def iter_documents(self, batch: int = 1000) -> Iterator[list[Document]]:
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

    def stats(self) -> StoreStats:
        with self._reading().pin() as snapshot:
            catalog, manifest = snapshot.catalog, snapshot.manifest
            return StoreStats(
                location=self.location,
                chunks=snapshot.count(),
                sources=int(catalog.one("SELECT count(*) FROM sources")),
                segments=len(manifest.segments),
                pending=len(manifest.pending_numbers),
                dead=len(manifest.dead),
                bytes=_size_of(self._folder),
                dimension=manifest.dimension,
                embedder=catalog.meta("embedder") or "",
                commit=manifest.commit,
            )

    def verify(self) -> VerifyReport:
        self._reading()
        return verify_store(self._folder)

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


def _make_folder(folder: Path) -> None:
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for each in missing:
            sync_folder(
                each.parent
            )  # a durable store in a folder without a durable name is lost all the same
    except (FileExistsError, NotADirectoryError) as exc:
        raise StoreNotFoundError(
            f"{folder} is a file or lies below one, expected a folder for the store (ORACULO_STORE)"
        ) from exc
    except PermissionError as exc:
        raise StoreReadOnlyError(
            f"cannot make the store {folder}: {exc.strerror}. Choose a folder that you may write to (ORACULO_STORE)"
        ) from exc
    except OSError as exc:
        raise StorageError(
            f"cannot make the store {folder}: {exc.strerror or exc}. Choose another folder (ORACULO_STORE), or check "
            "the disk"
        ) from exc


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
