"""Check a store in PostgreSQL, and rebuild what can be rebuilt.

PostgreSQL guards its own pages (data checksums, ``pg_amcheck``); what is checked here is what it cannot know: the
checksums of texts, metadata and vectors as they were written, that the stems are those of the texts, and that chunks,
words, vectors, ledger and totals tell the same story. Page by page, each in a version of its own, beside readers and
writers.

`repair` works on the same findings, page by page, each page in a commit: words are made again from the texts, vectors by
the store's embedder from the texts too, totals and counts from the rows. A chunk whose text is damaged is removed, and
its source is read again by the next ingestion.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import StorageError
from oraculo_kit.storage.fulltext import STEMMER_VERSION, stem_text
from oraculo_kit.storage.postgres.encoding import (
    binary_rows,
    number_array,
    numbers_of_bytes,
    read,
    read_json,
    read_optional,
    vectors_of_bytes,
)
from oraculo_kit.storage.postgres.upkeep import keep_others_out
from oraculo_kit.storage.postgres.versions import Facts
from oraculo_kit.storage.postgres.words import spaced
from oraculo_kit.storage.postgres.writing import Tally, delete_chunks, hold_store, vector_rows, word_row
from oraculo_kit.storage.records import row_checksum, source_checksum
from oraculo_kit.storage.repairing import RepairReport
from oraculo_kit.storage.verify import Problems, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage.identity import EmbedderIdentity
    from oraculo_kit.storage.postgres.connection import Pool, Session

_PAGE = 1000
_UNIT = 1e-3  # a vector's length differs from one by less
_ORPHANS = (
    ("oraculo_words", "words"),
    ("oraculo_vectors", "vectors"),
)


@dataclass
class Findings:
    """What is wrong on a page, by chunk number."""

    damaged: dict[int, str] = field(default_factory=dict)
    words: dict[int, str] = field(default_factory=dict)
    vectors: dict[int, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """Return one sentence for each."""
        return [*self.sources.values(), *self.damaged.values(), *self.words.values(), *self.vectors.values()]


def verify(pool: Pool, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Check every invariant of the store; see `VetorStorage.verify`."""
    started = time.perf_counter()
    problems = Problems()
    counts = {"chunks": 0, "sources": 0}

    def note(findings: Findings) -> None:
        for sentence in findings.sentences():
            problems.add(sentence)

    try:
        counts["chunks"] = each_page(pool, note)
        counts["sources"] = _check_ledger(pool, problems)
        if progress is not None:
            progress(counts["chunks"], counts["chunks"])
    except StorageError as exc:
        problems.add(str(exc))
    return VerifyReport(
        pool.location.shown, problems.listed(), **counts, seconds=time.perf_counter() - started
    )


def each_page(pool: Pool, note: Callable[[Findings], None]) -> int:
    """Examine all chunks, a page at a time, and hand over what is wrong; return how many there are."""
    after, count = -1, 0
    while True:
        with pool.reading() as session:
            rows = session.rows(
                "SELECT c.number, c.id, c.ordinal, c.metadata::text, c.text, c.checksum, s.key, w.length, w.stems "
                "FROM oraculo_chunks c LEFT JOIN oraculo_sources s ON s.id = c.source LEFT JOIN oraculo_words w "
                "ON w.number = c.number WHERE c.number > $1::bigint ORDER BY c.number LIMIT $2::bigint",
                after,
                _PAGE,
            )
            if not rows:
                return count
            dimension = int(Facts.of(session).meta("dimension") or 0)
            findings = Findings()
            _check_rows(rows, findings)
            _check_vectors(session, rows, dimension, findings)
        note(findings)
        after, count = rows[-1][0], count + len(rows)


def _check_rows(rows: list[list[Any]], findings: Findings) -> None:
    for number, name, ordinal, metadata, text, checksum, source, length, stems in rows:
        plain = read(text)
        of = (
            f"the chunk {read(name)} of source {read(source)!r}"
            if source is not None
            else f"the chunk {read(name)}"
        )
        if source is None:
            findings.damaged[number] = f"{of} belongs to no source"
        elif row_checksum(read(name), ordinal, plain, read_json(metadata)) != checksum:
            findings.damaged[number] = f"{of} is damaged: its text or metadata does not match its checksum"
        else:
            known = stem_text(plain)
            if stems != spaced(known) or length != len(known.split()):
                findings.words[number] = f"{of} is indexed by words that are not those of its text"


