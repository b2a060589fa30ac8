"""Documents over HTTP, from real loopback servers that are slow, endless, packed, hostile or gone."""

from __future__ import annotations

import base64
import contextlib
import gzip
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from langchain_core.documents import Document

import oraculo_kit as oraculo
from oraculo_kit.environment.record import redact
from oraculo_kit.errors import (
    SettingsError,
    SourceError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnreadableError,
)
from oraculo_kit.inputs import UrlSource, addresses, find_sources
from oraculo_kit.inputs.addresses import AllowedHosts
from oraculo_kit.load import load_bytes
from oraculo_kit.settings import Settings

LIMIT = 1_000_000
PAGE = b"<html><title>Guia</title><p>como emitir nota fiscal</p></html>"

Route = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's route for the path, and notes what was asked."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(
            (self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        with contextlib.suppress(ConnectionError, ssl.SSLError, ValueError):  # the client had enough
            self.server.routes[self.path.partition("?")[0]](self)
        self.close_connection = True

    def do_CONNECT(self) -> None:
        self.server.requests.append(
            (self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        self.send_response(self.server.tunnel_status)
        self.end_headers()
        if self.server.tunnel_status == 200:
            with socket.create_connection(self.server.tunnel_to) as there:
                pump = threading.Thread(target=copy_bytes, args=(there, self.connection), daemon=True)
                pump.start()
                copy_bytes(self.connection, there)
                pump.join(5)
        self.close_connection = True

    def answer(self, body: bytes = PAGE, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def copy_bytes(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Route] = {"/guia.html": lambda handler: handler.answer()}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.tunnel_to, self.tunnel_status = ("127.0.0.1", 0), 200
        self.scheme = "http" if context is None else "https"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def url(self, path: str = "/guia.html", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that cut the connection


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with Server() as server:
        yield server
        server.shutdown()


def extract(content: bytes, name: str) -> list[Document]:
    return load_bytes(content, name=name)


def source_of(url: str, *, allow: str = "127.0.0.1", seconds: float = 10) -> UrlSource:
    settings = Settings.resolve(
        environ={"ORACULO_URL_ALLOW": allow or " ,", "ORACULO_URL_TIMEOUT": str(seconds)}
    )
    (source,) = find_sources(url, allow_urls=True, settings=settings)
    assert isinstance(source, UrlSource)
    return source


def fetched(url: str, **arguments: Any) -> bytes:
    return source_of(url, **arguments).content(LIMIT)


# --- what is fetched ----------------------------------------------------------------------------------------


def test_a_page_is_a_source_with_its_title_and_time(server: Server) -> None:
    server.routes["/"] = lambda handler: handler.answer(
        Content_Type="text/html; charset=utf-8", Last_Modified="Tue, 14 Nov 2023 22:13:20 GMT"
    )
    source = source_of(server.url("/#topo"))
    assert source.key == server.url("/")
    content = source.content(LIMIT)
    (document,) = source.documents(content, extract)
    assert document.page_content == "como emitir nota fiscal"
    assert document.metadata["title"] == "Guia"
    assert (document.metadata["bytes"], document.metadata["modified"]) == (
        len(PAGE),
        "2023-11-14T22:13:20+00:00",
    )
    assert pickle.loads(pickle.dumps(source)) == source


def test_nothing_is_fetched_without_leave(server: Server) -> None:
    for given in (server.url(), [server.url()], ["a.txt", server.url()]):
        with pytest.raises(
            SourceError, match=r"guia\.html is a URL, and nothing is fetched .* allow_urls=True"
        ):
            find_sources(given)
    assert not server.requests


def test_the_pipeline_fetches_again_and_extracts_only_what_changed(project: Path, server: Server) -> None:
    from oraculo_kit.ingestion import ingest_sources

    services = oraculo.start_services()

    def statuses() -> list[str]:
        return [outcome.status for outcome in ingest_sources(services, [source_of(server.url())])]

    assert statuses() == ["added"]
    assert statuses() == ["unchanged"]
    server.routes["/guia.html"] = lambda handler: handler.answer(b"<p>outra coisa</p>")
    assert statuses() == ["replaced"]
    assert oraculo.search("outra coisa", k=1)[0].source == server.url()
    server.routes["/guia.html"] = lambda handler: handler.answer(status=404)
    assert statuses() == ["failed"]
    assert len(oraculo.sources()) == 1


def test_a_packed_answer_is_unpacked_and_a_bomb_is_not(server: Server) -> None:
    server.routes["/a.txt"] = lambda handler: handler.answer(gzip.compress(b"texto"), Content_Encoding="gzip")
    server.routes["/b.txt"] = lambda handler: handler.answer(
        gzip.compress(b"0" * 10**8), Content_Encoding="gzip"
    )
    server.routes["/c.txt"] = lambda handler: handler.answer(b"nothing like it", Content_Encoding="gzip")
    server.routes["/d.txt"] = lambda handler: handler.answer(b"x", Content_Encoding="br")
    assert fetched(server.url("/a.txt")) == b"texto"
    with pytest.raises(SourceTooLargeError, match=r"b\.txt: more, over the limit of 976\.6 KiB"):
        fetched(server.url("/b.txt"))
    with pytest.raises(SourceUnreadableError, match="cannot be unpacked"):
        fetched(server.url("/c.txt"))
    with pytest.raises(SourceUnreadableError, match="sent packed with 'br'"):
        fetched(server.url("/d.txt"))


def test_https_is_checked_against_the_name_and_the_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Server(context) as secure:
        url = secure.url(host="localhost")
        with pytest.raises(SourceUnreadableError, match="its certificate is not trusted"):
            fetched(url, allow="localhost")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert fetched(url, allow="localhost") == PAGE
        with pytest.raises(SourceUnreadableError, match="its certificate is not trusted"):
            fetched(secure.url())  # the certificate is for the name, not for the address
        secure.routes["/down"] = lambda handler: handler.answer(status=302, Location=server.url())
        with pytest.raises(SourceError, match="redirects to http:, from https: only https is followed"):
            fetched(secure.url("/down", host="localhost"), allow="localhost,127.0.0.1")
        secure.shutdown()


# --- where to -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "10.1.2.3", "192.168.0.1",
        "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.0.1", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fd00::1]",
        "[fec0::1]", "[::127.0.0.1]", "[2001:0:1234::1]", "[ff02::1]",
    ],
)  # fmt: skip
def test_no_private_address_is_asked_however_it_is_written(server: Server, host: str) -> None:
    with pytest.raises(SourceError, match="no public address, so it was not asked|no such host"):
        fetched(f"http://{host}:{server.server_port}/guia.html", allow="")
    assert not server.requests


def test_public_addresses_are_public() -> None:
    import ipaddress

    for text in ("1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"):
        assert addresses.is_public(ipaddress.ip_address(text)), text


@pytest.mark.parametrize("allow", ["127.0.0.1", "127.0.0.0/8", "LOCALHOST", "127.0.0.1, ::1"])
def test_a_setting_lets_hosts_and_networks_in(server: Server, allow: str) -> None:
    host = "localhost" if "LOCAL" in allow else "127.0.0.1"
    assert fetched(server.url(host=host), allow=allow) == PAGE


@pytest.mark.parametrize("entry", ["http://host", "host:80", "ana@host", "*.host"])
def test_what_is_no_host_is_refused_as_a_setting(entry: str) -> None:
    with pytest.raises(SettingsError, match="expected the name of a host, an address or a network"):
        AllowedHosts.parse(entry)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254, which is no public address"),
        ("http://[::ffff:169.254.169.254]/", "no public address"),
        ("file:///etc/passwd", "redirects to file:, from http"),
        ("gopher://127.0.0.1/", "redirects to gopher:"),
        ("http://\x7f/", "redirects to"),
        ("//10.0.0.1/x", "no public address"),
    ],
)
def test_a_redirect_leads_nowhere_that_could_not_be_named(server: Server, location: str, said: str) -> None:
    server.routes["/r"] = lambda handler: handler.answer(status=302, Location=location)
    with pytest.raises(SourceError, match=said):
        fetched(server.url("/r"))


