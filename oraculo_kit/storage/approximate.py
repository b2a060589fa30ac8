"""An approximate index over one large segment: a file that may be thrown away at any time.

The kind is IVF with 8 bits per component and exact re-ranking: rows are put into lists around centres, a search
reads the few lists nearest to the query, and the best candidates are scored again with the segment's own vectors. So
every score is exact, and only *which* rows are found is approximate.

Chosen by measurement on 44,278 real passages (256 dimensions, recall@10 of about 0.95, two busy cores): built in 6 s
against 21 s (HNSW, 16 links, 8 bits), 31 s (HNSW, 16 links, float32) and 40 s (HNSW, 32 links, 8 bits); a query took
0.14 ms against 0.10, 0.13 and 0.11 for questions, 0.4 to 0.6 ms against 0.2 to 0.4 for sentences that are not stored.
A graph is a little quicker to ask, and several times slower to build; a filter that leaves few rows breaks its paths,
while lists are read on until enough rows passed. One bit per component (RaBitQ) scans in two thirds of the time but
needs ten candidates per hit and a newer FAISS; 4-bit product codes lose too much (0.85 with ten candidates per hit),
and their "fast scan" lists are copied into each process, not mapped.

At 1,000,000 rows of 384 dimensions (``tests/benchmarks/approximate.py``, two busy cores): built and tuned in four to
six minutes, 380 MB; fresh queries took 3.2 ms at recall@10 of 0.953, an exact scan 130 ms. On 53,296 real passages the
837 questions of FaQuAD found 0.999 of the true ten.

Protocol of the file:

1. `build_index` trains on a sample and adds the rows block by block, so that beside the segment only the codes (one
   byte per component) and one block are in memory.
2. It writes under a temporary name, syncs file and folder, and renames: under its name the file is complete.
3. It opens that file as every reader will, finds the smallest effort that reaches the wanted recall
   (`oraculo_kit.storage.tuning`), and returns `IndexFacts`, which the caller keeps in the catalog.
4. `open_index` checks size and digest of the whole file before FAISS parses it (its reader trusts what it reads) and
   maps it: processes share the pages. Whatever does not match is the same as no index.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.storage.index_facts import Effort, IndexFacts
from oraculo_kit.storage.openmp import BLAS_FROM_QUERIES, load_faiss, tuned
from oraculo_kit.storage.segments import file_digest, sync_file, sync_folder
from oraculo_kit.storage.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32] | NDArray[np.float16]
    Found = tuple[NDArray[np.float32], NDArray[np.int64]]

KIND = "ivf-sq8"

_logger = logging.getLogger("oraculo_kit.storage")

# Rows per list in the training sample (FAISS warns below 39), and Lloyd iterations: they bound the time to train.
_SAMPLE_PER_LIST = 40
_ITERATIONS = 6

# Rows that are turned into float32 and added at a time: 100 MB of 384 dimensions.
_BLOCK_ROWS = 65_536

# A filter that lets nearly everything pass (deleted rows, above all) hardly moves a query's neighbours.
_NEARLY_ALL = 0.9


class ApproximateIndex:
    """An index file, mapped; made by `open_index`. Threads may share it.

    Attributes
    ----------
    facts : IndexFacts
    """

    def __init__(self, index: Any, facts: IndexFacts, vectors: Vectors) -> None:
        faiss = load_faiss()

        self.facts = facts
        self._index = index
        self._vectors = vectors
        # A view into the map: `_index` keeps it alive.
        centres = faiss.downcast_index(index.quantizer)
        self._centres = faiss.rev_swig_ptr(centres.get_xb(), facts.lists * facts.dimension).reshape(
            facts.lists, facts.dimension
        )
        self._list_of: NDArray[np.int32] | None = None

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the rows with the highest inner product.

        Parameters
        ----------
        queries : numpy.ndarray
            float32, shape (q, dimension), rows of length one.
        k : int
            How many per query.
        allowed : numpy.ndarray, optional
            bool, shape (rows,): find only rows that are true here.

        Returns
        -------
        scores : numpy.ndarray
            float32, shape (q, k), falling, exact; ``-inf`` where fewer than k rows are allowed.
        positions : numpy.ndarray
            int64, shape (q, k); -1 where fewer than k rows are allowed. Of equal scores the smaller comes first.

        Notes
        -----
        Never fewer than k hits while k rows are allowed. A filter that keeps a share `s` of the rows is searched
        until as many *allowed* rows were read as an unfiltered search for k reads rows at all, whichever lists they
        lie in; so a filter costs no recall, not even one whose rows all lie far from the query.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        available = self.facts.rows if allowed is None else int(np.count_nonzero(allowed))
        k_found = min(k, available)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        positions = np.full((len(queries), k), -1, np.int64)
        if k_found == 0 or len(queries) == 0:
            return scores, positions
        with tuned(len(queries)):
            if allowed is None or available >= _NEARLY_ALL * self.facts.rows:
                candidates = self._nearly_all(queries, k_found, allowed, available)
            else:
                candidates = self._among(queries, k_found, allowed)
        self._rerank(queries, candidates, scores[:, :k_found], positions[:, :k_found])
        return scores, positions

    def trial(self, queries: NDArray[np.float32], k: int, probes: int, rerank: float) -> Found:
        """Search all rows with a given effort, for tuning; fewer than k may be found."""
        scores = np.full((len(queries), k), -np.inf, np.float32)
        positions = np.full((len(queries), k), -1, np.int64)
        with tuned(len(queries)):
            candidates = self._probe(queries, _candidates(k, rerank, self.facts.rows), probes, None)
        self._rerank(queries, candidates, scores, positions)
        return scores, positions

    def rows_in_lists(self, queries: NDArray[np.float32], probes: int) -> float:
        """Return how many rows are in the `probes` lists nearest to a query, on average."""
        sizes = np.array([self._index.invlists.list_size(each) for each in range(self.facts.lists)])
        nearest = np.argsort(-(queries @ self._centres.T), axis=1)[:, :probes]
        return float(sizes[nearest].sum(axis=1).mean())

    def _nearly_all(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None, available: int
    ) -> NDArray[np.int64]:
        probes = self.facts.probes(k * self.facts.rows / available)
        wanted = _candidates(k, self.facts.rerank, self.facts.rows)
        found = self._probe(queries, wanted, probes, allowed)
        while probes < self.facts.lists:
            short = np.flatnonzero(found[:, k - 1] < 0)
            if not len(short):
                break
            probes = min(4 * probes, self.facts.lists)
            found[short] = self._probe(queries[short], wanted, probes, allowed)
        return found

    def _probe(
        self, queries: NDArray[np.float32], wanted: int, probes: int, allowed: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        with _selector(allowed) as selector:
            found: NDArray[np.int64] = self._index.search(queries, wanted, params=_effort(probes, selector))[
                1
            ]
        return found

    def _among(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
        faiss = load_faiss()

        wanted = min(_candidates(k, self.facts.rerank, self.facts.rows), int(np.count_nonzero(allowed)))
        lists, similarity = self._lists_with(queries, allowed, max(self.facts.rows_read(k), wanted))
        found = np.full((len(queries), wanted), -1, np.int64)
        approximate = np.empty((len(queries), wanted), np.float32)
        with _selector(allowed) as selector:
            # The wrapper without `_c` takes no parameters.
            self._index.search_preassigned_c(
                len(queries),
                faiss.swig_ptr(queries),
                wanted,
                faiss.swig_ptr(lists),
                faiss.swig_ptr(similarity),
                faiss.swig_ptr(approximate),
                faiss.swig_ptr(found),
                False,
                _effort(lists.shape[1], selector),
            )
        return found

    def _lists_with(
        self, queries: NDArray[np.float32], allowed: NDArray[np.bool_], rows: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return per query the nearest lists that hold so many allowed rows together, -1 behind them."""
        counts = np.bincount(self._lists_of_rows()[allowed], minlength=self.facts.lists)
        filled = np.flatnonzero(counts)
        similarity = queries @ self._centres[filled].T
        order = np.argsort(-similarity, axis=1, kind="stable")
        before = np.cumsum(counts[filled][order], axis=1) - counts[filled][order]
        needed = before < rows
        width = int(needed.sum(axis=1).max())
        lists = np.where(needed, filled[order], -1)[:, :width]
        return (
            np.ascontiguousarray(lists, np.int64),
            np.ascontiguousarray(np.take_along_axis(similarity, order[:, :width], axis=1), np.float32),
        )

    def _lists_of_rows(self) -> NDArray[np.int32]:
        if self._list_of is None:
            faiss = load_faiss()

            list_of = np.empty(self.facts.rows, np.int32)
            inverted = self._index.invlists
            for each in range(self.facts.lists):
                size = inverted.list_size(each)
                if size:
                    list_of[faiss.rev_swig_ptr(inverted.get_ids(each), size)] = each
            self._list_of = list_of
        return self._list_of

    def _rerank(
        self,
        queries: NDArray[np.float32],
        candidates: NDArray[np.int64],
        scores: NDArray[np.float32],
        positions: NDArray[np.int64],
    ) -> None:
        for row, query in enumerate(queries):
            # In rising order: pages are read forwards, and a stable sort lets the smaller of equals come first.
            found = np.sort(candidates[row][candidates[row] >= 0])
            exact = self._vectors[found].astype(np.float32, copy=False) @ query
            best = np.argsort(-exact, kind="stable")[: scores.shape[1]]
            scores[row, : len(best)] = exact[best]
            positions[row, : len(best)] = found[best]


