"""LangChain documents and loaders: grouped by their source, each group one source of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oraculo_kit.environment.record import redact
from oraculo_kit.errors import EmptySourceError, ExtractionError, SourceError
from oraculo_kit.storage.records import clean_text, grouped, metadata_json

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from oraculo_kit.inputs.base import Extract


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

    def documents(self, content: bytes, extract: Extract) -> list[Document]:
        """Return copies, so that the caller's documents are never changed."""
        from langchain_core.documents import Document

        texts = [clean_text(part.page_content) for part in self.parts]
        if not any(text.strip() for text in texts):
            raise EmptySourceError("the documents hold no text: there is nothing to index")
        return [
            Document(page_content=text, metadata=dict(part.metadata))
            for text, part in zip(texts, self.parts, strict=True)
        ]


def is_document(given: object) -> bool:
    """Tell a LangChain document without importing LangChain."""
    return hasattr(given, "page_content")


def is_loader(given: object) -> bool:
    """Tell a LangChain document loader, by what it can do."""
    return callable(getattr(given, "lazy_load", None)) and not isinstance(given, type)


def document_sources(documents: Sequence[Document]) -> Iterator[DocumentsSource]:
    """Group documents by their source, in order of first appearance."""
    for key, places in grouped(map(document_key, documents)).items():
        yield DocumentsSource(key, tuple(documents[place] for place in places))


def loader_sources(loader: Any) -> Iterator[DocumentsSource]:
    """Run a loader, and give each source as soon as the documents of the next one begin.

    Only one source's documents are held at a time. So those of a source must come one after the other; when it comes
    again later, that is a fault of its own, for one part of a source must never replace another. A loader that raises
    is a fault too: of the source whose documents it was giving, for nobody knows whether they were all.
    """
    name = type(loader).__name__
    key, parts = "", list[Any]()
    given: set[str] = set()
    try:
        for document in _loaded(loader):
            following = document_key(document)
            if following != key and parts:
                yield _loaded_source(key, parts, given, name)
                parts = []
            key = following
            parts.append(document)
    except _LoaderError as exc:
        where = f", while it gave {key}" if parts else ""
        fault = ExtractionError(f"the loader {name} failed{where}: {redact(str(exc))[:300]}")
        yield DocumentsSource(key if parts else f"loader/{name}", (), error=fault)
        return
    if parts:
        yield _loaded_source(key, parts, given, name)


class _LoaderError(Exception):
    """Whatever a loader raised."""


def _loaded(loader: Any) -> Iterator[Any]:
    try:
        documents: Iterable[Any] = loader.lazy_load()
        for document in documents:
            if not is_document(document):
                raise TypeError(f"it gave a {type(document).__name__}, expected LangChain documents")
            yield document
    except Exception as exc:
        raise _LoaderError(f"{type(exc).__name__}: {exc}") from exc


def _loaded_source(key: str, parts: list[Any], given: set[str], name: str) -> DocumentsSource:
    if key in given:
        fault = SourceError(
            f"{key}: the loader {name} gave documents of it in several places, and only the first are taken; "
            "give list(loader.lazy_load()), which is grouped as a whole"
        )
        return DocumentsSource(f"{key} (again)", (), error=fault)
    given.add(key)
    return DocumentsSource(key, tuple(parts))


def document_key(document: Document) -> str:
    """Return the document's source; without one, a name by which it is found again and replaces no other."""
    source = document.metadata.get("source") or document.id
    if source:
        return clean_text(str(source))
    content = clean_text(document.page_content).encode()
    return f"document/{hashlib.blake2b(content, digest_size=8).hexdigest()}"
