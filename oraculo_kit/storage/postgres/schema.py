"""The tables of a store in PostgreSQL, and how they come to be.

::

    oraculo_meta      format, embedder, dimension, index ...: a dozen texts
    oraculo_sources   the ledger
    oraculo_chunks    ids, places, texts, metadata; `fields` for filters
    oraculo_words     each chunk's stems, under a GIN index of their tsvector
    oraculo_vectors   each chunk's vector, of length one; after `optimize` under an HNSW index
    oraculo_tallies   one row per commit with what it added, so that no two writers wait for one counter
    ...               metadata keys, feedback, runs and their outcomes, vectors staged by `reembed`

They lie in one schema, so one database holds several bases (``?schema=name``), and each name has a prefix, so a schema
may be shared with other tables. Their order by number is the order of writing, as far as concurrent writers have one.

Stems stand with two spaces between them and at both ends, so that counting a stem or a row of stems in a chunk is
counting a text (`oraculo_kit.storage.postgres.words`).
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oraculo_kit.errors import StorageError, StoreFormatError, StoreNotFoundError
from oraculo_kit.storage.fulltext import STEMMER_VERSION
from oraculo_kit.storage.postgres.location import literal, quoted

if TYPE_CHECKING:
    from oraculo_kit.storage.postgres.connection import Pool, Session

FORMAT = 1
_LEAST_SERVER = 130_000
_LEAST_VECTOR = (0, 8)  # iterative scans
PLAIN_DIMENSION = 1900  # a longer vector does not fit a page of 8 KB

TERMS = "array_to_tsvector(string_to_array(btrim(stems), '  '))"

# A text lies beside its row, so that a filter over all rows reads their fields only.
_TABLES = f"""
CREATE TABLE oraculo_meta(key text PRIMARY KEY, value text);
CREATE TABLE oraculo_sources(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL COLLATE "C",
    content_hash text,
    bytes bigint,
    mtime_ns bigint,
    pipeline text NOT NULL DEFAULT '',
    run text NOT NULL DEFAULT '',
    language text,
    metadata json NOT NULL DEFAULT '{{}}',
    chunk_count bigint NOT NULL DEFAULT 0,
    written_at text NOT NULL DEFAULT '',
    checksum bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX oraculo_sources_by_key ON oraculo_sources(key);
CREATE INDEX oraculo_sources_by_content ON oraculo_sources(content_hash) WHERE content_hash IS NOT NULL;
CREATE SEQUENCE oraculo_numbers;
CREATE TABLE oraculo_chunks(
    number bigint PRIMARY KEY,
    id text NOT NULL COLLATE "C",
    source bigint NOT NULL,
    ordinal bigint NOT NULL,
    inherits boolean NOT NULL,
    checksum bigint NOT NULL,
    metadata json NOT NULL,
    fields jsonb NOT NULL,
    text text NOT NULL
) WITH (toast_tuple_target = 256);
ALTER TABLE oraculo_chunks ALTER COLUMN fields SET STORAGE MAIN;
CREATE UNIQUE INDEX oraculo_chunks_by_id ON oraculo_chunks(id);
CREATE INDEX oraculo_chunks_by_source ON oraculo_chunks(source, ordinal);
CREATE TABLE oraculo_words(number bigint PRIMARY KEY, length integer NOT NULL, stems text NOT NULL COLLATE "C");
CREATE INDEX oraculo_words_by_term ON oraculo_words USING gin({TERMS});
CREATE TABLE oraculo_vectors(number bigint PRIMARY KEY, checksum bigint NOT NULL, vector vector NOT NULL);
CREATE TABLE oraculo_staged(number bigint PRIMARY KEY, checksum bigint NOT NULL, vector vector NOT NULL);
CREATE TABLE oraculo_tallies(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, chunks bigint NOT NULL, words bigint NOT NULL
);
CREATE TABLE oraculo_keys(
    key text PRIMARY KEY COLLATE "C", in_chunks boolean NOT NULL, in_sources boolean NOT NULL
);
CREATE TABLE oraculo_feedback(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at text NOT NULL,
    question text NOT NULL,
    answer text NOT NULL,
    verdict text NOT NULL,
    correction text NOT NULL,
    model text NOT NULL,
    sources json NOT NULL
);
CREATE TABLE oraculo_runs(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE COLLATE "C",
    state text NOT NULL,
    started_at text NOT NULL,
    finished_at text,
    options json NOT NULL,
    counts json NOT NULL DEFAULT '{{}}',
    host text NOT NULL,
    pid bigint NOT NULL,
    started double precision NOT NULL
);
CREATE TABLE oraculo_outcomes(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run bigint NOT NULL,
    source text NOT NULL COLLATE "C",
    status text NOT NULL,
    error text NOT NULL,
    message text NOT NULL,
    chunks bigint NOT NULL,
    bytes bigint NOT NULL,
    seconds json NOT NULL,
    pid bigint NOT NULL,
    UNIQUE (run, source)
);
"""


def new_epoch() -> str:
    """Return a name for a history of commits; see `oraculo_kit.storage.schema`."""
    return uuid.uuid4().hex


def make_ready(pool: Pool, *, read_only: bool) -> None:
    """Make the tables where there are none; check that this version of the package and the server fit them.

    Raises
    ------
    StoreNotFoundError
        When `read_only` and there is no store.
    StoreFormatError
        When it was written by a newer oraculo_kit.
    StorageError
        When the server is too old, lacks pgvector, or its database is not in UTF-8.
    """
    with pool.reading() as session:
        _check_server(session, pool.location.shown)
        exists = _exists(session, pool.location.schema)
        if exists:
            check_format(session, pool.location.shown)
            if session.one("SELECT to_regtype('vector') IS NOT NULL"):
                return
    if exists:
        pool.rest()  # this connection was made before another process made pgvector
        return
    if read_only:
        raise StoreNotFoundError(
            f"there is no store at {pool.location.shown}. Check the URL (ORACULO_STORE), or ingest documents first"
        )
    with pool.writing() as session:
        # Two processes that open a new base at once: the second waits, and finds it made.
        session.rows(
            "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))", f"oraculo {pool.location.schema}"
        )
        if not _exists(session, pool.location.schema):
            _make(session, pool.location.schema, pool.location.shown)
    pool.rest()  # a connection made before pgvector was does not know where its operators are


def _check_server(session: Session, shown: str) -> None:
    version, encoding = session.rows(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
    )[0]
    if version < _LEAST_SERVER:
        raise StorageError(
            f"the server of {shown} is PostgreSQL {version // 10_000}, expected {_LEAST_SERVER // 10_000} or newer"
        )
    if encoding != "UTF8":
        raise StorageError(
            f"the database of {shown} is encoded in {encoding}, expected UTF8: make one with "
            "createdb --encoding=UTF8 --template=template0"
        )


def _exists(session: Session, schema: str) -> bool:
    # Not by to_regclass: it may answer from what the connection remembers, and not see what was made a moment ago.
    return bool(
        session.one(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = $1::text AND c.relname = 'oraculo_meta'",
            schema,
        )
    )


def check_format(session: Session, shown: str) -> None:
    """Refuse a store of another format than this one.

    Raises
    ------
    StoreFormatError
    """
    found = session.one("SELECT value FROM oraculo_meta WHERE key = 'format'")
    if found != str(FORMAT):
        raise StoreFormatError(
            f"the store {shown} has format {found}, and this oraculo_kit reads {FORMAT}. Upgrade: "
            "pip install --upgrade oraculo_kit"
        )


def _make(session: Session, schema: str, shown: str) -> None:
    _have_pgvector(session, shown)
    if not session.one("SELECT count(*) FROM pg_namespace WHERE nspname = $1::text", schema):
        session.run(f"CREATE SCHEMA {quoted(schema)}")
    session.run(
        "SELECT set_config('search_path', concat_ws(',', "
        f"{literal(quoted(schema))}, (SELECT quote_ident(nspname) FROM pg_extension e JOIN pg_namespace n ON "
        "n.oid = extnamespace WHERE extname = 'vector'), 'pg_catalog'), true)"
    )
    session.run(_TABLES)
    first = {
        "format": str(FORMAT),
        "store_id": uuid.uuid4().hex,
        "epoch": new_epoch(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "stemmer": STEMMER_VERSION,
    }
    session.rows(
        "INSERT INTO oraculo_meta SELECT key, value FROM jsonb_each_text($1::jsonb)", json.dumps(first)
    )


def _have_pgvector(session: Session, shown: str) -> None:
    known = session.rows(
        "SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'vector'"
    )
    if not known:
        raise StorageError(
            f"the server of {shown} has no pgvector. Have it installed (https://github.com/pgvector/pgvector; for "
            "Debian the package postgresql-NN-pgvector), or use the embedded store: a path as ORACULO_STORE"
        )
    installed, offered = known[0]
    if installed is None:
        # Of the whole database: another process may be making another base.
        session.run("SELECT pg_advisory_xact_lock(hashtextextended('oraculo pgvector', 0))")
        session.run("CREATE EXTENSION IF NOT EXISTS vector")
    version = str(installed or offered)
    if tuple(int(part) for part in version.split(".")[:2]) < _LEAST_VECTOR:
        raise StorageError(
            f"the database of {shown} has pgvector {version}, expected 0.8 or newer: install it on the server, then "
            "ALTER EXTENSION vector UPDATE"
        )


def set_dimension(session: Session, dimension: int, table: str = "oraculo_vectors") -> None:
    """Make the length of the vectors known; within the write transaction that is open, with the store to itself."""
    session.run(f"ALTER TABLE {table} ALTER COLUMN vector TYPE vector({dimension})")
    # Beside the row a vector would cost a second look for each row of a scan.
    storage = "PLAIN" if dimension <= PLAIN_DIMENSION else "EXTERNAL"
    session.run(f"ALTER TABLE {table} ALTER COLUMN vector SET STORAGE {storage}")
