"""How much effort an approximate search needs for a wanted recall: found on some queries, measured on others.

1. Take the caller's queries, or make some of two kinds (`held_out_queries`), and find their true best rows exactly.
2. On one half find, for several k, the fewest lists whose recall is above the target with a certainty of 95 %. The
   margin matters: without it the other half would miss the target every second time, and more often, because the
   smallest effort that seems enough is also the luckiest one.
3. On the other half measure recall and the time of single queries. These figures are reported, reached or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.storage.half import scan_half
from oraculo_kit.storage.index_facts import Effort
from oraculo_kit.storage.openmp import tuned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.approximate import ApproximateIndex, Vectors

QUERIES = 1000
"""Queries that tune and measure, together: recall@10 of 0.95 is then known to about 0.006."""

# Fewer real queries are too few to measure with.
_ENOUGH_REAL = 200

# Standard errors below the mean: the true mean is above that 19 times out of 20.
_CERTAINTY = 1.645

# Effort is tuned for these, and interpolated between them.
_KS = (10, 50, 100)

# Candidates per hit: with 8 bits per component twice as many is nearly always enough; the last is for hard cases.
_RERANK = (1.5, 2.0, 3.0, 4.0)

# Scores of the same row from two kernels differ in the last bits: rows this close are equally good.
_SAME_SCORE = 1e-6

_TIMED = 200
_TIMED_EXACT = 5


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes
    ----------
    efforts : tuple of Effort
        By rising k.
    rerank : float
        Candidates per hit.
    seconds_per_query, exact_seconds_per_query : float
        Median of single queries on one thread, k = 10.
    real_queries : int
        How many of the queries were the caller's.
    """

    efforts: tuple[Effort, ...]
    rerank: float
    seconds_per_query: float
    exact_seconds_per_query: float
    real_queries: int


@dataclass(frozen=True)
class Questions:
    """Queries of one kind.

    Attributes
    ----------
    vectors : numpy.ndarray
        float32, shape (q, dimension), rows of length one.
    own : int
        1 when each query is itself a stored row, which is then no hit; else 0.
    """

    vectors: NDArray[np.float32]
    own: int

    def split(self) -> tuple[Questions, Questions]:
        """Return two halves."""
        return Questions(self.vectors[::2], self.own), Questions(self.vectors[1::2], self.own)


def held_out_queries(vectors: Vectors, count: int, seed: int) -> tuple[Questions, Questions]:
    """Make queries of two kinds; an effort has to satisfy both.

    Parameters
    ----------
    vectors : numpy.ndarray
        float32 or float16, shape (rows, dimension).
    count : int
        Of both kinds together.
    seed : int

    Returns
    -------
    rows : Questions
        Stored rows, each without itself as a hit: like further documents of the same kind.
    between : Questions
        A row plus the difference of two others, scaled to length one: like questions, near the rows but on none.

    Notes
    -----
    A stored row that may find itself flatters: its first hit lies in the list that is read first. So does a row with
    random noise on it: in many dimensions noise is at right angles to everything and changes no order, the row stays
    its own first hit (98 of 100 times). The difference of two rows is noise with the spread of the data; the cosine
    with the row is 0.6, and the best hit is another row half of the time.

    Neither kind alone is enough. Measured, lists to read for recall@10 of 0.95 among 44,278 passages of documentation
    and encyclopedia (default embedder, 512 lists): rows 23, random noise 19 to 26, between 36; 837 real questions
    (FaQuAD) 16, and 1,500 first sentences of pages that are not in the base 77. Tuned with `between` alone, 100,000
    rows of the benchmark's generator promised 0.969 and gave 0.897 for fresh draws, many of which fall into tiny
    clusters. Searching for what is not in the base is harder than both; real queries are better than any made ones.
    """
    rng = np.random.default_rng(seed)
    half = count // 2
    stored = vectors[rng.integers(len(vectors), size=half)].astype(np.float32)
    row, one, other = (
        vectors[rng.integers(len(vectors), size=count - half)].astype(np.float32) for _ in range(3)
    )
    between = row + one - other
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), np.float32(1e-12))
    return Questions(np.ascontiguousarray(stored), 1), Questions(np.ascontiguousarray(between), 0)


def exact_top(queries: NDArray[np.float32], vectors: Vectors, k: int) -> NDArray[np.float32]:
    """Return the scores of the true best rows, float32 (q, min(k, rows)), falling."""
    scores: NDArray[np.float32]
    if vectors.dtype == np.float16:
        return scan_half(queries, vectors.view(np.float16), k)[0]
    import faiss

    with tuned(len(queries)):
        scores = faiss.knn(queries, vectors, min(k, len(vectors)), faiss.METRIC_INNER_PRODUCT)[0]
    return scores


