"""Which files there are: folders listed in a fixed order, every fault an item of the list.

Invariants:

- Nothing here raises for what it meets on disk, and nothing hangs: no file is opened. A missing path, an unreadable
  folder, a device, a symlink loop, an unknown extension are items with ``error`` set, and the walk goes on.
- What a folder holds and nobody could read (a FIFO, a socket, a device, a link back to itself) is a `NotAFileError`: no
  document is missing. Named itself it is a fault like any other, and so is a link whose target is gone.
- The order depends on names alone: each folder sorted by name, depth first; folders behind symlinks after the
  rest of their root. So a file is found under its real folder, whatever links lead there too.
- Every folder is listed once, told by device and inode, so links cannot make the walk endless.
- A folder whose ``.oraculoignore`` cannot be read is not listed: what it was to leave out may be secret.
- One ``os.stat`` per entry and no ``resolve()``: 20,000 files list in 0.3 s.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from oraculo_kit.errors import (
    NotAFileError,
    SourceError,
    SourceNotFoundError,
    SourceUnreadableError,
    UnsupportedFormatError,
)
from oraculo_kit.formats import extension_of, is_supported
from oraculo_kit.ignoring import IGNORE_FILE, MAX_IGNORE_BYTES, IgnoreRules, is_left_out, parse_ignore_file

__all__ = ["FoundFile", "find_files", "is_archive", "is_passed_over", "matches_glob", "source_key"]

_Identity = tuple[int, int]

# Others (.git, .venv, .oraculo, .DS_Store) are hidden anyway; the last two Windows puts into folders of pictures.
_JUNK_NAMES = frozenset({"__pycache__", "node_modules", "Thumbs.db", "desktop.ini"})
_OF_A_STORE = frozenset({"catalog.sqlite3", "writer.lock"})  # a base of ours under a name that is not hidden
_OFFICE_LOCK = "~$"  # beside every document that Word has open: "~$port.docx"
_OURS = frozenset({IGNORE_FILE, ".oraculo"})  # never sources, whatever an ignore file takes in

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to ingest, or the fault that was met in its place.

    Attributes
    ----------
    location : str
        Opens the file; may hold surrogates where the name is not valid in the file system's encoding.
    key : str
        The source's name in the store, see `source_key`.
    size : int
        Bytes; 0 where the file could not be looked at.
    mtime_ns : int
        Time of the last change, in nanoseconds since 1970; 0 where unknown.
    error : SourceError or None
        Why this cannot be ingested.
    named : bool
        Given itself, and not met in a folder.
    """

    location: str
    key: str
    size: int = 0
    mtime_ns: int = 0
    error: SourceError | None = None
    named: bool = False

    @property
    def path(self) -> Path:
        """The location; made anew each time, for a path takes six times the memory of its text."""
        return Path(self.location)


def source_key(path: str | os.PathLike[str]) -> str:
    r"""Return the key of a local source: its absolute path, Unicode NFC, encodable as UTF-8.

    Symlinks stay as they are. Bytes of a name that are no text are shown as ``\udcff``.

    Examples
    --------
    >>> source_key("/docs/../docs/Cafe\u0301.txt").endswith("docs/Café.txt")
    True
    """
    return _key(os.path.abspath(path))


def _key(absolute: str) -> str:
    if absolute.isascii():
        return absolute
    return unicodedata.normalize("NFC", absolute).encode("utf-8", "backslashreplace").decode("utf-8")


def find_files(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, glob: str | None = None
) -> Iterator[FoundFile]:
    """List files, and folders with all they hold.

    Hidden names (a leading dot), ``__pycache__``, ``node_modules``, ``Thumbs.db``, ``desktop.ini``, Office lock files and
    bases of ours are passed over where a folder holds them, but not where they are named themselves; so is what an ``.oraculoignore`` in the folder, or in
    one below it, leaves out (:mod:`oraculo_kit.ignoring`), which may also take hidden names in. Links to files and
    folders are followed.

    Parameters
    ----------
    paths : path or iterable of paths
        Files and folders; ``~`` is the home folder. What is named twice is listed once.
    glob : str, optional
        Take only files of folders that match: a pattern for the name (``"*.pdf"``), or, with a slash, for the
        path below the folder (``"2024/**/*.pdf"``; ``*`` crosses slashes).

    Yields
    ------
    FoundFile
        In a fixed order. Faults are items too, with ``error`` set.

    Examples
    --------
    >>> [type(found.error).__name__ for found in find_files("no/such/folder")]
    ['SourceNotFoundError']
    """
    walk = _Walk(glob)
    for given in [paths] if isinstance(paths, str | bytes | os.PathLike) else paths:
        yield from walk.root(os.path.expanduser(os.fsdecode(given)))


