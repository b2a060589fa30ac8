"""Vectors that are damaged or missing: made again from the texts, or taken from what is still there.

Which of the two depends on who made them. Those of an embedder are made again by the same one, after the checks that
every write goes through. Those that a user gave cannot be: see `oraculo_kit.storage.repairing`.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.errors import EmbedderError, EmbedderMismatchError, StoreCorruptedError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.claims import ClaimedSegment, spoken_for
from oraculo_kit.storage.compaction import replace_segments
from oraculo_kit.storage.identity import EmbedderIdentity
from oraculo_kit.storage.mending import Chunk
from oraculo_kit.storage.rows import (
    bump_layout,
    count_pending,
    delete_chunks,
    delete_numbers,
    mark_deleted,
    next_commit,
)
from oraculo_kit.storage.segments import Segment, file_digest, sorted_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.embed import Embedder
    from oraculo_kit.storage.commit import Writer
    from oraculo_kit.storage.findings import Findings

    Numbers = NDArray[np.int64]
    Rows = NDArray[np.floating[Any]]

_EMBED_ROWS = 1_000
_SEGMENT_ROWS = 16_384  # chunks per segment of vectors made again: 25 MB at 384 dimensions
_BLOCK_ROWS = 16_384
_SAMPLED = 20
_SAME_COSINE = 0.999  # as for the probe vector
_VECTORS_AT = 64  # where a segment's numbers begin, and what its vectors are aligned to
# How far from one a vector's length may be: what the precision costs, and a little more.
_TOLERANCE = {"<f4": 1e-3, "<f2": 1e-2}


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Which numbers have a vector where, in one version of the store."""

    chunks: Numbers
    dead: Numbers
    pending: Numbers
    damaged: Numbers  # pending, too
    segments: tuple[Segment, ...]

    def held(self) -> Numbers:
        return np.concatenate([self.pending, *(segment.numbers for segment in self.segments)])