def build_index(
    path: Path,
    vectors: Vectors,
    *,
    recall: float,
    queries: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> IndexFacts:
    """Build, write, tune and measure an index.

    Parameters
    ----------
    path : pathlib.Path
        Final path of the file. It is durable and complete there when this returns, or not there at all.
    vectors : numpy.ndarray
        float32 or float16, shape (rows, dimension), rows of length one; read in blocks.
    recall : float
        Share of the true best ten that a search shall find, above 0 and below 1.
    queries : numpy.ndarray, optional
        float32, shape (q, dimension): vectors of real queries, to tune and measure with. Fewer than 200 are
        too few, and queries are made instead; see `oraculo_kit.storage.tuning.held_out_queries`.
    seed : int
        Of the sample and of the made queries: the same rows and seed give the same index.

    Returns
    -------
    IndexFacts
        With the recall that was measured. It may be below the wanted: whether to use such an index is the
        caller's choice.
    """
    from oraculo_kit.storage.tuning import tune

    if not 0 < recall < 1:
        raise ValueError(f"recall is {recall!r}, expected a number between 0 and 1, both excluded")
    if len(vectors) == 0:
        raise ValueError("there are no vectors, expected at least one")
    started = time.perf_counter()
    index = _trained(vectors, seed)
    with tuned(BLAS_FROM_QUERIES):
        for start in range(0, len(vectors), _BLOCK_ROWS):
            index.add(np.ascontiguousarray(vectors[start : start + _BLOCK_ROWS], np.float32))
    size, digest = _write(path, index)
    lists = index.nlist
    del index  # before the tuning, which needs memory of its own
    try:
        opened = _open(path, _untuned(vectors, lists, size, digest), vectors)
        tuning = tune(opened, vectors, recall, queries, seed)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return IndexFacts(
        kind=KIND,
        rows=len(vectors),
        dimension=vectors.shape[1],
        lists=lists,
        rerank=tuning.rerank,
        efforts=tuning.efforts,
        target=recall,
        recall=tuning.efforts[0].recall,
        seconds_per_query=tuning.seconds_per_query,
        exact_seconds_per_query=tuning.exact_seconds_per_query,
        build_seconds=time.perf_counter() - started,
        real_queries=tuning.real_queries,
        bytes=size,
        digest=digest,
    )


def open_index(path: Path, facts: IndexFacts, vectors: Vectors) -> ApproximateIndex | None:
    """Map an index file.

    Parameters
    ----------
    path : pathlib.Path
    facts : IndexFacts
        As the catalog has them.
    vectors : numpy.ndarray
        float32 or float16, shape (rows, dimension): the rows that the index was built of.

    Returns
    -------
    ApproximateIndex or None
        None when the file is missing or is not the one that `facts` describe: search exactly and build it again.
        The reason is logged.
    """
    reason = index_damage(path, facts)
    if reason is None and vectors.shape != (facts.rows, facts.dimension):
        reason = f"it was built of {facts.rows} rows of {facts.dimension}, and the segment is {vectors.shape}"
    if reason is None:
        try:
            return _open(path, facts, vectors)
        except (RuntimeError, ValueError) as exc:
            reason = f"this version of FAISS cannot read it ({str(exc).splitlines()[0]})"
    _logger.info("the index %s is not used: %s. Searches are exact until it is built again", path, reason)
    return None


def index_damage(path: Path, facts: IndexFacts) -> str | None:
    """Return what is wrong with an index file, or None; reads the whole file (1 GB/s)."""
    try:
        size = path.stat().st_size
        if size != facts.bytes:
            return f"it has {size} bytes, expected {facts.bytes}"
        if file_digest(path) != facts.digest:
            return "its digest is not the recorded one"
    except FileNotFoundError:
        return "it is missing"
    except OSError as exc:
        return f"it cannot be read ({exc.strerror or type(exc).__name__})"
    return None if facts.kind == KIND else f"its kind is {facts.kind!r}, expected {KIND!r}"


def _lists_for(rows: int) -> int:
    """Four times the root of the rows, as a power of two; at least `_SAMPLE_PER_LIST` rows per list.

    Measured with 250,000 rows of the benchmark's generator: 0.934 of the true best ten are candidates after 31,000
    rows (2.7 ms) in 2,048 lists, and after 57,000 rows (6.0 ms) in 1,024. Training takes four times as long.
    """
    power = round(math.log2(4 * math.sqrt(rows)))
    return max(1, min(1 << power, rows // _SAMPLE_PER_LIST))


def _trained(vectors: Vectors, seed: int) -> Any:
    faiss = load_faiss()

    rows, dimension = vectors.shape
    lists = _lists_for(rows)
    size = min(rows, lists * _SAMPLE_PER_LIST)
    chosen = np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))
    sample = np.ascontiguousarray(vectors[chosen], np.float32)
    centres = faiss.IndexFlatIP(dimension)
    # Codes of the rows themselves, not of their distance from the centre: as exact, and quicker to scan.
    index = faiss.IndexIVFScalarQuantizer(
        centres, dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    index.own_fields = True
    centres.this.disown()
    index.cp.niter = _ITERATIONS
    index.cp.spherical = True
    index.cp.seed = seed + 1
    index.cp.min_points_per_centroid = 1  # a small segment is no reason to print a warning
    with tuned(BLAS_FROM_QUERIES):
        index.train(sample)
    return index


def _write(path: Path, index: Any) -> tuple[int, str]:
    faiss = load_faiss()

    digest = hashlib.blake2b(digest_size=16)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:

            def write(part: bytes) -> None:
                file.write(part)
                digest.update(part)

            faiss.write_index(index, faiss.PyCallbackIOWriter(write))
            file.flush()
            share(temporary)
            sync_file(file.fileno())
            size = file.tell()
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        # The disk may be full, and nobody knows of the file yet.
        temporary.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    return size, digest.hexdigest()


def _open(path: Path, facts: IndexFacts, vectors: Vectors) -> ApproximateIndex:
    faiss = load_faiss()

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    return ApproximateIndex(index, facts, vectors)


def _untuned(vectors: Vectors, lists: int, size: int, digest: str) -> IndexFacts:
    rows, dimension = vectors.shape
    everything = (Effort(10, lists, rows, 0.0),)
    return IndexFacts(KIND, rows, dimension, lists, 4.0, everything, 0.0, 0.0, 0.0, 0.0, 0.0, 0, size, digest)


def _candidates(k: int, rerank: float, rows: int) -> int:
    return min(rows, max(math.ceil(k * rerank), k + 10))


def _effort(probes: int, selector: Any) -> Any:
    faiss = load_faiss()

    return faiss.SearchParametersIVF(nprobe=probes, sel=selector)


@contextmanager
def _selector(allowed: NDArray[np.bool_] | None) -> Iterator[Any]:
    """FAISS's selector of the allowed rows; it points at bits that live as long as the ``with``."""
    faiss = load_faiss()

    if allowed is None:
        yield None
        return
    bits = np.packbits(allowed, bitorder="little")
    yield faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
