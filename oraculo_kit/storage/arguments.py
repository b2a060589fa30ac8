"""Checks of what callers hand to a store, so that a wrong type is named instead of failing somewhere inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.runs import ENDS

__all__ = ["check_batch", "check_end", "check_limit", "checked_documents", "checked_ids"]


def checked_documents(documents: Any) -> list[Any]:
    """Return the documents as a list.

    Raises
    ------
    QueryError
        When they are none.

    Examples
    --------
    >>> checked_documents(["texto"])
    Traceback (most recent call last):
    oraculo_kit.errors.QueryError: got list with a str in it, expected LangChain documents, such as [Document("texto")]
    """
    expected = 'expected LangChain documents, such as [Document("texto")]'
    if (
        isinstance(documents, str)
        or not isinstance(documents, Iterable)
        or hasattr(documents, "page_content")
    ):
        raise QueryError(f"got {type(documents).__name__}, {expected}")
    found = list(documents)
    wrong = next((one for one in found if not hasattr(one, "page_content")), found)
    if wrong is not found:
        raise QueryError(f"got {type(documents).__name__} with a {type(wrong).__name__} in it, {expected}")
    return found


def checked_ids(ids: Any) -> list[str]:
    """Return the ids as a list; a text alone is refused, for its letters would be taken as ids.

    Raises
    ------
    QueryError
        When they are no list of texts.
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise QueryError(f"got {type(ids).__name__} as ids, expected a list of them, such as [hit.id]")
    found = list(ids)
    wrong = next((one for one in found if not isinstance(one, str)), "")
    if wrong != "":
        raise QueryError(f"got an id of type {type(wrong).__name__}, expected texts, such as [hit.id]")
    return found


def check_batch(batch: Any) -> None:
    """Refuse what is no number of chunks per step.

    Raises
    ------
    QueryError
    """
    _check_count("batch", batch)


def check_limit(limit: Any) -> None:
    """Refuse what is no number of rows.

    Raises
    ------
    QueryError
    """
    _check_count("limit", limit)


def check_end(state: Any) -> None:
    """Refuse what is no way for a run to end.

    Raises
    ------
    QueryError
    """
    if state not in ENDS:
        raise QueryError(f"state is {state!r}, expected one of {', '.join(ENDS)}")


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise QueryError(f"{name} is {value!r}, expected a whole number of at least 1")
