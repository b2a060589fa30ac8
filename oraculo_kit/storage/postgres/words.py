"""Full text in PostgreSQL with the scores of the embedded store: BM25 as SQLite's FTS5 computes it.

The stems are ours (`oraculo_kit.storage.stems`), so both stores find the same words. A query comes as the expression
that the embedded store gives to FTS5, made of quoted terms: any of some stems, all of some phrases. The GIN index
finds the chunks that can match; how often each term stands in them is counted in their stems, and the scores are
computed here, in float64, by FTS5's formula::

    score = sum over terms of  idf * f * (k1 + 1) / (f + k1 * (1 - b + b * length / average length))
    idf   = max(log((N - n + 0.5) / (n + 0.5)), 1e-6),    k1 = 1.2, b = 0.75

PostgreSQL's own `ts_rank` knows neither how rare a word is nor how long the chunks are.

In how many chunks a term stands (`n`) is counted exactly, and remembered while the number of chunks changes by no more
than 2 % (`DocumentCounts`): then a weight is off by at most 0.02 of some 5.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.storage.postgres.encoding import number_array
from oraculo_kit.storage.postgres.schema import TERMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.postgres.connection import Session

    Numbers = NDArray[np.int64]

_K1, _B = 1.2, 0.75
_LEAST_WEIGHT = 1e-6
_DRIFT = 0.02
_KEPT = 50_000
_IN_SQL = 20_000  # numbers of allowed chunks that travel to the server; more are compared here

_CLAUSE = re.compile(r"\(([^()]*)\)")
_TERM = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class Expression:
    """What `TextQuery.match_expression` says: every clause is required, of a clause any term is enough.

    Attributes
    ----------
    clauses : tuple of tuple of str
        Terms of the index; one with a space in it stands for stems in a row.

    Examples
    --------
    >>> found = Expression.parse('("not fiscal") AND ("emit" OR "praz")')
    >>> found.clauses
    (('not fiscal',), ('emit', 'praz'))
    >>> print(found.tsquery)
    (('not' & 'fiscal')) & ('emit' | 'praz')
    """

    clauses: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, match: str) -> Expression:
        """Read an expression of ours; a user's text never comes here."""
        return cls(tuple(tuple(_TERM.findall(clause)) for clause in _CLAUSE.findall(match)))

    @property
    def tsquery(self) -> str:
        """What the index is asked: for a row of stems all of them, wherever they stand."""
        return " & ".join(f"({' | '.join(map(_lexemes, clause))})" for clause in self.clauses)

    @property
    def terms(self) -> list[str]:
        """All terms in order; one that stands twice counts twice, as with FTS5."""
        return [term for clause in self.clauses for term in clause]


def _lexemes(term: str) -> str:
    stems = ["'" + stem.replace("\\", "\\\\").replace("'", "''") + "'" for stem in term.split()]
    return stems[0] if len(stems) == 1 else f"({' & '.join(stems)})" if stems else "''"


def spaced(term: str) -> str:
    """Return stems as they stand in ``oraculo_words``: two spaces between them, one at both ends.

    Examples
    --------
    >>> spaced("not fiscal")
    ' not  fiscal '
    """
    return "".join(f" {stem} " for stem in term.split())


