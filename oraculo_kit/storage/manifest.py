"""One version of the vectors, pinned in memory: mapped segments, pending rows, and the numbers that are dead.

A manifest is immutable. A reader that sees a newer commit number makes the next manifest from the last one and
the difference: pending rows have rising numbers, tombstones carry the commit that made them. Only when the list
of segments changed (`layout`) is it built anew, and then mapped segments are reused by name.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.errors import StoreCorruptedError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.segments import Segment, sorted_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Vectors = NDArray[np.float32]

# FAISS's flat scan of one query is fastest on one OpenMP thread; BLAS pays from about ten queries on (measured on
# two cores, 384 dimensions: 1.5 to 5 times the throughput of a batch).
_BLAS_FROM_QUERIES = 10

# Up to so many rows that pass a filter are copied together and scanned (20,000 rows of 384 dimensions are
# 31 MB); more are scanned in place through a bitmap.
_GATHER_UP_TO = 20_000


@dataclass(frozen=True)
class Manifest:
    """The vectors of one commit.

    Attributes
    ----------
    commit : int
        The commit that this version shows.
    layout : int
        Version of the list of segments.
    dimension : int
        Length of a vector; 0 while the store has none.
    segments : tuple of Segment
    pending_numbers, pending_vectors : numpy.ndarray
        int64 (n,) rising and float32 (n, dimension): rows that are not in a segment yet.
    dead : numpy.ndarray
        int64, rising: numbers in segments or pending rows that are deleted.
    """

    commit: int
    layout: int
    dimension: int
    segments: tuple[Segment, ...]
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
        for block_numbers, block_vectors in self.blocks():
            positions, here = sorted_positions(block_numbers, numbers)
            vectors[here] = block_vectors[positions[here]]
            found |= here
        return vectors, found

    def top(
        self, queries: Vectors, k: int, allowed: Numbers | None = None
    ) -> tuple[NDArray[np.float32], Numbers]:
        """Find the chunks with the highest cosine, exactly.

        Parameters
        ----------
        queries : numpy.ndarray
            float32, shape (q, dimension), rows of length one.
        k : int
            How many per query.
        allowed : numpy.ndarray, optional
            int64, rising: search only among these numbers.

        Returns
        -------
        scores : numpy.ndarray
            float32, shape (q, k), falling; ``-inf`` where fewer than k rows exist.
        numbers : numpy.ndarray
            int64, shape (q, k); -1 where fewer than k rows exist.
        """
        scores: list[NDArray[np.float32]] = []
        numbers: list[Numbers] = []
        for block_numbers, block_vectors in self.blocks():
            if allowed is None:
                found = self._top_of_block(queries, k, block_numbers, block_vectors)
            else:
                found = _top_of_allowed(queries, k, block_numbers, block_vectors, allowed)
            scores.append(found[0])
            numbers.append(found[1])
        if not scores:
            return np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        return _merged(np.concatenate(scores, axis=1), np.concatenate(numbers, axis=1), k)

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
            scores, positions = _scan(queries, vectors, wanted)
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


def _top_of_allowed(
    queries: Vectors, k: int, numbers: Numbers, vectors: Vectors, allowed: Numbers
) -> tuple[NDArray[np.float32], Numbers]:
    # `allowed` was read in the transaction that this manifest belongs to: no dead number is in it.
    positions, here = sorted_positions(numbers, allowed)
    positions = positions[here]
    if len(positions) <= _GATHER_UP_TO:
        scores, found = _scan(queries, vectors[positions], min(k, len(positions)))
        return scores, numbers[positions][found]
    k = min(k, len(positions))
    scores, found = _scan_selected(queries, vectors, k, positions)
    return scores, numbers[found]


def _scan(queries: Vectors, vectors: Vectors, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if k == 0:
        return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    import faiss

    with _tuned(len(queries)):
        scores, positions = faiss.knn(queries, vectors, k, faiss.METRIC_INNER_PRODUCT)
    return scores, positions


def _scan_selected(
    queries: Vectors, vectors: Vectors, k: int, positions: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import faiss

    wanted = np.zeros(len(vectors), np.bool_)
    wanted[positions] = True
    bits = np.packbits(wanted, bitorder="little")
    scores = np.empty((len(queries), k), np.float32)
    found = np.empty((len(queries), k), np.int64)
    with _one_thread():
        faiss.knn_inner_product(
            faiss.swig_ptr(queries),
            faiss.swig_ptr(vectors),
            vectors.shape[1],
            len(queries),
            len(vectors),
            k,
            faiss.swig_ptr(scores),
            faiss.swig_ptr(found),
            faiss.IDSelectorBitmap(len(vectors), faiss.swig_ptr(bits)),
        )
    return scores, found


class _BlasForBatches:
    """FAISS's BLAS threshold is one number for the whole process: lowered while any batch runs, then restored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._default = 0

    def __enter__(self) -> None:
        import faiss

        with self._lock:
            if self._running == 0:
                self._default = faiss.cvar.distance_compute_blas_threshold
                faiss.cvar.distance_compute_blas_threshold = 1
            self._running += 1

    def __exit__(self, *_exc: object) -> None:
        import faiss

        with self._lock:
            self._running -= 1
            if self._running == 0:
                faiss.cvar.distance_compute_blas_threshold = self._default

    def reset(self) -> None:
        """In a forked child: the batches that ran in the parent do not run here."""
        import faiss

        if self._running:
            faiss.cvar.distance_compute_blas_threshold = self._default
        self.__init__()  # type: ignore[misc]


