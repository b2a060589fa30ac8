"""Short pages for people, made of sections: plain text in a terminal, escaped HTML in a notebook.

`oraculo_kit.display` makes tables of one line per row, cut to fit. Here nothing may be cut: a cause or a fix that
ends in an ellipsis helps nobody. So the last column wraps.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from oraculo_kit.display import CLASSES, columns, escape, html_table, one_line, visible

_LEAST_TEXT = 30  # columns that the wrapped text keeps, however narrow the terminal
_MOST_LABEL = 40


@dataclass(frozen=True)
class Section:
    """A titled part of a page.

    Attributes
    ----------
    title : str
        May be empty.
    rows : sequence of sequences of str
        All of one length.
    header : sequence of str
        Titles of the columns, or empty.
    notes : sequence of str
        Lines below the rows.
    """

    title: str
    rows: Sequence[Sequence[str]] = ()
    header: Sequence[str] = ()
    notes: Sequence[str] = ()


def sections_text(headline: str, sections: Sequence[Section], *, width: int | None = None) -> str:
    """Return the page as plain text.

    Parameters
    ----------
    headline : str
    sections : sequence of Section
        Empty ones are left out.
    width : int, optional
        Columns of the terminal; asked from the terminal by default.

    Examples
    --------
    >>> print(sections_text("ready", [Section("Base", [("chunks", "12"), ("store", "/tmp/base")])]))
    ready
    <BLANKLINE>
    Base
      chunks  12
      store   /tmp/base
    """
    total = width or shutil.get_terminal_size((100, 24)).columns
    lines = _wrapped(headline, total)
    for section in sections:
        if not section.rows and not section.notes:
            continue
        lines += ["", *([visible(section.title)] if section.title else [])]
        rows = [section.header, *section.rows] if section.header else section.rows
        lines += _aligned(rows, total)
        for note in section.notes:
            lines += textwrap.indent("\n".join(_wrapped(note, total - 2)), "  ").splitlines()
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]], total: int) -> list[str]:
    if not rows:
        return []
    labels = [[one_line(cell, _MOST_LABEL) for cell in row[:-1]] for row in rows]
    sizes = [max(columns(row[place]) for row in labels) for place in range(len(labels[0]))]
    indent = 2 + sum(size + 2 for size in sizes)
    lines = []
    for label, row in zip(labels, rows, strict=True):
        pairs = zip(label, sizes, strict=True)
        start = "  " + "".join(cell + " " * (size + 2 - columns(cell)) for cell, size in pairs)
        first, *rest = _wrapped(row[-1], total - indent)
        lines.append((start + first).rstrip())
        lines += [" " * indent + line for line in rest]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    # Long words are paths and URLs: broken ones could not be copied.
    size = max(width, _LEAST_TEXT)
    return textwrap.wrap(visible(text), size, break_long_words=False, break_on_hyphens=False) or [""]


def sections_html(headline: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML in which every text is escaped.

    Parameters
    ----------
    headline, sections
        As for `sections_text`.
    """
    parts = [f'<div class="{CLASSES}"><b>{escape(headline)}</b></div>']
    for section in sections:
        if section.rows:
            parts.append(html_table(section.header, section.rows, caption=section.title))
        elif section.notes and section.title:
            parts.append(f'<div class="{CLASSES}">{escape(section.title)}</div>')
        parts += [f'<div class="{CLASSES}">{escape(note)}</div>' for note in section.notes]
    return "".join(parts)


class Page:
    """A page in one language that shows itself in a terminal and in a notebook.

    Attributes
    ----------
    language : str
        "en" or "pt_BR".
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def _headline(self) -> str:
        raise NotImplementedError

    def _sections(self) -> list[Section]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return sections_text(self._headline(), self._sections())

    def _repr_html_(self) -> str:
        return sections_html(self._headline(), self._sections())
