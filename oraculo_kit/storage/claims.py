"""Names of segments on their way into the catalog.

A writer registers a name (a claim) before it makes the file, so that nobody mistakes an unfinished file for rubbish.
The transaction that commits what the file holds turns the claim into a segment. What a dead writer leaves, claim and
file, is collected by a later one; see `oraculo_kit.storage.owners` for who is dead.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import StorageError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.owners import Owner
from oraculo_kit.storage.segments import write_segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger("oraculo_kit.storage")


class ClaimedSegment:
    """A segment on its way: its name is registered, its file is being written."""

    def __init__(self, path: Path, dimension: int) -> None:
        self.path = path
        self.dimension = dimension
        self.first = 0
        self.adopted = False  # set once the transaction that adopted it is committed
        self._row: tuple[int, int, str, float | None] = (0, 0, "", None)

    @classmethod
    def claim(cls, catalog: Catalog, folder: Path, purpose: str, dimension: int = 0) -> ClaimedSegment:
        """Register a new name for this process.

        Parameters
        ----------
        catalog : Catalog
            In a write transaction.
        folder : pathlib.Path
            Where the file is to be.
        purpose : str
            What it is for; see `claim_owners`.
        dimension : int
            Length of a vector; the store's own when not given.
        """
        end = "f16" if catalog.meta("precision") == "float16" else "f32"
        name = claim_name(catalog, purpose, f"{uuid.uuid4().hex[:8]}.{end}")
        return cls(folder / name, dimension or int(catalog.meta("dimension") or 0))

    @property
    def is_half(self) -> bool:
        """Whether the vectors are to be stored as float16."""
        return self.path.suffix == ".f16"

    def write(
        self,
        numbers: NDArray[np.int64],
        blocks: Iterable[NDArray[np.floating[Any]]],
        recall: float | None = None,
    ) -> None:
        """Write the file, durable and complete.

        Parameters
        ----------
        numbers : numpy.ndarray
            int64, shape (rows,), rising.
        blocks : iterable of numpy.ndarray
            Floats that make up (rows, dimension) together.
        recall : float, optional
            What float16 finds of what float32 would; see `oraculo_kit.storage.precision`.
        """
        try:
            width = 2 if self.is_half else 4
            size, digest = write_segment(self.path, numbers, blocks, self.dimension, width)
        except OSError as exc:
            raise StorageError(
                f"the segment {self.path} could not be written: {exc.strerror or exc}. Nothing was stored of "
                "this write; free some space or check the disk, then try again"
            ) from exc
        self._row = len(numbers), size, digest, recall

    def adopt(self, catalog: Catalog) -> bool:
        """Turn the claim into a segment; False when the claim is gone or the file with it."""
        return self._list(catalog, "segments")

    def stage(self, catalog: Catalog) -> bool:
        """Turn the claim into a staged segment, as `adopt` does; see `oraculo_kit.storage.reembedding`."""
        return self._list(catalog, "staged")

    def _list(self, catalog: Catalog, table: str) -> bool:
        if not self.path.exists() or not drop_claim(catalog, self.path.name):
            return False
        catalog.db.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)", (self.path.name, *self._row))
        return True


def claim_name(catalog: Catalog, purpose: str, end: str) -> str:
    """Register a name for this process and return it; it begins with the time, so that names sort by age."""
    owner = Owner.this_process()
    name = f"{time.time_ns():020d}-{end}"
    catalog.db.execute(
        "INSERT INTO claims VALUES (?, ?, ?, ?, ?)", (name, purpose, owner.host, owner.pid, owner.started)
    )
    return name


def drop_claim(catalog: Catalog, name: str) -> bool:
    """Delete a claim; False when it was gone, because somebody took its process for dead."""
    return bool(catalog.rows("DELETE FROM claims WHERE name = ? RETURNING name", (name,)))


def claim_owners(catalog: Catalog, purpose: str) -> list[Owner]:
    """Return who claimed names for a purpose."""
    return [
        Owner(*row)
        for row in catalog.rows("SELECT host, pid, started FROM claims WHERE purpose = ?", (purpose,))
    ]


def collect_claims(catalog: Catalog) -> set[str]:
    """Delete the claims of dead processes, and return the names that are still spoken for."""
    for name, host, pid, started in catalog.rows("SELECT name, host, pid, started FROM claims"):
        # On another host nobody can tell; after a day no honest writer is still at it.
        expired = time.time_ns() - int(name.partition("-")[0]) > 86_400 * 10**9
        if expired or not Owner(host, pid, started).lives():
            catalog.db.execute("DELETE FROM claims WHERE name = ?", (name,))
    named = catalog.rows(
        "SELECT name FROM segments UNION ALL SELECT name FROM claims UNION ALL SELECT name FROM staged "
        "UNION ALL SELECT name FROM indexes"
    )
    return {name for (name,) in named}


def remove_files(paths: Iterable[Path], keep: Collection[str] = ()) -> list[str]:
    """Delete files of names that are free: a free name is never used again. Return the names of those that went."""
    removed = []
    for path in paths:
        if path.name.removesuffix(".tmp") in keep:
            continue
        try:
            path.unlink(missing_ok=True)
        except PermissionError as exc:
            # Windows: still mapped by a reader; the next collection takes it.
            _log.debug("%s is still in use: %s", path, exc)
        else:
            removed.append(path.name)
    return removed
