r"""Word 97 to 2003 (.doc): the text through its piece table, headings and tables through paragraph properties.

The file is an OLE container (:mod:`oraculo_kit.formats.ole`) with two streams that matter, as [MS-DOC] describes them:

1. ``WordDocument`` begins with the FIB, a directory of offsets. The text lies somewhere behind it, in pieces.
2. ``0Table`` or ``1Table`` (the FIB says which) holds the CLX, which says in what order the pieces are the text and
   whether each is cp1252 or UTF-16; the style sheet; and where the pages of paragraph and character properties lie.

The text comes in stories one after another: body, footnotes, page headers, comments, endnotes, text boxes. A cell
ends with ``\x07``, and so does a row: only the property of the mark tells them apart.

Whatever the numbers in the file say, no more text is read than the file has bytes, and each page is read once.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.blocks import TITLE_LEVEL, BlockWriter
from oraculo_kit.formats.ole import OleContainer
from oraculo_kit.formats.text import markdown_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.documents import Document

_WORD_97 = 0xA5EC
_WORD_6_AND_95 = frozenset({0xA5DC, 0xA5DB, 0xA59B, 0xA59C})
_FIRST_FIB_OF_97 = 0x00C1
_FLAGS, _ENCRYPTED, _USES_1TABLE = 0x0A, 0x0100, 0x0200
# Offsets in the FIB: the lengths of the stories, and pairs of (offset, length) in the table stream.
_STORY_LENGTHS = 0x4C
_STYLES, _CHARACTER_PAGES, _PARAGRAPH_PAGES, _CLX = 0xA2, 0xFA, 0x102, 0x1A2
_PAGE_BYTES = 512

# Single property modifiers: https://learn.microsoft.com/openspecs/office_file_formats/ms-doc (2.6)
_SPRM_STYLE, _SPRM_LIST, _SPRM_OUTLINE = 0x4600, 0x460B, 0x2640
_SPRM_IN_TABLE, _SPRM_ROW_END, _SPRM_DELETED = 0x2416, 0x2417, 0x0800
_SPRM_TABLE_DEFINITION = 0xD608
_OPERAND_BYTES = {0: 1, 1: 1, 2: 2, 3: 4, 4: 2, 5: 2, 7: 3}  # 6: its first byte says
_STYLE_TITLE = 62  # the numbers of built-in styles are the same in every language; headings are 1 to 9
_NO_STYLE = 0xFFF

_PARAGRAPH = re.compile("[^\r\x07\x0c]*[\r\x07\x0c]?")
_FIELD_MARK = re.compile("[\x13\x14\x15]")
_CHARACTERS = str.maketrans(
    {"\x0b": "\n", "\x0e": "\n", "\x1e": "-", "\x1f": None}
    | dict.fromkeys("\x00\x01\x02\x03\x04\x05\x06\x08\x7f\x13\x14\x15")
)


class _Piece(NamedTuple):
    start: int  # of its text in the whole text, in characters
    end: int
    offset: int  # of its bytes in WordDocument
    width: int  # bytes of a character


class _Run(NamedTuple):
    start: int  # in bytes of WordDocument
    end: int
    style: int
    modifiers: dict[int, int]


@dataclass(frozen=True)
class _Streams:
    main: bytes
    table: bytes

    def pair(self, place: int) -> tuple[int, int]:
        offset, length = struct.unpack_from("<II", self.main, place)
        return offset, min(length, max(len(self.table) - offset, 0))


def load_doc(data: bytes, name: str) -> list[Document]:
    """Read a Word 97 to 2003 document: one Markdown document with its headings, lists, tables and notes.

    Programs also write RTF, HTML and .docx under this name; they are read as what they are.
    """
    from oraculo_kit.formats.sniffing import load_by_content

    if (documents := load_by_content(data, name, expected="Word")) is not None:
        return documents
    try:
        container = OleContainer(data)
        return [_WordReader(_open_streams(container)).document(container.title())]
    except ExtractionError:
        raise
    except (struct.error, IndexError, ValueError) as exc:
        raise ExtractionError(f"corrupt or cut off: {exc}") from exc


def _open_streams(container: OleContainer) -> _Streams:
    if "EncryptedPackage" in container:
        raise ExtractionError("encrypted: it opens only with a password; save a copy without one")
    main = container.read("WordDocument")
    kind, version = struct.unpack_from("<HH", main)
    if kind in _WORD_6_AND_95 or (kind == _WORD_97 and version < _FIRST_FIB_OF_97):
        raise ExtractionError("written by Word 95 or older; save it again as .docx")
    if kind != _WORD_97:
        raise ExtractionError(f"not a Word document: it begins with {kind:#06x}, expected {_WORD_97:#06x}")
    (flags,) = struct.unpack_from("<H", main, _FLAGS)
    if flags & _ENCRYPTED:
        raise ExtractionError("encrypted: it opens only with a password; save a copy without one")
    return _Streams(main, container.read("1Table" if flags & _USES_1TABLE else "0Table"))


class _WordReader:
    def __init__(self, streams: _Streams) -> None:
        self._streams = streams
        self._pieces = _read_pieces(streams)
        self._levels = _style_levels(streams)
        self._paragraphs = sorted(
            _read_runs(streams, _PARAGRAPH_PAGES, has_style=True), key=lambda run: run.start
        )
        self._paragraph_starts = [run.start for run in self._paragraphs]
        self._deleted = sorted(
            (
                run
                for run in _read_runs(streams, _CHARACTER_PAGES, has_style=False)
                if run.modifiers.get(_SPRM_DELETED)
            ),
            key=lambda run: run.start,
        )

    def document(self, title: str) -> Document:
        text = self._text()
        writer = BlockWriter()
        start = 0
        lengths = struct.unpack_from("<7I", self._streams.main, _STORY_LENGTHS)
        body, notes, headers, _macros, comments, endnotes, boxes = lengths
        for length, is_read in (
            (body, True), (notes, True), (headers, False), (comments, False), (endnotes, True), (boxes, True),
        ):  # fmt: skip
            if is_read:
                self._write_story(writer, text, start, min(start + length, len(text)))
            start += length
        return markdown_document(writer.text(), writer.title or title)

    def _text(self) -> str:
        """Return the whole text, with what was deleted under revision marks as NULs, which are dropped later."""
        parts = []
        for piece in self._pieces:
            data = self._streams.main[piece.offset : piece.offset + (piece.end - piece.start) * piece.width]
            text = data.decode("cp1252", "replace") if piece.width == 1 else _from_utf16(data)
            parts.append(self._without_deleted(text, piece) if self._deleted else text)
        return "".join(parts)

    def _without_deleted(self, text: str, piece: _Piece) -> str:
        parts, done, end = [], 0, piece.offset + len(text) * piece.width
        first_run = max(bisect_right(self._deleted, piece.offset, key=lambda run: run.start) - 1, 0)
        for run in islice(self._deleted, first_run, None):
            if run.start >= end:
                break
            first = max((run.start - piece.offset) // piece.width, done)
            last = min((run.end - piece.offset) // piece.width, len(text))
            if last > first:
                parts += [text[done:first], "\0" * (last - first)]
                done = last
        return "".join([*parts, text[done:]])

    def _write_story(self, writer: BlockWriter, text: str, start: int, end: int) -> None:
        in_instruction = [False]
        while start < end:
            found = _PARAGRAPH.match(text, start, end)
            assert found is not None  # the pattern also matches nothing, and start < end
            position, start = found.end() - 1, max(found.end(), start + 1)
            run = self._run_at(position)
            modifiers = run.modifiers if run else {}
            content = _visible(found[0].rstrip("\r\x07\x0c"), in_instruction).translate(_CHARACTERS)
            if modifiers.get(_SPRM_ROW_END):
                writer.end_row()
            elif text[position] == "\x07":
                writer.cell_paragraph(content)
                writer.end_cell()
            elif modifiers.get(_SPRM_IN_TABLE):
                writer.cell_paragraph(content)
            else:
                style = modifiers.get(_SPRM_STYLE, run.style if run else 0)
                level = self._levels.get(style)
                if (outline := modifiers.get(_SPRM_OUTLINE, 9)) < 9:
                    level = outline + 1
                writer.paragraph(content, level=level, is_item=bool(modifiers.get(_SPRM_LIST)))
        writer.end_row()

    def _run_at(self, position: int) -> _Run | None:
        """Return the properties of the paragraph that the mark at this character ends."""
        index = bisect_right(self._pieces, position, key=lambda piece: piece.start) - 1
        if index < 0:
            return None
        piece = self._pieces[index]
        offset = piece.offset + (position - piece.start) * piece.width
        found = bisect_right(self._paragraph_starts, offset) - 1
        return self._paragraphs[found] if found >= 0 and offset < self._paragraphs[found].end else None


def _from_utf16(data: bytes) -> str:
    """Decode one character per two bytes, so that places stay right; surrogates are joined when it is stored."""
    try:
        text = data.decode("utf-16-le")
    except UnicodeDecodeError:
        text = ""
    if 2 * len(text) == len(data):
        return text
    return "".join(map(chr, struct.unpack(f"<{len(data) // 2}H", data)))


def _visible(text: str, in_instruction: list[bool]) -> str:
    """Return the text without the instructions of fields, which may go on over paragraphs."""
    if len(in_instruction) == 1 and not _FIELD_MARK.search(text):
        return text
    parts = []
    for part in re.split("([\x13\x14\x15])", text):
        if part == "\x13":
            in_instruction.append(True)
        elif part == "\x14":
            in_instruction[-1] = False
        elif part == "\x15":
            if len(in_instruction) > 1:
                in_instruction.pop()
        elif not any(in_instruction):
            parts.append(part)
    return "".join(parts)


def _read_pieces(streams: _Streams) -> list[_Piece]:
    offset, length = streams.pair(_CLX)
    clx = streams.table[offset : offset + length]
    position = 0
    while clx[position] == 1:  # formatting of fast saves, before the piece table
        position += 3 + struct.unpack_from("<H", clx, position + 1)[0]
    if clx[position] != 2:
        raise ExtractionError("corrupt: its piece table is not where the file says")
    (size,) = struct.unpack_from("<I", clx, position + 1)
    count = max(size - 4, 0) // 12
    table = clx[position + 5 :]
    places = struct.unpack_from(f"<{count + 1}I", table)
    pieces, bytes_left = [], len(streams.main)
    for index in range(count):
        (packed,) = struct.unpack_from("<I", table, 4 * (count + 1) + 8 * index + 2)
        width = 1 if packed & 0x4000_0000 else 2
        offset = (packed & 0x3FFF_FFFF) // (2 if width == 1 else 1)
        size = (places[index + 1] - places[index]) * width
        bytes_left -= size
        if size < 0 or bytes_left < 0 or offset + size > len(streams.main):
            raise ExtractionError("corrupt or cut off: its piece table names text beyond the end of the file")
        pieces.append(_Piece(places[index], places[index + 1], offset, width))
    return pieces


def _read_runs(streams: _Streams, place: int, *, has_style: bool) -> Iterator[_Run]:
    """Yield the runs on the pages of paragraph or character properties."""
    offset, length = streams.pair(place)
    count = max(length - 4, 0) // 8
    numbers = struct.unpack_from(f"<{count}I", streams.table, offset + 4 * (count + 1)) if count else ()
    for number in dict.fromkeys(number & 0x3F_FFFF for number in numbers):
        page = streams.main[number * _PAGE_BYTES : (number + 1) * _PAGE_BYTES]
        if len(page) == _PAGE_BYTES:
            yield from _page_runs(page, has_style=has_style)


def _page_runs(page: bytes, *, has_style: bool) -> Iterator[_Run]:
    count = page[-1]
    step = 13 if has_style else 1
    if 4 * (count + 1) + step * count > _PAGE_BYTES - 1:
        return
    bounds = struct.unpack_from(f"<{count + 1}I", page)
    for index in range(count):
        at = 2 * page[4 * (count + 1) + step * index]
        content = b""
        if at and has_style:
            size = 2 * page[at] - 1 if page[at] else 2 * page[at + 1]
            at += 1 if page[at] else 2
            content = page[at : at + size]
        elif at:
            content = page[at + 1 : at + 1 + page[at]]
        style = int.from_bytes(content[:2], "little") if has_style else 0
        yield _Run(bounds[index], bounds[index + 1], style, _modifiers(content[2 if has_style else 0 :]))


def _modifiers(content: bytes) -> dict[int, int]:
    """Return the property modifiers of a run by their codes; only values of up to four bytes are kept."""
    found: dict[int, int] = {}
    position = 0
    while position + 3 <= len(content):
        code = int.from_bytes(content[position : position + 2], "little")
        position += 2
        if code == _SPRM_TABLE_DEFINITION:
            size = int.from_bytes(content[position : position + 2], "little") + 1
        elif code >> 13 == 6:
            size = content[position] + 1
        else:
            size = _OPERAND_BYTES[code >> 13]
            found[code] = int.from_bytes(content[position : position + size], "little")
        position += size
    return found


def _style_levels(streams: _Streams) -> dict[int, int]:
    """Return the heading level of each paragraph style, its own or that of the style it is based on."""
    offset, length = streams.pair(_STYLES)
    sheet = streams.table[offset : offset + length]
    if len(sheet) < 4:
        return {}
    header, count = struct.unpack_from("<HH", sheet)
    position = 2 + header
    own: dict[int, int] = {}
    based_on: dict[int, int] = {}
    for style in range(count):
        if position + 2 > len(sheet):
            break
        (size,) = struct.unpack_from("<H", sheet, position)
        if size >= 4 and position + 6 <= len(sheet):
            kind, base = struct.unpack_from("<HH", sheet, position + 2)
            kind &= 0xFFF
            if 1 <= kind <= 9 or kind == _STYLE_TITLE:
                own[style] = TITLE_LEVEL if kind == _STYLE_TITLE else kind
            based_on[style] = base >> 4
        position += 2 + size
    levels = dict(own)
    for style in based_on:
        parent, seen = style, {style}
        while parent not in own and (parent := based_on.get(parent, _NO_STYLE)) not in seen:
            seen.add(parent)
        if parent in own:
            levels[style] = own[parent]
    return levels
