"""One metadata key of every chunk, for maps and counts: read from SQLite's JSON, without texts and without checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.arguments import check_batch
from oraculo_kit.storage.filters import json_path

if TYPE_CHECKING:
    from oraculo_kit.storage.snapshot import Reader

__all__ = ["check_key", "plain_value", "value_pages"]

_OWN = (
    "SELECT c.number, c.id, s.key, json_type(c.metadata, :path), c.metadata ->> :path, "
    "iif(c.inherits, json_type(s.metadata, :path), NULL), iif(c.inherits, s.metadata ->> :path, NULL)"
)
_WHERE = (
    "FROM chunks c JOIN sources s ON s.id = c.source WHERE c.number > :after ORDER BY c.number LIMIT :batch"
)


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
    return value if isinstance(value, str | int | float) else None


def value_pages(reading: Callable[[], Reader], key: str, batch: int) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield the ids of all chunks with their values of a key; see `VetorStorage.iter_values`.

    Parameters
    ----------
    reading : callable
        Returns the store's reader, or raises when the store was closed between two pages.
    key : str
    batch : int
    """
    check_key(key)
    check_batch(batch)
    return _pages(reading, key, batch)


def _pages(reading: Callable[[], Reader], key: str, batch: int) -> Iterator[tuple[list[str], list[Any]]]:
    after = -1
    while True:
        with reading().pin() as snapshot:
            wanted = {"path": json_path(key), "after": after, "batch": batch}
            rows = snapshot.catalog.rows(f"{_OWN} {_WHERE}", wanted)
        if not rows:
            return
        yield [row[1] for row in rows], [_value(key, *row[2:]) for row in rows]
        after = rows[-1][0]


def _value(key: str, source: str, own: str | None, value: Any, shared: str | None, inherited: Any) -> Any:
    if own is not None:
        return _typed(own, value)
    if shared is not None:
        return _typed(shared, inherited)
    return source or None if key == "source" else None


def _typed(kind: str, value: Any) -> Any:
    if kind in ("true", "false"):
        return kind == "true"
    return value if kind in ("text", "integer", "real") else None
