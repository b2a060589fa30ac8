"""Rank chunks for queries over one snapshot: full text and vectors, each alone or fused.

Both sides name candidates, the union is scored by both (the cosine of any chunk can be computed exactly), and
`oraculo_kit.storage.ranking.fuse` orders it; then the texts of the best are read and ordered again with regard to
their wording.

**k hits come back if k exist.** A filter is resolved first. What can only be seen on a candidate itself (a phrase, an
excluded word, ``min_score``, ``unique``, ``group_by``) may refuse some, so more texts are read, and then more
candidates fetched, until there are enough or no chunk is left. Groups already found are left out of the next fetch,
so that a source of a million chunks does not stand before the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oraculo_kit.storage.candidates import Candidates, by_text, near, union
from oraculo_kit.storage.diversity import group_key, marginal_relevance
from oraculo_kit.storage.explaining import Explanation, Part
from oraculo_kit.storage.frequencies import Frequencies
from oraculo_kit.storage.fulltext import TextQuery, any_of
from oraculo_kit.storage.options import SearchOptions
from oraculo_kit.storage.ranking import RESCORED
from oraculo_kit.storage.snapshot import StoredChunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.asking import Version

    Numbers = NDArray[np.int64]
    Vector = NDArray[np.float32]

# Candidates of each side: enough that a chunk that is good on both sides is seen by at least one of them.
_CANDIDATES = 50
_CANDIDATES_PER_HIT = 4
_GROWTH = 4  # so many times more are read or fetched when there were too few
_BLOCK = 20_000  # vectors that are copied together
_BESIDE_FROM = 20_000  # chunks: from there on it pays that a second thread scans vectors beside the full text
_PRUNED_FROM = 20_000  # chunks: in smaller stores a question takes under 10 ms whatever its words


@dataclass(frozen=True)
class Ranked:
    """A chunk with its scores; None where a side gave none."""

    chunk: StoredChunk
    score: float
    cosine: float | None
    bm25: float | None
    explanation: Explanation | None = None


def rank(
    snapshot: Version,
    queries: Sequence[TextQuery] | None,
    vectors: NDArray[np.float32] | None,
    options: SearchOptions,
    frequencies: Frequencies,
    chunks: int,
) -> list[list[Ranked]]:
    """Rank chunks for each query.

    Parameters
    ----------
    snapshot : Version
    queries : sequence of TextQuery or None
        None when only vectors were given: then the mode is "vector".
    vectors : numpy.ndarray or None
        float32, shape (q, dimension), rows of length one; None where cosines are not asked for, or while the store is
        empty.
    options : SearchOptions
    frequencies : Frequencies
    chunks : int
        How many the snapshot has.

    Returns
    -------
    list of list of Ranked
        At most k per query, best first.
    """
    count = len(queries) if queries is not None else len(vectors) if vectors is not None else 0
    if not chunks:
        return [[] for _ in range(count)]
    if vectors is None:
        # If it is not text mode: the store was empty when the query should have been embedded, and somebody wrote
        # since. What is in it now is found by its words.
        options = replace(options, mode="text")
    store = _Store(snapshot, options, frequencies, snapshot.resolve(options.filter), chunks)
    found: list[list[Ranked]] = []
    batch: list[Candidates] | None = None
    if vectors is not None and options.mode != "text" and count > 1:
        batch = store.nearest(vectors, store.first_fetch)  # together several times as fast as one by one
    for place in range(count):
        query = queries[place] if queries is not None else None
        if query is not None and query.asks_nothing:
            found.append([])
            continue
        vector = vectors[place] if vectors is not None else None
        search = _Search(store, query, vector, batch[place] if batch is not None else None)
        found.append(search.hits())
    return found


class _Store:
    """What all queries of one search have in common."""

    def __init__(
        self,
        snapshot: Version,
        options: SearchOptions,
        frequencies: Frequencies,
        allowed: Numbers | None,
        count: int,
    ) -> None:
        self.snapshot = snapshot
        self.options = options
        self.frequencies = frequencies
        self.allowed = allowed
        self.count = count

    @property
    def first_fetch(self) -> int:
        """How many candidates each side names at first."""
        wanted = self.options.pool
        if self.options.mode == "vector" and self.options.group_by is None and not self.options.unique:
            return wanted
        return max(wanted * _CANDIDATES_PER_HIT, _CANDIDATES)

    def nearest(
        self, vectors: NDArray[np.float32], k: int, allowed: Numbers | None = None
    ) -> list[Candidates]:
        allowed = self.allowed if allowed is None else allowed
        cosines, numbers = self.snapshot.manifest.top(vectors, k, allowed, exact=self.options.exact)
        return [
            near(row[row >= 0], scores[row >= 0])
            for row, scores in zip(numbers, cosines.astype(np.float64), strict=True)
        ]


class _Search:
    """One query on its way from candidates to hits."""

    def __init__(
        self, store: _Store, query: TextQuery | None, vector: Vector | None, near: Candidates | None
    ) -> None:
        self._store = store
        self._options = store.options
        self._query = query
        self._vector = vector
        self._allowed = store.allowed
        self._near = near
        self._wanted = store.first_fetch
        self._known: list[Candidates] = []  # of earlier rounds: their groups are left out of the next ones
        self._chunks: dict[int, StoredChunk | None] = {}  # None: read, and refused
        self._wordings: dict[int, float] = {}
        self._groups = -1  # how many were found in the last round
        expression = query.phrase_expression() if query is not None else None
        if expression is not None:
            self._narrow(store.snapshot.text_matches(expression))  # the vectors know nothing of phrases
        if self._options.mode == "text" and query is not None and vector is not None:
            self._narrow(self._near_enough(query, vector))

    def _near_enough(self, query: TextQuery, vector: Vector) -> Numbers | None:
        """Return what matches and has a cosine of `min_score`: BM25 would find the others first."""
        expression, least = query.match_expression(), self._options.min_score
        if expression is None or least is None:
            return None
        numbers = self._store.snapshot.text_matches(expression)
        near_enough = [
            self._store.snapshot.manifest.vectors_of(block)[0] @ vector >= least
            for block in np.split(numbers, range(_BLOCK, len(numbers), _BLOCK))
        ]
        return numbers[np.concatenate(near_enough)]

    def hits(self) -> list[Ranked]:
        while True:
            candidates, complete = self._fetch()
            found, candidates = self._walk(candidates)
            if len(found) >= self._options.pool or complete or not self._go_on(candidates, found):
                return self._chosen(found, candidates)

    def _go_on(self, candidates: Candidates, found: list[int]) -> bool:
        """Prepare the next round; False when nothing can be left for it."""
        key = self._options.group_by
        if key is None or len(found) == self._groups:
            self._wanted = min(self._wanted * _GROWTH, self._store.count)
            return True
        self._groups = len(found)
        others = self._store.snapshot.resolve(self._options.excluding([self._group(one) for one in found]))
        self._narrow(others)
        self._known = [candidates]
        return others is None or len(others) > 0

    def _narrow(self, numbers: Numbers | None) -> None:
        """Let only these chunks through from now on."""
        if numbers is not None:
            allowed = self._allowed
            self._allowed = (
                numbers if allowed is None else np.intersect1d(allowed, numbers, assume_unique=True)
            )
            self._near = None

    def _fetch(self) -> tuple[Candidates, bool]:
        """Return the candidates, and whether they are all that there can be."""
        mode, sides, complete = self._options.mode, list(self._known), self._wanted >= self._store.count
        near, by_words = self._fetch_sides()
        if near is not None:
            complete = complete or len(near) < self._wanted or self._is_below(near)
            sides.append(near)
        if by_words is not None:
            complete = complete or (by_words[1] and mode == "text")
            sides.append(by_words[0])
        by: Literal["vector", "text"] = "text" if mode == "text" else "vector"
        candidates = union(self._store.snapshot, by, sides, self._vector)
        if self._options.min_score is not None:
            candidates = candidates.take(
                np.nan_to_num(candidates.cosines, nan=-2.0) >= self._options.min_score
            )
        return candidates.fused() if mode == "hybrid" else candidates, complete

    def _fetch_sides(self) -> tuple[Candidates | None, tuple[Candidates, bool] | None]:
        """Return what the vectors found, and what the full text found; None where a side is not asked."""
        query = self._query if self._options.mode != "vector" else None
        vector = self._vector if self._options.mode != "text" else None
        near, self._near = self._near, None
        if near is not None or vector is None:
            return near, self._fetch_text(query) if query is not None else None
        scan = partial(self._store.nearest, vector[None, :], self._wanted, self._allowed)
        if query is None or self._store.count < _BESIDE_FROM:
            return scan()[0], self._fetch_text(query) if query is not None else None
        with ThreadPoolExecutor(1) as beside:
            try:
                scanning = beside.submit(scan)
            except RuntimeError:  # no thread to be had, for instance while the interpreter ends
                return scan()[0], self._fetch_text(query)
            by_words = self._fetch_text(query)
            return scanning.result()[0], by_words

    def _fetch_text(self, query: TextQuery) -> tuple[Candidates, bool]:
        snapshot, chunks = self._store.snapshot, self._store.count
        whole = query.match_expression()
        if whole is None:
            return by_text(np.zeros(0, np.int64), np.zeros(0)), True
        if chunks >= _PRUNED_FROM and self._wanted == self._store.first_fetch < chunks:
            found = self._fetch_pruned(query, whole)
            if found is not None:
                return found, False
        found = by_text(*snapshot.text_top(whole, self._wanted, self._allowed))
        return found, len(found) < self._wanted

    def _fetch_pruned(self, query: TextQuery, whole: str) -> Candidates | None:
        """Return the best without scoring all that match; None where that would save nothing.

        First what has one of the rarest stems; their scores tell which other stems are essential.
        """
        if query.phrases:
            return None  # the few that have them are scored all
        snapshot, chunks, wanted = self._store.snapshot, self._store.count, self._wanted
        counts = self._store.frequencies.of(snapshot, query.stems, chunks)
        passing = chunks if self._allowed is None else max(len(self._allowed), 1)
        known = query.rarest(counts, math.inf)
        asked = query.rarest(counts, wanted * chunks / passing)
        while len(asked) < len(known):
            found = by_text(*snapshot.text_top(whole, wanted, self._allowed, any_of(asked)))
            score = float(found.scores[-1]) if len(found) == wanted else 0.0
            essential = query.essential(counts, chunks, score)
            if len(essential) <= len(asked):
                return found
            asked = essential
        return None

    def _is_below(self, found: Candidates) -> bool:
        least = self._options.min_score
        return least is not None and len(found) > 0 and float(found.cosines[-1]) < least

    def _walk(self, candidates: Candidates) -> tuple[list[int], Candidates]:
        """Read texts, best candidates first, until enough are accepted; return these in order."""
        wanted = self._options.pool
        rewording = self._options.mode == "hybrid"
        size = max(RESCORED, 2 * wanted) if rewording else wanted
        while True:
            self._read(candidates.numbers[:size])
            ordered = candidates
            if rewording:
                wording = [self._wordings.get(number, np.nan) for number in candidates.numbers.tolist()]
                ordered = candidates.fused(np.array(wording, np.float64))
            found = self._accepted(ordered)
            if len(found) >= wanted or size >= len(candidates):
                return found, ordered
            size *= _GROWTH

    def _read(self, numbers: Numbers) -> None:
        new = np.array([number for number in numbers.tolist() if number not in self._chunks], np.int64)
        query, mode = self._query, self._options.mode
        for start in range(0, len(new), 1000):
            for chunk in self._store.snapshot.chunks(new[start : start + 1000]):
                refused = query is not None and not query.accepts(chunk.text)
                self._chunks[chunk.number] = None if refused else chunk
                if query is not None and mode == "hybrid" and not refused:
                    self._wordings[chunk.number] = query.wording(chunk.text)

    def _accepted(self, candidates: Candidates) -> list[int]:
        options = self._options
        found: list[int] = []
        texts: set[str] = set()
        groups: set[str] = set()
        for number in candidates.numbers.tolist():
            chunk = self._chunks.get(number)
            if chunk is None or (options.unique and chunk.text in texts):
                continue
            if options.group_by is not None:
                group = group_key(self._group(number))
                if group in groups:
                    continue
                groups.add(group)
            texts.add(chunk.text)
            found.append(number)
            if len(found) == options.pool:
                break
        return found

    def _group(self, number: int) -> Any:
        chunk = self._chunks[number]
        assert chunk is not None
        key = self._options.group_by
        return chunk.source if key == "source" else chunk.metadata.get(str(key))

    def _chosen(self, found: list[int], candidates: Candidates) -> list[Ranked]:
        places = {number: place for place, number in enumerate(candidates.numbers.tolist())}
        picked: list[tuple[int, float | None]] = [(number, None) for number in found[: self._options.k]]
        if self._options.diversity is not None and found:
            vectors, _ = self._store.snapshot.manifest.vectors_of(np.array(found, np.int64))
            relevance = candidates.relevance()[[places[number] for number in found]]
            chosen = marginal_relevance(relevance, vectors, self._options.k, self._options.diversity)
            picked = [(found[place], likeness) for place, likeness in chosen]
        return [self._ranked(candidates, places[number], likeness) for number, likeness in picked]

    def _ranked(self, candidates: Candidates, place: int, likeness: float | None) -> Ranked:
        chunk = self._chunks[int(candidates.numbers[place])]
        assert chunk is not None
        ranked = Ranked(
            chunk,
            float(candidates.scores[place]),
            _known(candidates.cosines[place]),
            _known(candidates.bm25[place]),
        )
        if not self._options.explain:
            return ranked
        parts = tuple(
            Part(name, raw, scaled, weight) for name, raw, scaled, weight in candidates.parts(place)
        )
        matched = self._query.matched(chunk.text) if self._query is not None else ()
        words = self._query.words if self._query is not None else ()
        missing = tuple(word for word in words if word not in matched)
        return replace(ranked, explanation=Explanation(ranked.score, parts, matched, missing, likeness))


def _known(score: float) -> float | None:
    return None if np.isnan(score) else float(score)
