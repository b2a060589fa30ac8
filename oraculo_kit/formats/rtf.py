r"""Rich Text Format: one pass over its control words, with a stack of groups and no tree.

``striprtf`` was the alternative; it gives the text alone. This reader also keeps headings, lists, tables, footnotes
and the title, leaves out deleted and hidden text, page headers and footers, and knows the encoding of each font.

Text stands in the code page of its font (``\'e7`` is ``ç`` in cp1252), or as ``\u231`` followed by a replacement for
readers that know no Unicode, which is skipped.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.blocks import TITLE_LEVEL, BlockWriter
from oraculo_kit.formats.text import markdown_document

if TYPE_CHECKING:
    from langchain_core.documents import Document

MAX_DEPTH = 10_000
"""Word nests groups a few dozen deep; a file of opening braces would take a hundred times its size in memory."""

_TOKEN = re.compile(
    rb"""
      \\(?P<word>[a-zA-Z]{1,32})(?P<number>-?[0-9]{1,10})?[ ]?
    | \\'(?P<hex>[0-9a-fA-F]{2})
    | \\(?P<symbol>.)
    | (?P<brace>[{}])
    | (?P<text>[^\\{}\r\n]+)
    | [\r\n]+
    | \\
    """,
    re.DOTALL | re.VERBOSE,
)

# What a reader of the document does not see, or sees on every page. Groups that begin with \* are skipped as well,
# but for those that are named below.
_SKIPPED = frozenset(
    b"""
    colortbl filetbl revtbl listtable listoverridetable rsidtbl generator themedata colorschememapping datastore
    latentstyles header headerl headerr headerf footer footerl footerr footerf ftnsep ftnsepc aftnsep aftnsepc
    pict nonshppict objdata object sp shprslt fldinst listtext pntext xe tc rxe bkmkstart bkmkend annotation atnid
    upr nonesttables template private
    """.split()
)
_STARRED_BUT_READ = frozenset({b"shpinst", b"footnote", b"ud"})

_CHARACTERS = {
    b"tab": "\t", b"line": "\n", b"lbr": "\n", b"softline": "\n", b"emdash": "—", b"endash": "–", b"bullet": "•",
    b"lquote": "‘", b"rquote": "’", b"ldblquote": "“", b"rdblquote": "”", b"emspace": " ", b"enspace": " ",
    b"qmspace": " ", b"column": "\n",
}  # fmt: skip
_SYMBOLS = {b"\\": b"\\", b"{": b"{", b"}": b"}"}
_SYMBOL_TEXT = {b"~": "\u00a0", b"_": "-"}
_PLACES = {
    b"footnote": "note",
    b"shptxt": "box",
    b"fonttbl": "fonts",
    b"stylesheet": "styles",
    b"info": "info",
}
_PARAGRAPH_ENDS = frozenset({b"par", b"sect", b"page"})
_CHARSETS = {
    77: "mac_roman", 128: "cp932", 129: "cp949", 134: "cp936", 136: "cp950", 161: "cp1253", 162: "cp1254", 163: "cp1258",
    177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip
_HEADING_NAME = re.compile(r"heading ([1-9])", re.IGNORECASE)


@dataclass(slots=True)
class _Group:
    """What a closing brace gives back: where text goes, how it is encoded, what its paragraph is."""

    place: str = "body"  # body, note, box, info, title, fonts, styles or nowhere
    place_before: str = (
        ""  # {\\upr{in a code page}{\\*\\ud{in Unicode}}}: where the second is written, the first is not
    )
    codepage: str = ""
    replacement: int = 1  # how many characters follow a \u for readers without Unicode
    hidden: bool = False
    deleted: bool = False
    level: int | None = None
    is_item: bool = False
    in_table: bool = False


def load_rtf(data: bytes, name: str) -> list[Document]:
    """Read an RTF document: one Markdown document with its headings, lists, tables and notes."""
    return [_RtfReader(data).document()]


class _RtfReader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._group = _Group()
        self._stack: list[_Group] = []
        self._writer = BlockWriter()
        self._notes = BlockWriter()
        self._parts: dict[str, list[str]] = {"body": [], "note": [], "box": [], "title": [], "styles": []}
        self._bytes = bytearray()  # text not yet decoded: characters of some code pages are two bytes
        self._starred = False
        self._skip = 0  # characters left of a \u's replacement
        self._codepage = "cp1252"
        self._font = 0
        self._font_codepages: dict[int, str] = {}
        self._style = 0
        self._style_levels: dict[int, int] = {}
        self._style_bases: dict[int, int] = {}

    def document(self) -> Document:
        start = self._data[:64].find(b"{\\rtf")
        if start < 0:
            raise ExtractionError("not RTF: expected it to begin with {\\rtf")
        end = self._read(start)
        if self._stack:
            raise ExtractionError(
                f"cut off: {len(self._stack)} groups are still open at its end, byte {end:,}; get a whole copy of it"
            )
        text = "\n\n".join(filter(None, (self._writer.text(), self._notes.text())))
        title = "".join(self._parts["title"]).strip()
        return markdown_document(text, self._writer.title or title)

    def _read(self, position: int) -> int:
        match = _TOKEN.match
        while token := match(self._data, position):
            position = token.end()
            kind = token.lastgroup
            if kind == "text":
                self._plain(token[0])
            elif kind in {"word", "number"}:
                number = int(token["number"]) if token["number"] else None
                if token["word"] == b"bin":
                    position += max(number or 0, 0)
                else:
                    self._word(token["word"], number)
            elif kind == "hex":
                self._plain(bytes.fromhex(token["hex"].decode()))
            elif kind == "symbol":
                self._symbol(token["symbol"])
            elif kind == "brace":
                self._brace(token[0])
                if not self._stack:
                    break
        self._end_paragraph()
        return position

    # Groups

    def _brace(self, brace: bytes) -> None:
        self._decode()
        self._skip, self._starred = 0, False
        if brace == b"{":
            if len(self._stack) >= MAX_DEPTH:
                raise ExtractionError(f"nested too deeply: more than {MAX_DEPTH:,} groups in one another")
            self._stack.append(self._group)
            self._group = replace(self._group)
            return
        outer = self._stack.pop()
        place = self._group.place
        if place == "styles":
            self._end_style()
        elif place != outer.place and place in {"note", "box"}:
            self._end_paragraph()
        self._group = outer

    def _end_style(self) -> None:
        name = "".join(self._parts["styles"]).strip().rstrip(";").lower()
        self._parts["styles"].clear()
        if found := _HEADING_NAME.fullmatch(name):
            self._style_levels[self._style] = int(found[1])
        elif name == "title":
            self._style_levels[self._style] = TITLE_LEVEL

    # Control words and symbols

    def _word(self, word: bytes, number: int | None) -> None:
        if self._skip and word != b"u":
            self._skip -= 1
            return
        group = self._group
        starred, self._starred = self._starred, False
        if word == b"ud" and group.place_before:
            group.place, group.place_before = group.place_before, ""
        if group.place == "nowhere":
            return
        if group.place == "info" and word == b"title":
            group.place = "title"
        if word == b"u":
            self._decode()
            self._write(chr((number or 0) & 0xFFFF))
            self._skip = group.replacement
        elif starred and word not in _STARRED_BUT_READ:
            group.place = "nowhere"
        elif word in _SKIPPED:
            if word in {b"listtext", b"pntext"}:
                self._stack[-1].is_item = True
            group.place_before = group.place if word == b"upr" else ""
            group.place = "nowhere"
        elif character := _CHARACTERS.get(word):
            self._decode()
            self._write(character)
        else:
            self._property(word, number, group)

    def _property(self, word: bytes, number: int | None, group: _Group) -> None:
        off = number == 0
        if word in _PARAGRAPH_ENDS:
            self._end_paragraph()
        elif word == b"cell":
            self._end_cell()
        elif word == b"row":
            self._writer.end_row()
        elif word == b"nestcell":
            self._end_paragraph()
        elif word == b"pard":
            self._decode()
            group.level, group.is_item, group.in_table = None, False, False
        elif word == b"intbl":
            group.in_table = True
        elif word == b"s":
            self._style = number or 0
            group.level = self._style_level(self._style)
        elif word == b"sbasedon" and group.place == "styles":
            self._style_bases[self._style] = number or 0
        elif word == b"outlinelevel" and number is not None and 0 <= number < 9:
            self._outline(number + 1, group)
        elif word == b"ls":
            group.is_item = bool(number)
        elif word == b"plain":
            self._decode()
            group.hidden, group.deleted = False, False
        elif word == b"v":
            self._decode()
            group.hidden = not off
        elif word == b"deleted":
            self._decode()
            group.deleted = not off
        elif word == b"uc":
            group.replacement = max(number or 0, 0)
        elif word in _PLACES:
            self._decode()
            group.place = _PLACES[word]
            group.level, group.is_item, group.in_table = None, False, False
        else:
            self._encoding(word, number, group)

    def _style_level(self, style: int) -> int | None:
        """Return the heading level of a style, its own or that of the style it is based on."""
        seen = set()
        while style not in self._style_levels and style not in seen:
            seen.add(style)
            style = self._style_bases.get(style, style)
        return self._style_levels.get(style)

    def _outline(self, level: int, group: _Group) -> None:
        if group.place == "styles":
            self._style_levels.setdefault(self._style, level)
        else:
            group.level = level

    def _encoding(self, word: bytes, number: int | None, group: _Group) -> None:
        if number is None:
            if word in {b"mac", b"pc", b"pca"}:
                self._codepage = {b"mac": "mac_roman", b"pc": "cp437", b"pca": "cp850"}[word]
        elif word == b"ansicpg":
            self._codepage = _known_codepage(number, self._codepage)
        elif word == b"f":
            self._decode()
            self._font = number
            group.codepage = self._font_codepages.get(number, "")
        elif word == b"fcharset" and group.place == "fonts" and number in _CHARSETS:
            self._font_codepages[self._font] = _CHARSETS[number]
        elif word == b"cpg" and group.place == "fonts":
            self._font_codepages[self._font] = _known_codepage(number, self._codepage)

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._starred = True
        elif symbol in _SYMBOLS:
            self._plain(_SYMBOLS[symbol])
        elif self._skip:
            self._skip -= 1
        elif symbol in _SYMBOL_TEXT:
            self._decode()
            self._write(_SYMBOL_TEXT[symbol])
        elif symbol in b"\r\n" and self._group.place != "nowhere":
            self._end_paragraph()

    # Text

    def _plain(self, text: bytes) -> None:
        if self._skip:
            skipped = min(self._skip, len(text))
            self._skip -= skipped
            text = text[skipped:]
        if self._group.place != "nowhere":
            self._bytes += text

    def _decode(self) -> None:
        """Write the bytes that were read so far: what follows may be encoded differently, or belong elsewhere."""
        if self._bytes:
            text = self._bytes.decode(self._group.codepage or self._codepage, errors="replace")
            self._bytes.clear()
            self._write(text)

    def _write(self, text: str) -> None:
        group = self._group
        if group.place in self._parts and not (group.hidden or group.deleted):
            self._parts[group.place].append(text)

    def _take_paragraph(self) -> str:
        self._decode()
        parts = self._parts.get(self._group.place, [])
        text = "".join(parts)
        parts.clear()
        return text

    def _end_paragraph(self) -> None:
        group = self._group
        if group.place not in {"body", "note", "box"}:
            return
        text = self._take_paragraph()
        if group.place == "note":
            self._notes.paragraph(text)
        elif group.in_table:
            self._writer.cell_paragraph(text)
        elif text.strip():
            self._writer.paragraph(text, level=group.level, is_item=group.is_item)

    def _end_cell(self) -> None:
        self._writer.cell_paragraph(self._take_paragraph())
        self._writer.end_cell()


def _known_codepage(number: int, default: str) -> str:
    name = {0: "cp1252", 10000: "mac_roman", 65001: "utf-8"}.get(number, f"cp{number}")
    try:
        codecs.lookup(name)
    except LookupError:
        return default
    return name
