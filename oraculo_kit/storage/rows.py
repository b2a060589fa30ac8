"""The statements of a commit: which rows a write or a removal leaves in the catalog.

Every function runs inside the write transaction that is open.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.records import SourceWrite, disjoint_writes
from oraculo_kit.storage.segments import sorted_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray


def next_commit(catalog: Catalog) -> int:
    """Advance the commit number within the transaction and return it."""
    number = int(catalog.meta("commit")) + 1
    catalog.set_meta("commit", number)
    return number


def bump_layout(catalog: Catalog) -> None:
    """Tell readers that the list of segments changed."""
    catalog.set_meta("layout", int(catalog.meta("layout")) + 1)


def reserve_numbers(catalog: Catalog, count: int) -> int:
    """Reserve `count` chunk numbers and return the first; numbers are never used twice."""
    last = catalog.one("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'")
    if last is None:
        catalog.db.execute("INSERT INTO sqlite_sequence(name, seq) VALUES ('chunks', ?)", (count,))
        return 1
    catalog.db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'chunks'", (last + count,))
    return int(last) + 1


def put_sources(
    catalog: Catalog, writes: Sequence[SourceWrite], first: int, commit: int, *, pending: bool
) -> list[bool]:
    """Insert the rows of sources, numbered from `first`; delete what they replace.

    Returns
    -------
    list of bool
        For each source whether the ledger knew it.
    """
    replaced: list[bool] = []
    for part in disjoint_writes(writes):
        replaced += _put_disjoint(catalog, part, first, commit, pending)
        first += sum(len(write.rows) for write in part)
    return replaced


def _put_disjoint(
    catalog: Catalog, writes: Sequence[SourceWrite], first: int, commit: int, pending: bool
) -> list[bool]:
    # Each statement once for all sources: it costs half of what it costs once for each.
    keys = [(write.key,) for write in writes]
    known = {
        key: (source, chunks)
        for key, source, chunks in catalog.rows_of_all(
            "SELECT key, id, chunk_count FROM sources WHERE key = ?", keys
        )
    }
    full = [(known[write.key][0],) for write in writes if write.whole and known.get(write.key, (0, 0))[1]]
    old = catalog.rows_of_all("SELECT number FROM chunks WHERE source = ?", full)
    if old:
        delete_numbers(catalog, [number for (number,) in old], commit)
    # Ids are hashes that hold the source's key, but a user may give an id that stands in another source.
    _delete_ids(catalog, [row.id for write in writes for row in write.rows], commit)
    _put_source_rows(catalog, writes)
    # Not RETURNING id: such a statement has a savepoint, at which FTS5 writes out what it has gathered. So it does once
    # per commit, not once per source: of 2,000 sources it writes 2,300 blocks instead of 8,900.
    ids = dict(catalog.rows_of_all("SELECT key, id FROM sources WHERE key = ?", keys))
    rows = [(ids[write.key], row) for write in writes for row in write.rows]
    numbers = range(first, first + len(rows))
    catalog.db.executemany(
        "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (number, row.id, source, row.ordinal, row.inherits, row.checksum, row.metadata, row.text)
            for number, (source, row) in zip(numbers, rows, strict=True)
        ),
    )
    catalog.db.executemany(
        "INSERT INTO chunk_text(rowid, stems) VALUES (?, ?)",
        ((number, row.stems) for number, (_, row) in zip(numbers, rows, strict=True)),
    )
    if pending:
        catalog.db.executemany("INSERT INTO pending VALUES (?, ?, ?)", _pending_rows(numbers, writes))
    return [write.key in known for write in writes]


def list_all_keys(catalog: Catalog, writes: Sequence[SourceWrite]) -> None:
    """Note the metadata keys of all that a commit writes, each once: most sources have the same ones."""
    list_keys(catalog, sorted(set[str]().union(*(write.metadata_keys for write in writes))), "in_chunks")
    list_keys(catalog, sorted(set[str]().union(*(write.shared_keys for write in writes))), "in_sources")


def list_keys(catalog: Catalog, keys: Iterable[str], column: Literal["in_chunks", "in_sources"]) -> None:
    """Note that metadata keys stand in chunks, or in what the chunks of a source share."""
    catalog.db.executemany(
        f"INSERT INTO metadata_keys VALUES (?, {int(column == 'in_chunks')}, {int(column == 'in_sources')}) "
        f"ON CONFLICT DO UPDATE SET {column} = 1 WHERE NOT {column}",
        [(key,) for key in keys],
    )


_INSERT_SOURCE = (
    "INSERT INTO sources(key, content_hash, bytes, mtime_ns, pipeline, run, language, metadata, "
    "chunk_count, written_at, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET "
)
_PUT_WHOLE = (
    _INSERT_SOURCE
    + "content_hash = excluded.content_hash, bytes = excluded.bytes, mtime_ns = excluded.mtime_ns, "
    "pipeline = excluded.pipeline, run = excluded.run, language = excluded.language, "
    "metadata = excluded.metadata, chunk_count = excluded.chunk_count, written_at = excluded.written_at, "
    "checksum = excluded.checksum"
)
_ADD_TO = (
    _INSERT_SOURCE + "chunk_count = chunk_count + excluded.chunk_count, written_at = excluded.written_at"
)


def _put_source_rows(catalog: Catalog, writes: Sequence[SourceWrite]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    for statement, whole in ((_PUT_WHOLE, True), (_ADD_TO, False)):
        catalog.db.executemany(
            statement, [_source_row(write, now) for write in writes if write.whole is whole]
        )


def _source_row(write: SourceWrite, now: str) -> tuple[str | int | None, ...]:
    ledger = write.ledger
    return (
        write.key, ledger.content_hash, ledger.bytes, ledger.mtime_ns, ledger.pipeline, ledger.run,
        write.language, write.metadata, len(write.rows), now, write.checksum,
    )  # fmt: skip


def _pending_rows(numbers: range, writes: Sequence[SourceWrite]) -> Iterator[tuple[int, int, bytes]]:
    vectors = (vector for write in writes for vector in np.ascontiguousarray(write.vectors, "<f4"))
    for number, vector in zip(numbers, vectors, strict=True):
        blob = vector.tobytes()
        yield number, zlib.crc32(blob), blob


def _delete_ids(catalog: Catalog, ids: Sequence[str], commit: int) -> None:
    old = numbers_of_ids(catalog, ids)
    if len(old):
        delete_chunks(catalog, old, commit)


def numbers_of_ids(catalog: Catalog, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the numbers of the chunks with these ids; unknown ids are left out."""
    rows = catalog.rows(
        "SELECT number FROM chunks WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
    )
    return np.array([number for (number,) in rows], np.int64)