class _Walk:
    """One listing: what it has seen, and the links it still has to follow."""

    def __init__(self, glob: str | None) -> None:
        self._glob = glob
        self._listed: dict[str, str] = {}
        self._folders: set[_Identity] = set()
        self._links: deque[tuple[str, tuple[_Identity, ...], tuple[IgnoreRules, ...]]] = deque()

    def root(self, given: str) -> Iterator[FoundFile]:
        if not given or "\0" in given:
            yield _fault(given, SourceNotFoundError(f"{given!r} is no path; expected a file or folder"))
            return
        path = os.path.abspath(given)
        try:
            info = os.stat(path)
        except OSError as exc:
            yield _fault(path, _explain(path, exc, named=True))
            return
        if not stat.S_ISDIR(info.st_mode):
            yield from self._file(path, info, named=True)
            return
        yield from self._folder(path, path, _ancestors(path), ())
        while self._links:
            link, above, rules = self._links.popleft()
            if _leads_back(link, above):
                yield _fault(link, _loop(link, "a folder that holds it"))
            else:
                yield from self._folder(link, path, above, rules)

    def _folder(
        self, top: str, root: str, above: tuple[_Identity, ...], outer: tuple[IgnoreRules, ...]
    ) -> Iterator[FoundFile]:
        """List a folder and those in it, without recursion: a path may be a thousand folders deep."""
        open_folders: list[_OpenFolder] = []
        entering: tuple[str, tuple[_Identity, ...], tuple[IgnoreRules, ...]] | None = (top, above, outer)
        while entering or open_folders:
            if entering:
                path, chain, rules = entering
                entering = None
                try:
                    identity = _identity(path)
                    if identity in self._folders:
                        continue
                    self._folders.add(identity)
                    with os.scandir(path) as entries:
                        listing = sorted(entries, key=_name)
                except OSError as exc:
                    yield _fault(path, _explain(path, exc))
                    continue
                names = {entry.name for entry in listing}
                if names >= _OF_A_STORE:
                    continue
                if IGNORE_FILE in names:
                    try:
                        rules = (*rules, _ignore_rules(path))
                    except SourceError as exc:
                        yield _fault(os.path.join(path, IGNORE_FILE), exc)
                        continue
                open_folders.append(_OpenFolder(iter(listing), (*chain, identity), rules))
            folder = open_folders[-1]
            entry = next(folder.entries, None)
            if entry is None:
                open_folders.pop()
                continue
            if entry.name in _OURS or (not folder.rules and is_passed_over(entry.name)):
                continue
            try:
                info = entry.stat()
                is_link = entry.is_symlink()
            except OSError as exc:
                error = _explain(entry.path, exc)
                # What cannot be looked at may be a folder, and a glob chooses none; but a loop is neither.
                wanted = not isinstance(error, NotAFileError) or self._chooses(entry.path, root)
                if wanted and not folder.leaves_out(entry, False):
                    yield _fault(entry.path, error)
                continue
            is_folder = stat.S_ISDIR(info.st_mode)
            if folder.leaves_out(entry, is_folder):
                continue
            if not is_folder:
                if self._chooses(entry.path, root):
                    yield from self._file(entry.path, info)
            elif is_link:
                self._links.append((entry.path, folder.chain, folder.rules))
            else:
                entering = (entry.path, folder.chain, folder.rules)

    def _chooses(self, path: str, root: str) -> bool:
        return matches_glob(self._glob, path[len(root.rstrip(os.sep)) + 1 :])

    def _file(self, path: str, info: os.stat_result, *, named: bool = False) -> Iterator[FoundFile]:
        key = _key(path)
        listed = self._listed.get(key)
        if listed is None:
            if key == path:
                key = path  # one text in memory, not two: a run may have a million
            self._listed[key] = path
            yield FoundFile(path, key, info.st_size, info.st_mtime_ns, _file_error(path, info, named), named)
        elif listed != path:
            reason = (
                "another file here has the same name once it is written in Unicode NFC; rename one of them"
            )
            yield _fault(path, SourceUnreadableError(f"{key}: {reason}"))


@dataclass(slots=True)
class _OpenFolder:
    """A folder whose entries are being gone through."""

    entries: Iterator[os.DirEntry[str]]
    chain: tuple[_Identity, ...]
    rules: tuple[IgnoreRules, ...]

    def leaves_out(self, entry: os.DirEntry[str], is_folder: bool) -> bool:
        if not self.rules:
            return False  # what is passed over anyway was so already
        verdict = is_left_out(entry.path, self.rules, is_folder=is_folder)
        return is_passed_over(entry.name) if verdict is None else verdict


