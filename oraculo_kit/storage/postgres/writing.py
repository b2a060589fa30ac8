"""What a commit leaves in PostgreSQL: sources and their chunks, replaced, removed and counted in one transaction.

Several writers work at once. They wait for each other only where they must: for the row of the same source (locked in
the order of keys, so that two writers of many sources cannot block each other), or for the same id. Where the order
cannot be had (an id that stands in another source), PostgreSQL finds the deadlock, and the transaction is run again
(`Pool.committing`). Totals are rows of their own, one per commit, which `fold_tallies` adds up now and then.

Every writer holds the store's lock shared. Who changes what all vectors are (the first write, `reembed`, `compact`)
holds it alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import SourceError, VectorsError
from oraculo_kit.storage.postgres.encoding import (
    binary_rows,
    fields_json,
    number_array,
    numbers_of_bytes,
    text_array,
    vector_bytes,
    written,
    written_json,
)
from oraculo_kit.storage.postgres.ledger import insert_outcomes
from oraculo_kit.storage.postgres.schema import set_dimension
from oraculo_kit.storage.postgres.versions import Facts
from oraculo_kit.storage.postgres.words import spaced
from oraculo_kit.storage.records import disjoint_writes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from oraculo_kit.storage.identity import EmbedderIdentity
    from oraculo_kit.storage.postgres.connection import Pool, Session
    from oraculo_kit.storage.records import ChunkRow, SourceWrite

    Numbers = NDArray[np.int64]

_MOST_TERMS_BYTES = 900_000  # of a tsvector, which may have 1 MB
_FOLD_EVERY = 256


class _AloneError(Exception):
    """The store has no dimension yet, so the write must have it alone."""


def hold_store(session: Session, schema: str, *, alone: bool = False) -> None:
    """Take the store's lock until the end of the transaction: shared, or alone."""
    kind = "" if alone else "_shared"
    session.rows(f"SELECT pg_advisory_xact_lock{kind}(hashtextextended($1::text, 1))", f"oraculo {schema}")


def commit(pool: Pool, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None = None) -> list[bool]:
    """Write whole sources or single chunks, all in one commit.

    Parameters
    ----------
    pool : Pool
    writes : sequence of SourceWrite
    embedder : EmbedderIdentity, optional
        Who made the vectors; None for ready-made ones.

    Returns
    -------
    list of bool
        For each whether the ledger knew the source.
    """
    for write in writes:
        for row in write.rows:
            _check_length(write.key, row)
    alone = False
    while True:

        def body(session: Session, alone: bool = alone) -> list[bool]:
            return _commit(session, pool.location.schema, pool.location.shown, writes, embedder, alone)

        try:
            known = pool.committing(body)
            break
        except _AloneError:
            alone = True
    fold_tallies(pool)
    return known


def _check_length(source: str, row: ChunkRow) -> None:
    if len(row.stems) > _MOST_TERMS_BYTES // 4 and len(row.stems.encode()) > _MOST_TERMS_BYTES:
        raise SourceError(
            f"the chunk {row.ordinal} of source {source!r} has {len(row.text)} characters, more than PostgreSQL's full "
            "text takes (some 800,000): split it into smaller ones"
        )


def _commit(
    session: Session,
    schema: str,
    shown: str,
    writes: Sequence[SourceWrite],
    embedder: EmbedderIdentity | None,
    alone: bool,
) -> list[bool]:
    hold_store(session, schema, alone=alone)
    facts = Facts.of(session)
    dimension = _check_vectors(facts, writes, embedder, shown)
    if dimension is not None:
        if facts.meta("dimension") is None:
            if not alone:
                raise _AloneError
            set_dimension(session, dimension)
            facts.set_meta("dimension", dimension)
        if embedder is not None:
            embedder.remember(facts)
    known: list[bool] = []
    tally = Tally()
    for batch in disjoint_writes(writes):
        known += _put(session, batch, tally)
    tally.add_to(session)
    return known


