"""Rows of feedback in a catalog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.feedback import (
    Feedback,
    insert_feedback,
    read_feedback,
)

GOOD = Feedback("2026-01-02T03:04:05+00:00", "Qual?", "Dez [1].", "good", "", "openai:gpt", ("a", "b"))
BAD = Feedback("2026-01-03T03:04:05+00:00", "Quem?", "x", "bad", "sem fonte")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "catalog.sqlite3", create=True)
    opened.create_schema({})
    yield opened
    opened.db.close()


def test_what_is_written_is_read_oldest_first(catalog: Catalog) -> None:
    with catalog.writing():
        numbers = [insert_feedback(catalog, GOOD), insert_feedback(catalog, BAD)]
    assert numbers == [1, 2]
    assert read_feedback(catalog) == [GOOD, BAD]


def test_text_that_no_database_can_hold_is_kept_as_far_as_it_can(catalog: Catalog) -> None:
    with catalog.writing():
        insert_feedback(catalog, Feedback("2026", "a\ud800b", "'; DROP TABLE feedback; --", "bad"))
    [row] = read_feedback(catalog)
    assert (row.question, row.answer) == ("a?b", "'; DROP TABLE feedback; --")


def test_another_verdict_is_refused() -> None:
    with pytest.raises(ValueError, match="verdict is 'fine', expected one of good, bad, corrected"):
        Feedback("2026", "q", "a", "fine")  # type: ignore[arg-type]