class Revectoring:
    """The part of a repair that is about vectors.

    Parameters
    ----------
    writer : Writer
    findings : Findings
    embedder : Embedder, optional
        Who is to make vectors again; used only when it is the store's own.
    is_maker_lost : bool
        The catalog does not tell any more who made the vectors, or whether users gave them.
    """

    def __init__(
        self, writer: Writer, findings: Findings, embedder: Embedder | None, *, is_maker_lost: bool = False
    ) -> None:
        self._writer = writer
        self._findings = findings
        self._embedder = embedder
        self._is_maker_lost = is_maker_lost
        self._left = False  # a damaged segment was left as it is, because nobody could make its vectors again

    @cached_property
    def _given_vectors(self) -> bool:
        """Whether users gave the vectors ready-made."""
        with self._writer.reading() as catalog:
            return catalog.meta("embedder") is None and not self._is_maker_lost

    @cached_property
    def _maker(self) -> Embedder | None:
        """The embedder, if it is the store's; else the findings say which one is needed."""
        with self._writer.reading() as catalog:
            name = catalog.meta("embedder")
        if name is None:
            return None  # lost, which was named
        if self._embedder is None or self._embedder.name != name:
            given = f", and not {self._embedder.name}" if self._embedder is not None else ""
            self._findings.lose(
                f"nothing for good yet, but vectors must be made again: repair with the embedder {name}{given}"
            )
            return None
        try:
            identity = EmbedderIdentity(self._embedder.name, self._embedder.probe())
            with self._writer.reading() as catalog:
                identity.check(catalog, self._writer.folder)
        except (EmbedderError, EmbedderMismatchError) as exc:
            self._findings.lose(
                f"nothing for good yet, but vectors must be made again, and the embedder {name} cannot: {exc}"
            )
            return None
        return self._embedder

    def settle_dimension(self) -> None:
        """Correct the length of a vector in the catalog when no vector has that length."""
        with self._writer.reading() as catalog:
            stored = catalog.meta("dimension")
            found: Counter[int] = Counter(
                dict(catalog.rows("SELECT length(vector) / 4, count(*) FROM pending GROUP BY 1"))
            )
            for (name,) in catalog.rows("SELECT name FROM segments"):
                with suppress(StoreCorruptedError, FileNotFoundError):
                    rows, dimension = Segment(self._writer.segments / name).vectors.shape
                    found[dimension] += rows
        if not found or stored in found:
            return
        dimension = found.most_common(1)[0][0]
        with self._writer.transaction("correct the dimension") as catalog:
            catalog.set_meta("dimension", dimension)
            next_commit(catalog)
            bump_layout(catalog)
        self._findings.done.append(f"the dimension of the vectors was unknown or wrong; it is {dimension}")

    def recognise_maker(self) -> None:
        """Where the catalog lost the embedder's name: see whether the given one makes the vectors that are there."""
        if not self._is_maker_lost:
            return
        found = self._sample()
        if self._embedder is not None and found:
            vectors = np.stack([vector for _, vector in found]).astype(np.float32)
            with suppress(EmbedderError):
                made = self._embedder.embed([text for text, _ in found])
                if (
                    made.shape == vectors.shape
                    and float(np.median((made * vectors).sum(axis=1))) >= _SAME_COSINE
                ):
                    with self._writer.transaction("note the embedder") as catalog:
                        catalog.set_meta("embedder", self._embedder.name)
                        catalog.set_meta("probe", self._embedder.probe().astype("<f4").tobytes())
                        next_commit(catalog)
                    self._is_maker_lost = False
                    self._findings.done.append(
                        f"the name of the embedder was lost; {self._embedder.name} makes the vectors that are there"
                    )
                    return
        self._findings.lose(
            "the name of the embedder that made the vectors, unless they were given ready-made; vectors were not made again"
        )

    def _sample(self) -> list[tuple[str, Rows]]:
        """Return some texts with the vectors that are stored for them."""
        with self._writer.reading() as catalog:
            dimension = int(catalog.meta("dimension") or 0)
            found: dict[int, Rows] = {
                number: np.frombuffer(vector, "<f4")
                for number, vector in catalog.rows("SELECT number, vector FROM pending LIMIT ?", (_SAMPLED,))
                if len(vector) == dimension * 4
            }
            for (name,) in catalog.rows("SELECT name FROM segments"):
                segment = _opened(self._writer.segments / name, dimension)
                if segment is not None:
                    found.update(
                        zip(segment.numbers[:_SAMPLED].tolist(), segment.vectors[:_SAMPLED], strict=True)
                    )
            texts = catalog.rows(
                "SELECT number, text FROM chunks WHERE number IN (SELECT value FROM json_each(?)) LIMIT ?",
                (json.dumps(list(found)), _SAMPLED),
            )
        return [(text, found[number]) for number, text in texts]

    def mend_segments(self) -> None:
        """Make segments again whose bytes are not what the catalog says."""
        with self._writer.reading() as catalog:
            rows = catalog.rows("SELECT name, rows, bytes, digest, recall FROM segments ORDER BY name")
            dimension = int(catalog.meta("dimension") or 0)
        for name, count, size, digest, recall in rows:
            path = self._writer.segments / name
            segment = _opened(path, dimension)
            matches = segment is not None and file_digest(path) == digest
            if (
                segment is not None
                and matches
                and (len(segment.numbers), path.stat().st_size) == (count, size)
            ):
                continue
            if segment is not None and matches:
                self._correct(name, len(segment.numbers), path.stat().st_size)
            elif self._is_named(name):
                self._remake(path, count, digest, dimension, recall)

    def _is_named(self, name: str) -> bool:
        with self._writer.reading() as catalog:  # else a compaction dropped it meanwhile
            return bool(catalog.one("SELECT count(*) FROM segments WHERE name = ?", (name,)))

    def _correct(self, name: str, count: int, size: int) -> None:
        with self._writer.transaction("correct a segment's figures") as catalog:
            catalog.db.execute("UPDATE segments SET rows = ?, bytes = ? WHERE name = ?", (count, size, name))
            next_commit(catalog)
            bump_layout(catalog)
        self._findings.done.append(
            f"the figures of segment {name} in the catalog were wrong, and were corrected"
        )

    def _remake(self, path: Path, count: int, digest: str, dimension: int, recall: float | None) -> None:
        """Put what can be had of a damaged segment in its place; what is missing then is `mend_vectors`' to make."""
        raw = _raw_rows(path, count, dimension)
        with self._writer.claimed("repair", dimension) as target:
            kept = None
            if raw is not None and len(raw[0]) == count:
                target.write(raw[0], _blocks(raw[1]), recall)
                # The same bytes but for the header: nothing else was damaged.
                kept = raw[0] if file_digest(target.path) == digest else None
            exact = kept is not None
            if not exact and not self._given_vectors and self._maker is None:
                self._left = True
                self._findings.lose(
                    f"the vectors in segment {path}, which is damaged or missing, until they are made again"
                )
                return
            if not exact and self._given_vectors and raw is not None:
                plausible = self._plausible(*raw)
                kept = raw[0][plausible]
                if len(kept):
                    target.write(kept, _blocks(raw[1], np.flatnonzero(plausible)), recall)
            self._findings.set_aside(path)
            self._replace(path.name, target, kept)
        if exact:
            self._findings.done.append(f"the header of segment {path.name} was damaged, and was made again")
        elif kept is not None:
            self._findings.done.append(
                f"of the damaged segment {path.name}, {len(kept)} of {count} vectors are whole and were kept"
            )
            self._findings.lose(
                f"certainty about the {len(kept)} ready-made vectors of segment {path.name}: a component of one may have "
                "changed a little, or its sign"
            )
        else:
            self._findings.done.append(
                f"the segment {path.name} was damaged or missing; its vectors are made again"
            )

    def _replace(self, name: str, target: ClaimedSegment, kept: Numbers | None) -> None:
        adopted = False
        with self._writer.transaction("replace a damaged segment") as catalog:
            if catalog.one("SELECT count(*) FROM segments WHERE name = ?", (name,)):
                adopted = kept is not None and len(kept) > 0 and target.adopt(catalog)
                indexes = replace_segments(catalog, [name], np.zeros(0, np.int64))
                if adopted and kept is not None:
                    mark_deleted(catalog, kept)
        target.adopted = adopted
        self._writer.remove_dropped(
            [self._writer.segments / name, *(self._writer.indexes / each for each in indexes)]
        )

    def _plausible(self, numbers: Numbers, rows: Rows) -> NDArray[np.bool_]:
        """Tell which rows of a segment are vectors of chunks, as far as can be told."""
        plausible = np.zeros(len(numbers), np.bool_)
        for start in range(0, len(numbers), _BLOCK_ROWS):
            block = rows[start : start + _BLOCK_ROWS].astype(np.float64)
            with np.errstate(all="ignore"):
                lengths = np.sqrt((block * block).sum(axis=1))
            near = np.abs(lengths - 1) < _TOLERANCE[rows.dtype.str]
            plausible[start : start + _BLOCK_ROWS] = near & np.isfinite(lengths)
        with self._writer.reading() as catalog:
            known = _all_numbers(catalog, "SELECT number FROM chunks ORDER BY number")
        plausible &= sorted_positions(known, numbers)[1]
        # Numbers rise: one that is not greater than all before it and smaller than all after it is a damaged one.
        before = np.maximum.accumulate(np.where(plausible, numbers, -1))
        plausible[1:] &= numbers[1:] > before[:-1]
        return plausible

    def mend_vectors(self) -> None:
        """Give every chunk one vector, and every vector a chunk."""
        if self._left:
            return  # nobody can tell which are missing
        found = self._vectors()
        self._drop_copies(found)
        self._mark_strays(found)
        missing = np.setdiff1d(found.chunks, found.held())
        if len(missing) and self._given_vectors:
            missing = self._rescue(missing)
            self._remove(missing)
        elif len(missing) and self._maker is not None:
            for start in range(0, len(missing), _SEGMENT_ROWS):
                self._embed(self._maker, missing[start : start + _SEGMENT_ROWS])
        elif len(missing):
            self._findings.lose(f"the vectors of {len(missing)} chunks, until they are made again")

    def _vectors(self) -> _Vectors:
        with self._writer.reading() as catalog:
            dimension, flushed = int(catalog.meta("dimension") or 0), int(catalog.meta("flushed") or 0)
            sound: list[int] = []
            damaged: list[int] = []
            for number, checksum, vector in catalog.db.execute(
                "SELECT number, checksum, CAST(vector AS BLOB) FROM pending WHERE number > ? ORDER BY number",
                (flushed,),
            ):
                is_sound = len(vector or b"") == dimension * 4 and zlib.crc32(vector) == checksum
                (sound if is_sound else damaged).append(number)
            names = [name for (name,) in catalog.rows("SELECT name FROM segments ORDER BY name")]
            opened = [_opened(self._writer.segments / name, dimension) for name in names]
            return _Vectors(
                _all_numbers(catalog, "SELECT number FROM chunks ORDER BY number"),
                _all_numbers(catalog, "SELECT number FROM tombstones ORDER BY number"),
                np.array(sound, np.int64),
                np.array(damaged, np.int64),
                tuple(segment for segment in opened if segment is not None),
            )

    def _drop_copies(self, found: _Vectors) -> None:
        """Keep one vector of those that have several: in the oldest segment."""
        seen = np.zeros(0, np.int64)
        for segment in found.segments:
            twice = sorted_positions(seen, segment.numbers)[1]
            if twice.any():
                self._leave_out(segment, twice)
            seen = np.union1d(seen, segment.numbers)
        both = np.intersect1d(seen, np.concatenate([found.pending, found.damaged]))
        if len(both):
            with self._writer.transaction("drop vectors that a segment holds") as catalog:
                catalog.db.executemany(
                    "DELETE FROM pending WHERE number = ?", [(each,) for each in both.tolist()]
                )
                count_pending(catalog)
                next_commit(catalog)
                bump_layout(catalog)
            self._findings.done.append(f"{len(both)} vectors that were stored twice are stored once")

    def _leave_out(self, segment: Segment, twice: NDArray[np.bool_]) -> None:
        with self._writer.claimed("repair") as target:
            with self._writer.reading() as catalog:
                recall = catalog.one("SELECT recall FROM segments WHERE name = ?", (segment.name,))
            kept = segment.numbers[~twice]
            if len(kept):
                target.write(kept, _blocks(segment.vectors, np.flatnonzero(~twice)), recall)
            self._findings.set_aside(self._writer.segments / segment.name)
            self._replace(segment.name, target, kept)
        self._findings.done.append(f"{int(twice.sum())} vectors that were stored twice are stored once")

    def _mark_strays(self, found: _Vectors) -> None:
        strays = np.setdiff1d(
            np.concatenate([found.held(), found.damaged]), np.union1d(found.chunks, found.dead)
        )
        if not len(strays):
            return
        with self._writer.transaction("mark vectors without a chunk as deleted") as catalog:
            there = _all_numbers(
                catalog,
                "SELECT number FROM chunks WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number",
                json.dumps(strays.tolist()),
            )
            strays = np.setdiff1d(strays, there)
            delete_numbers(catalog, strays.tolist(), next_commit(catalog))
            count_pending(catalog)
            bump_layout(catalog)
        self._findings.done.append(f"{len(strays)} vectors that belong to no chunk were marked as deleted")

    def _embed(self, maker: Embedder, numbers: Numbers) -> None:
        """Make the vectors of chunks again, and put them into a segment of their own."""
        with self._writer.claimed("repair") as target:
            try:
                target.write(numbers, self._embedded(maker, numbers, target.dimension))
            except EmbedderError as exc:
                self._findings.lose(f"the vectors of {len(numbers)} chunks, until they are made again: {exc}")
                return
            self._adopt(target, numbers)
        if target.adopted:
            self._findings.done.append(
                f"the vectors of {len(numbers)} chunks were made again from their texts"
            )

    def _adopt(self, target: ClaimedSegment, numbers: Numbers) -> None:
        with self._writer.transaction("adopt vectors") as catalog:
            adopted = target.adopt(catalog)
            if adopted:
                catalog.db.executemany(
                    "DELETE FROM pending WHERE number = ?", [(each,) for each in numbers.tolist()]
                )
                next_commit(catalog)
                mark_deleted(catalog, numbers)
                count_pending(catalog)
                bump_layout(catalog)
        target.adopted = adopted

    def _embedded(self, maker: Embedder, numbers: Numbers, dimension: int) -> Iterator[Rows]:
        for start in range(0, len(numbers), _EMBED_ROWS):
            some = numbers[start : start + _EMBED_ROWS]
            with self._writer.reading() as catalog:
                texts = dict(
                    catalog.rows(
                        "SELECT number, text FROM chunks WHERE number IN (SELECT value FROM json_each(?))",
                        (json.dumps(some.tolist()),),
                    )
                )
            block = np.zeros((len(some), dimension), np.float32)
            there = np.array([number in texts for number in some.tolist()])
            if there.any():  # the others were deleted meanwhile
                block[there] = maker.embed([texts[number] for number in some[there].tolist()])
            yield block

    def _rescue(self, missing: Numbers) -> Numbers:
        """Take ready-made vectors from segments that the catalog does not name; return which are still missing."""
        with self._writer.reading() as catalog:
            dimension = int(catalog.meta("dimension") or 0)
            named = spoken_for(catalog)
        for path in sorted(self._writer.segments.iterdir()):
            segment = None if path.name in named or path.suffix == ".tmp" else _opened(path, dimension)
            if segment is None:
                continue
            positions, here = sorted_positions(segment.numbers, missing)
            places = positions[here]
            places = places[self._plausible(segment.numbers[places], segment.vectors[places])]
            if not len(places):
                continue
            numbers = segment.numbers[places]
            with self._writer.claimed("repair") as target:
                target.write(numbers, _blocks(segment.vectors, places))
                self._adopt(target, numbers)
            self._findings.done.append(
                f"{len(numbers)} vectors were found in {path.name}, which no list names any more"
            )
            missing = np.setdiff1d(missing, numbers)
        return missing

    def _remove(self, missing: Numbers) -> None:
        """Remove chunks whose ready-made vector is lost."""
        for start in range(0, len(missing), _EMBED_ROWS):
            some = json.dumps(missing[start : start + _EMBED_ROWS].tolist())
            with self._writer.transaction("remove chunks without vectors") as catalog:
                rows = catalog.rows(
                    "SELECT c.number, c.id, s.key, c.ordinal, c.text, c.metadata FROM chunks c JOIN sources s "
                    "ON s.id = c.source WHERE c.number IN (SELECT value FROM json_each(?))",
                    (some,),
                )
                chunks = [
                    Chunk(number, name, source, place, text, metadata, is_sound=True)
                    for number, name, source, place, text, metadata in rows
                ]
                self._findings.set_aside_rows(chunk.as_plain() for chunk in chunks)
                for chunk in chunks:
                    self._findings.lose_chunk(
                        "their ready-made vectors are lost; write them again", chunk.source, chunk.id
                    )
                numbers = np.array([chunk.number for chunk in chunks], np.int64)
                delete_chunks(catalog, numbers, next_commit(catalog))
                count_pending(catalog)
                bump_layout(catalog)