def _check_vectors(
    facts: Facts, writes: Sequence[SourceWrite], embedder: EmbedderIdentity | None, shown: str
) -> int | None:
    dimensions = {write.vectors.shape[1] for write in writes if len(write.rows)}
    if not dimensions:
        return None
    if embedder is not None:
        embedder.check(facts, shown)
    stored = facts.meta("dimension")
    if len(dimensions) > 1 or (stored is not None and dimensions != {stored}):
        raise VectorsError(
            f"got vectors of dimension {', '.join(map(str, sorted(dimensions)))}, expected {stored or 'one'} as the "
            f"store {shown} has. Use the embedder that built it"
        )
    return int(dimensions.pop())


class Tally:
    """What one commit changes of the totals."""

    def __init__(self) -> None:
        self.chunks = 0
        self.words = 0

    def add_to(self, session: Session) -> None:
        """Note it as a row of its own: no other writer waits for it."""
        session.rows(
            "INSERT INTO oraculo_tallies(chunks, words) VALUES ($1::bigint, $2::bigint)",
            self.chunks,
            self.words,
        )


def _put(session: Session, batch: list[SourceWrite], tally: Tally) -> list[bool]:
    rows = session.rows(
        'INSERT INTO oraculo_sources(key) SELECT key FROM unnest($1::text[]) AS given(key) ORDER BY key COLLATE "C" '
        "ON CONFLICT (key) DO UPDATE SET key = excluded.key RETURNING key, id, written_at = ''",
        text_array(write.key for write in batch),
    )
    sources = {key: (number, new) for key, number, new in rows}
    places = [sources[written(write.key)] for write in batch]
    whole = [number for write, (number, new) in zip(batch, places, strict=True) if write.whole and not new]
    emptied = _clear(session, whole, [row.id for write in batch for row in write.rows], tally)
    _update_sources(session, batch, places, emptied)
    _insert_chunks(session, batch, [number for number, _ in places], tally)
    list_keys(
        session,
        {key for write in batch for key in write.metadata_keys},
        {key for write in batch for key in write.shared_keys},
    )
    insert_outcomes(
        session,
        (
            (write.outcome.run, replace(write.outcome, status="added" if new else "replaced"))
            for write, (_, new) in zip(batch, places, strict=True)
            if write.outcome
        ),
    )
    return [not new for _, new in places]


def _clear(session: Session, whole: list[int], ids: list[str], tally: Tally) -> set[int]:
    """Delete what a batch replaces; return the sources that have nothing left because all their ids come again."""
    if whole:
        gone = session.rows(
            "DELETE FROM oraculo_chunks WHERE source = ANY($1::bigint[]) RETURNING number",
            number_array(whole),
        )
        _delete_beside(session, [number for (number,) in gone], tally)
    # Ids are hashes that hold the source's key, but a user may give an id that stands in another source.
    same = session.rows(
        "DELETE FROM oraculo_chunks WHERE id = ANY($1::text[]) RETURNING number, source", text_array(ids)
    )
    return _mend(session, same, tally) if same else set()


def delete_chunks(session: Session, numbers: Numbers, tally: Tally) -> int:
    """Delete chunks and mend the ledger of their sources; return how many there were.

    A source that lost some of its chunks forgets its content hash, so that the next ingestion reads it again; one that
    lost all of them leaves the ledger.
    """
    # In the order in which writers lock them.
    session.rows(
        "SELECT id FROM oraculo_sources WHERE id IN (SELECT source FROM oraculo_chunks WHERE number = "
        'ANY($1::bigint[])) ORDER BY key COLLATE "C" FOR UPDATE',
        number_array(numbers),
    )
    gone = session.rows(
        "DELETE FROM oraculo_chunks WHERE number = ANY($1::bigint[]) RETURNING number, source",
        number_array(numbers),
    )
    empty = _mend(session, gone, tally)
    session.rows(
        "DELETE FROM oraculo_sources WHERE id = ANY($1::bigint[]) AND chunk_count <= 0", number_array(empty)
    )
    return len(gone)


