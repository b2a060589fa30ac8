"""PDF through PDFium (``pypdfium2``): a document per page.

PDFium is not thread-safe, so one lock of the process guards it; it starts no threads, so a forked child goes on.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from oraculo_kit.errors import ExtractionError, ScannedDocumentError
from oraculo_kit.formats.ocr import DPI, MAX_PIXELS, missing_part, recognise
from oraculo_kit.formats.text import settled_language

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from PIL.Image import Image

_lock = threading.Lock()

# PDFium's mark for a word broken at the end of a line; removed, the word can be found again.
_LINE_HYPHEN = "\ufffe"
_POINTS_PER_INCH = 72
_LANGUAGE_CHARACTERS = 64


class _Page(NamedTuple):
    text: str
    is_picture: bool  # something is drawn on it, but no text


class _Shared(NamedTuple):
    title: str
    language: str


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    # Another thread may hold the lock at the fork; in the child nobody would ever release it.
    os.register_at_fork(after_in_child=_renew_lock)


def load_pdf(data: bytes, name: str) -> list[Document]:
    """Read a PDF: a document per page that has text, with ``page`` from 1, the PDF's ``title`` and language.

    Pages without text that are pictures go through text recognition if it is installed (:mod:`oraculo_kit.formats.ocr`);
    else the other pages' documents say how many were not read.
    """
    from langchain_core.documents import Document

    pages, shared = _read(data)
    unread = [number for number, page in enumerate(pages, start=1) if page.is_picture]
    missing = missing_part() if unread else ""
    if unread and missing and not any(page.text for page in pages):
        raise ScannedDocumentError(
            f"{len(pages)} {'page' if len(pages) == 1 else 'pages'} but no text: it looks scanned and needs OCR "
            f"(text recognition). To have it read: {missing}"
        )
    recognised = {} if missing else {number: recognise(_draw(data, number)) for number in unread}
    language = settled_language(shared.language, " ".join(page.text for page in pages[:10])[:3000])
    documents = []
    for number, page in enumerate(pages, start=1):
        metadata: dict[str, Any] = {"page": number, "title": shared.title}
        if language:
            metadata["lang"] = language
        if missing and unread:
            metadata["unread_pages"] = len(unread)
        if number in recognised:
            metadata["ocr"] = True
        text = recognised.get(number, page.text).replace(_LINE_HYPHEN, "")
        if text.strip():
            documents.append(Document(page_content=text, metadata=metadata))
    return documents


def _read(data: bytes) -> tuple[list[_Page], _Shared]:
    import pypdfium2

    with _opened(data) as pdf:
        pages = []
        for number in range(len(pdf)):
            try:
                page = pdf[number]
                text_page = page.get_textpage()
                text = text_page.get_text_range()
                pages.append(_Page(text if text.strip() else "", not text.strip() and _has_content(page)))
                text_page.close()
                page.close()
            except pypdfium2.PdfiumError as exc:
                raise ExtractionError(f"page {number + 1} of {len(pdf)} is corrupt: {exc}") from exc
        return pages, _Shared(_title(pdf.get_metadata_value("Title")), _language(pdf))


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """Open a PDF, holding the lock until it is closed."""
    import pypdfium2
    from pypdfium2 import raw

    with _lock:
        try:
            pdf = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as exc:
            if exc.err_code == raw.FPDF_ERR_PASSWORD:
                raise ExtractionError(
                    "encrypted: it opens only with a password; save a copy without one"
                ) from exc
            raise ExtractionError(f"corrupt, cut off or not a PDF: {exc}") from exc
        try:
            yield pdf
        finally:
            pdf.close()


def _has_content(page: Any) -> bool:
    from pypdfium2 import raw

    return bool(raw.FPDFPage_CountObjects(page) > 0)


def _draw(data: bytes, number: int) -> Image:
    """Return a page as a grey picture for text recognition."""
    with _opened(data) as pdf:
        page = pdf[number - 1]
        width, height = page.get_size()
        scale = min(DPI / _POINTS_PER_INCH, math.sqrt(MAX_PIXELS / max(width * height, 1)))
        bitmap = page.render(scale=scale, grayscale=True)
        image: Image = bitmap.to_pil().copy()  # the bitmap's memory goes with it
        bitmap.close()
        page.close()
        return image


def _language(pdf: Any) -> str:
    from pypdfium2 import raw

    if not hasattr(raw, "FPDFCatalog_GetLanguage"):  # PDFium before 2025
        return ""
    buffer = (ctypes.c_ushort * _LANGUAGE_CHARACTERS)()
    size = raw.FPDFCatalog_GetLanguage(pdf, buffer, ctypes.sizeof(buffer))
    return bytes(buffer)[: min(size, ctypes.sizeof(buffer))].decode("utf-16-le", "replace").rstrip("\0")


def _title(title: str) -> str:
    """Return a title that somebody wrote; programs write "untitled" and "Microsoft Word - x.docx"."""
    title = title.removeprefix("Microsoft Word - ")
    return "" if title.lower() in {"untitled", "(anonymous)", "anonymous"} else title
