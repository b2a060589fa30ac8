"""What a person browses a base by: its metadata keys with some of their values, and the chunks of a source in order.

None of it reads the whole base, so that each call takes milliseconds however large that is. Values are looked for in
`SAMPLE` sources and in `SAMPLE` chunks at most, in blocks spread evenly over all numbers: a rare value of a large base
may be missing, and counts are those of the sample.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.filters import json_path

if TYPE_CHECKING:
    from oraculo_kit.storage.asking import Version
    from oraculo_kit.storage.snapshot import Snapshot, StoredChunk

__all__ = ["MetadataKey", "block_starts", "known_keys", "sampled_values", "source_page"]

SAMPLE = 10_000
"""Rows that are looked at for values, at most; 16 ms of a base with 100,000 chunks, 65 ms while its file is cold."""

_BLOCKS = 50
_LONGEST = 200  # characters of a value that is listed; nobody picks a longer one from a list
_LONGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class MetadataKey:
    """A metadata key of a base.

    Attributes
    ----------
    name : str
    in_chunks, in_sources : bool
        Whether chunks have it of their own, and whether sources share it with their chunks.
    indexed : bool
        Whether filters on it use an index.
    """

    name: str
    in_chunks: bool
    in_sources: bool
    indexed: bool


def known_keys(snapshot: Snapshot) -> list[MetadataKey]:
    """Return every metadata key but ``source``, by name; one that no chunk has any more may be listed."""
    from oraculo_kit.storage.filter_indexes import indexed_keys

    indexed = set(indexed_keys(snapshot.catalog))
    rows = snapshot.catalog.rows("SELECT key, in_chunks, in_sources FROM metadata_keys ORDER BY key")
    return [
        MetadataKey(key, bool(in_chunks), bool(in_sources), key in indexed)
        for key, in_chunks, in_sources in rows
        if key != "source"
    ]


def sampled_values(snapshot: Snapshot, key: str, limit: int) -> list[tuple[Any, int]]:
    """Return values of a key and how many chunks of the sample have them, the most frequent first.

    Texts, numbers, truth values and None; lists and objects are left out, for nobody picks one from a list.

    Raises
    ------
    QueryError
        When `key` is no text, or `limit` no number of at least 1.
    """
    checked_value_request(key, limit)
    counts: Counter[tuple[str, Any]] = Counter()
    if key == "source":
        rows = [("text", value, count) for value, count in _sources(snapshot) if value]
    else:
        rows = _of_sources(snapshot, key) + _of_chunks(snapshot, key)
    for kind, value, count in rows:
        if not isinstance(value, str) or len(value) <= _LONGEST:
            counts[(kind, value)] += count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0][1])))
    return [(_typed(kind, value), count) for (kind, value), count in ranked[:limit]]


def checked_value_request(key: Any, limit: Any) -> None:
    """Refuse a key that is no text, and a limit that is no number of at least 1.

    Raises
    ------
    QueryError
    """
    if not isinstance(key, str):
        raise QueryError(f"got {type(key).__name__} as metadata key, expected a text")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise QueryError(f"limit is {limit!r}, expected a whole number of at least 1")


def _sources(snapshot: Snapshot) -> list[tuple[Any, ...]]:
    return snapshot.catalog.rows("SELECT key, chunk_count FROM sources ORDER BY key LIMIT ?", (SAMPLE,))


_VALUES = "json_type(metadata, :path) AS kind, metadata ->> :path AS value"
_PLAIN = "kind IN ('text', 'integer', 'real', 'true', 'false')"


def _of_sources(snapshot: Snapshot, key: str) -> list[tuple[Any, ...]]:
    return snapshot.catalog.rows(
        f"SELECT kind, value, sum(chunk_count) FROM (SELECT chunk_count, {_VALUES} FROM sources LIMIT :sample) "
        f"WHERE {_PLAIN} GROUP BY kind, value",
        {"path": json_path(key), "sample": SAMPLE},
    )


def _of_chunks(snapshot: Snapshot, key: str) -> list[tuple[Any, ...]]:
    catalog = snapshot.catalog
    if not catalog.one("SELECT in_chunks FROM metadata_keys WHERE key = ?", (key,)):
        return []
    first, last = catalog.rows("SELECT min(number), max(number) FROM chunks")[0]
    if first is None:
        return []
    starts, size = block_starts(first, last)
    return catalog.rows(
        f"SELECT kind, value, count(*) FROM (SELECT {_VALUES} FROM json_each(:starts) b CROSS JOIN chunks c "
        f"ON c.number BETWEEN b.value AND b.value + :more) WHERE {_PLAIN} GROUP BY kind, value",
        {"path": json_path(key), "starts": json.dumps(starts), "more": size - 1},
    )


def block_starts(first: int, last: int) -> tuple[list[int], int]:
    """Return where the blocks of a sample begin among the numbers from `first` to `last`, and how long they are."""
    size = SAMPLE // _BLOCKS
    step = max((last - first + 1) // _BLOCKS, size)
    return [first + block * step for block in range(_BLOCKS)], size


def _typed(kind: str, value: Any) -> Any:
    return value if kind not in ("true", "false") else kind == "true"


def source_page(snapshot: Version, source: str, first: int, last: int) -> list[StoredChunk]:
    """Return the chunks of a source from place `first` to place `last`, both included, in order.

    Raises
    ------
    QueryError
        When `source` is no text, or the places are no whole numbers or more than `_LONGEST_PAGE` apart.
    """
    if not isinstance(source, str):
        raise QueryError(f"got {type(source).__name__} as source, expected its key, a text")
    for name, place in (("first", first), ("last", last)):
        if isinstance(place, bool) or not isinstance(place, int):
            raise QueryError(f"{name} is {place!r}, expected the place of a chunk in its source, from 0")
    if last - first >= _LONGEST_PAGE:
        raise QueryError(f"asked for the places {first} to {last}, expected {_LONGEST_PAGE} chunks at most")
    return snapshot.between(source, first, last)
