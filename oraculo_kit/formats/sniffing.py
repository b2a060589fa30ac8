"""What a file is by its first bytes, where its name is known to be used for other formats too.

Systems export HTML, RTF or plain tables as .doc and .xls, because a double click then opens Word or Excel.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from oraculo_kit.errors import ExtractionError
from oraculo_kit.formats.ole import OLE_MAGIC

if TYPE_CHECKING:
    from langchain_core.documents import Document

_SAMPLE_BYTES = 1024
_ZIP_MEMBERS = {
    "word/document.xml": ".docx",
    "xl/workbook.xml": ".xlsx",
    "ppt/presentation.xml": ".pptx",
    "content.xml": ".odt",
}


def real_extension(data: bytes) -> str | None:
    r"""Return the extension that fits the content, ``".ole"`` for an OLE container, None where nothing is known.

    Examples
    --------
    >>> real_extension(b"{\\rtf1 a}"), real_extension(b"\n<html>"), real_extension(b"a;b")
    ('.rtf', '.html', None)
    """
    if data.startswith(OLE_MAGIC):
        return ".ole"
    if data.startswith(b"PK\x03\x04"):
        return _zip_extension(data)
    start = data[:_SAMPLE_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"{\\rtf"):
        return ".rtf"
    if start.startswith(b"mime-version:"):
        return ".eml"
    if start.startswith(b"<"):
        return ".xml" if start.startswith(b"<?xml") and b"<html" not in start else ".html"
    return None


def _zip_extension(data: bytes) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = set(archive.namelist())
    except zipfile.BadZipFile as exc:
        raise ExtractionError(f"corrupt or cut off: {exc}") from exc
    return next((extension for member, extension in _ZIP_MEMBERS.items() if member in members), None)


def load_by_content(data: bytes, name: str, *, expected: str) -> list[Document] | None:
    """Read a file that is not the OLE container that its name promises; None for one that is.

    Raises
    ------
    ExtractionError
        If its content is of no known format.
    """
    from oraculo_kit.formats import find_loader

    extension = real_extension(data)
    if extension == ".ole":
        return None
    loader = find_loader(f"x{extension}") if extension else None
    if loader is None:
        raise ExtractionError(f"corrupt, or not a {expected} file: its first bytes are of no known format")
    return loader(data, name)
