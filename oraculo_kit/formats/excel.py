"""Excel workbooks: .xlsx and .xlsm through ``openpyxl``, .xls of Excel 97 to 2003 through ``xlrd``.

Both read cell by cell. ``calamine`` is faster, but allocates the rectangle between the first and the last used cell:
one stray cell in the last corner costs 1 GB in a .xls and more than 500 GB in a .xlsx, which aborts the process. It
also gives error cells as empty, and no formats, so that a percentage is no more one.

Hidden sheets, rows and columns are read: they hold what the visible ones show.
"""

from __future__ import annotations

import datetime
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.archive import open_archive
from oraculo_kit.formats.ole import OleContainer
from oraculo_kit.formats.rows import Row, cell_text, duration_text, percent_text, row_documents

if TYPE_CHECKING:
    from langchain_core.documents import Document

_LAST_ROW = 1_048_576  # of an .xlsx sheet; a row that claims a higher number would be waited for
_ERRORS = {0: "#NULL!", 7: "#DIV/0!", 15: "#VALUE!", 23: "#REF!", 29: "#NAME?", 36: "#NUM!", 42: "#N/A"}
_SECONDS_A_DAY = 86_400


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
            (number, [_xlsx_text(cell) for cell in row])
            for number, row in enumerate(sheet.iter_rows(max_row=_LAST_ROW), start=1)
            if row
        )
        documents.extend(row_documents(rows, {"sheet": sheet.title}))
    workbook.close()
    return documents


def _xlsx_text(cell: Any) -> str:
    value = cell.value
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and "%" in cell.number_format:
        return percent_text(value)
    return cell_text(value)


def load_xls(data: bytes, name: str) -> list[Document]:
    """Read a workbook of Excel 97 to 2003: the rows of each sheet, with ``sheet`` and ``row``.

    Programs also write HTML, plain tables and .xlsx under this name; they are read as what they are.
    """
    from oraculo_kit.formats.sniffing import load_by_content, real_extension

    if real_extension(data) is None:
        from oraculo_kit.formats.tabular import load_csv

        return load_csv(data, name)
    if (documents := load_by_content(data, name, expected="Excel")) is not None:
        return documents
    import xlrd

    try:
        book = xlrd.open_workbook(
            file_contents=_workbook_stream(data),
            formatting_info=True,  # number formats: which numbers are percentages
            ragged_rows=True,  # rows are not filled up to the widest
            on_demand=True,
            logfile=io.StringIO(),
        )
        documents = []
        for index, title in enumerate(book.sheet_names()):
            documents.extend(row_documents(_xls_rows(book, book.sheet_by_index(index)), {"sheet": title}))
            book.unload_sheet(index)
    except ExtractionError:
        raise
    except Exception as exc:  # xlrd trusts what it reads: any error of struct, list and dict may come
        if "encrypted" in str(exc):
            raise ExtractionError(
                "encrypted: it opens only with a password; save a copy without one"
            ) from exc
        raise ExtractionError(f"corrupt, or not an Excel workbook: {type(exc).__name__}: {exc}") from exc
    return documents


def _workbook_stream(data: bytes) -> bytes:
    """Return the workbook out of its container, as which xlrd reads it too: its own reader of containers may hang."""
    container = OleContainer(data)
    if "EncryptedPackage" in container:
        raise ExtractionError("encrypted: it opens only with a password; save a copy without one")
    return container.read("Workbook" if "Workbook" in container else "Book")


def _xls_rows(book: Any, sheet: Any) -> Iterator[Row]:
    for index in range(sheet.nrows):
        if sheet.row_len(index):
            yield index + 1, [_xls_text(book, cell) for cell in sheet.row(index)]


def _xls_text(book: Any, cell: Any) -> str:
    import xlrd

    kind, value = cell.ctype, cell.value
    if kind == xlrd.XL_CELL_TEXT:
        return str(value)
    if kind == xlrd.XL_CELL_BOOLEAN:
        return cell_text(bool(value))
    if kind == xlrd.XL_CELL_ERROR:
        return _ERRORS.get(value, "#ERROR")
    if kind not in {xlrd.XL_CELL_NUMBER, xlrd.XL_CELL_DATE}:
        return ""
    number_format = _xls_format(book, cell)
    if kind == xlrd.XL_CELL_NUMBER:
        return percent_text(value) if "%" in number_format else cell_text(value)
    if "[h" in number_format:
        return duration_text(value * _SECONDS_A_DAY)
    try:
        moment = xlrd.xldate_as_datetime(value, book.datemode)
    except (ValueError, OverflowError):
        return cell_text(value)  # no day of the calendar: the number alone is left
    # Less than a day is a time; half a second is what a stored fraction of a day may be off.
    moment = (moment + datetime.timedelta(microseconds=500_000)).replace(microsecond=0)
    return cell_text(moment.time() if value < 1 else moment)


def _xls_format(book: Any, cell: Any) -> str:
    try:
        return str(book.format_map[book.xf_list[cell.xf_index].format_key].format_str)
    except (LookupError, TypeError):
        return ""
