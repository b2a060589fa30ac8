"""Another model for the same texts: every vector is made again, and the store changes over in one commit.

::

    1  stage      page by page the stored texts are embedded, outside every lock, into segments of a list of their
                  own (``staged``); each file counts from the commit that lists it, so a killed run is taken up there
    2  catch up   what was written meanwhile (still with the old model) is staged too, until nothing is missing
    3  switch     one transaction: the staged segments take the place of the old ones and of the pending vectors, and
                  the store remembers the new model. Until then every search sees the old version

From the switch on, a writer with the old model is refused (`EmbedderMismatchError`), as is a search by text. While
anything is staged no tombstone is dropped: a chunk deleted since it was staged is told apart by its tombstone alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.errors import StorageError, StoreLockTimeoutError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.claims import ClaimedSegment, is_claimed
from oraculo_kit.storage.manifest import open_segment
from oraculo_kit.storage.precision import half_recall
from oraculo_kit.storage.rows import (
    bump_layout,
    drop_staged,
    mark_deleted,
    next_commit,
    reserve_numbers,
)
from oraculo_kit.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage.commit import Writer
    from oraculo_kit.storage.identity import EmbedderIdentity
    from oraculo_kit.storage.snapshot import Reader

    Numbers = NDArray[np.int64]

STAGE_ROWS = 16_384  # chunks per staged file: 25 MB at 384 dimensions, 8 s of the default model
_EMBED_ROWS = 1_000
_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class ReembedReport:
    """What `reembed` did.

    Attributes
    ----------
    location : str
        The store's folder.
    embedder : str
        Name of the model that the store has now.
    chunks : int
        How many have a new vector.
    resumed : int
        How many of them had been embedded by an earlier run that did not end.
    dimension : int
        Length of a vector now.
    seconds : float
    """

    location: str
    embedder: str
    chunks: int
    resumed: int
    dimension: int
    seconds: float

    def __repr__(self) -> str:
        before = f" ({self.resumed} by an earlier run)" if self.resumed else ""
        return (
            f"{self.chunks} chunks embedded with {self.embedder}{before}, dimension {self.dimension}, "
            f"in {self.seconds:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class _Coverage:
    """What was missing in one version, and how to tell in a later one whether more is."""

    missing: Numbers
    segments: list[str]
    last: int

    def still_holds(self, catalog: Catalog) -> bool:
        # A chunk that is new since then has a greater number, or came with a new segment.
        return _last_number(catalog) == self.last and _segment_names(catalog) == self.segments


def reembed_store(
    writer: Writer,
    reader: Reader,
    embedder: Embedder,
    identity: EmbedderIdentity,
    progress: Callable[[int, int], None] | None = None,
) -> ReembedReport:
    """Make every vector of a store anew; see `VetorStorage.reembed`."""
    started = time.perf_counter()
    staging = _Staging(writer, embedder, identity)
    with staging.alone():
        resumed = staging.begin()
        for _ in range(_ROUNDS):
            with reader.pin() as snapshot:
                coverage = staging.coverage(snapshot)
            total = resumed + len(coverage.missing)
            done = resumed
            for start in range(0, len(coverage.missing), STAGE_ROWS):
                part = coverage.missing[start : start + STAGE_ROWS]
                staging.stage(reader, part)
                done += len(part)
                if progress is not None:
                    progress(done, total)
            files = staging.switch(coverage)
            if files is not None:
                writer.remove_dropped(files)
                return ReembedReport(
                    location=str(writer.folder),
                    embedder=identity.name,
                    chunks=staging.rows,
                    resumed=resumed,
                    dimension=len(identity.probe),
                    seconds=time.perf_counter() - started,
                )
    raise StoreLockTimeoutError(
        f"the store {writer.folder} could not change over to {identity.name}: other processes kept writing meanwhile. "
        "What was embedded is kept; call reembed() again when it is quieter"
    )


class _Staging:
    def __init__(self, writer: Writer, embedder: Embedder, identity: EmbedderIdentity) -> None:
        self.writer = writer
        self.embedder = embedder
        self.identity = identity
        self.rows = 0
        self._claim = ClaimedSegment()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a claim of no file for the body, so that no other process stages at the same time."""
        with self.writer.released(self._claim):
            with self.writer.transaction("begin to embed again") as catalog:
                if is_claimed(catalog, "reembed"):
                    raise StorageError(
                        f"another process is embedding the store {self.writer.folder} again; wait for it to end"
                    )
                self._claim.claim_as(catalog, self.writer.segments, "reembed", len(self.identity.probe))
            yield

    @contextmanager
    def _transaction(self, what: str) -> Iterator[Catalog]:
        """Run the body as one write transaction of the very store that `alone` holds the claim of.

        Numbers of chunks mean nothing in a store that was restored in the meantime.
        """
        with self.writer.transaction(what) as catalog:
            if not catalog.one("SELECT count(*) FROM claims WHERE name = ?", (self._claim.path.name,)):
                raise StorageError(
                    f"the store {self.writer.folder} was restored or repaired while it was being embedded again, and "
                    "was left as it is. Call reembed() again"
                )
            yield catalog

    def begin(self) -> int:
        """Drop what was staged for another model; return how many rows an earlier run staged for this one."""
        with self._transaction("begin to embed again") as catalog:
            names = [] if self.identity.has_staged(catalog) else drop_staged(catalog)
            self.identity.remember_staged(catalog)
            self.rows = int(catalog.one("SELECT coalesce(sum(rows), 0) FROM staged"))
        self.writer.remove_dropped(self.writer.segments / name for name in names)
        return self.rows

    def coverage(self, snapshot: Snapshot) -> _Coverage:
        """Return the numbers of the chunks of a version that have no staged vector."""
        catalog = snapshot.catalog
        every = np.array([n for (n,) in catalog.rows("SELECT number FROM chunks ORDER BY number")], np.int64)
        names = catalog.rows("SELECT name FROM staged")
        staged = [open_segment(self.writer.segments / name).numbers for (name,) in names]
        missing = np.setdiff1d(every, np.concatenate(staged)) if staged else every
        return _Coverage(missing, _segment_names(catalog), _last_number(catalog))

    def stage(self, reader: Reader, numbers: Numbers) -> None:
        """Embed chunks and list the file of their vectors; those deleted in the meantime are left out."""
        kept: list[int] = []
        blocks: list[NDArray[np.float32]] = []
        for start in range(0, len(numbers), _EMBED_ROWS):
            with reader.pin() as snapshot:
                chunks = snapshot.chunks(numbers[start : start + _EMBED_ROWS])
            if chunks:
                blocks.append(self.embedder.embed([chunk.text for chunk in chunks]))
                kept.extend(chunk.number for chunk in chunks)
        if not kept:
            return
        segment = ClaimedSegment()
        segment_numbers = np.array(kept, np.int64)
        with self.writer.released(segment):
            with self._transaction("claim a segment") as catalog:
                segment.claim_as(catalog, self.writer.segments, "stage", len(self.identity.probe))
            segment.write(segment_numbers, blocks, half_recall(blocks) if segment.is_half else None)
            with self._transaction("stage vectors") as catalog:
                staged = segment.stage(catalog)
                mark_deleted(catalog, segment_numbers)
            segment.adopted = staged
        self.rows += len(kept) if staged else 0

    def switch(self, coverage: _Coverage) -> list[Path] | None:
        """Make the staged segments the store's; None when more chunks must be staged first."""
        writer = self.writer
        with self._transaction("change over to another embedder") as catalog:
            if not coverage.still_holds(catalog):
                return None
            old = catalog.rows("DELETE FROM segments RETURNING name")
            indexes = catalog.rows("DELETE FROM indexes RETURNING name")
            catalog.db.execute("INSERT INTO segments SELECT * FROM staged")
            catalog.db.execute("DELETE FROM staged")
            # Whoever is just writing vectors of the old model finds its claim gone, and starts over, or gives up.
            catalog.db.execute("DELETE FROM claims WHERE purpose NOT IN ('reembed', 'stage')")
            catalog.db.execute("DELETE FROM pending")
            catalog.db.execute("UPDATE tombstones SET unsegmented = 0")
            catalog.set_meta("flushed", reserve_numbers(catalog, 0) - 1)
            catalog.set_meta("pending", 0)
            self.identity.replace(catalog)
            next_commit(catalog)
            bump_layout(catalog)
        return [
            *(writer.segments / name for (name,) in old),
            *(writer.indexes / name for (name,) in indexes),
        ]


def _segment_names(catalog: Catalog) -> list[str]:
    return [name for (name,) in catalog.rows("SELECT name FROM segments ORDER BY name")]


def _last_number(catalog: Catalog) -> int:
    return int(catalog.one("SELECT coalesce(max(number), 0) FROM chunks"))
