"""CSV and TSV: the delimiter is found, each row becomes a document (:mod:`oraculo_kit.formats.rows`)."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.rows import row_documents
from oraculo_kit.formats.text import decode

if TYPE_CHECKING:
    from langchain_core.documents import Document

_DELIMITERS = "\t;|"
_NO_DELIMITER = "\x1f"  # a character that no row holds: the file is one column
_SAMPLE_CHARACTERS = 65_536
_EXCEL_DECLARATION = re.compile(r"""["']?sep=(.)["']?\s*""", re.IGNORECASE)

_LEAST_ROWS = 2
_LEAST_SHARE = 0.5  # of the rows from the table's first one on: notes may follow it
_CLEARLY = 0.1
# Of all rows of the file. Few rows of a table may stand below many lines of a report; but a comma is also in prose.
_LEAST_SHARE_OF_ALL, _LEAST_SHARE_OF_ALL_COMMA = 0.15, 0.5


def load_csv(data: bytes, name: str) -> list[Document]:
    """Read CSV or TSV: delimiter and header are detected, each row becomes a document."""
    text = decode(data)
    first, _, rest = text.partition("\n")
    if declared := _EXCEL_DECLARATION.fullmatch(first):
        # Excel's own way to name the delimiter: the line is not a row.
        delimiter, text = declared[1], rest
    else:
        delimiter = find_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return row_documents(enumerate(reader, start=1), {})
    except csv.Error as exc:
        raise ExtractionError(f"malformed CSV near line {reader.line_num}: {exc}") from exc


def find_delimiter(text: str) -> str:
    r"""Return the delimiter that cuts most rows into the same number of cells.

    Tab, semicolon and bar come before the comma, which is in texts and in numbers too: ``1,50;2,50`` is cut into the
    same number of cells everywhere by either.

    Examples
    --------
    >>> find_delimiter("1,50;2,50;3,50\n4,50;5,50;6,50\n"), find_delimiter("a,b\n1,2\n")
    (';', ',')
    """
    sample = text[:_SAMPLE_CHARACTERS]
    if len(sample) < len(text):
        sample = sample.rpartition("\n")[0] or sample
    scores = {delimiter: _score(sample, delimiter) for delimiter in _DELIMITERS}
    best = max(scores, key=lambda delimiter: scores[delimiter])
    comma = _score(sample, ",")
    if scores[best] == (0, 0):
        return "," if comma > (0, 0) else _NO_DELIMITER
    # A semicolon or bar may also stand in some rows of a file with commas, or once in each: "nome,uf,cor a;cor b".
    share, width = scores[best]
    comma_is_clearer = comma[0] > share + _CLEARLY or (comma[0] >= share and comma[1] > 2 * width)
    return "," if comma_is_clearer else best


def _score(sample: str, delimiter: str) -> tuple[float, int]:
    """Return the share of rows that this delimiter cuts into equally many cells, and how many; (0, 0) if too few."""
    try:
        rows = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        widths = [len(row) for row in rows if row]
    except csv.Error:
        return 0, 0
    wide = Counter(width for width in widths if width > 1)
    if not wide:
        return 0, 0
    width, times = max(wide.items(), key=lambda item: (item[1], item[0]))
    share = times / (len(widths) - widths.index(width))
    least = _LEAST_SHARE_OF_ALL_COMMA if delimiter == "," else _LEAST_SHARE_OF_ALL
    if (times < _LEAST_ROWS and 1 in widths) or share <= _LEAST_SHARE or times < least * len(widths):
        return 0, 0
    return share, width