def recall(scores: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each query's share of the true best rows that was found.

    Compared are scores, not rows: of equal rows (the same passage in two files) any is right.

    Parameters
    ----------
    scores : numpy.ndarray
        float32, shape (q, k): exact scores of the rows found.
    truth : numpy.ndarray
        float32, shape (q, k), falling: scores of the best rows.

    Examples
    --------
    >>> truth = np.array([[0.9, 0.8]], np.float32)
    >>> recall(np.array([[0.9, 0.7]], np.float32), truth).tolist()
    [0.5]
    """
    shares: NDArray[np.float64] = (scores >= truth[:, -1:] - _SAME_SCORE).mean(axis=1)
    return shares


def tune(
    index: ApproximateIndex,
    vectors: Vectors,
    target: float,
    queries: NDArray[np.float32] | None,
    seed: int,
) -> Tuning:
    """Find the smallest effort that reaches a recall, and measure it.

    Parameters
    ----------
    index : ApproximateIndex
    vectors : numpy.ndarray
        float32 or float16, shape (rows, dimension): the index's rows.
    target : float
        Wanted recall.
    queries : numpy.ndarray, optional
        float32, shape (q, dimension), rows of length one: real queries. At most `QUERIES` of them are used, drawn at
        random; fewer than 200 are too few, and queries are made instead.
    seed : int

    Returns
    -------
    Tuning
    """
    kinds, real = _kinds(vectors, queries, seed)
    ks = [k for k in _KS if k <= len(vectors) // 20] or [min(10, len(vectors))]
    halves = [kind.split() for kind in kinds]
    learn = [_Exam(index, half, vectors, ks[-1]) for half, _ in halves]
    test = [_Exam(index, half, vectors, ks[-1]) for _, half in halves]
    probes: dict[int, int] = {}
    for k in ks:
        probes[k] = _fewest_probes(index, learn, k, target, max(probes.values(), default=1))
    rerank = _fewest_candidates(learn, ks[0], probes[ks[0]])
    few = np.concatenate([half.vectors for _, half in halves])[:: len(halves)][:_TIMED]
    return Tuning(
        efforts=tuple(_measured(index, test, k, probes[k], rerank) for k in ks),
        rerank=rerank,
        seconds_per_query=_median_seconds(
            lambda query: index.trial(query, ks[0], probes[ks[0]], rerank), few
        ),
        exact_seconds_per_query=_median_seconds(
            lambda query: exact_top(query, vectors, ks[0]), few[:_TIMED_EXACT]
        ),
        real_queries=real,
    )


class _Exam:
    """Queries of one kind with the scores of their true best rows."""

    def __init__(self, index: ApproximateIndex, questions: Questions, vectors: Vectors, most: int) -> None:
        self.questions = questions
        self._index = index
        self._truth = exact_top(questions.vectors, vectors, most + questions.own)

    def shares(self, k: int, probes: int, rerank: float) -> NDArray[np.float64]:
        """Return each query's recall@k."""
        own = self.questions.own
        truth = self._truth[:, : k + own]
        found = recall(self._index.trial(self.questions.vectors, k + own, probes, rerank)[0], truth)
        hits = found * truth.shape[1] - own
        shares: NDArray[np.float64] = np.clip(hits / max(truth.shape[1] - own, 1), 0.0, 1.0)
        return shares


def _kinds(vectors: Vectors, queries: NDArray[np.float32] | None, seed: int) -> tuple[list[Questions], int]:
    """Return the kinds of queries to satisfy, and how many are the caller's."""
    rng = np.random.default_rng(seed)
    if queries is None or len(queries) < _ENOUGH_REAL:
        return list(held_out_queries(vectors, QUERIES, seed)), 0
    chosen = rng.permutation(len(queries))[:QUERIES]
    return [Questions(np.ascontiguousarray(queries[chosen], np.float32), 0)], len(chosen)


def _fewest_probes(index: ApproximateIndex, exams: list[_Exam], k: int, target: float, least: int) -> int:
    """Return the fewest lists, `least` or more, that reach the target; all lists when none do."""

    def reaches(probes: int) -> bool:
        for exam in exams:
            shares = exam.shares(k, probes, _RERANK[-1])
            if shares.mean() - _CERTAINTY * shares.std() / np.sqrt(len(shares)) < target:
                return False
        return True

    # Doubling first: trying with half of all lists would cost more than all the rest.
    too_few, enough = least - 1, least
    while enough < index.facts.lists and not reaches(enough):
        too_few, enough = enough, min(2 * enough, index.facts.lists)
    while enough - too_few > max(1, enough // 32):
        middle = (too_few + enough) // 2
        if reaches(middle):
            enough = middle
        else:
            too_few = middle
    return enough


def _fewest_candidates(exams: list[_Exam], k: int, probes: int) -> float:
    """Return the fewest candidates per hit that lose nothing against the most."""

    def mean(rerank: float) -> float:
        return min(float(exam.shares(k, probes, rerank).mean()) for exam in exams)

    best = mean(_RERANK[-1])
    return next((rerank for rerank in _RERANK[:-1] if mean(rerank) >= best - 0.0005), _RERANK[-1])


def _measured(index: ApproximateIndex, exams: list[_Exam], k: int, probes: int, rerank: float) -> Effort:
    # Of two kinds the worse counts.
    reached = min(float(exam.shares(k, probes, rerank).mean()) for exam in exams)
    rows = index.rows_in_lists(np.concatenate([exam.questions.vectors for exam in exams]), probes)
    return Effort(k=k, probes=probes, rows=round(rows), recall=round(reached, 4))


def _median_seconds(search: Callable[[NDArray[np.float32]], object], queries: NDArray[np.float32]) -> float:
    seconds = []
    for row in range(len(queries)):
        started = time.perf_counter()
        search(queries[row : row + 1])
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
