"""An HNSW index over the vectors, with an effort that reaches the recall asked for, as measured.

The index is pgvector's, over inner products of unit vectors; beyond 2,000 dimensions over half precision, which
pgvector can index up to 4,000. It is built beside readers and writers (``CONCURRENTLY``), and every later write goes
into it at once. Scores stay exact: the index only names candidates.

``hnsw.ef_search`` is tuned as the embedded store tunes its lists (`oraculo_kit.storage.tuning`): on one half of some
queries the smallest effort that reaches the recall is found, on the other half it is measured.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.errors import QueryError, StoreUnsupportedError
from oraculo_kit.storage.index_facts import Effort, IndexFacts
from oraculo_kit.storage.optimizing import INDEX_ROWS, OptimizeReport
from oraculo_kit.storage.postgres.encoding import vectors_of_bytes
from oraculo_kit.storage.postgres.upkeep import keep_others_out
from oraculo_kit.storage.postgres.versions import Facts, hnsw_expression
from oraculo_kit.storage.postgres.writing import hold_store
from oraculo_kit.storage.tuning import Questions, held_out_queries, recall

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.postgres.connection import Pool, Session
    from oraculo_kit.storage.postgres.versions import PostgresReader, PostgresVectors

MOST_DIMENSIONS = 4000
INDEX_NAME = "oraculo_vectors_hnsw"
_EFFORTS = (10, 20, 40, 80, 120, 160, 240, 320, 480, 640, 1000)
_QUERIES = 200
_SAMPLE = 20_000
_K = 10
_CERTAINTY = 1.645  # standard errors below the mean
_PAYS = (
    0.5  # of an exact search's time, at most, or the index is not worth its writes: vectors without any order
)
_SEED = 0


def optimize(
    pool: Pool, reader: PostgresReader, target: float, queries: NDArray[np.float32] | None
) -> OptimizeReport:
    """Index the vectors of a store; see `VetorStorage.optimize`."""
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0.5 <= target <= 1:
        raise QueryError(f"recall is {target!r}, expected a number from 0.5 to 1, such as 0.95")
    started = time.perf_counter()
    shown = pool.location.shown
    with reader.pin() as version:
        rows, dimension, known = version.count(), version.manifest.dimension, version.manifest.index
    if rows < INDEX_ROWS:
        return OptimizeReport(shown, (), 0, 0, rows, time.perf_counter() - started)
    if dimension > MOST_DIMENSIONS:
        raise StoreUnsupportedError(
            f"the vectors of {shown} have {dimension} dimensions, and pgvector indexes up to {MOST_DIMENSIONS}; searches "
            "stay exact. An embedder with shorter vectors (reembed) can be indexed"
        )
    with pool.alone() as session:
        keep_others_out(pool, session, "optimising")
        built = known is None or not _is_sound(session)
        if built:
            began = time.perf_counter()
            _build(session, dimension)
        build_seconds = (
            time.perf_counter() - began if built else float(known["facts"]["build_seconds"] if known else 0)
        )
        facts = _tuned(reader, target, queries, build_seconds)
        pays = facts.seconds_per_query <= _PAYS * facts.exact_seconds_per_query

        def note(session: Session) -> None:
            hold_store(session, pool.location.schema)
            value = json.dumps({"ef": facts.efforts[0].probes, "facts": facts.to_dict()})
            Facts.of(session).set_meta("index", value if pays else None)

        pool.committing(note)
        if not pays:
            session.run(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX_NAME}")
            return OptimizeReport(shown, (), 0, 0, rows, time.perf_counter() - started)
    return OptimizeReport(shown, (facts,), int(built), rows, 0, time.perf_counter() - started)


def _is_sound(session: Session) -> bool:
    return bool(
        session.one(
            "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass($1::text) AND indisvalid",
            INDEX_NAME,
        )
    )


def _build(session: Session, dimension: int) -> None:
    over, kind = hnsw_expression(dimension)
    operators = f"{kind.partition('(')[0]}_ip_ops"
    session.run("SET maintenance_work_mem = '512MB'")
    # One that a killed build left is of no use, and no search takes it.
    session.run(f"DROP INDEX IF EXISTS {INDEX_NAME}")
    session.run(f"CREATE INDEX CONCURRENTLY {INDEX_NAME} ON oraculo_vectors USING hnsw ({over} {operators})")
    session.run("ANALYZE oraculo_vectors")


@dataclass(frozen=True)
class _Exam:
    """Queries of one kind, and the scores of their true best rows."""

    questions: Questions
    truth: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: PostgresVectors, questions: Questions) -> _Exam:
        truth, _ = vectors.top(questions.vectors, _K + questions.own, exact=True)
        return cls(questions, truth)

    def shares(self, vectors: PostgresVectors, effort: int) -> NDArray[np.float64]:
        """Return each query's recall@10."""
        own = self.questions.own
        found = np.full(self.truth.shape, -np.inf, np.float32)
        for place, query in enumerate(self.questions.vectors):
            scores = vectors.indexed_top(query, _K + own, None, effort)[1]
            found[place, : len(scores)] = scores
        hits = recall(found, self.truth) * self.truth.shape[1] - own
        shares: NDArray[np.float64] = np.clip(hits / _K, 0, 1)
        return shares


def _reaches(exams: list[_Exam], vectors: PostgresVectors, effort: int, target: float) -> bool:
    """Tell whether an effort reaches the recall on every kind, with a certainty of 95 %; see `tuning`."""
    for exam in exams:
        shares = exam.shares(vectors, effort)
        if shares.mean() - _CERTAINTY * shares.std() / np.sqrt(len(shares)) < target:
            return False
    return True


def _tuned(
    reader: PostgresReader, target: float, queries: NDArray[np.float32] | None, build_seconds: float
) -> IndexFacts:
    with reader.pin() as version:
        vectors, session = version.manifest, version.session
        real = 0 if queries is None or len(queries) < _QUERIES else _QUERIES
        kinds = (
            [Questions(queries[:_QUERIES], 0)] if queries is not None and real else _made(session, vectors)
        )
        halves = [kind.split() for kind in kinds]
        learn = [_Exam.of(vectors, half) for half, _ in halves]
        test = [_Exam.of(vectors, half) for _, half in halves]
        effort = next((each for each in _EFFORTS if _reaches(learn, vectors, each, target)), _EFFORTS[-1])
        measured = min(float(exam.shares(vectors, effort).mean()) for exam in test)
        few = test[0].questions.vectors[:20]
        return IndexFacts(
            kind="hnsw",
            rows=version.count(),
            dimension=vectors.dimension,
            lists=0,
            rerank=1.0,
            efforts=(Effort(_K, effort, 0, measured),),
            target=target,
            recall=measured,
            seconds_per_query=_median(lambda query: vectors.indexed_top(query, _K, None, effort), few),
            exact_seconds_per_query=_median(lambda query: vectors.exact_top(query, _K), few[:5]),
            build_seconds=build_seconds,
            real_queries=real,
            bytes=int(session.one("SELECT pg_relation_size($1::text::regclass)", INDEX_NAME)),
            digest="",
        )


def _made(session: Session, vectors: PostgresVectors) -> list[Questions]:
    packed = session.one(
        "SELECT string_agg(vector_send(vector), ''::bytea) FROM (SELECT vector FROM oraculo_vectors "
        "ORDER BY hashint8(number) LIMIT $1::bigint) v",
        _SAMPLE,
    )
    return list(held_out_queries(vectors_of_bytes(packed, vectors.dimension), _QUERIES, _SEED))


def _median(search: object, queries: NDArray[np.float32]) -> float:
    assert callable(search)
    seconds = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
