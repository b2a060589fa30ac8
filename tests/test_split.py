"""Cutting documents into chunks that know their place."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_text_splitters import RecursiveCharacterTextSplitter

from oraculo_kit.split import split_documents, splitter_fingerprint

MANUAL = """Before any heading.

# Manual

## Install

Run it.

```
# a comment, no heading
```

## Use
Call it.

# Annex
End.
"""


def split(text: str, size: int = 40, overlap: int = 10, **metadata: object) -> list[Document]:
    return split_documents(
        [Document(page_content=text, metadata=metadata)], chunk_size=size, chunk_overlap=overlap
    )


def covers(text: str, chunks: list[Document]) -> bool:
    """Tell whether only whitespace lies outside the chunks, which come in order."""
    position = 0
    for chunk in chunks:
        if text[position : chunk.metadata["start"]].strip():
            return False
        position = max(position, chunk.metadata["end"])
    starts = [chunk.metadata["start"] for chunk in chunks]
    return not text[position:].strip() and starts == sorted(starts)


texts = st.one_of(
    st.text(max_size=400),
    st.text(alphabet="ab \n", max_size=400),
    st.text(alphabet="a# \n`\t\u00a0\u2003é\U0001f600", max_size=400),
    st.builds(lambda part, times: part * times, st.text(min_size=1, max_size=12), st.integers(1, 60)),
)


@settings(max_examples=300, deadline=None)
@given(
    text=texts,
    size=st.integers(2, 60),
    overlap=st.integers(0, 59),
    format=st.sampled_from(["markdown", "text"]),
)
@example(text="ab " * 100, size=30, overlap=12, format="text")
@example(text="\ud800 lone surrogate " * 5, size=20, overlap=5, format="text")
def test_offsets_say_exactly_where_a_chunk_stands(text: str, size: int, overlap: int, format: str) -> None:
    chunks = split(text, size, min(overlap, size - 1), format=format)
    for chunk in chunks:
        assert text[chunk.metadata["start"] : chunk.metadata["end"]] == chunk.page_content
        assert chunk.page_content.strip() == chunk.page_content != ""
        assert len(chunk.page_content) <= size
    assert covers(text, chunks)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="abcé \n", max_size=400), size=st.integers(2, 60), overlap=st.integers(0, 59))
def test_the_cuts_are_those_of_langchain(text: str, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    theirs = RecursiveCharacterTextSplitter(chunk_size=size, chunk_overlap=overlap).split_text(text)
    if len(text) <= size:
        theirs = [text.strip()] if text.strip() else []
    assert [chunk.page_content for chunk in split(text, size, overlap)] == theirs


def test_overlap_is_at_most_what_was_asked_for() -> None:
    chunks = split("palavra " * 200, 100, 30)
    overlaps = [one.metadata["end"] - two.metadata["start"] for one, two in itertools.pairwise(chunks)]
    assert min(overlaps) > 0
    assert max(overlaps) <= 30


def test_offsets_hold_in_a_text_longer_than_the_positions_that_unicode_can_count() -> None:
    text = "palavra repetida\n" * 70_000
    chunks = split(text, 1000, 200)
    assert len(text) > 0x100000
    assert all(
        text[chunk.metadata["start"] : chunk.metadata["end"]] == chunk.page_content for chunk in chunks
    )
    assert covers(text, chunks)
    assert chunks[-1].metadata["end"] == len(text.rstrip())


def test_markdown_is_cut_at_its_headings_and_chunks_carry_them() -> None:
    chunks = split(MANUAL, 1000, 200, format="markdown", title="Manual")
    assert [(chunk.metadata.get("heading"), chunk.page_content.partition("\n")[0]) for chunk in chunks] == [
        (None, "Before any heading."),
        ("Manual > Install", "# Manual"),
        ("Manual > Use", "## Use"),
        ("Annex", "# Annex"),
    ]
    assert all(chunk.metadata["title"] == "Manual" and "format" not in chunk.metadata for chunk in chunks)


def test_a_long_section_is_cut_further_and_keeps_its_heading() -> None:
    chunks = split("# One\n" + "word " * 50 + "\n# Two\nend", 60, 10, format="markdown")
    assert [chunk.metadata["heading"] for chunk in chunks] == ["One"] * (len(chunks) - 1) + ["Two"]
    assert len(chunks) > 4


def test_other_text_is_not_cut_at_lines_that_begin_with_a_hash() -> None:
    assert len(split("# a comment\nx = 1\n# another\n", 1000, 200)) == 1


def test_the_heading_of_a_loader_stays_where_the_text_has_none() -> None:
    (chunk,) = split("slide text", 1000, 200, heading="Slide")
    assert chunk.metadata["heading"] == "Slide"


def test_no_two_chunks_share_metadata() -> None:
    document = Document(page_content="word " * 60, metadata={"tags": ["a"], "page": 1})
    one, two = split_documents([document], chunk_size=200, chunk_overlap=20)[:2]
    one.metadata["page"] = 2
    one.metadata["tags"].append("b")
    assert (two.metadata["page"], two.metadata["tags"]) == (1, ["a"])
    assert document.metadata == {"tags": ["a"], "page": 1}


def test_blank_documents_give_no_chunks_and_others_keep_their_order() -> None:
    documents = [Document(page_content=text) for text in ("b", " \n", "a")]
    chunks = split_documents(documents, chunk_size=10, chunk_overlap=0)
    assert [chunk.page_content for chunk in chunks] == ["b", "a"]


@pytest.mark.parametrize(("size", "overlap"), [(10, 10), (0, 0), (10, -1)])
def test_sizes_that_contradict_each_other_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= chunk_overlap < chunk_size"):
        split_documents([], chunk_size=size, chunk_overlap=overlap)


def test_the_fingerprint_tells_sizes_apart() -> None:
    assert splitter_fingerprint(1000, 200) == "recursive:1000:200:v1"
    assert len({splitter_fingerprint(size, overlap) for size in (500, 1000) for overlap in (0, 100)}) == 4


def test_text_that_fits_is_passed_through_without_importing_the_splitters() -> None:
    code = (
        "import sys; from langchain_core.documents import Document; from oraculo_kit.split import split_documents;"
        "split_documents([Document(page_content='row ' * 9)] * 3, chunk_size=1000, chunk_overlap=200);"
        "print('langchain_text_splitters' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "False"