def _check_vectors(session: Session, rows: list[list[Any]], dimension: int, findings: Findings) -> None:
    numbers = [row[0] for row in rows if row[0] not in findings.damaged]
    found = session.rows(
        "SELECT string_agg(int8send(number), ''::bytea ORDER BY number), string_agg(int8send(checksum), ''::bytea "
        "ORDER BY number), string_agg(vector_send(vector), ''::bytea ORDER BY number) FROM oraculo_vectors "
        "WHERE number = ANY($1::bigint[])",
        number_array(numbers),
    )[0]
    known, sums = numbers_of_bytes(found[0]).tolist(), numbers_of_bytes(found[1]).tolist()
    vectors = vectors_of_bytes(found[2] or b"", dimension) if dimension else np.zeros((0, 0), np.float32)
    for number in set(numbers).difference(known):
        findings.vectors[number] = f"the chunk number {number} has no vector"
    lengths = np.linalg.norm(vectors, axis=1) if len(vectors) else []
    for number, checksum, vector, length in zip(known, sums, vectors, lengths, strict=True):
        if zlib.crc32(np.ascontiguousarray(vector, "<f4").tobytes()) != checksum or abs(length - 1) > _UNIT:
            findings.vectors[number] = f"the vector of the chunk number {number} does not match its checksum"


def _check_ledger(pool: Pool, problems: Problems) -> int:
    with pool.reading() as session:
        for table, what in _ORPHANS:
            count = session.one(
                f"SELECT count(*) FROM {table} t WHERE NOT EXISTS (SELECT FROM oraculo_chunks c WHERE c.number = "
                "t.number)"
            )
            if count:
                problems.add(f"{count} rows of {table} are {what} of no chunk")
        rows = session.rows(
            "SELECT s.key, s.metadata::text, s.language, s.checksum, s.chunk_count, coalesce(n.count, 0) FROM "
            "oraculo_sources s LEFT JOIN (SELECT source, count(*) AS count FROM oraculo_chunks GROUP BY source) n "
            "ON n.source = s.id"
        )
        for key, metadata, language, checksum, counted, there in rows:
            name = read(key)
            if source_checksum(name, read_json(metadata), read_optional(language)) != checksum:
                problems.add(f"the ledger's row of source {name!r} does not match its checksum")
            if counted != there:
                problems.add(f"the ledger counts {counted} chunks of source {name!r}, and there are {there}")
        for what, noted, there in _totals(session):
            if noted != there:
                problems.add(f"the totals count {noted} {what}, and there are {there}")
    return len(rows)


def _totals(session: Session) -> list[list[Any]]:
    return session.rows(
        "SELECT 'chunks', (SELECT coalesce(sum(chunks), 0)::bigint FROM oraculo_tallies), (SELECT count(*) FROM "
        "oraculo_chunks) UNION ALL SELECT 'words', (SELECT coalesce(sum(words), 0)::bigint FROM oraculo_tallies), "
        "(SELECT coalesce(sum(length), 0)::bigint FROM oraculo_words)"
    )


def repair(pool: Pool, embedder: Embedder, identity: EmbedderIdentity) -> RepairReport:
    """Rebuild what can be rebuilt, and name what is lost; see `VetorStorage.repair`."""
    started = time.perf_counter()
    done: list[str] = []
    lost: list[str] = []
    with pool.alone() as held:
        keep_others_out(pool, held, "repairing")
        if not verify(pool).ok or _is_of_another_stemmer(pool):
            each_page(pool, lambda findings: _mend_page(pool, findings, embedder, identity, done, lost))
            done += pool.committing(lambda session: _mend_ledger(session, pool.location.schema))
    report = verify(pool)
    return RepairReport(
        pool.location.shown, tuple(done), tuple(lost), report.problems, "", time.perf_counter() - started
    )


