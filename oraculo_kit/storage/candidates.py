"""Chunks that may become hits, by number, with the scores that each side gave them: plain arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from oraculo_kit.storage.ranking import fuse, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.asking import Version

    Numbers = NDArray[np.int64]
    Scores = NDArray[np.float64]

By = Literal["vector", "text", "fused"]


@dataclass(frozen=True)
class Candidates:
    """Chunks in order, best first.

    Attributes
    ----------
    by : {"vector", "text", "fused"}
        What they are ordered by: cosine, BM25, or both with `oraculo_kit.storage.ranking.fuse`.
    numbers : numpy.ndarray
        int64 (n,), each once.
    scores : numpy.ndarray
        float64 (n,), falling.
    cosines, bm25 : numpy.ndarray
        float64 (n,); NaN where a side gave none.
    wording : numpy.ndarray or None
        float64 (n,); NaN where it was not computed.
    """

    by: By
    numbers: Numbers
    scores: Scores
    cosines: Scores
    bm25: Scores
    wording: Scores | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Candidates:
        """Return some of them, or all in another order."""
        return Candidates(
            self.by,
            self.numbers[which],
            self.scores[which],
            self.cosines[which],
            self.bm25[which],
            None if self.wording is None else self.wording[which],
        )

    def ordered(self) -> Candidates:
        """Return them best first; of equals the smaller number (the earlier chunk), whatever the layout."""
        return self.take(np.lexsort((self.numbers, -self.scores)))

    def fused(self, wording: Scores | None = None) -> Candidates:
        """Return them in the order of `oraculo_kit.storage.ranking.fuse`."""
        scores = fuse(self.cosines, self.bm25, wording)
        return Candidates("fused", self.numbers, scores, self.cosines, self.bm25, wording).ordered()

    def relevance(self) -> Scores:
        """Return the scores on the scale of a cosine: BM25 is divided by that of the best."""
        best = float(self.scores.max(initial=0.0))
        return self.scores / best if self.by == "text" and best > 0 else self.scores

    def parts(self, place: int) -> Iterator[tuple[str, float | None, float, float]]:
        """Yield what makes up one's score: name, raw score, scaled score, weight."""
        raws = {"vector": self.cosines, "text": self.bm25, "wording": self.wording}
        if self.by == "fused":
            weighted = parts_of(self.cosines, self.bm25, self.wording)
        else:
            weighted = {self.by: (1.0, self.scores)}
        for name, (weight, scaled) in weighted.items():
            raw = raws[name]
            known = raw is not None and not np.isnan(raw[place])
            yield name, float(raw[place]) if raw is not None and known else None, float(scaled[place]), weight


def near(numbers: Numbers, cosines: Scores) -> Candidates:
    """Return what the vectors found, falling."""
    return Candidates("vector", numbers, cosines, cosines, np.full(len(numbers), np.nan))


def by_text(numbers: Numbers, bm25: Scores) -> Candidates:
    """Return what the full text found, falling."""
    return Candidates("text", numbers, bm25, np.full(len(numbers), np.nan), bm25)


def union(
    snapshot: Version,
    by: Literal["vector", "text"],
    sides: list[Candidates],
    vector: NDArray[np.float32] | None,
) -> Candidates:
    """Join what both sides and earlier rounds found; with a vector the cosine of each is computed.

    Parameters
    ----------
    snapshot : Version
    by : {"vector", "text"}
        What to order by.
    sides : list of Candidates
    vector : numpy.ndarray or None
        float32 (dimension,), of length one.
    """
    present = [one for one in sides if len(one)]
    if len(present) == 1 and present[0].by == by and (vector is None or by == "vector"):
        return present[0]
    numbers = np.unique(np.concatenate([one.numbers for one in sides]))
    cosines, bm25 = np.full(len(numbers), np.nan), np.full(len(numbers), np.nan)
    for one in present:
        places = np.searchsorted(numbers, one.numbers)
        bm25[places] = np.where(np.isnan(one.bm25), bm25[places], one.bm25)
    if vector is not None:
        cosines = (snapshot.manifest.vectors_of(numbers)[0] @ vector).astype(np.float64)
    return Candidates(by, numbers, cosines if by == "vector" else bm25, cosines, bm25).ordered()
