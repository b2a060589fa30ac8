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


class ClaimedFile:
    """A file on its way: its name is registered, it is being written.

    Made without a name, so that `oraculo_kit.storage.commit.Writer.released` can surround the transaction that
    registers one: an interrupt between the two would leave a claim that a living process never gives back.
    """

    def __init__(self) -> None:
        self.path = Path()
        self.adopted = False  # set once the transaction that adopted it is committed

    def register(self, catalog: Catalog, folder: Path, purpose: str, end: str) -> None:
        """Register a new name for this process, within the write transaction that is open."""
        self.path = folder / claim_name(catalog, purpose, f"{uuid.uuid4().hex[:8]}.{end}")


class ClaimedSegment(ClaimedFile):
    """A segment on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.dimension = 0
        self.first = 0
        self._row: tuple[int, int, str, float | None] = (0, 0, "", None)

    def claim_as(self, catalog: Catalog, folder: Path, purpose: str, dimension: int = 0) -> None:
        """Register a new name for this process.

        Parameters
        ----------
        catalog : Catalog
            In a write transaction.
        folder : pathlib.Path
            Where the file is to be.
        purpose : str
            What it is for; see `is_claimed`.
        dimension : int
            Length of a vector; the store's own when not given.
        """
        end = "f16" if catalog.meta("precision") == "float16" else "f32"
        self.register(catalog, folder, purpose, end)
        self.dimension = dimension or int(catalog.meta("dimension") or 0)

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
        """Turn the claim into a segment; False when the claim is gone or the file with it.

        Where nothing was written the claim is given back. That it still stood tells that the store is the one that
        was looked at: one that was restored meanwhile has no claims.
        """
        return self._list(catalog, "segments")

    def stage(self, catalog: Catalog) -> bool:
        """Turn the claim into a staged segment, as `adopt` does; see `oraculo_kit.storage.reembedding`."""
        return self._list(catalog, "staged")

    def _list(self, catalog: Catalog, table: str) -> bool:
        written = self._row[0] > 0
        if (written and not self.path.exists()) or not drop_claim(catalog, self.path.name):
            return False
        if written:
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


def is_claimed(catalog: Catalog, purpose: str) -> bool:
    """Tell whether a living process has claimed a name for a purpose: it is at it now."""
    owners = catalog.rows("SELECT host, pid, started FROM claims WHERE purpose = ?", (purpose,))
    return any(Owner(*owner).lives() for owner in owners)


def collect_claims(catalog: Catalog) -> set[str]:
    """Delete the claims of dead processes, and return the names that are still spoken for."""
    here = Owner.this_process().host
    for name, host, pid, started in catalog.rows("SELECT name, host, pid, started FROM claims"):
        # On another host nobody can tell; after a day no honest writer is still at it. Here one may be: a slow model
        # embeds a large store for days.
        expired = host != here and time.time_ns() - int(name.partition("-")[0]) > 86_400 * 10**9
        if expired or not Owner(host, pid, started).lives():
            catalog.db.execute("DELETE FROM claims WHERE name = ?", (name,))
    return spoken_for(catalog)


def spoken_for(catalog: Catalog) -> set[str]:
    """Return the names of all files that the catalog knows of."""
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