_blas_for_batches = _BlasForBatches()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One OpenMP thread for the scans of the calling thread."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


@contextmanager
def _tuned(queries: int) -> Iterator[None]:
    """Choose threads and BLAS for a scan of so many queries."""
    with ExitStack() as stack:
        if queries >= _BLAS_FROM_QUERIES:
            stack.enter_context(_blas_for_batches)
        if queries < _BLAS_FROM_QUERIES or _forked:
            stack.enter_context(_one_thread())
        yield


# OpenMP's threads do not come along in a fork, and a scan on more than one would wait for them for ever.
_forked = False


def _after_fork_in_child() -> None:
    global _forked
    if "faiss" in sys.modules:
        _forked = True
        _blas_for_batches.reset()
        logging.getLogger("oraculo_kit.storage").info(
            "process %d was forked after a search: its searches run on one thread. Start processes by spawn or loky "
            "to use all cores",
            os.getpid(),
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _merged(scores: NDArray[np.float32], numbers: Numbers, k: int) -> tuple[NDArray[np.float32], Numbers]:
    # Ties go to the smaller number (the earlier chunk), so that results do not depend on the layout.
    order = np.lexsort((numbers, -scores), axis=1)[:, :k]
    scores = np.take_along_axis(scores, order, axis=1)
    numbers = np.take_along_axis(numbers, order, axis=1)
    missing = k - scores.shape[1]
    if missing > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        numbers = np.pad(numbers, ((0, 0), (0, missing)), constant_values=-1)
    return scores, numbers


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
    state = dict(catalog.rows("SELECT key, value FROM meta WHERE key IN ('commit', 'layout', 'dimension')"))
    commit, layout, dimension = int(state["commit"]), int(state["layout"]), int(state["dimension"] or 0)
    if last is not None and (last.commit, last.layout) == (commit, layout):
        return last
    if last is not None and last.layout == layout and last.commit <= commit and last.dimension == dimension:
        segments = last.segments
        after = int(last.pending_numbers[-1]) if len(last.pending_numbers) else -1
        kept_numbers, kept_vectors, kept_dead = last.pending_numbers, last.pending_vectors, last.dead
        since = last.commit
    else:
        known = {segment.name: segment for segment in last.segments} if last is not None else {}
        names = [name for (name,) in catalog.rows("SELECT name FROM segments ORDER BY name")]
        segments = tuple(known.get(name) or open_segment(segments_folder / name) for name in names)
        after, since = -1, -1
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
        layout=layout,
        dimension=dimension,
        segments=segments,
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
            "a copy, or ingest the sources again into a new store"
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
        if zlib.crc32(blob) != checksum or len(blob) != dimension * 4:
            raise StoreCorruptedError(
                f"the vector of chunk number {number} in {catalog.path} is damaged. Nothing was changed. Run "
                "`oraculo verify` to see what else is damaged; ingesting its source again mends it"
            )
    numbers = np.array([row[0] for row in rows], np.int64)
    vectors = np.frombuffer(b"".join(row[2] for row in rows), "<f4").reshape(len(rows), dimension)
    return numbers, vectors.astype(np.float32, copy=False)
