"""Files of this machine, and what a zip archive among them holds."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oraculo_kit.discovery import FoundFile, find_files, is_archive, is_passed_over, matches_glob
from oraculo_kit.errors import (
    EmptySourceError,
    ExtractionError,
    SourceError,
    SourceUnreadableError,
    UnsupportedFormatError,
)
from oraculo_kit.formats import extension_of, is_supported
from oraculo_kit.inputs.base import INSIDE, IngestSource, as_time, iso_time, with_facts
from oraculo_kit.inputs.urls import url_scheme
from oraculo_kit.inputs.zip_directory import Member, read_directory, read_member

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from oraculo_kit.inputs.base import Extract

_ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f])")  # how a key shows a byte that is no text
_ARCHIVE_JUNK = "__MACOSX"  # what macOS packs beside every file


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file that `find_files` found."""

    found: FoundFile

    @property
    def key(self) -> str:
        """The absolute path, Unicode NFC."""
        return self.found.key

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.found.size

    @property
    def mtime_ns(self) -> int | None:
        """From the file system; None for a time that no calendar has."""
        return as_time(self.found.mtime_ns)

    @property
    def error(self) -> SourceError | None:
        """Why the file cannot be read, when listing it showed that already."""
        return self.found.error

    def content(self, max_bytes: int) -> bytes:
        """Read the file."""
        from oraculo_kit.load import read_file

        return read_file(self.found.location, max_bytes=max_bytes)

    def documents(self, content: bytes, extract: Extract) -> list[Document]:
        """Extract the text."""
        documents = extract(content, os.path.basename(self.found.location))
        return with_facts(documents, bytes=len(content), modified=iso_time(self.mtime_ns))


@dataclass(frozen=True)
class MemberSource:
    """A file in a zip archive, read from there into memory.

    Attributes
    ----------
    archive : str
        Opens the archive.
    member : Member
    key : str
        ``/folder/archive.zip!/inner/name.pdf``.
    archive_mtime_ns : int or None
        Stands in for the member's own time, which many programs do not set: as long as the archive has it, and the
        member its size, nothing is expanded again.
    error : SourceError or None
    """

    archive: str
    member: Member
    key: str
    archive_mtime_ns: int | None
    error: SourceError | None = None

    @property
    def size(self) -> int:
        """Bytes expanded."""
        return self.member.size

    @property
    def mtime_ns(self) -> int | None:
        """The archive's."""
        return self.archive_mtime_ns

    def content(self, max_bytes: int) -> bytes:
        """Expand the member."""
        try:
            return read_member(self.archive, self.member, max_bytes)
        except SourceError as exc:
            raise type(exc)(f"{self._name}: {exc}") from exc

    def documents(self, content: bytes, extract: Extract) -> list[Document]:
        """Extract the text."""
        return with_facts(extract(content, self._name), bytes=len(content), modified=self.member.modified)

    @property
    def _name(self) -> str:
        return self.key.rpartition("/")[2]


def file_sources(paths: Sequence[str | os.PathLike[str]], glob: str | None) -> Iterator[IngestSource]:
    """List files, folders, and archives with all they hold.

    Parameters
    ----------
    paths : sequence of paths
    glob : str or None
        Chooses files of a folder. Of an archive that was given itself it chooses members; one in a folder is taken
        whole or not at all, by its own name.
    """
    for found in find_files(paths, glob=glob):
        if found.error is None and is_archive(found.key):
            yield from _member_sources(found, glob if found.named else None)
        else:
            yield FileSource(found)


