"""The sources that ``ORACULO_ENV_SOURCE`` can name, and how one of them is read.

Sources are separated by ``;`` or a line break, because paths may hold spaces and commas, Windows paths and
URLs hold ``:``, and a ``;`` in a URL can be written ``%3B``. Each one is

* ``https://host/env.json``: a JSON document (plain ``http://`` to this machine only),
* ``package.module:function``: a callable without arguments that returns a mapping, or an awaitable of one;
  its module is looked for in ``sys.path`` and then in the project root,
* anything else: a file, relative to the project root; JSON when its name ends in ``.json``, otherwise dotenv.

**Everything is read in a helper thread, and waited for until the deadline.** Name resolution, a FIFO, a
network mount and a user's function have no time limit of their own; so the caller's limit holds whatever they
do. Python cannot kill a thread: one that never returns stays behind as a daemon, and its result is dropped.
The thread also means that a callable never meets the event loop that may run in the caller's thread.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from oraculo_kit.environment.documents import (
    MAX_BYTES,
    SourceUnreachableError,
    parse_dotenv,
    parse_json,
    source_error,
)
from oraculo_kit.environment.names import shown
from oraculo_kit.environment.options import TIMEOUT_VARIABLE
from oraculo_kit.environment.record import safe_cause
from oraculo_kit.errors import EnvironmentSourceError

THREAD_NAME = "oraculo-environment"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two characters at least: C:// is a drive
_CALLABLE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")

_Result = TypeVar("_Result")


class Deadline:
    """A time limit that several steps share.

    Parameters
    ----------
    seconds : float
        The whole time, from now on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left; zero when the time is over."""
        return max(0.0, self._end - time.monotonic())


@dataclass(frozen=True)
class Source:
    """One place that environment values come from.

    Attributes
    ----------
    kind : {"dotenv", "json", "url", "callable"}
    target : str
        Absolute path, whole URL or ``module:function``; may hold credentials, so it is never shown.
    label : str
        The source's name in messages and logs: no credentials, query or fragment.
    root : str
        The project root, where a callable's module may live.
    """

    kind: Literal["dotenv", "json", "url", "callable"]
    target: str = field(repr=False)
    label: str
    root: str = field(repr=False)

    @property
    def may_be_unreachable(self) -> bool:
        """Whether the source is elsewhere, so that caching its last good values makes sense."""
        return self.kind in ("url", "callable")


@dataclass(frozen=True)
class Document:
    """What a source answered: names and values, not checked yet, and the ETag it gave them."""

    entries: Mapping[str, object] = field(repr=False)
    etag: str = ""


def parse_sources(text: str, root: str) -> tuple[Source, ...]:
    """Return the sources that a value of ``ORACULO_ENV_SOURCE`` names, in its order.

    Raises
    ------
    EnvironmentSourceError
        When a URL cannot be used: an unknown scheme, or plain HTTP to another machine.

    Examples
    --------
    >>> [source.kind for source in parse_sources("my env.json; vault_env:fetch; .env.local", "/project")]
    ['json', 'callable', 'dotenv']
    """
    items = [item.strip() for item in re.split(r"[;\r\n]+", text)]
    return tuple(_parse_source(item, root) for item in items if item)


def dotenv_source(root: str) -> Source | None:
    """Return the project's ``.env`` as a source, or None without one; a folder of that name is not one."""
    path = os.path.join(root, ".env")
    if not os.path.lexists(path) or os.path.isdir(path):
        return None
    return Source("dotenv", path, path, root)


def _parse_source(item: str, root: str) -> Source:
    if _URL.match(item):
        from oraculo_kit.environment.urls import parse_source_url

        return Source("url", item, parse_source_url(item).label, root)
    if _CALLABLE.fullmatch(item):
        return Source("callable", item, item, root)
    path = os.path.join(root, os.path.expanduser(item))
    label = item if item.isprintable() else shown(item)
    return Source("json" if item.casefold().endswith(".json") else "dotenv", path, label, root)