def delete_chunks(catalog: Catalog, numbers: NDArray[np.int64], commit: int) -> None:
    """Delete chunks and mend the ledger of their sources.

    A source that lost some of its chunks forgets its content hash, so that the next ingestion reads it again;
    one that lost all of them leaves the ledger.
    """
    plain = [(int(number),) for number in numbers]
    catalog.db.execute("CREATE TEMP TABLE IF NOT EXISTS doomed(number INTEGER PRIMARY KEY)")
    catalog.db.execute("DELETE FROM doomed")
    catalog.db.executemany("INSERT OR IGNORE INTO doomed VALUES (?)", plain)
    lost = catalog.rows(
        "SELECT c.source, count(*) FROM doomed d JOIN chunks c ON c.number = d.number GROUP BY c.source"
    )
    delete_numbers(catalog, [number for (number,) in plain], commit)
    catalog.db.executemany(
        "UPDATE sources SET chunk_count = chunk_count - ?, content_hash = NULL WHERE id = ?",
        [(count, source) for source, count in lost],
    )
    catalog.db.executemany(
        "DELETE FROM sources WHERE id = ? AND chunk_count <= 0", [(source,) for source, _ in lost]
    )


def delete_numbers(catalog: Catalog, numbers: Sequence[int], commit: int) -> None:
    """Delete rows of chunks, full text and pending vectors, and leave tombstones for the readers."""
    plain = [(number,) for number in numbers]
    flushed = int(catalog.meta("flushed"))
    catalog.db.executemany("DELETE FROM chunk_text WHERE rowid = ?", plain)
    catalog.db.executemany(
        "INSERT OR REPLACE INTO tombstones VALUES "
        "(?1, ?2, ?1 > ?3 AND EXISTS (SELECT 1 FROM pending WHERE number = ?1))",
        [(number, commit, flushed) for number in numbers],
    )
    catalog.db.executemany("DELETE FROM pending WHERE number = ?", plain)
    catalog.db.executemany("DELETE FROM chunks WHERE number = ?", plain)


