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


def check_not_lost(folder: Path, remembered: int) -> None:
    """Refuse a store that has everything but its catalog.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder.
    remembered : int
        `WriterLock.commit_number`.

    Raises
    ------
    StoreCorruptedError
        When the catalog is missing or empty, and commits, segments or a log of it exist.
    """
    path = folder / "catalog.sqlite3"
    if path.exists() and path.stat().st_size:
        return
    segments = folder / "segments"
    if remembered or has_log(path) or (segments.is_dir() and any(segments.iterdir())):
        raise StoreCorruptedError(
            f"the catalog {path} is missing or empty, but {remembered} commits were made to this store, or segments "
            "or a log of it exist. Nothing was changed. Restore the file from a copy; to start anew, remove the "
            f"whole folder {folder}"
        )
