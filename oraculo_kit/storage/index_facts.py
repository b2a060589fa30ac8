"""What is known of an approximate index: its file, its effort for a wanted recall, and what was measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Effort:
    """What it takes to find the best `k`.

    Attributes
    ----------
    k : int
        How many are wanted.
    probes : int
        Lists to read.
    rows : int
        Rows in these lists, on average.
    recall : float
        Share of the true best `k` that was found, on queries that the tuning did not see.
    """

    k: int
    probes: int
    rows: int
    recall: float


@dataclass(frozen=True)
class IndexFacts:
    """What is known of an index file; stands in the catalog as JSON.

    Attributes
    ----------
    kind : str
    rows, dimension, lists : int
    rerank : float
        Candidates that are scored exactly, as a multiple of k.
    efforts : tuple of Effort
        By rising k; between and beyond them effort is interpolated.
    target : float
        The recall that was asked for.
    recall : float
        recall@10 measured, of two kinds of made queries the worse; below `target` when that cannot be reached.
    seconds_per_query, exact_seconds_per_query : float
        Median of single queries (k = 10, one thread) with the index, and of an exact scan.
    build_seconds : float
    real_queries : int
        Queries of the caller that tuned and measured; 0 when they were made from stored rows.
    bytes : int
    digest : str
        BLAKE2b (16 bytes) of the whole file, hexadecimal.

    Examples
    --------
    >>> facts = IndexFacts("ivf-sq8", 1000, 8, 25, 2.0, (Effort(10, 3, 120, 0.97),), 0.95, 0.97, 1e-4, 2e-4,
    ...                    1.5, 0, 11264, "00ff")
    >>> IndexFacts.from_dict(facts.to_dict()) == facts
    True
    """

    kind: str
    rows: int
    dimension: int
    lists: int
    rerank: float
    efforts: tuple[Effort, ...]
    target: float
    recall: float
    seconds_per_query: float
    exact_seconds_per_query: float
    build_seconds: float
    real_queries: int
    bytes: int
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> IndexFacts:
        """Return the facts that `to_dict` turned into plain values."""
        return cls(**{**values, "efforts": tuple(Effort(**effort) for effort in values["efforts"])})

    def probes(self, k: float) -> int:
        """Return how many lists to read for the best `k`.

        Straight lines through the tuned efforts in logarithms of both; beyond the last one its slope goes on.

        Examples
        --------
        >>> efforts = Effort(10, 8, 1, 1.0), Effort(100, 16, 2, 1.0)
        >>> facts = IndexFacts("ivf-sq8", 9999, 8, 100, 2.0, efforts, *[0.0] * 5, 0, 0, "")
        >>> [facts.probes(k) for k in (1, 10, 32, 100, 1000, 1_000_000)]
        [8, 8, 12, 16, 32, 100]
        """
        return math.ceil(
            min(self.lists, self._interpolated(k, [effort.probes for effort in self.efforts])) - 1e-9
        )

    def rows_read(self, k: float) -> int:
        """Return how many rows a search for the best `k` reads, on average."""
        return math.ceil(min(self.rows, self._interpolated(k, [effort.rows for effort in self.efforts])))

    def pays(self, k: int, allowed: int | None = None) -> bool:
        """Tell whether the index is quicker than an exact scan of the rows.

        Parameters
        ----------
        k : int
        allowed : int, optional
            How many rows pass the filter; all by default.

        Notes
        -----
        A row costs about the same in a list as in an exact scan of the whole segment, and centres, candidates and
        re-ranking come on top: it pays up to a quarter of the rows.
        """
        share = 1.0 if allowed is None else allowed / max(self.rows, 1)
        return share > 0 and 4 * self.rows_read(k / share) <= self.rows

    def _interpolated(self, k: float, values: list[int]) -> float:
        at = np.log([effort.k for effort in self.efforts])
        logs = np.log(np.maximum(values, 1))
        x = math.log(max(k, self.efforts[0].k))
        if x <= at[-1] or len(at) == 1:
            return float(np.exp(np.interp(x, at, logs)))
        slope = max((logs[-1] - logs[-2]) / (at[-1] - at[-2]), 0.0)
        return float(np.exp(min(logs[-1] + slope * (x - at[-1]), 40.0)))
