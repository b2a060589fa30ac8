"""Compaction: fewer segments, no dead vectors, no space held for nothing.

A store that is written in small commits gathers segments, tombstones and free pages. Compaction works in steps, each
of which leaves a whole store::

    1  pending vectors become a segment (flush)
    2  segments that are small or hold dead vectors are merged, group by group: a new file is written outside the
       lock, then one transaction puts it in the place of the old ones and drops the tombstones that it made good
    3  tombstones that no segment holds are dropped
    4  the full-text index is merged, and free pages are given back, a slice per transaction

Readers go on with the version they have, writers wait for one step at most. What is deleted while a group is being
written stays deleted: its tombstone is younger than the file, and stays. Killed at any point, nothing is changed but
what was committed; the file of an unfinished group is collected later.

After a flush the writer itself merges, in bounded pieces, the small segments that flushes leave (`merge_small`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import StorageError, StoreCorruptedError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.claims import ClaimedSegment, is_claimed
from oraculo_kit.storage.manifest import open_segment
from oraculo_kit.storage.rows import bump_layout, drop_flushed, forget_tombstones, next_commit
from oraculo_kit.storage.segments import Segment, sorted_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import Progress
    from oraculo_kit.storage.commit import Writer

    Numbers = NDArray[np.int64]

COMPACT_ROWS = 1 << 20  # a merged segment has about so many rows at most: 1.6 GB at 384 dimensions
MERGE_SEGMENTS = 8  # so many small segments are merged after a flush...
MERGE_BYTES = 64 << 20  # ...when they are no more than this together: 0.1 s
_BLOCK_ROWS = 2_048  # rows copied at once: 3 MB at 384 dimensions; more at once are copied no faster
_SLICE_PAGES = 1_000  # database pages per transaction of housekeeping: some 20 ms


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did.

    Attributes
    ----------
    location : str
        The store's folder.
    segments_before, segments : int
        Files of vectors, before and after.
    dropped : int
        Deleted vectors that took space before, and no longer do.
    bytes_before, bytes : int
        Size of all files, before and after.
    purged : bool
        Whether what was deleted was erased, too.
    reach : str
        What it was erased from then, and what is beyond it.
    seconds : float
    """

    location: str
    segments_before: int
    segments: int
    dropped: int
    bytes_before: int
    bytes: int
    purged: bool
    seconds: float
    reach: str = "every file"

    def __repr__(self) -> str:
        erased = f"; deleted data was erased from {self.reach}" if self.purged else ""
        return (
            f"segments: {self.segments_before} -> {self.segments}, deleted vectors dropped: {self.dropped}, "
            f"{self.bytes_before / 1e6:.1f} -> {self.bytes / 1e6:.1f} MB in {self.seconds:.1f} s{erased}"
        )


def compact(writer: Writer, progress: Progress | None = None) -> int:
    """Compact a store; return how many deleted vectors were dropped. See `VetorStorage.compact`.

    Raises
    ------
    StorageError
        When another process is compacting it.
    """
    settle(writer)
    dropped = merge_segments(writer, progress)
    reclaim(writer)
    return dropped


def settle(writer: Writer) -> None:
    """Flush, and wait for the flush that another process may be making."""
    deadline = time.monotonic() + writer.lock.timeout
    while not writer.flush() and time.monotonic() < deadline:
        time.sleep(0.02)


def merge_segments(writer: Writer, progress: Progress | None = None) -> int:
    """Merge all segments that are worth it, group by group; return how many dead vectors were dropped."""
    dropped = 0
    with writer.reading() as catalog:
        if is_claimed(catalog, "compact"):
            raise StorageError(
                f"another process is compacting the store {writer.folder}; wait for it, then try again"
            )
        plan = _groups(_opened(writer, _listed(catalog)), _dead(catalog))
    told = _Copied(progress, sum(len(segment.numbers) for group in plan for segment in group))
    for group in plan:
        dropped += _merge(writer, group, "compact", told)
    _drop_stray_tombstones(writer)
    return dropped


