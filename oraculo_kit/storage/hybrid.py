"""Rank chunks for queries over one snapshot: full text and vectors, each alone or fused.

Both sides name candidates, the union is scored by both (the cosine of any chunk can be computed exactly), and
`oraculo_kit.storage.ranking.fuse` orders it; then the texts of the best are read and ordered again with regard to
their wording. A filter is resolved first, so it never costs results: k matches come back if k exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.storage.filters import Filter
from oraculo_kit.storage.fulltext import TextQuery
from oraculo_kit.storage.ranking import RESCORED, fuse
from oraculo_kit.storage.snapshot import Snapshot, StoredChunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Scores = NDArray[np.float64]

# Candidates of each side: enough that a chunk that is good on both sides is seen by at least one of them.
_CANDIDATES = 50
_CANDIDATES_PER_HIT = 4
_STRICT_FACTOR = 4  # a phrase or an excluded word is checked on the text itself: some candidates will go


@dataclass(frozen=True)
class Ranked:
    """A chunk with its scores; None where a side gave none."""

    chunk: StoredChunk
    score: float
    cosine: float | None
    bm25: float | None


@dataclass(frozen=True)
class _Candidates:
    """Chunks in order, best first, with their scores; NaN where a side gave none."""

    numbers: Numbers
    scores: Scores
    cosines: Scores
    bm25: Scores

    def ordered(self, scores: Scores) -> _Candidates:
        # Ties go to the smaller number (the earlier chunk), so that results do not depend on the layout.
        order = np.lexsort((self.numbers, -scores))
        return _Candidates(self.numbers[order], scores[order], self.cosines[order], self.bm25[order])

    def ranked(self, chunks: dict[int, StoredChunk], k: int) -> Iterator[Ranked]:
        rows = zip(
            self.numbers.tolist(),
            self.scores.tolist(),
            self.cosines.tolist(),
            self.bm25.tolist(),
            strict=True,
        )
        left = k
        for number, score, cosine, bm25 in rows:
            if left and number in chunks:
                left -= 1
                yield Ranked(
                    chunks[number],
                    score,
                    None if np.isnan(cosine) else cosine,
                    None if np.isnan(bm25) else bm25,
                )


def rank(
    snapshot: Snapshot,
    queries: Sequence[TextQuery] | None,
    vectors: NDArray[np.float32] | None,
    k: int,
    mode: str,
    filter: Filter | None,
) -> list[list[Ranked]]:
    """Rank chunks for each query.

    Parameters
    ----------
    snapshot : Snapshot
    queries : sequence of TextQuery or None
        None when only vectors were given.
    vectors : numpy.ndarray or None
        float32, shape (q, dimension), rows of length one; None in text mode or while the store is empty.
    k : int
    mode : {"hybrid", "vector", "text"}
    filter : dict, optional

    Returns
    -------
    list of list of Ranked
        At most k per query, best first.
    """
    allowed = snapshot.resolve(filter)
    strict = any(query.is_strict for query in queries or ())
    wanted = max(k * _CANDIDATES_PER_HIT, _CANDIDATES) * (_STRICT_FACTOR if strict else 1)
    count = len(queries) if queries is not None else len(vectors) if vectors is not None else 0
    near: list[_Candidates] | None = None
    if mode != "text" and vectors is not None and snapshot.manifest.dimension:
        near = _nearest(snapshot, vectors, k if mode == "vector" and not strict else wanted, allowed)
    found: list[list[Ranked]] = []
    for place in range(count):
        query = queries[place] if queries is not None else None
        if query is not None and not (query.text.strip() or query.phrases):
            found.append([])  # nothing was asked
            continue
        if mode == "vector" or query is None:
            candidates = near[place] if near is not None else _none()
        elif near is None or vectors is None:
            candidates = _by_text(snapshot, query, wanted, allowed)
        else:
            candidates = _union(
                snapshot, near[place], _by_text(snapshot, query, wanted, allowed), vectors[place]
            )
        found.append(_chosen(snapshot, query, candidates, k, reworded=mode == "hybrid" and near is not None))
    return found


def _none() -> _Candidates:
    return _Candidates(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0))


def _nearest(
    snapshot: Snapshot, vectors: NDArray[np.float32], k: int, allowed: Numbers | None
) -> list[_Candidates]:
    cosines, numbers = snapshot.manifest.top(vectors, k, allowed)
    found = []
    for row, scores in zip(numbers, cosines.astype(np.float64), strict=True):
        real = row >= 0
        found.append(_Candidates(row[real], scores[real], scores[real], np.full(int(real.sum()), np.nan)))
    return found


def _by_text(snapshot: Snapshot, query: TextQuery, k: int, allowed: Numbers | None) -> _Candidates:
    expression = query.match_expression()
    if expression is None:
        return _none()
    numbers, bm25 = snapshot.text_top(expression, k, allowed)
    return _Candidates(numbers, bm25, np.full(len(bm25), np.nan), bm25)


def _union(
    snapshot: Snapshot, near: _Candidates, by_text: _Candidates, vector: NDArray[np.float32]
) -> _Candidates:
    numbers = np.union1d(near.numbers, by_text.numbers)
    cosines = (snapshot.manifest.vectors_of(numbers)[0] @ vector).astype(np.float64)
    bm25 = np.full(len(numbers), np.nan)
    bm25[np.searchsorted(numbers, by_text.numbers)] = by_text.bm25
    candidates = _Candidates(numbers, cosines, cosines, bm25)
    return candidates.ordered(fuse(cosines, bm25)) if len(numbers) else candidates


def _chosen(
    snapshot: Snapshot, query: TextQuery | None, candidates: _Candidates, k: int, *, reworded: bool
) -> list[Ranked]:
    strict = query is not None and query.is_strict
    read = candidates.numbers if strict else candidates.numbers[: max(RESCORED, 2 * k) if reworded else k]
    chunks = {
        chunk.number: chunk
        for chunk in snapshot.chunks(read)
        if query is None or not strict or query.accepts(chunk.text)
    }
    if reworded and query is not None and len(candidates.numbers):
        wording = np.array(
            [
                query.wording(chunks[number].text) if number in chunks else np.nan
                for number in candidates.numbers.tolist()
            ]
        )
        candidates = candidates.ordered(fuse(candidates.cosines, candidates.bm25, wording))
    return list(candidates.ranked(chunks, k))
