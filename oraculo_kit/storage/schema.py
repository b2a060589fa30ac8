"""The tables of a catalog, and how a catalog of an earlier format becomes one of this format.

A format is never changed, only followed by the next. A store is brought forward when it is opened for writing: all
steps in one transaction, so that a process killed on the way leaves the old format whole. There is no way back, and
none is needed: an older oraculo_kit refuses a newer format by its number.

Each step is tested on a store that the code of its format wrote (``tests/storage/samples``).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from typing import Any

import apsw

from oraculo_kit.storage.fulltext import FTS_TOKENIZER, STEMMER_VERSION
from oraculo_kit.storage.records import source_checksum

FORMAT = 3
APPLICATION_ID = 0x4F52414B  # "ORAK", so that `file` and we can tell a catalog from any other database

_SOURCES = """
CREATE TABLE sources(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    content_hash TEXT,
    bytes INTEGER,
    mtime_ns INTEGER,
    pipeline TEXT NOT NULL,
    run TEXT NOT NULL,
    language TEXT,
    metadata TEXT NOT NULL,
    chunk_count INTEGER NOT NULL,
    written_at TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
"""
_SOURCES_BY_HASH = "CREATE INDEX sources_by_hash ON sources(content_hash);"
# `unsegmented`: the chunk was deleted while its vector was pending, so no segment holds it.
_TOMBSTONES = """
CREATE TABLE tombstones(
    number INTEGER PRIMARY KEY,
    commit_number INTEGER NOT NULL,
    unsegmented INTEGER NOT NULL
);
CREATE INDEX tombstones_by_commit ON tombstones(commit_number);
"""
# `recall`: share of the true ten nearest that half precision finds; NULL for float32, which finds all.
_SEGMENTS = """
CREATE TABLE segments(
    name TEXT PRIMARY KEY,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    digest TEXT NOT NULL,
    recall REAL
) WITHOUT ROWID;
"""
_INDEXES = """
CREATE TABLE indexes(
    segment TEXT PRIMARY KEY REFERENCES segments(name),
    name TEXT NOT NULL UNIQUE,
    facts TEXT NOT NULL
) WITHOUT ROWID;
"""
_STAGED = _SEGMENTS.replace("segments", "staged")
_FEEDBACK = """
CREATE TABLE feedback(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    verdict TEXT NOT NULL,
    correction TEXT NOT NULL,
    model TEXT NOT NULL,
    sources TEXT NOT NULL
);
"""
# `facts` of both are JSON: nobody asks for one of them in SQL, and with few columns the list of tables stays on the first
# page of the catalog, of which a salvage needs every byte.
_RUNS = """
CREATE TABLE runs(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, facts TEXT NOT NULL);
"""
_OUTCOMES = """
CREATE TABLE outcomes(
id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, source TEXT NOT NULL, status TEXT NOT NULL, facts TEXT NOT NULL,
UNIQUE(run, source));
"""
SCHEMA = f"""
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
{_SOURCES}
{_SOURCES_BY_HASH}
CREATE TABLE chunks(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    source INTEGER NOT NULL REFERENCES sources(id),
    ordinal INTEGER NOT NULL,
    inherits INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX chunks_by_source ON chunks(source, ordinal);
CREATE TABLE metadata_keys(key TEXT PRIMARY KEY, in_chunks INTEGER NOT NULL, in_sources INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE pending(number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, vector BLOB NOT NULL);
{_TOMBSTONES}
{_SEGMENTS}
{_INDEXES}
{_STAGED}
CREATE TABLE claims(
    name TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started REAL NOT NULL
) WITHOUT ROWID;
{_FEEDBACK}
{_RUNS}
{_OUTCOMES}
"""
# Contentless: only the index is kept, and a row can be deleted without deriving its stems again.
FULL_TEXT = (
    "CREATE VIRTUAL TABLE chunk_text USING "
    f"fts5(stems, content='', contentless_delete=1, tokenize=\"{FTS_TOKENIZER}\")"
)


def new_epoch() -> str:
    """Return a name for a history of commits: two histories may count to the same number with different contents."""
    return uuid.uuid4().hex


def first_values(precision: str) -> dict[str, Any]:
    """Return the first rows of ``meta``.

    Parameters
    ----------
    precision : {"float32", "float16"}
        How segments hold vectors.
    """
    return {
        "store_id": uuid.uuid4().hex,
        "epoch": new_epoch(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": 0,
        "layout": 0,
        "flushed": 0,  # pending vectors up to this number stand in a segment
        "pending": 0,  # vectors written since the last flush
        "precision": precision,
        "dimension": None,
        "embedder": None,
        "probe": None,
        "stemmer": STEMMER_VERSION,
    }


@cache
def expected_statements() -> Mapping[str, str]:
    """Return the statement that made each table and index of a catalog, by name, as SQLite keeps it.

    Not those of the tables that FTS5 makes for itself: they are its version's business.
    """
    with closing(apsw.Connection(":memory:")) as db:
        db.execute(SCHEMA)
        made = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {str(name): str(sql) for name, sql in made} | {"chunk_text": FULL_TEXT}


def migrate(db: apsw.Connection, version: int) -> None:
    """Bring the catalog that `db` has open from an earlier format to this one, within the open transaction."""
    for step in range(version, FORMAT):
        _STEPS[step](db)
    db.pragma("user_version", FORMAT)


def _from_1_to_2(db: apsw.Connection) -> None:
    """Add what maintenance needs, and checksums of sources.

    Tables that got a column are made anew, not altered: so both ways lead to the very same schema.
    """
    checksum: Callable[..., Any] = source_checksum
    db.create_scalar_function("source_checksum", checksum, deterministic=True)
    for table, schema, columns in (
        ("sources", _SOURCES, "*, source_checksum(key, metadata, language)"),
        ("tombstones", _TOMBSTONES, "*, 0"),
        ("segments", _SEGMENTS, "*, NULL"),
    ):
        db.execute(f"DROP INDEX IF EXISTS {table}_by_commit")
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        db.execute(schema)
        db.execute(f"INSERT INTO {table} SELECT {columns} FROM old_{table}")
        # An id is never given twice: the new table goes on where the old one stood, not at its highest row.
        db.execute(
            "UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = ?) WHERE name = ?",
            (f"old_{table}", table),
        )
        db.execute(f"DROP TABLE old_{table}")
    db.execute(_INDEXES + _STAGED + _FEEDBACK)
    db.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [
            ("epoch", new_epoch()),
            ("flushed", 0),
            ("pending", db.execute("SELECT count(*) FROM pending").fetchall()[0][0]),
            ("precision", "float32"),
        ],
    )


def _from_2_to_3(db: apsw.Connection) -> None:
    """Add runs with their outcomes, and the way from a content hash to its sources."""
    db.execute(_SOURCES_BY_HASH + _RUNS + _OUTCOMES)


_STEPS: dict[int, Callable[[apsw.Connection], None]] = {1: _from_1_to_2, 2: _from_2_to_3}