def sources_again(keys: Sequence[str]) -> dict[str, str | IngestSource]:
    """Return what is to be given to ingest sources once more of which only the keys are known.

    Parameters
    ----------
    keys : sequence of str
        Of files, files in archives, and URLs.

    Returns
    -------
    dict of str
        By key: a path or URL, or the file in an archive as it is now.

    Raises
    ------
    SourceError
        When a key is that of data in memory.
    """
    again: dict[str, str | IngestSource] = {}
    members: dict[str, dict[str, IngestSource]] = {}
    for key in keys:
        if url_scheme(key) is not None:
            again[key] = key
            continue
        if not os.path.isabs(key) and not os.path.lexists(key):
            raise SourceError(
                f"{key} is no file here. A row or a document in memory is not kept: ingest the data again, and what is "
                "unchanged is skipped"
            )
        archive, inside, _ = key.partition(INSIDE)
        if inside and archive not in members and is_archive(archive):
            members[archive] = {source.key: source for source in file_sources([on_disk(archive)], None)}
        again[key] = members.get(archive, {}).get(key) or on_disk(key)
    return again


def on_disk(key: str) -> str:
    r"""Return the path of a key: the name on the disk may be decomposed Unicode, or no text at all.

    Examples
    --------
    >>> on_disk("/no/such/file.txt")
    '/no/such/file.txt'
    """
    raw = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), key)
    forms = dict.fromkeys(form for name in (key, raw) for form in (name, unicodedata.normalize("NFD", name)))
    return next((form for form in forms if os.path.lexists(form)), key)


def archive_keys(path: str, key: str) -> set[str]:
    """Return the keys of all that an archive holds; raise a `SourceError` when that cannot be told."""
    return {f"{key}{INSIDE}{_path_in_archive(member.name)}" for member in read_directory(path)}


def _member_sources(archive: FoundFile, glob: str | None) -> Iterator[IngestSource]:
    if archive.size == 0:
        yield FileSource(replace(archive, error=EmptySourceError(f"{archive.key}: the file is empty")))
        return
    try:
        members = read_directory(archive.path)
    except SourceError as exc:
        yield FileSource(replace(archive, error=type(exc)(f"{archive.key}: {exc}")))
        return
    names = [_path_in_archive(member.name) for member in members]
    last = {name: place for place, name in enumerate(names)}
    for place, (name, member) in enumerate(zip(names, members, strict=True)):
        parts = name.split("/")
        if _ARCHIVE_JUNK in parts or any(is_passed_over(part) for part in parts if part != ".."):
            continue
        if not matches_glob(glob, name):
            continue
        key = f"{archive.key}{INSIDE}{name}"
        error = _member_error(key, parts, member)
        if last[name] != place:
            error = SourceError(
                f"{key}: the archive holds it more than once, and the last one counts; pack it anew"
            )
            key = f"{key} (entry {place + 1})"
        yield MemberSource(str(archive.path), member, key, as_time(archive.mtime_ns), error)


def _path_in_archive(name: str) -> str:
    r"""Return a member's name as a path that can be shown and stored: no root, no drive, no backslashes.

    Examples
    --------
    >>> _path_in_archive("C:\\docs\\.\\Cafe\u0301.txt"), _path_in_archive("/etc//passwd"), _path_in_archive("../a.txt")
    ('docs/Café.txt', 'etc/passwd', '../a.txt')
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and len(parts[0]) == 2 and parts[0].endswith(":"):
        del parts[0]
    path = "/".join(parts)
    return unicodedata.normalize("NFC", path).encode("utf-8", "backslashreplace").decode("utf-8")


def _member_error(key: str, parts: list[str], member: Member) -> SourceError | None:
    name = parts[-1]
    if ".." in parts or not name or "\0" in name:
        return SourceUnreadableError(
            f"{key}: its name leads out of the archive, or nowhere, so it is not read; pack it anew"
        )
    if member.is_link:
        return SourceUnreadableError(f"{key}: a symbolic link in an archive; pack the file itself")
    if member.flags & 1:
        return ExtractionError(f"{key}: encrypted with a password; pack it again without one")
    if is_archive(name):
        return UnsupportedFormatError(
            f"{key}: an archive in an archive is not gone into; unpack the outer one"
        )
    if not is_supported(name):
        extension = extension_of(name)
        named = f"the extension {extension!r} is unknown" if extension else "the name has no extension"
        return UnsupportedFormatError(f"{key}: {named}; convert it, or teach it with register_loader()")
    return None
