"""Rows of tables as sources: of a pandas DataFrame, and of a parquet file, which is never held whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oraculo_kit.discovery import source_key
from oraculo_kit.errors import EmptySourceError, ExtractionError, SourceError, SourceNotFoundError
from oraculo_kit.inputs.base import INSIDE, twice
from oraculo_kit.storage.records import clean_text, metadata_json

if TYPE_CHECKING:
    import pandas as pd
    from langchain_core.documents import Document

    from oraculo_kit.inputs.base import Extract

_OWN_KEYS = ("source", "start", "end")
"""Metadata that the pipeline sets itself; a column of that name would be lost."""

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class TextSource:
    """A text with metadata: a DataFrame's row."""

    key: str
    text: str
    metadata: dict[str, Any]
    error: SourceError | None = None
    mtime_ns: int | None = None

    @property
    def size(self) -> int:
        """Characters; near enough to plan with."""
        return len(self.text)

    def content(self, max_bytes: int) -> bytes:
        """Return text and metadata in one: a change of either is a change."""
        return f"{self.text}\0{metadata_json(self.metadata)}".encode()

    def documents(self, content: bytes, extract: Extract) -> list[Document]:
        """Return one document."""
        from langchain_core.documents import Document

        if not self.text.strip():
            raise EmptySourceError("the text is empty: there is nothing to index")
        return [Document(page_content=self.text, metadata=dict(self.metadata))]


def is_dataframe(given: object) -> bool:
    """Tell a pandas DataFrame, a subclass too, without importing pandas."""
    # Without pandas imported there is no DataFrame; importing it costs a second.
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, pandas.DataFrame)


def frame_sources(frame: pd.DataFrame, text: str | None, id: str | None, name: str) -> Iterator[TextSource]:
    """Return a source per row of a DataFrame; what is wrong with its columns raises at once."""
    columns = [str(column) for column in frame.columns]
    text = _checked_columns("the DataFrame", columns, text, id)
    names = [_row_name(value) for value in (frame.index if id is None else _column(frame, columns, id))]
    _refuse_repeated(names, f"column {id!r}" if id else "the index")
    return _frame_rows(frame, columns, text, id, names, clean_text(name))


def _frame_rows(
    frame: pd.DataFrame, columns: list[str], text: str, id: str | None, names: list[str], prefix: str
) -> Iterator[TextSource]:
    others = [place for place, column in enumerate(columns) if column not in (text, id)]
    values = [frame.iloc[:, place] for place in others]
    for row_name, value, *items in zip(names, _column(frame, columns, text), *values, strict=True):
        metadata = {columns[place]: item for place, item in zip(others, items, strict=True)}
        yield _row(f"{prefix}/{row_name}", value, metadata)


def is_table(given: object) -> bool:
    """Tell the path of a parquet file."""
    return isinstance(given, str | os.PathLike) and os.fspath(given).lower().endswith((".parquet", ".pq"))


def parquet_sources(
    path: str | os.PathLike[str], text: str, id: str | None, name: str | None
) -> Iterator[TextSource]:
    """Return a source per row of a parquet file; what is wrong with file or columns raises at once.

    Rows are read `_BATCH_ROWS` at a time. Only the names of all rows are held, to see that none comes twice.

    Parameters
    ----------
    path : path
    text : str
        The column with the text.
    id : str or None
        The column that names a row; by default its number, from 0 on.
    name : str or None
        What keys begin with; by default the file: ``/folder/table.parquet!/7``.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as exc:
        raise SourceError(
            f"{os.fspath(path)} is a parquet file, which needs pyarrow: pip install 'oraculo_kit[parquet]'"
        ) from exc
    try:
        table = parquet.ParquetFile(os.path.expanduser(path))
    except FileNotFoundError as exc:
        raise SourceNotFoundError(f"{os.fspath(path)}: no such file; check the path") from exc
    except (OSError, ArrowException) as exc:
        raise ExtractionError(f"{os.fspath(path)} cannot be read as parquet: {exc}") from exc
    columns = table.schema_arrow.names
    text = _checked_columns("the table", columns, text, id)
    if id is not None:
        _refuse_repeated(
            [
                _row_name(value)
                for batch in table.iter_batches(_BATCH_ROWS, columns=[id])
                for value in batch.column(0).to_pylist()
            ],
            f"column {id!r}",
        )
    prefix = f"{clean_text(name)}/" if name else f"{source_key(os.path.expanduser(path))}{INSIDE}"
    return _parquet_rows(table, text, id, prefix)


def _parquet_rows(table: Any, text: str, id: str | None, prefix: str) -> Iterator[TextSource]:
    number = 0
    with table:
        for batch in table.iter_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                value = row.pop(text)
                row_name = str(number) if id is None else _row_name(value if id == text else row.pop(id))
                number += 1
                yield _row(f"{prefix}{row_name}", value, row)


def _row(key: str, value: Any, metadata: dict[str, Any]) -> TextSource:
    known = {name: item for name, item in metadata.items() if not _is_missing(item)}
    return TextSource(key, "" if _is_missing(value) else clean_text(str(value)), known)


def _checked_columns(table: str, columns: Sequence[str], text: str | None, id: str | None) -> str:
    """Return the name of the column with the text, when the columns can be ingested."""
    shown = ", ".join(map(repr, columns))
    if text is None:
        raise SourceError(f"a DataFrame needs text=, the name of the column to index; it has {shown}")
    for role, column in (("text", text), ("id", id)):
        if column is not None and column not in columns:
            raise SourceError(f"{role}={column!r} is no column of {table}; it has {shown}")
    if repeated := twice(columns):
        raise SourceError(f"{table} has more than one column {repeated!r}; rename one of them")
    if taken := [column for column in columns if column not in (text, id) and column in _OWN_KEYS]:
        raise SourceError(
            f"{table} has the column {taken[0]!r}, a name under which oraculo_kit keeps what it knows itself "
            f"({', '.join(_OWN_KEYS)}); rename it: df.rename(columns={{{taken[0]!r}: ...}})"
        )
    return text


def _refuse_repeated(names: Iterable[str], where: str) -> None:
    if (repeated := twice(names)) is not None:
        raise SourceError(
            f"{where} holds {repeated!r} more than once; give id=, a column "
            "whose values are unique, so that every row can be found again"
        )


def _column(frame: pd.DataFrame, columns: Sequence[str], name: str) -> pd.Series[Any]:
    return frame.iloc[:, columns.index(name)]  # by place: the column may be named by a number


def _row_name(value: Any) -> str:
    return clean_text(str(value.item() if hasattr(value, "item") else value))


def _is_missing(value: object) -> bool:
    # NaN, NaT and NA are the values that do not equal themselves, or refuse to say.
    return (
        value is None
        or type(value).__name__ in {"NAType", "NaTType"}
        or (isinstance(value, float) and value != value)
    )
