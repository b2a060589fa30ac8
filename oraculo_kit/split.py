"""Documents to chunks, cut where a reader would, each knowing its place in the text it comes from.

The cuts are those of LangChain's ``RecursiveCharacterTextSplitter``: at blank lines, else at line ends, else at
spaces, else anywhere. Markdown (``format="markdown"`` in the metadata) is cut at its headings first, and its chunks
carry them as ``heading``: ``"Manual > Installation"``.

Invariants:

- ``text[start:end] == chunk.page_content`` for the text of the document that went in.
- Chunks come in order, none is blank or longer than ``chunk_size``, and only whitespace lies between them.
- No two chunks share a metadata dict, nor a list or dict inside it.

**Offsets.** The splitter returns texts, and looking for them again is wrong where text repeats itself. But it looks
at nothing except its separators and lengths. So it is given a twin of the text, in which every other character is
replaced by one that stands for its own position, and the first character of a chunk says where it starts.

A text that fits in one chunk is not cut at all, and LangChain's splitters (0.4 s to import) are not even imported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from oraculo_kit.formats.text import find_headings

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_text_splitters import RecursiveCharacterTextSplitter

__all__ = ["split_documents", "splitter_fingerprint"]

_VERSION = "v1"  # changes whenever the same text would be cut otherwise: sources are then split again

_SEPARATORS = ("\n\n", "\n", " ", "")
# The supplementary planes: no separator, and nothing that str.strip() removes, is in there.
_FIRST_POSITION = 0x10000
_POSITIONS = 0x110000 - _FIRST_POSITION


def splitter_fingerprint(chunk_size: int, chunk_overlap: int) -> str:
    """Return a short text that changes whenever the cuts would.

    Examples
    --------
    >>> splitter_fingerprint(1000, 200)
    'recursive:1000:200:v1'
    """
    return f"recursive:{chunk_size}:{chunk_overlap}:{_VERSION}"


def split_documents(documents: Sequence[Document], *, chunk_size: int, chunk_overlap: int) -> list[Document]:
    r"""Cut documents into chunks.

    Parameters
    ----------
    documents : sequence of Document
        Left as they are.
    chunk_size : int
        Characters that a chunk has at most.
    chunk_overlap : int
        Characters that a chunk repeats of the one before it, at most; less than `chunk_size`.

    Returns
    -------
    list of Document
        With the metadata of their document and ``start`` and ``end``, offsets in its text. Documents without text
        give none.

    Raises
    ------
    ValueError
        If the sizes contradict each other.

    Examples
    --------
    >>> from langchain_core.documents import Document
    >>> text = "# Nota\n\nComo emitir.\n\n# Prazo\n\nDez dias."
    >>> document = Document(page_content=text, metadata={"format": "markdown"})
    >>> for chunk in split_documents([document], chunk_size=1000, chunk_overlap=200):
    ...     print(chunk.metadata)
    {'heading': 'Nota', 'start': 0, 'end': 20}
    {'heading': 'Prazo', 'start': 22, 'end': 40}
    """
    if not 0 <= chunk_overlap < chunk_size:
        raise ValueError(
            f"got chunk_size={chunk_size} and chunk_overlap={chunk_overlap}; expected 0 <= chunk_overlap < chunk_size"
        )
    return [chunk for document in documents for chunk in _split_document(document, chunk_size, chunk_overlap)]


def _split_document(document: Document, size: int, overlap: int) -> Iterator[Document]:
    from langchain_core.documents import Document

    text = document.page_content
    metadata = {key: value for key, value in document.metadata.items() if key != "format"}
    nested = any(isinstance(value, list | dict) for value in metadata.values())
    is_markdown = document.metadata.get("format") == "markdown"
    for first, last, heading in _sections(text) if is_markdown else [(0, len(text), "")]:
        for start, end in _spans(text, first, last, size, overlap):
            own = copy.deepcopy(metadata) if nested else dict(metadata)
            if heading:
                own["heading"] = heading
            own["start"], own["end"] = start, end
            yield Document(page_content=text[start:end], metadata=own)


def _spans(text: str, first: int, last: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield where the chunks of ``text[first:last]`` start and end."""
    if last - first <= size:
        pieces: Iterator[tuple[int, int]] = iter([(first, last)])
    else:
        pieces = _cuts(text[first:last], first, size, overlap)
    for start, end in pieces:
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())
        end = start + len(piece.strip())
        if start < end:
            yield start, end


def _cuts(text: str, offset: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    positions = (np.arange(len(codes)) % _POSITIONS + _FIRST_POSITION).astype("<u4")
    is_separator = (codes == ord(" ")) | (codes == ord("\n"))
    twin = np.where(is_separator, codes, positions).tobytes().decode("utf-32-le")
    before = 0
    for chunk in _splitter(size, overlap).split_text(twin):
        # Positions are known up to a multiple of _POSITIONS, and never go back.
        start = before + (ord(chunk[0]) - _FIRST_POSITION - before) % _POSITIONS
        before = start
        yield offset + start, offset + start + len(chunk)


@lru_cache(maxsize=8)
def _splitter(size: int, overlap: int) -> RecursiveCharacterTextSplitter:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter(
        separators=list(_SEPARATORS), chunk_size=size, chunk_overlap=overlap
    )


def _sections(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the sections of a Markdown text: start, end, and the headings above it.

    A heading that has no text of its own stays with the section that follows it.
    """
    path: list[tuple[int, str]] = []
    start, body, name = 0, 0, ""
    for offset, level, title in find_headings(text):
        if text[body:offset].strip():
            yield start, offset, name
            start = offset
        while path and path[-1][0] >= level:
            path.pop()
        path.append((level, title))
        name = " > ".join(part for _, part in path)
        body = text.find("\n", offset)
    yield start, len(text), name
