"""`copy_store`: everything of one store into another, whatever the engines; nothing is embedded again.

::

    1  the embedders are compared, and that the target holds nothing else
    2  source by source, by key: what the target has already is left alone, the rest goes in batches, one commit each
    3  feedback
    4  both are read again and compared: counts, every row and vector, and the answers to some searches

Killed at any point, the next call goes on where it was. What is written to the source meanwhile may be missing: the
comparison says so, and copying again brings it. History of runs and the times of commits stay behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.errors import StorageError
from oraculo_kit.storage.identity import embedder_mismatch
from oraculo_kit.storage.transfer import ordered_vectors, row_digest

if TYPE_CHECKING:
    from oraculo_kit.storage.base import Progress, VetorStorage
    from oraculo_kit.storage.records import SourceWrite
    from oraculo_kit.storage.values import SourceRow

__all__ = ["CopyReport", "copy_store"]

_BATCH_BYTES = 16_000_000
_BATCH_SOURCES = 1000
_TEXT_BYTES = 3000  # of a chunk with its metadata and full text, about
_MOST_COMPARED = 1_000_000  # chunks
_SEARCHES, _HITS = 50, 10
_ROUNDING = 1e-5  # of a cosine: engines add in another order
_HALF = 2e-3  # of a cosine or a component, where a store keeps half precision
_PROBLEMS_LISTED = 20


@dataclass(frozen=True, slots=True, repr=False)
class CopyReport:
    """What a copy did, and what the comparison of both stores found.

    Attributes
    ----------
    source, target : str
        Locations, without passwords.
    sources, chunks : int
        How many the source store has.
    copied, present : int
        Sources that were written now, and that the target had already.
    compared, searches : int
        Chunks and searches that were compared afterwards.
    feedback : int
        Verdicts that were copied.
    problems : tuple of str
        One sentence each; empty when both stores hold the same.
    seconds : float
    """

    source: str
    target: str
    sources: int
    chunks: int
    copied: int
    present: int
    compared: int
    searches: int
    feedback: int
    problems: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether both stores hold the same."""
        return not self.problems

    def __repr__(self) -> str:
        head = (
            f"{self.source} -> {self.target}: {self.copied} sources copied, {self.present} were there, of {self.sources} with "
            f"{self.chunks} chunks, in {self.seconds:.1f} s; compared {self.compared} chunks and {self.searches} searches: "
            + ("all the same" if self.ok else f"{len(self.problems)} differences")
        )
        return "\n- ".join([head, *self.problems])


def copy_store(source: VetorStorage, target: VetorStorage, *, progress: Progress | None = None) -> CopyReport:
    """Copy chunks, vectors, ledger and feedback of a store into another one, and compare both afterwards.

    Ids stay as they are. A store of half precision gives what it has, as float32.

    Parameters
    ----------
    source, target : VetorStorage
        Open stores; the target is empty, or holds part of the source from a copy that was stopped.
    progress : callable, optional
        Called with (chunks done, chunks in all). It may raise to stop; the next call goes on.

    Returns
    -------
    CopyReport
        Its `ok` tells whether both hold the same now.

    Raises
    ------
    StorageError
        When both are the same store, or the target holds other sources.
    EmbedderMismatchError
        When the target was built with another embedder.
    StoreReadOnlyError

    Examples
    --------
    >>> import tempfile
    >>> from langchain_core.documents import Document
    >>> from oraculo_kit import open_storage
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open_storage(f"{folder}/old") as old, open_storage(f"{folder}/new") as new:
    ...         ids = old.write([Document("Como emitir nota fiscal", metadata={"source": "ajuda.md"})])
    ...         copy_store(old, new).ok, len(new)
    (True, 1)
    """
    started = time.perf_counter()
    _check_different(source.location, target.location)
    rows = {row.source: row for row in source.sources()}
    _check_target(source, target, rows)
    total, done, copied = sum(row.chunks for row in rows.values()), 0, 0
    embedder = source.stored_embedder()
    for batch in _batches(list(rows.values()), source.stats().dimension):
        wanted = _missing(source, target, batch)
        if wanted:
            target.put_sources(wanted, embedder)
        copied += len(wanted)
        done += sum(row.chunks for row in batch)
        if progress is not None:
            progress(done, total)
    feedback = _copy_feedback(source, target)
    compared, problems = _compare(source, target)
    searches, different = _compare_searches(source, target)
    problems += different
    return CopyReport(
        source=source.location,
        target=target.location,
        sources=len(rows),
        chunks=total,
        copied=copied,
        present=len(rows) - copied,
        compared=compared,
        searches=searches,
        feedback=feedback,
        problems=tuple(problems[:_PROBLEMS_LISTED]),
        seconds=time.perf_counter() - started,
    )


def _check_different(source: str, target: str) -> None:
    same = source == target
    if not same and os.path.isdir(source) and os.path.isdir(target):
        same = os.path.samefile(source, target)
    if same:
        raise StorageError(f"source and target are both {source}; name another store to copy to")


