"""From a filter to the numbers of the chunks that pass it.

Where no index serves a filter, every chunk's metadata is looked at: a million chunks take 0.25 s, nearly all of it for
fetching the catalog's pages. Large stores are therefore read in parts, each by a thread with a connection of its own.

**One version.** A connection that begins to read later may see a newer commit. Each part compares its version with that
of the search, and where they differ, the part is read again on the search's own connection. So what comes back is
exactly what passes in the version that was pinned, however often other processes write meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from oraculo_kit.storage.filter_indexes import KeyPlaces
from oraculo_kit.storage.filters import CompiledFilter, anywhere
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.operands import compare_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.catalog import Catalog
    from oraculo_kit.storage.manifest import Manifest

    Numbers = NDArray[np.int64]

__all__ = ["matching", "matching_in_parts"]

_PART = 50_000  # chunks: about 12 ms; a thread that begins costs 0.2 ms
_MOST_THREADS = 4  # beyond that the system's cache of the file is the limit; each keeps a connection


class Pinned(Protocol):
    """What is asked of a version; see `oraculo_kit.storage.snapshot.Snapshot`."""

    @property
    def catalog(self) -> Catalog: ...
    @property
    def manifest(self) -> Manifest: ...


def matching(catalog: Catalog, filter: CompiledFilter, among: tuple[int, int] | None = None) -> Numbers:
    """Return the numbers of the chunks that pass a filter; within the transaction that is open.

    Parameters
    ----------
    catalog : Catalog
    filter : CompiledFilter
    among : (int, int), optional
        Only chunks from the first number to before the second.

    Returns
    -------
    numpy.ndarray
        int64, rising.
    """
    catalog.register_function("oraculo_compare", compare_numbers)
    if filter.place_of is anywhere:
        filter = CompiledFilter(filter.filter, KeyPlaces(catalog))
    where, bindings = filter.sql, filter.bindings
    if among is not None:
        where = f"c.number >= :first AND c.number < :end AND {where}"
        bindings = {**bindings, "first": among[0], "end": among[1]}
    # As one text: a million numbers as rows of Python objects would take ten times as long, and 100 MB.
    listed = catalog.one(f"SELECT group_concat(c.number) FROM chunks c WHERE {where}", bindings)
    numbers = np.fromstring(listed or "", np.int64, sep=",")
    numbers.sort()
    return numbers


def matching_in_parts(
    pinned: Pinned, filter: CompiledFilter, another: Callable[[], AbstractContextManager[Pinned]]
) -> Numbers:
    """Return the same as `matching`, read by several threads where that pays.

    Parameters
    ----------
    pinned : Pinned
        The version that is searched.
    filter : CompiledFilter
        Compiled for this version.
    another : callable
        Pins the newest version on another connection.

    Returns
    -------
    numpy.ndarray
        int64, rising.
    """
    parts = _parts(pinned.manifest)
    if len(parts) < 2 or not _reads_every_chunk(pinned.catalog, filter):
        return matching(pinned.catalog, filter)
    manifest = pinned.manifest

    def elsewhere(part: tuple[int, int]) -> Numbers | None:
        with gate.passage_of_another(), another() as other:
            if (other.manifest.epoch, other.manifest.commit) != (manifest.epoch, manifest.commit):
                return None
            return matching(other.catalog, filter, part)

    with ThreadPoolExecutor(len(parts) - 1, "oraculo-filter") as beside:
        try:
            reading = [beside.submit(elsewhere, part) for part in parts[1:]]
        except RuntimeError:  # no thread to be had, for instance while the interpreter ends
            return matching(pinned.catalog, filter)
        found = [matching(pinned.catalog, filter, parts[0])]
        for part, future in zip(parts[1:], reading, strict=True):
            numbers = future.result()
            found.append(matching(pinned.catalog, filter, part) if numbers is None else numbers)
    return np.concatenate(found)


def _parts(manifest: Manifest) -> list[tuple[int, int]]:
    """Return ranges of numbers, rising, that hold all chunks: one for each thread that pays."""
    blocks = [numbers for numbers, _ in manifest.blocks() if len(numbers)]
    chunks = sum(len(numbers) for numbers in blocks)
    count = min(chunks // _PART, _MOST_THREADS, _processors())
    if count < 2:
        return []
    # From end to end: a number outside, of a chunk whose vector is missing, must be found too.
    lowest, highest = min(int(numbers[0]) for numbers in blocks), max(int(numbers[-1]) for numbers in blocks)
    inner = np.linspace(lowest, highest + 1, count + 1).astype(np.int64)[1:-1].tolist()
    edges = [0, *inner, 2**63 - 1]
    return list(pairwise(edges))


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _reads_every_chunk(catalog: Catalog, filter: CompiledFilter) -> bool:
    catalog.register_function("oraculo_compare", compare_numbers)
    plan = catalog.rows(
        f"EXPLAIN QUERY PLAN SELECT c.number FROM chunks c WHERE {filter.sql}", filter.bindings
    )
    return any(step[3] == "SCAN c" for step in plan)