def drop_flushed(catalog: Catalog, limit: int) -> None:
    """Delete up to `limit` pending vectors that a segment holds since the last flush.

    Spread over the commits that follow a flush: to delete them all in the flush would make one write wait long.
    """
    catalog.db.execute(
        "DELETE FROM pending WHERE number IN (SELECT number FROM pending WHERE number <= ? ORDER BY number LIMIT ?)",
        (catalog.meta("flushed"), limit),
    )


def last_pending(catalog: Catalog) -> int | None:
    """Return the greatest number that was pending since the last flush, deleted ones included; None for none."""
    flushed = catalog.meta("flushed")
    greatest = [
        catalog.one("SELECT max(number) FROM pending WHERE number > ?", (flushed,)),
        catalog.one("SELECT max(number) FROM tombstones WHERE unsegmented AND number > ?", (flushed,)),
    ]
    return max((number for number in greatest if number is not None), default=None)


def mark_flushed(catalog: Catalog, numbers: NDArray[np.int64], last: int) -> None:
    """Note that a segment holds these vectors, so that their pending rows count as gone.

    Parameters
    ----------
    catalog : Catalog
    numbers : numpy.ndarray
        int64, rising: all that were pending in an earlier version of this catalog.
    last : int
        `last_pending` of that version. Pending numbers rise with the commits, so whatever came to be pending since has
        a greater number.
    """
    catalog.set_meta("flushed", last)
    # Deleted while they were pending: since then, or before, when the segment does not hold them. Of the latter
    # nobody needs to know any more: the list of segments changes, so readers make their manifest anew.
    deleted = catalog.rows("SELECT number FROM tombstones WHERE unsegmented AND number <= ?", (last,))
    _, held = sorted_positions(numbers, np.array([number for (number,) in deleted], np.int64))
    catalog.db.executemany(
        "UPDATE tombstones SET unsegmented = 0 WHERE number = ?",
        [row for row, is_held in zip(deleted, held, strict=True) if is_held],
    )
    forget_tombstones(
        catalog, [number for (number,), is_held in zip(deleted, held, strict=True) if not is_held]
    )


def count_pending(catalog: Catalog) -> None:
    """Count the pending vectors anew; commits only add to the figure, because counting reads all of them."""
    count = catalog.one("SELECT count(*) FROM pending WHERE number > ?", (catalog.meta("flushed"),))
    catalog.set_meta("pending", count)


def forget_tombstones(catalog: Catalog, numbers: Iterable[int]) -> None:
    """Drop the tombstones of vectors that no segment holds any more.

    Not while segments of another model are staged: those may hold them. The next compaction drops them then.
    """
    if not catalog.one("SELECT count(*) FROM staged"):
        catalog.db.executemany("DELETE FROM tombstones WHERE number = ?", [(number,) for number in numbers])


def mark_deleted(catalog: Catalog, numbers: NDArray[np.int64]) -> None:
    """Leave tombstones for those of `numbers` that are no chunks (any more)."""
    catalog.db.execute(
        "INSERT OR IGNORE INTO tombstones SELECT value, ?, 0 FROM json_each(?) "
        "WHERE value NOT IN (SELECT number FROM chunks)",
        (catalog.meta("commit"), json.dumps(numbers.tolist())),
    )


def drop_staged(catalog: Catalog) -> list[str]:
    """Forget what was staged for another model, and return the files that are free now."""
    return [name for (name,) in catalog.rows("DELETE FROM staged RETURNING name")]
