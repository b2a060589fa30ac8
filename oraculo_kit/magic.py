"""The ``%oraculo`` magic: the package's functions, with the words of the command line."""

from __future__ import annotations

import shlex
from typing import Any

from oraculo_kit.errors import QueryError

USAGE = "%oraculo status | ingest PATH | search QUERY | sources | use STORE | explore | doctor"


def run_magic(line: str) -> Any:
    """Run one line of the magic and return what the function behind it returns.

    Parameters
    ----------
    line : str
        ``status``, ``ingest PATH...``, ``search QUERY``, ``sources``, ``use STORE``, ``explore`` or ``doctor``;
        empty means
        ``status``.

    Raises
    ------
    QueryError
        For an unknown word, or one without what it needs.
    """
    import oraculo_kit

    word, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    if word in ("", "status"):
        return oraculo_kit.status()
    if word == "doctor":
        return oraculo_kit.doctor()
    if word == "explore":
        return oraculo_kit.explore()
    if word == "sources":
        return oraculo_kit.sources()
    if word in ("ingest", "search", "use"):
        if not rest:
            raise QueryError(f"%oraculo {word} needs more: {USAGE}")
        if word == "search":
            return oraculo_kit.search(_unquoted(rest))
        if word == "use":
            oraculo_kit.use(_unquoted(rest))
            return oraculo_kit.status()
        return oraculo_kit.ingest(_paths(rest))
    raise QueryError(f"%oraculo does not know {word!r}: {USAGE}")


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _paths(text: str) -> list[str]:
    try:
        # posix=False keeps the backslashes of Windows paths.
        parts = shlex.split(text, posix=False)
    except ValueError as exc:
        raise QueryError(f"%oraculo ingest got {text!r}: {exc}. Close every quote that you open") from exc
    return [_unquoted(part) for part in parts]
