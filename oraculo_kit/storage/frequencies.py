"""In how many chunks a stem stands, as far as this process has asked.

Long questions stay fast because a match must have one of their rarer words (`TextQuery.essential`), and
for that rough numbers do. So they are counted in the full-text index when a stem is first met (over 100,000 chunks 0.2 ms,
a very frequent one 2.4 ms) and kept. They may be out of date: other processes write, and nothing tells this one.
But never by more than a factor of about two, because all are forgotten when the number of chunks has doubled or
halved; and a stem that stood nowhere is counted again each time, since new text with a new word must be found.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oraculo_kit.storage.asking import Version

_KEPT_STEMS = 50_000  # about 6 MB


class Frequencies:
    """Counts of stems, shared by the threads of a process: at worst two of them count the same stem."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks = 0
        self._epoch = ""
        self._counts: dict[str, int] = {}

    def of(self, snapshot: Version, stems: Sequence[str], chunks: int) -> dict[str, int]:
        """Return in about how many chunks each stem stands.

        Parameters
        ----------
        snapshot : Version
        stems : sequence of str
            Terms of the index; one with a space in it stands for words in a row.
        chunks : int
            How many chunks the snapshot has.
        """
        counts = self._usable(snapshot.manifest.epoch, chunks)
        found: dict[str, int] = {}
        for stem in stems:
            count = counts.get(stem)
            if count is None:
                count = snapshot.frequency(stem)
                if count:
                    if len(counts) >= _KEPT_STEMS:
                        counts.clear()
                    counts[stem] = count
            found[stem] = count
        return found

    def _usable(self, epoch: str, chunks: int) -> dict[str, int]:
        with self._lock:
            if epoch != self._epoch or not self._chunks / 2 < chunks < self._chunks * 2:
                # A new dict: a thread that still counts for the old one must not add to it.
                self._epoch, self._chunks, self._counts = epoch, chunks, {}
            return self._counts
