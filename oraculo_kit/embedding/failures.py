"""What an embedding model raised: whether to try again, when, and how to say it.

Providers raise what they like. What they have in common is read from an error and those it was raised from: an HTTP
status, a ``Retry-After`` header, a class name that says time-out or connection.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

TRIES = 4
"""Calls for one batch: the first one, and three after transient failures."""

PATIENCE = 120.0
"""Seconds that one batch waits between its tries, together; a provider's per-minute limit ends within them."""

_FIRST_WAIT = 0.5  # seconds; doubled for each further try
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_ABOUT_A_TEXT = frozenset({400, 413, 422})
_TRANSIENT_NAMES = re.compile(
    r"timeout|timedout|connect|remoteprotocol|protocolerror|ratelimit|resourceexhausted|serviceunavailable"
    r"|toomanyrequests|overloaded|throttl",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(r"insufficient_quota|billing", re.IGNORECASE)


def http_status(exc: BaseException) -> int | None:
    """Return the HTTP status of a provider's answer.

    Examples
    --------
    >>> http_status(ValueError("no status")) is None
    True
    """
    for each in error_chain(exc):
        for holder in (each, getattr(each, "response", None)):
            for name in ("status_code", "http_status", "status", "code"):
                value = getattr(holder, name, None)
                if isinstance(value, int) and 400 <= value < 600:
                    return value
    return None


def is_transient(exc: BaseException) -> bool:
    """Tell whether the same call may succeed a moment later.

    A status decides where there is one: 408, 425, 429 and most of 5xx. A 429 for want of credit stays.

    Examples
    --------
    >>> is_transient(ConnectionResetError()), is_transient(ValueError("too long"))
    (True, False)
    """
    status = http_status(exc)
    if status is not None:
        return status in _TRANSIENT and not _NO_CREDIT.search(f"{getattr(exc, 'code', '')} {exc}")
    return any(
        isinstance(each, ConnectionError | TimeoutError)
        or any(_TRANSIENT_NAMES.search(kind.__name__) for kind in type(each).__mro__)
        for each in error_chain(exc)
    )


def is_about_a_text(exc: BaseException) -> bool:
    """Tell whether the provider refused what a request holds (400, 413, 422), such as a text that is too long."""
    return http_status(exc) in _ABOUT_A_TEXT


def concerns_all(exc: BaseException) -> bool:
    """Tell whether every other text would fail as this one did: no access, no such model, no answer after all tries."""
    return http_status(exc) in (401, 402, 403, 404) or is_transient(exc)


def retry_after(exc: BaseException) -> float | None:
    """Return the seconds that a provider asks to wait, from its ``Retry-After`` header, or None."""
    for each in error_chain(exc):
        headers = getattr(getattr(each, "response", None), "headers", None) or getattr(each, "headers", None)
        if not isinstance(headers, Mapping):
            continue
        for name, value in headers.items():
            if str(name).casefold() == "retry-after":
                return _seconds(str(value))
    return None


def _seconds(value: str) -> float | None:
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def attempted(
    call: Callable[[], Any],
    wait: Callable[[float], None],
    *,
    tries: int = TRIES,
    patience: float = PATIENCE,
    asked_to_wait: Callable[[float], None] | None = None,
) -> tuple[Any, Exception | None]:
    """Call, and again after transient failures.

    Parameters
    ----------
    call : callable
    wait : callable
        Waits for some seconds; what it raises goes through, except `AbandonedError`: then nothing is tried any more.
    tries : int
        Calls at most.
    patience : float
        Seconds of waiting at most, all tries together. When a provider asks for more, its error is raised at once:
        an earlier call would only be refused again.
    asked_to_wait : callable, optional
        Told the seconds that a provider asked for, so that other requests hold back too.

    Returns
    -------
    result : object
        What `call` returned.
    failure : Exception or None
        What it raised at the last try.
    """
    number, left = 1, patience
    while True:
        try:
            return call(), None
        except Exception as exc:
            failure = exc
        asked = retry_after(failure)
        pause = asked if asked is not None else _FIRST_WAIT * 2 ** (number - 1) * random.uniform(0.75, 1.25)
        if number >= tries or pause > left or not is_transient(failure):
            return None, failure
        if asked is not None and asked_to_wait is not None:
            asked_to_wait(asked)
        try:
            wait(pause)
        except AbandonedError:
            return None, failure
        number, left = number + 1, left - pause


class AbandonedError(Exception):
    """The wait was ended because nobody wants the result any more."""


def advice(exc: BaseException) -> str:
    """Return what to do about a failure, as a sentence with a space before it, or nothing."""
    status = http_status(exc)
    if status in (401, 403):
        return " Check the provider's API key and what that key may use."
    if status == 404:
        return " Check the model's name and the provider's address."
    if status in (402, 429):
        return (
            " Ingest again later: what was embedded is kept. Lower ORACULO_EMBED_RATE or ORACULO_EMBED_REQUESTS, "
            "or check the quota."
        )
    if status in _ABOUT_A_TEXT:
        return " If the text is too long for the model, lower ORACULO_CHUNK_SIZE."
    if status is not None or is_transient(exc):
        return " Ingest again when the provider can be reached: what was embedded is kept."
    return ""


def error_chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on."""
    seen: set[int] = set()
    each: BaseException | None = exc
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
