"""How the scores of full text and vectors become one order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from oraculo_kit.storage.ranking import TEXT_WEIGHT, VECTOR_WEIGHT, WORDING_WEIGHT, fuse

_NAN = float("nan")
_count = st.shared(st.integers(0, 30), key="count")
_cosines = _count.flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1, 1) | st.just(_NAN)))
_bm25 = _count.flatmap(lambda n: arrays(np.float64, n, elements=st.floats(0, 50) | st.just(_NAN)))
_wording = _count.flatmap(lambda n: arrays(np.float64, n, elements=st.floats(0, 1) | st.just(_NAN)))


def test_the_score_is_the_documented_formula() -> None:
    scores = fuse([0.8, 0.3, 0.4], [3.0, 12.0, 6.0], [1.0, 0.5, _NAN])
    assert scores == pytest.approx(
        [
            TEXT_WEIGHT * 0.25 + VECTOR_WEIGHT * 1.0 + WORDING_WEIGHT * 1.0,
            TEXT_WEIGHT * 1.0 + VECTOR_WEIGHT * 0.0 + WORDING_WEIGHT * 0.5,
            TEXT_WEIGHT * 0.5 + VECTOR_WEIGHT * 0.2,
        ]
    )


def test_the_weights_make_one() -> None:
    assert pytest.approx(1.0) == TEXT_WEIGHT + VECTOR_WEIGHT + WORDING_WEIGHT


@given(_cosines, _bm25, _wording)
def test_every_score_is_between_zero_and_one(
    cosines: np.ndarray[tuple[int], np.dtype[np.float64]],
    bm25: np.ndarray[tuple[int], np.dtype[np.float64]],
    wording: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> None:
    for scores in (
        fuse(cosines, bm25, wording),
        fuse(cosines, bm25),
        fuse(cosines, None),
        fuse(None, bm25, wording),
    ):
        assert scores.shape == cosines.shape
        assert scores.dtype == np.float64
        assert ((scores >= 0) & (scores <= 1 + 1e-12)).all()


@pytest.mark.parametrize("bm25", [None, [_NAN] * 4, [0.0] * 4])
def test_without_a_word_in_common_the_cosines_give_the_order(bm25: list[float] | None) -> None:
    assert fuse([0.1, 0.9, -0.3, 0.5], bm25) == pytest.approx([1 / 3, 1.0, 0.0, 2 / 3])


@pytest.mark.parametrize("cosines", [None, [_NAN] * 3])
def test_without_vectors_full_text_gives_the_order(cosines: list[float] | None) -> None:
    assert fuse(cosines, [2.0, 8.0, _NAN]) == pytest.approx([0.25, 1.0, 0.0])


def test_a_candidate_without_a_cosine_is_not_preferred_to_the_worst_one_with() -> None:
    scores = fuse([0.2, 0.9, _NAN], [4.0, 4.0, 4.0])
    assert scores[2] == scores[0] < scores[1]


def test_negative_cosines_keep_their_order() -> None:
    assert list(np.argsort(-fuse([-0.9, -0.1, -0.5], [0.0, 0.0, 0.0]))) == [1, 2, 0]


def test_equal_scores_stay_equal() -> None:
    assert len(set(fuse([0.5, 0.5], [3.0, 3.0], [0.0, 0.0]))) == 1
    assert fuse([0.5], [_NAN]) == pytest.approx([1.0])


def test_the_scale_of_bm25_makes_no_difference() -> None:
    cosines, bm25 = np.array([0.1, 0.7, 0.4]), np.array([1.0, 3.0, 2.0])
    assert fuse(cosines, bm25) == pytest.approx(fuse(cosines, bm25 * 1e-6))


def test_nearer_wording_lifts_a_candidate_above_its_equal() -> None:
    before, after = fuse([0.5, 0.5], [3.0, 3.0], [0.2, 0.6])
    assert after > before


def test_a_much_better_text_match_is_not_outvoted_by_two_ranks() -> None:
    # Reciprocal rank fusion would prefer the second: ranks 2 and 1 against 1 and 3.
    best, other, _ = fuse([0.30, 0.35, 0.34], [20.0, 2.0, 1.0])
    assert best > other


def test_nothing_in_gives_nothing_out() -> None:
    assert fuse([], []).shape == (0,)
    assert list(fuse([_NAN, _NAN], [_NAN, 0.0])) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("cosines", "bm25", "wording"),
    [(None, None, None), ([0.1], [1.0, 2.0], None), ([0.1], [1.0], [0.5, 0.5]), ([[0.1]], [[1.0]], None)],
)
def test_shapes_that_do_not_fit_are_refused(cosines: object, bm25: object, wording: object) -> None:
    with pytest.raises(ValueError, match=r"got scores of shapes .* expected at least one, each of shape"):
        fuse(cosines, bm25, wording)  # type: ignore[arg-type]
