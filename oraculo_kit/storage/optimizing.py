"""Optimisation: an approximate index for each large segment, built beside readers and writers.

::

    1  compact, so that there are few segments, and no deleted vectors in them
    2  per segment: claim a name, build and measure the index outside the lock, then one transaction lists it,
       provided that the segment is still there

A segment never changes, so neither does its index. Rows that come later are in other segments, and searched exactly,
until `optimize` is called again. Killed at any point nothing is lost; files without a row in the catalog are collected.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oraculo_kit.errors import QueryError, StorageError
from oraculo_kit.storage.approximate import build_index, index_damage
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.claims import ClaimedFile, drop_claim, is_claimed
from oraculo_kit.storage.compaction import merge_segments, open_listed, settle
from oraculo_kit.storage.index_facts import IndexFacts
from oraculo_kit.storage.rows import bump_layout, next_commit
from oraculo_kit.storage.sharing import share

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import Progress
    from oraculo_kit.storage.commit import Writer

_MEASURED_TO = 0.01  # of recall, two standard errors: some hundred queries measure it
INDEX_ROWS = 50_000  # below it an exact scan takes under 3 ms (384 dimensions)


@dataclass(frozen=True, slots=True)
class OptimizeReport:
    """What `optimize` built and measured.

    Attributes
    ----------
    location : str
        The store's folder.
    indexes : tuple of IndexFacts
        Of all indexes that the store has now: measured recall@10, time per query, size.
    built : int
        How many of them were made by this call.
    indexed, exact : int
        Vectors that are searched through an index, and those that are scanned: small segments, and what is written
        from now on.
    seconds : float
    """

    location: str
    indexes: tuple[IndexFacts, ...]
    built: int
    indexed: int
    exact: int
    seconds: float

    @property
    def recall(self) -> float | None:
        """Measured recall@10 over all indexed rows; None without an index."""
        total = sum(facts.rows for facts in self.indexes)
        return sum(facts.recall * facts.rows for facts in self.indexes) / total if total else None

    @property
    def reached(self) -> bool:
        """Whether every index has the recall that was asked for, within what can be measured."""
        return all(facts.recall >= facts.target - _MEASURED_TO for facts in self.indexes)

    def __repr__(self) -> str:
        if not self.indexes:
            return f"{self.exact} vectors are searched exactly; an index pays from {INDEX_ROWS} on"
        approximate = sum(facts.seconds_per_query for facts in self.indexes)
        exact = sum(facts.exact_seconds_per_query for facts in self.indexes)
        missed = "" if self.reached else " (less than was asked for: see indexes)"
        return (
            f"{self.indexed} vectors indexed, {self.exact} searched exactly; recall@10 {self.recall:.3f}{missed}, "
            f"{approximate * 1e3:.1f} ms per query instead of {exact * 1e3:.1f}; "
            f"{self.built} of {len(self.indexes)} indexes built in {self.seconds:.0f} s"
        )


def check_recall(recall: float) -> None:
    """Refuse a recall that is out of range.

    Raises
    ------
    QueryError
    """
    if isinstance(recall, bool) or not isinstance(recall, int | float) or not 0.5 <= recall <= 1:
        raise QueryError(f"recall is {recall!r}, expected a number from 0.5 to 1, such as 0.95")


def optimize(
    writer: Writer,
    recall: float,
    queries: NDArray[np.float32] | None = None,
    progress: Progress | None = None,
) -> OptimizeReport:
    """Index the large segments of a store; see `VetorStorage.optimize`."""
    check_recall(recall)
    started = time.perf_counter()
    settle(writer)
    merge_segments(writer)
    _make_folder(writer.indexes)
    built = done = 0
    unindexed = _unindexed(writer, recall, again=queries is not None)
    for name, rows in unindexed.items():
        if progress is not None:
            progress(done, sum(unindexed.values()))
        built += _index(writer, name, recall, queries)
        done += rows
    writer.collect_garbage()
    with writer.reading() as catalog:
        facts = tuple(_facts(row) for (row,) in catalog.rows("SELECT facts FROM indexes ORDER BY name"))
        rows = int(catalog.one("SELECT coalesce(sum(rows), 0) FROM segments")) + int(catalog.meta("pending"))
    indexed = sum(each.rows for each in facts)
    return OptimizeReport(
        str(writer.folder), facts, built, indexed, rows - indexed, time.perf_counter() - started
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as exc:
        raise StorageError(
            f"cannot make {folder}: {exc.strerror or exc}; check the disk and its rights"
        ) from exc
    share(folder)


def _unindexed(writer: Writer, recall: float, *, again: bool) -> dict[str, int]:
    """Return the large segments that have no sound index of this recall, with their rows."""
    with writer.reading() as catalog:
        if is_claimed(catalog, "index"):
            raise StorageError(f"another process is optimising the store {writer.folder}; wait for it to end")
        large = catalog.rows("SELECT name, rows FROM segments WHERE rows >= ? ORDER BY name", (INDEX_ROWS,))
        known = {
            segment: (name, _facts(facts))
            for segment, name, facts in catalog.rows("SELECT segment, name, facts FROM indexes")
        }
    return {
        segment: rows
        for segment, rows in large
        if again
        or segment not in known
        or known[segment][1].target != recall
        or index_damage(writer.indexes / known[segment][0], known[segment][1]) is not None
    }


def _index(writer: Writer, segment: str, recall: float, queries: NDArray[np.float32] | None) -> bool:
    index, listed = ClaimedFile(), False
    old: list[str] = []
    with writer.released(index):
        with writer.transaction("claim an index") as catalog:
            index.register(catalog, writer.indexes, "index", "faiss")
        mapped = open_listed(writer, segment)
        if mapped is None:
            return False
        try:
            facts = build_index(index.path, mapped.vectors, recall=recall, queries=queries)
        except OSError as exc:
            raise StorageError(
                f"the index {index.path} could not be written: {exc.strerror or exc}. Searches stay exact; free some "
                "space or check the disk, then try again"
            ) from exc
        with writer.transaction("list an index") as catalog:
            # A compaction may have replaced the segment meanwhile; then there is nothing to index.
            if _is_listed(catalog, segment) and drop_claim(catalog, index.path.name):
                old = [
                    gone
                    for (gone,) in catalog.rows(
                        "DELETE FROM indexes WHERE segment = ? RETURNING name", (segment,)
                    )
                ]
                catalog.db.execute(
                    "INSERT INTO indexes VALUES (?, ?, ?)",
                    (segment, index.path.name, json.dumps(facts.to_dict())),
                )
                next_commit(catalog)
                bump_layout(catalog)
                listed = True
        index.adopted = listed  # not before its commit, which may fail
    writer.remove_dropped(writer.indexes / gone for gone in old)
    return listed


def _is_listed(catalog: Catalog, segment: str) -> bool:
    return bool(catalog.one("SELECT count(*) FROM segments WHERE name = ?", (segment,)))


def _facts(row: str) -> IndexFacts:
    return IndexFacts.from_dict(json.loads(row))
