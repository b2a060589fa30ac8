"""Mending rows: the ledger, the chunks and the full-text index agree again, and every row is what its checksum says.

Each function looks first, without the lock and page by page; only a page where something is wrong is looked at once
more, and mended, in a write transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.fulltext import STEMMER_VERSION, stem_text
from oraculo_kit.storage.records import chunk_id, row_checksum, source_checksum
from oraculo_kit.storage.rows import bump_layout, delete_chunks, delete_numbers, next_commit
from oraculo_kit.storage.runs import damaged_runs, drop_damaged_runs
from oraculo_kit.storage.schema import FULL_TEXT

if TYPE_CHECKING:
    from oraculo_kit.storage.commit import Writer
    from oraculo_kit.storage.findings import Findings

_NUMBERS_AT_ONCE = 1_000
_SOURCES_AT_ONCE = 500
_OUR_ID = re.compile(r"[0-9a-f]{32}")


def empty_full_text(writer: Writer, findings: Findings) -> None:
    """Put an empty full-text index in the place of a damaged one; `mend_chunks` fills it, page by page."""
    with writer.transaction("begin a new full-text index") as catalog:
        catalog.db.execute("DROP TABLE chunk_text")
        catalog.db.execute(FULL_TEXT)
        catalog.set_meta("stemmer", STEMMER_VERSION)
        next_commit(catalog)
    findings.done.append("the full-text index was damaged, and is made anew from the texts")


def mend_ledger(writer: Writer, findings: Findings) -> None:
    """See to rows of the ledger that do not match their checksum, or whose metadata is no JSON."""
    after = -1
    while True:
        with writer.reading() as catalog:
            rows = catalog.rows(
                "SELECT id FROM sources WHERE id > ? ORDER BY id LIMIT ?", (after, _SOURCES_AT_ONCE)
            )
            damaged = [number for (number,) in rows if not _ledger_row(catalog, number).is_sound]
        if damaged:
            with writer.transaction("mend the ledger") as catalog:
                commit = next_commit(catalog)
                for number in damaged:
                    row = _ledger_row(catalog, number)
                    if not row.is_sound:
                        _mend_source(catalog, row, commit, findings)
                bump_layout(catalog)
        if len(rows) < _SOURCES_AT_ONCE:
            return
        after = rows[-1][0]


@dataclass(frozen=True, slots=True)
class _LedgerRow:
    number: int
    key: str
    language: str | None
    metadata: str
    checksum: int
    is_json: bool

    @property
    def is_sound(self) -> bool:
        return self.is_json and source_checksum(self.key, self.metadata, self.language) == self.checksum


def _ledger_row(catalog: Catalog, number: int) -> _LedgerRow:
    rows = catalog.rows(
        "SELECT CAST(key AS BLOB), CAST(language AS BLOB), CAST(metadata AS BLOB), checksum, json_valid(metadata) "
        "FROM sources WHERE id = ?",
        (number,),
    )
    if not rows:  # removed meanwhile
        return _LedgerRow(number, "", None, "{}", source_checksum("", "{}", None), True)
    key, language, metadata, checksum, is_json = rows[0]
    return _LedgerRow(
        number,
        text_of(key),
        None if language is None else text_of(language),
        text_of(metadata),
        checksum,
        bool(is_json),
    )


def _mend_source(catalog: Catalog, row: _LedgerRow, commit: int, findings: Findings) -> None:
    for language in (None, "pt", "en"):
        if row.is_json and source_checksum(row.key, row.metadata, language) == row.checksum:
            catalog.db.execute("UPDATE sources SET language = ? WHERE id = ?", (language, row.number))
            findings.done.append(
                f"the language of source {row.key!r} was damaged, and was found by its checksum"
            )
            return
    if _is_named_wrong(catalog, row):
        _remove_source(catalog, row, commit, findings)
        return
    catalog.db.execute(
        "UPDATE sources SET metadata = '{}', language = NULL, content_hash = NULL, checksum = ? WHERE id = ?",
        (source_checksum(row.key, "{}", None), row.number),
    )
    findings.lose(
        f"what the chunks of source {row.key!r} share (their metadata and language), until it is ingested again"
    )


def _is_named_wrong(catalog: Catalog, row: _LedgerRow) -> bool:
    """Tell whether the ids of a source's chunks, which are hashes over its name too, speak against the name."""
    hashes = False
    for name, ordinal, text in catalog.db.execute(
        "SELECT CAST(id AS BLOB), ordinal, CAST(text AS BLOB) FROM chunks WHERE source = ?", (row.number,)
    ):
        if text_of(name) == chunk_id(row.key, ordinal, text_of(text)):
            return False
        hashes = hashes or _OUR_ID.fullmatch(text_of(name)) is not None
    return hashes


