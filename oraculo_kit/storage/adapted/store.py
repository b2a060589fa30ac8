"""`AdaptedVetorStorage`: a base whose vectors any LangChain vector store searches (Qdrant, Milvus, OpenSearch, ...).

LangChain's interface has no transactions, no ledger, no order of chunks, no way to read vectors back, and filters that
differ from engine to engine. So the truth is a catalog on this machine: the embedded store, with everything it
guarantees. The vector store holds a copy of texts, plain metadata and vectors, which other programs can read, and names
candidates for a search (`oraculo_kit.storage.adapted.versions`)::

    1  a commit in the catalog: from here on the write is acknowledged. The same transaction notes what the vector store
       lacks (`oraculo_kit.storage.adapted.outbox`)
    2  one process at a time sends that, in batches, reading each chunk as it is at that moment
    3  what is sent is struck off the list

Killed between 1 and 3, or with the engine down: searches find everything meanwhile, because what is on the list is
compared here; the next write, open or close sends it. Sending again is harmless: ids and contents are the same.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import (
    SettingsError,
    StorageError,
    StoreLockTimeoutError,
    StoreUnsupportedError,
)
from oraculo_kit.storage.adapted.engine import Engine
from oraculo_kit.storage.adapted.location import parse_location
from oraculo_kit.storage.adapted.outbox import (
    drop_outbox,
    first_owed,
    has_outbox,
    make_outbox,
    owe_everything,
    owed_count,
    settle,
)
from oraculo_kit.storage.adapted.versions import AdaptedReader
from oraculo_kit.storage.capabilities import ADAPTED
from oraculo_kit.storage.faiss import FaissVetorStorage
from oraculo_kit.storage.health import Finding, HealthReport
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.optimizing import check_recall
from oraculo_kit.storage.searching import Searcher

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import Progress
    from oraculo_kit.storage.compaction import CompactReport
    from oraculo_kit.storage.identity import EmbedderIdentity
    from oraculo_kit.storage.optimizing import OptimizeReport
    from oraculo_kit.storage.records import SourceWrite
    from oraculo_kit.storage.reembedding import ReembedReport
    from oraculo_kit.storage.repairing import RepairReport
    from oraculo_kit.storage.values import SourceDocuments, SourceMove
    from oraculo_kit.storage.verify import VerifyReport

_BATCH = 500  # chunks of one call to the vector store
_LOOKED_AT = 200  # chunks of which `verify` asks the vector store

_log = logging.getLogger("oraculo_kit.storage")


class AdaptedVetorStorage(FaissVetorStorage):
    """A base in a LangChain vector store, with its catalog on this machine.

    Parameters
    ----------
    location : str
        ``langchain:package.module:factory?catalog=/folder``; see `oraculo_kit.storage.adapted.location`.
        ``factory(embeddings)`` gives a LangChain ``VectorStore``, or a context manager that gives one and closes it. Its
        collection must be empty at first, and of the embedder's dimension. All vectors have length one.
    embedder, read_only, durability, lock_timeout, precision
        As `FaissVetorStorage`: they are about the catalog.

    Raises
    ------
    SettingsError
        When the location names no such factory, or what it gives is no vector store.
    StoreUnsupportedError
        When the vector store cannot delete.
    StorageError
        When the vector store cannot be opened the first time, or holds what the catalog does not know.
    """

    capabilities = ADAPTED

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
        self._place = parse_location(location)
        self._engine: Engine | None = None
        self._told = self._in_use = False
        super().__init__(
            self._place.catalog,
            embedder,
            read_only,
            durability=durability,
            lock_timeout=lock_timeout,
            precision=precision,
        )
        self.location = location
        self._searcher = Searcher(self.location, self._adapted, self._embedded_queries)
        self._sending = WriterLock(self._folder / "sending", 0.0)
        try:
            with self._reader.pin() as snapshot:
                self._engine = Engine(self._place, self.embedder, snapshot.catalog.meta("store_id"))
            if not self._is_ready() and not read_only:
                self._get_ready(self._engine, lock_timeout)
            if not read_only:
                self._send()
        except BaseException:
            self.close()
            raise
        self._in_use = True

    def _is_ready(self) -> bool:
        """Tell whether the catalog belongs to this vector store and keeps an outbox for it."""
        with self._reader.pin() as snapshot:
            known, kept = snapshot.catalog.meta("engine"), has_outbox(snapshot.catalog)
        if known not in (None, self._place.engine):
            raise SettingsError(
                f"the catalog {self._folder} belongs to {known}, not to {self._place.engine}: a base has one vector "
                "store. Copy it (`oraculo copy`), or name another catalog (?catalog=/folder)"
            )
        return known is not None and kept

    def _get_ready(self, engine: Engine, timeout: float) -> None:
        (self._folder / "sending").mkdir(exist_ok=True)
        lock = WriterLock(self._folder / "sending", timeout)
        try:
            # One process at a time: some vector stores cannot be opened by two.
            with lock.held("make a base in a vector store"):
                if self._is_ready():
                    return
                engine.check_ours()
                with self._writing().transaction("keep an outbox") as catalog:
                    if not has_outbox(catalog):
                        make_outbox(catalog)
                    catalog.set_meta("engine", self._place.engine)
        finally:
            lock.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "read-only" if self.read_only else "open"
        return f"<AdaptedVetorStorage {self.location} ({state})>"

    def _adapted(self) -> AdaptedReader:
        return AdaptedReader(self._reading(), self._candidates)

    def _candidates(self, query: NDArray[np.float32], count: int) -> NDArray[np.int64] | None:
        assert self._engine is not None
        try:
            return self._engine.nearest(query, count)
        except Exception as exc:
            self._tell(
                f"the vector store of {self._place.engine} does not answer ({type(exc).__name__}: {exc}). Searches are "
                "answered from the catalog on this machine: exact, and slower in a large base"
            )
            return None

    def _tell(self, what: str) -> None:
        if self._told:
            _log.info("%s", what)
            return
        self._told = True
        warnings.warn(what, UserWarning, stacklevel=2)

    def _send(self) -> None:
        """Send what the vector store lacks, unless another thread or process is at it."""
        with suppress(StoreLockTimeoutError):  # whoever holds it goes on until nothing is left
            with self._sending.held("send chunks to the vector store"):
                try:
                    while self._send_some():
                        pass
                except StorageError:
                    raise
                except Exception as exc:
                    # What was written is acknowledged: it stands in the catalog, and is found there.
                    self._tell(
                        f"{self._owed()} changes wait to be sent to the vector store of {self._place.engine}, which failed: "
                        f"{type(exc).__name__}: {exc}. Nothing is lost; the next write sends them"
                    )

    def _send_some(self) -> bool:
        """Send one batch; return whether there was one."""
        assert self._engine is not None
        with self._reading().pin() as snapshot:
            owed = first_owed(snapshot.catalog, _BATCH)
            if owed is None:
                return False
            repeated = snapshot.catalog.meta("engine_sending") is not None
            chunks = snapshot.chunks_by_id(owed.ids)
            vectors, found = snapshot.manifest.vectors_of(
                np.array([chunk.number for chunk in chunks], np.int64)
            )
        if not repeated:
            self._note("engine_sending", owed.last)
        # Not every engine replaces what has the same id, so it is deleted first. After an interruption all may be there.
        self._engine.delete([each for each in owed.ids if repeated or each in owed.known])
        kept = np.flatnonzero(found)
        if len(kept):
            self._engine.add([chunks[place] for place in kept], np.asarray(vectors[kept], np.float32))
        with self._writing().transaction("strike off what was sent") as catalog:
            settle(catalog, owed.last)
            catalog.set_meta("engine_sending", None)
        return True

    def _note(self, key: str, value: Any) -> None:
        with self._writing().transaction("note what is being sent") as catalog:
            catalog.set_meta(key, value)

    def _owed(self) -> int:
        with self._reading().pin() as snapshot:
            return owed_count(snapshot.catalog)

    def write(
        self,
        documents: Sequence[Document],
        vectors: NDArray[np.float32] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        names = super().write(documents, vectors, ids)
        self._send()
        return names

    def replace(
        self, source: str, documents: Sequence[Document], vectors: NDArray[np.float32] | None = None
    ) -> list[str]:
        names = super().replace(source, documents, vectors)
        self._send()
        return names

    def replace_many(self, sources: Sequence[SourceDocuments]) -> list[str]:
        made = super().replace_many(sources)
        self._send()
        return made

    def put_sources(self, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None) -> list[str]:
        made = super().put_sources(writes, embedder)
        self._send()
        return made

    def move_many(self, moves: Sequence[SourceMove]) -> list[bool]:
        moved = super().move_many(moves)
        self._send()
        return moved

    def remove(self, ids: Sequence[str]) -> int:
        removed = super().remove(ids)
        self._send()
        return removed

    def remove_by_metadata(self, key: str, value: Any) -> int:
        removed = super().remove_by_metadata(key, value)
        self._send()
        return removed

    def finish_run(self, run: str, state: str, counts: Mapping[str, int]) -> bool:
        was_under_way = super().finish_run(run, state, counts)
        self._send()
        return was_under_way

    def compact(self, *, purge: bool = False, progress: Progress | None = None) -> CompactReport:
        self._writing()
        self._send()
        owed = self._owed()
        if purge is True and owed:
            raise StorageError(
                f"{owed} changes wait to be sent to the vector store of {self._place.engine}, so it still has what was "
                "deleted; nothing was purged. Call it again when the vector store answers"
            )
        report = super().compact(purge=purge, progress=progress)
        return replace(
            report,
            reach="every file of the catalog, and deleted in the vector store, whose own files are beyond it",
        )

    def optimize(
        self,
        recall: float = 0.95,
        queries: NDArray[np.float32] | None = None,
        *,
        progress: Progress | None = None,
    ) -> OptimizeReport:
        self._writing()
        check_recall(recall)
        raise StoreUnsupportedError(
            f"the vector store of {self._place.engine} has an index of its own: tune it with the engine's own settings"
        )

    def reembed(self, embedder: Any, progress: Callable[[int, int], None] | None = None) -> ReembedReport:
        self._writing()
        raise StoreUnsupportedError(
            f"a collection of {self._place.engine} is made for one embedder. Make a base of another collection with the new "
            "one, and ingest the sources into it; or copy this base to a folder (`oraculo copy`), which can reembed"
        )

    def health(self) -> HealthReport:
        report, owed = super().health(), self._owed()
        waiting = (
            Finding(f"{owed} changes wait to be sent to the vector store", "open the base for writing"),
        )
        return replace(report, location=self.location, findings=report.findings + (waiting if owed else ()))

    def verify(self, *, progress: Progress | None = None) -> VerifyReport:
        report = super().verify(progress=progress)
        problems = report.problems if not report.ok else self._missing_there()
        return replace(report, location=self.location, problems=problems)

    def _missing_there(self) -> tuple[str, ...]:
        """Ask the vector store for some chunks that it must have."""
        assert self._engine is not None
        with self._reading().pin() as snapshot:
            rows = snapshot.catalog.rows(
                "SELECT id FROM chunks WHERE id NOT IN (SELECT id FROM engine_outbox) ORDER BY random() LIMIT ?",
                (_LOOKED_AT,),
            ) if has_outbox(snapshot.catalog) else []  # fmt: skip
        if not rows:
            return ()
        try:
            missing = self._engine.missing([name for (name,) in rows])
        except Exception as exc:
            return (f"the vector store of {self._place.engine} cannot be asked: {type(exc).__name__}: {exc}",)
        if not missing:
            return ()
        return (
            f"of {len(rows)} chunks that the vector store of {self._place.engine} must have, {missing} are missing there; "
            "searches find less for it. repair() sends all chunks again",
        )

    def repair(self) -> RepairReport:
        missing = self._missing_there()
        report = super().repair()
        done = report.done
        with self._reading().pin() as snapshot:
            kept = has_outbox(snapshot.catalog)
        if missing or done or not kept:
            with self._writing().transaction("send everything again") as catalog:
                if kept:
                    owe_everything(catalog)
                else:
                    make_outbox(catalog)
                    catalog.set_meta("engine", self._place.engine)
            done += ("all chunks were sent to the vector store again",)
        self._send()
        return replace(report, location=self.location, done=done)

    def snapshot(self, path: str | os.PathLike[str]) -> Path:
        copy = super().snapshot(path)
        with (
            FaissVetorStorage(copy) as plain,
            plain._writing().transaction("make it an embedded store") as catalog,
        ):
            drop_outbox(catalog)
        return copy

    def close(self) -> None:
        if self._in_use and not self._closed and self._writer is not None:
            with suppress(StorageError):  # the catalog is damaged or gone; what is owed stays noted
                self._send()
        super().close()
        if self._engine is not None:
            self._engine.close()
            self._sending.close()

    def _abandon(self) -> None:
        super()._abandon()
        if self._engine is not None:
            self._sending.abandon()


__all__ = ["AdaptedVetorStorage"]
