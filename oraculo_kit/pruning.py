"""Which sources are gone: what the base knows below a given root, and the root does not hold any more.

Carefully: a source counts as gone only when its place can be seen, now, to be without it. So nothing is gone

- below an empty folder, as an unmounted drive leaves it,
- below a folder that cannot be listed, or one further up that cannot,
- in an archive whose directory cannot be read, or a table that gave no rows,
- that the glob does not choose: it was not looked for.

What an ``.oraculoignore`` leaves out is still there, and stays.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oraculo_kit.discovery import is_archive, matches_glob, source_key
from oraculo_kit.errors import SourceError
from oraculo_kit.inputs.base import INSIDE
from oraculo_kit.inputs.files import archive_keys
from oraculo_kit.inputs.remote import REMOTE_SCHEMES, remote_key, remote_sources
from oraculo_kit.inputs.tables import is_table
from oraculo_kit.inputs.urls import url_scheme

if TYPE_CHECKING:
    from oraculo_kit.storage import VetorStorage


def gone_sources(
    storage: VetorStorage, sources: Any, found: Collection[str], *, glob: str | None = None
) -> list[str]:
    """Return the keys of sources that were ingested from the given roots and are no more.

    Parameters
    ----------
    storage : VetorStorage
    sources : any
        What `ingest` was given; folders, archives and tables among it are roots, here and behind URLs of fsspec.
    found : collection of str
        The keys of the sources that the roots hold now.
    glob : str, optional
        As given to `ingest`: what it does not choose stays.

    Returns
    -------
    list of str

    Warns
    -----
    UserWarning
        When files are missing whose folder is empty or cannot be listed; they are kept.
    """
    missing = missing_sources(storage, sources, found, glob=glob)
    if missing.kept:
        warnings.warn(missing.warning, UserWarning, stacklevel=2)
    return missing.gone


@dataclass(frozen=True)
class Missing:
    """Sources that the base has and their places do not: those that are gone, and those of which nobody can tell."""

    gone: list[str]
    kept: list[str]

    @property
    def warning(self) -> str:
        """What to say of those that are kept."""
        return (
            f"{len(self.kept)} files are missing from folders that are empty or cannot be listed, and stay in the base: "
            f"the drive may not be mounted. The first: {self.kept[0]}. If they are gone for good, use "
            "oraculo_kit.remove()"
        )


def missing_sources(
    storage: VetorStorage, sources: Any, found: Collection[str], *, glob: str | None = None
) -> Missing:
    """Return what `gone_sources` returns, and what it warns of; says nothing itself."""
    roots = [root for given in _paths(sources) if (root := _root(given, found)) is not None]
    if not roots:
        return Missing([], [])
    known = [
        row.source for row in storage.sources() if row.source.startswith(tuple(root.below for root in roots))
    ]
    look = _Look()
    gone: list[str] = []
    kept: list[str] = []
    for key in known:
        root = max((root for root in roots if key.startswith(root.below)), key=lambda root: len(root.below))
        if key in found or not root.chooses(key, glob):
            continue
        verdict = root.lacks(key, look)
        if verdict is not None:
            (gone if verdict else kept).append(key)
    return Missing(gone, kept)


def is_gone(key: str) -> bool:
    """Tell whether the file of a key can be seen to be gone; False for whatever is no file of this machine.

    Parameters
    ----------
    key : str
        Of a file, or of a file in an archive.
    """
    return os.path.isabs(key) and _Look().is_missing(key)


@dataclass
class _Look:
    """What was seen of this machine's folders and archives in one go."""

    listable: dict[str, bool] = field(default_factory=dict)
    archives: dict[str, set[str] | None] = field(default_factory=dict)

    def is_missing(self, key: str) -> bool:
        """Tell whether a file is not there; False where nobody can tell."""
        archive, inside, _ = key.partition(INSIDE)
        if inside and is_table(archive):
            return False  # a row: only reading the table tells
        if not inside or not is_archive(archive) or os.path.isdir(archive + "!"):
            return not _may_exist(key)
        if not _may_exist(archive):
            return True
        if archive not in self.archives:
            try:
                self.archives[archive] = archive_keys(_on_disk(archive), archive)
            except SourceError:
                self.archives[archive] = None
        held = self.archives[archive]
        return held is not None and key not in held

    def is_listed(self, folder: str, root: str) -> bool:
        """Tell whether a folder, and all from the root down to it, can be listed."""
        while True:
            if folder not in self.listable:
                self.listable[folder] = _can_list(folder)
            if not self.listable[folder]:
                return False
            if len(folder) <= len(root) or (above := os.path.dirname(folder)) == folder:
                return True
            folder = above