def test_redirects_are_followed_a_few_times(server: Server) -> None:
    server.routes["/r"] = lambda handler: handler.answer(status=301, Location="/guia.html")
    server.routes["/loop"] = lambda handler: handler.answer(status=302, Location="/loop")
    assert fetched(server.url("/r")) == PAGE
    server.requests.clear()
    with pytest.raises(SourceUnreadableError, match="redirects more than 5 times"):
        fetched(server.url("/loop"))
    assert len(server.requests) == 6


def test_a_name_that_is_rebound_to_a_private_address_is_asked_once_and_never_reached(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["127.0.0.2", "127.0.0.1"]
    asked: list[str] = []

    def rebinding(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[min(len(asked), 2) - 1], port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    # 127.0.0.2, where nobody listens, stands for the public address that the name has when it is checked. Every attempt
    # resolves once: the second one is refused, and none reaches the server.
    with pytest.raises(SourceError, match=r"rebind\.example is 127\.0\.0\.1, which is no public address"):
        fetched(server.url(host="rebind.example"), allow="127.0.0.2")
    assert len(asked) == 2
    assert not server.requests


def test_a_name_with_one_private_address_among_public_ones_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 80)) for host in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    with pytest.raises(SourceError, match=r"both\.example is 10\.0\.0\.1"):
        fetched("http://both.example/a.txt", allow="")


