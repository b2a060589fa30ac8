"""Rows straight from the pages of a SQLite file, where the tree above them is damaged.

SQLite reaches a row from the root of its table downwards; one damaged page near the root hides thousands of sound ones.
The leaves themselves can still be read: https://www.sqlite.org/fileformat2.html, sections 1.6 and 2.1. What they hold
may be stale (a page that is free now) or wrong, so a caller takes only rows that prove themselves, by a checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PAGE_BYTES = 4096  # SQLite's default, which every catalog has
_LEAF_OF_TABLE = 0x0D
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def leaf_rows(path: Path, columns: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the rows of all tables that have so many columns.

    Parameters
    ----------
    path : pathlib.Path
        A database that no connection has open.
    columns : int
        The row id counts, if a column is its alias; it is None in the row.

    Yields
    ------
    number : int
        The row id.
    values : tuple
        int, float, bytes (text too) or None.
    """
    with open(path, "rb") as file:
        pages = path.stat().st_size // _PAGE_BYTES
        for page in range(1, pages):  # the first holds the list of tables
            file.seek(page * _PAGE_BYTES)
            content = file.read(_PAGE_BYTES)
            if len(content) < _PAGE_BYTES or content[0] != _LEAF_OF_TABLE:
                continue
            (cells,) = struct.unpack_from(">H", content, 3)
            for cell in range(min(cells, (_PAGE_BYTES - 8) // 2)):
                (start,) = struct.unpack_from(">H", content, 8 + 2 * cell)
                try:
                    number, payload = _payload(file, content, start, pages)
                    values = _values(payload, columns)
                except (IndexError, ValueError, struct.error):
                    continue  # a damaged cell
                if values is not None:
                    yield number, values


def _payload(file: Any, content: bytes, start: int, pages: int) -> tuple[int, bytes]:
    size, start = _varint(content, start)
    number, start = _varint(content, start)
    if size > pages * _PAGE_BYTES:
        raise ValueError("longer than the file")
    most, least = _PAGE_BYTES - 35, (_PAGE_BYTES - 12) * 32 // 255 - 23
    if size <= most:
        return number, content[start : start + size]
    here = least + (size - least) % (_PAGE_BYTES - 4)
    here = here if here <= most else least
    parts = [content[start : start + here]]
    (following,) = struct.unpack_from(">I", content, start + here)
    missing = size - here
    while missing > 0:
        if not 1 < following <= pages:
            raise ValueError("the chain of pages is broken")
        file.seek((following - 1) * _PAGE_BYTES)
        overflow = file.read(_PAGE_BYTES)
        (following,) = struct.unpack_from(">I", overflow)
        parts.append(overflow[4 : 4 + missing])
        missing -= _PAGE_BYTES - 4
    return number, b"".join(parts)


def _values(payload: bytes, columns: int) -> tuple[Any, ...] | None:
    """Return the columns of a record; None when it has another number of them."""
    end, place = _varint(payload, 0)
    kinds = []
    while place < end:
        kind, place = _varint(payload, place)
        kinds.append(kind)
        if len(kinds) > columns:
            return None
    if len(kinds) != columns or place != end:
        return None
    values: list[Any] = []
    for kind in kinds:
        length = (kind - 12) // 2 if kind >= 12 else 8 if kind == 7 else _INTEGER_BYTES.get(kind, 0)
        data = payload[end : end + length]
        if len(data) != length or kind in (10, 11):
            raise ValueError("shorter than its header says")
        end += length
        if kind == 0:
            values.append(None)
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind == 7:
            values.append(struct.unpack(">d", data)[0])
        else:
            values.append(data if kind >= 12 else int.from_bytes(data, "big", signed=True))
    return tuple(values)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Read a number of one to nine bytes; return it, and where it ends."""
    value = 0
    for count in range(8):
        byte = data[place + count]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + count + 1
    value = value << 8 | data[place + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, place + 9
