"""One version of the vectors, pinned in memory: mapped segments, pending rows, and the numbers that are dead.

A manifest is immutable. A reader that sees a newer commit number makes the next manifest from the last one and
the difference: pending rows have rising numbers, tombstones carry the commit that made them. Only when the list
of segments changed (`layout`) is it built anew, and then mapped segments are reused by name.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import StoreCorruptedError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.indexing import SegmentIndex, load_indexes
from oraculo_kit.storage.scanning import Best, scan, tops_of_allowed
from oraculo_kit.storage.segments import Segment, sorted_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.scanning import Block

    Numbers = NDArray[np.int64]
    Queries = NDArray[np.float32]
    Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Manifest:
    """The vectors of one commit.

    Attributes
    ----------
    commit : int
        The commit that this version shows.
    epoch : str
        The history that the commit belongs to: a restored store has another.
    embedder : str or None
        Name of the embedder that made the vectors; None while unknown.
    layout : int
        Version of the list of segments.
    dimension : int
        Length of a vector; 0 while the store has none.
    segments : tuple of Segment
    indexes : mapping of str to SegmentIndex
        Approximate indexes by the names of their segments.
    pending_numbers, pending_vectors : numpy.ndarray
        int64 (n,) rising and float32 (n, dimension): rows that are not in a segment yet.
    dead : numpy.ndarray
        int64, rising: numbers in segments or pending rows that are deleted.
    """

    commit: int
    epoch: str
    embedder: str | None
    layout: int
    dimension: int
    segments: tuple[Segment, ...]
    indexes: Mapping[str, SegmentIndex]
    pending_numbers: Numbers
    pending_vectors: Vectors
    dead: Numbers

    def blocks(self) -> list[tuple[Numbers, Vectors]]:
        """Return all (numbers, vectors) blocks; dead rows included."""
        blocks = [(segment.numbers, segment.vectors) for segment in self.segments]
        if len(self.pending_numbers):
            blocks.append((self.pending_numbers, self.pending_vectors))
        return blocks

    def alive(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Tell which of `numbers` are not dead."""
        return ~sorted_positions(self.dead, numbers)[1]

    def vectors_of(self, numbers: Numbers) -> tuple[Vectors, NDArray[np.bool_]]:
        """Return the vectors of chunks, and which of them were found.

        Returns
        -------
        vectors : numpy.ndarray
            float32, shape (len(numbers), dimension); zeros where not found.
        found : numpy.ndarray
            bool, shape (len(numbers),).
        """
        vectors = np.zeros((len(numbers), self.dimension), np.float32)
        found = np.zeros(len(numbers), np.bool_)
        if not len(numbers):
            return vectors, found
        least, most = numbers.min(), numbers.max()
        for block_numbers, block_vectors in self.blocks():
            # Whoever walks through a store asks for neighbours: nearly all of its blocks have none of them.
            if not len(block_numbers) or block_numbers[-1] < least or block_numbers[0] > most:
                continue
            positions, here = sorted_positions(block_numbers, numbers)
            vectors[here] = block_vectors[positions[here]]
            found |= here
        return vectors, found

    def top(
        self, queries: Queries, k: int, allowed: Numbers | None = None, *, exact: bool = False
    ) -> tuple[NDArray[np.float32], Numbers]:
        """Find the chunks with the highest cosine: exactly, but where a segment has an approximate index.

        Parameters
        ----------
        queries : numpy.ndarray
            float32, shape (q, dimension), rows of length one.
        k : int
            How many per query.
        allowed : numpy.ndarray, optional
            int64, rising: search only among these numbers.
        exact : bool
            Scan every row, whatever indexes there are.

        Returns
        -------
        scores : numpy.ndarray
            float32, shape (q, k), falling; ``-inf`` where fewer than k rows exist. Scores are exact in any case.
        numbers : numpy.ndarray
            int64, shape (q, k); -1 where fewer than k rows exist.
        """
        best = Best(len(queries), k)
        scanned: list[Block] = []
        for segment in self.segments:
            index = None if exact else self.indexes.get(segment.name)
            found = index.top(queries, k, self.dead, allowed) if index is not None else None
            if found is not None:
                best.add(*found)
            else:
                scanned.append((segment.numbers, segment.vectors))
        if len(self.pending_numbers):
            scanned.append((self.pending_numbers, self.pending_vectors))
        if allowed is None:
            for numbers, vectors in scanned:
                best.add(*self._top_of_block(queries, k, numbers, vectors))
        else:
            for scores, found_numbers in tops_of_allowed(scanned, queries, k, allowed):
                best.add(scores, found_numbers)
        return best.merged()

    def _top_of_block(
        self, queries: Vectors, k: int, numbers: Numbers, vectors: Vectors
    ) -> tuple[NDArray[np.float32], Numbers]:
        rows = len(numbers)
        dead_here = int(sorted_positions(numbers, self.dead)[1].sum()) if len(self.dead) else 0
        # A selector would switch BLAS off: fetch some more than k instead, drop the dead, and fetch more again
        # in the rare case that too few are left.
        spare = min(dead_here, k + 64)
        while True:
            wanted = min(rows, k + spare)
            scores, positions = scan(queries, vectors, wanted)
            found = numbers[positions]
            if not dead_here:
                return scores, found
            alive = self.alive(found)
            if spare >= dead_here or bool((alive.sum(axis=1) >= min(k, rows - dead_here)).all()):
                return (
                    np.where(alive, scores, np.float32(-np.inf)),
                    np.where(alive, found, np.int64(-1)),
                )
            spare = min(dead_here, spare * 4)


