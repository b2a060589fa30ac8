"""What an extraction helper runs: one document after the other, each within its limits.

`oraculo_kit.extraction_process` starts it as ``python -m oraculo_kit.extraction_helper``. Both sides speak messages: eight
bytes of length (big-endian), then as many bytes.

- The helper sends ``{}`` once it is ready.
- A request is two messages: a JSON object with ``options`` (arguments of `load_bytes`), ``seconds`` and
  ``memory_bytes``, then the document's bytes.
- The answer is one: ``{"documents": [[text, metadata], ...]}``, or ``{"error": class, "message": ...}`` of a
  `SourceError`, or ``{"out_of_memory": true}``.

JSON and not pickle: whoever takes over a helper with a hostile document must not get further than its answers.

The helper never outlives its parent: it ends when its standard input does. A thread notices that, unless code that
holds the interpreter (a regular expression) keeps the thread from running. Then Linux sends SIGKILL by itself; elsewhere
the helper ends at the document's time limit at the latest.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import queue
import select
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

LENGTH = struct.Struct(">Q")

IDLE_SECONDS = 120.0
"""A helper without work ends after this time. Its parent stops trusting it earlier."""

# Imported before the first document, whose time limit is its own; a loader comes with the first file that needs it.
_ALWAYS_NEEDED = ("langchain_core.documents.base", "oraculo_kit.load")

_GRACE_SECONDS = 5.0  # beyond the time limit, which the parent watches

Request = tuple[dict[str, Any], bytes]


def main() -> None:
    """Serve requests on standard input until it ends or nothing comes for a while."""
    source, sink = _take_pipes()
    _restrain()
    _prepare_orphan_signal(source.fileno())
    for name in _ALWAYS_NEEDED:
        importlib.import_module(name)
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(source, requests), daemon=True).start()
    _send(sink, b"{}")
    while True:
        try:
            request, content = requests.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            os._exit(0)
        _limit_memory(request["memory_bytes"])
        with _ending_with_parent(source.fileno(), request["seconds"]):
            answer = _answer(request["options"], content)
        del content
        _send(sink, answer)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes for messages; what libraries print goes to standard error, and they read nothing."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def _restrain() -> None:
    """Leave interrupts to the parent, no document in a core file, and be the first to go when memory is short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    if sys.platform != "win32":
        import resource

        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")


def _limit_memory(memory_bytes: int) -> None:
    """Make an allocation that would pass the limit fail at once, however large; Linux only.

    The parent looks at the memory in use every few hundredths of a second, and one allocation may be faster. RLIMIT_DATA
    and not RLIMIT_AS: it does not count what is mapped and shared, such as libraries.
    """
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _prepare_orphan_signal(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())


@contextmanager
def _ending_with_parent(descriptor: int, seconds: float) -> Iterator[None]:
    """Let the process be killed if the parent ends in the meantime, whatever the interpreter is doing."""
    if sys.platform != "linux":
        faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        return
    import fcntl

    # The parent sends nothing before it has the answer, so the only thing that can happen to the pipe is its end.
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    # An end before that line raised no signal.
    if select.select([descriptor], [], [], 0)[0]:
        os._exit(0)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _receive(source: BinaryIO, requests: queue.SimpleQueue[Request]) -> None:
    """Hand on requests; end the process with the pipe, even in the middle of an extraction."""
    try:
        while (request := _read_message(source)) is not None:
            content = _read_message(source)
            if content is None:
                break
            requests.put((json.loads(request), content))
            del content
    finally:
        os._exit(0)


def _read_message(source: BinaryIO) -> bytes | None:
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = source.read(length)
    return body if len(body) == length else None


def _answer(options: dict[str, Any], content: bytes) -> bytes:
    from oraculo_kit.errors import SourceError
    from oraculo_kit.load import load_bytes

    try:
        documents = [
            [document.page_content, document.metadata] for document in load_bytes(content, **options)
        ]
        return json.dumps({"documents": documents}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except MemoryError:
        return b'{"out_of_memory": true}'
    except SourceError as exc:
        if _is_out_of_memory(exc):
            return b'{"out_of_memory": true}'
        return json.dumps({"error": type(exc).__name__, "message": str(exc)}).encode()


def _is_out_of_memory(exc: BaseException | None) -> bool:
    while exc is not None and not isinstance(exc, MemoryError):
        exc = exc.__cause__ or exc.__context__
    return exc is not None


def _send(sink: BinaryIO, message: bytes) -> None:
    try:
        sink.write(LENGTH.pack(len(message)))
        sink.write(message)
        sink.flush()
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
