"""Check every invariant of a store, and change nothing.

What is compared: the database's own structure and its full-text index (SQLite's integrity check, which asks FTS5
too), checksums of chunks and pending vectors, headers and digests of segments, and that chunks, vectors, full text,
ledger and tombstones tell the same story.

Writers go on meanwhile. SQLite's check reads one pinned version as a whole. Everything else goes page by page, each
page within a version of its own: a page compares everything that is stored under one range of chunk numbers, so it
needs no agreement with the pages before it. Memory is bounded by a page, whatever the store's size.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import StorageError, StoreCorruptedError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.fulltext import any_of
from oraculo_kit.storage.guards import check_not_behind, check_not_lost
from oraculo_kit.storage.lock import WriterLock
from oraculo_kit.storage.manifest import open_segment
from oraculo_kit.storage.records import row_checksum, source_checksum
from oraculo_kit.storage.runs import damaged_runs
from oraculo_kit.storage.schema import expected_statements
from oraculo_kit.storage.segments import Segment, file_digest
from oraculo_kit.storage.stems import stem_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import Progress

    Numbers = NDArray[np.int64]

_NUMBERS_AT_ONCE = 1000
_SOURCES_AT_ONCE = 500
_ROWS_AT_ONCE = 1_000_000
_PROBLEMS_LISTED = 100


@dataclass(frozen=True, slots=True, repr=False)
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    location : str
        The store's folder.
    problems : tuple of str
        One sentence each; empty for a sound store. Of more than 100 the rest is counted.
    chunks, sources, segments, pending : int
        How many were checked.
    seconds : float
        How long it took.
    """

    location: str
    problems: tuple[str, ...]
    chunks: int = 0
    sources: int = 0
    segments: int = 0
    pending: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """True when no problem was found."""
        return not self.problems

    def __repr__(self) -> str:
        from oraculo_kit.display import counted

        found = "no problem" if self.ok else f"{len(self.problems)} problems"
        head = (
            f"{found} in {self.location}: checked {counted(self.chunks, 'chunk')} of {counted(self.sources, 'source')}, "
            f"{counted(self.segments, 'segment')} and {counted(self.pending, 'pending vector')} in {self.seconds:.1f} s"
        )
        return "\n- ".join([head, *self.problems])


def verify_store(folder: Path, progress: Progress | None = None) -> VerifyReport:
    """Check a store that need not be open, nor be possible to open.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder.
    progress : callable, optional
        As in `VetorStorage.verify`.

    Returns
    -------
    VerifyReport
        Damage is reported, never raised.
    """
    started = time.perf_counter()
    check = _Check(folder, progress)
    check.run()
    return VerifyReport(
        str(folder), check.found.listed(), **check.counts, seconds=time.perf_counter() - started
    )


@dataclass
class Problems:
    """Sentences, in bounded memory."""

    sentences: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, sentence: str) -> None:
        """Add one; beyond the first hundred they are only counted."""
        if len(self.sentences) < _PROBLEMS_LISTED:
            self.sentences.append(sentence)
        else:
            self.more += 1

    def listed(self) -> tuple[str, ...]:
        """Return them, and how many more there are."""
        return (*self.sentences, *([f"and {self.more} more"] if self.more else []))