def _mend(session: Session, gone: Sequence[Sequence[int]], tally: Tally) -> set[int]:
    _delete_beside(session, [number for number, _ in gone], tally)
    lost: dict[int, int] = {}
    for _, source in gone:
        lost[source] = lost.get(source, 0) + 1
    rows = session.rows(
        "UPDATE oraculo_sources s SET chunk_count = s.chunk_count - lost.count, content_hash = NULL FROM "
        "unnest($1::bigint[], $2::bigint[]) AS lost(source, count) WHERE s.id = lost.source "
        "RETURNING s.id, s.chunk_count",
        number_array(lost),
        number_array(lost.values()),
    )
    return {number for number, left in rows if left <= 0}


def _delete_beside(session: Session, numbers: list[int], tally: Tally) -> None:
    """Delete words and vectors of chunks that were deleted, and count them."""
    if not numbers:
        return
    listed = number_array(numbers)
    words = session.one(
        "WITH gone AS (DELETE FROM oraculo_words WHERE number = ANY($1::bigint[]) RETURNING length) "
        "SELECT coalesce(sum(length), 0)::bigint FROM gone",
        listed,
    )
    session.rows("DELETE FROM oraculo_vectors WHERE number = ANY($1::bigint[])", listed)
    tally.chunks -= len(numbers)
    tally.words -= int(words)


_ROW = (
    "id bigint, whole boolean, content_hash text, bytes bigint, mtime_ns bigint, pipeline text, run text, language text, "
    "metadata text, chunk_count bigint, checksum bigint"
)


def _update_sources(
    session: Session, batch: list[SourceWrite], places: list[tuple[int, bool]], emptied: set[int]
) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    rows = []
    for write, (number, new) in zip(batch, places, strict=True):
        ledger = write.ledger
        rows.append(
            {
                "id": number,
                "whole": write.whole or new or number in emptied,
                "content_hash": ledger.content_hash,
                "bytes": ledger.bytes,
                "mtime_ns": ledger.mtime_ns,
                "pipeline": written(ledger.pipeline),
                "run": written(ledger.run),
                "language": written(write.language) if write.language is not None else None,
                "metadata": written_json(write.metadata),
                "chunk_count": len(write.rows),
                "checksum": write.checksum,
            }
        )
    session.rows(
        "UPDATE oraculo_sources s SET content_hash = g.content_hash, bytes = g.bytes, mtime_ns = g.mtime_ns, "
        "pipeline = g.pipeline, run = g.run, language = g.language, metadata = g.metadata::json, "
        "chunk_count = g.chunk_count, written_at = $2::text, checksum = g.checksum "
        f"FROM jsonb_to_recordset($1::jsonb) AS g({_ROW}) WHERE s.id = g.id AND g.whole",
        json.dumps([row for row in rows if row["whole"]]),
        now,
    )
    added = [row for row in rows if not row["whole"]]
    if added:
        session.rows(
            "UPDATE oraculo_sources s SET chunk_count = s.chunk_count + g.chunk_count, written_at = $2::text "
            f"FROM jsonb_to_recordset($1::jsonb) AS g({_ROW}) WHERE s.id = g.id",
            json.dumps(added),
            now,
        )
    # What lost its last chunk to another source.
    session.rows(
        "DELETE FROM oraculo_sources WHERE id = ANY($1::bigint[]) AND chunk_count <= 0",
        number_array(emptied - {number for number, _ in places}),
    )


def _insert_chunks(session: Session, batch: list[SourceWrite], sources: list[int], tally: Tally) -> None:
    count = sum(len(write.rows) for write in batch)
    if not count:
        return
    numbers = iter(reserve_numbers(session, count).tolist())
    chunks: list[tuple[Any, ...]] = []
    words: list[tuple[Any, ...]] = []
    vectors: list[tuple[Any, ...]] = []
    for write, source in zip(batch, sources, strict=True):
        shared = write.metadata
        for row, vector in zip(write.rows, vector_rows(write.vectors), strict=True):
            number = next(numbers)
            fields = fields_json(shared if row.inherits else "{}", row.metadata)
            chunks.append(
                (
                    number,
                    written(row.id),
                    source,
                    row.ordinal,
                    row.inherits,
                    row.checksum,
                    written_json(row.metadata),
                    fields,
                    written(row.text),
                )
            )
            words.append(word_row(number, row.stems))
            vectors.append((number, *vector))
    session.copy("oraculo_chunks", binary_rows("qtqq?qtbt", chunks))
    session.copy("oraculo_words", binary_rows("qit", words))
    session.copy("oraculo_vectors", binary_rows("qqv", vectors))
    tally.chunks += count
    tally.words += sum(length for _, length, _ in words)


