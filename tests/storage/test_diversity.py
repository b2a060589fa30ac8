"""Hits that differ from each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oraculo_kit.storage.diversity import group_key, marginal_relevance
from tests.storage.kit import vectors


@given(seed=st.integers(0, 1000), k=st.integers(1, 12), weight=st.floats(0, 1))
def test_each_place_is_chosen_once_and_the_most_relevant_first(seed: int, k: int, weight: float) -> None:
    matrix = vectors(10, seed)
    relevance = np.random.default_rng(seed).uniform(-1, 1, 10)
    chosen = marginal_relevance(relevance, matrix, k, weight)
    places = [place for place, _ in chosen]
    assert len(places) == len(set(places)) == min(k, 10)
    assert places[0] == relevance.argmax()
    for number, (place, likeness) in enumerate(chosen):
        if number:
            earlier = matrix[places[:number]].astype(np.float64) @ matrix[place].astype(np.float64)
            assert likeness == pytest.approx(earlier.max())
        else:
            assert likeness is None


def test_relevance_alone_keeps_the_order() -> None:
    assert [place for place, _ in marginal_relevance([0.9, 0.8, 0.8, 0.7], vectors(4), 4, 1.0)] == [
        0,
        1,
        2,
        3,
    ]


def test_difference_alone_takes_what_is_least_like_the_first() -> None:
    matrix = [[1, 0], [0.6, 0.8], [-1, 0]]
    assert [place for place, _ in marginal_relevance([0.9, 0.8, 0.1], matrix, 2, 0.0)] == [0, 2]


def test_of_nothing_nothing_is_chosen() -> None:
    assert marginal_relevance([], np.zeros((0, 8)), 3, 0.5) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (1, "1", False),
        (None, "null", False),
        ([1, 2], [1, 2], True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (1.5, 1.5, True),
    ],
)
def test_values_are_one_group_when_a_filter_takes_them_for_equal(
    one: object, other: object, same: bool
) -> None:
    assert (group_key(one) == group_key(other)) is same
