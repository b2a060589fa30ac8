"""OLE containers (compound files), which the binary Office formats are: the streams of their root, read by name.

A small reader of our own: one flipped byte in a table of sectors makes ``xlrd`` follow it in a circle for ever, and one
in the document's properties keeps ``olefile`` 0.47 busy with a count of four thousand million. Here every chain ends
after as many sectors as the file has, and every number is compared with what is there.

[MS-CFB]: the file is an array of sectors. The FAT holds for each sector the next one of its stream; the DIFAT says
which sectors are the FAT. Streams below 4,096 bytes lie in mini sectors of 64 bytes inside the root's own stream.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from oraculo_kit.errors import ExtractionError

OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")

_HEADER_BYTES = 512
_ENTRY_BYTES = 128
_LAST_SECTOR_NUMBER = 0xFFFF_FFFA  # higher numbers are marks: end of chain, free, part of a table
_NO_ENTRY = 0xFFFF_FFFF
_HEADER_DIFAT = 109
_STREAM = 2
_TITLE, _CODEPAGE = 2, 1
_TEXT, _WIDE_TEXT = 30, 31


class _Entry(NamedTuple):
    name: str
    kind: int
    left: int
    right: int
    child: int
    start: int
    size: int


class OleContainer:
    """The root folder of an OLE container held in memory.

    Parameters
    ----------
    data : bytes
        The whole file.

    Raises
    ------
    ExtractionError
        If its tables are damaged, or name sectors that the file does not have.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER_BYTES or not data.startswith(OLE_MAGIC):
            raise ExtractionError("corrupt or cut off: it has no OLE header")
        shift, mini_shift = struct.unpack_from("<HH", data, 30)
        if shift not in (9, 12) or mini_shift != 6:
            raise ExtractionError(f"corrupt: sectors of 2**{shift} and 2**{mini_shift} bytes")
        self._data = data
        self._sector_bytes, self._mini_bytes = 1 << shift, 1 << mini_shift
        self._sectors = max(len(data) - 1, 0) // self._sector_bytes
        directory, self._cutoff, mini_fat = struct.unpack_from("<I4xII", data, 48)
        self._fat = self._read_fat()
        self._entries = _read_entries(self._chain(directory))
        self._mini_fat = _numbers(self._chain(mini_fat)) if mini_fat < _LAST_SECTOR_NUMBER else ()
        self._mini_stream: bytes | None = None
        self._streams = self._list_root()

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._streams

    def read(self, name: str) -> bytes:
        """Return a stream of the root, by its name in any case.

        Raises
        ------
        ExtractionError
            If it is missing or damaged.
        """
        entry = self._streams.get(name.casefold())
        if entry is None:
            raise ExtractionError(f"not the document that its name says: {name} is missing in it")
        if entry.size >= self._cutoff:
            content = self._chain(entry.start, entry.size)
        else:
            content = self._mini_chain(entry.start, entry.size)
        if len(content) < entry.size:
            raise ExtractionError(f"cut off: {name} has {len(content):,} of {entry.size:,} bytes")
        return content[: entry.size]

    def title(self) -> str:
        """Return the title in the document's properties, ``""`` if there is none that can be read."""
        if "\x05SummaryInformation" not in self:
            return ""
        try:
            return _read_title(self.read("\x05SummaryInformation"))
        except (ExtractionError, struct.error, LookupError):
            return ""  # the text is what counts

    def _sector(self, number: int) -> bytes:
        start = (number + 1) * self._sector_bytes
        if number >= self._sectors:
            raise ExtractionError(f"cut off: sector {number:,} lies beyond the end of the file")
        return self._data[start : start + self._sector_bytes]

    def _read_fat(self) -> tuple[int, ...]:
        (next_difat,) = struct.unpack_from("<I", self._data, 68)
        difat = list(struct.unpack_from(f"<{_HEADER_DIFAT}I", self._data, 76))
        for _ in range(self._sectors):
            if next_difat >= _LAST_SECTOR_NUMBER:
                break
            *more, next_difat = _numbers(self._sector(next_difat))
            difat += more
        # Each sector of the FAT counts once, however often a damaged file names it.
        numbers = dict.fromkeys(number for number in difat if number < _LAST_SECTOR_NUMBER)
        return _numbers(b"".join(map(self._sector, numbers)))

    def _chain(self, number: int, size: int | None = None) -> bytes:
        parts: list[bytes] = []
        most = self._sectors if size is None else min(-(-size // self._sector_bytes), self._sectors)
        while number < _LAST_SECTOR_NUMBER and len(parts) < most:
            parts.append(self._sector(number))
            number = self._fat[number] if number < len(self._fat) else _NO_ENTRY
        return b"".join(parts)

    def _mini_chain(self, number: int, size: int) -> bytes:
        if self._mini_stream is None:
            self._mini_stream = self._chain(self._entries[0].start)
        parts: list[bytes] = []
        while number < len(self._mini_fat) and len(parts) * self._mini_bytes < size:
            start = number * self._mini_bytes
            parts.append(self._mini_stream[start : start + self._mini_bytes])
            number = self._mini_fat[number]
        return b"".join(parts)

    def _list_root(self) -> dict[str, _Entry]:
        """Return the streams of the root; those of embedded documents, which have the same names, lie deeper."""
        if not self._entries:
            raise ExtractionError("corrupt: its directory is empty")
        streams: dict[str, _Entry] = {}
        waiting, seen = [self._entries[0].child], set()
        while waiting:
            number = waiting.pop()
            if number >= len(self._entries) or number in seen:
                continue
            seen.add(number)
            entry = self._entries[number]
            waiting += [entry.left, entry.right]
            if entry.kind == _STREAM:
                streams[entry.name.casefold()] = entry
        return streams


def _numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])


def _read_entries(directory: bytes) -> list[_Entry]:
    entries = []
    for offset in range(0, len(directory) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        (length, kind) = struct.unpack_from("<HB", directory, offset + 64)
        name = directory[offset : offset + min(max(length - 2, 0), 64)].decode("utf-16-le", "replace")
        left, right, child = struct.unpack_from("<III", directory, offset + 68)
        start, size = struct.unpack_from("<II", directory, offset + 116)
        entries.append(_Entry(name, kind, left, right, child, start, size))
    return entries


def _read_title(properties: bytes) -> str:
    """Return the title from a property set stream ([MS-OLEPS])."""
    (section,) = struct.unpack_from("<I", properties, 44)
    (count,) = struct.unpack_from("<I", properties, section + 4)
    codepage, title = "cp1252", b""
    for index in range(min(count, 1000)):
        property_id, offset = struct.unpack_from("<II", properties, section + 8 + 8 * index)
        kind, value = struct.unpack_from("<II", properties, section + offset)
        if property_id == _CODEPAGE and value & 0xFFFF:
            codepage = f"cp{value & 0xFFFF}"
        elif property_id == _TITLE and kind in (_TEXT, _WIDE_TEXT):
            start = section + offset + 8
            title = properties[start : start + value * (2 if kind == _WIDE_TEXT else 1)]
            codepage = "utf-16-le" if kind == _WIDE_TEXT else codepage
    codepage = {"cp65001": "utf-8", "cp1200": "utf-16-le"}.get(codepage, codepage)
    return title.decode(codepage, "replace").partition("\0")[0].strip()