def word_row(number: int, stems: str) -> tuple[int, int, str]:
    """Return a row of ``oraculo_words``."""
    return number, len(stems.split()), spaced(stems)


def vector_rows(vectors: NDArray[np.float32]) -> list[tuple[int, bytes]]:
    """Return the checksum of each vector, and the vector as pgvector receives it."""
    little = np.ascontiguousarray(vectors, "<f4")
    return [
        (zlib.crc32(row.tobytes()), content)
        for row, content in zip(little, vector_bytes(vectors), strict=True)
    ]


def reserve_numbers(session: Session, count: int) -> Numbers:
    """Return chunk numbers, int64 rising; none is used twice."""
    return numbers_of_bytes(
        session.one(
            "SELECT string_agg(int8send(nextval('oraculo_numbers')), ''::bytea) FROM generate_series(1, $1::bigint)",
            count,
        )
    )


def list_keys(session: Session, in_chunks: Iterable[str], in_sources: Iterable[str]) -> None:
    """Note that metadata keys stand in chunks, or in what the chunks of a source share."""
    own, shared = set(in_chunks), set(in_sources)
    keys = sorted(own | shared)
    if not keys:
        return
    flags = [("{" + ",".join("t" if key in those else "f" for key in keys) + "}") for those in (own, shared)]
    # Only rows that change: writers of known keys do not wait for each other.
    session.rows(
        "INSERT INTO oraculo_keys AS k SELECT g.* FROM unnest($1::text[], $2::boolean[], $3::boolean[]) "
        "AS g(key, in_chunks, in_sources) WHERE NOT EXISTS (SELECT FROM oraculo_keys o WHERE o.key = g.key "
        'AND o.in_chunks >= g.in_chunks AND o.in_sources >= g.in_sources) ORDER BY g.key COLLATE "C" '
        "ON CONFLICT (key) DO UPDATE SET in_chunks = k.in_chunks OR excluded.in_chunks, "
        "in_sources = k.in_sources OR excluded.in_sources",
        text_array(keys),
        *flags,
    )


def remove(pool: Pool, select: Callable[[Session], Numbers]) -> int:
    """Delete the chunks whose numbers `select` returns inside the transaction; return how many."""

    def body(session: Session) -> int:
        hold_store(session, pool.location.schema)
        numbers = select(session)
        if not len(numbers):
            return 0
        tally = Tally()
        count = delete_chunks(session, numbers, tally)
        tally.add_to(session)
        return count

    return pool.committing(body)


def fold_tallies(pool: Pool, most: int = _FOLD_EVERY) -> None:
    """Add up the rows of totals, when there are many; nobody waits for it.

    The last row of a sum keeps its number, which counts the commits.
    """

    def body(session: Session) -> None:
        count = session.one("SELECT count(*) FROM (SELECT FROM oraculo_tallies LIMIT $1::bigint) t", most)
        if count < most:
            return
        # Whoever finds the lock taken leaves it to the other one.
        if not session.one(
            "SELECT pg_try_advisory_xact_lock(hashtextextended($1::text, 2))",
            f"oraculo {pool.location.schema}",
        ):
            return
        session.rows(
            "WITH gone AS (DELETE FROM oraculo_tallies RETURNING id, chunks, words) INSERT INTO "
            "oraculo_tallies(id, chunks, words) OVERRIDING SYSTEM VALUE SELECT max(id), sum(chunks), sum(words) "
            "FROM gone"
        )

    pool.committing(body)
