"""The statements of a commit: which rows a write or a removal leaves in the catalog.

Every function runs inside the write transaction that is open.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.records import SourceWrite

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


def put_source(catalog: Catalog, write: SourceWrite, first: int, commit: int, *, pending: bool) -> None:
    """Insert the rows of one source, numbered from `first`; delete what they replace."""
    found = catalog.rows("SELECT id, chunk_count FROM sources WHERE key = ?", (write.key,))
    if write.whole:
        if found and found[0][1]:
            old = catalog.rows("SELECT number FROM chunks WHERE source = ?", (found[0][0],))
            delete_numbers(catalog, [number for (number,) in old], commit)
    # Ids are hashes that hold the source's key, but a user may give an id that stands in another source.
    _delete_ids(catalog, [row.id for row in write.rows], commit)
    source = _put_source_row(catalog, write)
    numbers = range(first, first + len(write.rows))
    catalog.db.executemany(
        "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (number, row.id, source, row.ordinal, row.inherits, row.checksum, row.metadata, row.text)
            for number, row in zip(numbers, write.rows, strict=True)
        ),
    )
    catalog.db.executemany(
        "INSERT INTO chunk_text(rowid, stems) VALUES (?, ?)",
        ((number, row.stems) for number, row in zip(numbers, write.rows, strict=True)),
    )
    if pending:
        catalog.db.executemany("INSERT INTO pending VALUES (?, ?, ?)", _pending_rows(numbers, write.vectors))
    for keys, column in ((write.metadata_keys, "in_chunks"), (write.shared_keys, "in_sources")):
        catalog.db.executemany(
            f"INSERT INTO metadata_keys VALUES (?, {int(column == 'in_chunks')}, {int(column == 'in_sources')}) "
            f"ON CONFLICT DO UPDATE SET {column} = 1 WHERE NOT {column}",
            [(key,) for key in keys],
        )


def _put_source_row(catalog: Catalog, write: SourceWrite) -> int:
    ledger = write.ledger
    values = (
        write.key, ledger.content_hash, ledger.bytes, ledger.mtime_ns, ledger.pipeline, ledger.run,
        write.language, write.metadata, len(write.rows), datetime.now(UTC).isoformat(timespec="milliseconds"),
    )  # fmt: skip
    on_conflict = (
        "content_hash = excluded.content_hash, bytes = excluded.bytes, mtime_ns = excluded.mtime_ns, "
        "pipeline = excluded.pipeline, run = excluded.run, language = excluded.language, "
        "metadata = excluded.metadata, chunk_count = excluded.chunk_count, written_at = excluded.written_at"
        if write.whole
        else "chunk_count = chunk_count + excluded.chunk_count, written_at = excluded.written_at"
    )
    return int(
        catalog.one(
            "INSERT INTO sources(key, content_hash, bytes, mtime_ns, pipeline, run, language, metadata, "
            "chunk_count, written_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            f"ON CONFLICT(key) DO UPDATE SET {on_conflict} RETURNING id",
            values,
        )
    )


def _pending_rows(numbers: range, vectors: NDArray[np.float32]) -> Iterator[tuple[int, int, bytes]]:
    for number, vector in zip(numbers, np.ascontiguousarray(vectors, "<f4"), strict=True):
        blob = vector.tobytes()
        yield number, zlib.crc32(blob), blob


def _delete_ids(catalog: Catalog, ids: Sequence[str], commit: int) -> None:
    old: list[int] = []
    for chunk_id in ids:
        old.extend(
            number for (number,) in catalog.rows("SELECT number FROM chunks WHERE id = ?", (chunk_id,))
        )
    if old:
        delete_chunks(catalog, np.array(old, np.int64), commit)


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
    catalog.db.executemany("DELETE FROM chunk_text WHERE rowid = ?", plain)
    catalog.db.executemany("DELETE FROM pending WHERE number = ?", plain)
    catalog.db.executemany("DELETE FROM chunks WHERE number = ?", plain)
    catalog.db.executemany(
        "INSERT OR REPLACE INTO tombstones VALUES (?, ?)", [(number, commit) for (number,) in plain]
    )
