"""Half precision: what float16 saves, and what it costs.

A store made with ``precision="float16"`` keeps its segments in half the space, and scans them in less time. The price
is measured, not promised: each segment records the share of the true ten nearest that are still found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAMPLED_ROWS = 20_000
_QUERIES = 100
_NEAREST = 10


def half_recall(blocks: Sequence[NDArray[np.floating[Any]]]) -> float | None:
    """Measure what float16 loses: recall@10 against float32, on a sample.

    A hundred rows are taken out as queries and searched for in the others, so that none finds itself.

    Parameters
    ----------
    blocks : sequence of numpy.ndarray
        float32, each of shape (rows, dimension), rows of length one.

    Returns
    -------
    float or None
        From 0 to 1, the mean over the queries; None when there are too few rows to measure anything.

    Examples
    --------
    >>> rows = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    >>> half_recall([rows / np.linalg.norm(rows, axis=1, keepdims=True)]) > 0.99
    True
    """
    count = sum(len(block) for block in blocks)
    if count < 5 * _NEAREST:
        return None
    chosen = np.sort(np.random.default_rng(count).permutation(count)[:_SAMPLED_ROWS])
    starts = np.cumsum([0, *(len(block) for block in blocks)])
    rows = np.concatenate(
        [
            block[chosen[(chosen >= start) & (chosen < start + len(block))] - start]
            for block, start in zip(blocks, starts[:-1].tolist(), strict=True)
        ]
    ).astype(np.float32, copy=False)
    held_out = np.random.default_rng(0).permutation(len(rows))[: min(_QUERIES, len(rows) // 5)]
    queries, others = rows[held_out], np.delete(rows, held_out, axis=0)
    exact = _nearest(queries, others)
    halved = _nearest(queries, others.astype(np.float16).astype(np.float32))
    found = [len(np.intersect1d(one, other)) for one, other in zip(exact, halved, strict=True)]
    return float(np.mean(found)) / _NEAREST


def _nearest(queries: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argpartition(-(queries @ rows.T), _NEAREST - 1, axis=1)[:, :_NEAREST]
