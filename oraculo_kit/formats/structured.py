"""JSON, JSON Lines and notebooks.

Numbers are kept as the text that stands in the file (``1.50`` stays ``1.50``): a search finds what the eye sees, and
no number is too long to read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.text import decode, markdown_document

if TYPE_CHECKING:
    from langchain_core.documents import Document


def _parse(text: str) -> Any:
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _lines(value: Any, path: str = "") -> Iterator[str]:
    """Yield a JSON value as ``path: value`` lines; a list of plain values is one line."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _lines(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        if any(isinstance(item, dict | list) for item in value):
            for index, item in enumerate(value):
                yield from _lines(item, f"{path}[{index}]")
        elif plain := ", ".join(filter(None, map(_plain, value))):
            yield f"{path}: {plain}" if path else plain
    elif plain := _plain(value):
        yield f"{path}: {plain}" if path else plain


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def load_json(data: bytes, name: str) -> list[Document]:
    """Read JSON: a document per element of a list of objects, ``row`` counting from 1; else one document."""
    from langchain_core.documents import Document

    value = _parse(decode(data))
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [
            Document(page_content="\n".join(_lines(item)), metadata={"row": row})
            for row, item in enumerate(value, start=1)
        ]
    return [Document(page_content="\n".join(_lines(value)))]


def load_jsonl(data: bytes, name: str) -> list[Document]:
    """Read JSON Lines: a document per line, ``row`` being the line's number."""
    from langchain_core.documents import Document

    documents = []
    # Not splitlines(): U+2028 may stand inside a JSON string.
    for row, line in enumerate(decode(data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = _parse(line)
        except ValueError as exc:
            raise ExtractionError(f"line {row} is not JSON: {exc}") from exc
        documents.append(Document(page_content="\n".join(_lines(value)), metadata={"row": row}))
    return documents


def load_notebook(data: bytes, name: str) -> list[Document]:
    """Read a Jupyter notebook: one Markdown document of its text and code cells, in order.

    Code stands between fences, so that its comments are no headings. Outputs are left out: they are results, often
    large or images, and change with every run.
    """
    notebook = _parse(decode(data))
    if not isinstance(notebook, dict):
        raise ExtractionError(
            f"not a notebook: expected a JSON object with cells, got {type(notebook).__name__}"
        )
    sheets = notebook.get("worksheets")  # version 3 of the format, where code was called "input"
    cells = sheets[0].get("cells") if sheets else notebook.get("cells")
    if not isinstance(cells, list):
        raise ExtractionError("not a notebook: it has no list of cells")
    parts = []
    for cell in cells:
        source = cell.get("source", cell.get("input", ""))
        text = "".join(source) if isinstance(source, list) else str(source)
        if not text.strip():
            continue
        if cell.get("cell_type") == "code":
            fence = "````" if "```" in text else "```"
            text = f"{fence}\n{text}\n{fence}"
        parts.append(text)
    return [markdown_document("\n\n".join(parts))]
