"""The ledger of a store in PostgreSQL: sources, runs, what became of each source, and what users said about answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import StorageError
from oraculo_kit.storage.feedback import Feedback
from oraculo_kit.storage.postgres.encoding import (
    number_array,
    read,
    read_json,
    read_optional,
    text_array,
    written,
    written_json,
)
from oraculo_kit.storage.records import LedgerEntry, clean_text, metadata_json
from oraculo_kit.storage.runs import KEPT_RUNS, RunRecord, SourceOutcome, is_at_work
from oraculo_kit.storage.values import SourceRow

if TYPE_CHECKING:
    from oraculo_kit.storage.owners import Owner
    from oraculo_kit.storage.postgres.connection import Session

_ENTRY = "content_hash, bytes, mtime_ns, pipeline, run"


def ledger_rows(session: Session, shown: str) -> list[SourceRow]:
    """Return all rows, by key.

    Raises
    ------
    StoreCorruptedError
        When one does not match its checksum.
    """
    return source_rows(session, shown, "ORDER BY key")


def source_rows(session: Session, shown: str, chosen: str, *values: Any) -> list[SourceRow]:
    """Return rows, checked.

    Parameters
    ----------
    session : Session
    shown : str
        The store, for messages.
    chosen : str
        What follows ``FROM oraculo_sources`` in SQL.
    *values
        ``$1``, ``$2``, ... in it.

    Raises
    ------
    StoreCorruptedError
        When one does not match its checksum.
    """
    from oraculo_kit.storage.postgres.versions import check_source

    rows = session.rows(
        f"SELECT key, chunk_count, language, written_at, metadata::text, checksum, {_ENTRY} FROM oraculo_sources {chosen}",
        *values,
    )
    found = []
    for key, chunks, language, written_at, metadata, checksum, *entry in rows:
        name, shared, language = read(key), read_json(metadata), read_optional(language)
        check_source(shown, name, shared, language, checksum)
        found.append(SourceRow(name, chunks, language, written_at, json.loads(shared), _entry(entry)))
    return found


def _entry(row: Sequence[Any]) -> LedgerEntry:
    content_hash, size, mtime_ns, pipeline, run = row
    return LedgerEntry(content_hash, size, mtime_ns, read(pipeline), read(run))


def ledger_entries(session: Session, keys: Sequence[str]) -> dict[str, LedgerEntry]:
    """Return the entries of these sources; unknown ones are left out."""
    rows = session.rows(
        f"SELECT key, {_ENTRY} FROM oraculo_sources WHERE key = ANY($1::text[])",
        text_array(map(clean_text, keys)),
    )
    return {read(key): _entry(entry) for key, *entry in rows}


def sources_by_hash(session: Session, hashes: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys of the sources that have these content hashes, sorted; unknown hashes are left out."""
    rows = session.rows(
        "SELECT content_hash, key FROM oraculo_sources WHERE content_hash = ANY($1::text[]) ORDER BY key",
        text_array(hashes),
    )
    found: dict[str, list[str]] = {}
    for content_hash, key in rows:
        found.setdefault(content_hash, []).append(read(key))
    return found


def touch_sources(session: Session, entries: Mapping[str, LedgerEntry]) -> None:
    """Note sizes and times of sources whose content is what it was; within the write transaction that is open."""
    given = [
        {
            "key": written(clean_text(key)),
            "bytes": each.bytes,
            "mtime": each.mtime_ns,
            "hash": each.content_hash,
        }
        for key, each in entries.items()
        if each.content_hash is not None
    ]
    session.rows(
        "WITH g AS (SELECT * FROM jsonb_to_recordset($1::jsonb) AS g(key text, bytes bigint, mtime bigint, hash text)), "
        "held AS (SELECT s.id, g.bytes, g.mtime FROM oraculo_sources s JOIN g ON s.key = g.key AND s.content_hash = "
        'g.hash ORDER BY s.key COLLATE "C" FOR UPDATE OF s) '
        "UPDATE oraculo_sources s SET bytes = held.bytes, mtime_ns = held.mtime FROM held WHERE s.id = held.id",
        json.dumps(given),
    )


def drop_empty(session: Session, key: str) -> None:
    """Delete the row of a source if it has no chunks; within the write transaction that is open."""
    session.rows(
        "DELETE FROM oraculo_sources WHERE key = $1::text AND chunk_count = 0", written(clean_text(key))
    )


def begin_run(session: Session, name: str, options: Mapping[str, Any], owner: Owner) -> None:
    """Note that a run begins, or goes on, and forget old ones; within the write transaction that is open.

    Raises
    ------
    StorageError
        When another process is at this very run.
    """
    from oraculo_kit.storage.owners import Owner

    for row in session.rows(
        "SELECT state, started_at, host, pid, started FROM oraculo_runs WHERE name = $1::text FOR UPDATE",
        written(name),
    ):
        state, started_at, host, pid, started = row
        if Owner(host, pid, started) != owner and is_at_work(state, started_at, host, pid, started):
            raise StorageError(
                f"the run {name} is under way in process {pid} on {host}; wait for its end, or begin another run"
            )
    session.rows(
        "INSERT INTO oraculo_runs(name, state, started_at, options, host, pid, started) VALUES ($1::text, 'running', "
        "$2::text, $3::json, $4::text, $5::bigint, $6::float8) ON CONFLICT (name) DO UPDATE SET state = excluded.state, "
        "started_at = excluded.started_at, finished_at = NULL, options = excluded.options, counts = excluded.counts, "
        "host = excluded.host, pid = excluded.pid, started = excluded.started",
        written(name),
        _now(),
        written_json(metadata_json(options)),
        owner.host,
        owner.pid,
        repr(owner.started),
    )
    old = session.rows(
        "SELECT id, state, started_at, host, pid, started FROM oraculo_runs ORDER BY started_at DESC, id DESC "
        "OFFSET $1::bigint",
        KEPT_RUNS,
    )
    doomed = number_array(number for number, *row in old if not is_at_work(*row))
    session.rows("DELETE FROM oraculo_outcomes WHERE run = ANY($1::bigint[])", doomed)
    session.rows("DELETE FROM oraculo_runs WHERE id = ANY($1::bigint[])", doomed)


