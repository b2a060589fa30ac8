r"""Files to documents: find them, read them once with a limit, extract their text.

The ingestion calls three functions, in this order and no further than it must:

1. `find_files` lists what there is, faults included (:mod:`oraculo_kit.discovery`).
2. `read_file` gives the bytes, to be hashed; an unchanged source ends here.
3. `load_bytes` extracts, through the loader for the file's extension (:mod:`oraculo_kit.formats`).

Whatever a loader does, `load_bytes` returns documents that can be stored, or raises a ``SourceError`` that names
the file and the reason in at most 300 characters:

- Text is valid Unicode without NUL (U+FFFD stands for what was not), its lines end with ``\n``.
- Every document has text and a metadata dict of its own, without empty values.
- Text that looks decoded with the wrong encoding is kept, with ``encoding_suspect=True`` in its metadata; or repaired,
  if that is asked for, with ``encoding_repaired=True``.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from oraculo_kit.discovery import FoundFile, find_files, source_key
from oraculo_kit.display import size_text
from oraculo_kit.errors import (
    EmptySourceError,
    ExtractionError,
    SourceError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnreadableError,
    UnsupportedFormatError,
)
from oraculo_kit.formats import extension_of, find_loader, register_loader
from oraculo_kit.formats.text import looks_broken

if TYPE_CHECKING:
    from langchain_core.documents import Document

__all__ = ["FoundFile", "find_files", "load_bytes", "read_file", "register_loader", "source_key"]

_REASON_CHARACTERS = 300
_TITLE_CHARACTERS = 300

# A FIFO would block the opening until somebody writes into it. Windows has neither it nor these flags.
_OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)


def read_file(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a regular file, once and whole.

    Parameters
    ----------
    path : path
    max_bytes : int
        Limit for one document (``ORACULO_MAX_FILE_MB``); a larger file is not read at all.

    Returns
    -------
    bytes
        At most `max_bytes`, empty for an empty file.

    Raises
    ------
    SourceNotFoundError, SourceUnreadableError, SourceTooLargeError
        Never blocks: what is no regular file is refused, and not waited for.
    """
    name = printable_name(os.path.basename(os.fspath(path)))
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
        with open(descriptor, "rb", buffering=0) as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise SourceUnreadableError(
                    f"{name}: not a regular file; expected a file that can be read to its end"
                )
            if info.st_size > max_bytes:
                raise _too_large(name, info.st_size, max_bytes)
            data = _read_all(file.fileno(), info.st_size, max_bytes)
    except SourceError:
        raise
    except FileNotFoundError as exc:
        raise SourceNotFoundError(
            f"{name}: the file is gone; it was there when the folder was listed"
        ) from exc
    except OSError as exc:
        raise SourceUnreadableError(
            f"{name}: {exc.strerror or exc}; check the permissions and the disk"
        ) from exc
    if len(data) > max_bytes:
        raise _too_large(name, len(data), max_bytes)
    return data


def _read_all(descriptor: int, expected: int, max_bytes: int) -> bytes:
    """Read to the end, or one byte beyond the limit: a file may grow, and some (/proc) say that they are empty."""
    parts = []
    left = max_bytes + 1
    while left > 0 and (part := os.read(descriptor, min(left, max(expected + 1, 65_536)))):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(name: str, size: int, limit: int) -> SourceTooLargeError:
    return SourceTooLargeError(
        f"{name}: {size_text(size)} or more, over the limit of {size_text(limit)} for one document; "
        "split the file, or raise ORACULO_MAX_FILE_MB"
    )


