"""Python code that gives what is on the screen, for "copy as code"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.base import VetorStorage

__all__ = ["IMPORT", "call", "literal", "store_prefix"]

IMPORT = "import oraculo_kit as oraculo\n"
_LINE = 100


def literal(value: Any) -> str:
    r"""Return a value as a Python literal: what it evaluates to is equal, and no character steers a terminal.

    Raises
    ------
    QueryError
        For a value that has no literal.

    Examples
    --------
    >>> literal({"lang": ["pt", 1.5, None]}), literal("a\u202eb")
    ("{'lang': ['pt', 1.5, None]}", "'a\\u202eb'")
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{literal(key)}: {literal(each)}" for key, each in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(literal(each) for each in value)}]"
    if isinstance(value, tuple):
        return f"({', '.join(literal(each) for each in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f"float({str(value)!r})"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    raise QueryError(
        f"a value of type {type(value).__name__} cannot be written as code, expected texts and numbers"
    )


def call(function: str, *values: Any, **keywords: Any) -> str:
    """Return a call, on one line if it fits.

    Examples
    --------
    >>> call("oraculo.search", "nota", k=5, filter={"lang": "pt"})
    "oraculo.search('nota', k=5, filter={'lang': 'pt'})"
    """
    parts = [literal(value) for value in values]
    parts += [f"{name}={literal(value)}" for name, value in keywords.items()]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= _LINE:
        return line
    inner = "".join(f"    {part},\n" for part in parts)
    return f"{function}(\n{inner})"


def store_prefix(store: VetorStorage | None) -> tuple[str, str]:
    """Return the line that opens an explorer's store, and what its functions are called on.

    Parameters
    ----------
    store : VetorStorage or None
        None is the base of the services.

    Examples
    --------
    >>> store_prefix(None)
    ('', 'oraculo')
    """
    if store is None:
        return "", "oraculo"
    return f"store = {call('oraculo.open_storage', store.location, read_only=True)}\n", "store"
