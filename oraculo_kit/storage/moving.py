"""Moving a source to another key without embedding it again.

The key stands in one row of the ledger, and in the ids of the chunks that are hashes over (source, ordinal, text). One
transaction changes both, and whatever holds such an id: feedback on answers that cite them. Ids that a user gave stay.
Vectors, segments and the full-text index know chunks by number only, so they are not touched, and neither are texts.

Whoever finds another content under the old key, or something under the new one, moves nothing. So of several who move
the same source exactly one does. A source with a damaged row is not moved either: new checksums would hide the damage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oraculo_kit.storage.records import (
    chunk_id,
    clean_text,
    metadata_json,
    row_checksum,
    source_checksum,
)
from oraculo_kit.storage.rows import list_keys, next_commit, numbers_of_ids
from oraculo_kit.storage.runs import insert_outcomes

if TYPE_CHECKING:
    from oraculo_kit.storage.catalog import Catalog
    from oraculo_kit.storage.values import SourceMove

__all__ = ["move_sources"]


def move_sources(catalog: Catalog, moves: Sequence[SourceMove]) -> list[bool]:
    """Move sources, one after the other, within the write transaction that is open.

    Parameters
    ----------
    catalog : Catalog
    moves : sequence of SourceMove

    Returns
    -------
    list of bool
        Which were moved.

    Raises
    ------
    SourceError
        For metadata that cannot be stored.
    """
    moved, ids = [], Renamed()
    for move in moves:
        plan = _planned(catalog, move)
        if plan is not None:
            _carry_out(catalog, move, plan)
            ids.add((chunk.old, chunk.id) for chunk in plan.chunks)
        moved.append(plan is not None)
    if any(moved):
        next_commit(catalog)
        _rename_cited(catalog, ids.now)
        noted = [move.outcome for move, done in zip(moves, moved, strict=True) if done and move.outcome]
        insert_outcomes(catalog, ((outcome.run, outcome) for outcome in noted))
    return moved


@dataclass(frozen=True, slots=True)
class _Chunk:
    number: int
    old: str
    id: str
    checksum: int
    metadata: str | None  # None: as it was


@dataclass(frozen=True, slots=True)
class _Plan:
    number: int
    language: str | None
    metadata: str
    changes: dict[str, Any]
    chunks: list[_Chunk] = field(default_factory=list)


class Renamed:
    """Ids before the first move and after the last one: a source may be moved twice in one commit."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self._first: dict[str, str] = {}

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        for old, new in pairs:
            first = self._first.pop(old, old)
            self.now[first] = new
            self._first[new] = first


def _planned(catalog: Catalog, move: SourceMove) -> _Plan | None:
    """Look at everything before anything is changed; None when the source is not to be moved."""
    rows = catalog.rows(
        "SELECT id, content_hash, pipeline, language, metadata, checksum FROM sources WHERE key = ?",
        (clean_text(move.old),),
    )
    if not rows or catalog.one("SELECT count(*) FROM sources WHERE key = ?", (clean_text(move.new),)):
        return None
    number, content_hash, pipeline, language, metadata, checksum = rows[0]
    is_same = content_hash is not None and (content_hash, pipeline) == (
        move.ledger.content_hash,
        move.ledger.pipeline,
    )
    if not is_same or source_checksum(clean_text(move.old), metadata, language) != checksum:
        return None
    given = {key: value for key, value in move.metadata.items() if key != "source"}
    plan = _Plan(number, language, metadata, json.loads(metadata_json(given)))
    if not _plan_chunks(catalog, move, plan):
        return None
    # A user may have given such an id to a chunk of another source.
    taken = numbers_of_ids(catalog, [chunk.id for chunk in plan.chunks if chunk.id != chunk.old])
    return None if len(taken) else plan


def _plan_chunks(catalog: Catalog, move: SourceMove, plan: _Plan) -> bool:
    """Add the chunks to a plan; False when one is damaged."""
    old, new = clean_text(move.old), clean_text(move.new)
    # One row at a time: the texts of a large source need not fit into memory together.
    with closing(
        catalog.db.execute(
            "SELECT number, id, ordinal, inherits, checksum, metadata, text FROM chunks WHERE source = ?",
            (plan.number,),
        )
    ) as rows:
        for number, name, ordinal, inherits, checksum, metadata, text in rows:
            if row_checksum(name, ordinal, text, metadata) != checksum:
                return False
            is_hash = name == chunk_id(old, ordinal, text)
            now = chunk_id(new, ordinal, text) if is_hash else name
            own = changed_metadata(metadata, plan.changes, bool(inherits))
            made = row_checksum(now, ordinal, text, own)
            plan.chunks.append(_Chunk(number, name, now, made, own if own != metadata else None))
    return True


def changed_metadata(metadata: str, changes: dict[str, Any], inherits: bool) -> str:
    """Return a chunk's own metadata with the changes that it does not inherit from its source."""
    if not changes:
        return metadata
    own = json.loads(metadata)
    own.update({key: value for key, value in changes.items() if key in own or not inherits})
    return metadata_json(own)


def _carry_out(catalog: Catalog, move: SourceMove, plan: _Plan) -> None:
    key, shared = clean_text(move.new), metadata_json(json.loads(plan.metadata) | plan.changes)
    catalog.db.execute(
        "UPDATE sources SET key = ?, bytes = ?, mtime_ns = ?, run = ?, metadata = ?, checksum = ? WHERE id = ?",
        (
            key,
            move.ledger.bytes,
            move.ledger.mtime_ns,
            move.ledger.run,
            shared,
            source_checksum(key, shared, plan.language),
            plan.number,
        ),
    )
    catalog.db.executemany(
        "UPDATE chunks SET id = ?, checksum = ? WHERE number = ?",
        ((chunk.id, chunk.checksum, chunk.number) for chunk in plan.chunks),
    )
    catalog.db.executemany(  # apart: it concerns the indexes of filters
        "UPDATE chunks SET metadata = ? WHERE number = ?",
        ((chunk.metadata, chunk.number) for chunk in plan.chunks if chunk.metadata is not None),
    )
    list_keys(catalog, plan.changes, "in_sources")
    if any(chunk.metadata is not None for chunk in plan.chunks):
        list_keys(catalog, plan.changes, "in_chunks")


def _rename_cited(catalog: Catalog, renamed: dict[str, str]) -> None:
    """Let feedback cite the chunks by the ids that they have now."""
    changed = []
    for number, sources in catalog.rows("SELECT id, sources FROM feedback WHERE json_valid(sources)"):
        cited = json.loads(sources)
        if not renamed.keys().isdisjoint(cited):
            changed.append((json.dumps([renamed.get(each, each) for each in cited]), number))
    catalog.db.executemany("UPDATE feedback SET sources = ? WHERE id = ?", changed)
