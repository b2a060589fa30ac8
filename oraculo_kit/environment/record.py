"""What this process knows about environment values: which ones we set, and which ones must never be shown.

**The record.** Every name that we put into ``os.environ`` is noted in ``ORACULO_ENV_ORIGINS`` with its origin
and a short digest of name and value. Being a variable itself, the note reaches child processes, which then
give those values the rank of ``.env`` or remote values and not that of the user's own environment. A value
that no longer matches its digest was changed by the user, and is the user's from then on.

**Redaction.** `redact` knows the secrets of this process: what came from ``.env`` or a source, the
credentials of the sources themselves, and the model providers' keys wherever they were set. Secrets that a
reload replaced stay known, because old texts may still hold them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Literal
from urllib.parse import quote

from oraculo_kit.environment.names import (
    ALLOW_VARIABLE,
    ORIGINS,
    RECORD_VARIABLE,
    Origin,
    is_provider_name,
    looks_secret,
)

TOKEN_VARIABLE = "ORACULO_ENV_TOKEN"  # noqa: S105 - its name
HEADERS_VARIABLE = "ORACULO_ENV_HEADERS"

# Shorter values ("true", "1536", "abc") occur in ordinary words; hiding them would mangle every text and tell
# the reader where they stood. No provider issues keys this short.
_SHORTEST_SECRET = 6
_USERINFO = re.compile(r"""//[^/?#\s"'<>]*@""")

_known_secrets: set[str] = set()


def environ_origin(
    name: str, environ: Mapping[str, str] | None = None
) -> Literal["environment", "dotenv", "remote"] | None:
    """Return who set an environment variable.

    Parameters
    ----------
    name : str
        The variable's name.
    environ : mapping, optional
        The environment; ``os.environ`` by default.

    Returns
    -------
    str or None
        ``"dotenv"`` or ``"remote"`` when we set it, here or in a parent process, and it still has that value;
        ``"environment"`` for any other value; None when it is missing or blank.

    Examples
    --------
    >>> environ_origin("OPENAI_API_KEY", {"OPENAI_API_KEY": "sk-..."})
    'environment'
    """
    environ = os.environ if environ is None else environ
    if not environ.get(name, "").strip():
        return None
    return recorded_origins(environ).get(name, "environment")


def recorded_origins(environ: Mapping[str, str]) -> dict[str, Origin]:
    """Return the names that we set and that still have the value we gave them, with their origins.

    A record that cannot be read counts as empty: its values then are the user's own, which we never
    overwrite.
    """
    try:
        record = json.loads(environ.get(RECORD_VARIABLE, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    origins: dict[str, Origin] = {}
    for name, note in record.items():
        value = environ.get(name)
        if value is None:
            continue
        for origin in ORIGINS:
            if note == [origin, _digest(name, value)]:
                origins[name] = origin
    return origins


def record_text(values: Mapping[str, str], origins: Mapping[str, str]) -> str:
    """Return the record of `values`, as it goes into ``ORACULO_ENV_ORIGINS``."""
    record = {name: [origins[name], _digest(name, value)] for name, value in sorted(values.items())}
    return json.dumps(record, separators=(",", ":"))


def _digest(name: str, value: str) -> str:
    # os.environ holds undecodable bytes as lone surrogates.
    return hashlib.sha256(f"{name}={value}".encode(errors="surrogatepass")).hexdigest()[:12]


def is_secret(name: str, *, ours: bool, listed: Iterable[str] = ()) -> bool:
    """Tell whether the value of `name` must be hidden.

    Settings of this package (``ORACULO_STORE``, ``ORACULO_LANG``) are shown in ``status`` and in errors, so
    they count as secrets only when their name says so; everything else that we set does.
    """
    if name.startswith("ORACULO_"):
        return looks_secret(name)
    return ours or (looks_secret(name) and (is_provider_name(name) or name in listed))


def remember_secrets(values: Iterable[str]) -> None:
    """Let `redact` hide these values for the rest of the process's life."""
    _known_secrets.update(value.strip() for value in values)


def header_secrets(text: str) -> list[str]:
    """Return what must be hidden of ``ORACULO_ENV_HEADERS``.

    Each value, also without its scheme (``Bearer``), and the whole text.
    """
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    if not isinstance(headers, dict):
        return [text]
    values = [value.strip() for value in headers.values() if isinstance(value, str) and value.strip()]
    return [text, *values, *(value.split()[-1] for value in values)]


def redact(text: str) -> str:
    """Return `text` with every secret known to this process replaced by ``***``.

    Covers values that came from ``.env`` or a remote source, ``ORACULO_ENV_TOKEN`` and the values of
    ``ORACULO_ENV_HEADERS``, the model providers' keys in ``os.environ``, and user and password in any URL;
    also in the spelling that URLs, JSON and ``repr`` give them. Values of fewer than 6 characters are left
    alone.

    Parameters
    ----------
    text : str
        Anything that will be logged, shown or raised.

    Returns
    -------
    str

    Examples
    --------
    >>> redact("cannot connect to https://ana:s3nha@proxy.example:3128/")
    'cannot connect to https://***@proxy.example:3128/'
    """
    environ = dict(os.environ.items())
    ours = recorded_origins(environ)
    listed = {name.strip() for name in environ.get(ALLOW_VARIABLE, "").split(",")}
    secrets = set(_known_secrets)
    secrets.update(
        value.strip() for name, value in environ.items() if is_secret(name, ours=name in ours, listed=listed)
    )
    secrets.update(header_secrets(environ.get(HEADERS_VARIABLE, "")))
    spellings = {
        spelling
        for secret in secrets
        if len(secret) >= _SHORTEST_SECRET
        for spelling in (
            secret,
            quote(secret, safe="", errors="replace"),
            json.dumps(secret)[1:-1],
            repr(secret)[1:-1],
        )
    }
    # Longest first: a secret may be part of a longer one.
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, "***")
    return _USERINFO.sub("//***@", text)


def safe_cause(error: BaseException) -> BaseException | None:
    """Return `error` for ``raise ... from``, or None when its own text or traceback would show a secret."""
    text = "".join(traceback.format_exception(error))
    return error if redact(text) == text else None
