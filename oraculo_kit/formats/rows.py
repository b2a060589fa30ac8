"""Rows of a table as documents: ``column: value`` lines, with the row number that a spreadsheet shows.

Values keep the text of the file (``1.234,56`` stays so): a search finds what the eye sees. Spreadsheets hold values,
not text, so dates come in ISO form, percentages as such, and numbers with at most the 15 digits that are shown.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.documents import Document

_HEAD_ROWS = 20

# A number, amount, percentage or date: what a column's name is not. A year may well be one.
_VALUE = re.compile(
    r"[-+(]?\s*(?:R\$|US\$|[$€£])?\s*[-+]?\d[\d.,\s]*%?\)?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[ T].*)?"
)
_VALUE_CHARACTERS = 40
_YEAR = re.compile(r"(?:19|20)\d\d")


_NEARLY_ALL = 0.8  # of the widest row's cells: what a header fills, and a line above the table does not

Row = tuple[int, Sequence[str]]
"""A row's number, from 1, and its cells; empty rows may be left out."""


def cell_text(value: Any) -> str:
    """Return a spreadsheet's value as text.

    Examples
    --------
    >>> cell_text(0.1 + 0.2), cell_text(True), cell_text(datetime.datetime(2024, 1, 31))
    ('0.3', 'TRUE', '2024-01-31')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        # A date without time is stored as its midnight.
        return value.date().isoformat() if value.time() == datetime.time.min else value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return duration_text(value.total_seconds())
    return str(value)


def duration_text(seconds: float) -> str:
    """Return a length of time as a spreadsheet shows it.

    Examples
    --------
    >>> duration_text(108_000), duration_text(-90)
    ('30:00:00', '-0:01:30')
    """
    minutes, rest = divmod(round(abs(seconds)), 60)
    return f"{'-' if seconds < 0 else ''}{minutes // 60}:{minutes % 60:02}:{rest:02}"


def percent_text(value: float) -> str:
    """Return a share as a percentage.

    Examples
    --------
    >>> percent_text(0.125), percent_text(0.07)
    ('12.5%', '7%')
    """
    return f"{value * 100:.13g}%"


def row_documents(rows: Iterable[Row], metadata: dict[str, Any]) -> list[Document]:
    """Make a document of each row that is not empty, with named columns where there is a header.

    Parameters
    ----------
    rows : iterable of (int, sequence of str)
        In order.
    metadata : dict
        What all rows have in common, such as ``sheet``.

    Returns
    -------
    list of Document
        Without the header itself, which would be a hit for every question.
    """
    from langchain_core.documents import Document

    rows = iter(rows)
    head = list(islice(rows, _HEAD_ROWS))
    header = _find_header([cells for _, cells in head])
    names = (
        [" ".join(cell.split()) or _column_letter(index) for index, cell in enumerate(head[header][1])]
        if header is not None
        else []
    )
    documents = []
    for index, (number, row) in enumerate(chain(head, rows)):
        cells = [(column, value) for column, cell in enumerate(row) if (value := cell.strip())]
        if not cells or index == header:
            continue
        if header is None or index < header:
            text = " | ".join(value for _, value in cells)
        else:
            text = "\n".join(
                f"{names[column] if column < len(names) else _column_letter(column)}: {value}"
                for column, value in cells
            )
        documents.append(Document(page_content=text, metadata={**metadata, "row": number}))
    return documents


def _find_header(head: Sequence[Sequence[str]]) -> int | None:
    """Return the index of the row that names the columns, or None when the first wide row holds values already.

    Lines above a table ("Relatório de vendas", "Período: 01/2024; Loja: 3") are narrower than the table: the header is
    the first row at least half as wide as the widest one, or, where that row is a line above the table, the
    first one that is nearly as wide as the widest, holds no values and has values below it.
    """
    filled = [[cell.strip() for cell in row if cell.strip()] for row in head]
    widths = list(map(len, filled))
    widest = max(widths, default=0)
    holds_values = [any(map(_is_value, row)) for row in filled]
    for index, width in enumerate(widths):
        if width and width * 2 >= widest and (width > 1 or widest == 1):
            if width < _NEARLY_ALL * widest:
                for below in range(index + 1, len(head)):
                    if widths[below] >= _NEARLY_ALL * widest and not holds_values[below]:
                        if any(holds_values[below + 1 :]):
                            return below
            return None if holds_values[index] or not any(widths[index + 1 :]) else index
    return None


def _is_value(cell: str) -> bool:
    # Longer text is none, and would cost the pattern time that is quadratic in its length.
    return len(cell) <= _VALUE_CHARACTERS and bool(_VALUE.fullmatch(cell)) and not _YEAR.fullmatch(cell)


def _column_letter(index: int) -> str:
    """Return a spreadsheet's name of a column, counted from 0: A, B, ..., Z, AA."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
