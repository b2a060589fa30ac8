"""Two refusals that keep a damaged store from being taken for a sound or an empty one."""

from __future__ import annotations

from pathlib import Path

from oraculo_kit.errors import StoreCorruptedError
from oraculo_kit.storage.catalog import Catalog, has_log


def check_not_behind(catalog: Catalog, remembered: int) -> None:
    """Refuse a catalog that is older than the last commit its lock file remembers.

    Parameters
    ----------
    catalog : Catalog
    remembered : int
        `WriterLock.commit_number`, read before `catalog` pinned its version: read after it, the number may be that of
        a commit made in between.

    Raises
    ------
    StoreCorruptedError
    """
    here = int(catalog.meta("commit"))
    if here < remembered:
        raise StoreCorruptedError(
            f"the catalog {catalog.path} is at commit {here}, but commit {remembered} was made: it was restored "
            "from an old copy, or its -wal file is lost. Nothing was changed. Put the missing files back; or, to "
            "accept the loss of the later commits, delete writer.lock while nothing uses the store"
        )


def is_catalog(path: Path) -> bool:
    """Tell whether there is a file with something in it; of an empty one SQLite throws the log away.

    SQLite takes a file of one byte for an empty one.
    """
    return path.is_file() and path.stat().st_size > 1


def check_not_lost(folder: Path, remembered: int, *, holds_nothing: bool = False) -> None:
    """Refuse a store that has everything but its catalog.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder.
    remembered : int
        `WriterLock.commit_number`.
    holds_nothing : bool
        SQLite found no table in the catalog: its creator was killed, or the log that held all of it is lost.

    Raises
    ------
    StoreCorruptedError
        When the catalog is missing or empty, and commits, segments or a log of it exist.
    """
    path = folder / "catalog.sqlite3"
    if not holds_nothing and is_catalog(path):
        return
    segments = folder / "segments"
    # What is in a log without effect, a killed creator may have left there.
    if remembered or (has_log(path) and not holds_nothing) or (segments.is_dir() and any(segments.iterdir())):
        raise StoreCorruptedError(
            f"the catalog {path} is missing or empty, but {remembered} commits were made to this store, or segments "
            "or a log of it exist. Nothing was changed. Restore the file from a copy, with its -wal file; to start anew, "
            f"remove the whole folder {folder}"
        )