class _Check:
    def __init__(self, folder: Path, progress: Progress | None) -> None:
        self.folder = folder
        self._progress = progress
        self.found = Problems()
        self.counts = {"chunks": 0, "sources": 0, "segments": 0, "pending": 0}
        self._known: dict[str, Segment | None] = {}  # None: it cannot be read, which was reported
        # Before any look at the catalog; see check_not_behind.
        self._remembered = WriterLock(folder, 0).commit_number()

    def run(self) -> None:
        with self._reported():
            check_not_lost(self.folder, self._remembered)
            with self._page() as catalog:
                catalog.check_format()
            for step in (
                self._check_database,
                self._check_state,
                self._check_segments,
                self._check_chunks,
                self._check_sources,
                self._check_runs,
            ):
                with self._reported():
                    step()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except StorageError as exc:
            self.found.add(str(exc))

    @contextmanager
    def _page(self) -> Iterator[Catalog]:
        # A connection per page, so that none is open between pages: the process may fork there.
        with gate.passage(), closing(Catalog(self.folder / "catalog.sqlite3", read_only=True)) as catalog:
            with catalog.reading():
                yield catalog

    def _check_database(self) -> None:
        with self._page() as catalog:
            # No check of SQLite's compares these; a damaged one may still parse, and mean something else.
            statements = dict(catalog.rows("SELECT name, sql FROM sqlite_master"))
            for name, statement in expected_statements().items():
                if statements.get(name) != statement:
                    self.found.add(f"{catalog.path}: the definition of {name} is damaged")
            # Nor does one rank, which needs every table of the full-text index.
            for (text,) in catalog.rows(
                "SELECT text FROM chunks WHERE number = (SELECT max(number) FROM chunks)"
            ):
                if words := stem_text(text).split():
                    match = any_of(words[:1])
                    catalog.rows(
                        "SELECT bm25(chunk_text) FROM chunk_text WHERE chunk_text MATCH ? LIMIT 1", [match]
                    )
            for (sentence,) in catalog.rows("PRAGMA integrity_check(20)"):
                if sentence != "ok":
                    self.found.add(f"{catalog.path}: {sentence}")

    def _check_state(self) -> None:
        with self._page() as catalog:
            check_not_behind(catalog, self._remembered)
            vectors = catalog.one("SELECT (SELECT count(*) FROM segments) + (SELECT count(*) FROM pending)")
            if vectors and catalog.meta("dimension") is None:
                self.found.add("there are vectors, but the catalog does not know their dimension")
            given = catalog.one("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'") or 0
            for table in ("chunks", "pending", "tombstones"):
                highest = catalog.one(f"SELECT max(number) FROM {table}") or 0
                if highest > given:
                    self.found.add(
                        f"{table} has the number {highest}, but only numbers up to {given} were given out"
                    )

    def _check_segments(self) -> None:
        with self._page() as catalog:
            rows = catalog.rows("SELECT name, rows, bytes, digest FROM segments ORDER BY name")
            dimension = catalog.meta("dimension")
        for name, count, size, digest in rows:
            segment = self._segment(name)
            if segment is None:
                continue
            self.counts["segments"] += 1
            path = self.folder / "segments" / name
            if segment.vectors.shape != (count, dimension):
                self.found.add(
                    f"the segment {path} has the shape {segment.vectors.shape}, expected {(count, dimension)}"
                )
            for start in range(0, len(segment.numbers), _ROWS_AT_ONCE):
                if (np.diff(segment.numbers[start : start + _ROWS_AT_ONCE + 1]) <= 0).any():
                    self.found.add(f"the chunk numbers in the segment {path} do not rise")
                    break
            try:
                same = path.stat().st_size == size and file_digest(path) == digest
            except FileNotFoundError:
                continue  # dropped by a newer commit meanwhile
            if not same:
                self.found.add(
                    f"the segment {path} is damaged: its bytes do not match the digest in the catalog"
                )

    def _segment(self, name: str) -> Segment | None:
        """Return a mapped segment; None, after reporting it once, for one that cannot be read."""
        if name not in self._known:
            try:
                self._known[name] = open_segment(self.folder / "segments" / name)
            except StoreCorruptedError as exc:
                with self._page() as catalog:
                    dropped = not catalog.one("SELECT count(*) FROM segments WHERE name = ?", (name,))
                if dropped:
                    return None
                self._known[name] = None
                self.found.add(str(exc))
        return self._known[name]

    def _check_chunks(self) -> None:
        start: int | None = 0
        total = self._count()
        while start is not None:
            self._tell(total)
            with self._page() as catalog:
                names = [name for (name,) in catalog.rows("SELECT name FROM segments")]
            # Opened before the page: a report of a missing one needs a version of its own.
            known = {name: self._segment(name) for name in names}
            with self._page() as catalog:
                if names != [name for (name,) in catalog.rows("SELECT name FROM segments")]:
                    continue
                start = self._check_numbers(catalog, start, known)

    def _count(self) -> int:
        with self._page() as catalog:
            return int(catalog.one("SELECT count(*) FROM chunks"))

    def _tell(self, total: int) -> None:
        if self._progress is not None:  # between pages, where nothing is held
            self._progress(min(self.counts["chunks"], total), total)

    def _check_numbers(self, catalog: Catalog, start: int, known: dict[str, Segment | None]) -> int | None:
        """Check one range of chunk numbers, beginning with the first in use; return where the next begins."""
        segments = [segment for segment in known.values() if segment is not None]
        first = _first_from(catalog, segments, start)
        if first is None:
            return None
        end = first + _NUMBERS_AT_ONCE
        chunks = self._checked_rows(catalog, first, end)
        pending = self._checked_pending(catalog, first, end)
        vectors, copies = np.unique(
            np.concatenate([pending, *(_between(segment.numbers, first, end) for segment in segments)]),
            return_counts=True,
        )
        dead = _numbers(catalog, "SELECT number FROM tombstones WHERE number >= ? AND number < ?", first, end)
        indexed = _numbers(catalog, "SELECT id FROM chunk_text_docsize WHERE id >= ? AND id < ?", first, end)
        live = np.setdiff1d(vectors, dead)
        if len(segments) == len(known):  # else all whose vectors cannot be read would be listed too
            self._report("have no vector", np.setdiff1d(chunks, live))
        self._report("have a vector, but are not in the catalog", np.setdiff1d(live, chunks))
        self._report("have more than one vector", vectors[copies > 1])
        self._report("are in the catalog, but marked as deleted", np.intersect1d(chunks, dead))
        self._report("are not in the full-text index", np.setdiff1d(chunks, indexed))
        self._report("are in the full-text index, but not in the catalog", np.setdiff1d(indexed, chunks))
        self.counts["chunks"] += len(chunks)
        self.counts["pending"] += len(pending)
        return end

    def _report(self, what: str, numbers: Numbers) -> None:
        if len(numbers):
            self.found.add(f"{len(numbers)} chunk numbers {what}, the first: {numbers[0]}")

    def _checked_rows(self, catalog: Catalog, first: int, end: int) -> Numbers:
        numbers = []
        # Row by row: a page of long texts need not fit into memory together. As bytes: damaged text may not be UTF-8.
        for number, ordinal, checksum, valid, *texts in catalog.db.execute(
            "SELECT c.number, c.ordinal, "
            "iif(typeof(c.id) || typeof(c.text) || typeof(c.metadata) = 'texttexttext', c.checksum, NULL), "
            "json_valid(c.metadata), CAST(c.id AS BLOB), CAST(c.text AS BLOB), "
            "CAST(c.metadata AS BLOB), CAST(s.key AS BLOB) "
            "FROM chunks c LEFT JOIN sources s ON s.id = c.source WHERE c.number >= ? AND c.number < ?",
            (first, end),
        ):
            numbers.append(number)
            name, text, metadata, source = map(_text, texts)
            if texts[-1] is None:
                self.found.add(f"the chunk {name} belongs to a source that is not in the ledger")
            if row_checksum(name, ordinal, text, metadata) != checksum:
                self.found.add(
                    f"the chunk {name} of source {source!r} is damaged: its text or metadata does not match its "
                    "checksum; ingesting its source again mends it"
                )
            elif not valid:
                self.found.add(f"the metadata of chunk {name} of source {source!r} is not JSON")
        return np.array(numbers, np.int64)

    def _checked_pending(self, catalog: Catalog, first: int, end: int) -> Numbers:
        size = int(catalog.meta("dimension") or 0) * 4
        numbers = []
        for number, checksum, vector in catalog.db.execute(
            "SELECT number, checksum, CAST(vector AS BLOB) FROM pending WHERE number >= ? AND number < ?",
            (max(first, int(catalog.meta("flushed")) + 1), end),
        ):
            numbers.append(number)
            if vector is None or len(vector) != size or zlib.crc32(vector) != checksum:
                self.found.add(
                    f"the vector of chunk number {number} is damaged: it does not match its checksum, or has not the "
                    "store's dimension; ingesting its source again mends it"
                )
        return np.array(numbers, np.int64)

    def _check_sources(self) -> None:
        after = -1
        while True:
            with self._page() as catalog:
                rows = catalog.rows(
                    "SELECT s.id, CAST(s.key AS BLOB), s.chunk_count, json_valid(s.metadata), "
                    "(SELECT count(*) FROM chunks c WHERE c.source = s.id), s.checksum, CAST(s.metadata AS BLOB), "
                    "CAST(s.language AS BLOB) "
                    "FROM sources s WHERE s.id > ? ORDER BY s.id LIMIT ?",
                    (after, _SOURCES_AT_ONCE),
                )
            for _, key, counted, valid, there, checksum, metadata, language in rows:
                source = _text(key)
                if source_checksum(source, _text(metadata), _text(language)) != checksum:
                    self.found.add(
                        f"the ledger's row of source {source!r} is damaged: its key, language or metadata does not match "
                        "its checksum; ingesting the source again mends it"
                    )
                if counted != there:
                    self.found.add(
                        f"the ledger counts {counted} chunks of source {source!r}, and there are {there}"
                    )
                if not valid:
                    self.found.add(f"the metadata of source {source!r} is not JSON")
            self.counts["sources"] += len(rows)
            if len(rows) < _SOURCES_AT_ONCE:
                return
            after = rows[-1][0]

    def _check_runs(self) -> None:
        with self._page() as catalog:
            for sentence in damaged_runs(catalog):
                self.found.add(sentence)


def _first_from(catalog: Catalog, segments: list[Segment], start: int) -> int | None:
    tables = ("chunks", "pending", "tombstones")
    found: list[Any] = [
        catalog.one(f"SELECT min(number) FROM {table} WHERE number >= ?", (start,)) for table in tables
    ]
    found.append(catalog.one("SELECT min(id) FROM chunk_text_docsize WHERE id >= ?", (start,)))
    for segment in segments:
        place = int(np.searchsorted(segment.numbers, start))
        if place < len(segment.numbers):
            found.append(int(segment.numbers[place]))
    return min((number for number in found if number is not None), default=None)


def _text(blob: bytes | None) -> str:
    """Return a text column of a row that may hold anything."""
    return "" if blob is None else blob.decode(errors="replace")


def _between(numbers: Numbers, first: int, end: int) -> Numbers:
    begin, stop = np.searchsorted(numbers, (first, end))
    return numbers[begin:stop]


def _numbers(catalog: Catalog, sql: str, first: int, end: int) -> Numbers:
    return np.array([number for (number,) in catalog.rows(sql, (first, end))], np.int64)