def _remove_source(catalog: Catalog, row: _LedgerRow, commit: int, findings: Findings) -> None:
    numbers = [
        number for (number,) in catalog.rows("SELECT number FROM chunks WHERE source = ?", (row.number,))
    ]
    chunks = list(_chunks(catalog, "c.source = ?", (row.number,)))
    findings.set_aside_rows(chunk.as_plain() for chunk in chunks)
    for chunk in chunks:
        findings.lose_chunk("the name of their source is damaged; ingest it again", row.key, chunk.id)
    delete_numbers(catalog, numbers, commit)
    catalog.db.execute("DELETE FROM sources WHERE id = ?", (row.number,))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row of a chunk as it is read, right or wrong."""

    number: int
    id: str
    source: str | None
    ordinal: Any
    text: str
    metadata: str
    is_sound: bool

    def as_plain(self) -> dict[str, Any]:
        """Return what ``lost.jsonl`` keeps of it."""
        return {
            "id": self.id,
            "source": self.source,
            "ordinal": self.ordinal,
            "text": self.text,
            "metadata": self.metadata,
            "sound": self.is_sound,
        }


def _chunks(catalog: Catalog, where: str, bindings: tuple[Any, ...]) -> Iterator[Chunk]:
    # As bytes: damaged text may not be UTF-8.
    for number, ordinal, checksum, valid, *texts in catalog.db.execute(
        "SELECT c.number, c.ordinal, c.checksum, json_valid(c.metadata), CAST(c.id AS BLOB), CAST(c.text AS BLOB), "
        f"CAST(c.metadata AS BLOB), CAST(s.key AS BLOB) FROM chunks c LEFT JOIN sources s ON s.id = c.source WHERE {where}",
        bindings,
    ):
        name, text, metadata = map(text_of, texts[:3])
        source = None if texts[3] is None else text_of(texts[3])
        is_sound = (
            bool(valid) and source is not None and row_checksum(name, ordinal, text, metadata) == checksum
        )
        yield Chunk(number, name, source, ordinal, text, metadata, is_sound)


@dataclass
class _Page:
    """What is wrong with the chunks of one range of numbers."""

    damaged: list[Chunk] = field(default_factory=list)
    unindexed: list[tuple[int, str]] = field(default_factory=list)
    overindexed: list[int] = field(default_factory=list)
    undead: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.damaged or self.unindexed or self.overindexed or self.undead)


def mend_chunks(writer: Writer, findings: Findings) -> None:
    """Remove damaged rows, index what is not indexed, and take marks of deletion off chunks that are there."""
    start = -1
    indexed = overindexed = undead = 0
    while True:
        with writer.reading() as catalog:
            first = _first_from(catalog, start)
            if first is None:
                break
            start = first
            found = _page(catalog, start, start + _NUMBERS_AT_ONCE)
        if found:
            with writer.transaction("mend chunks") as catalog:
                found = _page(catalog, start, start + _NUMBERS_AT_ONCE)
                _mend_page(catalog, found, findings)
            indexed += len(found.unindexed)
            overindexed += len(found.overindexed)
            undead += len(found.undead)
        start += _NUMBERS_AT_ONCE
    for count, sentence in (
        (indexed, "texts were not in the full-text index, and are now"),
        (overindexed, "entries of the full-text index that no chunk has were removed"),
        (undead, "chunks were marked as deleted though they are there, and are no longer"),
    ):
        if count:
            findings.done.append(f"{count} {sentence}")


def _first_from(catalog: Catalog, start: int) -> int | None:
    found = [
        catalog.one("SELECT min(number) FROM chunks WHERE number >= ?", (start,)),
        catalog.one("SELECT min(id) FROM chunk_text_docsize WHERE id >= ?", (start,)),
    ]
    return min((number for number in found if number is not None), default=None)


def _page(catalog: Catalog, first: int, end: int) -> _Page:
    page = _Page()
    indexed = {
        number
        for (number,) in catalog.rows(
            "SELECT id FROM chunk_text_docsize WHERE id >= ? AND id < ?", (first, end)
        )
    }
    dead = {
        number
        for (number,) in catalog.rows(
            "SELECT number FROM tombstones WHERE number >= ? AND number < ?", (first, end)
        )
    }
    for chunk in _chunks(catalog, "c.number >= ? AND c.number < ?", (first, end)):
        if not chunk.is_sound:
            page.damaged.append(chunk)
        else:
            if chunk.number not in indexed:
                page.unindexed.append((chunk.number, chunk.text))
            if chunk.number in dead:
                page.undead.append(chunk.number)
        indexed.discard(chunk.number)
    page.overindexed = sorted(indexed)
    return page


def _mend_page(catalog: Catalog, page: _Page, findings: Findings) -> None:
    commit = next_commit(catalog)
    if page.damaged:
        findings.set_aside_rows(chunk.as_plain() for chunk in page.damaged)
        for chunk in page.damaged:
            why = "their text or metadata is damaged; ingest it again"
            findings.lose_chunk(
                why if chunk.source is not None else "the ledger does not know their source",
                chunk.source,
                chunk.id,
            )
        delete_chunks(catalog, np.array([chunk.number for chunk in page.damaged], np.int64), commit)
    catalog.db.executemany(
        "INSERT INTO chunk_text(rowid, stems) VALUES (?, ?)",
        ((number, stem_text(text)) for number, text in page.unindexed),
    )
    catalog.db.executemany("DELETE FROM chunk_text WHERE rowid = ?", [(each,) for each in page.overindexed])
    catalog.db.executemany("DELETE FROM tombstones WHERE number = ?", [(each,) for each in page.undead])
    if page.damaged or page.undead:
        bump_layout(catalog)


def mend_counts(writer: Writer, findings: Findings) -> None:
    """Count the chunks of every source anew, and how many numbers were given out."""
    wrong = (
        "SELECT s.id, s.key, s.chunk_count, count(c.number) AS there FROM sources s LEFT JOIN chunks c ON c.source = s.id "
        "GROUP BY s.id HAVING there <> s.chunk_count"
    )
    highest = (
        "SELECT max((SELECT coalesce(max(number), 0) FROM chunks), (SELECT coalesce(max(number), 0) FROM pending), "
        "(SELECT coalesce(max(number), 0) FROM tombstones))"
    )
    given = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'chunks'), 0)"
    with writer.reading() as catalog:
        if not catalog.rows(wrong) and catalog.one(highest) <= catalog.one(given):
            return
    with writer.transaction("count chunks") as catalog:
        rows, last = catalog.rows(wrong), catalog.one(highest)
        for number, key, counted, there in rows:
            # Of a source that lost chunks the next ingestion must read all.
            catalog.db.execute(
                "UPDATE sources SET chunk_count = ?, content_hash = iif(? < ?, NULL, content_hash) WHERE id = ?",
                (there, there, counted, number),
            )
            unnamed = counted - there - findings.chunks_lost(key)
            if unnamed > 0:
                findings.lose(f"{unnamed} of the {counted} chunks of source {key!r}; ingest it again")
        catalog.db.executemany(
            "DELETE FROM sources WHERE id = ? AND chunk_count = 0", [(number,) for number, *_ in rows]
        )
        if last > catalog.one(given):
            catalog.db.execute("DELETE FROM sqlite_sequence WHERE name = 'chunks'")
            catalog.db.execute("INSERT INTO sqlite_sequence(name, seq) VALUES ('chunks', ?)", (last,))
        next_commit(catalog)
        if rows:
            findings.done.append(f"the chunks of {len(rows)} sources were counted anew")


def mend_runs(writer: Writer, findings: Findings) -> None:
    """Drop what is damaged of runs and their outcomes; nothing else depends on it."""
    with writer.reading() as catalog:
        if not damaged_runs(catalog):
            return
    with writer.transaction("drop damaged runs") as catalog:
        runs, outcomes = drop_damaged_runs(catalog)
        next_commit(catalog)
    findings.done.append("damaged rows of runs and outcomes were dropped")
    findings.lose(
        f"{runs} runs and {outcomes} outcomes of sources (what ingestions said; no chunk is concerned)"
    )


def text_of(blob: bytes | None) -> str:
    """Return a text column of a row that may hold anything."""
    return "" if blob is None else blob.decode(errors="replace")
