"""Everything that can be ingested, as sources: files, rows of a DataFrame, LangChain documents.

A source has a key, gives its content as bytes (hashed to see whether it changed) and, only when it did, its
documents. Sources travel to worker processes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from oraculo_kit.errors import EmptySourceError, SourceError
from oraculo_kit.storage.records import clean_text, grouped, metadata_json

if TYPE_CHECKING:
    import pandas as pd
    from langchain_core.documents import Document

    from oraculo_kit.discovery import FoundFile


_OWN_KEYS = ("source", "format", "start", "end")
"""Metadata that the pipeline sets itself; a column of that name would be lost."""

_LATEST_NS = (
    253_402_300_799 * 10**9
)  # the end of the year 9999: no date and no 64-bit integer holds much more


class IngestSource(Protocol):
    """What the pipeline needs of a source."""

    @property
    def key(self) -> str:
        """The name under which it is stored."""

    @property
    def size(self) -> int:
        """Bytes; 0 when unknown before reading."""

    @property
    def mtime_ns(self) -> int | None:
        """Time of the last modification; None when it has none, and then its content is always compared."""

    @property
    def error(self) -> SourceError | None:
        """A fault that is known already."""

    def content(self, max_bytes: int) -> bytes:
        """Return its bytes, or raise a `SourceError`."""

    def documents(self, content: bytes) -> list[Document]:
        """Return its documents, each with metadata of its own, or raise a `SourceError`."""


@dataclass(frozen=True)
class FileSource:
    """A file that `find_files` found."""

    found: FoundFile

    @property
    def key(self) -> str:
        """The absolute path, Unicode NFC."""
        return self.found.key

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.found.size

    @property
    def mtime_ns(self) -> int | None:
        """From the file system; None for a time that no calendar has, which some archives restore."""
        return self.found.mtime_ns if 0 <= self.found.mtime_ns <= _LATEST_NS else None

    @property
    def error(self) -> SourceError | None:
        """Why the file cannot be read, when listing it showed that already."""
        return self.found.error

    def content(self, max_bytes: int) -> bytes:
        """Read the file."""
        from oraculo_kit.load import read_file

        return read_file(self.found.path, max_bytes=max_bytes)

    def documents(self, content: bytes) -> list[Document]:
        """Extract the text."""
        from oraculo_kit.load import load_bytes

        documents = load_bytes(content, name=self.found.path.name)
        known: dict[str, Any] = {"bytes": len(content)}
        if self.mtime_ns is not None:
            seconds = self.mtime_ns // 10**9
            known["modified"] = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
        for document in documents:
            document.metadata.update(known)
        return documents


@dataclass(frozen=True)
class TextSource:
    """A text with metadata: a DataFrame's row."""

    key: str
    text: str
    metadata: dict[str, Any]
    error: SourceError | None = None
    mtime_ns: int | None = None

    @property
    def size(self) -> int:
        """Characters; near enough to plan with."""
        return len(self.text)

    def content(self, max_bytes: int) -> bytes:
        """Return text and metadata in one: a change of either is a change."""
        return f"{self.text}\0{metadata_json(self.metadata)}".encode()

    def documents(self, content: bytes) -> list[Document]:
        """Return one document."""
        from langchain_core.documents import Document

        if not self.text.strip():
            raise EmptySourceError("the text is empty: there is nothing to index")
        return [Document(page_content=self.text, metadata=dict(self.metadata))]


@dataclass(frozen=True)
class DocumentsSource:
    """LangChain documents of one source."""

    key: str
    parts: tuple[Document, ...]
    error: SourceError | None = None
    mtime_ns: int | None = None

    @property
    def size(self) -> int:
        """Characters; near enough to plan with."""
        return sum(len(part.page_content) for part in self.parts)

    def content(self, max_bytes: int) -> bytes:
        """Return texts and metadata in one."""
        texts = (f"{clean_text(part.page_content)}\0{metadata_json(part.metadata)}" for part in self.parts)
        return "\0".join(texts).encode()

    def documents(self, content: bytes) -> list[Document]:
        """Return copies, so that the caller's documents are never changed."""
        from langchain_core.documents import Document

        texts = [clean_text(part.page_content) for part in self.parts]
        if not any(text.strip() for text in texts):
            raise EmptySourceError("the documents hold no text: there is nothing to index")
        return [
            Document(page_content=text, metadata=dict(part.metadata))
            for text, part in zip(texts, self.parts, strict=True)
        ]


