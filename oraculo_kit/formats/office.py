"""Word, PowerPoint and OpenDocument text: zip files of XML, read in one pass without a tree.

The three formats name the same things alike enough (``p``, ``tab``, ``br``, tables of rows of cells) for one reader.
It takes text wherever a reader sees it, in text boxes, content controls, tables and footnotes, and leaves out what
is deleted or repeated: tracked deletions, fallback copies, comments, page headers and footers.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oraculo_kit.formats.archive import open_archive, read_member
from oraculo_kit.formats.markup import element_text, ignore, parse_xml
from oraculo_kit.formats.text import markdown_document

if TYPE_CHECKING:
    from langchain_core.documents import Document

_INLINE = {"tab": "\t", "br": "\n", "cr": "\n", "line-break": "\n", "noBreakHyphen": "-", "s": " "}
_SKIPPED = frozenset({"Fallback", "moveFrom", "annotation", "tracked-changes", "note-citation"})
_TABLES, _ROWS, _CELLS = (
    frozenset({"tbl", "table"}),
    frozenset({"tr", "table-row"}),
    frozenset({"tc", "table-cell"}),
)
_TITLE_LEVEL = 0
_HEADING_STYLE = re.compile(r"heading ([1-9])", re.IGNORECASE)
_TITLE_PLACES = frozenset({"title", "ctrTitle"})
_FURNITURE_PLACES = frozenset({"sldNum", "dt", "ftr", "hdr", "sldImg"})


@dataclass
class _Paragraph:
    level: int | None = None
    is_item: bool = False
    parts: list[str] = field(default_factory=list)


class _Flow:
    """Reads one XML part into `blocks`, and the document's own title and slide's title into `title`.

    Parameters
    ----------
    levels : dict of str to int
        Heading level by paragraph style; 0 marks the title.
    item_styles : set of str
        Paragraph styles whose paragraphs are items of a list.
    everywhere : bool
        Text counts anywhere in a paragraph (OpenDocument), not only in ``t`` elements (Office Open XML).
    """

    def __init__(
        self,
        levels: dict[str, int] | None = None,
        item_styles: frozenset[str] = frozenset(),
        *,
        everywhere: bool = False,
    ) -> None:
        self.blocks: list[str] = []
        self.title = ""
        self._levels = levels or {}
        self._item_styles = item_styles
        self._everywhere = everywhere
        self._path: list[str] = []
        self._skipped = 0
        self._notes: list[str] = []  # OpenDocument has them inside the paragraph that refers to them
        self._in_note = 0
        self._paragraphs: list[_Paragraph] = []
        self._tables: list[list[list[list[str]]]] = []  # open tables, of rows, of cells, of paragraphs
        self._item_before = False
        self._place = ""

    def read(self, data: bytes) -> None:
        parse_xml(data, self._start, self._end, self._text)

    def text(self) -> str:
        return "".join(self.blocks + self._notes).strip("\n")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if self._skipped or tag in _SKIPPED:
            self._skipped += 1
        elif tag in {"p", "h"}:
            level = int(attributes.get("outline-level", "1")) if tag == "h" else None
            style = self._levels.get(attributes.get("style-name", ""))
            self._paragraphs.append(_Paragraph(level if level is not None else style))
            self._paragraphs[-1].is_item = "list-item" in self._path[-3:]
        elif tag in _INLINE and self._paragraphs:
            self._paragraphs[-1].parts.append(_INLINE[tag])
        elif tag in {"pStyle", "outlineLvl", "numPr"} and self._paragraphs:
            self._style(tag, attributes.get("val", ""))
        elif tag == "ph":
            self._place = attributes.get("type", "")
        elif tag == "note-body":
            self._in_note += 1
        elif tag in _TABLES:
            self._tables.append([])
        elif tag in _ROWS and self._tables:
            self._tables[-1].append([])
        elif tag in _CELLS and self._tables and self._tables[-1]:
            self._tables[-1][-1].append([])

    def _style(self, tag: str, value: str) -> None:
        paragraph = self._paragraphs[-1]
        if tag == "numPr":
            paragraph.is_item = True
        elif tag == "pStyle":
            paragraph.level = self._levels.get(value, paragraph.level)
            paragraph.is_item = value in self._item_styles
        elif value.isdigit() and int(value) < 9:
            paragraph.level = int(value) + 1

    def _text(self, content: str) -> None:
        if self._skipped or not self._paragraphs:
            return
        if self._everywhere:
            # OpenDocument writes spaces and line ends that count as elements.
            self._paragraphs[-1].parts.append(re.sub(r"\s+", " ", content))
        elif self._path[-1] == "t":
            self._paragraphs[-1].parts.append(content)

    def _end(self, tag: str) -> None:
        self._path.pop()
        if self._skipped:
            self._skipped -= 1
        elif tag in {"p", "h"}:
            self._end_paragraph(self._paragraphs.pop())
        elif tag == "sp":
            self._place = ""
        elif tag == "note-body":
            self._in_note -= 1
        elif tag in _TABLES:
            rows = [" | ".join(" ".join(cell) for cell in row) for row in self._tables.pop()]
            self._write("\n".join(row for row in rows if row.strip(" |")), is_item=False)

    def _end_paragraph(self, paragraph: _Paragraph) -> None:
        text = "".join(paragraph.parts).strip()
        if not text or self._place in _FURNITURE_PLACES:
            return
        if self._in_note:
            self._notes.append("\n\n" + text)
            return
        if (paragraph.level == _TITLE_LEVEL or self._place in _TITLE_PLACES) and not self.title:
            self.title = " ".join(text.split())
        in_table = bool(self._tables and self._tables[-1] and self._tables[-1][-1])
        if paragraph.level and not in_table:
            text = "#" * min(paragraph.level, 6) + " " + " ".join(text.split())
        elif paragraph.is_item:
            text = "- " + text
        self._write(text, is_item=paragraph.is_item and not paragraph.level)

    def _write(self, text: str, *, is_item: bool) -> None:
        if not text:
            return
        if self._tables and self._tables[-1] and self._tables[-1][-1]:
            self._tables[-1][-1][-1].append(" ".join(text.split()))
            return
        self.blocks.append(("\n" if is_item and self._item_before else "\n\n") + text)
        self._item_before = is_item


def load_docx(data: bytes, name: str) -> list[Document]:
    """Read a Word document: one Markdown document with its headings, lists, tables and notes."""
    with open_archive(data) as archive:
        members = set(archive.namelist())
        styles = read_member(archive, "word/styles.xml") if "word/styles.xml" in members else b""
        flow = _Flow(*_read_styles(styles) if styles else ())
        flow.read(read_member(archive, "word/document.xml"))
        for notes in ("word/footnotes.xml", "word/endnotes.xml"):
            if notes in members:
                flow.read(read_member(archive, notes))
        title = flow.title or _property(archive, "docProps/core.xml", "title")
        language = _property(archive, "docProps/core.xml", "language")
    return [markdown_document(flow.text(), title, language)]


def load_odt(data: bytes, name: str) -> list[Document]:
    """Read an OpenDocument text: one Markdown document with its headings, lists, tables and notes."""
    with open_archive(data) as archive:
        flow = _Flow({"Title": _TITLE_LEVEL}, everywhere=True)
        flow.read(read_member(archive, "content.xml"))
        title = flow.title or _property(archive, "meta.xml", "title")
        language = _property(archive, "meta.xml", "language")
    return [markdown_document(flow.text(), title, language)]


def load_pptx(data: bytes, name: str) -> list[Document]:
    """Read a presentation: a document per slide, ``page`` being its number, ``heading`` its title, notes included."""
    from langchain_core.documents import Document

    documents = []
    with open_archive(data) as archive:
        title = _property(archive, "docProps/core.xml", "title")
        for number, slide in enumerate(_slides(archive), start=1):
            flow = _Flow()
            flow.read(read_member(archive, slide))
            heading = flow.title
            for target in _relations(archive, slide).values():
                if "/notesSlides/" in target:
                    flow.read(read_member(archive, target))
            metadata = {"page": number, "title": title}
            documents.append(
                Document(
                    page_content=flow.text(), metadata=metadata | ({"heading": heading} if heading else {})
                )
            )
    return documents


def _slides(archive: zipfile.ZipFile) -> list[str]:
    """Return the slides' members in the order of the presentation, which is not that of their numbers."""
    ids: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "sldId":
            ids.append(attributes.get("id", ""))

    parse_xml(read_member(archive, "ppt/presentation.xml"), start, ignore, ignore)
    relations = _relations(archive, "ppt/presentation.xml")
    return [relations[key] for key in ids if key in relations]