def _opened(path: Path, dimension: int) -> Segment | None:
    """Return a segment that can be read and looks right but for its digest, else None."""
    try:
        segment = Segment(path)
    except (StoreCorruptedError, FileNotFoundError, ValueError):
        return None
    rising = all(
        bool((np.diff(segment.numbers[start : start + _BLOCK_ROWS + 1]) > 0).all())
        for start in range(0, len(segment.numbers), _BLOCK_ROWS)
    )
    return segment if rising and segment.vectors.shape[1] == dimension else None


def _raw_rows(path: Path, count: int, dimension: int) -> tuple[Numbers, Rows] | None:
    """Return the rows of a segment file as far as it goes, laid out as the catalog says; its header may be damaged."""
    dtype = "<f2" if path.suffix == ".f16" else "<f4"
    width = dimension * np.dtype(dtype).itemsize
    vectors_at = -(-(_VECTORS_AT + count * 8) // _VECTORS_AT) * _VECTORS_AT
    size = path.stat().st_size if path.exists() else 0
    rows = min(count, (size - vectors_at) // width) if width else 0
    if rows <= 0:
        return None
    numbers = np.memmap(path, "<i8", "r", _VECTORS_AT, (rows,))
    return np.array(numbers), np.memmap(path, dtype, "r", vectors_at, (rows, dimension))


def _blocks(rows: Rows, places: NDArray[np.intp] | None = None) -> Iterator[Rows]:
    count = len(rows) if places is None else len(places)
    for start in range(0, count, _BLOCK_ROWS):
        here = slice(start, start + _BLOCK_ROWS)
        yield rows[here] if places is None else rows[places[here]]


def _all_numbers(catalog: Catalog, sql: str, *bindings: Any) -> Numbers:
    return np.array([number for (number,) in catalog.rows(sql, bindings)], np.int64)
