"""The exact scan over float16 rows finds what NumPy finds in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oraculo_kit.storage.half import scan_half
from tests.storage.kit import vectors


@pytest.mark.parametrize("dimension", [1, 8, 13, 384])
@pytest.mark.parametrize("queries", [1, 3, 9, 10, 40])
@pytest.mark.parametrize("rows", [1, 7, 5000])
def test_scores_and_rows_are_those_of_the_same_halves_in_float32(
    dimension: int, queries: int, rows: int
) -> None:
    stored, asked = vectors(rows, dimension=dimension).astype(np.float16), vectors(queries, 1, dimension)
    scores, positions = scan_half(asked, stored, 10)
    exact = asked @ stored.astype(np.float32).T
    wanted = -np.sort(-exact, axis=1)[:, :10]
    assert scores.shape == positions.shape == (queries, min(10, rows))
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(exact, positions, axis=1), wanted, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in positions.tolist())


def test_mapped_rows_are_read_where_they_lie(tmp_path: Path) -> None:
    stored = vectors(3000, dimension=64).astype(np.float16)
    stored.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float16, "r", shape=stored.shape)
    for count in (1, 20):
        asked = vectors(count, 1, 64)
        np.testing.assert_array_equal(scan_half(asked, mapped, 5)[1], scan_half(asked, stored, 5)[1])


def test_nothing_to_find_is_an_empty_result() -> None:
    empty, asked = np.zeros((0, 8), np.float16), vectors(2)
    assert scan_half(asked, empty, 5)[1].shape == (2, 0)
    assert scan_half(asked, vectors(3).astype(np.float16), 0)[0].shape == (2, 0)
    assert scan_half(asked[:0], vectors(3).astype(np.float16), 2)[0].shape == (0, 2)


@pytest.mark.parametrize("wrong", [vectors(4), vectors(8).astype(np.float16)[:, ::2], vectors(8).T])
def test_other_rows_than_contiguous_halves_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected contiguous float16"):
        scan_half(vectors(1, dimension=wrong.shape[1]), wrong, 1)
