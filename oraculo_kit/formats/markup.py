"""HTML and XML as text.

HTML needs no tree here: a tokenizer that knows which elements break a line and which are not text is enough, and it
is linear in the size of whatever it is given, at any depth. Tree builders are not: ``html.parser`` of Python 3.11.7
takes 50 s for 60 kB of ``<a ``, and lexbor 120 s for a megabyte of nested ``<div>``. Repetitions in the patterns are
possessive or end at a fixed character, so no input makes them start over and over.

XML goes through expat, which is iterative too, loads no external entity, and here refuses documents that declare
entities of their own: that ends the billion laughs before the first one.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.parsers import expat

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.text import decode, markdown_document

if TYPE_CHECKING:
    from langchain_core.documents import Document

_TOKEN = re.compile(
    r"""
      <!--.*?(?:-->|\Z)
    | </(?P<end>[a-zA-Z][^\s/>]*+)[^>]*+(?:>|\Z)
    | <(?P<start>[a-zA-Z][^\s/>]*+)(?:=\s*+"[^"]*+"|=\s*+'[^']*+'|[^>])*+(?:>|\Z)
    | <[!?/][^>]*+(?:>|\Z)
    | (?P<text>[^<]++|<)
    """,
    re.DOTALL | re.VERBOSE,
)
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""")
_DECLARATION_BYTES = 2048
_LANGUAGE = re.compile(r"""<html\b[^>]{0,500}?\blang\s*=\s*["']?([A-Za-z]{2,3}\b)""", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n\f]+")
_TRAILING_SPACE = re.compile(r"(?<![ \t])[ \t]++(?=\n|\Z)")

# Not what a reader sees, or, with nav, the same on every page of a site.
_DROPPED = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "nav"})
# Their content is not markup: without an end tag they take the rest of the document.
_RAW = frozenset({"script", "style", "iframe"})
_BLOCK_NAMES = """
    address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption figure footer form
    header hr legend main ol optgroup option p pre section summary table tbody tfoot thead ul
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())


def declared_encoding(data: bytes) -> str | None:
    """Return the encoding that an HTML or XML document names in its first 2 kB."""
    found = _DECLARED.search(data[:_DECLARATION_BYTES])
    return found[1].decode("ascii") if found else None


def declared_language(source: str) -> str:
    """Return the language that an HTML document names in its first element, or ``""``."""
    found = _LANGUAGE.search(source, 0, _DECLARATION_BYTES)
    return found[1] if found else ""


def html_text(source: str) -> tuple[str, str]:
    r"""Return the text of an HTML document as a reader sees it, and its title.

    Headings get their ``#`` marks, list items a dash, table cells a bar between them; nothing else is marked, so
    that a word that is partly bold stays one word.

    Parameters
    ----------
    source : str
        HTML, however broken.

    Returns
    -------
    text, title : str, str

    Examples
    --------
    >>> html_text("<title>T</title><h1>Nota</h1><p>P&amp;D <b>n</b>eg<script>var x</script>")
    ('# Nota\n\nP&D neg', 'T')
    """
    return _HtmlText(source).result()


class _HtmlText:
    def __init__(self, source: str) -> None:
        self._source = source
        self._out: list[str] = []
        self._title = ""
        self._in_pre = False
        self._fence = ""
        self._row_has_cell = False
        self._after_mark = False
        self._without_end: set[str] = set()

    def result(self) -> tuple[str, str]:
        position = 0
        while token := _TOKEN.match(self._source, position):
            position = token.end()
            if text := token["text"]:
                self._text(html.unescape(text))
            elif start := token["start"]:
                position = self._start(start.lower(), position)
            elif end := token["end"]:
                self._end(end.lower())
        text = "".join(self._out)
        text = _TRAILING_SPACE.sub("", text)
        text = re.sub(r"^#{1,6}$", "", text, flags=re.MULTILINE)
        return re.sub(r"\n{3,}", "\n\n", text).strip("\n"), self._title

    def _text(self, text: str) -> None:
        if not self._in_pre:
            text = _SPACE.sub(" ", text)
            if text.startswith(" ") and (not self._out or self._out[-1][-1:].isspace()):
                text = text[1:]
        if text:
            self._out.append(text)
            self._after_mark = False

    def _start(self, tag: str, position: int) -> int:
        """Write what a start tag stands for; return where reading goes on."""
        if tag == "title":
            end = self._find_end(tag, position)
            if not self._title:
                self._title = _SPACE.sub(" ", html.unescape(self._source[position:end])).strip()
            return end
        if tag in _DROPPED:
            end = self._find_end(tag, position)
            found = end < len(self._source) or tag in _RAW
            return end if found else position
        if tag in _BLOCKS:
            self._break("\n\n" if tag not in {"div", "option"} else "\n")
            if tag == "pre" and not self._in_pre:
                self._start_pre(position)
            self._row_has_cell = self._row_has_cell and tag != "table"
        elif tag == "br":
            self._out.append("\n")
        elif tag == "li":
            self._break("\n")
            self._mark("- ")
        elif tag == "tr":
            self._end_cell()
            self._break("\n")
            self._row_has_cell = False
        elif tag in {"td", "th"}:
            self._end_cell()
            self._mark(" | " if self._row_has_cell else "")
            self._row_has_cell = True
        elif _is_heading(tag):
            self._break("\n\n")
            self._mark("#" * int(tag[1]) + " ")
        return position

    def _end(self, tag: str) -> None:
        if tag == "pre":
            self._end_pre()
        if tag in _BLOCKS or _is_heading(tag):
            self._break("\n\n" if tag not in {"div", "option"} else "\n")

    def _start_pre(self, position: int) -> None:
        """Set a fence around code whose comments would be taken for headings."""
        self._in_pre = True
        content = self._source[position : self._find_end("pre", position)].replace("&#", "")
        if "#" in content:
            longest = max(map(len, re.findall("`{3,}", content)), default=2)
            self._fence = "`" * (longest + 1)
            # On a line of its own, even in a list item or a cell: else nobody sees the fence begin, only its end.
            starts_line = not self._out or self._out[-1].endswith("\n")
            self._out.append(f"{'' if starts_line else chr(10)}{self._fence}\n")
            self._after_mark = False

    def _end_pre(self) -> None:
        self._in_pre = False
        if self._fence:
            self._out.append(f"\n{self._fence}")
            self._fence = ""

    def _mark(self, mark: str) -> None:
        """Write what stands before an item, cell or heading; no line break may part it from its text."""
        if mark:
            self._out.append(mark)
        self._after_mark = True

    def _break(self, lines: str) -> None:
        if self._out and not self._after_mark:
            self._out.append(lines)

    def _end_cell(self) -> None:
        # <td><p>one</p></td>: the paragraph's end is no end of the row.
        while self._row_has_cell and self._out and self._out[-1].isspace():
            self._out.pop()

    def _find_end(self, tag: str, position: int) -> int:
        """Return where the element's end tag begins, or the end of the document."""
        # A tag that once had no end has none later: without this, many of them would be quadratic.
        if tag not in self._without_end:
            if found := re.compile(rf"</{tag}(?=[\s/>])", re.IGNORECASE).search(self._source, position):
                return found.start()
            self._without_end.add(tag)
        return len(self._source)


