"""Which URLs may be asked for environment values, and how they are named in messages.

urllib3 parses them, as it will connect to them: two parsers that disagree about the host are how a check for
one host ends in a connection to another.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote

from urllib3.util import parse_url

from oraculo_kit.environment.documents import source_error
from oraculo_kit.environment.options import SOURCE_VARIABLE
from oraculo_kit.environment.record import remember_secrets


@dataclass(frozen=True)
class SourceUrl:
    """A URL that may be requested, taken apart once so that checks and connection agree on the host."""

    url: str = field(repr=False)
    label: str
    origin: tuple[str, str, int]
    userinfo: str = field(repr=False)

    @property
    def is_loopback_http(self) -> bool:
        """Whether this is plain HTTP to this machine."""
        scheme, host, _ = self.origin
        return scheme == "http" and _is_loopback(host)


def parse_source_url(url: str) -> SourceUrl:
    """Check a source's URL and take it apart.

    Parameters
    ----------
    url : str
        ``https://`` to anywhere, or ``http://`` to 127.0.0.0/8, ``[::1]`` or ``localhost``.

    Returns
    -------
    SourceUrl
        Its label has neither credentials nor query nor fragment; `redact` knows those from now on.

    Raises
    ------
    EnvironmentSourceError
        When the URL cannot be parsed, or may not be used.

    Examples
    --------
    >>> parse_source_url("https://ana:s3nha@Config.example/env.json?key=abc#top").label
    'https://config.example/env.json'
    >>> parse_source_url("http://config.example/env.json")
    Traceback (most recent call last):
    ...
    oraculo_kit.errors.EnvironmentSourceError: the environment source http://config.example/env.json is ...
    """
    parsed = split_url(url)
    if parsed is None:
        raise source_error(
            "in " + SOURCE_VARIABLE,
            "is not a URL that can be requested",
            "Write https://host/path; write special characters in percent form, ; as %3B.",
        )
    scheme = parsed.origin[0]
    if scheme not in ("https", "http"):
        raise source_error(
            parsed.label, f"has the scheme {scheme!r}, expected https", "For a file, write its path only."
        )
    if scheme == "http" and not parsed.is_loopback_http:
        raise source_error(
            parsed.label,
            "is plain HTTP to another machine, so others could read and change the values",
            "Use https://; plain http:// is for this machine only.",
        )
    return parsed


def split_url(url: str) -> SourceUrl | None:
    """Return a URL taken apart but not checked, or None for a text that is no absolute URL.

    Its query and password are known to `redact` from then on.
    """
    if not url.isprintable() or any(each in url for each in '\\ "<>'):
        return None
    try:
        parsed = parse_url(url)
    except ValueError:  # LocationParseError is one
        return None
    if not parsed.host or not parsed.scheme:
        return None
    query = parsed.query or ""
    values = [unquote(pair.partition("=")[2]) for pair in query.split("&")]
    # Keys and signatures are long; a short value may be an ordinary word (env=production) that texts need.
    remember_secrets([query, *(value for value in values if len(value) >= 16)])
    remember_secrets([unquote((parsed.auth or "").rpartition(":")[2])])
    host = parsed.host.strip("[]")
    port = parsed.port or {"https": 443, "http": 80}.get(parsed.scheme, 0)
    return SourceUrl(
        parsed._replace(auth=None, fragment=None).url,
        parsed._replace(auth=None, query=None, fragment=None).url,
        (parsed.scheme, host, port),
        parsed.auth or "",
    )


def _is_loopback(host: str) -> bool:
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
