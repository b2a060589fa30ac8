"""One pinned version of a store, and what can be asked of it.

A `Snapshot` is a read transaction on the catalog together with the manifest of the same commit, so that
vectors, texts and filters of one search agree whatever other processes write meanwhile. It lives for one call:
no read transaction outlives it.

`Reader` hands out snapshots. It compares commit numbers (one look-up) and loads only what changed.
"""

from __future__ import annotations

import difflib
import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import numpy as np

from oraculo_kit.errors import QueryError, StoreCorruptedError
from oraculo_kit.storage.catalog import Catalog, ReaderPool
from oraculo_kit.storage.filter_indexes import KeyPlaces
from oraculo_kit.storage.filters import CompiledFilter, Filter
from oraculo_kit.storage.manifest import Manifest, load_manifest
from oraculo_kit.storage.matching import matching, matching_in_parts
from oraculo_kit.storage.records import merge_metadata, row_checksum, source_checksum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]


MAX_K = 100_000
"""Hits of one query, at most."""


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as read back and checked."""

    number: int
    id: str
    source: str
    ordinal: int
    text: str
    metadata: dict[str, Any]


class Snapshot:
    """One version of the store; made by `Reader.pin`.

    Attributes
    ----------
    catalog : Catalog
        Inside a read transaction.
    manifest : Manifest
        The vectors of the same commit.
    another : callable or None
        Pins the newest version once more, for a thread that helps.
    """

    def __init__(
        self,
        catalog: Catalog,
        manifest: Manifest,
        another: Callable[[], AbstractContextManager[Snapshot]] | None = None,
    ) -> None:
        self.catalog = catalog
        self.manifest = manifest
        self.another = another

    def count(self) -> int:
        """Return the number of chunks."""
        return int(self.catalog.one("SELECT coalesce(sum(chunk_count), 0) FROM sources"))

    def resolve(self, filter: Filter | None) -> Numbers | None:
        """Return the numbers of the chunks that pass a filter, int64 rising; None when everything passes.

        Raises
        ------
        FilterError
            When the filter cannot be understood.

        Warns
        -----
        UserWarning
            When it asks for a key that no chunk of the store has, or for a list that none has.
        """
        if not filter:
            return None
        compiled = CompiledFilter(filter, KeyPlaces(self.catalog))
        self._warn_of_unknown(compiled)
        if self.another is None:
            found = matching(self.catalog, compiled)
        else:
            found = matching_in_parts(self, compiled, self.another)
        if compiled.lists and not len(found) and self.count():
            warn_of_lists(compiled)
        return found

    def _warn_of_unknown(self, compiled: CompiledFilter) -> None:
        places = {key: compiled.place_of(key) for key in compiled.keys if key != "source"}
        unknown = [key for key, place in places.items() if not (place.in_chunks or place.in_sources)]
        if not unknown or not self.count():
            return
        warn_of_unknown(unknown, self.metadata_keys())

    def metadata_keys(self) -> list[str]:
        """Return every metadata key but ``source``, sorted; one that no chunk has any more may be listed."""
        return [key for (key,) in self.catalog.rows("SELECT key FROM metadata_keys ORDER BY key")]

    def frequency(self, stem: str) -> int:
        """Return in how many chunks a term of the full-text index stands; it may be several stems in a row."""
        return int(
            self.catalog.one("SELECT count(*) FROM chunk_text WHERE chunk_text MATCH ?", (f'"{stem}"',))
        )

    def text_top(
        self, match: str, k: int, allowed: Numbers | None = None, essential: str | None = None
    ) -> tuple[Numbers, NDArray[np.float64]]:
        """Find the chunks with the highest BM25.

        Parameters
        ----------
        match : str
            An FTS5 expression made by `TextQuery.match_expression`; never a user's text.
        k : int
        allowed : numpy.ndarray, optional
            int64, rising: only these chunks.
        essential : str, optional
            Another such expression, of stems that `match` has too and must not require: only chunks that match both.

        Returns
        -------
        numbers : numpy.ndarray
            int64 (n,), n <= k.
        scores : numpy.ndarray
            float64 (n,), falling, greater is better.
        """
        among, bindings = "", {"match": match, "k": k, "essential": essential}
        if allowed is not None:
            # "+rowid": look rows up in the list, do not ask the full-text index once per allowed row.
            among = "AND +rowid IN carray(:allowed)"
            bindings["allowed"] = apsw.carray(np.ascontiguousarray(allowed)) if len(allowed) else None
            if not len(allowed):
                return np.zeros(0, np.int64), np.zeros(0)
        # By the expression, not by FTS5's own `rank` column: that sorts every match inside FTS5 first, which costs
        # 1.6 times as much, and scores those that are not allowed too. Of equals the earlier chunk comes first.
        scored = (
            f"SELECT rowid, -bm25(chunk_text) AS score FROM chunk_text WHERE chunk_text MATCH :match {among}"
        )
        if essential is not None:
            # FTS5 goes from match to match of the rare side of an AND, which is several times as fast as a subquery.
            # But then the rare stems count twice: what they give alone is subtracted.
            bindings["match"] = f"{essential} AND {match}"
            scored = (
                f"SELECT rowid, sum(score) AS score FROM ({scored} UNION ALL SELECT rowid, bm25(chunk_text) "
                f"FROM chunk_text WHERE chunk_text MATCH :essential {among}) GROUP BY rowid"
            )
        rows = self.catalog.rows(f"{scored} ORDER BY score DESC, rowid LIMIT :k", bindings)
        return np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float64)

    def text_matches(self, match: str) -> Numbers:
        """Return the numbers of all chunks that an expression matches, int64 rising."""
        rows = self.catalog.rows(
            "SELECT rowid FROM chunk_text WHERE chunk_text MATCH ? ORDER BY rowid", (match,)
        )
        return np.array([number for (number,) in rows], np.int64)

    def chunks(self, numbers: Numbers) -> list[StoredChunk]:
        """Read chunks by number, in the order given; a number without a chunk is left out.

        Raises
        ------
        StoreCorruptedError
            When a row does not match its checksum.
        """
        return self._chunks(
            "c.number IN (SELECT value FROM json_each(:wanted))", json.dumps(numbers.tolist()), numbers
        )

    def chunks_by_id(self, ids: Sequence[str]) -> list[StoredChunk]:
        """Read chunks by id, in the order given; unknown ids are left out."""
        found = self._chunks("c.id IN (SELECT value FROM json_each(:wanted))", json.dumps(list(ids)), None)
        by_id = {chunk.id: chunk for chunk in found}
        return [by_id[chunk_id] for chunk_id in ids if chunk_id in by_id]

    def page(self, after: int, size: int) -> list[StoredChunk]:
        """Return up to `size` chunks with a number greater than `after`, by number."""
        wanted = json.dumps([after, size])
        return self._chunks("c.number > :wanted ->> 0 ORDER BY c.number LIMIT :wanted ->> 1", wanted, None)

    def between(self, source: str, first: int, last: int) -> list[StoredChunk]:
        """Read the chunks of a source from place `first` to place `last`, both included, in order."""
        wanted = json.dumps([source, first, last])
        return self._chunks(
            "s.key = :wanted ->> 0 AND c.ordinal BETWEEN :wanted ->> 1 AND :wanted ->> 2 ORDER BY c.ordinal, c.number",
            wanted,
            None,
        )

    def _chunks(self, where: str, wanted: str, order: Numbers | None) -> list[StoredChunk]:
        rows = self.catalog.rows(
            "SELECT c.number, c.id, c.ordinal, c.text, c.metadata, c.inherits, c.checksum, s.key, s.metadata, "
            "s.language, s.checksum "
            f"FROM chunks c JOIN sources s ON s.id = c.source WHERE {where}",
            {"wanted": wanted},
        )
        chunks = []
        checked: set[str] = set()
        for number, chunk_id, ordinal, text, metadata, inherits, checksum, source, shared, *ledger in rows:
            if source not in checked:
                check_source(self.catalog, source, shared, *ledger)
                checked.add(source)
            if row_checksum(chunk_id, ordinal, text, metadata) != checksum:
                raise StoreCorruptedError(
                    f"the chunk {chunk_id} of source {source!r} in {self.catalog.path} is damaged: its text or "
                    "metadata does not match its checksum. `oraculo repair` removes what is damaged; "
                    "ingesting its source again mends it"
                )
            merged = merge_metadata(source, shared, metadata, bool(inherits))
            chunks.append(StoredChunk(number, chunk_id, source, ordinal, text, merged))
        if order is not None:
            by_number = {chunk.number: chunk for chunk in chunks}
            chunks = [by_number[number] for number in order.tolist() if number in by_number]
        return chunks


def check_source(catalog: Catalog, key: str, metadata: str, language: str | None, checksum: int) -> None:
    """Refuse a row of the ledger that is not what was written.

    Raises
    ------
    StoreCorruptedError
    """
    if source_checksum(key, metadata, language) != checksum:
        raise StoreCorruptedError(
            f"the ledger's row of source {key!r} in {catalog.path} is damaged: its key, language or metadata does not "
            "match its checksum. Run `oraculo repair`, or ingest the source again"
        )


def warn_of_unknown(unknown: Sequence[str], known: Sequence[str]) -> None:
    """Warn the user of metadata keys that a filter asks for and no chunk has; name the nearest."""
    for key in unknown:
        near = difflib.get_close_matches(key, known, 1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"known keys: {', '.join(known[:20]) or 'none but source'}"
        )
        warnings.warn(
            f"no chunk has the metadata key {key!r}; {hint}", UserWarning, stacklevel=_users_level()
        )


def warn_of_lists(filter: CompiledFilter) -> None:
    """Warn the user of lists that no chunk has, where any of their values may have been meant."""
    for key, values in filter.lists.items():
        warnings.warn(
            f"no chunk passes, and the filter asks for chunks whose {key!r} is the whole list {list(values)!r:.80}; for any "
            f"of its values write {{{key!r}: {{'$in': [...]}}}}",
            UserWarning,
            stacklevel=_users_level(),
        )


def _users_level() -> int:
    """Return the ``stacklevel`` with which a warning of the caller points at the line outside this package."""
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level


class Reader:
    """The reading side of a store; shared by the threads of a process.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder.
    read_only : bool
        The store was opened read-only.
    """

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self._segments = folder / "segments"
        self._pool = ReaderPool(folder / "catalog.sqlite3", read_only=read_only)
        self._manifest: Manifest | None = None
        self._lock = threading.Lock()

    @contextmanager
    def pin(self) -> Iterator[Snapshot]:
        """Pin the newest version for the body of a ``with``."""
        missed: tuple[Any, ...] | None = None
        while True:
            # Lent anew each time: of a store that was restored in between the pool opens another connection.
            with self._pool.reader() as catalog, catalog.reading():
                version = catalog.meta("epoch"), catalog.meta("commit")
                try:
                    manifest = self._current(catalog)
                except StoreCorruptedError:
                    # A segment may be gone because a newer commit dropped it: look at that one. The same version
                    # failing twice is damage.
                    if version == missed:
                        raise
                    missed = version
                    continue
                yield Snapshot(catalog, manifest, self.pin)
                return

    def _current(self, catalog: Catalog) -> Manifest:
        last = self._manifest
        manifest = load_manifest(catalog, self._segments, last)
        if manifest is not last:
            with self._lock:
                # Another thread may have been here with a newer version; keep the newest.
                if self._manifest is None or self._manifest.commit <= manifest.commit:
                    self._manifest = manifest
        return manifest

    def close(self) -> None:
        """Close the connections and let go of the mapped files."""
        self._pool.close()
        self._manifest = None

    def rest(self) -> None:
        """Close the idle connections; see `ReaderPool.rest`."""
        self._pool.rest()

    def abandon(self) -> None:
        """In a forked child: leave the parent's connections alone; mapped segments are shared and stay."""
        self._pool.abandon()
        self._lock = threading.Lock()


def check_k(k: int) -> int:
    """Return `k`, or refuse it.

    Raises
    ------
    QueryError
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise QueryError(f"k is {k!r}, expected a whole number from 1 to {MAX_K}")
    return k
