"""What a zip archive holds, by its central directory, and the reading of one member. Nothing is written to disk.

The standard library's `zipfile` reads the whole directory again for every archive that is opened, so that 10,000 members
read one by one, as workers do, cost 10,000 directories; and one name that is no valid UTF-8 makes it refuse the archive.
Here a member is told by its place in the file, small enough to travel, and read from there.

Bounds, each checked before anything is expanded:

- The directory has 64 MiB and `MAX_MEMBERS` entries at most.
- No two members share bytes of the file: what overlaps is a bomb (42 kB that expand to 281 TB).
- All members together expand to `MAX_RATIO` times the file's size, or 1 GiB where that is more.
- A member gives the size that it declares, or fails.
"""

from __future__ import annotations

import bz2
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from oraculo_kit.errors import ExtractionError, SourceError, SourceUnreadableError
from oraculo_kit.inputs.base import too_large

MAX_MEMBERS = 100_000
MAX_RATIO = 200
_MAX_DIRECTORY_BYTES = 64 << 20
_ALWAYS_ALLOWED_BYTES = 1 << 30

_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_METHODS = {9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES encryption"}
_ENCRYPTED, _IS_UTF8 = 0x1, 0x800
_UNIX = 3

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ALL_ONES = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes
    ----------
    name : str
        As the archive has it; not to be trusted as a path.
    offset, packed, size : int
        Where it begins in the file, its bytes there, and its bytes expanded.
    crc, method, flags : int
    modified : str or None
        ISO 8601, with a zone only where the archive says UTC.
    is_link : bool
    """

    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    flags: int
    modified: str | None
    is_link: bool


def read_directory(path: str | os.PathLike[str]) -> list[Member]:
    """Return the files that an archive holds, in its order, without expanding any.

    Raises
    ------
    ExtractionError
        If it is no zip archive, damaged, in several parts, or out of bounds.
    SourceUnreadableError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            directory, count, shift, start = _directory(file, size)
    except OSError as exc:
        raise SourceUnreadableError(f"{exc.strerror or exc}; check the permissions and the disk") from exc
    try:
        members = list(_entries(directory, count, shift))
    except (struct.error, IndexError) as exc:
        raise ExtractionError("corrupt or cut off: its directory ends too early") from exc
    _refuse_bombs(members, size, start)
    return [member for member in members if not member.name.endswith("/")]


def _directory(file: BinaryIO, size: int) -> tuple[bytes, int, int, int]:
    """Return the directory, its number of entries, by how much offsets are to be shifted, and where it starts."""
    tail_start = max(0, size - 65_535 - _END.size)
    file.seek(tail_start)
    tail = file.read(size - tail_start)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or place + _END.size > len(tail):
        raise ExtractionError("not a zip archive, or cut off: it has no directory at its end")
    _, disk, first_disk, _, count, length, offset, _ = _END.unpack_from(tail, place)
    end = tail_start + place
    if _ALL_ONES in (length, offset) or count == 0xFFFF:
        file.seek(max(0, end - _LOCATOR_64.size))
        locator = file.read(_LOCATOR_64.size)
        if len(locator) == _LOCATOR_64.size and locator.startswith(b"PK\6\7"):
            end -= _LOCATOR_64.size + _END_64.size
            file.seek(max(0, end))
            record = file.read(_END_64.size)
            if len(record) < _END_64.size or not record.startswith(b"PK\6\6"):
                raise ExtractionError("corrupt: the record of its size is not where it should be")
            _, _, _, _, disk, first_disk, _, count, length, offset = _END_64.unpack(record)
    if disk or first_disk:
        raise ExtractionError(
            "a part of an archive in several parts; join the parts, and pack it anew as one"
        )
    if length > _MAX_DIRECTORY_BYTES or count > MAX_MEMBERS:
        raise ExtractionError(f"over {MAX_MEMBERS:,} members; unpack it, or make several archives of it")
    # Something may stand before the archive, such as the program of a self-extracting one.
    start, shift = end - length, end - length - offset
    if start < 0 or shift < 0:
        raise ExtractionError("corrupt: its directory is not where it should be")
    file.seek(start)
    return file.read(length), count, shift, start


def _entries(directory: bytes, count: int, shift: int) -> Iterator[Member]:
    place = 0
    for _ in range(count):
        (
            signature, _, system, _, _, flags, method, time, date, crc, packed, size, name_length, extra_length,
            comment_length, _, _, attributes, offset,
        ) = _ENTRY.unpack_from(directory, place)  # fmt: skip
        if signature != b"PK\1\2":
            raise ExtractionError("corrupt: its directory does not hold what it should")
        place += _ENTRY.size
        raw = directory[place : place + name_length]
        extras = _extras(directory[place + name_length : place + name_length + extra_length])
        place += name_length + extra_length + comment_length
        wide = extras.get(0x0001, b"")
        if size == _ALL_ONES:
            size, wide = struct.unpack_from("<Q", wide)[0], wide[8:]
        if packed == _ALL_ONES:
            packed, wide = struct.unpack_from("<Q", wide)[0], wide[8:]
        if offset == _ALL_ONES:
            offset = struct.unpack_from("<Q", wide)[0]
        is_link = system == _UNIX and stat.S_ISLNK(attributes >> 16)
        name = _name(raw, flags, extras)
        modified = _modified(date, time, extras)
        yield Member(name, offset + shift, packed, size, crc, method, flags, modified, is_link)


def _extras(data: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    while len(data) >= 4:
        kind, length = struct.unpack_from("<2H", data)
        fields.setdefault(kind, data[4 : 4 + length])
        data = data[4 + length :]
    return fields


def _name(raw: bytes, flags: int, extras: dict[int, bytes]) -> str:
    unicode_path = extras.get(0x7075, b"")
    if len(unicode_path) > 5 and struct.unpack_from("<L", unicode_path, 1)[0] == zlib.crc32(raw):
        raw, flags = unicode_path[5:], flags | _IS_UTF8
    try:
        # macOS writes UTF-8 without saying so.
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # What Windows writes in western Europe and Brazil; cp437, the standard's, has no ã and no õ.
        return raw.decode("utf-8", "surrogateescape") if flags & _IS_UTF8 else raw.decode("cp850")


def _modified(date: int, time: int, extras: dict[int, bytes]) -> str | None:
    stamp = extras.get(0x5455, b"")
    if len(stamp) >= 5 and stamp[0] & 1:
        seconds = struct.unpack_from("<l", stamp, 1)[0]
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds >= 0 else None
    try:
        moment = datetime(  # without a zone: nobody says in which it was written
            1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2
        )
    except ValueError:
        return None
    return moment.isoformat(timespec="seconds")


def _refuse_bombs(members: list[Member], size: int, start: int) -> None:
    expanded = sum(member.size for member in members)
    allowed = max(_ALWAYS_ALLOWED_BYTES, MAX_RATIO * size)
    if expanded > allowed:
        raise ExtractionError(
            f"expands from {size:,} to {expanded:,} bytes, over the limit of {allowed:,}; unpack what you need of it"
        )
    free = 0
    for member in sorted(members, key=lambda member: member.offset):
        if member.offset < free:
            raise ExtractionError("its members overlap, as those of a zip bomb do; pack it anew")
        free = member.offset + _LOCAL.size + member.packed
    if free > start:
        raise ExtractionError("corrupt or cut off: its members reach beyond its end")


def read_member(path: str | os.PathLike[str], member: Member, max_bytes: int) -> bytes:
    """Return a member's bytes, checked against its checksum.

    Raises
    ------
    SourceError
        If it is encrypted, packed by a method that is not read, damaged, or larger than `max_bytes`; the message is
        the reason alone.
    """
    if member.flags & _ENCRYPTED:
        raise ExtractionError("encrypted with a password; pack it again without one")
    if member.method not in (_STORED, _DEFLATED, _BZIP2):
        method = _METHODS.get(member.method, f"method {member.method}")
        raise ExtractionError(f"packed with {method}, which is not read; pack it again with Deflate")
    if member.size > max_bytes:
        raise too_large("this member", member.size, max_bytes)
    try:
        with open(path, "rb") as file:
            file.seek(member.offset)
            header = file.read(_LOCAL.size)
            if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
                raise ExtractionError("corrupt, or the archive was changed while it was read")
            *_, name_length, extra_length = _LOCAL.unpack(header)
            file.seek(name_length + extra_length, os.SEEK_CUR)
            data = _expanded(file, member)
    except SourceError:
        raise
    except OSError as exc:
        # bz2 raises OSError for damaged data, too.
        raise ExtractionError(f"cannot be read: {exc.strerror or exc}") from exc
    except (zlib.error, EOFError, ValueError, struct.error) as exc:
        raise ExtractionError(f"corrupt: {exc}") from exc
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise ExtractionError("corrupt: not the bytes that the archive declares")
    return data


def _expanded(file: BinaryIO, member: Member) -> bytes:
    """Expand to one byte more than declared at most, however much there would be."""
    left = member.size + 1
    # Packed, nothing grows by more than a little: what claims so is damaged, and is not read whole.
    packed = file.read(min(member.packed, 2 * member.size + 1024))
    if member.method == _STORED:
        return packed[:left]
    if member.method == _DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, left)
    return bz2.BZ2Decompressor().decompress(packed, left)
