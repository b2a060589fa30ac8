"""Figures of a store in PostgreSQL, and looking after it: space, statistics, indexes on metadata keys."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from oraculo_kit.errors import StorageError
from oraculo_kit.storage.compaction import CompactReport
from oraculo_kit.storage.filter_indexes import checked_key
from oraculo_kit.storage.fulltext import STEMMER_VERSION
from oraculo_kit.storage.health import Finding, HealthReport
from oraculo_kit.storage.postgres.encoding import written
from oraculo_kit.storage.postgres.location import literal, quoted
from oraculo_kit.storage.postgres.versions import INDEX_PREFIX, Facts, PostgresVersion, indexed_keys
from oraculo_kit.storage.postgres.writing import fold_tallies, hold_store
from oraculo_kit.storage.values import StoreStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from oraculo_kit.storage.postgres.connection import Pool, Session

_TABLES = (
    "oraculo_sources",
    "oraculo_chunks",
    "oraculo_words",
    "oraculo_vectors",
    "oraculo_staged",
    "oraculo_tallies",
    "oraculo_keys",
    "oraculo_feedback",
    "oraculo_runs",
    "oraculo_outcomes",
    "oraculo_meta",
)
_DEAD_SHARE = 0.2
_WORTH_AN_INDEX = (
    100_000  # chunks: an exact search takes 60 ms there (256 dimensions), and grows with their number
)


def stats(version: PostgresVersion) -> StoreStats:
    """Return figures of a version."""
    session = version.session
    return StoreStats(
        location=version.shown,
        chunks=version.count(),
        sources=int(session.one("SELECT count(*) FROM oraculo_sources")),
        segments=0,
        pending=0,
        dead=_dead(session),
        bytes=_size(session),
        dimension=version.manifest.dimension,
        precision="float32",
        recall=None,
        embedder=version.manifest.embedder or "",
        commit=int(session.one("SELECT coalesce(max(id), 0) FROM oraculo_tallies")),
    )


def _size(session: Session) -> int:
    listed = ", ".join(f"('{table}')" for table in _TABLES)
    return int(
        session.one(
            f"SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM (VALUES {listed}) t(name)"
        )
    )


def _dead(session: Session) -> int:
    found = session.one("SELECT pg_stat_get_dead_tuples('oraculo_vectors'::regclass)")
    return int(found or 0)


def examine(version: PostgresVersion) -> HealthReport:
    """Look at a store in some milliseconds."""
    findings = []
    chunks, dead = version.count(), _dead(version.session)
    if dead > max(_DEAD_SHARE * chunks, 1000):
        findings.append(Finding(f"{dead} deleted vectors still take space", "compact()"))
    if chunks >= _WORTH_AN_INDEX and version.manifest.index is None:
        findings.append(
            Finding(f"{chunks} vectors are searched exactly", "optimize() makes searches many times faster")
        )
    if version.facts.meta("stemmer") != STEMMER_VERSION:
        findings.append(
            Finding(
                "the full-text index was made with another version of the stemmer", "repair() makes it anew"
            )
        )
    staged = version.session.one("SELECT count(*) FROM oraculo_staged")
    if staged:
        findings.append(
            Finding(
                f"a change to another embedder stopped after {staged} chunks",
                "reembed() with the same embedder goes on; compact(purge=True) drops it",
            )
        )
    return HealthReport(version.shown, tuple(findings), "")


def compact(pool: Pool, *, purge: bool, progress: Callable[[int, int], None] | None = None) -> CompactReport:
    """Give space back and renew the planner's statistics; see `VetorStorage.compact`."""
    started = time.perf_counter()
    with pool.reading() as session:
        before, dead = _size(session), _dead(session)
    if purge:
        _forget(pool)
    fold_tallies(pool, 2)
    with pool.alone() as session:
        keep_others_out(pool, session, "compacting")
        session.run(f"SET lock_timeout = {max(int(pool.lock_timeout * 1000), 1)}")
        for done, table in enumerate(_TABLES, 1):
            session.run(f"VACUUM ({'FULL, ' if purge else ''}ANALYZE) {table}")
            if progress is not None:
                progress(done, len(_TABLES))
    with pool.reading() as session:
        after = _size(session)
    return CompactReport(
        location=pool.location.shown,
        segments_before=0,
        segments=0,
        dropped=dead,
        bytes_before=before,
        bytes=after,
        purged=purge,
        seconds=time.perf_counter() - started,
        reach="every table; the server's write-ahead log, replicas and backups keep it until they are renewed",
    )


def keep_others_out(pool: Pool, session: Session, what: str) -> None:
    """Take the lock of maintenance, until the connection is closed.

    Raises
    ------
    StorageError
        When another process is at it.
    """
    name = f"oraculo {pool.location.schema}"
    if not session.one("SELECT pg_try_advisory_lock(hashtextextended($1::text, 3))", name):
        raise StorageError(
            f"another process is compacting, optimising or repairing the store {pool.location.shown}; wait for its end "
            f"before {what}"
        )


def _forget(pool: Pool) -> None:
    """Drop what still names something that was deleted."""

    def body(session: Session) -> None:
        hold_store(session, pool.location.schema, alone=True)
        session.run("DELETE FROM oraculo_staged")
        facts = Facts.of(session)
        for key in ("staged_embedder", "staged_probe"):
            facts.set_meta(key, None)
        session.run(
            "DELETE FROM oraculo_outcomes WHERE source NOT IN (SELECT key FROM oraculo_sources); "
            "DELETE FROM oraculo_feedback f WHERE EXISTS (SELECT FROM json_array_elements_text(f.sources) cited(id) "
            "WHERE NOT EXISTS (SELECT FROM oraculo_chunks c WHERE c.id = cited.id)); "
            "DELETE FROM oraculo_keys k WHERE NOT EXISTS (SELECT FROM oraculo_chunks c WHERE c.fields ? k.key) "
            "AND NOT EXISTS (SELECT FROM oraculo_sources s WHERE s.metadata::jsonb ? k.key)"
        )

    pool.committing(body)


def create_filter_index(pool: Pool, key: str) -> bool:
    """Index a metadata key: equality of any value, and comparison of numbers; False when there was an index.

    Equality by hash, because a B-tree refuses the long texts that metadata may hold, and with them the write.
    """
    key = checked_key(key)
    if key == "source":
        return False
    name, second = _index_name(key), _index_name(key, "_n")
    field = f"(fields -> {literal(written(key))}::text)"

    def body(session: Session) -> bool:
        hold_store(session, pool.location.schema, alone=True)
        if key in indexed_keys(session):
            return False
        session.run(
            f"CREATE INDEX {name} ON oraculo_chunks USING hash ({field}); "
            f"COMMENT ON INDEX {name} IS {literal(written(key))}; "
            f"CREATE INDEX {second} ON oraculo_chunks ({field}) WHERE jsonb_typeof({field}) = 'number'; "
            "ANALYZE oraculo_chunks"
        )
        return True

    return pool.committing(body)


def drop_filter_index(pool: Pool, key: str) -> bool:
    """Drop the index of a key; False when there was none."""
    key = checked_key(key)

    def body(session: Session) -> bool:
        hold_store(session, pool.location.schema, alone=True)
        if key not in indexed_keys(session):
            return False
        session.run(f"DROP INDEX {_index_name(key)}, {_index_name(key, '_n')}")
        return True

    return pool.committing(body)


def _index_name(key: str, more: str = "") -> str:
    # A key may be longer than a name, and hold anything; the index's comment holds it as it is.
    return quoted(INDEX_PREFIX + hashlib.blake2b(key.encode(), digest_size=16).hexdigest() + more)