class DocumentCounts:
    """In how many chunks terms stand, for one process: shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = ""
        self._counts: dict[str, tuple[int, int]] = {}

    def of(self, session: Session, epoch: str, chunks: int, terms: Sequence[str]) -> list[int]:
        """Return the counts of terms, in order."""
        with self._lock:
            if epoch != self._epoch or len(self._counts) > _KEPT:
                self._epoch, self._counts = epoch, {}
            counts = self._counts
        found: dict[str, int] = {}
        for term in dict.fromkeys(terms):
            count, then = counts.get(term, (0, -1))
            # What stood nowhere is counted again each time: new text with a new word must be found.
            if not count or abs(chunks - then) > _DRIFT * chunks:
                count = _count(session, term)
                counts[term] = count, chunks
            found[term] = count
        return [found[term] for term in terms]


def _count(session: Session, term: str) -> int:
    sql, values = f"SELECT count(*) FROM oraculo_words WHERE {TERMS} @@ $1::tsquery", [_lexemes(term)]
    if " " in term:
        sql, values = sql + " AND strpos(stems, $2::text) > 0", [*values, spaced(term)]
    return int(_by_index(session, sql, values))


def _by_index(session: Session, sql: str, values: Sequence[str]) -> Any:
    """Return the one value of a query that no scan of the table answers.

    The server believes that making a row's tsvector costs next to nothing, and makes those of all rows rather than read
    an index: 50 to 100 ms for each term of a store with 2,000 chunks.
    """
    with session.turn:
        session.run("SET LOCAL enable_seqscan = off")
        found = session.one(sql, *values)
        session.run("SET LOCAL enable_seqscan = on")
    return found


def _matched(
    session: Session, required: Sequence[Expression], terms: Sequence[str], allowed: Numbers | None
) -> tuple[Numbers, NDArray[np.float64], NDArray[np.float64]]:
    """Return what the index finds: numbers, lengths (n,) and how often each term stands there (n, terms)."""
    values = [" & ".join(expression.tsquery for expression in required)]
    columns = ["int8send(number)", "int4send(length)"]
    for term in terms:
        values.append(spaced(term))
        part = f"${len(values)}::text"
        columns.append(
            f"int4send((octet_length(stems) - octet_length(replace(stems, {part}, ''))) / octet_length({part}))"
        )
    among = ""
    if allowed is not None and len(allowed) <= _IN_SQL:
        values.append(number_array(allowed))
        among = f"AND number = ANY(${len(values)}::bigint[])"
    packed = _by_index(
        session,
        f"SELECT string_agg({' || '.join(columns)}, ''::bytea) FROM oraculo_words WHERE {TERMS} @@ $1::tsquery {among}",
        values,
    )
    record = np.dtype([("number", ">i8"), ("length", ">i4"), ("counts", ">i4", (len(terms),))])
    rows = np.frombuffer(packed or b"", record)
    rows = rows[np.argsort(rows["number"], kind="stable")]
    if allowed is not None and not among:
        rows = rows[np.isin(rows["number"].astype(np.int64), allowed)]
    return (
        rows["number"].astype(np.int64),
        rows["length"].astype(np.float64),
        rows["counts"].astype(np.float64).reshape(len(rows), len(terms)),
    )


def _passing(counts: NDArray[np.float64], expressions: Sequence[Expression]) -> NDArray[np.bool_]:
    """Return which rows have every clause, in this very order of stems."""
    passing, at = np.ones(len(counts), np.bool_), 0
    for expression in expressions:
        for clause in expression.clauses:
            passing &= (counts[:, at : at + len(clause)] > 0).any(axis=1)
            at += len(clause)
    return passing


def text_matches(session: Session, match: str) -> Numbers:
    """Return the numbers of all chunks that an expression matches, int64 rising."""
    expression = Expression.parse(match)
    numbers, _, counts = _matched(session, [expression], expression.terms, None)
    return numbers[_passing(counts, [expression])]


def text_top(
    session: Session,
    match: str,
    k: int,
    allowed: Numbers | None,
    essential: str | None,
    corpus: Corpus,
) -> tuple[Numbers, NDArray[np.float64]]:
    """Find the chunks with the highest BM25; see `oraculo_kit.storage.snapshot.Snapshot.text_top`."""
    expressions = [Expression.parse(match)]
    if essential is not None:
        expressions.append(Expression.parse(essential))
    terms = [term for expression in expressions for term in expression.terms]
    scored = expressions[0].terms
    numbers, lengths, counts = _matched(session, expressions, terms, allowed)
    passing = _passing(counts, expressions)
    numbers, lengths, counts = numbers[passing], lengths[passing], counts[passing, : len(scored)]
    known = corpus.counts.of(session, corpus.epoch, corpus.chunks, scored)
    scores = bm25(counts, lengths, np.array(known, np.float64), corpus.chunks, corpus.words)
    best = np.lexsort((numbers, -scores))[:k]
    return numbers[best], scores[best]


@dataclass(frozen=True)
class Corpus:
    """What BM25 needs to know of all chunks together."""

    epoch: str
    chunks: int
    words: int
    counts: DocumentCounts


def bm25(
    counts: NDArray[np.float64],
    lengths: NDArray[np.float64],
    known: NDArray[np.float64],
    chunks: int,
    words: int,
) -> NDArray[np.float64]:
    """Return the BM25 of chunks, as FTS5 computes it.

    Parameters
    ----------
    counts : numpy.ndarray
        float64 (n, terms): how often each term stands in each chunk.
    lengths : numpy.ndarray
        float64 (n,): words of each chunk.
    known : numpy.ndarray
        float64 (terms,): in how many chunks each term stands.
    chunks, words : int
        Of the whole store.

    Returns
    -------
    numpy.ndarray
        float64 (n,).

    Examples
    --------
    >>> bm25(np.array([[1.0], [3.0]]), np.array([10.0, 10.0]), np.array([2.0]), 8, 80).round(3)
    array([0.956, 1.502])
    """
    weights = np.maximum(np.log((np.maximum(chunks - known, 0) + 0.5) / (known + 0.5)), _LEAST_WEIGHT)
    shape = _K1 * (1 - _B + _B * lengths[:, None] * (chunks / max(words, 1)))
    found: NDArray[np.float64] = (weights * (counts * (_K1 + 1)) / (counts + shape)).sum(axis=1)
    return found
