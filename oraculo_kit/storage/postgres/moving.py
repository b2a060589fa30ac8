"""Moving a source to another key without embedding it again; see `oraculo_kit.storage.moving`, whose rules these are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oraculo_kit.storage.moving import Renamed, changed_metadata
from oraculo_kit.storage.postgres.encoding import (
    fields_json,
    read,
    read_json,
    read_optional,
    text_array,
    written,
    written_json,
)
from oraculo_kit.storage.postgres.ledger import insert_outcomes
from oraculo_kit.storage.postgres.writing import Tally, hold_store, list_keys
from oraculo_kit.storage.records import chunk_id, clean_text, metadata_json, row_checksum, source_checksum

if TYPE_CHECKING:
    from oraculo_kit.storage.postgres.connection import Pool, Session
    from oraculo_kit.storage.values import SourceMove


def move_sources(pool: Pool, moves: Sequence[SourceMove]) -> list[bool]:
    """Move sources, one after the other, in one commit; return which were moved."""

    def body(session: Session) -> list[bool]:
        hold_store(session, pool.location.schema)
        # In the order in which writers lock them.
        session.rows(
            'SELECT id FROM oraculo_sources WHERE key = ANY($1::text[]) ORDER BY key COLLATE "C" FOR UPDATE',
            text_array(clean_text(key) for move in moves for key in (move.old, move.new)),
        )
        moved, renamed = [], Renamed()
        for move in moves:
            pairs = _moved(session, move)
            renamed.add(pairs or [])
            moved.append(pairs is not None)
        if any(moved):
            Tally().add_to(session)
            _rename_cited(session, renamed.now)
            noted = [move.outcome for move, done in zip(moves, moved, strict=True) if done and move.outcome]
            insert_outcomes(session, ((outcome.run, outcome) for outcome in noted))
        return moved

    return pool.committing(body)


def _moved(session: Session, move: SourceMove) -> list[tuple[str, str]] | None:
    """Move one source; return its chunks' old and new ids, or None when it is not to be moved."""
    old, new = clean_text(move.old), clean_text(move.new)
    rows = session.rows(
        "SELECT id, content_hash, pipeline, language, metadata::text, checksum FROM oraculo_sources "
        "WHERE key = $1::text",
        written(old),
    )
    taken = session.one("SELECT count(*) FROM oraculo_sources WHERE key = $1::text", written(new))
    if not rows or taken:
        return None
    number, content_hash, pipeline, language, stored, checksum = rows[0]
    metadata = read_json(stored)
    known = content_hash, read(pipeline)
    if content_hash is None or known != (move.ledger.content_hash, move.ledger.pipeline):
        return None
    language = read_optional(language)
    if source_checksum(old, metadata, language) != checksum:
        return None
    changes = json.loads(
        metadata_json({key: value for key, value in move.metadata.items() if key != "source"})
    )
    shared = metadata_json(json.loads(metadata) | changes)
    chunks = _planned(session, number, old, new, shared, changes)
    if chunks is None:
        return None
    _carry_out(session, number, move, new, shared, language, chunks)
    own = any(chunk["changed"] for chunk in chunks)
    list_keys(session, changes if own else (), changes)
    return [(chunk["old"], chunk["new"]) for chunk in chunks]


def _planned(
    session: Session, number: int, old: str, new: str, shared: str, changes: dict[str, Any]
) -> list[dict[str, Any]] | None:
    """Look at every chunk before anything is changed; None when one is damaged, or a new id is taken."""
    rows = session.rows(
        "SELECT number, id, ordinal, inherits, checksum, metadata::text, text FROM oraculo_chunks "
        "WHERE source = $1::bigint ORDER BY number",
        number,
    )
    planned = []
    for place, name, ordinal, inherits, checksum, metadata, text in rows:
        name, text, metadata = read(name), read(text), read_json(metadata)
        if row_checksum(name, ordinal, text, metadata) != checksum:
            return None
        now = chunk_id(new, ordinal, text) if name == chunk_id(old, ordinal, text) else name
        own = changed_metadata(metadata, changes, inherits)
        planned.append(
            {
                "number": place,
                "old": name,
                "new": now,
                "id": written(now),
                "checksum": row_checksum(now, ordinal, text, own),
                "metadata": written_json(own),
                "fields": fields_json(shared if inherits else "{}", own),
                "changed": own != metadata,
            }
        )
    # A user may have given such an id to a chunk of another source.
    taken = session.one(
        "SELECT count(*) FROM oraculo_chunks WHERE id = ANY($1::text[])",
        text_array(chunk["new"] for chunk in planned if chunk["new"] != chunk["old"]),
    )
    return None if taken else planned


def _carry_out(
    session: Session,
    number: int,
    move: SourceMove,
    key: str,
    shared: str,
    language: str | None,
    chunks: list[dict[str, Any]],
) -> None:
    session.rows(
        "UPDATE oraculo_sources SET key = $2::text, bytes = $3::bigint, mtime_ns = $4::bigint, run = $5::text, "
        "metadata = $6::json, checksum = $7::bigint WHERE id = $1::bigint",
        number,
        written(key),
        move.ledger.bytes,
        move.ledger.mtime_ns,
        written(move.ledger.run),
        written_json(shared),
        source_checksum(key, shared, language),
    )
    session.rows(
        "UPDATE oraculo_chunks c SET id = g.id, checksum = g.checksum, metadata = g.metadata::json, "
        "fields = g.fields::jsonb FROM jsonb_to_recordset($1::jsonb) AS g(number bigint, id text, checksum bigint, "
        "metadata text, fields text) WHERE c.number = g.number",
        json.dumps([{**chunk, "old": "", "new": ""} for chunk in chunks]),
    )


def _rename_cited(session: Session, renamed: dict[str, str]) -> None:
    """Let feedback cite the chunks by the ids that they have now."""
    for number, sources in session.rows("SELECT id, sources::text FROM oraculo_feedback"):
        cited = json.loads(read_json(sources))
        if not renamed.keys().isdisjoint(cited):
            now = json.dumps([renamed.get(each, each) for each in cited])
            session.rows(
                "UPDATE oraculo_feedback SET sources = $2::json WHERE id = $1::bigint",
                number,
                written_json(now),
            )