def load_manifest(catalog: Catalog, segments_folder: Path, last: Manifest | None) -> Manifest:
    """Return the manifest of the version that `catalog` has pinned.

    Parameters
    ----------
    catalog : Catalog
        Inside a `Catalog.reading` block.
    segments_folder : pathlib.Path
    last : Manifest, optional
        An earlier manifest of the same store; what did not change is taken from it.

    Raises
    ------
    StoreCorruptedError
        When a segment or a pending vector is damaged or missing.
    """
    state = dict(
        catalog.rows(
            "SELECT key, value FROM meta "
            "WHERE key IN ('commit', 'epoch', 'embedder', 'layout', 'dimension', 'flushed')"
        )
    )
    commit, layout, dimension = int(state["commit"]), int(state["layout"]), int(state["dimension"] or 0)
    if last is not None and last.epoch != state["epoch"]:
        last = None
    if last is not None and (last.commit, last.layout) == (commit, layout):
        return last
    if last is not None and last.layout == layout and last.commit <= commit and last.dimension == dimension:
        segments, indexes = last.segments, last.indexes
        after = int(last.pending_numbers[-1]) if len(last.pending_numbers) else int(state["flushed"])
        kept_numbers, kept_vectors, kept_dead = last.pending_numbers, last.pending_vectors, last.dead
        since = last.commit
    else:
        known = {segment.name: segment for segment in last.segments} if last is not None else {}
        names = [name for (name,) in catalog.rows("SELECT name FROM segments ORDER BY name")]
        segments = tuple(known.get(name) or open_segment(segments_folder / name) for name in names)
        indexes = load_indexes(
            catalog,
            segments_folder.parent / "indexes",
            {segment.name: segment for segment in segments},
            last.indexes if last is not None else {},
        )
        after, since = int(state["flushed"]), -1
        kept_numbers = np.zeros(0, np.int64)
        kept_vectors = np.zeros((0, dimension), np.float32)
        kept_dead = np.zeros(0, np.int64)
    numbers, vectors = read_pending(catalog, dimension, after)
    dead = np.array(
        [n for (n,) in catalog.rows("SELECT number FROM tombstones WHERE commit_number > ?", (since,))],
        np.int64,
    )
    return Manifest(
        commit=commit,
        epoch=state["epoch"],
        embedder=state["embedder"],
        layout=layout,
        dimension=dimension,
        segments=segments,
        indexes=indexes,
        pending_numbers=np.concatenate([kept_numbers, numbers]) if len(numbers) else kept_numbers,
        pending_vectors=np.concatenate([kept_vectors, vectors]) if len(numbers) else kept_vectors,
        dead=np.union1d(kept_dead, dead) if len(dead) else kept_dead,
    )


def open_segment(path: Path) -> Segment:
    """Map a segment that the catalog names.

    Raises
    ------
    StoreCorruptedError
        When it is missing or damaged.
    """
    try:
        return Segment(path)
    except FileNotFoundError as exc:
        raise StoreCorruptedError(
            f"the segment {path} is missing, and the catalog needs it. Nothing was changed. Restore the file from "
            "a copy, or run `oraculo repair`: it makes the vectors again from the stored texts"
        ) from exc


def read_pending(catalog: Catalog, dimension: int, after: int) -> tuple[Numbers, Vectors]:
    """Read the pending vectors whose number is greater than `after`, and check each against its checksum.

    Returns
    -------
    numbers : numpy.ndarray
        int64 (n,), rising.
    vectors : numpy.ndarray
        float32 (n, dimension).

    Raises
    ------
    StoreCorruptedError
        When a vector does not match its checksum.
    """
    rows = catalog.rows(
        "SELECT number, checksum, vector FROM pending WHERE number > ? ORDER BY number", (after,)
    )
    for number, checksum, blob in rows:
        if not isinstance(blob, bytes) or zlib.crc32(blob) != checksum or len(blob) != dimension * 4:
            raise StoreCorruptedError(
                f"the vector of chunk number {number} in {catalog.path} is damaged. Nothing was changed. Run "
                "`oraculo repair`: it makes the vector again from the stored text"
            )
    numbers = np.array([row[0] for row in rows], np.int64)
    vectors = np.frombuffer(b"".join(row[2] for row in rows), "<f4").reshape(len(rows), dimension)
    return numbers, vectors.astype(np.float32, copy=False)