def _is_of_another_stemmer(pool: Pool) -> bool:
    with pool.reading() as session:
        return bool(Facts.of(session).meta("stemmer") != STEMMER_VERSION)


def _mend_page(
    pool: Pool,
    findings: Findings,
    embedder: Embedder,
    identity: EmbedderIdentity,
    done: list[str],
    lost: list[str],
) -> None:
    if not findings.sentences():
        return
    wanted = sorted({*findings.words, *findings.vectors})
    with pool.reading() as session:
        rows = session.rows(
            "SELECT number, text FROM oraculo_chunks WHERE number = ANY($1::bigint[])", number_array(wanted)
        )
        facts = Facts.of(session)
        if findings.vectors:
            identity.check(facts, pool.location.shown)
    texts = {number: read(text) for number, text in rows}
    words = [word_row(number, stem_text(texts[number])) for number in findings.words if number in texts]
    again = [number for number in findings.vectors if number in texts]
    embedded = vector_rows(embedder.embed([texts[number] for number in again])) if again else []
    vectors = [(number, *vector) for number, vector in zip(again, embedded, strict=True)]

    def body(session: Session) -> None:
        hold_store(session, pool.location.schema, alone=True)
        there = session.rows(
            "SELECT number FROM oraculo_chunks WHERE number = ANY($1::bigint[])", number_array(wanted)
        )
        alive = {number for (number,) in there}
        for table, kinds, made in (("oraculo_words", "qit", words), ("oraculo_vectors", "qqv", vectors)):
            kept = [row for row in made if row[0] in alive]
            session.rows(
                f"DELETE FROM {table} WHERE number = ANY($1::bigint[])", number_array(row[0] for row in kept)
            )
            session.copy(table, binary_rows(kinds, kept))
        if findings.damaged:
            tally = Tally()
            delete_chunks(session, np.array(list(findings.damaged), np.int64), tally)
            session.rows(
                "DELETE FROM oraculo_chunks WHERE number = ANY($1::bigint[])", number_array(findings.damaged)
            )
            tally.add_to(session)

    pool.committing(body)
    done += [f"indexed anew: {sentence}" for sentence in findings.words.values()]
    done += [f"embedded anew: {sentence}" for sentence in findings.vectors.values()]
    lost += [f"removed: {sentence}" for sentence in findings.damaged.values()]


def _mend_ledger(session: Session, schema: str) -> list[str]:
    hold_store(session, schema, alone=True)
    done = []
    for table, what in _ORPHANS:
        gone = session.rows(
            f"DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM oraculo_chunks c WHERE c.number = t.number) "
            "RETURNING number"
        )
        done += [f"dropped {len(gone)} {what} of no chunk"] if gone else []
    for key, number, metadata, language, checksum in session.rows(
        "SELECT key, id, metadata::text, language, checksum FROM oraculo_sources"
    ):
        sound = source_checksum(read(key), read_json(metadata), read_optional(language))
        if sound != checksum:
            session.rows(
                "UPDATE oraculo_sources SET checksum = $2::bigint, content_hash = NULL WHERE id = $1::bigint",
                number,
                sound,
            )
            done.append(f"accepted the ledger's row of source {read(key)!r} as it is; it will be read again")
    counted = session.rows(
        "UPDATE oraculo_sources s SET chunk_count = n.count, content_hash = NULL FROM (SELECT s.id, count(c.number) "
        "AS count FROM oraculo_sources s LEFT JOIN oraculo_chunks c ON c.source = s.id GROUP BY s.id) n "
        "WHERE n.id = s.id AND n.count <> s.chunk_count RETURNING s.key"
    )
    done += [f"counted the chunks of source {read(key)!r} anew" for (key,) in counted]
    tally = Tally()
    for what, noted, there in _totals(session):
        if noted != there:
            setattr(tally, what, there - noted)
            done.append(f"counted the {what} anew")
    if tally.chunks or tally.words:
        tally.add_to(session)
    Facts.of(session).set_meta("stemmer", STEMMER_VERSION)
    return done
