"""One metadata key of every chunk, for maps and counts: read by the database from its JSON, without any text.

A page of chunks comes as two JSON lists, one of ids and one of values: a million rows of Python objects would take twice as
long.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.filters import json_path

if TYPE_CHECKING:
    from oraculo_kit.storage.snapshot import Reader

__all__ = ["ValuePage", "check_key", "plain_value", "stored_values", "value_pages"]

ValuePage = tuple[int | None, str, str]
"""The number of the last chunk of a page, the ids and the values of all as JSON; without a chunk the number is None."""

# `->` gives JSON, whose integers have all their digits and whose null counts; `->>` makes floats of large integers.
_PAGE = (
    "SELECT max(number), json_group_array(id), '[' || group_concat(value) || ']' FROM ("
    "SELECT c.number, c.id, coalesce(c.metadata -> :path, iif(c.inherits, s.metadata -> :path, NULL), "
    "iif(:source AND s.key <> '', json_quote(s.key), 'null')) AS value "
    "FROM chunks c JOIN sources s ON s.id = c.source WHERE c.number > :after ORDER BY c.number LIMIT :batch)"
)
_PLAIN = (
    str,
    int,
    float,
)  # made once: `str | int | float` is made anew at each call, and takes three times as long


def check_key(key: Any) -> None:
    """Refuse a metadata key that is no text.

    Raises
    ------
    QueryError
    """
    if not isinstance(key, str):
        raise QueryError(f"got {type(key).__name__} as metadata key, expected a text")


def plain_value(value: Any) -> Any:
    """Return a text, a number or a truth value as it is, and None for all else.

    Examples
    --------
    >>> plain_value(2024), plain_value(["a"])
    (2024, None)
    """
    return value if isinstance(value, _PLAIN) else None


def value_pages(page: Callable[[int], ValuePage]) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield the ids of all chunks with their values of a key; see `VetorStorage.iter_values`.

    Parameters
    ----------
    page : callable
        Returns the chunks that come after a number, as many as a page has.
    """
    last, ids, values = page(-1)
    while last is not None:
        yield json.loads(ids), [value if isinstance(value, _PLAIN) else None for value in json.loads(values)]
        last, ids, values = page(last)


def stored_values(
    reading: Callable[[], Reader], key: str, batch: int
) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield the ids of all chunks of the embedded store with their values of a key.

    Parameters
    ----------
    reading : callable
        Returns the store's reader, or raises when the store was closed between two pages.
    key : str
    batch : int
    """
    wanted = {"path": json_path(key), "source": key == "source", "batch": batch}

    def page(after: int) -> ValuePage:
        with reading().pin() as snapshot:
            (row,) = snapshot.catalog.rows(_PAGE, {**wanted, "after": after})
        return row

    return value_pages(page)
