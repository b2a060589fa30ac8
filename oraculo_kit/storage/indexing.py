"""The approximate indexes that a version of the store has, one per large segment at most.

An index is opened (checked whole, then mapped) at its first use, and kept as long as the catalog lists it. One that is
missing or does not match what the catalog knows of it counts as none: the segment is scanned, and nothing is lost but
time. What an index says is always weighed against the scan: it is asked only where it is quicker.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.storage.approximate import ApproximateIndex, open_index
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.index_facts import IndexFacts
from oraculo_kit.storage.segments import Segment, sorted_positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Found = tuple[NDArray[np.float32], Numbers]


class SegmentIndex:
    """The index of one segment; threads may share it.

    Attributes
    ----------
    name : str
        File name.
    facts : IndexFacts
    """

    def __init__(self, path: Path, facts: IndexFacts, segment: Segment) -> None:
        self.name = path.name
        self.facts = facts
        self._path = path
        self._segment = segment
        self._opened: ApproximateIndex | None = None
        self._is_usable = True
        self._lock = threading.Lock()

    def top(
        self, queries: NDArray[np.float32], k: int, dead: Numbers, allowed: Numbers | None
    ) -> Found | None:
        """Find the chunks of the segment with the highest cosine, approximately.

        Parameters
        ----------
        queries : numpy.ndarray
            float32, shape (q, dimension), rows of length one.
        k : int
        dead : numpy.ndarray
            int64, rising: numbers that are deleted.
        allowed : numpy.ndarray, optional
            int64, rising: search only among these numbers, of which none is dead.

        Returns
        -------
        (scores, numbers) or None
            As `oraculo_kit.storage.manifest.Manifest.top`; None where a scan is quicker, or the file is of no use.
        """
        wanted = self._wanted(dead, allowed)
        count = None if wanted is None else int(np.count_nonzero(wanted))
        if not self.facts.pays(k, count):
            return None
        index = self._index()
        if index is None:
            return None
        scores, positions = index.search(queries, k, wanted)
        return scores, np.where(positions >= 0, self._segment.numbers[positions], np.int64(-1))

    def _wanted(self, dead: Numbers, allowed: Numbers | None) -> NDArray[np.bool_] | None:
        numbers = self._segment.numbers
        if allowed is not None:
            wanted = np.zeros(len(numbers), np.bool_)
            positions, here = sorted_positions(numbers, allowed)
            wanted[positions[here]] = True
            return wanted
        positions, here = sorted_positions(numbers, dead)
        if not here.any():
            return None
        wanted = np.ones(len(numbers), np.bool_)
        wanted[positions[here]] = False
        return wanted

    def _index(self) -> ApproximateIndex | None:
        if self._opened is None and self._is_usable:
            with self._lock:
                if self._opened is None and self._is_usable:
                    self._opened = open_index(self._path, self.facts, self._segment.vectors)
                    self._is_usable = self._opened is not None
        return self._opened


def load_indexes(
    catalog: Catalog, folder: Path, segments: Mapping[str, Segment], known: Mapping[str, SegmentIndex]
) -> dict[str, SegmentIndex]:
    """Return the indexes of a version, by segment; of `known` those that are still listed."""
    found = {}
    for segment, name, facts in catalog.rows("SELECT segment, name, facts FROM indexes"):
        kept = known.get(segment)
        if kept is None or kept.name != name:
            kept = SegmentIndex(folder / name, IndexFacts.from_dict(json.loads(facts)), segments[segment])
        found[segment] = kept
    return found
