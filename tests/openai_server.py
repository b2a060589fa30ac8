"""A server on the loopback interface that speaks the OpenAI protocol, and Ollama's for embeddings.

Chat completions are answered whole or as a stream, embeddings by vectors that depend on the text alone.

What it answers is set per test (`OpenAIServer.route`), from the parts below; what it was asked is in ``requests``. The
real clients of ``langchain-openai`` and ``langchain-ollama`` talk to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

# Looks like no provider's key: it must be hidden because it is known, not because of its looks.
KEY = "planted-7f3a9c1e5b-loopback"

Route = Callable[["Handler"], None]


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def system(self) -> str:
        return next(message["content"] for message in self.body["messages"] if message["role"] == "system")

    @property
    def user(self) -> str:
        return next(message["content"] for message in self.body["messages"] if message["role"] == "user")

    @property
    def texts(self) -> list[str]:
        given = self.body["input"]
        return [given] if isinstance(given, str) else list(given)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OpenAIServer
    asked: Request
    chunked = False

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked = Request(self.path, headers, json.loads(content))
        self.server.requests.append(self.asked)
        self.close_connection = True
        try:
            if self.path == "/api/embed":  # Ollama knows no key
                self.server.route(self)
            elif self.path not in ("/v1/chat/completions", "/v1/embeddings"):
                fails(404, f"Invalid URL (POST {self.path})")(self)
            elif headers.get("authorization") != f"Bearer {KEY}":
                fails(401, f"Incorrect API key provided: {headers.get('authorization')}", "invalid_api_key")(
                    self
                )
            else:
                self.server.route(self)
        except ConnectionError:  # the client has gone
            self.server.hung_up.set()

    def send(
        self, content: bytes, *, status: int = 200, kind: str = "application/json", **headers: str
    ) -> None:
        self.send_response(status)
        values = {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", **headers}
        for name, value in values.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def begin_stream(self, *, chunked: bool = True) -> None:
        self.chunked = chunked
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        self.end_headers()

    def write(self, content: bytes) -> None:
        """Send a part of a stream; an empty one ends it."""
        framed = f"{len(content):x}\r\n".encode() + content + b"\r\n"
        self.wfile.write(framed if self.chunked else content)
        self.wfile.flush()

    def event(self, delta: dict[str, Any], finish: str | None = None) -> None:
        self.data(
            self.envelope("chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": finish}])
        )

    def data(self, content: dict[str, Any] | str) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        self.write(f"data: {text}\n\n".encode())

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        model = self.asked.body["model"]
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": model, "choices": choices}

    def log_message(self, format: str, *args: Any) -> None:
        pass


class OpenAIServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.route: Route = says("Uma resposta [1].")
        self.requests: list[Request] = []
        self.hung_up = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join(5)

    @property
    def texts(self) -> list[str]:
        """Every text that was to be embedded, in the order in which they came."""
        return [text for request in self.requests for text in request.texts]


USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def says(
    text: str | Sequence[str],
    *,
    tools: Sequence[str] = (),
    finish: str = "stop",
    between: Callable[[int], None] | None = None,
) -> Route:
    """Answer with a text: whole, or as a stream of these pieces (by default of four characters each).

    Parameters
    ----------
    text : str or sequence of str
    tools : sequence of str
        Names of tools that the model calls.
    finish : str
        The finish reason.
    between : callable, optional
        Called with the number of pieces sent so far, before each of a stream.
    """
    whole = text if isinstance(text, str) else "".join(text)
    pieces = [whole[at : at + 4] for at in range(0, len(whole), 4)] if isinstance(text, str) else list(text)
    calls = [
        {
            "index": place,
            "id": f"call_{place}",
            "type": "function",
            "function": {"name": name, "arguments": "{}"},
        }
        for place, name in enumerate(tools)
    ]

    def route(handler: Handler) -> None:
        if not handler.asked.body.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": whole}
            if calls:
                message["tool_calls"] = [
                    {key: call[key] for key in ("id", "type", "function")} for call in calls
                ]
            choice = {"index": 0, "message": message, "finish_reason": finish}
            handler.send(
                json.dumps({**handler.envelope("chat.completion", [choice]), "usage": USAGE}).encode()
            )
            return
        handler.begin_stream()
        handler.event({"role": "assistant", "content": ""})
        for number, piece in enumerate(pieces):
            if between is not None:
                between(number)
            handler.event({"content": piece})
        for call in calls:
            handler.event({"tool_calls": [call]})
        handler.event({}, finish)
        if (handler.asked.body.get("stream_options") or {}).get("include_usage"):
            handler.data({**handler.envelope("chat.completion.chunk", []), "usage": USAGE})
        handler.data("[DONE]")
        handler.write(b"")

    return route


def vector_of(text: str, dimension: int = 8) -> list[float]:
    """Return the vector that a text gets: numbers from its digest."""
    digest = hashlib.blake2b(text.encode(), digest_size=dimension).digest()
    return [float(byte) + 1 for byte in digest]


def embeds(change: Callable[[list[str], list[Any]], list[Any]] | None = None, seconds: float = 0.0) -> Route:
    """Answer with embeddings, in the words of the protocol that was spoken.

    Parameters
    ----------
    change : callable, optional
        Given the texts and their vectors, returns the vectors to send.
    seconds : float
        How long the answer takes.
    """

    def route(handler: Handler) -> None:
        time.sleep(seconds)
        texts = handler.asked.texts
        vectors: list[Any] = [vector_of(text) for text in texts]
        if change is not None:
            vectors = change(texts, vectors)
        model = handler.asked.body["model"]
        if handler.path == "/api/embed":
            handler.send(json.dumps({"model": model, "embeddings": vectors}).encode())
            return
        data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(vectors)]
        answer = {"object": "list", "model": model, "data": data, "usage": USAGE}
        handler.send(json.dumps(answer).encode())

    return route


def refuses(is_refused: Callable[[str], bool], status: int = 400) -> Route:
    """Refuse a request that holds certain texts, and answer the others."""

    def route(handler: Handler) -> None:
        answer = (
            fails(status, "This text is too long.") if any(map(is_refused, handler.asked.texts)) else embeds()
        )
        answer(handler)

    return route


def hangs_up(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def fails(status: int, message: str = "It failed.", code: str | None = None, **headers: str) -> Route:
    """Answer with an error as OpenAI words it."""
    content = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return lambda handler: handler.send(json.dumps(content).encode(), status=status, **headers)


def in_turn(*routes: Route) -> Route:
    """Answer by each route once, then by the last one."""
    left = list(routes)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def silent(handler: Handler) -> None:
    """Take the request and say nothing for longer than any test waits."""
    time.sleep(5)


def breaks_off(text: str, *, chunked: bool = True) -> Route:
    """Begin a stream, and cut the connection in the middle of it.

    Without chunks (as behind some proxies) the client cannot tell the cut from the end.
    """

    def route(handler: Handler) -> None:
        handler.begin_stream(chunked=chunked)
        handler.event({"role": "assistant", "content": text})

    return route


def fails_within(text: str, message: str) -> Route:
    """Begin a stream, and send an error in it, as OpenAI does when a model fails half way."""

    def route(handler: Handler) -> None:
        handler.begin_stream()
        handler.event({"role": "assistant", "content": text})
        handler.data({"error": {"message": message, "type": "server_error", "param": None, "code": None}})
        handler.write(b"")

    return route


def endless(handler: Handler) -> None:
    """Write until the reader goes away; for ten seconds at most."""
    handler.begin_stream()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        handler.event({"content": "mais e mais palavras "})
        time.sleep(0.001)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """Return a running server; ``"openai:..."`` models find it by the environment, as they would any other."""
    started = OpenAIServer()
    with contextlib.ExitStack() as stack:
        stack.callback(started.stop)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield started
