"""The ``ORACULO_ENV_*`` variables: what the user says about where environment values come from.

=======================  =====================================================================
``ORACULO_ENV_SOURCE``   sources in order, separated by ``;`` (see `oraculo_kit.environment.sources`)
``ORACULO_ENV_ALLOW``    more names that may be set, separated by commas
``ORACULO_ENV_TOKEN``    bearer token for ``https://`` sources
``ORACULO_ENV_HEADERS``  more headers for them, a JSON object
``ORACULO_ENV_TIMEOUT``  seconds for all sources together, retries included; 10
``ORACULO_ENV_CACHE``    1 keeps the last good values for an offline start; 0
=======================  =====================================================================

They are read before `oraculo_kit.settings` can be: the values of other settings may come from these sources.
They come from the environment or from ``.env``, never from a source. Token and headers go to every URL in
``ORACULO_ENV_SOURCE``. Blank means not given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from oraculo_kit.environment.names import ALLOW_VARIABLE, listed_names
from oraculo_kit.environment.record import HEADERS_VARIABLE, TOKEN_VARIABLE, header_secrets, remember_secrets
from oraculo_kit.errors import SettingsError

SOURCE_VARIABLE = "ORACULO_ENV_SOURCE"
TIMEOUT_VARIABLE = "ORACULO_ENV_TIMEOUT"
CACHE_VARIABLE = "ORACULO_ENV_CACHE"
DEFAULT_TIMEOUT = 10.0
MAX_TIMEOUT = 600.0

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True)
class EnvironmentOptions:
    """The variables above, checked.

    Attributes
    ----------
    source : str
        The text of ``ORACULO_ENV_SOURCE``; may hold credentials.
    listed : frozenset of str
        Names in ``ORACULO_ENV_ALLOW``.
    headers : mapping of str to str
        What is sent to URLs: the token as ``Authorization``, and the user's headers.
    timeout : float
        Seconds.
    cache : bool
    """

    source: str = field(repr=False)
    listed: frozenset[str]
    headers: Mapping[str, str] = field(repr=False)
    timeout: float
    cache: bool

    @classmethod
    def resolve(cls, variables: Mapping[str, str]) -> EnvironmentOptions:
        """Read the options; `redact` knows token and headers from then on.

        Raises
        ------
        SettingsError
            When one is malformed; the message names the variable, and shows no token or header.

        Examples
        --------
        >>> EnvironmentOptions.resolve({"ORACULO_ENV_TIMEOUT": "2.5", "ORACULO_ENV_CACHE": "yes"})
        EnvironmentOptions(listed=frozenset(), timeout=2.5, cache=True)
        """

        def given(name: str) -> str:
            return variables.get(name, "").strip()

        remember_secrets([given(TOKEN_VARIABLE), *header_secrets(given(HEADERS_VARIABLE))])
        return cls(
            source=given(SOURCE_VARIABLE),
            listed=listed_names(given(ALLOW_VARIABLE)),
            headers=_headers(given(TOKEN_VARIABLE), given(HEADERS_VARIABLE)),
            timeout=timeout_seconds(given(TIMEOUT_VARIABLE)),
            cache=_switch(given(CACHE_VARIABLE)),
        )


def timeout_seconds(text: str) -> float:
    """Return the time limit that a value of ``ORACULO_ENV_TIMEOUT`` means; 10 s for a blank one.

    Raises
    ------
    SettingsError
        When it is not a number of seconds above 0 and up to 600.
    """
    if not text:
        return DEFAULT_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:  # also refuses NaN
        raise SettingsError(
            f"{TIMEOUT_VARIABLE} is {text[:40]!r}, expected a number of seconds above 0 and up to "
            f"{MAX_TIMEOUT:g}. Correct it, or remove it for {DEFAULT_TIMEOUT:g} seconds."
        )
    return seconds


def _switch(text: str) -> bool:
    folded = text.casefold()
    if folded not in ("", "0", "false", "no", "off", "1", "true", "yes", "on"):
        raise SettingsError(f"{CACHE_VARIABLE} is {text[:40]!r}, expected 1 or 0. Correct it, or remove it.")
    return folded in ("1", "true", "yes", "on")


def _headers(token: str, text: str) -> dict[str, str]:
    headers: object = {}
    try:
        headers = json.loads(text or "{}")
    except (ValueError, RecursionError):
        headers = None
    # The message must not show the value, nor may the parser's exception, which holds it whole.
    if not isinstance(headers, dict) or not all(
        _HEADER_NAME.fullmatch(name) and isinstance(value, str) and _is_header_text(value)
        for name, value in headers.items()
    ):
        raise SettingsError(
            f'{HEADERS_VARIABLE} is malformed, expected a JSON object such as {{"X-Api-Key": "..."}} with '
            "header names and values of printable ASCII. Correct it, or remove it."
        )
    if not _is_header_text(token) or " " in token:
        raise SettingsError(
            f"{TOKEN_VARIABLE} holds characters that no bearer token has, expected printable ASCII without "
            "blanks. Copy the token again, without the word Bearer."
        )
    # A header that the user wrote out wins; names of headers differ in case only by accident.
    if token and not any(name.casefold() == "authorization" for name in headers):
        return {"Authorization": f"Bearer {token}", **headers}
    return dict(headers)


def _is_header_text(text: str) -> bool:
    return text.isascii() and text.isprintable()
