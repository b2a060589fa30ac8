"""Hits that differ from each other: one per group, one per text, or by maximal marginal relevance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["group_key", "marginal_relevance"]

_DIGITS = 6  # after the point; what differs less is equal


def group_key(value: Any) -> str:
    """Return what makes two metadata values the same group: their JSON, so 1 is not "1", nor true.

    Examples
    --------
    >>> group_key(["a", 1]) == group_key(["a", 1]), group_key(1) == group_key("1"), group_key(2.0) == group_key(2)
    (True, False, True)
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def marginal_relevance(
    relevance: ArrayLike, vectors: ArrayLike, k: int, weight: float
) -> list[tuple[int, float | None]]:
    """Choose candidates that fit the query and differ from those already chosen.

    The next one is always the candidate with the greatest::

        weight * relevance - (1 - weight) * max(cosine to a chosen one)

    which is maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998). The first is the most relevant.

    Parameters
    ----------
    relevance : array_like
        Shape (n,), higher is better; on the scale of a cosine.
    vectors : array_like
        Shape (n, dimension), rows of length one (or of zeros, where there is none).
    k : int
    weight : float
        From 0 (only difference counts) to 1 (only relevance counts).

    Returns
    -------
    list of (int, float or None)
        At most k places in the order of choice, each with the greatest cosine to one chosen before it (None for the
        first). Of equals the earlier place is taken.

    Examples
    --------
    >>> vectors = [[1, 0], [1, 0], [0, 1]]
    >>> [place for place, _ in marginal_relevance([0.9, 0.9, 0.5], vectors, 2, 0.5)]
    [0, 2]
    """
    scores = np.asarray(relevance, np.float64)
    matrix = np.asarray(vectors, np.float64)
    nearest: NDArray[np.float64] = np.full(len(scores), -np.inf)
    left = np.ones(len(scores), np.bool_)
    chosen: list[tuple[int, float | None]] = []
    while left.any() and len(chosen) < k:
        gain = weight * scores - (1 - weight) * nearest if chosen else scores
        # When the query is the vector of a chunk itself all gains are equal but for the last digits of float32.
        place = int(np.argmax(np.where(left, np.round(gain, _DIGITS), -np.inf)))
        chosen.append((place, float(nearest[place]) if chosen else None))
        left[place] = False
        nearest = np.maximum(nearest, matrix @ matrix[place])
    return chosen
