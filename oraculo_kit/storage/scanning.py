"""Exact scans: every row, or every row that is allowed, is compared with every query.

Which way is fastest depends on how many queries there are and how many rows are allowed; the constants say where each
begins to pay. Half-precision rows are scanned where they lie (`oraculo_kit.storage.half`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.storage.half import scan_half
from oraculo_kit.storage.openmp import one_thread, tuned
from oraculo_kit.storage.segments import sorted_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Queries = NDArray[np.float32]
    Vectors = NDArray[np.floating[Any]]
    Block = tuple[Numbers, Vectors]
    Found = tuple[NDArray[np.float32], NDArray[np.int64]]

# Rows that pass a filter are copied together and scanned, so many at a time: they stay in the processor's cache, so
# that neither many of them nor many queries ask the memory twice. That makes BLAS and further threads needless
# (measured: 200 queries over 10,000 rows take 68 ms of CPU time with and without BLAS; without blocks 108 ms).
_GATHERED_ROWS = 1024
_GATHERED_PER_HIT = 16  # each scan gives k hits, and all of them are merged: not too many scans for a large k
_GATHERED_AT_MOST = 16_384

# One query scans a segment in place, through a bitmap, where more than this share of its rows pass. Measured on one
# core, 384 dimensions, 300,000 rows, gathered and in place, milliseconds: 5 % of the rows 3.8 and 4.3, 10 % 9 and 8,
# 20 % 18 and 11, 50 % 43 and 24. With five queries gathering is never slower: 10 % 13 and 37, 50 % 55 and 119.
_IN_PLACE_FROM_SHARE = 0.1


class Best:
    """The k best of many partial results, in bounded memory."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._parts = [(np.zeros((queries, 0), np.float32), np.zeros((queries, 0), np.int64))]
        self._width = 0

    def add(self, scores: NDArray[np.float32], numbers: Numbers) -> None:
        """Add scores and numbers, both of shape (queries, any)."""
        self._parts.append((scores, numbers))
        self._width += scores.shape[1]
        if self._width > 4 * max(self._k, 1024):
            self._parts = [self.merged()]
            self._width = self._k

    def merged(self) -> Found:
        """Return scores and numbers of shape (queries, k), best first."""
        scores, numbers = zip(*self._parts, strict=True)
        return _merged(np.concatenate(scores, axis=1), np.concatenate(numbers, axis=1), self._k)


def tops_of_allowed(blocks: list[Block], queries: Queries, k: int, allowed: Numbers) -> Iterator[Found]:
    """Scan the rows of `allowed`, in whichever way is fastest for each block; yield partial results."""
    gathered = _Gathered(queries, k)
    for numbers, vectors in blocks:
        # `allowed` was read in the transaction that this manifest belongs to: no dead number is in it.
        begin, end = np.searchsorted(allowed, (numbers[0], numbers[-1] + 1))
        positions, here = sorted_positions(numbers, allowed[begin:end])
        positions = positions[here]
        count = len(positions)
        scannable = vectors.dtype == np.float32 and count > 0
        if scannable and count >= _GATHERED_ROWS and positions[-1] - positions[0] == count - 1:
            together = slice(positions[0], positions[-1] + 1)  # a whole source, for instance
            scores, found = scan(queries, vectors[together], min(k, count))
            yield scores, numbers[together][found]
        elif scannable and len(queries) == 1 and count > _IN_PLACE_FROM_SHARE * len(numbers):
            scores, found = _scan_selected(queries, vectors, min(k, count), positions)
            yield scores, numbers[found]
        else:
            yield from gathered.add(numbers, vectors, positions)
    yield from gathered.scan()


class _Gathered:
    """Rows from many blocks, copied into one buffer that is scanned whenever it is full."""

    def __init__(self, queries: Queries, k: int) -> None:
        self._queries = queries
        self._k = k
        self._size = max(_GATHERED_ROWS, min(_GATHERED_PER_HIT * k, _GATHERED_AT_MOST))
        self._vectors = np.empty((self._size, queries.shape[1]), np.float32)
        self._numbers = np.empty(self._size, np.int64)
        self._filled = 0

    def add(self, numbers: Numbers, vectors: Vectors, positions: NDArray[np.intp]) -> Iterator[Found]:
        """Copy the rows at `positions`; yield what is found whenever the buffer is full."""
        while len(positions):
            some = positions[: self._size - self._filled]
            here = slice(self._filled, self._filled + len(some))
            if vectors.dtype == np.float32:
                # "clip" because numpy would copy once more to be able to raise; positions were found in this block.
                np.take(vectors, some, axis=0, out=self._vectors[here], mode="clip")
            else:
                self._vectors[here] = vectors[some]  # narrower rows are widened on the way
            self._numbers[here] = numbers[some]
            self._filled += len(some)
            positions = positions[len(some) :]
            if self._filled == self._size:
                yield from self.scan()

    def scan(self) -> Iterator[Found]:
        """Scan what is in the buffer, and empty it."""
        if self._filled:
            import faiss

            vectors = self._vectors[: self._filled]
            with one_thread():
                scores, found = faiss.knn(
                    self._queries, vectors, min(self._k, self._filled), faiss.METRIC_INNER_PRODUCT
                )
            yield scores, self._numbers[found]
            self._filled = 0


def scan(queries: Queries, vectors: Vectors, k: int) -> Found:
    """Compare every row with every query.

    Parameters
    ----------
    queries : numpy.ndarray
        float32, shape (q, dimension).
    vectors : numpy.ndarray
        float32 or float16, shape (rows, dimension).
    k : int
        How many per query; at most as many as there are rows.

    Returns
    -------
    scores : numpy.ndarray
        float32, shape (q, k), falling.
    positions : numpy.ndarray
        int64, shape (q, k): rows of `vectors`.
    """
    if k == 0:
        return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    if vectors.dtype == np.float16:
        return scan_half(queries, vectors, k)
    import faiss

    with tuned(len(queries)):
        scores, positions = faiss.knn(queries, vectors, k, faiss.METRIC_INNER_PRODUCT)
    return scores, positions


def _scan_selected(queries: Queries, vectors: Vectors, k: int, positions: NDArray[np.intp]) -> Found:
    import faiss

    wanted = np.zeros(len(vectors), np.bool_)
    wanted[positions] = True
    bits = np.packbits(wanted, bitorder="little")
    scores = np.empty((len(queries), k), np.float32)
    found = np.empty((len(queries), k), np.int64)
    with one_thread():
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


def _merged(scores: NDArray[np.float32], numbers: Numbers, k: int) -> Found:
    # Ties go to the smaller number (the earlier chunk), so that results do not depend on the layout.
    order = np.lexsort((numbers, -scores), axis=1)[:, :k]
    scores = np.take_along_axis(scores, order, axis=1)
    numbers = np.take_along_axis(numbers, order, axis=1)
    missing = k - scores.shape[1]
    if missing > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        numbers = np.pad(numbers, ((0, 0), (0, missing)), constant_values=-1)
    return scores, numbers
