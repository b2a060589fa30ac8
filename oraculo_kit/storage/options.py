"""What a search may be asked for besides its query: one frozen, checked object instead of ten arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.base import MODES, Mode
from oraculo_kit.storage.filters import Filter
from oraculo_kit.storage.snapshot import check_k

MAX_CONTEXT = 100
"""Neighbours of a hit on either side, at most."""

_MMR_LAMBDA = 0.5  # of ``mmr=True``: as LangChain and the literature use it
_POOL_PER_HIT, _LEAST_POOL = 4, 20


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search, checked when made; what each means is told in `VetorStorage.search`.

    Raises
    ------
    QueryError
        For a value of a wrong type or outside its range; says what was expected.

    Examples
    --------
    >>> SearchOptions(k=3, mmr=True).diversity
    0.5
    >>> SearchOptions(min_score=60)
    Traceback (most recent call last):
    ...
    oraculo_kit.errors.QueryError: min_score is 60, expected a cosine: a number from -1 to 1
    """

    k: int = 5
    mode: Mode = "hybrid"
    filter: Filter | None = None
    min_score: float | None = None
    mmr: bool | float | None = None
    group_by: str | None = None
    context: int = 0
    unique: bool = False
    explain: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        check_k(self.k)
        if self.mode not in MODES:
            raise QueryError(f"mode is {self.mode!r}, expected one of {', '.join(MODES)}")
        if self.min_score is not None and not _is_number(self.min_score, -1, 1):
            raise QueryError(f"min_score is {self.min_score!r}, expected a cosine: a number from -1 to 1")
        if not (self.mmr is None or isinstance(self.mmr, bool) or _is_number(self.mmr, 0, 1)):
            raise QueryError(
                f"mmr is {self.mmr!r}, expected True, or a number from 0 (hits that differ) to 1 (hits that fit)"
            )
        if self.group_by is not None and (not isinstance(self.group_by, str) or not self.group_by):
            raise QueryError(f"group_by is {self.group_by!r}, expected a metadata key such as 'source'")
        check_context(self.context)
        for name in ("unique", "explain", "exact"):
            if not isinstance(getattr(self, name), bool):
                raise QueryError(f"{name} is {getattr(self, name)!r}, expected True or False")

    @property
    def diversity(self) -> float | None:
        """Lambda of the maximal marginal relevance, from 0 to 1; None when it was not asked for."""
        if self.mmr is None or self.mmr is False:
            return None
        return _MMR_LAMBDA if self.mmr is True else float(self.mmr)

    @property
    def pool(self) -> int:
        """How many hits are found before k of them are chosen: k, and with `mmr` 4 k, at least 20."""
        return self.k if self.diversity is None else max(_POOL_PER_HIT * self.k, _LEAST_POOL)

    def excluding(self, values: list[Any]) -> Filter:
        """Return the filter that leaves out these groups too."""
        others: Mapping[str, Any] = {str(self.group_by): {"$nin": values}}
        return {"$and": [self.filter, others]} if self.filter else others


def check_context(n: int) -> None:
    """Refuse a number of neighbours that is none.

    Raises
    ------
    QueryError
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MAX_CONTEXT:
        raise QueryError(
            f"context is {n!r}, expected how many neighbouring chunks on either side: a whole number from 0 to "
            f"{MAX_CONTEXT}"
        )


def _is_number(value: Any, low: float, high: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and low <= value <= high
    )
