"""CSV and spreadsheets: a document per row, ``column: value`` lines, with the row number a spreadsheet shows.

Values keep the text of the file (``1.234,56`` stays so): a search finds what the eye sees. Spreadsheets hold
values, not text, so dates come in ISO form and numbers with at most the 15 digits that a spreadsheet shows.

.xlsx is read by ``openpyxl``, row by row. ``calamine``, which is faster, allocates the whole rectangle between the
first and the last used cell: one stray cell in XFD1048576 asks for 550 GB and aborts the process.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.archive import open_archive
from oraculo_kit.formats.text import decode

if TYPE_CHECKING:
    from langchain_core.documents import Document

_DELIMITERS = ",;\t|"
_NO_DELIMITER = "\x1f"  # a character that no row holds: the file is one column
_SAMPLE_CHARACTERS = 65_536
_HEAD_ROWS = 20
_LAST_ROW = 1_048_576  # of an .xlsx sheet; a row that claims a higher number would be waited for

# A number, amount, percentage or date: what a column's name is not. A year may well be one.
_VALUE = re.compile(
    r"[-+(]?\s*(?:R\$|US\$|[$€£])?\s*[-+]?\d[\d.,\s]*%?\)?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[ T].*)?"
)
_VALUE_CHARACTERS = 40
_YEAR = re.compile(r"(?:19|20)\d\d")


def load_csv(data: bytes, name: str) -> list[Document]:
    """Read CSV or TSV: delimiter and header are detected, each row becomes a document."""
    text = decode(data)
    first, _, rest = text.partition("\n")
    if declared := re.fullmatch(r"""["']?sep=(.)["']?\s*""", first):
        # Excel's own way to name the delimiter: the line is not a row.
        delimiter, text = declared[1], rest
    else:
        delimiter = _find_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return _row_documents(reader, {})
    except csv.Error as exc:
        raise ExtractionError(f"malformed CSV near line {reader.line_num}: {exc}") from exc


def _find_delimiter(text: str) -> str:
    """Return the delimiter that cuts most rows into the same number of cells; a decimal comma does not."""
    sample = text[:_SAMPLE_CHARACTERS]
    if len(sample) < len(text):
        sample = sample.rpartition("\n")[0]
    best, best_score = _NO_DELIMITER, (0.5, 0)
    for delimiter in _DELIMITERS:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        except csv.Error:
            continue
        if not rows:
            continue
        width, times = Counter(map(len, rows)).most_common(1)[0]
        share = times / len(rows)
        if width > 1 and (share, width) > best_score:
            best, best_score = delimiter, (share, width)
    return best


def load_xlsx(data: bytes, name: str) -> list[Document]:
    """Read a workbook: the rows of each sheet, with ``sheet`` and ``row``; formulas give their stored results."""
    open_archive(data).close()
    import openpyxl

    # It warns of styles and validations that nobody asked for. Once for the process: catch_warnings() is not for threads.
    warnings.filterwarnings("ignore", module="openpyxl")
    workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    documents = []
    for sheet in workbook.worksheets:
        sheet.reset_dimensions()  # what the file claims; rows would be padded to it
        rows = (
            [_cell_text(value) for value in row]
            for row in sheet.iter_rows(max_row=_LAST_ROW, values_only=True)
        )
        documents.extend(_row_documents(rows, {"sheet": sheet.title}))
    workbook.close()
    return documents


def _cell_text(value: Any) -> str:
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
    return str(value)


def _row_documents(rows: Iterable[Sequence[str]], metadata: dict[str, Any]) -> list[Document]:
    from langchain_core.documents import Document

    rows = iter(rows)
    head = list(islice(rows, _HEAD_ROWS))
    header = _find_header(head)
    names = (
        [" ".join(cell.split()) or _column_letter(index) for index, cell in enumerate(head[header])]
        if header is not None
        else []
    )
    documents = []
    for index, row in enumerate(chain(head, rows)):
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
        documents.append(Document(page_content=text, metadata={**metadata, "row": index + 1}))
    return documents


def _find_header(head: Sequence[Sequence[str]]) -> int | None:
    """Return the index of the row that names the columns, or None when the first wide row holds values already.

    Title lines above a table are narrower than the table: the header is the first row at least half as wide as the
    widest one.
    """
    widths = [sum(1 for cell in row if cell.strip()) for row in head]
    widest = max(widths, default=0)
    for index, width in enumerate(widths):
        if width and width * 2 >= widest and (width > 1 or widest == 1):
            holds_values = any(_is_value(cell.strip()) for cell in head[index])
            return None if holds_values or not any(widths[index + 1 :]) else index
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