def load_bytes(data: bytes, *, name: str, mime: str | None = None, fix_text: bool = False) -> list[Document]:
    r"""Extract the documents of one source: a page, row, slide or chapter each, or the whole text.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        File name; its extension decides the format, and messages carry it.
    mime : str, optional
        Decides where the name has no known extension.
    fix_text : bool
        Repair text that was decoded with the wrong encoding before it was saved (``ORACULO_FIX_TEXT``). Off by
        default: a document comes out as it is, with a flag.

    Returns
    -------
    list of Document
        At least one, each with text. Metadata keys, where they apply: ``page``, ``sheet``, ``row``, ``heading``,
        ``title``, ``lang``, ``encoding_suspect``, ``encoding_repaired``, ``ocr`` (read by text recognition),
        ``unread_pages`` (how many pages of the PDF are pictures that nothing could read), and a private one
        (``FORMAT_KEY``) for :func:`oraculo_kit.split.split_documents`, which removes it.

    Raises
    ------
    UnsupportedFormatError
        If no loader reads this format.
    EmptySourceError
        If there are no bytes, or no text in them.
    ScannedDocumentError
        If its pages are pictures and no text recognition is installed; an ``EmptySourceError`` too.
    ExtractionError
        If the document is corrupt, encrypted, not what its name says, or its loader fails in any other way.

    Examples
    --------
    >>> load_bytes("produto;preço\nCafé;12,50\n".encode(), name="a.csv")[0].page_content
    'produto: Café\npreço: 12,50'
    """
    shown = printable_name(os.path.basename(name))
    if not data:
        raise EmptySourceError(f"{shown}: the file is empty")
    loader = find_loader(name, mime)
    if loader is None:
        raise UnsupportedFormatError(
            f"{shown}: no loader reads {extension_of(name) or 'names without extension'!r}; "
            "convert the file, or teach the format with register_loader()"
        )
    try:
        documents = [_make_storable(document, fix_text=fix_text) for document in loader(data, name)]
    except (EmptySourceError, ExtractionError) as exc:
        raise type(exc)(named_reason(shown, str(exc))) from exc
    except RecursionError as exc:
        raise ExtractionError(f"{shown}: nested too deeply to be read") from exc
    except Exception as exc:
        raise _failed(shown, name, exc) from exc
    except BaseException as exc:
        # How a panic of an extension written in Rust arrives; a user's loader may well use one.
        if type(exc).__name__ != "PanicException":
            raise
        raise _failed(shown, name, exc) from exc
    documents = [document for document in documents if document.page_content.strip()]
    if not documents:
        raise EmptySourceError(f"{shown}: there is no text in it")
    return documents


def _failed(shown: str, name: str, exc: BaseException) -> ExtractionError:
    reason = str(exc).strip().partition("\n")[0]
    return ExtractionError(
        named_reason(
            shown, f"cannot be read as {extension_of(name) or 'text'}: {type(exc).__name__}: {reason}"
        )
    )


def named_reason(name: str, reason: str) -> str:
    """Return an error's message: the document's name and the reason, not too long for a row of a report."""
    room = _REASON_CHARACTERS - len(name) - 2
    return f"{name}: {reason if len(reason) <= room else reason[: max(room - 3, 0)] + '...'}"


def _make_storable(document: Document, *, fix_text: bool) -> Document:
    """Clean a loader's document, and give it a metadata dict of its own."""
    text = _clean(document.page_content)
    metadata = {key: value for key, value in document.metadata.items() if value is not None and value != ""}
    if fix_text:
        text = _repair(text, metadata)
    for key in ("title", "heading"):
        if isinstance(value := metadata.get(key), str):
            metadata[key] = " ".join(_clean(value).split())[:_TITLE_CHARACTERS]
    if looks_broken(text):
        metadata["encoding_suspect"] = True
    document.page_content, document.metadata = text, metadata
    return document


def _repair(text: str, metadata: dict[str, Any]) -> str:
    from oraculo_kit.formats.repair import repair_text

    for key in ("title", "heading"):
        if isinstance(value := metadata.get(key), str) and looks_broken(value):
            metadata[key] = repair_text(value)
    if looks_broken(text) and (repaired := repair_text(text)) != text:
        metadata["encoding_repaired"] = True
        return repaired
    return text


def _clean(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\0", "\ufffd")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # Lone surrogates, as JSON's "\\ud800" gives.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def printable_name(name: str) -> str:
    """Return a file name that can be shown on one line, whatever is in it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)[:100]
