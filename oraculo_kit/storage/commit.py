"""The commit protocol: how chunks, vectors, full text and ledger change together.

A small write (fewer than `SEGMENT_ROWS` chunks)::

    1  outside every lock: split, embedded, stemmed, checked; the rows are ready
    2  take writer.lock (bounded wait)
    3  BEGIN IMMEDIATE; compare the catalog's commit number with the one in writer.lock
    4  delete what is replaced (tombstones), insert chunks, full text, ledger, vectors as pending rows, outcomes
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
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from oraculo_kit.errors import StorageError, VectorsError
from oraculo_kit.storage.catalog import Catalog, translated
from oraculo_kit.storage.claims import (
    ClaimedFile,
    ClaimedSegment,
    collect_claims,
    drop_claim,
    is_claimed,
    remove_files,
    spoken_for,
)
from oraculo_kit.storage.compaction import merge_small
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.guards import check_not_behind, check_not_lost, check_not_restoring, is_catalog
from oraculo_kit.storage.identity import EmbedderIdentity
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.manifest import read_pending
from oraculo_kit.storage.precision import half_recall
from oraculo_kit.storage.records import SourceWrite
from oraculo_kit.storage.rows import (
    bump_layout,
    count_pending,
    delete_chunks,
    drop_flushed,
    last_pending,
    list_all_keys,
    mark_flushed,
    next_commit,
    put_sources,
    reserve_numbers,
)
from oraculo_kit.storage.runs import SourceOutcome, insert_outcomes
from oraculo_kit.storage.schema import FORMAT, first_values
from oraculo_kit.storage.segments import sync_folder, sync_path
from oraculo_kit.storage.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A flush stops one write for 25 ms (384 dimensions); with twice as many rows for 55, and then one commit of a hundred
# takes more than 50.
SEGMENT_ROWS = 2048
CHECKPOINT_PAGES = 1000
TRUNCATE_PAGES = 16_000

_log = logging.getLogger("oraculo_kit.storage")


class Committed(NamedTuple):
    """What a commit did.

    Attributes
    ----------
    number : int
        The commit number.
    pending : int
        Vectors that are in no segment since.
    replaced : list of bool
        For each source whether the ledger knew it before.
    """

    number: int
    pending: int
    replaced: list[bool]


class Writer:
    """The writing side of a store; one per store object, shared by its threads.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder; it exists.
    durability : {"power", "process"}
    lock_timeout : float
        Seconds.
    precision : {"float32", "float16"}
        How the segments of a store made here hold vectors; one that exists keeps its own.
    """

    def __init__(
        self, folder: Path, *, durability: str, lock_timeout: float, precision: str = "float32"
    ) -> None:
        self.folder = folder
        self.segments = folder / "segments"
        self.indexes = folder / "indexes"
        self.lock = WriterLock(folder, lock_timeout)
        self._durability = durability
        self._precision = precision
        self._catalog: Catalog | None = None
        self._unreleased: list[ClaimedFile] = []

    def make_ready(self) -> None:
        """Make an empty catalog where there is none, and bring one of an earlier format forward.

        Raises
        ------
        StoreCorruptedError
            When there is none but there must be; see `check_not_lost`.
        """
        if self._is_ready():
            return  # without the lock: hundreds of workers that open a store need not queue
        check_not_restoring(self.folder)
        with translated(self._catalog_path), self.lock.held("create the store"), gate.passage():
            self.segments.mkdir(exist_ok=True)
            # Before SQLite sees the folder: it makes a missing file, and throws the log of an empty one away.
            remembered = self.lock.commit_number()
            check_not_lost(self.folder, remembered)
            catalog = Catalog(self._catalog_path, create=True, durability=self._durability)
            try:
                self._share()  # before SQLite makes the log with the catalog's rights
                if catalog.is_empty():
                    check_not_lost(self.folder, remembered, holds_nothing=True)
                    catalog.create_schema(first_values(self._precision))
                    # Before anything counts as stored: SQLite's journal is gone for good, and all files have names.
                    sync_folder(self.folder)
                    self._share()
                elif catalog.bring_forward():
                    _log.info("the store %s was brought forward to format %d", self.folder, FORMAT)
            finally:
                catalog.close()

    def _is_ready(self) -> bool:
        path = self._catalog_path
        if not (self.segments.is_dir() and is_catalog(path)):
            return False
        if not all(os.access(each, os.W_OK) for each in (self.folder, path, self.lock.path)):
            return False  # the way through the lock says why
        with gate.passage(), suppress(StorageError):  # such as a journal that only a writer can roll back
            catalog = Catalog(path, read_only=True)
            try:
                return not catalog.is_empty() and catalog.version() == FORMAT
            finally:
                catalog.close()
        return False

    def _share(self) -> None:
        names = ("segments", "catalog.sqlite3", "catalog.sqlite3-wal", "catalog.sqlite3-shm")
        for name in names:
            share(self.folder / name)

    @property
    def _catalog_path(self) -> Path:
        return self.folder / "catalog.sqlite3"

    @contextmanager
    def transaction(self, what: str) -> Iterator[Catalog]:
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

    @contextmanager
    def exclusively(self, what: str) -> Iterator[Catalog]:
        """Hold the lock without a transaction, for what SQLite does outside of one."""
        with self.lock.held(what), gate.passage(), translated(self._catalog_path):
            catalog = self._connected()
            check_not_behind(catalog, self.lock.commit_number())
            yield catalog

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
            self._share()  # SQLite has made its files anew if somebody had removed them
            self._catalog = catalog
        return self._catalog

    def commit(self, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None = None) -> Committed:
        """Write whole sources or single chunks, all in one commit.

        Parameters
        ----------
        writes : sequence of SourceWrite
        embedder : EmbedderIdentity, optional
            Who made the vectors; None for ready-made ones.

        Returns
        -------
        Committed

        Raises
        ------
        EmbedderMismatchError, VectorsError
            When the store holds vectors of another embedder or dimension.
        StorageError
            When the disk refuses; nothing was written then.
        """
        rows = sum(len(write.rows) for write in writes)
        made: Committed | None = None
        while made is None:
            if rows < SEGMENT_ROWS:
                made = self._commit(writes, embedder, rows, None)
                continue
            segment = ClaimedSegment()
            with self.released(segment):
                with self.transaction("claim a segment") as catalog:
                    dimension = self._check_vectors(catalog, writes, embedder)
                    segment.claim_as(catalog, self.segments, "write", dimension or 0)
                    segment.first = reserve_numbers(catalog, rows)
                numbers = np.arange(segment.first, segment.first + rows, dtype=np.int64)
                blocks = [write.vectors for write in writes if len(write.rows)]
                segment.write(numbers, blocks, half_recall(blocks) if segment.is_half else None)
                made = self._commit(writes, embedder, rows, segment)
        self._release_unused()
        if made.pending >= SEGMENT_ROWS:
            with acknowledged("flush"):
                if self.flush():
                    merge_small(self, 2 * SEGMENT_ROWS)
        return made

    def _commit(
        self,
        writes: Sequence[SourceWrite],
        embedder: EmbedderIdentity | None,
        rows: int,
        segment: ClaimedSegment | None,
    ) -> Committed | None:
        """Make the one transaction; None when the claim was collected while its file was written."""
        with self.transaction(f"commit {len(writes)} sources, {rows} chunks") as catalog:
            if segment is not None and not segment.adopt(catalog):
                return None
            dimension = self._check_vectors(catalog, writes, embedder)
            if dimension is not None:
                catalog.set_meta("dimension", dimension)
                if embedder is not None:
                    embedder.remember(catalog)
            number = next_commit(catalog)
            if segment is not None:
                bump_layout(catalog)
            first = segment.first if segment is not None else reserve_numbers(catalog, rows)
            replaced = put_sources(catalog, writes, first, number, pending=segment is None)
            list_all_keys(catalog, writes)
            insert_outcomes(catalog, _outcomes(writes, replaced))
            pending = int(catalog.meta("pending"))
            if segment is None:
                pending += rows
                catalog.set_meta("pending", pending)
                drop_flushed(catalog, 2 * rows + 1)
        if segment is not None:
            segment.adopted = True
        return Committed(number, pending, replaced)

    def _check_vectors(
        self, catalog: Catalog, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None
    ) -> int | None:
        """Refuse vectors that do not fit; return their dimension, None when there are none."""
        dimensions = {write.vectors.shape[1] for write in writes if len(write.rows)}
        if not dimensions:
            return None
        if embedder is not None:
            embedder.check(catalog, self.folder)
        stored = catalog.meta("dimension")
        if len(dimensions) > 1 or (stored is not None and dimensions != {stored}):
            raise VectorsError(
                f"got vectors of dimension {', '.join(map(str, sorted(dimensions)))}, expected {stored or 'one'} "
                f"as the store {self.folder} has. Use the embedder that built it"
            )
        return int(dimensions.pop())

    @contextmanager
    def released(self, file: ClaimedFile) -> Iterator[None]:
        """Run the body; give its claim back and remove the file unless the body got it adopted."""
        try:
            yield
        finally:
            if file.path.name and not file.adopted:
                self._unreleased.append(file)
                self._release_unused()

    @contextmanager
    def claimed(self, purpose: str, dimension: int = 0) -> Iterator[ClaimedSegment]:
        """Claim a segment for the body, which may get it adopted; see `released`."""
        segment = ClaimedSegment()
        with self.released(segment):
            with self.transaction("claim a segment") as catalog:
                segment.claim_as(catalog, self.segments, purpose, dimension)
            yield segment

    def _release_unused(self) -> None:
        # Kept when it fails, as on a full disk: a claim of a living process would keep flushes out for ever.
        for file in list(self._unreleased):
            try:
                self._release(file)
            except (StorageError, OSError) as exc:
                _log.warning("the claim of %s was not given back and will be tried again: %s", file.path, exc)
                return
            with suppress(ValueError):  # another thread was faster
                self._unreleased.remove(file)

    def _release(self, file: ClaimedFile) -> None:
        with self.transaction("release a claim") as catalog:
            # A claim that is still there was not adopted, whatever the body came to believe: an interrupt may
            # have struck just after its commit.
            unused = drop_claim(catalog, file.path.name)
        if unused:
            file.path.unlink(missing_ok=True)
            # A disk that refuses a write may refuse to take the unfinished file back, too.
            file.path.with_name(f"{file.path.name}.tmp").unlink(missing_ok=True)

    def remove(self, select: Callable[[Catalog], NDArray[np.int64]], what: str) -> int:
        """Delete the chunks whose numbers `select` returns inside the transaction; return how many."""
        with self.transaction(what) as catalog:
            numbers = select(catalog)
            if len(numbers):
                delete_chunks(catalog, numbers, next_commit(catalog))
        return len(numbers)

    def flush(self) -> bool:
        """Move the pending vectors into a segment; return False when another process is just doing it.

        The pending rows themselves are left to the commits that follow (`drop_flushed`): they only count as gone.
        """
        self._release_unused()  # a claim of our own that is left would keep us out too
        segment = ClaimedSegment()
        with self.released(segment):
            with self.transaction("claim a segment") as catalog:
                # Without a claim of its own nobody else could tell; two flushes would store the same vectors twice.
                if is_claimed(catalog, "flush"):
                    return False
                # Whoever lives against all appearances finds the claim gone, and stores nothing.
                catalog.db.execute("DELETE FROM claims WHERE purpose = 'flush'")
                segment.claim_as(catalog, self.segments, "flush")
            with self.reading() as catalog:
                numbers, vectors = read_pending(catalog, segment.dimension, int(catalog.meta("flushed")))
                last = last_pending(catalog)
            if len(numbers):
                segment.write(numbers, [vectors], half_recall([vectors]) if segment.is_half else None)
            with self.transaction("flush") as catalog:
                # Also when there was nothing to write: a mark of another time would bring vectors back, or hide them.
                adopted = segment.adopt(catalog)
                if last is not None and adopted:
                    next_commit(catalog)
                    bump_layout(catalog)
                    mark_flushed(catalog, numbers, last)
                count_pending(catalog)
            segment.adopted = adopted  # not before its commit, which may fail
        return True

    @contextmanager
    def reading(self) -> Iterator[Catalog]:
        """Pin one version of the catalog on a connection of its own."""
        with gate.passage():
            reader = Catalog(self._catalog_path, read_only=True)
            try:
                with reader.reading():
                    yield reader
            finally:
                reader.close()

    def collect_garbage(self) -> list[str]:
        """Delete claims of dead processes, and files that the catalog does not name; return the files."""
        # Listed first: a file that is made from now on belongs to a claim that this transaction may not see.
        files = [*_files(self.segments), *_files(self.indexes)]
        with self.transaction("collect garbage") as catalog:
            keep = collect_claims(catalog)
        return self.remove_dropped(files, keep)

    def remove_dropped(self, files: Iterable[Path], keep: Collection[str] = ()) -> list[str]:
        """Delete files that the catalog names no more, but those to `keep`; return the names of those that went.

        With the lock held, and after another look: a store that was restored a moment ago may have them still.
        """
        files = list(files)
        if not files:
            return []
        if self._durability != "power":
            # A power cut may take the commit that dropped them back: then they are needed again.
            with suppress(FileNotFoundError):
                sync_path(self._catalog_path.with_name(self._catalog_path.name + "-wal"))
        with self.exclusively("delete files") as catalog:
            return remove_files(files, spoken_for(catalog).union(keep))

    def checkpoint(self) -> None:
        """Move the whole log into the database, as far as readers allow."""
        with self.exclusively("checkpoint") as catalog:
            catalog.checkpoint(truncate=True)

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
        self._unreleased = []
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


def _outcomes(writes: Sequence[SourceWrite], replaced: Sequence[bool]) -> Iterator[tuple[str, SourceOutcome]]:
    for write, was_there in zip(writes, replaced, strict=True):
        if write.outcome is not None:
            status = "replaced" if was_there else "added"
            yield write.outcome.run, replace(write.outcome, status=status)


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
