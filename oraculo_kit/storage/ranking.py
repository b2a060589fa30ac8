"""One order out of two scores: full text and vectors, and the wording of the best candidates.

`fuse` works on scores, not on ranks: reciprocal rank fusion forgets how much better a candidate is and
makes strong BM25 and weak vectors equals, which is worse than BM25 alone in every collection tried (figures
in `fuse`).

The figures are nDCG@10 with the default vectors, as ``tests/benchmarks/quality.py`` measures it: FaQuAD
(Portuguese, 211 passages, 837 questions) and five collections made of texts that a Linux machine with
Python has, their one-line summaries taken as queries for the rest: manual pages in Portuguese (145) and
English (2,784), docstrings of the standard library (1,108), operations of botocore (3,264), descriptions of
Python packages (191). One set of constants for all; a sixth collection that was kept out of the choice
(manual pages of gcloud, 5,144) went from 0.585 with BM25 alone to 0.625.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["RESCORED", "TEXT_WEIGHT", "VECTOR_WEIGHT", "WORDING_WEIGHT", "fuse", "parts_of"]

TEXT_WEIGHT = 0.5
VECTOR_WEIGHT = 0.2
WORDING_WEIGHT = 0.3

RESCORED = 20
"""So many of the best candidates (or twice the hits asked for) need a wording score; more change nothing."""


def fuse(
    vector_scores: ArrayLike | None, text_scores: ArrayLike | None, wording: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Fuse the scores of one query's candidates into one.

    ::

        score = (0.5 text + 0.2 vector + 0.3 wording) / (sum of the weights of what was given)

        text    = bm25 / max(bm25)                        0 for a candidate that shares no word with the query
        vector  = (cosine - min) / (max - min)            0 for a candidate without a cosine
        wording = `TextQuery.wording`                     0 where it was not computed

    Minimum and maximum are over the candidates. A side that gives nothing (no text score above 0; no cosine)
    has no weight, so a query without a known word is ordered by cosine alone.

    Parameters
    ----------
    vector_scores : array_like or None
        Cosines, shape (n,); NaN for a candidate without one.
    text_scores : array_like or None
        BM25, larger is better (SQLite's ``bm25()`` negated), shape (n,); NaN or 0 for no word in common.
    wording : array_like, optional
        From 0 to 1, shape (n,); NaN where it was not computed. Fuse without it first, compute it for the best
        `RESCORED`, fuse again.

    Returns
    -------
    numpy.ndarray
        float64, shape (n,), from 0 to 1, larger is better. It orders the candidates of one query and means
        nothing across queries; for a threshold use the cosine.

    Raises
    ------
    ValueError
        If the shapes differ, or nothing was given.

    Notes
    -----
    ==============================  =======  ===========  ==================
    nDCG@10                          FaQuAD   mean of six  in one index of all
    ==============================  =======  ===========  ==================
    cosine alone                      0.654        0.556               0.477
    BM25 alone                        0.926        0.748               0.713
    reciprocal rank fusion, k = 60    0.844        0.699               0.653
    without wording                   0.931        0.756               0.719
    this function                     0.945        0.768               0.736
    ==============================  =======  ===========  ==================

    The constants lie on a plateau: with 0.15 to 0.3 for the vectors and 0.2 to 0.4 for the wording, each
    column moves by less than 0.007. Cosines as they are, as z-scores, or divided by their maximum differ by
    less than 0.003.

    Examples
    --------
    >>> fuse([0.9, 0.5, 0.1], [2.0, 8.0, None]).round(2)
    array([0.46, 0.86, 0.  ])
    >>> fuse([0.9, 0.5, 0.1], [0, 0, 0]).round(2)
    array([1. , 0.5, 0. ])
    """
    parts = parts_of(vector_scores, text_scores, wording)
    given = next((scores for scores in (vector_scores, text_scores) if scores is not None), wording)
    total = np.zeros(np.asarray(given, np.float64).shape)
    for weight, scaled in parts.values():
        total += weight * scaled
    return total


def parts_of(
    vector_scores: ArrayLike | None, text_scores: ArrayLike | None, wording: ArrayLike | None = None
) -> dict[str, tuple[float, NDArray[np.float64]]]:
    """Return what `fuse` adds up: for each part that counts its weight and its scaled scores.

    Parameters, returns' order and errors as `fuse`.

    Examples
    --------
    >>> {name: weight for name, (weight, scaled) in parts_of([0.9, 0.5], None, [1, 0]).items()}
    {'vector': 0.4, 'wording': 0.6}
    """
    given = [
        np.asarray(scores, np.float64)
        for scores in (vector_scores, text_scores, wording)
        if scores is not None
    ]
    if not given or any(scores.ndim != 1 or scores.shape != given[0].shape for scores in given):
        shapes = [scores.shape for scores in given]
        raise ValueError(f"got scores of shapes {shapes}, expected at least one, each of shape (candidates,)")
    parts: dict[str, tuple[float, NDArray[np.float64]]] = {}
    if vector_scores is not None:
        cosines = np.asarray(vector_scores, np.float64)
        known = np.isfinite(cosines)
        if known.any():
            low, high = cosines[known].min(), cosines[known].max()
            scaled = np.zeros(cosines.shape)
            scaled[known] = (cosines[known] - low) / (high - low) if high > low else 1.0
            parts["vector"] = VECTOR_WEIGHT, scaled
    if text_scores is not None:
        bm25 = np.nan_to_num(np.asarray(text_scores, np.float64), nan=0.0)
        if bm25.max(initial=0.0) > 0:
            parts["text"] = TEXT_WEIGHT, bm25 / bm25.max()
    if wording is not None:
        parts["wording"] = WORDING_WEIGHT, np.nan_to_num(np.asarray(wording, np.float64), nan=0.0)
    total = sum(weight for weight, _ in parts.values())
    return {name: (weight / total, scaled) for name, (weight, scaled) in parts.items()}
