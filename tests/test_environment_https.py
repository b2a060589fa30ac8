"""Environment values over HTTPS, from real loopback servers that are flaky, slow, huge, hostile or gone."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import os
import pickle
import socket
import ssl
import stat
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from oraculo_kit.environment import fetch_environ, record, redact, set_environ_remote
from oraculo_kit.environment.sources import THREAD_NAME
from oraculo_kit.errors import EnvironmentSourceError

SECRET = "sk-planted-7f3a9c1e5b"
TOKEN = "token-planted-2b8d"
GOOD = json.dumps({"OPENAI_API_KEY": SECRET, "OTHER": "x"}).encode()
KEEP = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")

Route = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's route for the path, and notes what was asked."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(
            (self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # the client had enough
            self.server.routes[self.path.partition("?")[0]](self)
        self.close_connection = True

    def answer(self, body: bytes = GOOD, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Route] = {"/env": lambda handler: handler.answer()}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.scheme = "http" if context is None else "https"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that refuse our certificate

    def url(self, path: str = "/env") -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}{path}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join(5)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name not in KEEP and not name.startswith("PYTHON"):
            del os.environ[name]
    monkeypatch.setattr(record, "_known_secrets", set())
    bundle = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    os.environ["REQUESTS_CA_BUNDLE"] = str(bundle)
    os.environ["ORACULO_ENV_TIMEOUT"] = "3"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def serve(authority: trustme.CA) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(secure: bool = True) -> Server:
        context = None
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
        servers.append(Server(context))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    started = serve()
    os.environ["ORACULO_ENV_SOURCE"] = started.url()
    return started


def in_turn(*routes: Route) -> Route:
    """A route that answers by each of `routes` once, then by the last one."""
    left = list(routes)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def status(code: int, **headers: str) -> Route:
    return lambda handler: handler.answer(b"{}", status=code, **headers)


def unavailable(handler: Handler) -> None:
    """Transient, but asking for a longer pause than the tests' time limit: given up at once."""
    handler.answer(b"{}", status=503, Retry_After="60")


def body(content: bytes, **headers: str) -> Route:
    return lambda handler: handler.answer(content, status=200, **headers)


def to(url: str, code: int = 302) -> Route:
    return lambda handler: handler.answer(b"", status=code, Location=url)


def everything_said(error: BaseException) -> str:
    return str(error) + repr(error) + "".join(traceback.format_exception(error))


def refused(project: Path) -> EnvironmentSourceError:
    """Load the environment, which must fail; give the error after checking that nothing was left behind."""
    before = dict(os.environ)
    with pytest.raises(EnvironmentSourceError) as caught:
        set_environ_remote(project)
    assert dict(os.environ) == before
    said = everything_said(caught.value)
    assert SECRET not in said
    assert TOKEN not in said
    # Workers send their errors home.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value


# --- the good case ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_values_come_over_https_with_the_users_certificate_authority(
    variable: str, server: Server, tmp_path: Path
) -> None:
    os.environ[variable] = os.environ.pop("REQUESTS_CA_BUNDLE")
    os.environ["ORACULO_ENV_TOKEN"] = TOKEN
    os.environ["ORACULO_ENV_HEADERS"] = '{"X-Team": "data"}'
    plan = set_environ_remote(tmp_path)
    assert os.environ["OPENAI_API_KEY"] == SECRET
    assert set(plan.refused) == {"OTHER"}
    assert plan.sources == (server.url(),)
    [(_, sent)] = server.requests
    assert (sent["authorization"], sent["x-team"], sent["accept-encoding"]) == (
        f"Bearer {TOKEN}",
        "data",
        "identity",
    )


def test_user_and_password_of_the_url_become_basic_authentication_and_are_never_shown(
    server: Server, tmp_path: Path
) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = server.url("/env?key=long-query-planted").replace(
        "//", "//ana:s%2F3nha-planted@"
    )
    plan = fetch_environ(tmp_path)
    [(path, sent)] = server.requests
    assert path == "/env?key=long-query-planted"
    assert sent["authorization"] == "Basic " + b64encode(b"ana:s/3nha-planted").decode()
    assert plan.sources == (server.url(),)
    assert redact("s/3nha-planted s%2F3nha-planted long-query-planted") == "*** *** ***"


