"""PDF through PDFium (``pypdfium2``): a document per page.

PDFium is not thread-safe, so one lock of the process guards it; it starts no threads, so a forked child goes on.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from oraculo_kit.errors import EmptySourceError, ExtractionError

if TYPE_CHECKING:
    from langchain_core.documents import Document

_lock = threading.Lock()

# PDFium's mark for a word broken at the end of a line; removed, the word can be found again.
_LINE_HYPHEN = "\ufffe"


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    # Another thread may hold the lock at the fork; in the child nobody would ever release it.
    os.register_at_fork(after_in_child=_renew_lock)


def load_pdf(data: bytes, name: str) -> list[Document]:
    """Read a PDF: a document per page that has text, with ``page`` from 1 and the PDF's ``title``."""
    from langchain_core.documents import Document

    with _lock:
        pages, title = _read(data)
    if not any(text.strip() for text in pages):
        raise EmptySourceError(
            f"{len(pages)} {'page' if len(pages) == 1 else 'pages'} but no text: it looks scanned and needs OCR "
            "(text recognition) before it can be searched"
        )
    return [
        Document(page_content=text.replace(_LINE_HYPHEN, ""), metadata={"page": number, "title": title})
        for number, text in enumerate(pages, start=1)
        if text.strip()
    ]


def _read(data: bytes) -> tuple[list[str], str]:
    import pypdfium2
    from pypdfium2 import raw

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as exc:
        if exc.err_code == raw.FPDF_ERR_PASSWORD:
            raise ExtractionError(
                "encrypted: it opens only with a password; save a copy without one"
            ) from exc
        raise ExtractionError(f"corrupt, cut off or not a PDF: {exc}") from exc
    try:
        pages = []
        for number in range(len(pdf)):
            try:
                page = pdf[number]
                text = page.get_textpage()
                pages.append(text.get_text_range())
                text.close()
                page.close()
            except pypdfium2.PdfiumError as exc:
                raise ExtractionError(f"page {number + 1} of {len(pdf)} is corrupt: {exc}") from exc
        return pages, _title(pdf.get_metadata_value("Title"))
    finally:
        pdf.close()


def _title(title: str) -> str:
    """Return a title that somebody wrote; programs write "untitled" and "Microsoft Word - x.docx"."""
    title = title.removeprefix("Microsoft Word - ")
    return "" if title.lower() in {"untitled", "(anonymous)", "anonymous"} else title
