"""Documents behind http(s) URLs, fetched where they are ingested: here or in a worker."""

from __future__ import annotations

import mimetypes
import os
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from oraculo_kit.errors import SourceError
from oraculo_kit.formats import extension_of, is_supported
from oraculo_kit.inputs.addresses import AllowedHosts
from oraculo_kit.inputs.base import iso_time, with_facts
from oraculo_kit.inputs.urls import parse_document_url

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from oraculo_kit.inputs.base import Extract
    from oraculo_kit.inputs.fetching import Fetched
    from oraculo_kit.settings import Settings


@dataclass(frozen=True)
class UrlRules:
    """What may be fetched, and how long that may take.

    Attributes
    ----------
    allowed : AllowedHosts
        Hosts that may be asked although they are not public.
    seconds : float
        For one document, redirects and further attempts included.
    """

    allowed: AllowedHosts = field(default_factory=AllowedHosts)
    seconds: float = 60.0

    @classmethod
    def from_settings(cls, settings: Settings) -> UrlRules:
        """Return the rules that the settings give."""
        return cls(AllowedHosts.parse(settings.url_allow), settings.url_timeout)


@dataclass(frozen=True)
class UrlSource:
    """A document behind an http(s) URL.

    It is fetched in every run, and told to be unchanged by its content: the ledger has no place for an ETag.

    Attributes
    ----------
    url : str
        As it was given; may hold credentials, so it is never shown.
    key : str
        The URL without credentials, fragment, and secrets in its query.
    """

    url: str = field(repr=False)
    key: str
    rules: UrlRules = field(default_factory=UrlRules)
    error: SourceError | None = None
    size: int = 0
    mtime_ns: int | None = None
    _fetched: list[Fetched] = field(default_factory=list, init=False, repr=False, compare=False)

    def content(self, max_bytes: int) -> bytes:
        """Fetch the document."""
        from oraculo_kit.inputs.fetching import fetch_document

        fetched = fetch_document(
            self.url, allowed=self.rules.allowed, seconds=self.rules.seconds, max_bytes=max_bytes
        )
        # Kept for its headers, which say which format the content has.
        self._fetched[:] = [fetched]
        return fetched.content

    def documents(self, content: bytes, extract: Extract) -> list[Document]:
        """Extract the text."""
        modified = None
        if self._fetched:
            fetched = self._fetched.pop()
            name = document_name(fetched.url.target, fetched.content_type, fetched.disposition)
            modified = _http_time(fetched.modified)
        else:
            name = document_name(parse_document_url(self.url).target, "", "")
        return with_facts(extract(content, name), bytes=len(content), modified=modified)

    def __getstate__(self) -> dict[str, object]:
        # What was fetched stays where it was.
        return {**self.__dict__, "_fetched": []}


def url_source(url: str, rules: UrlRules) -> UrlSource:
    """Return the source for a URL; one that cannot be requested raises a `SourceError`."""
    return UrlSource(url, parse_document_url(url).key, rules)


def document_name(target: str, content_type: str, disposition: str) -> str:
    """Return a file name whose extension says which format a document from the web has.

    A server that says HTML is believed, for pages are often called ``.php`` or ``.asp``. Otherwise the extension in the
    URL decides, then that of the name that the server gives, then the content type.

    Parameters
    ----------
    target : str
        Path and query of the URL.
    content_type, disposition : str
        Headers of the answer; ``""`` for none.

    Examples
    --------
    >>> document_name("/index.php?id=3", "text/html; charset=utf-8", "")
    'index.php.html'
    >>> document_name("/download?id=3", "application/octet-stream", 'attachment; filename="nota.pdf"')
    'nota.pdf'
    >>> document_name("/", "application/pdf", "")
    'document.pdf'
    """
    name = posixpath.basename(unquote(target.partition("?")[0])) or "document"
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        return name if extension_of(name) in (".html", ".htm", ".xhtml") else f"{name}.html"
    if is_supported(name):
        return name
    from email.message import Message

    header = Message()
    header["Content-Disposition"] = disposition
    given = os.path.basename((header.get_filename() or "").replace("\\", "/"))
    if is_supported(given):
        return given
    extension = mimetypes.guess_extension(kind) or ""
    return f"{name}{extension}" if is_supported(f"x{extension}") else name


def _http_time(text: str) -> str | None:
    from email.utils import parsedate_to_datetime

    try:
        return iso_time(int(parsedate_to_datetime(text).timestamp()) * 10**9)
    except (ValueError, OverflowError, OSError):
        return None
