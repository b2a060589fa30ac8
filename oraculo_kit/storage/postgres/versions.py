"""One version of a store in PostgreSQL, with what a search asks of it.

A `PostgresVersion` lives in one ``REPEATABLE READ`` transaction, so texts, vectors and filters of a search agree
whatever others write. It answers the same questions as the embedded store's `Snapshot` (both are a
`oraculo_kit.storage.asking.Version`), which is why everything above (`searching`, `hybrid`, `candidates`, `ranking`,
`diversity`, `context`) is one and the same code for both engines.

**A filter never costs hits.** It is resolved to chunk numbers first. The exact scan compares those only. The HNSW
index, where there is one, is walked until enough of its rows pass (pgvector's iterative scan); when it gives up early,
or few rows pass from the start, the exact scan answers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import StoreClosedError, StoreCorruptedError
from oraculo_kit.storage.postgres.connection import BEGIN_READING
from oraculo_kit.storage.postgres.encoding import (
    number_array,
    numbers_of_bytes,
    read,
    read_json,
    read_optional,
    text_array,
    vector_text,
    vectors_of_bytes,
    written,
)
from oraculo_kit.storage.postgres.filters import PostgresFilter
from oraculo_kit.storage.postgres.words import Corpus, DocumentCounts, text_matches, text_top
from oraculo_kit.storage.records import merge_metadata, row_checksum, source_checksum
from oraculo_kit.storage.snapshot import StoredChunk, warn_of_lists, warn_of_unknown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.filters import Filter
    from oraculo_kit.storage.postgres.connection import Pool, Session

    Numbers = NDArray[np.int64]
    Matrix = NDArray[np.float32]

_FEW = 10_000  # rows that pass a filter are scanned exactly up to so many: some 5 ms
_MOST_SEARCH = 1000  # of hnsw.ef_search, as pgvector has it
INDEX_PREFIX = "oraculo_filter_"

# The lock before the first look: PostgreSQL pins the version with the first statement that reads. Whoever puts other
# vectors in place (`reembed`) waits for it, so that a version never finds vectors of another model.
_BEGIN = (
    f"{BEGIN_READING}; LOCK TABLE oraculo_vectors IN ACCESS SHARE MODE; SELECT key, value FROM oraculo_meta"
)


class Facts:
    """The texts of ``oraculo_meta``, as `oraculo_kit.storage.identity` asks for them."""

    def __init__(self, values: dict[str, str], session: Session) -> None:
        self.values = values
        self._session = session

    @classmethod
    def of(cls, session: Session) -> Facts:
        """Read them."""
        return cls(dict(session.rows("SELECT key, value FROM oraculo_meta")), session)

    def meta(self, key: str) -> Any:
        """Return a value, or None."""
        value = self.values.get(key)
        if value is None or key not in ("dimension", "probe", "staged_probe"):
            return value
        return int(value) if key == "dimension" else bytes.fromhex(value)

    def set_meta(self, key: str, value: Any) -> None:
        """Set a value; part of the transaction that is open. None removes it."""
        if value is None:
            self.values.pop(key, None)
            self._session.rows("DELETE FROM oraculo_meta WHERE key = $1::text", key)
            return
        self.values[key] = value.hex() if isinstance(value, bytes) else str(value)
        self._session.rows(
            "INSERT INTO oraculo_meta VALUES ($1::text, $2::text) ON CONFLICT (key) DO UPDATE SET value = "
            "excluded.value",
            key,
            self.values[key],
        )


class PostgresVectors:
    """The vectors of a version.

    Attributes
    ----------
    dimension : int
        0 while the store is empty.
    epoch, embedder : str or None
    """

    def __init__(self, session: Session, facts: Facts, shown: str) -> None:
        self._session = session
        self._shown = shown
        self.dimension = int(facts.meta("dimension") or 0)
        self.epoch = facts.meta("epoch")
        self.embedder = facts.meta("embedder")
        self.index: dict[str, Any] | None = json.loads(facts.meta("index") or "null")

    def top(
        self, queries: Matrix, k: int, allowed: Numbers | None = None, *, exact: bool = False
    ) -> tuple[Matrix, Numbers]:
        """Find the chunks with the highest cosine; see `oraculo_kit.storage.manifest.Manifest.top`."""
        scores = np.full((len(queries), k), -np.inf, np.float32)
        numbers = np.full((len(queries), k), -1, np.int64)
        for place, query in enumerate(queries):
            found, cosines = self._top_of_one(query, k, allowed, exact=exact)
            numbers[place, : len(found)], scores[place, : len(found)] = found, cosines
        return scores, numbers

    def _top_of_one(
        self, query: Matrix, k: int, allowed: Numbers | None, *, exact: bool
    ) -> tuple[Numbers, NDArray[np.float64]]:
        if not self.dimension or (allowed is not None and not len(allowed)):
            return np.zeros(0, np.int64), np.zeros(0)
        if self.index is not None and not exact and (allowed is None or len(allowed) > _FEW):
            found = self.indexed_top(query, k, allowed, int(self.index["ef"]))
            if len(found[0]) == k:
                return found
        return self.exact_top(query, k, allowed)

    def exact_top(
        self, query: Matrix, k: int, allowed: Numbers | None = None
    ) -> tuple[Numbers, NDArray[np.float64]]:
        """Compare a query with every row, or with those allowed; of equals the earlier chunk comes first."""
        among = "" if allowed is None else "WHERE number = ANY($3::bigint[])"
        values = [] if allowed is None else [number_array(allowed)]
        # "+ 0": no index knows this expression.
        rows = self._session.rows(
            f"SELECT number, -d FROM (SELECT number, (vector <#> $1::vector) + 0 AS d FROM oraculo_vectors {among}) v "
            "ORDER BY d, number LIMIT $2::bigint",
            vector_text(query),
            k,
            *values,
        )
        return _split(rows)

    def indexed_top(
        self, query: Matrix, k: int, allowed: Numbers | None, effort: int
    ) -> tuple[Numbers, NDArray[np.float64]]:
        """Walk the index; fewer than k come back when it gave up before enough rows passed."""
        among = "" if allowed is None else "WHERE number = ANY($3::bigint[])"
        values = [] if allowed is None else [number_array(allowed)]
        distance, given = hnsw_expression(self.dimension)
        with self._session.turn:
            self._session.run(
                f"SET LOCAL hnsw.ef_search = {min(max(effort, k), _MOST_SEARCH)}; "
                "SET LOCAL hnsw.iterative_scan = strict_order; SET LOCAL enable_seqscan = off"
            )
            rows = self._session.rows(
                "SELECT number, -d FROM (SELECT number, vector <#> $1::vector AS d FROM oraculo_vectors "
                f"{among} ORDER BY {distance} <#> $1::{given} LIMIT $2::bigint) v ORDER BY d, number",
                vector_text(query),
                k,
                *values,
            )
            self._session.run("SET LOCAL enable_seqscan = on")
        return _split(rows)

    def vectors_of(self, numbers: Numbers) -> tuple[Matrix, NDArray[np.bool_]]:
        """Return the vectors of chunks, zeros for one without, and which have one."""
        matrix = np.zeros((len(numbers), self.dimension), np.float32)
        if not len(numbers):
            return matrix, np.zeros(0, np.bool_)
        rows = self._session.rows(
            "SELECT string_agg(int8send(number), ''::bytea ORDER BY number), "
            "string_agg(vector_send(vector), ''::bytea ORDER BY number) FROM oraculo_vectors "
            "WHERE number = ANY($1::bigint[])",
            number_array(numbers),
        )
        known = numbers_of_bytes(rows[0][0])
        if not len(known):
            return matrix, np.zeros(len(numbers), np.bool_)
        stored = vectors_of_bytes(rows[0][1], self.dimension)
        places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        found = known[places] == numbers
        matrix[found] = stored[places[found]]
        return matrix, found


def hnsw_expression(dimension: int) -> tuple[str, str]:
    """Return what an HNSW index is made over, and the type of the query: half precision beyond 2,000 dimensions."""
    if dimension <= 2000:
        return "vector", "vector"
    return f"(vector::halfvec({dimension}))", f"halfvec({dimension})"


def _split(rows: list[list[Any]]) -> tuple[Numbers, NDArray[np.float64]]:
    return np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float64)


class PostgresVersion:
    """One version of a store; made by `PostgresReader.pin`.

    Attributes
    ----------
    session : Session
        Inside a read transaction.
    facts : Facts
    manifest : PostgresVectors
    """

    def __init__(self, session: Session, facts: Facts, counts: DocumentCounts, shown: str) -> None:
        self.session = session
        self.facts = facts
        self.manifest = PostgresVectors(session, facts, shown)
        self.shown = shown
        self._counts = counts
        self._totals: tuple[int, int] | None = None
        self._indexed: list[str] | None = None

    @property
    def _corpus(self) -> Corpus:
        if self._totals is None:
            chunks, words = self.session.rows(
                "SELECT coalesce(sum(chunks), 0)::bigint, coalesce(sum(words), 0)::bigint FROM oraculo_tallies"
            )[0]
            self._totals = int(chunks), int(words)
        return Corpus(str(self.manifest.epoch), *self._totals, self._counts)

    def count(self) -> int:
        """Return the number of chunks."""
        return self._corpus.chunks

    def indexed_keys(self) -> list[str]:
        """Return the metadata keys that have an index, sorted."""
        if self._indexed is None:
            self._indexed = indexed_keys(self.session)
        return self._indexed

    def metadata_keys(self) -> list[str]:
        """Return every metadata key but ``source``, sorted; one that no chunk has any more may be listed."""
        return [read(key) for (key,) in self.session.rows("SELECT key FROM oraculo_keys ORDER BY key")]

    def resolve(self, filter: Filter | None) -> Numbers | None:
        """Return the numbers of the chunks that pass a filter, int64 rising; None when everything passes."""
        if not filter:
            return None
        compiled = PostgresFilter(filter, self.indexed_keys())
        asked = [key for key in compiled.keys if key != "source"]
        if asked:
            known = self.metadata_keys()
            unknown = [key for key in asked if key not in known]
            if unknown and self.count():
                warn_of_unknown(unknown, known)
        found = matching(self.session, compiled)
        if compiled.lists and not len(found) and self.count():
            warn_of_lists(compiled)
        return found

    def frequency(self, stem: str) -> int:
        """Return in how many chunks a term stands."""
        corpus = self._corpus
        return corpus.counts.of(self.session, corpus.epoch, corpus.chunks, [stem])[0]

    def text_top(
        self, match: str, k: int, allowed: Numbers | None = None, essential: str | None = None
    ) -> tuple[Numbers, NDArray[np.float64]]:
        """Find the chunks with the highest BM25; see `oraculo_kit.storage.snapshot.Snapshot.text_top`."""
        if allowed is not None and not len(allowed):
            return np.zeros(0, np.int64), np.zeros(0)
        return text_top(self.session, match, k, allowed, essential, self._corpus)

    def text_matches(self, match: str) -> Numbers:
        """Return the numbers of all chunks that an expression matches, int64 rising."""
        return text_matches(self.session, match)

    def chunks(self, numbers: Numbers) -> list[StoredChunk]:
        """Read chunks by number, in the order given; a number without a chunk is left out."""
        found = self._chunks("c.number = ANY($1::bigint[])", number_array(numbers))
        by_number = {chunk.number: chunk for chunk in found}
        return [by_number[number] for number in numbers.tolist() if number in by_number]

    def chunks_by_id(self, ids: Sequence[str]) -> list[StoredChunk]:
        """Read chunks by id, in the order given; unknown ids are left out."""
        found = self._chunks("c.id = ANY($1::text[])", text_array(ids))
        by_id = {chunk.id: chunk for chunk in found}
        return [by_id[each] for each in ids if each in by_id]

    def page(self, after: int, size: int) -> list[StoredChunk]:
        """Return up to `size` chunks with a number greater than `after`, by number."""
        return self._chunks("c.number > $1::bigint ORDER BY c.number LIMIT $2::bigint", after, size)

    def between(self, source: str, first: int, last: int) -> list[StoredChunk]:
        """Read the chunks of a source from place `first` to place `last`, both included, in order."""
        return self._chunks(
            "s.key = $1::text AND c.ordinal BETWEEN $2::bigint AND $3::bigint ORDER BY c.ordinal, c.number",
            written(source),
            first,
            last,
        )

    def _chunks(self, where: str, *values: Any) -> list[StoredChunk]:
        rows = self.session.rows(
            "SELECT c.number, c.id, c.ordinal, c.text, c.metadata::text, c.inherits, c.checksum, s.key, "
            "s.metadata::text, s.language, s.checksum FROM oraculo_chunks c JOIN oraculo_sources s ON s.id = c.source "
            f"WHERE {where}",
            *values,
        )
        chunks = []
        checked: set[str] = set()
        for (
            number,
            name,
            ordinal,
            text,
            metadata,
            inherits,
            checksum,
            source,
            shared,
            language,
            of_source,
        ) in rows:
            name, text, metadata = read(name), read(text), read_json(metadata)
            source, shared = read(source), read_json(shared)
            if source not in checked:
                check_source(self.shown, source, shared, read_optional(language), of_source)
                checked.add(source)
            if row_checksum(name, ordinal, text, metadata) != checksum:
                raise StoreCorruptedError(
                    f"the chunk {name} of source {source!r} in {self.shown} is damaged: its text or metadata does not "
                    "match its checksum. `oraculo repair` removes what is damaged; ingesting its source again mends it"
                )
            merged = merge_metadata(source, shared, metadata, bool(inherits))
            chunks.append(StoredChunk(number, name, source, ordinal, text, merged))
        return chunks


def check_source(shown: str, key: str, metadata: str, language: str | None, checksum: int) -> None:
    """Refuse a row of the ledger that is not what was written.

    Raises
    ------
    StoreCorruptedError
    """
    if source_checksum(key, metadata, language) != checksum:
        raise StoreCorruptedError(
            f"the ledger's row of source {key!r} in {shown} is damaged: its key, language or metadata does not match its "
            "checksum. Run `oraculo repair`, or ingest the source again"
        )


def matching(session: Session, filter: PostgresFilter) -> Numbers:
    """Return the numbers of the chunks that pass a filter, int64 rising; within the transaction that is open."""
    packed = session.one(
        f"SELECT string_agg(int8send(c.number), ''::bytea) FROM oraculo_chunks c WHERE {filter.sql}",
        *filter.values,
    )
    return np.sort(numbers_of_bytes(packed))


def indexed_keys(session: Session) -> list[str]:
    """Return the metadata keys that have an index, sorted, as the transaction sees them."""
    rows = session.rows(
        "SELECT obj_description(i.indexrelid, 'pg_class') FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid "
        "WHERE i.indrelid = 'oraculo_chunks'::regclass AND i.indisvalid AND starts_with(n.relname, $1::text) "
        "AND obj_description(i.indexrelid, 'pg_class') IS NOT NULL",
        INDEX_PREFIX,
    )
    return sorted(read(key) for (key,) in rows)


class PostgresReader:
    """The reading side of a store; shared by the threads of a process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._counts = DocumentCounts()
        self._closed = threading.Event()

    @contextmanager
    def pin(self) -> Iterator[PostgresVersion]:
        """Pin the newest version for the body of a ``with``."""
        shown = self._pool.location.shown
        if self._closed.is_set():
            raise StoreClosedError(f"the store {shown} was closed; open it again with open_storage()")
        with self._pool.reading(_BEGIN) as session:
            facts = Facts({str(key): str(value) for key, value in session.begun}, session)
            yield PostgresVersion(session, facts, self._counts, shown)

    def close(self) -> None:
        """Refuse from now on."""
        self._closed.set()
