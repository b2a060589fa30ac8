"""Bytes to text, and the formats that are text: plain text, source code, Markdown.

Encodings are tried from the strictest to the most lenient: a byte order mark, then UTF-16 without one, then strict
UTF-8 (other encodings hardly ever pass by accident), then the encoding that the document declares, then cp850 where
words show it, then cp1252, then latin-1, which accepts everything. A detector that guesses from letter statistics is no
help here: ``charset-normalizer`` 3.5 gets none of nine short Portuguese cp1252 texts right (``Ação`` comes out as big5).
"""

from __future__ import annotations

import codecs
import os
import re
from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionError

if TYPE_CHECKING:
    from langchain_core.documents import Document

# The UTF-32 mark begins with the UTF-16 one, so it is looked for first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8_SEQUENCE = re.compile(rb"[\xc3-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
# Inside a lower-case word: what ç, ã, é, ê, í, ó, ú are in the cp850 of old DOS programs (‡, ¢ and the like in cp1252,
# which no word contains), and the letters of cp1252.
_CP850_LETTER = re.compile(rb"(?<=[a-z\x80-\xff])[\x82\x83\x87\x88\xa1-\xa3\xc6](?=[a-z\x80-\xff])")
_CP1252_LETTER = re.compile(rb"(?<=[a-z\x80-\xff])[\xdf-\xff](?=[a-z\x80-\xff])")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CONTROL_BYTES = bytes([*range(0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20)])
_BINARY_SHARE = 0.01  # random bytes have 10 % control characters, text none; a log may hold a few NULs

_WIDE_SAMPLE = 4096  # bytes
_WIDE_SHARE = 0.8  # of text in a Latin script; quotes and dashes are beyond U+00FF

# UTF-8 read as cp1252 or latin-1: "ã" becomes "Ã£", an opening quote "â€œ". "Ã" followed by U+00A0 or by a
# typographic quote is left out: that is how a Portuguese word in capitals ends ("MAÇÃ").
_MOJIBAKE = re.compile("Ã[\x80-\x9f\xa1-\xbf]|Â[\x80-\x9f\xa1-\xbf]|â(?:€|\x80)|ï»¿|\ufffd")
_MOJIBAKE_STARTS = "ÃÂâï\ufffd"  # looked for first: a search for one letter is ten times as fast

_DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(?=\S)")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_EMPHASIS = re.compile(r"^([*_`]+)(.+)\1$")
_FRONT_MATTER_LANGUAGE = re.compile(r"\A---\n(?:(?!---\n).*\n)*?lang(?:uage)?:[ \t]*(.+)\n")
_FRONT_MATTER_TITLE = re.compile(r"\A---\n(?:(?!---\n).*\n)*?title:[ \t]*(.+)\n")
_HEADING_LENGTH = 200

FORMAT_KEY = "oraculo:format"
"""Private metadata by which a loader tells :mod:`oraculo_kit.split` how its text is laid out; removed there.

``"markdown"``, or the extension of a plain text file: ``"rst"``, ``"py"``. Not ``format``, which is the users'.
"""

_WITHOUT_LAYOUT = frozenset({".txt", ".text", ".log"})


def decode(data: bytes, declared: str | None = None) -> str:
    r"""Return the text of bytes in an unknown encoding.

    Parameters
    ----------
    data : bytes
        The whole file.
    declared : str, optional
        The encoding that the document itself names (``<meta charset=...>``). It may be wrong: it is believed
        only where strict UTF-8 fails and it decodes everything.

    Returns
    -------
    str
        Without byte order mark. Where the bytes are broken UTF-8, U+FFFD marks what was lost.

    Raises
    ------
    ExtractionError
        If more than 1 % of the characters are control characters: this is not text.

    Examples
    --------
    >>> decode("ação".encode("cp1252")), decode("ação".encode("utf-16"))
    ('ação', 'ação')
    """
    text = _decode(data, declared)
    if len(data.translate(None, _CONTROL_BYTES)) == len(data):
        return text  # no byte of a control character in it: told in a twentieth of the time
    controls = sum(1 for _ in _CONTROL.finditer(text))
    if controls > len(text) * _BINARY_SHARE:
        raise ExtractionError(
            f"not text: {controls:,} of {len(text):,} characters are control characters; "
            "expected text, or the extension that fits the content"
        )
    return text


def _decode(data: bytes, declared: str | None) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    for encoding in filter(None, (_wide(data), "utf-8", declared)):
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    # Mostly valid UTF-8 with a few bad bytes (a file cut in mid-character) is UTF-8, not cp1252.
    valid = sum(1 for _ in _UTF8_SEQUENCE.finditer(data))
    repaired = data.decode("utf-8", errors="replace")
    if valid > repaired.count("\ufffd"):
        return repaired
    if len(_CP850_LETTER.findall(data)) > len(_CP1252_LETTER.findall(data)):
        return data.decode("cp850")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _wide(data: bytes) -> str | None:
    """Tell UTF-16 without a byte order mark, as some Windows programs write it: every second byte is nearly always NUL."""
    sample = data[:_WIDE_SAMPLE]
    for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if zeros.count(0) > _WIDE_SHARE * len(zeros) and not _CONTROL.search(
            sample.decode(encoding, "ignore")
        ):
            return encoding
    return None


def looks_broken(text: str) -> bool:
    """Tell whether a text shows the marks of a wrong encoding.

    Examples
    --------
    >>> looks_broken("informaÃ§Ã£o"), looks_broken("informação, MAÇÃ")
    (True, False)
    """
    if text.isascii() or not any(start in text for start in _MOJIBAKE_STARTS):
        return False
    return _MOJIBAKE.search(text) is not None


def find_headings(text: str) -> list[tuple[int, int, str]]:
    r"""Find the ``#`` headings of a Markdown text, those inside code fences left out.

    Returns
    -------
    list of (int, int, str)
        Offset of the line, level 1 to 6, and the heading without Markdown marks.

    Examples
    --------
    >>> find_headings("# One\n```\n# no\n```\n## [Two](x)\n")
    [(0, 1, 'One'), (19, 2, 'Two')]
    """
    if "#" not in text:
        return []
    found = []
    offset, fence = 0, ""
    for line in text.split("\n"):
        if mark := _FENCE.match(line):
            # A fence is closed by the same character, at least as often.
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence):
                fence = ""
        elif not fence and (heading := _HEADING.match(line)):
            found.append((offset, len(heading[1]), _heading_text(line[heading.end() :])))
        offset += len(line) + 1
    return found


def _heading_text(marked: str) -> str:
    # Cut first: the patterns take time that is quadratic in what they are given.
    text = marked[: 2 * _HEADING_LENGTH].rstrip(" \t#")
    return _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", text))[:_HEADING_LENGTH]


def settled_language(declared: str, text: str) -> str:
    """Return the language of a document that declares one: ``pt`` for ``pt-BR``, or ``""``.

    What the text itself shows counts more: templates declare English whatever is written into them.

    Examples
    --------
    >>> settled_language("en-US", "A nota fiscal é emitida pelo município."), settled_language("es", "hola")
    ('pt', 'es')
    """
    declared = re.split("[-_]", declared.strip().lower())[0]
    if not re.fullmatch("[a-z]{2,3}", declared):
        return ""
    from oraculo_kit.storage.language import detect_language

    return detect_language(text) or declared


def markdown_document(text: str, title: str = "", language: str = "") -> Document:
    """Wrap Markdown text, titled by its first heading unless `title` is given, without embedded images.

    Base64 images are cut out: a pasted screenshot would become a thousand chunks of noise. `language` is what the
    document declares.
    """
    from langchain_core.documents import Document

    text = _DATA_URI.sub("", text.replace("\r\n", "\n"))
    if not title and (headings := find_headings(text)):
        title = headings[0][2]
    language = settled_language(language, text)
    metadata = {"title": title, FORMAT_KEY: "markdown"} | ({"lang": language} if language else {})
    return Document(page_content=text, metadata=metadata)


def load_text(data: bytes, name: str) -> list[Document]:
    """Read plain text or source code: one document, which remembers the extension for the splitter."""
    from langchain_core.documents import Document

    extension = os.path.splitext(name)[1].lower()
    metadata = {} if extension in _WITHOUT_LAYOUT else {FORMAT_KEY: extension[1:]}
    return [Document(page_content=decode(data), metadata=metadata)]


def load_markdown(data: bytes, name: str) -> list[Document]:
    """Read Markdown: one document, its title from the front matter or the first heading."""
    text = decode(data).replace("\r\n", "\n")
    front_matter = _FRONT_MATTER_TITLE.match(text)
    language = _FRONT_MATTER_LANGUAGE.match(text)
    return [
        markdown_document(
            text,
            front_matter[1].strip("\"' ") if front_matter else "",
            language[1].strip("\"' ") if language else "",
        )
    ]