def end_run(session: Session, name: str, state: str, counts: Mapping[str, int]) -> bool:
    """Note how a run ended, and tell whether it was under way; within the write transaction that is open."""
    ended = session.rows(
        "UPDATE oraculo_runs SET state = $2::text, finished_at = $3::text, counts = $4::json "
        "WHERE name = $1::text AND state = 'running' RETURNING id",
        written(name),
        state,
        _now(),
        metadata_json(counts),
    )
    return bool(ended)


def insert_outcomes(session: Session, outcomes: Iterable[tuple[str, SourceOutcome]]) -> None:
    """Note outcomes by the name of their run, each in the place of an earlier one of its source.

    Those of a run that the store does not know are left out: it was never begun here, or is forgotten.
    """
    rows = {
        (run, outcome.source): {
            "run": written(run),
            "source": written(clean_text(outcome.source)),
            "status": outcome.status,
            "error": written(clean_text(outcome.error)),
            "message": written(clean_text(outcome.message)),
            "chunks": outcome.chunks,
            "bytes": outcome.bytes,
            "seconds": metadata_json(outcome.seconds),
            "pid": outcome.pid,
        }
        for run, outcome in outcomes
    }
    if not rows:
        return
    session.rows(
        "INSERT INTO oraculo_outcomes(run, source, status, error, message, chunks, bytes, seconds, pid) "
        "SELECT r.id, g.source, g.status, g.error, g.message, g.chunks, g.bytes, g.seconds::json, g.pid FROM "
        "jsonb_to_recordset($1::jsonb) AS g(run text, source text, status text, error text, message text, "
        "chunks bigint, bytes bigint, seconds text, pid bigint) JOIN oraculo_runs r ON r.name = g.run "
        'ORDER BY r.id, g.source COLLATE "C" '
        "ON CONFLICT (run, source) DO UPDATE SET status = excluded.status, error = excluded.error, message = "
        "excluded.message, chunks = excluded.chunks, bytes = excluded.bytes, seconds = excluded.seconds, "
        "pid = excluded.pid",
        json.dumps(list(rows.values())),
    )


def read_runs(session: Session, limit: int) -> list[RunRecord]:
    """Return the newest runs, newest first."""
    rows = session.rows(
        "SELECT id, name, state, started_at, finished_at, options::text, counts::text, host, pid, started FROM "
        "oraculo_runs ORDER BY started_at DESC, id DESC LIMIT $1::bigint",
        limit,
    )
    found = []
    for number, name, state, started_at, finished_at, options, counts, *owner in rows:
        if state == "running" and not is_at_work(state, started_at, *owner):
            state = "interrupted"
        counted = json.loads(counts) if finished_at else _noted(session, number)
        asked = json.loads(read_json(options))
        found.append(RunRecord(read(name), state, started_at, finished_at, asked, counted))
    return found


def _noted(session: Session, number: int) -> dict[str, int]:
    rows = session.rows(
        "SELECT status, count(*) FROM oraculo_outcomes WHERE run = $1::bigint GROUP BY status", number
    )
    return dict(rows)


def read_outcomes(session: Session, name: str, store: str) -> list[SourceOutcome]:
    """Return the outcomes of a run, in the order in which its sources were first noted."""
    rows = session.rows(
        "SELECT source, status, error, message, chunks, bytes, seconds::text, pid FROM oraculo_outcomes WHERE run = "
        "(SELECT id FROM oraculo_runs WHERE name = $1::text) ORDER BY id",
        written(name),
    )
    return [
        SourceOutcome(
            read(source),
            status,
            read(error),
            read(message),
            chunks,
            size,
            json.loads(seconds),
            pid,
            store,
            name,
        )
        for source, status, error, message, chunks, size, seconds, pid in rows
    ]


def insert_feedback(session: Session, feedback: Feedback) -> int:
    """Add a row and return its number; part of the write transaction that is open."""
    texts = (
        feedback.at,
        feedback.question,
        feedback.answer,
        feedback.verdict,
        feedback.correction,
        feedback.model,
    )
    return int(
        session.one(
            "INSERT INTO oraculo_feedback(at, question, answer, verdict, correction, model, sources) VALUES ($1::text, "
            "$2::text, $3::text, $4::text, $5::text, $6::text, $7::json) RETURNING id",
            *(written(clean_text(text)) for text in texts),
            written_json(json.dumps(list(feedback.sources))),
        )
    )


def read_feedback(session: Session) -> list[Feedback]:
    """Return all rows, oldest first."""
    rows = session.rows(
        "SELECT at, question, answer, verdict, correction, model, sources::text FROM oraculo_feedback ORDER BY id"
    )
    return [
        Feedback(at, read(question), read(answer), verdict, read(correction), read(model), _cited(sources))
        for at, question, answer, verdict, correction, model, sources in rows
    ]


def _cited(sources: str) -> tuple[str, ...]:
    return tuple(json.loads(read_json(sources)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
