"""URLs of documents: taken apart once, so that checks, connection and key agree; named without their secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode

from oraculo_kit.environment.names import looks_secret
from oraculo_kit.environment.record import remember_secrets
from oraculo_kit.errors import SourceError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two characters at least: C:// is a drive
_PORTS = {"https": 443, "http": 80}
_SIGNED = re.compile(r"(x-amz-|x-goog-).*|sig|signature|sas|pwd|pass|code", re.IGNORECASE)
# What a shared access signature of Azure consists of besides `sig`; it is made anew for every link.
_AZURE = frozenset({"sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "sip", "skoid", "sktid", "skt", "ske"})
_SHORTEST_SECRET = 8  # a shorter value may be an ordinary word that texts need


@dataclass(frozen=True)
class DocumentUrl:
    """An http(s) URL.

    Attributes
    ----------
    scheme, host, port
    target : str
        Path and query, as they are sent.
    key : str
        Without credentials and fragment, and without what looks secret in the query: the same document behind a link
        that was signed anew keeps its key.
    userinfo : str
        ``user:password``, or empty.
    """

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    key: str
    userinfo: str = field(repr=False)

    @property
    def origin(self) -> tuple[str, str, int]:
        """What credentials belong to."""
        return self.scheme, self.host, self.port

    @property
    def host_header(self) -> str:
        """The host as it is sent."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def url_scheme(given: object) -> str | None:
    r"""Return the scheme of a text that is a URL, in lower case; None for a path.

    Examples
    --------
    >>> [url_scheme(text) for text in ("HTTPS://host/a.pdf", "s3://bucket/a", "docs/a.txt", r"C:\a", "C://a")]
    ['https', 's3', None, None, None]
    """
    match = _URL.match(given) if isinstance(given, str) else None
    return match[1].lower() if match else None


def parse_document_url(url: str) -> DocumentUrl:
    """Take an http(s) URL apart.

    Raises
    ------
    SourceError
        When it cannot be requested.

    Examples
    --------
    >>> parse_document_url("HTTPS://ana:s3nh4@Site.example/a.pdf?page=2&token=abcdefgh12#top").key
    'https://site.example/a.pdf?page=2'
    """
    # urllib3's parser brings a URL into the form in which browsers send it.
    from urllib3.util import parse_url

    try:
        parsed = parse_url(url) if url.isprintable() and not any(each in url for each in '\\ "<>') else None
    except ValueError:
        parsed = None
    if parsed is None or not parsed.host or parsed.scheme not in _PORTS:
        shown = _URL.sub(r"\1://", url.partition("?")[0].rpartition("@")[2])[:200]
        raise SourceError(
            f"{shown!r} is no URL that can be requested; write special characters in percent form"
        )
    pairs = parse_qsl(parsed.query or "", keep_blank_values=True)
    secret = [value for name, value in pairs if _is_secret(name, pairs)]
    kept = [(name, value) for name, value in pairs if not _is_secret(name, pairs)]
    query = parsed.query if not secret else urlencode(kept) or None
    remember_secrets(value for value in secret if len(value) >= _SHORTEST_SECRET)
    remember_secrets([unquote((parsed.auth or "").rpartition(":")[2])])
    return DocumentUrl(
        scheme=parsed.scheme,
        host=parsed.host.strip("[]"),
        port=parsed.port or _PORTS[parsed.scheme],
        target=parsed.request_uri,
        key=parsed._replace(auth=None, query=query, fragment=None).url,
        userinfo=unquote(parsed.auth or ""),
    )


def _is_secret(name: str, pairs: list[tuple[str, str]]) -> bool:
    if looks_secret(name.upper()) or _SIGNED.fullmatch(name):
        return True
    return name in _AZURE and any(each == "sig" for each, _ in pairs)