def _relations(archive: zipfile.ZipFile, member: str) -> dict[str, str]:
    """Return the members that a member refers to, by relation id."""
    folder, base = posixpath.split(member)
    path = f"{folder}/_rels/{base}.rels"
    if path not in archive.namelist():
        return {}
    targets: dict[str, str] = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "Relationship" and attributes.get("TargetMode") != "External":
            target = attributes.get("Target", "")
            targets[attributes.get("Id", "")] = posixpath.normpath(
                posixpath.join("/" + folder, target)
            ).lstrip("/")

    parse_xml(read_member(archive, path), start, ignore, ignore)
    return targets


def _read_styles(styles: bytes) -> tuple[dict[str, int], frozenset[str]]:
    """Return the heading level of each paragraph style, its own or that of the style it is based on, and list styles.

    Style ids follow the language of the Word that wrote them ("Ttulo1"); the names inside stay English.
    """
    own: dict[str, int] = {}
    items: set[str] = set()
    based_on: dict[str, str] = {}
    style = ""

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal style
        value = attributes.get("val", "")
        if tag == "style":
            style = attributes.get("styleId", "")
        elif tag == "name" and (heading := _HEADING_STYLE.fullmatch(value)):
            own[style] = int(heading[1])
        elif tag == "name" and value.lower() == "title":
            own[style] = _TITLE_LEVEL
        elif tag == "outlineLvl" and value.isdigit() and int(value) < 9:
            own.setdefault(style, int(value) + 1)
        elif tag == "numPr":
            items.add(style)
        elif tag == "basedOn":
            based_on[style] = value

    parse_xml(styles, start, ignore, ignore)
    levels = dict(own)
    for name in based_on:
        parent, seen = name, {name}
        while parent not in own and (parent := based_on.get(parent, "")) and parent not in seen:
            seen.add(parent)
        if parent in own:
            levels[name] = own[parent]
    return levels, frozenset(items - set(levels))  # headings may be numbered too


def _property(archive: zipfile.ZipFile, member: str, name: str) -> str:
    """Return one of the document's properties, such as its title."""
    if member not in archive.namelist():
        return ""
    return element_text(read_member(archive, member), name)
