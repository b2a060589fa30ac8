"""Measures of rankings, and how sure they are: nDCG, recall, reciprocal rank, overlap, bootstrap.

A ranking is given by what is gained at each place. Arrays have the shape (questions, places), and each measure
gives a value per question: the mean over the questions is what is reported, the spread is what the bootstrap needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

RESAMPLES = 1_000
"""Of a bootstrap: Efron and Tibshirani (1993, chapter 13) find this many enough for percentile intervals."""

CONFIDENCE = 0.95

_SEED = 20_061  # fixed: the same figures give the same interval, today and in the paper
_BLOCK = 1 << 21  # draws held at once, 16 MiB


def ndcg(gains: Floats, ideal: Floats, k: int) -> Floats:
    """Return the normalised discounted cumulative gain of each question.

    The gain of a place is the grade found there and is divided by log2(place + 1); the sum over the first `k` places
    is divided by that of the best possible order. This is the measure of Järvelin and Kekäläinen ("Cumulated
    gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002) with the discount that trec_eval's ``ndcg_cut`` and
    scikit-learn's ``ndcg_score`` use (theirs divides by log_b(place) from place b on).

    Parameters
    ----------
    gains : numpy.ndarray
        float64, shape (questions, places): the grade found at each place, 0 for nothing.
    ideal : numpy.ndarray
        float64, shape (questions, any): the grades of all that is relevant, highest first, then zeros.
    k : int

    Returns
    -------
    numpy.ndarray
        float64, shape (questions,), from 0 to 1.

    Examples
    --------
    >>> ndcg(np.array([[0.0, 1.0, 0.0]]), np.array([[1.0]]), k=3).round(4).tolist()
    [0.6309]
    """
    best = _discounted(ideal, k)
    # A question with nothing to find has found nothing.
    values: Floats = np.divide(_discounted(gains, k), best, out=np.zeros_like(best), where=best > 0)
    return values


def _discounted(gains: Floats, k: int) -> Floats:
    first = gains[:, :k]
    values: Floats = first @ (1 / np.log2(np.arange(2, first.shape[1] + 2)))
    return values


def recall(found: Counts, relevant: Counts, k: int) -> Floats:
    """Return which share of what is relevant stands in the first `k` places.

    Parameters
    ----------
    found : numpy.ndarray
        int64, shape (questions, places): how many relevant things are seen for the first time at each place.
    relevant : numpy.ndarray
        int64, shape (questions,): how many there are.
    k : int

    Returns
    -------
    numpy.ndarray
        float64, shape (questions,), from 0 to 1.
    """
    seen: Counts = found[:, :k].sum(axis=1)
    return seen / np.maximum(relevant, 1).astype(np.float64)


def hit(found: Counts, k: int) -> Floats:
    """Return 1 where something relevant stands in the first `k` places, else 0; `found` as in `recall`."""
    seen: Counts = found[:, :k].sum(axis=1)
    return (seen > 0).astype(np.float64)


def first_place(found: Counts) -> Counts:
    """Return the place, from 1, of the first relevant thing; 0 where there is none; `found` as in `recall`.

    Examples
    --------
    >>> first_place(np.array([[0, 0, 1, 1], [0, 0, 0, 0]])).tolist()
    [3, 0]
    """
    if not found.shape[1]:
        return np.zeros(len(found), np.int64)
    seen = found > 0
    return np.where(seen.any(axis=1), seen.argmax(axis=1) + 1, 0).astype(np.int64)


def reciprocal_rank(found: Counts, k: int) -> Floats:
    """Return 1 / place of the first relevant thing, 0 where none stands in the first `k`; `found` as in `recall`."""
    places = first_place(found[:, :k])
    return np.divide(1.0, places, out=np.zeros(len(places)), where=places > 0)


def rank_biased_overlap(first: Sequence[str], other: Sequence[str], p: float = 0.9) -> float:
    """Return how alike two rankings are, from 0 (nothing in common) to 1 (the same); the top weighs most.

    Rank-biased overlap, extrapolated, for lists of uneven length: equation 32 of Webber, Moffat and Zobel, "A
    similarity measure for indefinite rankings", ACM TOIS 28(4), 2010. Unlike Kendall's tau it is defined for lists
    that do not hold the same things, as the best k of two searches do not.

    Parameters
    ----------
    first, other : sequence of str
        Each without repeats, best first.
    p : float
        Persistence, below 1; with 0.9 the first ten places have 86 % of the weight.

    Examples
    --------
    >>> rank_biased_overlap("abc", "abc"), rank_biased_overlap("abc", "xyz")
    (1.0, 0.0)
    >>> rank_biased_overlap("abc", "bac") < rank_biased_overlap("abc", "acb")
    True
    """
    shorter, longer = sorted((first, other), key=len)
    if not shorter:
        return float(not longer)
    small, large = len(shorter), len(longer)
    seen_short, seen_long = set[str](), set[str]()
    common = [0]
    for depth in range(large):
        seen_long.add(longer[depth])
        if depth < small:
            seen_short.add(shorter[depth])
        common.append(len(seen_short & seen_long))
    agreed = sum(common[depth] / depth * p**depth for depth in range(1, large + 1))
    agreed += sum(
        common[small] * (depth - small) / (small * depth) * p**depth for depth in range(small + 1, large + 1)
    )
    beyond = (common[large] - common[small]) / large + common[small] / small
    return round(float((1 - p) / p * agreed + beyond * p**large), 12)


def bootstrap_means(values: Floats, resamples: int = RESAMPLES) -> Floats:
    """Return the means of samples drawn from the questions with replacement.

    All rows of `values` see the same draws, so that differences of two rows are those of a paired bootstrap.

    Parameters
    ----------
    values : numpy.ndarray
        float64, shape (rows, questions).
    resamples : int

    Returns
    -------
    numpy.ndarray
        float64, shape (resamples, rows).
    """
    count = values.shape[1]
    generator = np.random.default_rng(_SEED)
    step = max(1, _BLOCK // count)
    means = []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(0, count, (size, count)) + np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means.append(times @ values.T / count)
    return np.concatenate(means)


def percentile_interval(means: Floats) -> tuple[Floats, Floats]:
    """Return the lower and upper ends of the percentile intervals of bootstrap means.

    The percentile interval of Efron and Tibshirani ("An Introduction to the Bootstrap", 1993, chapter 13), over the
    questions of a test set as Sakai ("Evaluating evaluation metrics based on the bootstrap", SIGIR 2006) draws them.
    With less than some twenty questions it is too narrow.

    Parameters
    ----------
    means : numpy.ndarray
        float64, shape (resamples, ...).

    Returns
    -------
    tuple of numpy.ndarray
        Each of shape (...).

    Examples
    --------
    >>> low, high = percentile_interval(bootstrap_means(np.array([[0.0, 1.0] * 50])))
    >>> bool(0.35 < low[0] < 0.45 and 0.55 < high[0] < 0.65)
    True
    """
    outside = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(means, [outside, 100 - outside], axis=0)
    return low, high
