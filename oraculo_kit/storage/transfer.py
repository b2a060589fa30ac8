"""Whole sources as one engine gives them and another takes them: ids, places, texts, metadata, vectors, ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import StoreCorruptedError
from oraculo_kit.storage.identity import EmbedderIdentity, Facts
from oraculo_kit.storage.prepare import prepare_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from oraculo_kit.storage.asking import Version
    from oraculo_kit.storage.records import LedgerEntry, SourceWrite

_LAST_PLACE = 2**62


def stored_identity(facts: Facts) -> EmbedderIdentity | None:
    """Return the embedder that a store remembers; None for ready-made vectors, or none at all."""
    name, probe = facts.meta("embedder"), facts.meta("probe")
    if name is None or probe is None:
        return None
    return EmbedderIdentity(name, np.frombuffer(probe, "<f4").astype(np.float32))


def read_sources(version: Version, ledger: Mapping[str, LedgerEntry], shown: str) -> list[SourceWrite]:
    """Return sources of one version, ready to be committed to another store.

    Parameters
    ----------
    version : Version
    ledger : mapping of str to LedgerEntry
        Which sources, and what the ledger of this version knows of them.
    shown : str
        The store's location, for errors.
    """
    return [_read_source(version, key, entry, shown) for key, entry in ledger.items()]


def _read_source(version: Version, key: str, entry: LedgerEntry, shown: str) -> SourceWrite:
    from langchain_core.documents import Document

    chunks = version.between(key, 0, _LAST_PLACE)
    vectors, found = version.manifest.vectors_of(np.array([chunk.number for chunk in chunks], np.int64))
    if not found.all():
        raise StoreCorruptedError(
            f"a chunk of source {key!r} in {shown} has no vector. Run `oraculo repair`, then copy again"
        )
    documents = [Document(page_content=chunk.text, metadata=chunk.metadata) for chunk in chunks]
    write = prepare_source(key, documents, vectors, [chunk.id for chunk in chunks], whole=True, ledger=entry)
    places = {chunk.id: chunk.ordinal for chunk in chunks}
    write.rows = [replace(row, ordinal=places[row.id]) for row in write.rows]
    return write


def row_digest(write: SourceWrite) -> str:
    """Return a digest over everything of a source but its vectors; equal in every engine.

    Examples
    --------
    >>> from oraculo_kit.storage.records import SourceWrite
    >>> row_digest(SourceWrite("a", [], np.zeros((0, 2)), True)) == row_digest(SourceWrite("b", [], np.zeros((0, 2)), True))
    False
    """
    shared = json.loads(write.metadata)
    ledger = write.ledger
    told: list[Any] = [
        write.key,
        ledger.content_hash,
        ledger.bytes,
        ledger.mtime_ns,
        ledger.pipeline,
        ledger.run,
    ]
    for row in _ordered(write):
        told += [row.id, row.ordinal, row.text, {**shared, **json.loads(row.metadata)}]
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def ordered_vectors(write: SourceWrite) -> NDArray[np.float32]:
    """Return the vectors of a source in the order of `row_digest`: by place, then by id."""
    order = sorted(
        range(len(write.rows)), key=lambda place: (write.rows[place].ordinal, write.rows[place].id)
    )
    return write.vectors[order]


def _ordered(write: SourceWrite) -> Iterable[Any]:
    return sorted(write.rows, key=lambda row: (row.ordinal, row.id))
