"""Which loader reads which file: the registry, one loader module per family of formats.

A loader is a function ``(data: bytes, name: str) -> list[Document]``. It gets the whole file as bytes and
the file's name, and returns one LangChain ``Document`` per part that a reader would point at: a page, a
spreadsheet row, a chapter, or the whole text. A user adds a format in three lines::

    @register_loader(".srt2")
    def load_subtitles(data, name):
        return [Document(page_content=data.decode(), metadata={"title": name})]

What a loader may rely on and must keep:

- ``data`` is never empty, and is no larger than the limit for one document.
- It raises :class:`~oraculo_kit.errors.ExtractionError` (or ``EmptySourceError``) with the reason alone;
  :func:`oraculo_kit.load.load_bytes` puts the file's name before it, and turns every other exception into one.
- Its documents are new: `load_bytes` cleans their text and metadata in place.
- Metadata values are JSON types. ``format="markdown"`` asks :mod:`oraculo_kit.split` to cut at headings.

Why no all-in-one extraction library: ``kreuzberg`` 4.10.4 was tried first. It drops ``&``, ``<``, ``>`` and tabs from
.docx (``P&D`` becomes ``PD``), hangs on a PDF in a forked child after any extraction in the parent (what joblib's
multiprocessing workers are), takes the whole process down on deeply nested .xml, .odt, .pptx and .epub, reads .html
as UTF-8 whatever it declares, loses the row numbers of sheets that begin below row 1, and weighs 98 MB. So PDF is read
by ``pypdfium2`` (the same engine, 9 MB, no threads), .xlsx by ``openpyxl``, .xls by ``xlrd``, parquet by ``pyarrow`` (an
extra), and the rest, which is text, JSON, XML, zip files of XML, RTF or the OLE container of .doc, by the standard
library: iteratively, but for JSON, whose depth Python limits.

Modules are imported when a file of their family is first read.
"""

from __future__ import annotations

import importlib
import mimetypes
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, overload

from oraculo_kit.errors import SettingsError

if TYPE_CHECKING:
    from langchain_core.documents import Document

__all__ = ["Loader", "builtin_loader", "extension_of", "find_loader", "is_supported", "register_loader"]

Loader = Callable[[bytes, str], "list[Document]"]
"""What reads one format: ``(data, name) -> documents``."""

_PLAIN_TEXT = """
    .txt .text .log .rst .adoc .org .tex .bib .srt .vtt .diff .patch
    .py .pyi .r .jl .sql .js .mjs .cjs .jsx .ts .tsx .java .kt .scala .groovy .gradle .c .h .cc .cpp .cxx .hpp .cs
    .go .rs .rb .php .swift .dart .lua .pl .pm .hs .clj .erl .ex .exs .f90 .vb .pas .asm .m
    .sh .bash .zsh .ps1 .bat .css .scss .vue .svelte .proto .graphql .tf .cmake .mk
    .yaml .yml .toml .ini .cfg .conf .properties
"""

# "module:function", so that naming a format imports nothing.
_BUILTIN: dict[str, str] = {
    **dict.fromkeys(_PLAIN_TEXT.split(), "text:load_text"),
    **dict.fromkeys([".md", ".markdown", ".mdx", ".qmd", ".rmd"], "text:load_markdown"),
    **dict.fromkeys([".html", ".htm", ".xhtml"], "markup:load_html"),
    ".xml": "markup:load_xml",
    **dict.fromkeys([".csv", ".tsv"], "tabular:load_csv"),
    **dict.fromkeys([".xlsx", ".xlsm", ".xltx", ".xltm"], "excel:load_xlsx"),
    **dict.fromkeys([".xls", ".xlt"], "excel:load_xls"),
    **dict.fromkeys([".ods", ".ots"], "ods:load_ods"),
    ".parquet": "parquet:load_parquet",
    ".json": "structured:load_json",
    **dict.fromkeys([".jsonl", ".ndjson"], "structured:load_jsonl"),
    ".ipynb": "structured:load_notebook",
    ".pdf": "pdf:load_pdf",
    ".docx": "office:load_docx",
    ".pptx": "office:load_pptx",
    ".odt": "office:load_odt",
    ".doc": "word97:load_doc",
    ".rtf": "rtf:load_rtf",
    ".epub": "books:load_epub",
    ".eml": "mail:load_eml",
}