def _is_heading(tag: str) -> bool:
    return len(tag) == 2 and tag[0] == "h" and tag[1] in "123456"


def parse_xml(
    data: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
) -> None:
    """Read XML and call back for every tag and text, with local names: ``w:p`` is ``p``.

    Parameters
    ----------
    data : bytes
        A whole document.
    start, end, text : callable
        Called with ``(name, attributes)``, ``(name)`` and ``(text)``; attribute names are local too.

    Raises
    ------
    ExtractionError
        If the XML is malformed or declares entities.
    """

    def on_start(name: str, attributes: dict[str, str]) -> None:
        local = {_local(key): value for key, value in attributes.items()}
        if len(local) < len(attributes):
            # <p:sldId id="256" r:id="rId2">: the name with a prefix is the one that only this format has.
            local.update({_local(key): value for key, value in attributes.items() if " " in key})
        start(_local(name), local)

    def on_end(name: str) -> None:
        end(_local(name))

    def on_entity(name: str, *_declaration: object) -> None:
        raise ExtractionError(
            f"declares the XML entity {name!r}; documents with entities of their own are refused"
        )

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = on_start
    parser.EndElementHandler = on_end
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = on_entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as exc:
        raise ExtractionError(f"malformed XML: {exc}") from exc


def element_text(data: bytes, name: str) -> str:
    """Return the text of the first element of an XML document with this local name, or ``""``."""
    path: list[str] = []
    found: list[str] = []
    done = False

    def start(tag: str, _attributes: dict[str, str]) -> None:
        path.append(tag)

    def end(tag: str) -> None:
        nonlocal done
        path.pop()
        done = done or tag == name

    def text(content: str) -> None:
        if path[-1] == name and not done:
            found.append(content)

    parse_xml(data, start, end, text)
    return "".join(found)


def ignore(_value: str) -> None:
    """Stand in for a callback of `parse_xml` that has nothing to do."""


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def load_html(data: bytes, name: str) -> list[Document]:
    """Read HTML or XHTML: one document, without scripts, styles and navigation."""
    source = decode(data, declared_encoding(data))
    text, title = html_text(source)
    return [markdown_document(text, title, declared_language(source))]


def load_xml(data: bytes, name: str) -> list[Document]:
    """Read XML: one document of ``element: text`` and ``element@attribute: value`` lines, in document order."""
    from langchain_core.documents import Document

    lines: list[str] = []
    path: list[str] = []
    content: list[str] = []

    def flush() -> None:
        value = " ".join("".join(content).split())
        content.clear()
        if value:
            lines.append(f"{path[-1]}: {value}")

    def start(tag: str, attributes: dict[str, str]) -> None:
        flush()
        path.append(tag)
        lines.extend(f"{tag}@{key}: {value}" for key, value in attributes.items() if value.strip())

    def end(tag: str) -> None:
        flush()
        path.pop()

    parse_xml(data, start, end, content.append)
    return [Document(page_content="\n".join(lines))]
