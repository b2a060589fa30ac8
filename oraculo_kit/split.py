r"""Documents to chunks, cut where a reader would, each knowing its place in the text it comes from.

Three splitters, chosen by ``ORACULO_SPLITTER``:

- ``recursive``: at blank lines, else at line ends, else at spaces, else anywhere; exactly the cuts of LangChain's
  ``RecursiveCharacterTextSplitter`` (:mod:`oraculo_kit.cutting`). Sizes are characters.
- ``sentence``: whole sentences (:mod:`oraculo_kit.sentences`), overlap in whole sentences too; a sentence longer than
  a chunk is cut as ``recursive`` does. Sizes are characters.
- ``token``: as ``recursive``, but sizes are tokens (:mod:`oraculo_kit.tokens` says whose).

Whichever it is, a document is cut by what it is: Markdown and reStructuredText at their headings first, and their
chunks carry these as ``heading``: ``"Manual > Installation"``; source code before definitions
(:mod:`oraculo_kit.code_levels`). Loaders say what it is under a private key, which is removed here. A document that
comes with ``format="markdown"`` (or ``"rst"``, or an extension of source code, such as ``"py"``) is cut accordingly,
and keeps it.

Invariants:

- ``text[start:end] == chunk.page_content`` for the text of the document that went in.
- Chunks come in order, none is blank or longer than ``chunk_size``, and only whitespace lies between them.
- No two chunks share a metadata dict, nor a list or dict inside it.
- No metadata of a document is lost. What it calls ``start`` and ``end`` itself, as transcripts do, its chunks have as
  ``document_start`` and ``document_end``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oraculo_kit.code_levels import code_levels
from oraculo_kit.cutting import RECURSIVE, Level, at_matches, cut_text
from oraculo_kit.errors import SettingsError
from oraculo_kit.formats.text import FORMAT_KEY
from oraculo_kit.headings import FindHeadings, find_marked, find_sections, find_underlined
from oraculo_kit.sentences import sentence_starts
from oraculo_kit.settings import SPLITTERS

if TYPE_CHECKING:
    from langchain_core.documents import Document

__all__ = ["split_documents", "splitter_fingerprint"]

_VERSION = "v2"  # changes whenever the same text would be cut otherwise: sources are then split again

_Cut = Callable[[str, int, int], list[tuple[int, int]]]

# A block of code, such as a notebook's cell, begins a chunk rather than being cut in two.
_MARKDOWN: tuple[Level, ...] = (at_matches(r"\n\n(?=```|~~~)"), *RECURSIVE)
_SENTENCES: tuple[Level, ...] = (sentence_starts, *RECURSIVE)
_HEADINGS: dict[str, FindHeadings] = {"markdown": find_marked, "rst": find_underlined}
_OFFSETS = ("start", "end")


def splitter_fingerprint(chunk_size: int, chunk_overlap: int, splitter: str = "recursive") -> str:
    """Return a short text that changes whenever the cuts would.

    Examples
    --------
    >>> splitter_fingerprint(1000, 200)
    'recursive:1000:200:v2'
    """
    return f"{splitter}:{chunk_size}:{chunk_overlap}:{_VERSION}"


def split_documents(
    documents: Sequence[Document], *, chunk_size: int, chunk_overlap: int, splitter: str = "recursive"
) -> list[Document]:
    r"""Cut documents into chunks.

    Parameters
    ----------
    documents : sequence of Document
        Left as they are.
    chunk_size : int
        What a chunk has at most: characters; for the splitter ``"token"``, tokens of the default embedder.
    chunk_overlap : int
        What a chunk repeats of the one before it, at most; in the same unit, less than `chunk_size`.
    splitter : {"recursive", "sentence", "token"}
        How text is cut; the module says how.

    Returns
    -------
    list of Document
        With the metadata of their document and ``start`` and ``end``, offsets in its text in characters, whatever the
        splitter. Documents without text give none.

    Raises
    ------
    SettingsError
        If there is no such splitter.
    ValueError
        If the sizes contradict each other.

    Examples
    --------
    >>> from langchain_core.documents import Document
    >>> text = "# Nota\n\nComo emitir.\n\n# Prazo\n\nDez dias."
    >>> document = Document(page_content=text, metadata={"format": "markdown"})
    >>> for chunk in split_documents([document], chunk_size=1000, chunk_overlap=200):
    ...     print(chunk.metadata)
    {'format': 'markdown', 'heading': 'Nota', 'start': 0, 'end': 20}
    {'format': 'markdown', 'heading': 'Prazo', 'start': 22, 'end': 40}
    """
    if splitter not in SPLITTERS:
        raise SettingsError(
            f"the splitter is {splitter!r}, expected one of {', '.join(SPLITTERS)} (ORACULO_SPLITTER)"
        )
    if not 0 <= chunk_overlap < chunk_size:
        raise ValueError(
            f"got chunk_size={chunk_size} and chunk_overlap={chunk_overlap}; expected 0 <= chunk_overlap < chunk_size"
        )
    return [
        chunk
        for document in documents
        for chunk in _split_document(document, chunk_size, chunk_overlap, splitter)
    ]


def _split_document(document: Document, size: int, overlap: int, splitter: str) -> Iterator[Document]:
    from langchain_core.documents import Document

    text = document.page_content
    format = document.metadata.get(FORMAT_KEY, document.metadata.get("format"))
    format = format.lower() if isinstance(format, str) else ""
    metadata = _kept(document.metadata)
    nested = any(isinstance(value, list | dict) for value in metadata.values())
    cut = _cutter(format, size, overlap, splitter)
    headings = _HEADINGS.get(format)
    for first, last, heading in find_sections(text, headings) if headings else [(0, len(text), "")]:
        for start, end in cut(text, first, last):
            piece = text[start:end]
            start += len(piece) - len(piece.lstrip())
            piece = piece.strip()
            if not piece:
                continue
            own = copy.deepcopy(metadata) if nested else dict(metadata)
            if heading:
                own["heading"] = heading
            own["start"], own["end"] = start, start + len(piece)
            yield Document(page_content=piece, metadata=own)


def _kept(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return a document's metadata as its chunks have it, without what they get of their own."""
    kept = {key: value for key, value in metadata.items() if key != FORMAT_KEY and key not in _OFFSETS}
    for key in _OFFSETS:
        if key in metadata:
            name = f"document_{key}"
            while name in metadata:
                name = f"document_{name}"
            kept[name] = metadata[key]
    return kept


def _cutter(format: str, size: int, overlap: int, splitter: str) -> _Cut:
    """Return the function that cuts a section of such a document."""
    levels = _levels(format, splitter)

    def cut(text: str, start: int, end: int) -> list[tuple[int, int]]:
        if splitter == "token":
            from oraculo_kit.tokens import cut_by_tokens

            return cut_by_tokens(text, start, end, size=size, overlap=overlap, levels=levels)
        if end - start <= size:
            return [(start, end)]
        return cut_text(text, start, end, size=size, overlap=overlap, levels=levels)

    return cut


def _levels(format: str, splitter: str) -> tuple[Level, ...]:
    if code := code_levels(format):
        return code
    if splitter == "sentence":
        return _SENTENCES
    return _MARKDOWN if format == "markdown" else RECURSIVE