_registered: dict[str, Loader] = {}


@overload
def register_loader(extension: str) -> Callable[[Loader], Loader]: ...
@overload
def register_loader(extension: str, function: Loader) -> Loader: ...
def register_loader(extension: str, function: Loader | None = None) -> Loader | Callable[[Loader], Loader]:
    """Teach oraculo_kit a format, or replace the loader of one it knows.

    The registration holds for this process. Worker processes need it too: put it in a module that they import.
    Your function runs there itself, without the limits of time and memory that the helpers of our own loaders have
    (`oraculo_kit.extraction`): a helper could not find it.

    Parameters
    ----------
    extension : str
        The end of the file's name, with its dot: ``".srt"``. Case does not matter.
    function : callable, optional
        ``(data: bytes, name: str) -> list[Document]``. Left out, `register_loader` is a decorator.

    Returns
    -------
    callable
        `function` itself, or the decorator.

    Raises
    ------
    SettingsError
        If `extension` is not a dot followed by a name without further dots, or `function` cannot be called.

    Examples
    --------
    >>> from langchain_core.documents import Document
    >>> @register_loader(".shout")
    ... def load_shout(data, name):
    ...     return [Document(page_content=data.decode().lower())]
    >>> find_loader("speech.SHOUT") is load_shout
    True
    """
    key = extension.lower() if isinstance(extension, str) else ""
    if len(key) < 2 or key != extension_of(f"x{key}"):
        raise SettingsError(f"got the extension {extension!r}; expected a dot and a name, such as '.srt'")
    if function is not None and not callable(function):
        raise SettingsError(
            f"got {type(function).__name__} as loader of {key}, expected a function of data and name"
        )
    if function is None:

        def decorate(decorated: Loader) -> Loader:
            return register_loader(extension, decorated)

        return decorate
    _registered[key] = function
    return function


def extension_of(name: str) -> str:
    """Return the extension that decides the format: the last one, in lower case, or ``""``.

    Examples
    --------
    >>> extension_of("docs/Relatório.PDF"), extension_of("LICENSE")
    ('.pdf', '')
    """
    return os.path.splitext(name)[1].lower()


def find_loader(name: str, mime: str | None = None) -> Loader | None:
    """Return the loader for a file name, or for a MIME type where the name says nothing.

    Parameters
    ----------
    name : str
        File name or path; only its extension counts.
    mime : str, optional
        For sources without a telling name, such as a URL: ``"text/html; charset=utf-8"``.

    Returns
    -------
    callable or None
        None if nothing reads this format.
    """
    extension = _telling_extension(name, mime)
    if extension in _registered:
        return _registered[extension]
    if extension not in _BUILTIN:
        return None
    module, _, function = _BUILTIN[extension].partition(":")
    loader: Loader = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return loader


def builtin_loader(name: str, mime: str | None = None) -> str | None:
    """Return the "module:function" of our own loader; None where a user's loader, or none, reads it; imports nothing.

    Examples
    --------
    >>> builtin_loader("docs/a.pdf"), builtin_loader("photo.heic")
    ('pdf:load_pdf', None)
    """
    extension = _telling_extension(name, mime)
    return None if extension in _registered else _BUILTIN.get(extension)


def _telling_extension(name: str, mime: str | None) -> str:
    if mime is None or is_supported(name):
        return extension_of(name)
    return mimetypes.guess_extension(mime.partition(";")[0].strip().lower()) or ""


def is_supported(name: str) -> bool:
    """Tell whether a loader reads files of this name; imports nothing.

    Examples
    --------
    >>> is_supported("docs/a.pdf"), is_supported("photo.heic")
    (True, False)
    """
    extension = extension_of(name)
    return extension in _registered or extension in _BUILTIN
