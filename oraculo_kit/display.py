"""Tables for people: plain text in a terminal, escaped HTML in a notebook.

Everything shown here may come from a hostile document. So HTML is escaped always, and characters that steer a
terminal or turn the reading direction around are shown as a visible sign instead of being obeyed.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence

# C0 and C1 controls but tab and newline (terminal escapes start with one), marks, overrides and isolates of the
# reading direction, lone surrogates (they cannot be printed at all).
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

CLASSES = "oraculo tex2jax_ignore mathjax_ignore"
"""Of every element that shows text: without the last two, JupyterLab sets "R$ 5 ... R$ 7" as a formula."""

_LEFT = 'style="text-align:left"'
_RIGHT = 'style="text-align:right"'

STYLE = (
    "<style>.oraculo table{border-collapse:collapse;font-size:90%}"
    ".oraculo th,.oraculo td{vertical-align:top;padding:2px 8px;white-space:pre-wrap}"
    ".oraculo caption{text-align:left;padding:2px 8px}"
    ".oraculo mark{background:rgba(255,200,0,.45);color:inherit}</style>"
)


def visible(text: str) -> str:
    r"""Return `text` with steering characters replaced by ``U+FFFD``.

    Examples
    --------
    >>> visible("a\x1b[31mb") == "a\ufffd[31mb"
    True
    """
    return _STEERING.sub("\ufffd", text)


def one_line(text: str, width: int) -> str:
    r"""Return `text` on one line of at most `width` columns, cut with an ellipsis.

    Examples
    --------
    >>> one_line("uma  nota\nfiscal", 9)
    'uma nota…'
    """
    line = " ".join(visible(text).split())
    if columns(line) <= width:
        return line
    cut = line[: max(width - 1, 0)]
    while columns(cut) > width - 1:
        cut = cut[:-1]
    return cut + "…"


class Tail(str):
    """A text whose end says most, such as a path: a table cuts it at its start."""

    __slots__ = ()


def _fitted(value: str, width: int) -> str:
    if not isinstance(value, Tail):
        return one_line(value, width)
    line = " ".join(visible(value).split())
    if columns(line) <= width:
        return line
    while columns(line) > width - 1:
        line = line[1:]
    return "…" + line


def columns(text: str) -> int:
    """Return how many terminal columns `text` takes: wide East Asian characters take two, marks none.

    Examples
    --------
    >>> columns("nota"), columns("检索")
    (4, 4)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> str:
    """Return a plain-text table; the last column takes what the others leave of the line.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequences
        Numbers are set right, everything else left.
    width : int, optional
        Columns of the terminal; asked from the terminal by default.

    Examples
    --------
    >>> print(text_table(["score", "text"], [[0.5, "uma nota"], [0.25, "outra"]], width=40))
    score  text
    -----  --------
     0.50  uma nota
     0.25  outra
    """
    total = width or shutil.get_terminal_size((100, 24)).columns
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max([columns(title)] + [columns(row[place]) for row in cells]) for place, title in enumerate(header)
    ]
    # The other columns give way first, so that the last one (the text) keeps at least half of the line.
    room = max(total - 2 * (len(header) - 1), 3 * len(header))
    while len(widths) > 1 and sum(widths[:-1]) > room // 2 and max(widths[:-1]) > 8:
        widths[widths[:-1].index(max(widths[:-1]))] -= 1
    widths[-1] = min(widths[-1], max(room - sum(widths[:-1]), 8))
    numeric = [
        bool(rows) and all(isinstance(row[place], int | float) for row in rows)
        for place in range(len(header))
    ]

    def line(values: Sequence[str], right: Sequence[bool]) -> str:
        parts = []
        for value, size, to_right in zip(values, widths, right, strict=True):
            shown = _fitted(value, size)
            padding = " " * (size - columns(shown))
            parts.append(padding + shown if to_right else shown + padding)
        return "  ".join(parts).rstrip()

    rule = "  ".join("-" * size for size in widths)
    lines = [line(list(header), numeric), rule, *(line(row, numeric) for row in cells)]
    return "\n".join(lines)


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    render: Callable[[object], str] | None = None,
) -> str:
    """Return an HTML table in which every text is escaped.

    Parameters
    ----------
    header, rows : sequences
    caption : str, optional
        A line above the table.
    render : callable, optional
        Turns a cell that is neither text nor number into HTML; it must escape what it shows.
    """
    # The alignment stands in each cell: JupyterLab's own style is stronger than ours, and an untrusted notebook
    # loses ours altogether.
    head = "".join(f"<th {_LEFT}>{escape(title)}</th>" for title in header)
    body = []
    for row in rows:
        cells = []
        for value in row:
            if isinstance(value, int | float):
                cells.append(f"<td {_RIGHT}>{escape(_cell(value))}</td>")
            elif isinstance(value, str) or value is None or render is None:
                cells.append(f"<td {_LEFT}>{escape(_cell(value))}</td>")
            else:
                cells.append(f"<td {_LEFT}>{render(value)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    table = f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'{STYLE}<div class="{CLASSES}">{table}</div>'


def escape(text: str) -> str:
    """Return `text` safe to stand in HTML, in an element or a quoted attribute."""
    return html.escape(visible(text))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return f"{value:.2f}"
    return value if isinstance(value, str) else str(value)


def short_source(source: str, root: str = "") -> Tail:
    """Return a source's key as a person would write it: relative to `root` when it lies below it."""
    if root and source.startswith(root + os.sep):
        return Tail(source[len(root) + 1 :])
    return Tail(source)


def counted(count: int, what: str) -> str:
    """Return a count with what is counted, in the plural unless it is one.

    Examples
    --------
    >>> counted(1, "source"), counted(0, "source")
    ('1 source', '0 sources')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def size_text(count: float) -> str:
    """Return a number of bytes in the unit that reads best.

    Examples
    --------
    >>> size_text(512), size_text(2_500_000)
    ('512 B', '2.4 MiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    place = 0
    while count >= 1024 and place < len(units) - 1:
        count, place = count / 1024, place + 1
    return f"{count:.0f} B" if place == 0 else f"{count:.1f} {units[place]}"