def read_source(
    source: Source, deadline: Deadline, *, headers: Mapping[str, str], etag: str = ""
) -> Document | None:
    """Read one source, within the deadline whatever the source does.

    Parameters
    ----------
    source : Source
        From `parse_sources` or `dotenv_source`.
    deadline : Deadline
        For this and all other sources together.
    headers : mapping
        Sent to URLs: the bearer token and the user's own headers.
    etag : str
        The ETag of cached values; the server then may answer that they are still good.

    Returns
    -------
    Document or None
        None when the values that `etag` stands for are still good.

    Raises
    ------
    SourceUnreachableError
        No answer: no connection, too slow, too many requests, or an error of the server.
    EnvironmentSourceError
        Any other failure, with the reason and what to do.
    """

    def work() -> Document | None:
        if source.kind == "url":
            from oraculo_kit.environment.https import fetch

            answer = fetch(source.target, headers=headers, etag=etag, deadline=deadline)
            if answer is None:
                return None
            return Document(parse_json(answer.content, source.label), answer.etag)
        if source.kind == "callable":
            return Document(_call(source, deadline))
        parse = parse_json if source.kind == "json" else parse_dotenv
        return Document(parse(_read_file(source), source.label))

    return _within(deadline, source.label, work)


def _read_file(source: Source) -> bytes:
    try:
        with open(source.target, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise source_error(
            source.label,
            f"cannot be read: {reason}",
            "Make the file readable or correct its path; paths are relative to the project root.",
        ) from exc
    if len(content) > MAX_BYTES:
        raise source_error(source.label, "is larger than 1 MiB", "Keep only environment values in it.")
    return content


def _call(source: Source, deadline: Deadline) -> dict[str, object]:
    module_name, _, function_name = source.target.partition(":")
    # "." makes an entry that nobody else has in sys.path: several threads may each add and remove it.
    entry = os.path.join(source.root, ".")
    sys.path.append(entry)
    failure: BaseException | None = None
    result: Any = None
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        result = function()
        if inspect.isawaitable(result):
            import asyncio

            result = asyncio.run(_await(result, deadline.remaining()))
        if isinstance(result, Mapping):
            result = dict(result)
    except BaseException as exc:  # noqa: BLE001 - SystemExit too: a source must never end the kernel
        failure = exc
    finally:
        with contextlib.suppress(ValueError):  # the callable may have replaced sys.path
            sys.path.remove(entry)
    if failure is not None:
        kind = SourceUnreachableError if _is_connection_failure(failure) else EnvironmentSourceError
        raise source_error(
            source.label,
            f"failed: {_described(failure)}",
            "Run it by itself to see why; it must be importable and return a mapping of names to texts.",
            kind,
        ) from safe_cause(failure)
    if not isinstance(result, dict) or not all(isinstance(name, str) for name in result):
        got = "a mapping with names that are not texts" if isinstance(result, dict) else type(result).__name__
        raise source_error(
            source.label, f"returned {got}, expected a mapping of names to texts", "Correct it."
        )
    return result


def _described(error: BaseException) -> str:
    # format_exception_only survives exceptions whose own __str__ raises.
    text = traceback.format_exception_only(error)[-1].strip()
    return text if len(text) <= 300 else text[:297] + "..."


async def _await(awaitable: Any, seconds: float) -> Any:
    import asyncio

    return await asyncio.wait_for(awaitable, seconds)


def _is_connection_failure(error: BaseException) -> bool:
    """Tell whether a network failure is behind `error`; clients wrap it in exceptions of their own."""
    import socket

    return any(isinstance(each, ConnectionError | TimeoutError | socket.gaierror) for each in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and everything behind it, outermost first."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _within(deadline: Deadline, label: str, work: Callable[[], _Result]) -> _Result:
    results: list[_Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as exc:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(exc)

    thread = threading.Thread(target=run, name=THREAD_NAME, daemon=True)
    thread.start()
    thread.join(deadline.remaining())
    if results:
        return results[0]
    if failures:
        raise failures[0]
    raise source_error(
        label,
        f"gave no complete answer in time; all sources together have {deadline.seconds:g} s",
        f"Check the network or the source, or set {TIMEOUT_VARIABLE} to more seconds.",
        SourceUnreachableError,
    )
