"""Everything that can be ingested, as sources.

Files, folders, zip archives, URLs, object stores, DataFrames, parquet tables, LangChain documents and loaders, bytes. A
source has a key, gives its content as bytes (hashed to see whether it changed) and, only when it did, its documents.
Sources travel to worker processes. One module per kind:

========== =============================================================================
files      files, folders, and zip archives, which are gone into like folders
web        http(s) URLs, only when they are allowed; `addresses` says who may be asked
remote     s3, gs, az, sftp, ftp, through fsspec
tables     rows of a DataFrame or a parquet file
documents  LangChain documents and loaders
memory     bytes and open files
========== =============================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from oraculo_kit.errors import SourceError
from oraculo_kit.inputs.base import IngestSource
from oraculo_kit.inputs.documents import (
    DocumentsSource,
    document_sources,
    is_document,
    is_loader,
    loader_sources,
)
from oraculo_kit.inputs.files import FileSource, MemberSource, file_sources, sources_again
from oraculo_kit.inputs.memory import BytesSource, bytes_source, is_bytes
from oraculo_kit.inputs.remote import REMOTE_SCHEMES, RemoteSource, remote_key, remote_sources
from oraculo_kit.inputs.tables import TextSource, frame_sources, is_dataframe, is_table, parquet_sources
from oraculo_kit.inputs.urls import parse_document_url, url_scheme
from oraculo_kit.inputs.web import UrlRules, UrlSource, url_source
from oraculo_kit.storage.records import clean_text

if TYPE_CHECKING:
    from oraculo_kit.settings import Settings

__all__ = [
    "BytesSource",
    "DocumentsSource",
    "FileSource",
    "IngestSource",
    "MemberSource",
    "RemoteSource",
    "TextSource",
    "UrlRules",
    "UrlSource",
    "find_sources",
    "is_dataframe",
    "sources_again",
    "written_name",
]

_EXPECTED = (
    "expected a path, a URL, bytes, an open file, a pandas DataFrame, LangChain documents or a loader, or a list of paths, "
    "URLs, documents and loaders"
)
_DEFAULT_MAX_BYTES = 100 << 20  # the default of ORACULO_MAX_FILE_MB


def find_sources(
    given: Any,
    *,
    text: str | None = None,
    id: str | None = None,
    name: str | None = None,
    glob: str | None = None,
    allow_urls: bool = False,
    settings: Settings | None = None,
) -> Iterator[IngestSource]:
    """List the sources in what a user gave.

    Parameters
    ----------
    given : path, URL, bytes, open file, DataFrame, Document, loader, or an iterable of paths, URLs, Documents, loaders
    text, id : str, optional
        For a DataFrame or a parquet file: the columns with the text and with a row's name; the index, or the row's
        number, names rows by default.
    name : str, optional
        For a DataFrame (``"dataframe"`` by default) or a parquet file (its path): what the keys of its rows begin with.
        For bytes: a file name, whose extension says which format they have.
    glob : str, optional
        For folders and archives: take only files whose name matches.
    allow_urls : bool
        Whether http(s) URLs may be fetched.
    settings : Settings, optional
        For URLs: whom to ask and how long to wait; the largest document. Defaults without.

    Returns
    -------
    iterator of IngestSource
        What is wrong with one source is its `error`.

    Raises
    ------
    SourceError
        When this is nothing that can be ingested, a URL is given without leave, a column is missing, or an option does
        not fit what was given.
    """
    if is_dataframe(given):
        _refuse_glob(glob, "a DataFrame")
        return frame_sources(given, text, id, name or "dataframe")
    if is_table(given) and url_scheme(given) is None and text is not None:
        _refuse_glob(glob, "a table")
        return parquet_sources(given, text, id, None if name == "dataframe" else name)
    if text is not None or id is not None:
        raise SourceError(
            f"text= and id= name columns of a DataFrame or a parquet file, got {_shown(given)}. Read the file with "
            "pandas first, or leave them out: of a CSV file every row is indexed with all its columns"
        )
    if is_bytes(given):
        _refuse_glob(glob, "bytes")
        limit = _DEFAULT_MAX_BYTES if settings is None else settings.max_file_bytes
        return iter([bytes_source(given, None if name == "dataframe" else name, limit)])
    single = isinstance(given, str | os.PathLike) or is_document(given) or is_loader(given)
    if not single and not isinstance(given, Iterable):
        raise SourceError(f"got {_shown(given)}, {_EXPECTED}")
    rules = UrlRules() if settings is None else UrlRules.from_settings(settings)
    parted = _Parted(allow_urls, rules)
    for item in [given] if single else given:
        parted.add(item, given)
    return _unique(parted.sources(glob))


def written_name(given: str) -> tuple[str, bool]:
    """Return a path or URL as it may be written down, and whether that leaves a password or token out.

    Examples
    --------
    >>> written_name("sftp://ana:s3nha@host/docs")
    ('sftp://host/docs', True)
    """
    scheme = url_scheme(given)
    if scheme is None:
        return os.path.abspath(os.path.expanduser(given)), False
    if scheme in ("http", "https"):
        try:
            url = parse_document_url(given)
        except SourceError:  # its outcome will say so
            return remote_key(given), False
        return url.key, bool(url.userinfo) or not url.key.endswith(url.target)
    key = remote_key(given)
    return key, key.partition("://")[2] != clean_text(given.partition("://")[2])


class _Parted:
    """What a user gave, parted by kind, each in its order."""

    def __init__(self, allow_urls: bool, rules: UrlRules) -> None:
        self._allow_urls = allow_urls
        self._rules = rules
        self._paths: list[str | os.PathLike[str]] = []
        self._urls: list[UrlSource] = []
        self._remote: list[str] = []
        self._loaders: list[Any] = []
        self._documents: list[Any] = []
        self._sources: list[IngestSource] = []

    def add(self, item: Any, given: Any) -> None:
        """Take one item, or raise a `SourceError` that names it."""
        scheme = url_scheme(item)
        if scheme in ("http", "https"):
            source = url_source(item, self._rules)
            if not self._allow_urls:
                raise SourceError(
                    f"{source.key} is a URL, and nothing is fetched unless it is asked for: give allow_urls=True "
                    "(in a shell: --allow-urls)"
                )
            self._urls.append(source)
        elif scheme == "file":
            self._paths.append(_local_path(item))
        elif scheme in REMOTE_SCHEMES:
            self._remote.append(item)
        elif scheme is not None:
            schemes = "https, http, file, " + ", ".join(each for each in REMOTE_SCHEMES if each != "memory")
            raise SourceError(f"{scheme}:// is no scheme that can be read, expected one of {schemes}")
        elif isinstance(item, str | os.PathLike):
            if not os.fspath(item):
                raise SourceError(f"got an empty path, {_EXPECTED}")
            self._paths.append(item)
        elif is_loader(item):
            self._loaders.append(item)
        elif isinstance(item, FileSource):  # what it says of the file may be true no more
            self._paths.append(item.found.location)
        elif isinstance(
            item, BytesSource | DocumentsSource | MemberSource | RemoteSource | TextSource | UrlSource
        ):
            self._sources.append(item)
        elif is_document(item):
            self._documents.append(item)
        elif is_bytes(item) or is_dataframe(item):
            raise SourceError(
                f"got a {_shown(given)} with {_shown(item)}; give each of these in a call of its own"
            )
        else:
            raise SourceError(f"got a {_shown(given)} with {_shown(item)}, {_EXPECTED}")

    def sources(self, glob: str | None) -> Iterator[IngestSource]:
        """List everything: what is on disk, elsewhere, and in memory."""
        yield from file_sources(self._paths, glob)
        for remote in self._remote:
            yield from remote_sources(remote, glob)
        yield from self._urls
        for loader in self._loaders:
            yield from loader_sources(loader)
        yield from document_sources(self._documents)
        yield from self._sources


def _unique(found: Iterable[IngestSource]) -> Iterator[IngestSource]:
    """Make what has the key of another source a fault: one would replace the other."""
    keys: set[str] = set()
    for source in found:
        # Listing folders gives faults of its own for what comes twice.
        if source.key in keys and not isinstance(source, FileSource):
            kind = "a file of that name" if isinstance(source, DocumentsSource) else "it"
            twice = SourceError(f"{source.key}: {kind} is given too; name another source in the documents")
            yield DocumentsSource(source.key, (), error=twice)
            continue
        keys.add(source.key)
        yield source


def _local_path(url: str) -> str:
    from urllib.request import url2pathname

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise SourceError(f"file://{parts.netloc} is a file of another machine; give a path that leads there")
    return url2pathname(parts.path)


def _refuse_glob(glob: str | None, what: str) -> None:
    if glob is not None:
        raise SourceError(f"glob={glob!r} chooses files of a folder, and {what} was given; leave it out")


def _shown(given: object) -> str:
    return "None" if given is None else type(given).__name__
