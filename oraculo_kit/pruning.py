"""Which sources are gone: files below a given folder that the base knows and the disk does not.

Carefully: a file counts as gone only when its folder can be seen to be there. Below an empty folder, as an unmounted
drive leaves it, nothing is gone, nor where something cannot be read.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from oraculo_kit.discovery import source_key

if TYPE_CHECKING:
    from oraculo_kit.storage import VetorStorage


def gone_sources(storage: VetorStorage, sources: Any, found: Collection[str]) -> list[str]:
    """Return the keys of files that were ingested from the given folders and are no more.

    Parameters
    ----------
    storage : VetorStorage
    sources : any
        What `ingest` was given; only folders among it count.
    found : collection of str
        The keys of the sources that the folders hold now.

    Returns
    -------
    list of str

    Warns
    -----
    UserWarning
        When files are missing whose folder is empty; they are kept.
    """
    roots = [source_key(path) for path in _paths(sources) if os.path.isdir(path)]
    below = tuple(root.rstrip(os.sep) + os.sep for root in roots)
    if not below:
        return []
    known = [row.source for row in storage.sources() if row.source.startswith(below)]
    missing = [key for key in known if key not in found and _is_missing(key)]
    gone: list[str] = []
    kept: list[str] = []
    for key in missing:
        (kept if _is_empty(_nearest_folder(key)) else gone).append(key)
    if kept:
        warnings.warn(
            f"{len(kept)} files are missing from folders that are empty, and stay in the base: the drive may not be "
            f"mounted. The first: {kept[0]}. If they are gone for good, use oraculo_kit.remove()",
            UserWarning,
            stacklevel=3,
        )
    return gone


def _paths(sources: Any) -> Iterable[str | os.PathLike[str]]:
    if isinstance(sources, str | os.PathLike):
        return [sources]
    if isinstance(sources, list | tuple):
        return [item for item in sources if isinstance(item, str | os.PathLike)]
    return []


def _is_missing(path: str) -> bool:
    # A key is in Unicode's composed form; the name on the disk may be decomposed.
    return all(_does_not_exist(form) for form in {path, unicodedata.normalize("NFD", path)})


def _does_not_exist(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # nobody can tell
    return False


def _nearest_folder(path: str) -> str:
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True  # as good as empty: nothing can be seen in it
