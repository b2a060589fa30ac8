"""What a worker sends back: the rows of some sources, ready to be written, with their vectors.

Stems, ids and metadata as JSON are made there too, because the caller alone writes: what is left for it is to insert. That
is some 2.5 KB per chunk of 1,000 characters; LangChain objects would be larger, and slow to pickle.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from oraculo_kit.report import stored_outcomes
from oraculo_kit.storage.prepare import prepare_sources
from oraculo_kit.storage.records import LedgerEntry, SourceWrite
from oraculo_kit.storage.values import SourceDocuments, SourceMove

if TYPE_CHECKING:
    from oraculo_kit.embed import Embedder
    from oraculo_kit.pipeline import Run
    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.storage.identity import EmbedderIdentity
    from oraculo_kit.storage.runs import SourceOutcome


def characters(write: SourceWrite) -> int:
    """Return how many characters the texts of a source have."""
    return sum(len(row.text) for row in write.rows)


def write_bytes(write: SourceWrite) -> int:
    """Return about how large the rows of a source are: four bytes for a character at most, mostly one."""
    written = sum(len(row.text) + len(row.stems) + len(row.metadata) for row in write.rows)
    return written + int(write.vectors.nbytes)


def store_writes(
    storage: VetorStorage,
    writes: Sequence[SourceWrite],
    outcomes: Sequence[SourceOutcome],
    run: Run,
    embedder: EmbedderIdentity,
) -> Iterator[SourceOutcome]:
    """Commit prepared sources, together; give their outcomes as the store saw them.

    Parameters
    ----------
    storage : VetorStorage
    writes : sequence of SourceWrite
    outcomes : sequence of SourceOutcome
        Of each source, as far as it is known before.
    run : Run
    embedder : EmbedderIdentity
        Who made the vectors.

    Yields
    ------
    SourceOutcome
        Once they are durable: "added" or "replaced".
    """
    started = time.perf_counter()
    if run.noted:
        writes = [replace(write, outcome=outcome) for write, outcome in zip(writes, outcomes, strict=True)]
    statuses = storage.put_sources(writes, embedder)
    yield from stored_outcomes(outcomes, statuses, time.perf_counter() - started)


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
    embedded : list of SourceWrite
    touched : dict of str to LedgerEntry
        As `VetorStorage.touch` takes them.
    """

    def __init__(self, embedder: Embedder, location: str, known: Mapping[str, LedgerEntry]) -> None:
        self.embedder = embedder
        self.location = location
        self.embedded: list[SourceWrite] = []
        self.touched: dict[str, LedgerEntry] = {}
        self._known = known

    @property
    def nbytes(self) -> int:
        """Size of what was collected."""
        return sum(map(write_bytes, self.embedded))

    def ledger(self, keys: Sequence[str]) -> dict[str, LedgerEntry]:
        """Return what the caller's ledger knows."""
        return {key: self._known[key] for key in keys if key in self._known}

    def touch(self, entries: Mapping[str, LedgerEntry]) -> None:
        """Keep them for the caller."""
        self.touched.update(entries)

    def replace_many(self, sources: Sequence[SourceDocuments]) -> list[str]:
        """Keep whole sources for the caller: all of them, or none when one cannot be stored."""
        self.embedded.extend(prepare_sources(sources))
        return ["added"] * len(sources)

    def sources_with(self, content_hashes: Iterable[str]) -> dict[str, list[str]]:
        """Find nothing: whether a file was only moved, the caller sees."""
        return {}

    def move_many(self, moves: Sequence[SourceMove]) -> list[bool]:
        """Move nothing."""
        return [False] * len(moves)

    def note_outcomes(self, run: str, outcomes: Sequence[SourceOutcome]) -> None:
        """Leave it to the caller, who gets all outcomes."""