def test_plain_http_to_this_machine_is_fine(serve: Callable[..., Server], tmp_path: Path) -> None:
    plain = serve(secure=False)
    os.environ["ORACULO_ENV_SOURCE"] = plain.url().replace("127.0.0.1", "localhost")
    os.environ["ALL_PROXY"] = os.environ["HTTP_PROXY"] = "http://127.0.0.1:1"  # never asked for this machine
    assert set(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY"}


def test_it_works_inside_a_running_event_loop(server: Server, tmp_path: Path) -> None:
    async def cell() -> None:
        set_environ_remote(tmp_path)

    asyncio.run(cell())
    assert os.environ["OPENAI_API_KEY"] == SECRET


def test_one_source_after_another_shares_the_work(
    server: Server, serve: Callable[..., Server], tmp_path: Path
) -> None:
    second = serve()
    second.routes["/env"] = body(b'{"OPENAI_API_KEY": "second", "GROQ_API_KEY": "second"}')
    os.environ["ORACULO_ENV_SOURCE"] = f"{server.url()} ; {second.url()}"
    assert dict(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY": SECRET, "GROQ_API_KEY": "second"}


# --- flaky and slow -----------------------------------------------------------------------------------------


def test_two_503_and_then_a_good_answer_is_a_good_answer(server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = in_turn(status(503), status(503), Handler.answer)
    assert set(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY"}
    assert len(server.requests) == 3


def test_a_connection_that_breaks_in_the_middle_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = in_turn(
        lambda handler: handler.answer(GOOD[:10], Content_Length="99"), Handler.answer
    )
    assert set(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY"}


def test_a_server_that_stays_broken_is_asked_four_times(server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = status(500)
    error = refused(tmp_path)
    assert "answered 500 Internal Server Error (attempt 4 of 4, within 3 s)" in str(error)
    assert len(server.requests) == 4


def test_retry_after_is_honoured_when_the_time_allows(server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = in_turn(status(429, Retry_After="1"), Handler.answer)
    start = time.monotonic()
    assert set(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY"}
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize(
    "pause", ["120", formatdate(time.time() + 3600, usegmt=True)], ids=["seconds", "date"]
)
def test_a_retry_after_beyond_the_time_limit_fails_at_once(
    pause: str, server: Server, tmp_path: Path
) -> None:
    server.routes["/env"] = status(429, Retry_After=pause)
    start = time.monotonic()
    assert "429 Too Many Requests and asks for a pause of" in str(refused(tmp_path))
    assert time.monotonic() - start < 2
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 204])
def test_any_other_status_is_final(code: int, server: Server, tmp_path: Path) -> None:
    os.environ["ORACULO_ENV_TOKEN"] = TOKEN
    server.routes["/env"] = status(code)
    said = str(refused(tmp_path))
    assert f"{server.url()} answered {code} " in said
    assert ("ORACULO_ENV_TOKEN" in said) == (code in (401, 403))
    assert len(server.requests) == 1


def drip_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(150):
        handler.wfile.write(b" ")
        time.sleep(0.02)


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(150):
        handler.wfile.write(b"x")
        time.sleep(0.02)


def silent(handler: Handler) -> None:
    time.sleep(3)


@pytest.mark.parametrize("route", [drip_body, drip_headers, silent, status(503)])
def test_the_start_is_bounded_whatever_the_server_does(route: Route, server: Server, tmp_path: Path) -> None:
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.5"
    server.routes["/env"] = route
    start = time.monotonic()
    error = refused(tmp_path)
    assert time.monotonic() - start < 1.5
    assert server.url() in str(error)
    assert "0.5 s" in str(error)
    assert "ORACULO_ENV_TIMEOUT" in str(error)


def test_no_thread_is_left_when_a_dripping_server_was_given_up(server: Server, tmp_path: Path) -> None:
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.3"
    server.routes["/env"] = drip_body
    before = set(threading.enumerate())
    refused(tmp_path)
    end = time.monotonic() + 1
    while any(thread.name == THREAD_NAME for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < end, "the helper thread goes on reading"
        time.sleep(0.01)


def test_nobody_listening_is_said(tmp_path: Path) -> None:
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.5"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        os.environ["ORACULO_ENV_SOURCE"] = f"https://127.0.0.1:{taken.getsockname()[1]}/env?key={SECRET}"
        error = refused(tmp_path)
    assert "cannot be reached" in str(error)
    assert "refused" in str(error)


# --- huge, malformed, hostile -------------------------------------------------------------------------------


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 65_536)


@pytest.mark.parametrize("route", [body(b" " * 2 * 1024 * 1024), endless])
def test_more_than_1_mib_is_not_read(route: Route, server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = route
    assert "larger than 1 MiB" in str(refused(tmp_path))
    assert len(server.requests) == 1


def test_a_compressed_bomb_is_refused_by_its_header(server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = body(gzip.compress(b" " * 10_000_000), Content_Encoding="gzip")
    assert "sent a compressed answer ('gzip')" in str(refused(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f'{{"OPENAI_API_KEY": "{SECRET}"'.encode(), "is not JSON (line 1"),
        (f'["{SECRET}"]'.encode(), "is a JSON list"),
        (b"<html>login</html>", "is not JSON"),
        (json.dumps({"OPENAI_API_KEY": [SECRET]}).encode(), "OPENAI_API_KEY is a list"),
        (json.dumps({"OPENAI_API_KEY": SECRET, "PATH": "/evil"}).encode(), "PATH decides which programs"),
        (json.dumps({"OPENAI_API_KEY": SECRET, "no_proxy": "*"}).encode(), "no_proxy decides who can read"),
    ],
)
def test_a_bad_document_leaves_the_environment_untouched(
    content: bytes, said: str, server: Server, tmp_path: Path
) -> None:
    server.routes["/env"] = body(content)
    error = str(refused(tmp_path))
    assert said in error
    assert server.url() in error


def test_a_certificate_that_nobody_trusts_is_said_and_not_tried_again(server: Server, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    os.environ["REQUESTS_CA_BUNDLE"] = str(tmp_path / "other.pem")
    said = str(refused(tmp_path))
    assert "certificate that is not trusted" in said
    assert "attempt" not in said
    assert server.requests == []


def test_a_certificate_file_that_is_missing_is_named(server: Server, tmp_path: Path) -> None:
    os.environ["REQUESTS_CA_BUNDLE"] = str(tmp_path / "missing.pem")
    assert "REQUESTS_CA_BUNDLE names certificates that cannot be read: No such file" in str(refused(tmp_path))


# --- addresses and redirects --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://config.example/env", "plain HTTP to another machine"),
        ("http://127.0.0.1.evil.example/env", "plain HTTP to another machine"),
        ("http://127.0.0.1@evil.example/env", "plain HTTP to another machine"),
        ("http://2130706433/env", "plain HTTP to another machine"),
        ("http://127.0.0.1\\@evil.example/env", "not a URL that can be requested"),
        ("https://", "not a URL that can be requested"),
        ("https://host:port:port/", "not a URL that can be requested"),
        ("ftp://host/env", "scheme 'ftp', expected https"),
        ("file:///etc/passwd", "not a URL that can be requested"),
    ],
)
def test_an_address_that_is_not_safe_is_refused_before_any_connection(
    url: str, said: str, tmp_path: Path
) -> None:
    os.environ["ORACULO_ENV_SOURCE"] = f"{url}?key={SECRET}"
    assert said in str(refused(tmp_path))


def test_a_redirect_never_leaves_https(server: Server, serve: Callable[..., Server], tmp_path: Path) -> None:
    plain = serve(secure=False)
    server.routes["/env"] = to(plain.url(f"/env?key={SECRET}"))
    assert f"redirects to {plain.url()}, which is not HTTPS" in str(refused(tmp_path))
    assert plain.requests == []


@pytest.mark.parametrize("location", ["http://[::1", "file:///etc/passwd", "//\\evil"])
def test_a_redirect_to_nowhere_is_refused(location: str, server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = to(location)
    assert "which is not HTTPS" in str(refused(tmp_path))


def test_a_redirect_between_plain_servers_of_this_machine_is_fine_and_to_another_machine_is_not(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    first, second = serve(secure=False), serve(secure=False)
    os.environ["ORACULO_ENV_SOURCE"] = first.url()
    first.routes["/env"] = to(second.url())
    assert set(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY"}
    first.routes["/env"] = to("http://config.example/")
    assert "which is not HTTPS" in str(refused(tmp_path))


def test_a_redirect_loop_ends(server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = to("/env")
    assert "redirects more than 5 times" in str(refused(tmp_path))
    assert len(server.requests) == 6


def test_token_and_headers_follow_a_redirect_at_home_and_never_abroad(
    server: Server, serve: Callable[..., Server], tmp_path: Path
) -> None:
    abroad = serve()
    os.environ["ORACULO_ENV_TOKEN"] = TOKEN
    os.environ["ORACULO_ENV_HEADERS"] = '{"X-Api-Key": "header-planted"}'
    server.routes["/env"] = to("/moved", 308)
    server.routes["/moved"] = to(abroad.url("/there"))
    abroad.routes["/there"] = to(server.url("/back"))
    server.routes["/back"] = Handler.answer

    assert set(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY"}

    carried = [(path, "authorization" in sent, "x-api-key" in sent) for path, sent in server.requests]
    assert carried == [("/env", True, True), ("/moved", True, True), ("/back", False, False)]
    [(_, sent)] = abroad.requests
    assert not {"authorization", "x-api-key"} & set(sent)
    assert TOKEN not in str(sent)


# --- proxies ------------------------------------------------------------------------------------------------


class ConnectProxy(threading.Thread):
    """A proxy for CONNECT that serves one tunnel and keeps the request it got."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.head = b""

    def run(self) -> None:
        client, _ = self.listener.accept()
        with client:
            while not self.head.endswith(b"\r\n\r\n"):
                self.head += client.recv(1)
            host, _, port = self.head.split()[1].decode().partition(":")
            with socket.create_connection((host, int(port))) as target:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=self.copy, args=(target, client), daemon=True)
                back.start()
                self.copy(client, target)
                back.join(5)

    @staticmethod
    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    started = ConnectProxy()
    started.start()
    yield started
    started.listener.close()


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_the_proxy_of_the_environment_is_used_with_its_password(
    variable: str, server: Server, proxy: ConnectProxy, tmp_path: Path
) -> None:
    os.environ["ORACULO_ENV_TOKEN"] = TOKEN
    os.environ[variable] = f"http://ana:p%40ss@127.0.0.1:{proxy.port}"
    assert set(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY"}
    assert f"CONNECT 127.0.0.1:{server.server_port} ".encode() in proxy.head
    assert b"Basic " + b64encode(b"ana:p@ss") in proxy.head
    assert TOKEN.encode() not in proxy.head


def test_no_proxy_is_honoured(server: Server, tmp_path: Path) -> None:
    os.environ["HTTPS_PROXY"] = "http://127.0.0.1:1"
    os.environ["NO_PROXY"] = "localhost,127.0.0.1"
    assert set(fetch_environ(tmp_path).values) == {"OPENAI_API_KEY"}


def test_a_proxy_that_is_down_is_said_without_its_password(server: Server, tmp_path: Path) -> None:
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.5"
    os.environ["HTTPS_PROXY"] = "http://ana:proxy-planted@127.0.0.1:1"
    error = refused(tmp_path)
    assert "Unable to connect to proxy" in str(error)
    assert "proxy-planted" not in everything_said(error)


# --- the cache ----------------------------------------------------------------------------------------------


def cache_file(project: Path) -> Path:
    return project / ".oraculo" / "environment.json"


@pytest.fixture
def filled(server: Server, tmp_path: Path) -> Server:
    """A server whose values are in the cache of `tmp_path`."""
    os.environ["ORACULO_ENV_CACHE"] = "1"
    server.routes["/env"] = body(GOOD, ETag='"v1"')
    fetch_environ(tmp_path)
    server.requests.clear()
    return server


def test_without_the_users_wish_nothing_is_cached(server: Server, tmp_path: Path) -> None:
    fetch_environ(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unchanged_document_is_not_sent_again(filled: Server, tmp_path: Path) -> None:
    filled.routes["/env"] = lambda handler: handler.answer(b"", status=304)
    plan = fetch_environ(tmp_path)
    assert plan.values["OPENAI_API_KEY"] == SECRET
    assert set(plan.refused) == {"OTHER"}
    assert plan.warnings == ()
    assert filled.requests[0][1]["if-none-match"] == '"v1"'


def test_a_304_that_nobody_asked_for_is_an_error(server: Server, tmp_path: Path) -> None:
    server.routes["/env"] = lambda handler: handler.answer(b"", status=304)
    assert "answered 304 Not Modified, expected 200" in str(refused(tmp_path))


def test_a_start_without_network_uses_the_cache_and_says_how_old_it_is(
    filled: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled.stop()
    os.environ["ORACULO_ENV_TIMEOUT"] = "0.5"
    plan = set_environ_remote(tmp_path)
    assert os.environ["OPENAI_API_KEY"] == SECRET
    [warning] = plan.warnings
    assert f"{filled.url()} cannot be reached" in warning
    assert "Nothing was applied" not in warning
    assert "last good values were used, of 20" in warning
    assert "ago" in warning
    assert warning in caplog.text
    assert plan.sources == (filled.url(),)


@pytest.mark.parametrize(("route", "used"), [(unavailable, True), (status(404), False), (body(b"[]"), False)])
def test_the_cache_stands_in_for_an_unreachable_source_only(
    route: Route, used: bool, filled: Server, tmp_path: Path
) -> None:
    filled.routes["/env"] = route
    if used:
        assert fetch_environ(tmp_path).values["OPENAI_API_KEY"] == SECRET
    else:
        refused(tmp_path)


def test_a_callable_without_network_uses_the_cache_and_one_with_a_bug_does_not(tmp_path: Path) -> None:
    os.environ["ORACULO_ENV_CACHE"] = "1"
    os.environ["ORACULO_ENV_SOURCE"] = "env_cached_callable:fetch"
    (tmp_path / "env_cached_callable.py").write_text(
        "import socket\n"
        "def fetch():\n"
        "    try:\n"
        "        return answers.pop(0)()\n"
        "    except OSError as exc:\n"
        "        raise RuntimeError('cannot load') from exc\n"
        "def good(): return {'OPENAI_API_KEY': 'cached-value'}\n"
        "def offline(): socket.getaddrinfo('nobody.invalid', 443)\n"
        "def bug(): raise KeyError('region')\n"
        "answers = [good, offline, bug]\n"
    )
    assert fetch_environ(tmp_path).warnings == ()
    assert fetch_environ(tmp_path).values["OPENAI_API_KEY"] == "cached-value"
    assert "KeyError: 'region'" in str(refused(tmp_path))


def test_cached_values_of_another_address_or_allow_list_are_not_used(filled: Server, tmp_path: Path) -> None:
    filled.routes["/env"] = unavailable
    os.environ["ORACULO_ENV_SOURCE"] = filled.url("/env?stage=test")
    refused(tmp_path)
    os.environ["ORACULO_ENV_SOURCE"] = filled.url()
    os.environ["ORACULO_ENV_ALLOW"] = "OTHER"
    refused(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_cache_is_for_the_user_alone_and_one_that_is_not_is_refused(
    filled: Server, tmp_path: Path
) -> None:
    file = cache_file(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["environment.json"]

    file.chmod(0o640)
    filled.routes["/env"] = unavailable
    assert "others may use it (mode 0640, expected 0600)" in str(refused(tmp_path))

    filled.routes["/env"] = Handler.answer
    assert "others may use it" in fetch_environ(tmp_path).warnings[0]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a file away")
def test_the_cache_of_another_user_is_refused(filled: Server, tmp_path: Path) -> None:
    os.chown(cache_file(tmp_path), 12345, 12345)
    filled.routes["/env"] = unavailable
    assert "belongs to another user" in str(refused(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_a_cache_that_is_a_link_or_a_pipe_is_refused(filled: Server, tmp_path: Path) -> None:
    file = cache_file(tmp_path)
    filled.routes["/env"] = unavailable
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    assert "is not used" in str(refused(tmp_path))
    file.unlink()
    os.mkfifo(file, 0o600)
    assert "not a regular file" in str(refused(tmp_path))


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": 1, "sources": {"a": {}}}', '{"version": 2}']
)
def test_a_damaged_cache_is_named_and_replaced(content: str, filled: Server, tmp_path: Path) -> None:
    cache_file(tmp_path).write_text(content)
    plan = fetch_environ(tmp_path)
    assert "is not used: it is not a cache that this version wrote" in plan.warnings[0]
    assert fetch_environ(tmp_path).warnings == ()


@pytest.mark.parametrize("name", ["PATH", "ORACULO_ENV_TOKEN"])
def test_values_from_the_cache_are_checked_like_an_answer(name: str, filled: Server, tmp_path: Path) -> None:
    file = cache_file(tmp_path)
    document = json.loads(file.read_text())
    [entry] = document["sources"].values()
    entry["values"][name] = "evil"
    file.write_text(json.dumps(document))
    filled.routes["/env"] = unavailable
    if name == "PATH":
        assert "PATH decides which programs" in str(refused(tmp_path))
    else:
        assert name not in fetch_environ(tmp_path).values


def test_a_cache_that_cannot_be_written_is_a_warning(server: Server, tmp_path: Path) -> None:
    os.environ["ORACULO_ENV_CACHE"] = "1"
    (tmp_path / ".oraculo").write_text("a file where the folder should be")
    plan = fetch_environ(tmp_path)
    assert plan.values["OPENAI_API_KEY"] == SECRET
    assert "cannot write" in plan.warnings[-1]


def test_a_cache_that_cannot_be_replaced_leaves_no_file_with_secrets_behind(
    server: Server, tmp_path: Path
) -> None:
    os.environ["ORACULO_ENV_CACHE"] = "1"
    cache_file(tmp_path).mkdir(parents=True)
    assert "cannot write" in fetch_environ(tmp_path).warnings[-1]
    assert [each.name for each in (tmp_path / ".oraculo").iterdir()] == ["environment.json"]


def test_the_cache_holds_only_names_that_may_be_set(filled: Server, tmp_path: Path) -> None:
    [entry] = json.loads(cache_file(tmp_path).read_text())["sources"].values()
    assert entry["values"] == {"OPENAI_API_KEY": SECRET}


# --- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "route", [Handler.answer, status(401), status(500), to("http://evil.example/?k=planted-k")]
)
def test_no_secret_reaches_a_log_even_at_debug_level(
    route: Route, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    planted = {
        "ORACULO_ENV_TOKEN": TOKEN,
        "ORACULO_ENV_HEADERS": '{"X-Api-Key": "header-planted"}',
        "ORACULO_ENV_SOURCE": server.url("/env?key=query-planted").replace("//", "//ana:password-planted@"),
        "ORACULO_ENV_TIMEOUT": "0.5",
    }
    os.environ.update(planted)
    server.routes["/env"] = route
    try:
        said = repr(set_environ_remote(tmp_path))
    except EnvironmentSourceError as error:
        said = everything_said(error)
    for secret in (SECRET, TOKEN, "header-planted", "query-planted", "password-planted", "planted-k"):
        assert secret not in said + caplog.text
    assert len(server.requests) >= 1


def test_urllib3_may_log_again_afterwards(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch_environ(tmp_path)
    assert logging.getLogger("urllib3.connectionpool").filters == []
