"""Tuning: made queries that do not flatter, and a recall that is measured on what the tuning did not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oraculo_kit.storage import tuning
from oraculo_kit.storage.approximate import build_index, open_index
from oraculo_kit.storage.tuning import exact_top, held_out_queries, recall
from tests.storage.kit import vectors
from tests.storage.test_approximate import ASKED, STORED, best, clustered


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune with a third of the queries: it is quicker."""
    monkeypatch.setattr(tuning, "QUERIES", 300)


def test_made_queries_are_of_length_one_and_the_same_for_the_same_seed() -> None:
    rows, between = held_out_queries(STORED, 101, seed=3)
    assert len(rows.vectors) + len(between.vectors) == 101
    for kind in (rows, between):
        np.testing.assert_allclose(np.linalg.norm(kind.vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(held_out_queries(STORED, 101, seed=3)[1].vectors, between.vectors)
    assert (held_out_queries(STORED, 101, seed=4)[1].vectors != between.vectors).any()


def test_queries_between_rows_are_not_stored() -> None:
    between = held_out_queries(STORED, 400, seed=0)[1]
    assert between.own == 0
    assert exact_top(between.vectors, STORED, 1).max() < 0.99


def test_a_row_as_query_is_no_hit_of_its_own(tmp_path: Path) -> None:
    index = open_index(path := tmp_path / "one.faiss", build_index(path, STORED, recall=0.9), STORED)
    assert index is not None
    rows = held_out_queries(STORED, 200, seed=0)[0]
    exam = tuning._Exam(index, rows, STORED, 10)
    own_list_only = exam.shares(10, 1, 4.0)
    flattered = recall(index.trial(rows.vectors, 10, 1, 4.0)[0], exact_top(rows.vectors, STORED, 10))
    assert own_list_only.mean() < flattered.mean()
    assert exam.shares(10, index.facts.lists, 4.0).mean() > 0.99


def test_equal_rows_are_equally_right() -> None:
    truth = np.array([[0.9, 0.8, 0.8]], np.float32)
    assert recall(np.array([[0.9, 0.8, 0.7]], np.float32), truth).tolist() == [pytest.approx(2 / 3)]
    assert recall(np.array([[0.8, 0.8, 0.8]], np.float32), truth).tolist() == [1.0]
    assert recall(np.array([[-np.inf] * 3], np.float32), truth).tolist() == [0.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_truth_is_exact(dtype: type) -> None:
    stored = STORED.astype(dtype)
    wanted = -np.sort(-(ASKED @ stored.astype(np.float32).T), axis=1)[:, :20]
    np.testing.assert_allclose(exact_top(ASKED, stored, 20), wanted, atol=1e-5)


def test_a_higher_target_takes_more_lists_and_finds_more(tmp_path: Path) -> None:
    low, high = (build_index(tmp_path / f"{recall}.faiss", STORED, recall=recall) for recall in (0.6, 0.97))
    assert low.efforts[0].probes < high.efforts[0].probes
    assert low.recall < high.recall
    assert high.recall >= 0.95
    assert all(a.probes <= b.probes for a, b in zip(high.efforts, high.efforts[1:], strict=False))


def test_the_promised_recall_holds_for_queries_that_nobody_saw(tmp_path: Path) -> None:
    path = tmp_path / "one.faiss"
    facts = build_index(path, STORED, recall=0.9)
    index = open_index(path, facts, STORED)
    assert index is not None
    fresh = clustered(300, seed=1234)
    scores = index.search(fresh, 10)[0]
    assert recall(scores, exact_top(fresh, STORED, 10)).mean() >= 0.88


def test_a_target_out_of_reach_is_reported_as_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With no spare candidates, the 8 bits decide alone, and they are wrong now and then.
    monkeypatch.setattr(
        "oraculo_kit.storage.approximate._candidates", lambda k, _rerank, _rows: max(1, k - 3)
    )
    facts = build_index(tmp_path / "one.faiss", STORED, recall=0.999)
    assert facts.recall < 0.8 < facts.target
    assert facts.efforts[0].probes == facts.lists


def test_enough_real_queries_are_used_alone_and_few_are_not(tmp_path: Path) -> None:
    far = vectors(300, seed=5, dimension=STORED.shape[1])
    many = build_index(tmp_path / "many.faiss", STORED, recall=0.9, queries=far)
    few = build_index(tmp_path / "few.faiss", STORED, recall=0.9, queries=far[:199])
    assert (many.real_queries, few.real_queries) == (300, 0)
    assert many.efforts[0].probes > few.efforts[0].probes  # these questions are about nothing stored


def test_the_same_seed_gives_the_same_index(tmp_path: Path) -> None:
    one, two, other = (
        build_index(tmp_path / f"{name}.faiss", STORED, recall=0.9, seed=seed)
        for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    assert (one.digest, one.efforts) == (two.digest, two.efforts)
    assert one.digest != other.digest


def test_best_is_what_exact_top_scores() -> None:
    np.testing.assert_allclose(
        exact_top(ASKED, STORED, 5), np.take_along_axis(ASKED @ STORED.T, best(ASKED, 5), axis=1), atol=1e-6
    )
