"""OpenDocument spreadsheets (.ods): rows straight from the XML, without the rectangle of all cells.

The format names runs of equal cells and rows once, with a count: an empty run to the end of the sheet is usual, a full
one of a million rows is a bomb. Full runs are written out up to a limit; beyond it the file is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.archive import open_archive, read_member
from oraculo_kit.formats.markup import parse_xml
from oraculo_kit.formats.rows import Row, cell_text, duration_text, percent_text, row_documents

if TYPE_CHECKING:
    from langchain_core.documents import Document

MAX_REPEATED_CELLS = 1_000_000
"""Cells that a workbook may have by repetition of others; a sheet that people fill has a few thousand of them."""

_LAST_COLUMN = 16_384
_DURATION = re.compile(r"(-?)PT(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})(?:[.,]\d+)?S)?")
_INLINE = {"tab": "\t", "line-break": "\n", "s": " "}
_CELLS = frozenset({"table-cell", "covered-table-cell"})
_SKIPPED = frozenset({"annotation", "tracked-changes", "shapes"})


def load_ods(data: bytes, name: str) -> list[Document]:
    """Read a spreadsheet: the rows of each sheet, with ``sheet`` and ``row``; formulas give their stored results."""
    with open_archive(data) as archive:
        content = read_member(archive, "content.xml")
    reader = _SheetReader()
    parse_xml(content, reader.start, reader.end, reader.text)
    documents = []
    for title, rows in reader.sheets:
        documents.extend(row_documents(rows, {"sheet": title}))
    return documents


class _SheetReader:
    def __init__(self) -> None:
        self.sheets: list[tuple[str, list[Row]]] = []
        self._number = 0  # of the row before
        self._row: list[str] = []
        self._row_times = 1
        self._column = 0
        self._cell: dict[str, str] = {}
        self._paragraphs: list[list[str]] = []
        self._in_cell = 0
        self._skipped = 0
        self._repeated = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._skipped or tag in _SKIPPED:
            self._skipped += 1
        elif self._in_cell:
            self._in_cell += 1
            self._start_content(tag, attributes)
        elif tag == "table":
            self.sheets.append((attributes.get("name", ""), []))
            self._number = 0
        elif tag == "table-row":
            self._row, self._column = [], 0
            self._row_times = _times(attributes.get("number-rows-repeated"))
        elif tag in _CELLS and self.sheets:
            self._in_cell = 1
            self._cell, self._paragraphs = attributes, []

    def _start_content(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "p":
            self._paragraphs.append([])
        elif tag in _INLINE and self._paragraphs:
            self._paragraphs[-1].append(_INLINE[tag])

    def text(self, content: str) -> None:
        if self._in_cell and not self._skipped and self._paragraphs:
            self._paragraphs[-1].append(re.sub(r"\s+", " ", content))

    def end(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
        elif self._in_cell:
            self._in_cell -= 1
            if not self._in_cell:
                self._end_cell()
        elif tag == "table-row" and self.sheets:
            self._end_row()

    def _end_cell(self) -> None:
        times = _times(self._cell.get("number-columns-repeated"))
        shown = "\n".join("".join(paragraph) for paragraph in self._paragraphs)
        if value := _value(self._cell, shown):
            times = min(times, _LAST_COLUMN - self._column)
            self._count(times - 1)
            self._row += [""] * (self._column - len(self._row)) + [value] * times
        # An empty run is written out only when a cell with something in it follows.
        self._column = min(self._column + times, _LAST_COLUMN)

    def _end_row(self) -> None:
        if self._row:
            self._count((self._row_times - 1) * len(self._row))
            rows = self.sheets[-1][1]
            rows.extend((self._number + 1 + index, self._row) for index in range(self._row_times))
        self._number += self._row_times

    def _count(self, repeated: int) -> None:
        self._repeated += repeated
        if self._repeated > MAX_REPEATED_CELLS:
            raise ExtractionError(
                f"repeats cells more than {MAX_REPEATED_CELLS:,} times; delete the columns or rows that are filled to "
                "the end of the sheet"
            )


def _times(count: str | None) -> int:
    return int(count) if count and count.isdecimal() and len(count) < 10 else 1


def _value(cell: dict[str, str], shown: str) -> str:
    """Return what a cell holds, in the same form as the cells of other spreadsheets."""
    kind = cell.get("value-type", "")
    if kind in {"float", "currency", "percentage"}:
        try:
            number = float(cell.get("value", ""))
        except ValueError:
            return shown
        return percent_text(number) if kind == "percentage" else cell_text(number)
    if kind == "date":
        return cell.get("date-value", shown).replace("T", " ").removesuffix(" 00:00:00")
    if kind == "boolean":
        return cell.get("boolean-value", shown).upper()
    if kind == "time" and (found := _DURATION.fullmatch(cell.get("time-value", ""))):
        hours, minutes, seconds = (int(part or 0) for part in found.groups()[1:])
        text = duration_text((hours * 60 + minutes) * 60 + seconds)
        return found[1] + ("0" + text if hours < 10 else text)
    return shown or cell.get("string-value", "")
