"""Measures of rankings: hand-computed values, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oraculo_kit.evaluating import measures


def gains(*places: float) -> measures.Floats:
    return np.array([places], np.float64)


def counts(*places: int) -> measures.Counts:
    return np.array([places], np.int64)


def test_ndcg_is_what_a_hand_computes() -> None:
    # Grades 3, 2, 0, 1 found; 3, 2, 2, 1 were there to be found.
    found = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(5)
    best = 3 / math.log2(2) + 2 / math.log2(3) + 2 / math.log2(4) + 1 / math.log2(5)
    assert measures.ndcg(gains(3, 2, 0, 1), gains(3, 2, 2, 1), 4)[0] == pytest.approx(found / best)
    # What lies beyond the cutoff counts neither as found nor as ideal.
    assert measures.ndcg(gains(3, 2, 0, 1), gains(3, 2, 2, 1), 2)[0] == pytest.approx(1.0)
    assert measures.ndcg(gains(0, 1), gains(1), 10)[0] == pytest.approx(1 / math.log2(3))


def test_ndcg_of_nothing_to_find_is_zero_and_warns_of_no_division() -> None:
    assert measures.ndcg(gains(0, 0), gains(0), 2).tolist() == [0.0]


def test_recall_hit_and_reciprocal_rank_look_at_the_first_places_only() -> None:
    found = counts(0, 1, 0, 2)
    relevant = np.array([4])
    assert [measures.recall(found, relevant, k)[0] for k in (1, 2, 4)] == [0, 0.25, 0.75]
    assert [measures.hit(found, k)[0] for k in (1, 2)] == [0, 1]
    assert [measures.reciprocal_rank(found, k)[0] for k in (1, 2, 4)] == [0, 0.5, 0.5]
    assert measures.first_place(np.zeros((2, 0), np.int64)).tolist() == [0, 0]


def test_rank_biased_overlap_is_the_published_example_worked_by_hand() -> None:
    # Two lists of three, p = 0.9: agreements 0/1, 2/2, 2/3, and the last one extrapolated.
    p = 0.9
    expected = (1 - p) / p * (0 + 1 * p**2 + 2 / 3 * p**3) + 2 / 3 * p**3
    assert measures.rank_biased_overlap(["a", "b", "c"], ["b", "a", "d"], p) == pytest.approx(expected)


def test_rank_biased_overlap_of_empty_lists() -> None:
    assert measures.rank_biased_overlap([], []) == 1
    assert measures.rank_biased_overlap([], ["a"]) == 0


@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8),
    st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8),
)
def test_rank_biased_overlap_is_symmetric_and_between_nothing_and_the_same(
    first: list[str], other: list[str]
) -> None:
    overlap = measures.rank_biased_overlap(first, other)
    assert 0 <= overlap <= 1
    assert overlap == measures.rank_biased_overlap(other, first)
    assert measures.rank_biased_overlap(first, first) == 1
    assert (overlap == 0) == (not set(first) & set(other) and first != other)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(3).normal(0.5, 0.2, (1, 400))
    low, high = measures.percentile_interval(measures.bootstrap_means(values))
    error = values.std() / math.sqrt(400)
    assert low[0] == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high[0] == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_the_same_figures_give_the_same_interval_and_rows_see_the_same_draws() -> None:
    values = np.random.default_rng(4).random((1, 50))
    twice = measures.bootstrap_means(np.concatenate([values, values + 0.25]))
    assert np.array_equal(twice, measures.bootstrap_means(np.concatenate([values, values + 0.25])))
    # A difference that is the same for every question is certain, however much the questions differ.
    low, high = measures.percentile_interval(twice[:, 1] - twice[:, 0])
    assert (low, high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_draws_come_in_blocks_without_changing_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).random((2, 30))
    whole = measures.bootstrap_means(values, 101)
    monkeypatch.setattr(measures, "_BLOCK", 70)
    assert np.allclose(measures.bootstrap_means(values, 101), whole)
    assert whole.shape == (101, 2)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth() -> None:
    generator = np.random.default_rng(6)
    held = 0
    for _ in range(200):
        low, high = measures.percentile_interval(
            measures.bootstrap_means((generator.random((1, 60)) < 0.7).astype(float), 300)
        )
        held += bool(low[0] <= 0.7 <= high[0])
    assert 0.90 <= held / 200 <= 0.99
