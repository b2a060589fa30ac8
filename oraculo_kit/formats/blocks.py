"""Paragraphs, list items and table rows put together as one Markdown text, for the readers of word processors."""

from __future__ import annotations

TITLE_LEVEL = 0
"""The level of the document's own title: it names the document, and is no heading of the text."""


class BlockWriter:
    """Collects a document's blocks in order; rows of a table get a bar between their cells."""

    def __init__(self) -> None:
        self.title = ""
        self._blocks: list[str] = []
        self._cell: list[str] = []
        self._row: list[str] = []
        self._before = ""  # kind of the block before: consecutive items and rows stand close

    def paragraph(self, text: str, *, level: int | None = None, is_item: bool = False) -> None:
        """Write a paragraph; `level` from 1 makes it a heading, `TITLE_LEVEL` the title."""
        self.end_row()
        if not (text := text.strip()):
            return
        if level == TITLE_LEVEL and not self.title:
            self.title = " ".join(text.split())
        if level:
            self._write("heading", "#" * min(level, 6) + " " + " ".join(text.split()))
        elif is_item:
            self._write("item", "- " + text)
        else:
            self._write("paragraph", text)

    def cell_paragraph(self, text: str) -> None:
        """Write a paragraph inside the cell that is open."""
        if words := text.split():
            self._cell.append(" ".join(words))

    def end_cell(self) -> None:
        """Close the cell that is open, empty or not."""
        self._row.append(" ".join(self._cell))
        self._cell.clear()

    def end_row(self) -> None:
        """Close the row that is open; without one, do nothing."""
        if self._cell:
            self.end_cell()
        row = " | ".join(self._row)
        self._row.clear()
        if row.strip(" |"):
            self._write("row", row)

    def text(self) -> str:
        """Return all that was written."""
        self.end_row()
        return "".join(self._blocks)

    def _write(self, kind: str, text: str) -> None:
        if self._blocks:
            self._blocks.append("\n" if kind == self._before and kind in {"item", "row"} else "\n\n")
        self._blocks.append(text)
        self._before = kind
