"""The text around a hit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from oraculo_kit.split import split_documents
from oraculo_kit.storage.context import around, seam
from oraculo_kit.storage.snapshot import StoredChunk


def chunk(text: str, ordinal: int = 0, number: int | None = None, **metadata: Any) -> StoredChunk:
    """Return a chunk as read from a store."""
    return StoredChunk(ordinal if number is None else number, f"id{ordinal}", "s", ordinal, text, metadata)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (chunk("abcdef", start=0, end=6), chunk("efgh", start=4, end=8), (2, "")),
        (chunk("abc", start=0, end=3), chunk("def", start=3, end=6), (0, "")),
        (chunk("abc", start=0, end=3), chunk("def", start=4, end=7), (0, " ")),
        (chunk("abc", start=0, end=3), chunk("def", start=6, end=9), (0, "\n\n")),
        (chunk("abc", start=0, end=3), chunk("abc", start=0, end=3), (3, "")),  # the same text once more
        (chunk("abc", start=0, end=3), chunk("xyz", start=0, end=3), (0, "\n")),  # offsets in another text
        (chunk("abc", start=0, end=3, page=1), chunk("abc", start=0, end=3, page=2), (0, "\n")),
        (chunk("uma nota fiscal."), chunk("nota fiscal. E outra."), (12, "")),
        (chunk("uma nota"), chunk("nota fiscal"), (0, "\n")),  # four letters may be chance
        (chunk("a"), chunk("b"), (0, "\n")),
        (chunk("", start=0, end=0), chunk("", start=0, end=0), (0, "")),
        (chunk("abc", start="0", end=True), chunk("def", start=3.0), (0, "\n")),
    ],
)
def test_two_chunks_join_where_they_overlap(
    one: StoredChunk, other: StoredChunk, expected: tuple[int, str]
) -> None:
    assert seam(one, other) == expected


_words = st.lists(st.sampled_from(["nota", "fiscal", "a", "a a", "prazo,", "ção"]), min_size=1, max_size=80)


@settings(deadline=None)
@given(words=_words, size=st.integers(12, 60), overlap=st.integers(0, 11), data=st.data())
def test_context_of_split_text_is_a_part_of_that_text(
    words: list[str], size: int, overlap: int, data: st.DataObject
) -> None:
    text = " ".join(words)
    parts = split_documents([Document(page_content=text)], chunk_size=size, chunk_overlap=overlap)
    chunks = [chunk(part.page_content, place, **part.metadata) for place, part in enumerate(parts)]
    place = data.draw(st.integers(0, len(chunks) - 1))
    n = data.draw(st.integers(1, 3))
    before, after = around(chunks[max(0, place - n) : place + n + 1], chunks[place])
    start = chunks[max(0, place - n)].metadata["start"]
    end = chunks[min(len(chunks) - 1, place + n)].metadata["end"]
    assert before + chunks[place].text + after == text[start:end]


def test_a_missing_chunk_ends_the_context() -> None:
    chunks = [chunk("um", 0), chunk("dois", 1), chunk("quatro", 3)]
    assert around(chunks, chunks[1]) == ("um\n", "")
    assert around(chunks, chunks[2]) == ("", "")


def test_of_two_chunks_in_one_place_the_one_written_with_the_hit_is_its_neighbour() -> None:
    chunks = [
        chunk("um", 0, 10),
        chunk("um de novo", 0, 20),
        chunk("dois", 1, 11),
        chunk("dois de novo", 1, 21),
    ]
    assert around(chunks, chunks[2]) == ("um\n", "")
    assert around(chunks, chunks[1]) == ("", "\ndois de novo")
