"""Checks of what callers hand to a store, so that a wrong type is named instead of failing somewhere inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oraculo_kit.errors import QueryError

__all__ = ["check_batch", "checked_documents", "checked_ids"]


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
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise QueryError(f"batch is {batch!r}, expected a whole number of at least 1")