def find_sources(
    given: Any,
    *,
    text: str | None = None,
    id: str | None = None,
    name: str = "dataframe",
    glob: str | None = None,
) -> Iterator[IngestSource]:
    """List the sources in what a user gave.

    Parameters
    ----------
    given : path, DataFrame, Document, or an iterable of paths and Documents
    text, id : str, optional
        For a DataFrame: the columns with the text and with a row's name; its index names rows by default.
    name : str
        For a DataFrame: what the keys of its rows begin with.
    glob : str, optional
        For folders: take only files whose name matches.

    Returns
    -------
    iterator of IngestSource
        What is wrong with one source is its `error`.

    Raises
    ------
    SourceError
        When this is nothing that can be ingested, a column is missing, or an option does not fit what was given.
    """
    if is_dataframe(given):
        if glob is not None:
            raise SourceError(
                f"glob={glob!r} chooses files of a folder, and a DataFrame was given; leave it out"
            )
        return _rows(given, text, id, name)
    if text is not None or id is not None:
        raise SourceError(
            f"text= and id= name columns of a DataFrame, got {type(given).__name__}. Read the file with pandas first, "
            "or leave them out: of a CSV file every row is indexed with all its columns"
        )
    items = [given] if isinstance(given, str | os.PathLike) or hasattr(given, "page_content") else given
    if not isinstance(items, Iterable):
        raise SourceError(
            f"got {type(given).__name__}, expected a path, a list of paths, a pandas DataFrame or LangChain documents"
        )
    paths: list[str | os.PathLike[str]] = []
    documents: list[Document] = []
    for item in items:
        if isinstance(item, str | os.PathLike):
            paths.append(item)
        elif hasattr(item, "page_content"):
            documents.append(item)
        else:
            raise SourceError(
                f"got a {type(given).__name__} with {type(item).__name__}, expected paths or LangChain documents"
            )
    return _mixed(paths, documents, glob)


def is_dataframe(given: object) -> bool:
    """Tell a pandas DataFrame, a subclass too, without importing pandas."""
    # Without pandas imported there is no DataFrame; importing it costs a second.
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, pandas.DataFrame)


def _mixed(
    paths: Sequence[str | os.PathLike[str]], documents: Sequence[Document], glob: str | None
) -> Iterator[IngestSource]:
    from oraculo_kit.discovery import find_files

    files = set()
    for found in find_files(paths, glob=glob):
        files.add(found.key)
        yield FileSource(found)
    for key, places in grouped(map(_document_key, documents)).items():
        twice = SourceError(f"{key}: a file of that name is given too; name another source in the documents")
        parts = tuple(documents[place] for place in places)
        yield DocumentsSource(key, parts, error=twice if key in files else None)


def _document_key(document: Document) -> str:
    """Return the document's source; without one, a name by which it is found again and replaces no other."""
    source = document.metadata.get("source") or document.id
    if source:
        return clean_text(str(source))
    content = clean_text(document.page_content).encode()
    return f"document/{hashlib.blake2b(content, digest_size=8).hexdigest()}"


def _rows(frame: pd.DataFrame, text: str | None, id: str | None, name: str) -> Iterator[IngestSource]:
    columns = [str(column) for column in frame.columns]
    shown = ", ".join(map(repr, columns))
    if text is None:
        raise SourceError(f"a DataFrame needs text=, the name of the column to index; it has {shown}")
    for role, column in (("text", text), ("id", id)):
        if column is not None and column not in columns:
            raise SourceError(f"{role}={column!r} is no column of the DataFrame; it has {shown}")
    if twice := _repeated(columns):
        raise SourceError(f"the DataFrame has more than one column {twice!r}; rename one of them")
    others = [place for place, column in enumerate(columns) if column not in (text, id)]
    if taken := [columns[place] for place in others if columns[place] in _OWN_KEYS]:
        raise SourceError(
            f"the DataFrame has the column {taken[0]!r}, a name under which oraculo_kit keeps what it knows itself "
            f"({', '.join(_OWN_KEYS)}); rename it: df.rename(columns={{{taken[0]!r}: ...}})"
        )
    names = [_row_name(value) for value in (frame.index if id is None else _column(frame, columns, id))]
    if twice := _repeated(names):
        raise SourceError(
            f"{f'column {id!r}' if id else 'the index'} holds {twice!r} more than once; give id=, a column "
            "whose values are unique, so that every row can be found again"
        )
    values = [frame.iloc[:, place] for place in others]
    for row_name, value, *items in zip(names, _column(frame, columns, text), *values, strict=True):
        metadata = {
            columns[place]: item for place, item in zip(others, items, strict=True) if not _is_missing(item)
        }
        yield TextSource(
            f"{clean_text(name)}/{row_name}", "" if _is_missing(value) else clean_text(str(value)), metadata
        )


def _column(frame: pd.DataFrame, columns: Sequence[str], name: str) -> pd.Series[Any]:
    return frame.iloc[:, columns.index(name)]  # by place: the column may be named by a number


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _row_name(value: Any) -> str:
    return clean_text(str(value.item() if hasattr(value, "item") else value))


def _is_missing(value: object) -> bool:
    # NaN, NaT and NA are the values that do not equal themselves, or refuse to say.
    return (
        value is None
        or type(value).__name__ in {"NAType", "NaTType"}
        or (isinstance(value, float) and value != value)
    )