# --- how long and how much ----------------------------------------------------------------------------------


def drip_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.02)


def drip_headers(handler: Handler) -> None:
    while True:
        handler.connection.sendall(b"H")
        time.sleep(0.02)


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65_536)


@pytest.mark.parametrize("route", [drip_body, drip_headers, lambda handler: time.sleep(3)])
def test_a_slow_server_is_cut_off_at_the_limit(server: Server, route: Route) -> None:
    server.routes["/a.txt"] = route
    started = time.perf_counter()
    with pytest.raises(
        SourceUnreadableError, match=r"in time; the limit is 0.4 s, and ORACULO_URL_TIMEOUT sets it"
    ):
        fetched(server.url("/a.txt"), seconds=0.4)
    assert time.perf_counter() - started < 1.2


def test_an_endless_or_too_large_answer_is_read_to_the_limit(server: Server) -> None:
    server.routes["/a.txt"] = endless
    server.routes["/b.txt"] = lambda handler: handler.answer(b"x" * 2_000_000)
    with pytest.raises(SourceTooLargeError, match="over the limit of 976.6 KiB"):
        fetched(server.url("/a.txt"))
    with pytest.raises(SourceTooLargeError, match="1.9 MiB, over the limit of 976.6 KiB"):
        fetched(server.url("/b.txt"))


def test_headers_without_end_are_refused(server: Server) -> None:
    server.routes["/a.txt"] = lambda handler: handler.answer(X_Long="x" * 100_000)
    server.routes["/b.txt"] = lambda handler: handler.answer(**{f"X_{n}": "x" for n in range(500)})
    for path in ("/a.txt", "/b.txt"):
        with pytest.raises(SourceUnreadableError, match="cannot be fetched: got more than"):
            fetched(server.url(path), seconds=2)


def test_an_answer_that_is_cut_off_is_no_document(server: Server) -> None:
    def half(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "8")
        handler.end_headers()
        handler.wfile.write(b"half")

    server.routes["/a.txt"] = half
    with pytest.raises(SourceUnreadableError, match="the answer was cut off"):
        fetched(server.url("/a.txt"), seconds=2)
    assert len(server.requests) == 3


