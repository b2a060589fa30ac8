"""Everything that can be ingested, as sources: files, rows of a DataFrame, LangChain documents.

A source has a key, gives its content as bytes (hashed to see whether it changed) and, only when it did, its
documents. Sources travel to worker processes.
"""

from __future__ import annotations

import os
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
        """From the file system."""
        return self.found.mtime_ns

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
        modified = datetime.fromtimestamp(self.found.mtime_ns / 1e9, UTC).isoformat(timespec="seconds")
        for document in documents:
            document.metadata.update(modified=modified, bytes=len(content))
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
        if not any(part.page_content.strip() for part in self.parts):
            raise EmptySourceError("the documents hold no text: there is nothing to index")
        return [part.model_copy(update={"metadata": dict(part.metadata)}) for part in self.parts]


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
    given : path, DataFrame, Document, or a list of paths or Documents
    text, id : str, optional
        For a DataFrame: the columns with the text and with a row's name; its index names rows by default.
    name : str
        For a DataFrame: what the keys of its rows begin with.
    glob : str, optional
        For folders: take only files whose name matches.

    Yields
    ------
    IngestSource

    Raises
    ------
    SourceError
        When this is nothing that can be ingested, or a column is missing.
    """
    if type(given).__module__.partition(".")[0] == "pandas":
        return _rows(given, text, id, name)
    items = [given] if isinstance(given, str | os.PathLike) or hasattr(given, "page_content") else given
    if not isinstance(items, Iterable):
        raise SourceError(
            f"got {type(given).__name__}, expected a path, a list of paths, a pandas DataFrame or LangChain documents"
        )
    items = list(items)
    documents = [item for item in items if hasattr(item, "page_content")]
    paths = [item for item in items if isinstance(item, str | os.PathLike)]
    if len(documents) + len(paths) != len(items):
        other = next(
            item
            for item in items
            if not hasattr(item, "page_content") and not isinstance(item, str | os.PathLike)
        )
        raise SourceError(f"got a list with {type(other).__name__}, expected paths or LangChain documents")
    return _mixed(paths, documents, glob)


def _mixed(paths: Sequence[Any], documents: Sequence[Document], glob: str | None) -> Iterator[IngestSource]:
    from oraculo_kit.discovery import find_files

    for found in find_files(paths, glob=glob):
        yield FileSource(found)
    for key, places in grouped(str(item.metadata.get("source") or "documents") for item in documents).items():
        yield DocumentsSource(key, tuple(documents[place] for place in places))


def _rows(frame: pd.DataFrame, text: str | None, id: str | None, name: str) -> Iterator[IngestSource]:
    columns = [str(column) for column in frame.columns]
    for role, column in (("text", text), ("id", id)):
        if column is not None and column not in columns:
            raise SourceError(f"{role}={column!r} is no column of the DataFrame; it has {', '.join(columns)}")
    if text is None:
        raise SourceError(
            f"a DataFrame needs text=, the name of the column to index; it has {', '.join(columns)}"
        )
    names = [_row_name(value) for value in (frame[id] if id is not None else frame.index)]
    if len(set(names)) != len(names):
        twice = next(value for value in names if names.count(value) > 1)
        raise SourceError(
            f"{'column ' + repr(id) if id else 'the index'} holds {twice!r} more than once; give id=, a column "
            "whose values are unique, so that every row can be found again"
        )
    others = [column for column in columns if column not in (text, id)]
    records = frame[others].to_dict("records") if others else [{} for _ in names]
    for row_name, value, record in zip(names, frame[text], records, strict=True):
        metadata = {str(column): item for column, item in record.items() if not _is_missing(item)}
        yield TextSource(f"{name}/{row_name}", "" if _is_missing(value) else str(value), metadata)


def _row_name(value: Any) -> str:
    return clean_text(str(value.item() if hasattr(value, "item") else value))


def _is_missing(value: Any) -> bool:
    # NaN, NaT and NA are the values that do not equal themselves, or refuse to say.
    return (
        value is None
        or type(value).__name__ in {"NAType", "NaTType"}
        or (isinstance(value, float) and value != value)
    )
