"""What callers hand to a store and get from it: plain values, no I/O.

`oraculo_kit.storage.base`, the interface, offers them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from oraculo_kit.storage.records import LedgerEntry
    from oraculo_kit.storage.runs import SourceOutcome

__all__ = ["SourceDocuments", "SourceMove", "SourceRow", "StoreStats"]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Figures of a store.

    Attributes
    ----------
    location : str
    chunks, sources : int
    segments : int
        Files of vectors.
    pending : int
        Vectors that are not in a segment yet.
    dead : int
        Deleted vectors that still take space.
    bytes : int
        Size of all files on disk.
    dimension : int
        Length of a vector; 0 while the store is empty.
    precision : str
        ``"float32"`` or ``"float16"``: how vectors are stored.
    recall : float or None
        Share of the true ten nearest that half precision finds, measured when the vectors were written; None for
        float32, which finds all, and while nothing was measured.
    embedder : str
        Name of the embedder that built it; empty while unknown.
    commit : int
        Number of commits so far.
    """

    location: str
    chunks: int
    sources: int
    segments: int
    pending: int
    dead: int
    bytes: int
    dimension: int
    precision: str
    recall: float | None
    embedder: str
    commit: int


@dataclass(frozen=True, slots=True)
class SourceDocuments:
    """All chunks of one source, ready to replace what the store has of it.

    Attributes
    ----------
    source : str
        Key of the source.
    documents : sequence of Document
    vectors : numpy.ndarray
        float32, shape (len(documents), dimension).
    ledger : LedgerEntry
    outcome : SourceOutcome, optional
        What to note in the same commit, if the store knows the run that it names. Its status becomes "added" or
        "replaced" there.
    """

    source: str
    documents: Sequence[Document]
    vectors: NDArray[np.float32]
    ledger: LedgerEntry
    outcome: SourceOutcome | None = None


@dataclass(frozen=True, slots=True)
class SourceMove:
    """A source that has another key now, and the same content.

    Attributes
    ----------
    old, new : str
        Its key before and now.
    ledger : LedgerEntry
        What the ledger is to know of it. The source is moved only while the ledger's own `content_hash` and `pipeline`
        of `old` are the same: chunks that were made in another way would be another content.
    metadata : mapping
        Metadata that changes with the key, such as ``modified``: every chunk has it afterwards. Other metadata stays.
    outcome : SourceOutcome, optional
        What to note in the same commit, if the store knows the run that it names.
    """

    old: str
    new: str
    ledger: LedgerEntry
    metadata: Mapping[str, Any] = field(default_factory=dict)
    outcome: SourceOutcome | None = None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A line of the ledger."""

    source: str
    chunks: int
    language: str | None
    written_at: str
    metadata: Mapping[str, Any]
    ledger: LedgerEntry