def _check_target(source: VetorStorage, target: VetorStorage, keys: Collection[str]) -> None:
    others = [row.source for row in target.sources() if row.source not in keys]
    if others:
        raise StorageError(
            f"the target {target.location} holds {len(others)} sources that {source.location} does not have, such as "
            f"{', '.join(map(repr, others[:3]))}. Choose an empty store, or remove them there"
        )
    theirs, ours = target.stored_embedder(), source.stored_embedder()
    if theirs is None or not len(source):
        return
    if ours is None or not theirs.is_same(ours):
        raise embedder_mismatch(
            target.location,
            theirs.name,
            ours.name if ours is not None else "ready-made vectors",
            ", the one of the source",
        )


def _batches(rows: list[SourceRow], dimension: int) -> Iterator[list[SourceRow]]:
    """Yield sources of about `_BATCH_BYTES`; a larger one alone, because a source changes in one commit."""
    batch: list[SourceRow] = []
    size = 0
    for row in rows:
        needed = row.chunks * (4 * dimension + _TEXT_BYTES)
        if batch and (size + needed > _BATCH_BYTES or len(batch) >= _BATCH_SOURCES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += needed
    if batch:
        yield batch


def _missing(source: VetorStorage, target: VetorStorage, batch: list[SourceRow]) -> list[SourceWrite]:
    """Return the sources of a batch that the target does not have as they are."""
    keys = [row.source for row in batch]
    there = {write.key: row_digest(write) for write in target.read_sources(keys)}
    return [write for write in source.read_sources(keys) if there.get(write.key) != row_digest(write)]


def _copy_feedback(source: VetorStorage, target: VetorStorage) -> int:
    given, there = source.feedback(), target.feedback()
    if given[: len(there)] != there:
        return 0  # the target has verdicts of its own; the comparison says so
    for each in given[len(there) :]:
        target.add_feedback(each)
    return len(given) - len(there)


def _compare(source: VetorStorage, target: VetorStorage) -> tuple[int, list[str]]:
    """Read both again; return how many chunks were compared, and what differs."""
    rows, others = source.sources(), {row.source: row.chunks for row in target.sources()}
    problems = []
    if len(source) != len(target) or len(rows) != len(others):
        problems.append(
            f"{source.location} has {len(source)} chunks of {len(rows)} sources, {target.location} {len(target)} of {len(others)}"
        )
    if source.feedback() != target.feedback():
        problems.append(f"{target.location} has other feedback than {source.location}")
    tolerance = _HALF if target.stats().precision == "float16" else 0.0
    every = max(1, -(-len(source) // _MOST_COMPARED))
    compared = 0
    for batch in _batches(rows[::every], source.stats().dimension):
        keys = [row.source for row in batch]
        there = {write.key: write for write in target.read_sources(keys)}
        for write in source.read_sources(keys):
            compared += len(write.rows)
            what = _difference(write, there.get(write.key), tolerance)
            if what and len(problems) < _PROBLEMS_LISTED:
                problems.append(f"the source {write.key!r} {what} in {target.location}; copy again")
    return compared, problems


def _difference(ours: SourceWrite, theirs: SourceWrite | None, tolerance: float) -> str:
    if theirs is None:
        return "is missing"
    if row_digest(ours) != row_digest(theirs):
        return "has other chunks or another ledger entry"
    one, other = ordered_vectors(ours), ordered_vectors(theirs)
    if one.shape != other.shape or not np.allclose(one, other, rtol=0.0, atol=tolerance):
        return "has other vectors"
    return ""


def _compare_searches(source: VetorStorage, target: VetorStorage) -> tuple[int, list[str]]:
    """Ask both for the neighbours of some stored vectors; return how many, and what differs."""
    count = len(source)
    if not count or count != len(target):
        return 0, []
    queries = _some_vectors(source, count)
    half = "float16" in (source.stats().precision, target.stats().precision)
    found, other = (store.search(queries, _HITS, exact=True) for store in (source, target))
    wrong = 0
    for one, two in zip(found, other, strict=True):
        wrong += not _same_hits(
            [(hit.id, hit.score) for hit in one], [(hit.id, hit.score) for hit in two], half
        )
    problems = [f"{wrong} of {len(queries)} searches give other hits in {target.location}"] if wrong else []
    return len(queries), problems


def _some_vectors(store: VetorStorage, count: int) -> np.ndarray:
    wanted = np.unique(np.linspace(0, count - 1, min(count, _SEARCHES)).astype(int))
    picked, seen = [], 0
    for ids, vectors in store.iter_vectors(10_000):
        inside = wanted[(wanted >= seen) & (wanted < seen + len(ids))] - seen
        picked.append(vectors[inside])
        seen += len(ids)
    return np.concatenate(picked)


def _same_hits(one: list[tuple[str, float]], two: list[tuple[str, float]], half: bool) -> bool:
    """Tell whether two rankings are the same but for the order of equal scores."""
    near = _HALF if half else _ROUNDING
    if len(one) != len(two) or any(abs(a - b) > near for (_, a), (_, b) in zip(one, two, strict=True)):
        return False
    least = one[-1][1] + near
    sure = {name for name, score in one if score > least}
    return sure <= {name for name, _ in two}
