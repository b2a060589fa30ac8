"""The commit protocol: how chunks, vectors, full text and ledger change together.

A small write (fewer than `SEGMENT_ROWS` chunks)::

    1  outside every lock: split, embedded, stemmed, checked; the rows are ready
    2  take writer.lock (bounded wait)
    3  BEGIN IMMEDIATE; compare the catalog's commit number with the one in writer.lock
    4  delete what is replaced (tombstones), insert chunks, full text, ledger, vectors as pending rows
    5  COMMIT: one fsync of the log. This is the commit point; after it the write is acknowledged
    6  note the commit number in writer.lock; release it

A large write makes a segment of its vectors first, so that the transaction holds references, not vectors::

    1a  short transaction under the lock: claim a segment name, reserve a range of chunk numbers
    1b  outside the lock: write the segment, fsync, rename, fsync the folder
    2-6 as above, and the transaction checks that the claim still stands and turns it into a segment

When `SEGMENT_ROWS` vectors are pending, the writer that made them so many flushes them into a segment by the
same steps. The log is moved into the database (checkpoint) under ``writer.lock`` once it has
`CHECKPOINT_PAGES` pages.

Killed at any step: before 5 the log has no commit and nothing happened (claimed names and files without a
claim are collected later); after 5 everything happened. A commit number that was not noted in
``writer.lock`` (killed between 5 and 6) is only lower than the truth, which no check minds.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.errors import StorageError, VectorsError
from oraculo_kit.storage.catalog import Catalog, translated
from oraculo_kit.storage.claims import ClaimedSegment, claim_owners
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.fulltext import STEMMER_VERSION
from oraculo_kit.storage.guards import check_not_behind, check_not_lost
from oraculo_kit.storage.identity import EmbedderIdentity
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.manifest import read_pending
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.records import SourceWrite
from oraculo_kit.storage.rows import bump_layout, delete_chunks, next_commit, put_source, reserve_numbers
from oraculo_kit.storage.segments import sync_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEGMENT_ROWS = 4096
CHECKPOINT_PAGES = 1000
TRUNCATE_PAGES = 16_000

_log = logging.getLogger("oraculo_kit.storage")


class Writer:
    """The writing side of a store; one per store object, shared by its threads.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder; it exists.
    durability : {"power", "process"}
    lock_timeout : float
        Seconds.
    """

    def __init__(self, folder: Path, *, durability: str, lock_timeout: float) -> None:
        self.folder = folder
        self.segments = folder / "segments"
        self.lock = WriterLock(folder, lock_timeout)
        self._durability = durability
        self._catalog: Catalog | None = None

    def create_if_missing(self) -> None:
        """Make an empty catalog, unless there is one.

        Raises
        ------
        StoreCorruptedError
            When there is none but there must be; see `check_not_lost`.
        """
        with translated(self._catalog_path), self.lock.held("create the store"), gate.passage():
            self.segments.mkdir(exist_ok=True)
            # Before SQLite sees the folder: it makes a missing file, and throws the log of an empty one away.
            check_not_lost(self.folder, self.lock.commit_number())
            catalog = Catalog(self._catalog_path, create=True, durability=self._durability)
            try:
                if catalog.is_empty():
                    catalog.create_schema(
                        {
                            "store_id": uuid.uuid4().hex,
                            "created": datetime.now(UTC).isoformat(timespec="seconds"),
                            "commit": 0,
                            "layout": 0,
                            "dimension": None,
                            "embedder": None,
                            "probe": None,
                            "stemmer": STEMMER_VERSION,
                        }
                    )
                    # Before anything counts as stored: SQLite's journal is gone for good, and all files have names.
                    sync_folder(self.folder)
            finally:
                catalog.close()

    @property
    def _catalog_path(self) -> Path:
        return self.folder / "catalog.sqlite3"

    @contextmanager
    def _transaction(self, what: str) -> Iterator[Catalog]:
        """Hold the lock and one write transaction; after its commit note the commit number."""
        with self.lock.held(what), gate.passage():
            catalog = self._connected()
            with catalog.writing():
                check_not_behind(catalog, self.lock.commit_number())
                before = catalog.meta("commit")
                yield catalog
                after = catalog.meta("commit")
            if after != before and self._durability == "power":
                # A commit that may be lost in a power cut must not be remembered as one that was made.
                with acknowledged("note of the commit number"):
                    self.lock.record_commit(int(after))
            if catalog.wal_pages >= CHECKPOINT_PAGES:
                with acknowledged("checkpoint"):
                    catalog.checkpoint(truncate=catalog.wal_pages >= TRUNCATE_PAGES)

    def _connected(self) -> Catalog:
        # Called only while the lock's thread lock is held: one thread at a time uses the connection.
        if self._catalog is not None and self._catalog.is_outdated():
            self.rest()
        if self._catalog is None:
            catalog = Catalog(self._catalog_path, durability=self._durability)
            try:
                catalog.check_format()
            except BaseException:
                catalog.close()
                raise
            self._catalog = catalog
        return self._catalog

    def commit(self, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None = None) -> int:
        """Write whole sources or single chunks, all in one commit.

        Parameters
        ----------
        writes : sequence of SourceWrite
        embedder : EmbedderIdentity, optional
            Who made the vectors; None for ready-made ones.

        Returns
        -------
        int
            The commit number.

        Raises
        ------
        EmbedderMismatchError, VectorsError
            When the store holds vectors of another embedder or dimension.
        StorageError
            When the disk refuses; nothing was written then.
        """
        rows = sum(len(write.rows) for write in writes)
        number, pending = None, 0
        while number is None:
            if rows < SEGMENT_ROWS:
                number, pending = self._commit(writes, embedder, rows, None)
                continue
            with self._transaction("claim a segment") as catalog:
                self._check_vectors(catalog, writes, embedder)
                segment = ClaimedSegment.claim(catalog, self.segments, "write")
                segment.first = reserve_numbers(catalog, rows)
            with self._released(segment):
                numbers = np.arange(segment.first, segment.first + rows, dtype=np.int64)
                segment.write(numbers, [write.vectors for write in writes if len(write.rows)])
                number, pending = self._commit(writes, embedder, rows, segment)
        if pending >= SEGMENT_ROWS:
            with acknowledged("flush"):
                self.flush()
        return number

    def _commit(
        self,
        writes: Sequence[SourceWrite],
        embedder: EmbedderIdentity | None,
        rows: int,
        segment: ClaimedSegment | None,
    ) -> tuple[int | None, int]:
        """Make the one transaction; no number when the claim was collected while its file was written."""
        with self._transaction(f"commit {len(writes)} sources, {rows} chunks") as catalog:
            if segment is not None and not segment.adopt(catalog):
                return None, 0
            dimension = self._check_vectors(catalog, writes, embedder)
            if dimension is not None:
                catalog.set_meta("dimension", dimension)
                if embedder is not None and catalog.meta("embedder") is None:
                    catalog.set_meta("embedder", embedder.name)
                    catalog.set_meta("probe", embedder.probe.astype("<f4").tobytes())
            number = next_commit(catalog)
            if segment is not None:
                bump_layout(catalog)
            first = segment.first if segment is not None else reserve_numbers(catalog, rows)
            for write in writes:
                put_source(catalog, write, first, number, pending=segment is None)
                first += len(write.rows)
            pending = int(catalog.one("SELECT count(*) FROM pending"))
        if segment is not None:
            segment.adopted = True
        return number, pending

    def _check_vectors(
        self, catalog: Catalog, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None
    ) -> int | None:
        """Refuse vectors that do not fit; return their dimension, None when there are none."""
        dimensions = {write.vectors.shape[1] for write in writes if len(write.rows)}
        if not dimensions:
            return None
        stored = catalog.meta("dimension")
        if len(dimensions) > 1 or (stored is not None and dimensions != {stored}):
            raise VectorsError(
                f"got vectors of dimension {', '.join(map(str, sorted(dimensions)))}, expected {stored or 'one'} "
                f"as the store {self.folder} has. Use the embedder that built it"
            )
        if embedder is not None:
            embedder.check(catalog, self.folder)
        return int(dimensions.pop())

    @contextmanager
    def _released(self, segment: ClaimedSegment) -> Iterator[None]:
        """Run the body; give the claim back and remove its file unless the body got it adopted."""
        try:
            yield
        finally:
            if not segment.adopted:
                with acknowledged("release of a claim"):
                    self._release(segment)

    def _release(self, segment: ClaimedSegment) -> None:
        with self._transaction("release a claim") as catalog:
            # A claim that is still there was not adopted, whatever the body came to believe: an interrupt may
            # have struck just after its commit.
            unused = catalog.one("DELETE FROM claims WHERE name = ? RETURNING name", (segment.path.name,))
        if unused:
            segment.path.unlink(missing_ok=True)

    def remove(self, select: Callable[[Catalog], NDArray[np.int64]], what: str) -> int:
        """Delete the chunks whose numbers `select` returns inside the transaction; return how many."""
        with self._transaction(what) as catalog:
            numbers = select(catalog)
            if len(numbers):
                delete_chunks(catalog, numbers, next_commit(catalog))
        return len(numbers)

    def flush(self) -> bool:
        """Move the pending vectors into a segment; return False when another process is just doing it."""
        with self._transaction("claim a segment") as catalog:
            # Without a claim of its own nobody else could tell; two flushes would store the same vectors twice.
            if any(owner.lives() for owner in claim_owners(catalog, "flush")):
                return False
            # Whoever lives against all appearances finds the claim gone, and stores nothing.
            catalog.db.execute("DELETE FROM claims WHERE purpose = 'flush'")
            segment = ClaimedSegment.claim(catalog, self.segments, "flush")
        with self._released(segment):
            with self._reading() as catalog:
                numbers, vectors = read_pending(catalog, int(catalog.meta("dimension") or 0), -1)
            if len(numbers):
                segment.write(numbers, [vectors])
                with self._transaction("flush") as catalog:
                    adopted = segment.adopt(catalog)
                    if adopted:
                        next_commit(catalog)
                        bump_layout(catalog)
                        flushed = [(int(number),) for number in numbers]
                        catalog.db.executemany("DELETE FROM pending WHERE number = ?", flushed)
                segment.adopted = adopted
        return True

    @contextmanager
    def _reading(self) -> Iterator[Catalog]:
        with gate.passage():
            reader = Catalog(self._catalog_path, read_only=True)
            try:
                with reader.reading():
                    yield reader
            finally:
                reader.close()

    def collect_garbage(self) -> list[str]:
        """Delete claims of dead processes and files that no segment and no claim names; return the files."""
        removed = []
        # Listed first: a file that is made from now on belongs to a claim that this transaction may not see.
        files = list(self.segments.iterdir())
        with self._transaction("collect garbage") as catalog:
            for name, host, pid, started in catalog.rows("SELECT name, host, pid, started FROM claims"):
                # On another host nobody can tell; after a day no honest writer is still at it.
                expired = time.time_ns() - int(name.partition("-")[0]) > 86_400 * 10**9
                if expired or not Owner(host, pid, started).lives():
                    catalog.db.execute("DELETE FROM claims WHERE name = ?", (name,))
            named = catalog.rows("SELECT name FROM segments UNION ALL SELECT name FROM claims")
            keep = {name for (name,) in named}
        # After the commit, and outside the lock: a name that is free now is never used again.
        for path in files:
            if path.name.removesuffix(".tmp") not in keep:
                try:
                    path.unlink(missing_ok=True)
                except PermissionError as exc:
                    # Windows: still mapped by a reader; the next collection takes it.
                    _log.debug("segment %s is still in use: %s", path.name, exc)
                else:
                    removed.append(path.name)
        return removed

    def close(self) -> None:
        """Move the log into the database when nobody else is writing, then close."""
        if self._catalog is not None:
            try:
                with self.lock.held("close"), gate.passage():
                    if self._catalog is not None:
                        self._catalog.checkpoint(truncate=True)
            except StorageError as exc:
                _log.debug("no checkpoint on close of %s: %s", self.folder, exc)
            finally:
                with gate.passage():
                    self.rest()
        self.lock.close()

    def rest(self) -> None:
        """Close the connection, for instance before the process forks; the next write opens a new one."""
        catalog, self._catalog = self._catalog, None
        if catalog is not None:
            catalog.close()

    def abandon(self) -> None:
        """In a forked child: let go of everything inherited."""
        if self._catalog is not None:
            self._catalog.abandon()
            self._catalog = None
        self.lock.abandon()


@contextmanager
def acknowledged(what: str) -> Iterator[None]:
    """Keep housekeeping after a commit from failing the write: what was committed is stored, whatever follows."""
    try:
        yield
    except (StorageError, OSError) as exc:
        _log.warning("the write is stored, but the %s after it failed and will be tried again: %s", what, exc)
