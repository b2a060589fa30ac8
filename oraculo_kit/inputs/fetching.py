"""Fetch one document over HTTP without being led inside the network, waiting too long or reading too much.

- **Where to**: only addresses that :mod:`oraculo_kit.inputs.addresses` lets through; the connection goes to the address
  that was checked. A redirect is a new URL with all its checks; there are `MAX_REDIRECTS` at most, and never from https
  to http.
- **Time**: one deadline for names, connections, headers, body, redirects and further attempts; when it comes, the
  connection is cut, whatever it was waiting for.
- **Size**: counted while reading, packed and unpacked.
- **Secrets**: user and password of the URL go to its own origin only. No cookies, nothing from ``.netrc``, no Referer.
- **Proxies** of the environment (``HTTPS_PROXY``, ``NO_PROXY``, ...) are used, for where there is one, there is often no
  other way out. The proxy then resolves the name, so what is refused is what this machine can see to be private: an
  address, and a name that it can resolve itself. What the proxy may reach is up to the proxy.
- Connection failures, 429 and 5xx are tried up to three times.

The standard library's client, because it takes a connection that is already made: to the checked address, with the
name for the certificate.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urljoin
from urllib.request import getproxies, proxy_bypass

from oraculo_kit.environment.https import ssl_context
from oraculo_kit.environment.record import redact
from oraculo_kit.environment.sources import Deadline
from oraculo_kit.errors import EnvironmentSourceError, SourceError, SourceNotFoundError, SourceUnreadableError
from oraculo_kit.inputs.addresses import AllowedHosts, checked_addresses, refuse_private
from oraculo_kit.inputs.base import too_large
from oraculo_kit.inputs.urls import DocumentUrl, parse_document_url, url_scheme

ATTEMPTS = 3
MAX_REDIRECTS = 5

_FIRST_PAUSE = 0.3
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 65_536


@dataclass(frozen=True)
class Fetched:
    """A document, and what the server says about it."""

    content: bytes = field(repr=False)
    url: DocumentUrl
    content_type: str
    disposition: str
    modified: str


class _TransientError(Exception):
    """An attempt failed for a reason that may pass."""


def fetch_document(url: str, *, allowed: AllowedHosts, seconds: float, max_bytes: int) -> Fetched:
    """Return the document at a URL.

    Parameters
    ----------
    url : str
    allowed : AllowedHosts
        Who may be asked besides public addresses.
    seconds : float
        For everything together.
    max_bytes : int
        For the document, unpacked.

    Raises
    ------
    SourceNotFoundError
        404 and 410.
    SourceTooLargeError
    SourceUnreadableError
        No connection, no complete answer in time, or another status.
    SourceError
        When the URL, or one that it redirects to, may not be asked.
    """
    target = parse_document_url(url)
    deadline = Deadline(seconds)
    for attempt in range(ATTEMPTS):
        try:
            return _follow(target, allowed, deadline, max_bytes)
        except _TransientError as exc:
            failure = exc
        pause = _FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0)
        if pause >= deadline.remaining():
            break
        if attempt < ATTEMPTS - 1:
            time.sleep(pause)
    late = "" if deadline.remaining() else f"; the limit is {seconds:g} s, and ORACULO_URL_TIMEOUT sets it"
    raise SourceUnreadableError(
        redact(f"{target.key}: {failure}{late}. Check the URL and the network")
    ) from None


def _follow(target: DocumentUrl, allowed: AllowedHosts, deadline: Deadline, max_bytes: int) -> Fetched:
    current = target
    for _ in range(MAX_REDIRECTS + 1):
        with _asked(
            current, allowed, deadline, userinfo=target if current.origin == target.origin else None
        ) as response:
            location = response.headers.get("Location", "")
            if response.status not in _REDIRECTS or not location:
                return _answer(response, target, current, deadline, max_bytes)
        following = _redirected(target, current, location)
        current = following
    raise SourceUnreadableError(
        f"{target.key}: redirects more than {MAX_REDIRECTS} times; give its final URL"
    )


def _redirected(target: DocumentUrl, current: DocumentUrl, location: str) -> DocumentUrl:
    joined = urljoin(f"{current.scheme}://{current.host_header}{current.target}", location)
    scheme = url_scheme(joined)
    if scheme != "https" and (scheme != "http" or current.scheme != "http"):
        raise SourceError(
            f"{target.key}: redirects to {scheme or 'something'}:, from {current.scheme}: only https is followed; "
            "give the final URL"
        )
    try:
        return parse_document_url(joined)
    except SourceError as exc:
        raise SourceError(f"{target.key}: redirects to what is no URL") from exc


@contextlib.contextmanager
def _asked(
    current: DocumentUrl, allowed: AllowedHosts, deadline: Deadline, *, userinfo: DocumentUrl | None
) -> Iterator[http.client.HTTPResponse]:
    """Send one request, give its response, and turn what fails on the way, in reading too, into errors of our own."""
    import base64

    from oraculo_kit import __version__

    headers = {
        "Host": current.host_header,
        "User-Agent": f"oraculo_kit/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "gzip",
        "Connection": "close",
    }
    if userinfo is not None and userinfo.userinfo:
        headers["Authorization"] = "Basic " + base64.b64encode(userinfo.userinfo.encode()).decode()
    proxy = _proxy(current)
    line = current.target
    connection = http.client.HTTPConnection(current.host, current.port)
    failure: Exception | None = None
    with _Watchdog(deadline) as watchdog, contextlib.closing(connection):
        try:
            if proxy is None:
                connection.sock = _connect(
                    checked_addresses(current.host, current.port, allowed, deadline), deadline, watchdog
                )
            else:
                _refuse_what_can_be_seen(current, allowed, deadline)
                connection.sock = _connect_to_proxy(proxy, current, deadline, watchdog)
                if current.scheme == "http":
                    line = f"http://{current.host_header}{current.target}"
                    headers.update(_proxy_headers(proxy))
            if current.scheme == "https":
                connection.sock = _encrypted(connection.sock, current.host, watchdog)
            connection.request("GET", line, headers=headers)
            with connection.getresponse() as response:
                yield response
        except ssl.SSLCertVerificationError as exc:
            raise SourceUnreadableError(
                f"{current.key}: its certificate is not trusted: {exc.verify_message}; if your organisation has its own "
                "authority, set REQUESTS_CA_BUNDLE to its file"
            ) from exc
        except (OSError, http.client.HTTPException, UnicodeError) as exc:
            # Some of ours are OSErrors too, and final.
            if isinstance(exc, SourceError):
                raise
            failure = exc
        except ValueError as exc:
            # What reading a connection gives that the watchdog has cut.
            if isinstance(exc, SourceError) or not watchdog.over:
                raise
            failure = exc
    if failure is not None:
        if watchdog.over or isinstance(failure, TimeoutError):
            raise _TransientError("gave no complete answer in time") from failure
        reason = str(failure)[:200] or type(failure).__name__
        raise _TransientError(f"cannot be fetched: {reason}") from failure


class _Watchdog:
    """Cuts a connection at the deadline: a server that sends a byte now and then meets no other limit."""

    def __init__(self, deadline: Deadline) -> None:
        self.over = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(deadline.remaining(), self._cut)
        self._timer.daemon = True

    def watch(self, connection: socket.socket) -> None:
        """Cut this connection, too, or at once when the time is over."""
        with self._lock:
            self._socket = connection
            if self.over:
                raise TimeoutError

    def _cut(self) -> None:
        with self._lock:
            self.over = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own shutdown, which takes the encryption away from under the reader.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def __enter__(self) -> _Watchdog:
        self._timer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._socket = None


def _connect(
    places: list[tuple[int, tuple[str, int]]], deadline: Deadline, watchdog: _Watchdog
) -> socket.socket:
    """Connect to the first of several addresses that answers."""
    failure: OSError = TimeoutError()
    for left, (family, place) in zip(range(len(places), 0, -1), places, strict=True):
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(deadline.remaining() / (left + 1), 0.001))
            connection.connect(place)
            connection.settimeout(max(deadline.remaining(), 0.001))
            watchdog.watch(connection)
            return connection
        except OSError as exc:
            connection.close()
            failure = exc
    raise failure


def _encrypted(connection: socket.socket, host: str, watchdog: _Watchdog) -> ssl.SSLSocket:
    try:
        context = ssl_context()
    except EnvironmentSourceError as exc:
        raise SourceUnreadableError(str(exc)) from exc
    encrypted = context.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False)
    try:
        watchdog.watch(encrypted)
        encrypted.do_handshake()
    except BaseException:
        encrypted.close()
        raise
    return encrypted


def _proxy(current: DocumentUrl) -> tuple[str, int, str] | None:
    """Return host, port and credentials of the proxy for a URL, or None to go there directly."""
    from urllib3.util import parse_url

    proxies = getproxies()
    url = proxies.get(current.scheme) or proxies.get("all") or ""
    if not url or proxy_bypass(current.host if ":" in current.host else f"{current.host}:{current.port}"):
        return None
    parsed = parse_url(url if "://" in url else f"http://{url}")
    if parsed.scheme != "http" or not parsed.host:
        raise SourceUnreadableError(
            f"{current.key}: the proxy of the environment begins with {parsed.scheme}://, expected http://"
        )
    return parsed.host.strip("[]"), parsed.port or 80, unquote(parsed.auth or "")


def _proxy_headers(proxy: tuple[str, int, str]) -> dict[str, str]:
    import base64

    credentials = proxy[2]
    if not credentials:
        return {}
    return {"Proxy-Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def _refuse_what_can_be_seen(current: DocumentUrl, allowed: AllowedHosts, deadline: Deadline) -> None:
    try:
        checked_addresses(current.host, current.port, allowed, Deadline(min(5.0, deadline.remaining())))
    except SourceUnreadableError:
        # Behind a proxy, names of the outside often cannot be resolved here.
        refuse_private(current.host, [], allowed)


def _connect_to_proxy(
    proxy: tuple[str, int, str], current: DocumentUrl, deadline: Deadline, watchdog: _Watchdog
) -> socket.socket:
    host, port, _ = proxy
    connection = socket.create_connection((host, port), timeout=max(deadline.remaining() / 2, 0.001))
    try:
        connection.settimeout(max(deadline.remaining(), 0.001))
        watchdog.watch(connection)
        if current.scheme == "https":
            place = (
                f"[{current.host}]:{current.port}"
                if ":" in current.host
                else f"{current.host}:{current.port}"
            )
            lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
            lines += [f"{name}: {value}" for name, value in _proxy_headers(proxy).items()]
            connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
            with http.client.HTTPResponse(connection, method="CONNECT") as answer:
                answer.begin()
            if answer.status != 200:
                raise SourceUnreadableError(
                    f"{current.key}: the proxy answered {answer.status} {answer.reason[:100]}; ask who runs it"
                )
    except BaseException:
        connection.close()
        raise
    return connection


def _answer(
    response: http.client.HTTPResponse,
    target: DocumentUrl,
    current: DocumentUrl,
    deadline: Deadline,
    max_bytes: int,
) -> Fetched:
    status = response.status
    said = f"answered {status} {response.reason[:100]}".rstrip()
    if status == 429 or status >= 500:
        raise _TransientError(said)
    if status in (404, 410):
        raise SourceNotFoundError(f"{target.key}: {said}; check the URL")
    if status != 200:
        raise SourceUnreadableError(
            f"{target.key}: {said}, expected 200 OK; fetch it yourself, and give its bytes"
        )
    declared = response.length
    if declared is not None and declared > max_bytes:
        raise too_large(target.key, declared, max_bytes)
    return Fetched(
        _body(response, target, deadline, max_bytes),
        current,
        response.headers.get("Content-Type", ""),
        response.headers.get("Content-Disposition", ""),
        response.headers.get("Last-Modified", ""),
    )


def _body(
    response: http.client.HTTPResponse, target: DocumentUrl, deadline: Deadline, max_bytes: int
) -> bytes:
    unpack = _unpacker(response.headers.get("Content-Encoding", ""), target)
    declared, received = response.length, 0
    content = bytearray()
    while piece := response.read1(_PIECE):
        received += len(piece)
        content += unpack(piece, max_bytes + 1 - len(content))
        if max(received, len(content)) > max_bytes:
            raise too_large(target.key, None, max_bytes)
        if not deadline.remaining():
            raise TimeoutError
    if not deadline.remaining() or (declared is not None and received < declared):
        raise ConnectionError("the answer was cut off")
    return bytes(content)


def _unpacker(encoding: str, target: DocumentUrl) -> Callable[[bytes, int], bytes]:
    """Return what unpacks the body piece by piece, each to a length that is left at most."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda piece, left: piece
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise SourceUnreadableError(
            f"{target.key}: sent packed with {encoding[:20]!r}, expected gzip or nothing"
        )
    packed = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def unpack(piece: bytes, left: int) -> bytes:
        try:
            return packed.decompress(piece, left)
        except zlib.error as exc:
            raise SourceUnreadableError(f"{target.key}: what it sent cannot be unpacked: {exc}") from exc

    return unpack