def test_only_what_may_pass_is_tried_again(server: Server) -> None:
    turns = iter([503, 429, 200])
    server.routes["/a.txt"] = lambda handler: handler.answer(b"texto", status=next(turns))
    assert fetched(server.url("/a.txt")) == b"texto"
    for status, kind in ((404, SourceNotFoundError), (403, SourceUnreadableError)):
        server.requests.clear()
        server.routes["/b.txt"] = lambda handler, status=status: handler.answer(status=status)  # type: ignore[misc]
        with pytest.raises(kind, match=str(status)):
            fetched(server.url("/b.txt"))
        assert len(server.requests) == 1


# --- secrets ------------------------------------------------------------------------------------------------


def test_credentials_go_to_their_own_origin_only_and_are_shown_nowhere(server: Server) -> None:
    with Server() as other:
        other.routes["/b.txt"] = lambda handler: handler.answer(status=403)
        server.routes["/a.txt"] = lambda handler: handler.answer(status=302, Location=other.url("/b.txt"))
        url = server.url("/a.txt?page=2&token=planted-7f3a9c").replace("//", "//ana:s3nha-planted@")
        source = source_of(url)
        with pytest.raises(SourceUnreadableError, match="403") as caught:
            source.content(LIMIT)
        other.shutdown()
        (_, sent), (_, forwarded) = server.requests[0], other.requests[0]
    assert sent["authorization"] == "Basic " + base64.b64encode(b"ana:s3nha-planted").decode()
    assert server.requests[0][0] == "/a.txt?page=2&token=planted-7f3a9c"
    assert not {"authorization", "referer", "cookie"} & set(forwarded)
    shown = f"{source!r} {source.key} {caught.value}"
    assert "planted" not in shown
    assert source.key.endswith("/a.txt?page=2")
    assert redact("planted-7f3a9c s3nha-planted") == "*** ***"


def test_a_link_that_is_signed_anew_is_the_same_source() -> None:
    keys = {
        source_of(
            f"https://bucket.example/a.pdf?v=1&X-Amz-Signature={n}aa&X-Amz-Date={n}&X-Amz-Expires=60"
        ).key
        for n in range(3)
    }
    assert keys == {"https://bucket.example/a.pdf?v=1"}
    azure = source_of("https://c.blob.example/a.pdf?sv=2022&se=2026-01-01&sp=r&sig=abc%3D").key
    assert azure == "https://c.blob.example/a.pdf"


@pytest.mark.parametrize(
    "url", ["https://", "http:///a", "https://a b/", "https://host/\n", "http://[::1/", "http://h:99999/"]
)
def test_what_cannot_be_requested_is_refused_at_once(url: str) -> None:
    with pytest.raises(SourceError, match="is no URL that can be requested"):
        find_sources(url, allow_urls=True)


def test_one_url_given_twice_is_one_source_and_a_fault(server: Server) -> None:
    first, second = find_sources([server.url(), server.url("/guia.html#parte")], allow_urls=True)
    assert first.error is None
    assert "it is given too" in str(second.error)


# --- proxies ------------------------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_asked_and_its_password_is_sent_to_it_alone(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as proxy:
        proxy.routes["http://docs.invalid/a.txt"] = lambda handler: handler.answer(b"pelo proxy")
        monkeypatch.setenv("HTTP_PROXY", proxy.url("", host="ana:s3nha@127.0.0.1"))
        assert fetched("http://docs.invalid/a.txt", allow="") == b"pelo proxy"
        assert proxy.requests[0][1]["proxy-authorization"].startswith("Basic ")
        with pytest.raises(SourceError, match="no public address"):
            fetched("http://10.0.0.1/a.txt", allow="")

        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("docs.invalid").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        monkeypatch.setenv("HTTPS_PROXY", proxy.url("", host="127.0.0.1"))
        with Server(context) as secure:
            proxy.tunnel_to = ("127.0.0.1", secure.server_port)
            assert fetched("https://docs.invalid/guia.html", allow="") == PAGE
            secure.shutdown()
        assert proxy.requests[-1][0] == "docs.invalid:443"
        proxy.tunnel_status = 403
        with pytest.raises(SourceUnreadableError, match="the proxy answered 403"):
            fetched("https://docs.invalid/guia.html", allow="")
        proxy.shutdown()