def matches_glob(glob: str | None, below: str) -> bool:
    """Tell whether a file is among those that a glob chooses.

    Parameters
    ----------
    glob : str or None
        As for `find_files`.
    below : str
        The file's path from the given folder on.

    Examples
    --------
    >>> [matches_glob(glob, "2024/a.pdf") for glob in ("*.pdf", "2024/*", "**/a.*", "a.pdf/*", None)]
    [True, True, True, False, True]
    """
    if glob is None:
        return True
    below = below.replace(os.sep, "/")
    if "/" not in glob:
        return fnmatch.fnmatch(below.rpartition("/")[2], glob)
    # The slash in front lets "**/" stand for no folder at all.
    return fnmatch.fnmatch(below, glob) or fnmatch.fnmatch("/" + below, glob)


def is_archive(name: str) -> bool:
    """Tell a zip archive, which is gone into, from a file: by its name, unless a loader reads files named so."""
    return extension_of(name) == ".zip" and not is_supported(name)


def _ignore_rules(folder: str) -> IgnoreRules:
    path = os.path.join(folder, IGNORE_FILE)
    try:
        # What is no regular file may never end, and opening it may never return.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SourceUnreadableError(f"{_key(path)}: not a regular file; expected patterns, one per line")
        with open(path, "rb") as file:
            content = file.read(MAX_IGNORE_BYTES + 1)
    except SourceError:
        raise
    except OSError as exc:
        raise SourceUnreadableError(
            f"{_key(path)}: {exc.strerror or exc}; without it nobody knows what to leave out, so its folder was not "
            "listed. Make it readable, or remove it"
        ) from exc
    if len(content) > MAX_IGNORE_BYTES:
        raise SourceUnreadableError(f"{_key(path)}: over 1 MiB; expected patterns, one per line. Shorten it")
    return parse_ignore_file(content, folder)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def is_passed_over(name: str) -> bool:
    """Tell names that no listing of a folder gives."""
    return name.startswith((".", _OFFICE_LOCK)) or name in _JUNK_NAMES


def _identity(path: str) -> _Identity:
    # Not DirEntry.stat(): on Windows it has no inode.
    info = os.stat(path)
    return info.st_dev, info.st_ino


def _leads_back(link: str, above: tuple[_Identity, ...]) -> bool:
    try:
        return _identity(link) in above
    except OSError:
        return False  # gone since it was listed; looking into it says so


def _ancestors(path: str) -> tuple[_Identity, ...]:
    """Return what the folders above a folder are: a link to one of them is a loop."""
    above = []
    while (parent := os.path.dirname(path)) != path:
        path = parent
        try:
            above.append(_identity(path))
        except OSError:
            # A folder above that cannot be looked at cannot be listed through a link either.
            continue
    return tuple(above)


def _file_error(path: str, info: os.stat_result, named: bool) -> SourceError | None:
    if not stat.S_ISREG(info.st_mode):
        kind = next((kind for test, kind in _KINDS if test(info.st_mode)), "of an unknown kind")
        return _no_file(named)(f"{_key(path)}: not a regular file but {kind}; expected a file or folder")
    if not is_supported(path) and not is_archive(path):
        extension = extension_of(path)
        unknown = f"the extension {extension!r} is unknown" if extension else "the name has no extension"
        return UnsupportedFormatError(
            f"{_key(path)}: {unknown}; convert the file, or teach the format with register_loader()"
        )
    return None


def _fault(path: str, error: SourceError) -> FoundFile:
    return FoundFile(path, _key(path), error=error)


def _no_file(named: bool) -> type[SourceUnreadableError]:
    """Return the error for what is no file: a fault only where the user named it."""
    return SourceUnreadableError if named else NotAFileError


def _loop(path: str, where: str, named: bool = False) -> SourceUnreadableError:
    return _no_file(named)(f"{_key(path)}: symlink loop: it leads back to {where}; remove the link")


def _explain(path: str, exc: OSError, *, named: bool = False) -> SourceError:
    if exc.errno == errno.ELOOP:
        return _loop(path, "itself", named)
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        if os.path.islink(path):
            return SourceNotFoundError(
                f"{_key(path)}: the symlink leads to nothing; restore its target, remove it, or name it in {IGNORE_FILE}"
            )
        return SourceNotFoundError(f"{_key(path)}: no such file or folder; check the path")
    if isinstance(exc, PermissionError):
        return SourceUnreadableError(f"{_key(path)}: permission denied; grant read access to it")
    return SourceUnreadableError(f"{_key(path)}: {exc.strerror or exc}")
