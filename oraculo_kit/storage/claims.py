"""Names of segments on their way into the catalog.

A writer registers a name (a claim) before it makes the file, so that nobody mistakes an unfinished file for rubbish.
The transaction that commits what the file holds turns the claim into a segment. What a dead writer leaves, claim and
file, is collected by a later one; see `oraculo_kit.storage.owners` for who is dead.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oraculo_kit.errors import StorageError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.segments import write_segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ClaimedSegment:
    """A segment on its way: its name is registered, its file is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first = 0
        self.adopted = False  # set once the transaction that adopted it is committed
        self._row: tuple[int, int, str] = (0, 0, "")

    @classmethod
    def claim(cls, catalog: Catalog, folder: Path, purpose: str) -> ClaimedSegment:
        """Register a new name for this process."""
        owner = Owner.this_process()
        # The time first, so that names sort by age; the rest makes them unique.
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.f32"
        catalog.db.execute(
            "INSERT INTO claims VALUES (?, ?, ?, ?, ?)", (name, purpose, owner.host, owner.pid, owner.started)
        )
        return cls(folder / name)

    def write(self, numbers: NDArray[np.int64], blocks: Sequence[NDArray[np.float32]]) -> None:
        """Write the file, durable and complete."""
        try:
            size, digest = write_segment(self.path, numbers, blocks, blocks[0].shape[1])
        except OSError as exc:
            raise StorageError(
                f"the segment {self.path} could not be written: {exc.strerror or exc}. Nothing was stored of "
                "this write; free some space or check the disk, then try again"
            ) from exc
        self._row = len(numbers), size, digest

    def adopt(self, catalog: Catalog) -> bool:
        """Turn the claim into a segment; False when the claim is gone or the file with it."""
        claimed = catalog.one("SELECT count(*) FROM claims WHERE name = ?", (self.path.name,))
        if not claimed or not self.path.exists():
            return False
        catalog.db.execute("DELETE FROM claims WHERE name = ?", (self.path.name,))
        catalog.db.execute("INSERT INTO segments VALUES (?, ?, ?, ?)", (self.path.name, *self._row))
        return True


def claim_owners(catalog: Catalog, purpose: str) -> list[Owner]:
    """Return who claimed names for a purpose."""
    return [
        Owner(*row)
        for row in catalog.rows("SELECT host, pid, started FROM claims WHERE purpose = ?", (purpose,))
    ]
