"""The ledger, read and kept up to date: one row per source, written in the same commit as its chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oraculo_kit.storage.records import LedgerEntry, clean_text
from oraculo_kit.storage.snapshot import check_source
from oraculo_kit.storage.values import SourceRow

if TYPE_CHECKING:
    from oraculo_kit.storage.catalog import Catalog

__all__ = ["drop_empty", "ledger_entries", "ledger_rows", "source_rows", "sources_by_hash", "touch_sources"]

_ENTRY = "content_hash, bytes, mtime_ns, pipeline, run"


def ledger_rows(catalog: Catalog) -> list[SourceRow]:
    """Return all rows, by key.

    Raises
    ------
    StoreCorruptedError
        When one does not match its checksum.
    """
    return source_rows(catalog, "ORDER BY key")


def source_rows(catalog: Catalog, chosen: str, values: Mapping[str, Any] | None = None) -> list[SourceRow]:
    """Return rows, checked.

    Parameters
    ----------
    catalog : Catalog
    chosen : str
        What follows ``FROM sources`` in SQL.
    values : mapping, optional
        Of the names in it.

    Raises
    ------
    StoreCorruptedError
        When one does not match its checksum.
    """
    rows = catalog.rows(
        f"SELECT key, chunk_count, language, written_at, metadata, checksum, {_ENTRY} FROM sources {chosen}",
        dict(values or {}),
    )
    for key, _, language, _, metadata, checksum, *_ in rows:
        check_source(catalog, key, metadata, language, checksum)
    return [
        SourceRow(key, chunks, language, written_at, json.loads(metadata), LedgerEntry(*entry))
        for key, chunks, language, written_at, metadata, _, *entry in rows
    ]


def ledger_entries(catalog: Catalog, keys: Sequence[str]) -> dict[str, LedgerEntry]:
    """Return the entries of these sources; unknown ones are left out."""
    rows = catalog.rows(
        f"SELECT key, {_ENTRY} FROM sources WHERE key IN (SELECT value FROM json_each(?))",
        (json.dumps(list(keys)),),
    )
    return {row[0]: LedgerEntry(*row[1:]) for row in rows}


def sources_by_hash(catalog: Catalog, hashes: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys of the sources that have these content hashes, sorted; unknown hashes are left out."""
    rows = catalog.rows(
        "SELECT content_hash, key FROM sources WHERE content_hash IN (SELECT value FROM json_each(?)) ORDER BY key",
        (json.dumps(list(hashes)),),
    )
    found: dict[str, list[str]] = {}
    for content_hash, key in rows:
        found.setdefault(content_hash, []).append(key)
    return found


def touch_sources(catalog: Catalog, entries: Mapping[str, LedgerEntry]) -> None:
    """Note sizes and times of sources whose content is what it was; within the write transaction that is open."""
    catalog.db.executemany(
        "UPDATE sources SET bytes = ?, mtime_ns = ? WHERE key = ? AND content_hash = ?",
        [(each.bytes, each.mtime_ns, key, each.content_hash) for key, each in entries.items()],
    )


def drop_empty(catalog: Catalog, key: str) -> None:
    """Delete the row of a source if it has no chunks; within the write transaction that is open."""
    catalog.db.execute("DELETE FROM sources WHERE key = ? AND chunk_count = 0", (clean_text(key),))
