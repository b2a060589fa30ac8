r"""Texts that have headings: their sections, with the path of headings above each.

Markdown has them by ``#``, reStructuredText by underlines. What HTML, Word, OpenDocument and EPUB call headings their
loaders write as Markdown's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from oraculo_kit.formats.text import find_headings

Heading = tuple[int, int, int, str]
"""Where a heading starts and where its last line ends, its level from 1, and its text."""

FindHeadings = Callable[[str], list[Heading]]

_UNDERLINE = re.compile(r"([!-/:-@\[-`{-~])\1+[ \t]*\Z")
_TITLE_LENGTH = 200


def find_marked(text: str) -> list[Heading]:
    """Find the ``#`` headings of a Markdown text."""
    found = []
    for offset, level, title in find_headings(text):
        end = text.find("\n", offset)
        found.append((offset, end if end >= 0 else len(text), level, title))
    return found


def find_underlined(text: str) -> list[Heading]:
    r"""Find the headings of a reStructuredText: a line of text above a line of one repeated punctuation mark.

    The mark says nothing about the level: the first that occurs is level 1, the next new one level 2. A mark above
    and below is another one than below alone.

    Examples
    --------
    >>> find_underlined("======\nManual\n======\n\nUso\n---\nTexto.\n")
    [(0, 20, 1, 'Manual'), (22, 29, 2, 'Uso')]
    """
    found = []
    levels: dict[tuple[str, bool], int] = {}
    lines = text.split("\n")
    offset = 0
    for place, line in enumerate(lines[:-1]):
        mark = _underline(lines[place + 1], line)
        # A title stands below a blank line, or below its own overline.
        above = lines[place - 1].rstrip() if place else ""
        overlined = bool(mark) and above == lines[place + 1].rstrip()
        if mark and (overlined or not above) and (overlined or not line[:1].isspace()):
            level = levels.setdefault((mark, overlined), len(levels) + 1)
            at = offset - len(lines[place - 1]) - 1 if overlined else offset
            end = offset + len(line) + 1 + len(lines[place + 1])
            found.append((at, end, level, line.strip()[:_TITLE_LENGTH]))
        offset += len(line) + 1
    return found


def _underline(line: str, title: str) -> str:
    """Return the mark of a line that underlines `title`, or nothing."""
    if len(line) < 2 or not title.strip() or len(line.rstrip()) < len(title.rstrip()):
        return ""
    mark = _UNDERLINE.match(line)
    # Two lines of marks are a table's or a transition's.
    return mark[1] if mark and not _UNDERLINE.match(title) else ""


def find_sections(text: str, headings: FindHeadings = find_marked) -> Iterator[tuple[int, int, str]]:
    r"""Yield the sections of a text: start, end, and the headings above it.

    A heading that has no text of its own stays with the section that follows it.

    Examples
    --------
    >>> list(find_sections("# Manual\n## Uso\nTexto.\n# Anexo\nFim."))
    [(0, 23, 'Manual > Uso'), (23, 35, 'Anexo')]
    """
    path: list[tuple[int, str]] = []
    start, body, name = 0, 0, ""
    for offset, end, level, title in headings(text):
        if text[body:offset].strip():
            yield start, offset, name
            start = offset
        while path and path[-1][0] >= level:
            path.pop()
        path.append((level, title))
        name = " > ".join(part for _, part in path)
        body = end
    yield start, len(text), name
