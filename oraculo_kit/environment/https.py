"""Fetch one JSON document over HTTPS without ever waiting too long, reading too much or telling too much.

* **Time**: attempts, pauses and reading share the caller's deadline. Connection failures, 429 and 5xx are
  tried up to four times, 0.2 s, 0.4 s and 0.8 s apart (less up to half of it at random, so that a class of
  kernels does not come back in step), later if ``Retry-After`` asks for it and the deadline allows. Other 4xx
  are final.
* **Size**: 1 MiB, counted while reading. No compression is asked for and none accepted: a compressed bomb is
  refused by its header.
* **Where to**: plain HTTP to this machine only; a redirect never leaves HTTPS; token, headers and URL
  password go to the configured origin only, and not again once a redirect has left it; five redirects at
  most.
* **Logs**: urllib3 logs request lines, with their query strings, at DEBUG; those of our own thread are
  dropped.

urllib3 is used because requests, and so every LangChain installation, brings it, and because it can be told
to do one thing at a time: httpx and requests have no total time limit either and import in 0.13 to 0.2 s,
urllib3 in 0.12 s. It is imported for the first HTTPS source only. Proxies come from the standard variables
(``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``) or the system's setting, certificates from
``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` or ``SSL_CERT_FILE``, otherwise from the system, otherwise from
certifi.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.util import parse_url

from oraculo_kit.environment.documents import MAX_BYTES, SourceUnreachableError, source_error
from oraculo_kit.environment.options import CACHE_VARIABLE, TIMEOUT_VARIABLE
from oraculo_kit.environment.record import redact, safe_cause
from oraculo_kit.environment.sources import Deadline, causes
from oraculo_kit.environment.urls import SourceUrl, parse_source_url, split_url
from oraculo_kit.errors import EnvironmentSourceError

ATTEMPTS = 4
FIRST_PAUSE = 0.2
MAX_REDIRECTS = 5
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")

_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Answer:
    """A complete document and the ETag that the server gave it, or an empty text."""

    content: bytes = field(repr=False)
    etag: str = field(repr=False)


class _TransientError(Exception):
    """An attempt failed for a reason that may pass."""

    def __init__(self, reason: str, *, pause: float = 0.0, cause: BaseException | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pause = pause
        self.cause = cause


def fetch(url: str, *, headers: Mapping[str, str], etag: str, deadline: Deadline) -> Answer | None:
    """Return the document at `url`, or None when the one that `etag` stands for is still good.

    Blocks until the deadline at most in its own steps; the caller bounds name resolution and slow headers by
    waiting in another thread.

    Parameters
    ----------
    url : str
        As for `parse_source_url`; a user and password in it become Basic authentication.
    headers : mapping
        Sent to the URL's own origin only.
    etag : str
        Sent as ``If-None-Match`` unless empty.
    deadline : Deadline
        For all attempts, pauses and reading.

    Raises
    ------
    SourceUnreachableError
        No connection, no complete answer, 429 or 5xx, after the last attempt.
    EnvironmentSourceError
        A refused redirect, another status, an untrusted certificate, or too large an answer.
    """
    target = parse_source_url(url)
    own = dict(headers)
    if target.userinfo and not any(name.casefold() == "authorization" for name in own):
        own.update(urllib3.make_headers(basic_auth=unquote(target.userinfo)))
    context = ssl_context()
    failure = _TransientError("was not asked: no time was left")
    for attempt in range(ATTEMPTS):
        try:
            with _quiet_urllib3():
                return _follow(target, own, etag, deadline, context)
        except _TransientError as exc:
            failure = exc
        backoff = FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0)
        pause = max(failure.pause, backoff)
        if attempt == ATTEMPTS - 1 or pause >= deadline.remaining():
            break
        time.sleep(pause)
    raise source_error(
        target.label,
        f"{failure.reason} (attempt {attempt + 1} of {ATTEMPTS}, within {deadline.seconds:g} s)",
        f"Check the network, proxy and server; {TIMEOUT_VARIABLE} sets the time, {CACHE_VARIABLE}=1 "
        "keeps the last good values for such times.",
        SourceUnreachableError,
    ) from failure.cause


def _follow(
    target: SourceUrl, own: Mapping[str, str], etag: str, deadline: Deadline, context: ssl.SSLContext
) -> Answer | None:
    current, at_home = target, True
    for _ in range(MAX_REDIRECTS + 1):
        sent = {**(own if at_home else {}), "Accept": "application/json", "Accept-Encoding": "identity"}
        if etag:
            sent["If-None-Match"] = etag
        with _request(current, sent, deadline, context) as response:
            location = response.headers.get("Location", "")
            if response.status not in _REDIRECTS or not location:
                return _answer(response, target, etag, deadline)
        following = _redirected(target, current, location)
        at_home = at_home and following.origin == target.origin
        current = following
    raise source_error(
        target.label, f"redirects more than {MAX_REDIRECTS} times", "Give the final address of the document."
    )


def _redirected(target: SourceUrl, current: SourceUrl, location: str) -> SourceUrl:
    try:
        following = split_url(urljoin(current.url, location))
    except ValueError:
        following = None
    if following is not None and following.origin[0] == "https":
        return following
    if following is not None and following.is_loopback_http and current.is_loopback_http:
        return following
    address = following.label if following is not None else "an address that cannot be parsed"
    raise source_error(
        target.label,
        f"redirects to {address}, which is not HTTPS",
        "Give the final https:// address of the document.",
    )


@contextlib.contextmanager
def _request(
    current: SourceUrl, headers: Mapping[str, str], deadline: Deadline, context: ssl.SSLContext
) -> Iterator[urllib3.BaseHTTPResponse]:
    """Send one request and give its response; turn every failure, in reading too, into one of our own."""
    failure: Exception | None = None
    with contextlib.ExitStack() as opened:
        try:
            manager = opened.enter_context(_manager(current, context))
            left = max(deadline.remaining(), 0.001)
            response = manager.request(
                "GET",
                current.url,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                # Half for the connection, so that a lost first packet leaves time for a second attempt.
                timeout=urllib3.Timeout(connect=left / 2, read=left),
            )
            opened.callback(response.close)
            yield response
        except (urllib3.exceptions.HTTPError, OSError, UnicodeError) as exc:
            failure = exc
    if failure is None:
        return
    cause = safe_cause(failure)
    rejected = next(
        (each for each in causes(failure) if isinstance(each, ssl.SSLCertVerificationError)), None
    )
    if rejected is not None:
        raise source_error(
            current.label,
            f"has a certificate that is not trusted: {rejected.verify_message}",
            f"If your organisation has its own certificate authority, set {CA_VARIABLES[0]} to its file.",
        ) from cause
    raise _TransientError(f"cannot be reached: {redact(_reason(failure))}", cause=cause)


def _answer(
    response: urllib3.BaseHTTPResponse, target: SourceUrl, etag: str, deadline: Deadline
) -> Answer | None:
    status = response.status
    if status == 304 and etag:
        return None
    if status == 429 or status >= 500:
        pause = _retry_after(response.headers)
        asked = f" and asks for a pause of {pause:.0f} s" if pause else ""
        raise _TransientError(f"answered {_status_text(status)}{asked}", pause=pause)
    if status != 200:
        advice = (
            "Check ORACULO_ENV_TOKEN and ORACULO_ENV_HEADERS." if status in (401, 403) else "Check the URL."
        )
        raise source_error(target.label, f"answered {_status_text(status)}, expected 200 OK", advice)
    encoding = response.headers.get("Content-Encoding", "identity").strip()
    if encoding.casefold() not in ("", "identity"):
        raise source_error(
            target.label,
            f"sent a compressed answer ({encoding[:20]!r}), which was not asked for",
            "Serve the document without Content-Encoding.",
        )
    content = bytearray()
    while chunk := response.read1(65_536):
        content += chunk
        if len(content) > MAX_BYTES:
            raise source_error(target.label, "is larger than 1 MiB", "Keep only environment values in it.")
        # The socket's limit starts again with every byte: a dripping server must meet ours.
        if not deadline.remaining():
            raise _TransientError("was still sending when the time was over")
    given = response.headers.get("ETag", "").strip()
    return Answer(
        bytes(content), given if given.isascii() and given.isprintable() and len(given) <= 1024 else ""
    )


def _manager(current: SourceUrl, context: ssl.SSLContext) -> urllib3.PoolManager:
    scheme, host, port = current.origin
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all") or ""
    if scheme == "http" or not proxy or proxy_bypass(host if ":" in host else f"{host}:{port}"):
        return urllib3.PoolManager(ssl_context=context)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    parsed = parse_url(proxy)
    return urllib3.ProxyManager(
        parsed._replace(auth=None).url,
        proxy_headers=urllib3.make_headers(proxy_basic_auth=unquote(parsed.auth)) if parsed.auth else None,
        ssl_context=context,
        proxy_ssl_context=context,
    )


def ssl_context() -> ssl.SSLContext:
    """Return what checks certificates: by the authorities that the environment names, or the system's."""
    for variable in CA_VARIABLES:
        bundle = os.environ.get(variable, "").strip()
        if not bundle:
            continue
        try:
            if os.path.isdir(bundle):
                return ssl.create_default_context(capath=bundle)
            return ssl.create_default_context(cafile=bundle)
        except OSError as exc:  # SSLError, for a file without certificates, is one
            raise EnvironmentSourceError(
                f"{variable} names certificates that cannot be read: {exc.strerror or exc}. "
                f"Nothing was applied. Correct {variable}, or remove it to use the system's certificates."
            ) from exc
    context = ssl.create_default_context()
    # python.org's macOS builds have no certificates of their own. A folder (SSL_CERT_DIR) is read on demand,
    # so it counts as none here; whoever set it wants no others.
    if not context.cert_store_stats()["x509_ca"] and not os.environ.get("SSL_CERT_DIR"):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _status_text(status: int) -> str:
    import http

    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _reason(error: Exception) -> str:
    return str(error)[:300] or type(error).__name__


@contextlib.contextmanager
def _quiet_urllib3() -> Iterator[None]:
    thread = threading.get_ident()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger = logging.getLogger("urllib3.connectionpool")
    logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(from_elsewhere)
