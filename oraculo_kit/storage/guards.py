"""Refusals that keep a damaged store, or one that is away for a moment, from being taken for a sound or an empty one."""

from __future__ import annotations

from pathlib import Path

from oraculo_kit.errors import StorageError, StoreCorruptedError
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


def check_not_restoring(folder: Path) -> None:
    """Refuse to make a store where a restore has set one aside and not yet put the other in its place.

    Parameters
    ----------
    folder : pathlib.Path
        Where no store is.

    Raises
    ------
    StorageError
        When the copy and the store that was set aside stand beside it. See `oraculo_kit.storage.copies` for the names.
    """
    # The copy is looked for first: once it has its place there is a store again.
    copies = [path for path in _beside(folder, ".", ".", ".tmp") if is_catalog(path / "catalog.sqlite3")]
    aside = sorted(_beside(folder, "", ".replaced-", ""))
    if copies and aside and not is_catalog(folder / "catalog.sqlite3"):
        raise StorageError(
            f"no store is at {folder}, because one is just being restored there, or the restore was ended on the way. Try "
            f"again in a moment. If this lasts, move {copies[-1]} to {folder}, which has what was restored, or "
            f"{aside[-1]}, which is the store as it was; to start anew, remove {copies[-1]}"
        )


def _beside(folder: Path, before: str, after: str, end: str) -> list[Path]:
    first = f"{before}{folder.name}{after}"
    try:
        paths = list(folder.parent.iterdir())
    except PermissionError:
        return []  # a folder whose list may not be read
    return [
        path for path in paths if path.name.startswith(first) and path.name.endswith(end) and path.is_dir()
    ]


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