@dataclass(frozen=True)
class _Root:
    """Something that was given and listed whole."""

    key: str
    below: str

    def chooses(self, key: str, glob: str | None) -> bool:
        """Tell whether a glob chooses a source below: an archive in a folder counts by its own name."""
        path = key[len(self.below) :]
        return matches_glob(glob, path if self.below.endswith(INSIDE) else path.partition(INSIDE)[0])

    def lacks(self, key: str, look: _Look) -> bool | None:
        """Return True when a source is gone, False when it is missing but nobody knows why, None when it is there."""
        raise NotImplementedError


class _Folder(_Root):
    def lacks(self, key: str, look: _Look) -> bool | None:
        if not look.is_missing(key):
            return None
        archive, inside, _ = key.partition(INSIDE)
        if inside and _may_exist(archive):
            return True
        folder = os.path.dirname(archive if inside else key)
        while not os.path.isdir(_on_disk(folder)):
            folder = os.path.dirname(folder)
        return look.is_listed(_on_disk(folder), self.key) and not _is_empty(_on_disk(folder))


class _Archive(_Root):
    def lacks(self, key: str, look: _Look) -> bool | None:
        return True if _may_exist(self.key) and look.is_missing(key) else None


class _Listed(_Root):
    """A root whose sources were all found: what was not found is gone."""

    def lacks(self, key: str, look: _Look) -> bool | None:
        return True


def _root(given: str | os.PathLike[str], found: Collection[str]) -> _Root | None:
    if url_scheme(given) in REMOTE_SCHEMES:
        return _remote_root(str(given))
    if url_scheme(given) is not None:
        return None
    path = os.path.expanduser(given)
    key = source_key(path)
    if os.path.isdir(path):
        return _Folder(key, key.rstrip(os.sep) + os.sep)
    below = key + INSIDE
    if is_archive(key):
        return _Archive(key, below)
    return _Listed(key, below) if any(each.startswith(below) for each in found) else None


def _remote_root(url: str) -> _Root | None:
    """Return a folder elsewhere, when it can be listed now and holds anything."""
    key = remote_key(url).rstrip("/")
    listed = list(remote_sources(url, None))
    if not listed or any(source.key == key and source.error is not None for source in listed):
        return None
    return _RemoteFolder(key, key + "/", frozenset(source.key for source in listed))


@dataclass(frozen=True)
class _RemoteFolder(_Root):
    held: frozenset[str]

    def lacks(self, key: str, look: _Look) -> bool | None:
        return True if key not in self.held else None


def _paths(sources: Any) -> Iterable[str | os.PathLike[str]]:
    if isinstance(sources, str | os.PathLike):
        return [sources]
    if isinstance(sources, list | tuple):
        return [item for item in sources if isinstance(item, str | os.PathLike)]
    return []


def _forms(key: str) -> set[str]:
    # A key is in Unicode's composed form; the name on the disk may be decomposed.
    return {key, unicodedata.normalize("NFD", key)}


def _may_exist(path: str) -> bool:
    return not all(_does_not_exist(form) for form in _forms(path))


def _on_disk(path: str) -> str:
    return next((form for form in sorted(_forms(path)) if os.path.lexists(form)), path)


def _does_not_exist(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False  # nobody can tell
    return False


def _can_list(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
    except OSError:
        return False
    return True


def _is_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None