class _Copied:
    """Counts the rows that were copied, and tells."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self.add(0)

    def add(self, rows: int) -> None:
        self._done += rows
        if self._progress is not None:
            self._progress(self._done, self._total)


def merge_small(writer: Writer, rows: int) -> None:
    """Merge the segments that flushes leave, once there are `MERGE_SEGMENTS`; bounded by `MERGE_BYTES`.

    Parameters
    ----------
    writer : Writer
    rows : int
        A segment of no more rows is small. What a merge makes is larger, so that no vector is copied twice.
    """
    with writer.reading() as catalog:
        small = catalog.rows(  # by age: the names begin with the time
            "SELECT name FROM segments WHERE rows <= ? AND bytes <= ? ORDER BY name LIMIT ?",
            (rows, MERGE_BYTES // MERGE_SEGMENTS, MERGE_SEGMENTS),
        )
        group = _opened(writer, small) if len(small) >= MERGE_SEGMENTS else []
    if len(group) >= MERGE_SEGMENTS:
        _merge(writer, group, "merge")


def _opened(writer: Writer, names: Sequence[tuple[str]]) -> list[Segment]:
    """Map segments that a version names, but those that somebody else has replaced since."""
    opened = (open_listed(writer, name) for (name,) in names)
    return [segment for segment in opened if segment is not None]


def open_listed(writer: Writer, name: str) -> Segment | None:
    """Map a segment; None when the newest version names it no more.

    Raises
    ------
    StoreCorruptedError
        When it is missing or damaged.
    """
    try:
        return open_segment(writer.segments / name)
    except StoreCorruptedError:
        with writer.reading() as catalog:
            if _all_there(catalog, [name]):
                raise
        return None


def _listed(catalog: Catalog) -> list[tuple[str]]:
    return [(name,) for (name,) in catalog.rows("SELECT name FROM segments ORDER BY name")]


def _dead(catalog: Catalog) -> Numbers:
    rows = catalog.rows("SELECT number FROM tombstones ORDER BY number")
    return np.array([number for (number,) in rows], np.int64)


def _groups(segments: Sequence[Segment], dead: Numbers) -> list[list[Segment]]:
    """Return what to merge: neighbours in age, together at most `COMPACT_ROWS` rows, or one with dead rows."""
    worn = {segment.name for segment in segments if sorted_positions(segment.numbers, dead)[1].any()}
    groups: list[list[Segment]] = []
    rows = 0
    for segment in segments:
        count = len(segment.numbers)
        if segment.name not in worn and count >= COMPACT_ROWS // 2:
            continue
        if not groups or rows + count > COMPACT_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(segment)
        rows += count
    return [group for group in groups if len(group) > 1 or group[0].name in worn]


def _merge(writer: Writer, group: Sequence[Segment], purpose: str, told: _Copied | None = None) -> int:
    """Put one segment in the place of several; return how many dead vectors it left out."""
    target = ClaimedSegment()
    with writer.released(target):
        with writer.transaction("claim a segment") as catalog:
            target.claim_as(catalog, writer.segments, purpose)
            dead = _dead(catalog)
            recall = _mean_recall(catalog, group)
        numbers = np.concatenate([segment.numbers for segment in group])
        left_out = numbers[sorted_positions(dead, numbers)[1]]
        order = np.argsort(numbers, kind="stable")
        order = order[~sorted_positions(dead, numbers[order])[1]]
        if len(order):
            target.write(numbers[order], _gathered(group, order, told), recall)
        with writer.transaction("merge segments") as catalog:
            names = [segment.name for segment in group]
            if not _all_there(catalog, names) or not target.adopt(catalog):
                return 0  # somebody else was faster, or took this process for dead; nothing has changed
            indexes = replace_segments(catalog, names, left_out)
        target.adopted = True
    writer.remove_dropped(
        [*(writer.segments / name for name in names), *(writer.indexes / name for name in indexes)]
    )
    return len(left_out)


def replace_segments(catalog: Catalog, names: Sequence[str], left_out: Numbers) -> list[str]:
    """Drop segments whose vectors stand elsewhere now, all but those `left_out`; return the indexes that go too."""
    indexes = [
        name
        for segment in names
        for (name,) in catalog.rows("DELETE FROM indexes WHERE segment = ? RETURNING name", (segment,))
    ]
    catalog.db.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in names])
    forget_tombstones(catalog, left_out.tolist())
    next_commit(catalog)
    bump_layout(catalog)
    return indexes


def _all_there(catalog: Catalog, names: Sequence[str]) -> bool:
    return all(catalog.one("SELECT count(*) FROM segments WHERE name = ?", (name,)) for name in names)


def _mean_recall(catalog: Catalog, group: Sequence[Segment]) -> float | None:
    known: list[Any] = [
        (catalog.one("SELECT recall FROM segments WHERE name = ?", (segment.name,)), len(segment.numbers))
        for segment in group
    ]
    measured = [(recall, rows) for recall, rows in known if recall is not None]
    total = sum(rows for _, rows in measured)
    return sum(recall * rows for recall, rows in measured) / total if total else None


def _gathered(
    group: Sequence[Segment], order: NDArray[np.intp], told: _Copied | None
) -> Iterator[NDArray[np.floating[Any]]]:
    """Yield the rows at `order` of the segments laid end to end, in blocks."""
    starts = np.cumsum([0, *(len(segment.numbers) for segment in group)])
    for begin in range(0, len(order), _BLOCK_ROWS):
        places = order[begin : begin + _BLOCK_ROWS]
        block = np.empty((len(places), group[0].vectors.shape[1]), group[0].vectors.dtype)
        owners = np.searchsorted(starts, places, side="right") - 1
        for owner in np.unique(owners).tolist():
            here = owners == owner
            block[here] = group[owner].vectors[places[here] - starts[owner]]
            group[owner].let_go()
        yield block
        if told is not None:
            told.add(len(places))


def _drop_stray_tombstones(writer: Writer) -> None:
    """Drop the tombstones of vectors that no segment holds (any more)."""
    with writer.reading() as catalog:
        if not catalog.one("SELECT count(*) FROM tombstones"):
            return
    with writer.transaction("drop tombstones") as catalog:
        dead = _dead(catalog)
        needed = np.zeros(len(dead), np.bool_)
        for (name,) in _listed(catalog):
            needed |= sorted_positions(open_segment(writer.segments / name).numbers, dead)[1]
        # A flush that is at work may be writing the vector of a chunk that was deleted while it was pending.
        pending = catalog.rows(
            "SELECT number FROM tombstones WHERE unsegmented AND number > ?", (catalog.meta("flushed"),)
        )
        needed |= sorted_positions(np.array([number for (number,) in pending], np.int64), dead)[1]
        stray = dead[~needed]
        if len(stray):
            replace_segments(catalog, [], stray)


def reclaim(writer: Writer) -> None:
    """Merge the full-text index and give free pages back to the file system, in slices."""
    pages = -_SLICE_PAGES  # negative: begin a merge of the whole index; then go on with it
    while True:
        with writer.transaction("merge the full-text index") as catalog:
            before = catalog.db.total_changes()
            catalog.db.execute("INSERT INTO chunk_text(chunk_text, rank) VALUES ('merge', ?)", (pages,))
            done = catalog.db.total_changes() - before < 2  # FTS5's own sign that there was nothing to do
        pages = _SLICE_PAGES
        if done:
            break
    while True:
        with writer.transaction("give space back") as catalog:
            drop_flushed(catalog, _SLICE_PAGES)
            left = catalog.one("SELECT count(*) FROM pending WHERE number <= ?", (catalog.meta("flushed"),))
            catalog.rows(f"PRAGMA incremental_vacuum({_SLICE_PAGES})")
            free = int(catalog.one("PRAGMA freelist_count"))
        if not free and not left:
            break
    writer.collect_garbage()
    writer.checkpoint()
