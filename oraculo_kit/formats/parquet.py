"""Parquet tables: a document per row, columns by name. It needs ``pyarrow``, an extra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.rows import cell_text

if TYPE_CHECKING:
    from langchain_core.documents import Document

_BATCH_ROWS = 1_000


def load_parquet(data: bytes, name: str) -> list[Document]:
    """Read a parquet file: a document per row, ``row`` counting from 1."""
    from langchain_core.documents import Document

    return [
        Document(page_content=text, metadata={"row": number})
        for number, row in enumerate(_rows(data), start=1)
        if (text := "\n".join(f"{column}: {value}" for column, value in row if value))
    ]


def _rows(data: bytes) -> Iterator[list[tuple[str, str]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as exc:
        raise ExtractionError('a parquet file needs pyarrow: pip install "oraculo_kit[parquet]"') from exc
    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(data))
        for batch in table.iter_batches(_BATCH_ROWS):
            names = batch.schema.names
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield [(name, _text(value)) for name, value in zip(names, values, strict=True)]
    except (pyarrow.ArrowException, OSError) as exc:
        reason = str(exc).strip().partition("\n")[0]
        raise ExtractionError(f"corrupt, cut off or not a parquet file: {reason}") from exc


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(filter(None, map(_text, value)))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text}" for key, item in value.items() if (text := _text(item)))
    return "" if isinstance(value, bytes) else cell_text(value).strip()
