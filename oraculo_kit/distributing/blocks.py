"""What a worker sends back: the chunks of some sources in columns, with their vectors.

Texts, metadata as JSON (what all chunks of a source share stands there once) and one float32 matrix, which travels
without being copied. Some 2 KB per chunk of 1,000 characters; LangChain objects would be twice that, and slow to pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.storage.records import LedgerEntry, metadata_json, shared_metadata
from oraculo_kit.storage.values import SourceDocuments, SourceMove

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage.runs import SourceOutcome


@dataclass(frozen=True, slots=True)
class EmbeddedSource:
    """One source, ready to be stored.

    Attributes
    ----------
    key : str
    ledger : LedgerEntry
    shared : str
        JSON object: metadata that all chunks have.
    own : list of str
        JSON objects, one per chunk: the rest of its metadata.
    ids : list of (str or None)
    texts : list of str
    vectors : numpy.ndarray
        float32, shape (len(texts), dimension).
    """

    key: str
    ledger: LedgerEntry
    shared: str
    own: list[str]
    ids: list[str | None]
    texts: list[str]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, source: SourceDocuments) -> EmbeddedSource:
        """Make the columns.

        Raises
        ------
        SourceError
            For metadata that no store can hold.
        """
        metadatas = [document.metadata for document in source.documents]
        shared = shared_metadata(metadatas)
        own = [
            metadata_json({name: value for name, value in metadata.items() if name not in shared})
            for metadata in metadatas
        ]
        return cls(
            key=source.source,
            ledger=source.ledger,
            shared=metadata_json(shared),
            own=own,
            ids=[document.id for document in source.documents],
            texts=[document.page_content for document in source.documents],
            vectors=np.ascontiguousarray(source.vectors),
        )

    def opened(self) -> SourceDocuments:
        """Return it as stores take it."""
        return SourceDocuments(self.key, list(self._documents()), self.vectors, self.ledger)

    def _documents(self) -> Iterator[Document]:
        from langchain_core.documents import Document

        shared = json.loads(self.shared)
        for name, text, own in zip(self.ids, self.texts, self.own, strict=True):
            yield Document(text, metadata={**shared, **json.loads(own)}, id=name)

    @property
    def characters(self) -> int:
        """Characters of all texts."""
        return sum(map(len, self.texts))

    @property
    def nbytes(self) -> int:
        """About how large it is: four bytes for a character at most, mostly one."""
        return self.characters + sum(map(len, self.own)) + int(self.vectors.nbytes)


class BlockCollector:
    """Takes the store's place on a worker: it knows what the caller's ledger says, and keeps what would be written.

    Parameters
    ----------
    embedder : Embedder
    location : str
        The caller's store, for outcomes; it is never opened here.
    known : mapping of str to LedgerEntry
        The caller's ledger, for the sources of this task.

    Attributes
    ----------
    embedded : list of EmbeddedSource
    touched : dict of str to LedgerEntry
        As `VetorStorage.touch` takes them.
    """

    def __init__(self, embedder: Embedder, location: str, known: Mapping[str, LedgerEntry]) -> None:
        self.embedder = embedder
        self.location = location
        self.embedded: list[EmbeddedSource] = []
        self.touched: dict[str, LedgerEntry] = {}
        self._known = known

    @property
    def nbytes(self) -> int:
        """Size of what was collected."""
        return sum(source.nbytes for source in self.embedded)

    def ledger(self, keys: Sequence[str]) -> dict[str, LedgerEntry]:
        """Return what the caller's ledger knows."""
        return {key: self._known[key] for key in keys if key in self._known}

    def touch(self, entries: Mapping[str, LedgerEntry]) -> None:
        """Keep them for the caller."""
        self.touched.update(entries)

    def replace_many(self, sources: Sequence[SourceDocuments]) -> list[str]:
        """Keep whole sources for the caller: all of them, or none when one cannot be stored."""
        self.embedded.extend([EmbeddedSource.of(source) for source in sources])
        return ["added"] * len(sources)

    def sources_with(self, content_hashes: Iterable[str]) -> dict[str, list[str]]:
        """Find nothing: whether a file was only moved, the caller sees."""
        return {}

    def move_many(self, moves: Sequence[SourceMove]) -> list[bool]:
        """Move nothing."""
        return [False] * len(moves)

    def note_outcomes(self, run: str, outcomes: Sequence[SourceOutcome]) -> None:
        """Leave it to the caller, who gets all outcomes."""
