"""The ledger page by page, and a sample of the base to draw figures from: what a person looks at, in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from oraculo_kit.errors import QueryError
from oraculo_kit.storage.browsing import SAMPLE, block_starts
from oraculo_kit.storage.ledger import source_rows
from oraculo_kit.storage.values import SourceRow

if TYPE_CHECKING:
    import pandas as pd

    from oraculo_kit.storage.base import VetorStorage
    from oraculo_kit.storage.snapshot import Snapshot

__all__ = [
    "ORDERS",
    "SampledSource",
    "SourceOrder",
    "SourcePage",
    "StoreSample",
    "checked_list_request",
    "containing",
    "list_rows",
    "list_sources",
    "sample_base",
    "sample_store",
    "source_frame",
]

SourceOrder = Literal["source", "chunks", "bytes", "written_at"]
ORDERS: tuple[SourceOrder, ...] = get_args(SourceOrder)

_MOST = 1000  # rows of a page
_COLUMNS = {"source": "key", "chunks": "chunk_count", "bytes": "bytes", "written_at": "written_at"}


@dataclass(frozen=True, slots=True)
class SourcePage:
    """A page of the ledger.

    Attributes
    ----------
    rows : tuple of SourceRow
    total : int
        How many sources there are on all pages.
    """

    rows: tuple[SourceRow, ...]
    total: int

    def to_pandas(self) -> pd.DataFrame:
        """Return the page with the columns of `oraculo_kit.sources`."""
        return source_frame(self.rows)


@dataclass(frozen=True, slots=True)
class SampledSource:
    """A source in a sample."""

    source: str
    chunks: int
    language: str | None
    bytes: int | None
    written_at: str


@dataclass(frozen=True, slots=True)
class StoreSample:
    """Sources and chunks from all over the base; of a small base all of them.

    Attributes
    ----------
    sources : tuple of SampledSource
    lengths : tuple of int
        Characters of chunks.
    """

    sources: tuple[SampledSource, ...]
    lengths: tuple[int, ...]


def source_frame(rows: Sequence[SourceRow]) -> pd.DataFrame:
    """Return rows of the ledger as a DataFrame: source, chunks, lang, title, bytes, modified, written_at."""
    import pandas as pd

    return pd.DataFrame(
        [
            (
                row.source,
                row.chunks,
                row.language,
                row.metadata.get("title"),
                row.ledger.bytes,
                row.metadata.get("modified"),
                row.written_at,
            )
            for row in rows
        ],
        columns=["source", "chunks", "lang", "title", "bytes", "modified", "written_at"],
    )


def checked_list_request(contains: Any, order: Any, first: Any, count: Any) -> None:
    """Refuse what cannot be listed.

    Raises
    ------
    QueryError
    """
    if not isinstance(contains, str):
        raise QueryError(f"got {type(contains).__name__} as part of a source's key, expected a text")
    if order not in ORDERS:
        raise QueryError(f"order is {order!r}, expected one of {', '.join(ORDERS)}")
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise QueryError(f"first is {first!r}, expected a whole number from 0")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST:
        raise QueryError(f"count is {count!r}, expected a whole number from 1 to {_MOST}")


def list_sources(
    snapshot: Snapshot, contains: str, order: SourceOrder, descending: bool, first: int, count: int
) -> SourcePage:
    """Return a page of the ledger from the catalog; see `VetorStorage.list_sources`.

    The inner query reads an index only where it can, so that a late page of many sources costs milliseconds too.
    """
    checked_list_request(contains, order, first, count)
    where = "1"
    values: dict[str, Any] = {"first": first, "count": count}
    if contains:
        patterns = {f"like{place}": pattern for place, pattern in enumerate(containing(contains))}
        values |= patterns
        where = "(" + " OR ".join(f"key LIKE :{name} ESCAPE '\\'" for name in patterns) + ")"
    way = "DESC" if descending else "ASC"
    by = f"key {way}" if order == "source" else f"{_COLUMNS[order]} {way}, key"
    rows = source_rows(
        snapshot.catalog,
        f"WHERE id IN (SELECT id FROM sources WHERE {where} ORDER BY {by} LIMIT :count OFFSET :first) ORDER BY {by}",
        values,
    )
    wanted = {name: value for name, value in values.items() if name.startswith("like")}
    total = int(snapshot.catalog.rows(f"SELECT count(*) FROM sources WHERE {where}", wanted)[0][0])
    return SourcePage(tuple(rows), total)


def containing(part: str) -> list[str]:
    r"""Return the patterns of ``LIKE`` that find a part of a key whatever its case.

    LIKE folds the case of ASCII letters alone: É and é are looked for as typed, in capitals and in small letters.

    Examples
    --------
    >>> containing("É_1")
    ['%É\\_1%', '%é\\_1%']
    """
    literal = part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    forms = (literal,) if part.isascii() else (literal, literal.lower(), literal.upper())
    return [f"%{form}%" for form in dict.fromkeys(forms)]


def list_rows(
    rows: Sequence[SourceRow], contains: str, order: SourceOrder, descending: bool, first: int, count: int
) -> SourcePage:
    """Return a page of rows that somebody has read already; for stores without a faster way."""
    checked_list_request(contains, order, first, count)
    folded = contains.casefold()
    found = [row for row in rows if folded in row.source.casefold()]

    def rank(row: SourceRow) -> Any:
        if order == "bytes":
            return -1 if row.ledger.bytes is None else row.ledger.bytes
        return getattr(row, order)

    found.sort(key=lambda row: row.source)
    found.sort(key=rank, reverse=descending)
    return SourcePage(tuple(found[first : first + count]), len(found))


def sample_base(snapshot: Snapshot) -> StoreSample:
    """Return a sample from blocks of the catalog that lie all over it; see `VetorStorage.sample`."""
    catalog = snapshot.catalog

    def blocks(column: str, table: str, wanted: str) -> list[tuple[Any, ...]]:
        first, last = catalog.rows(f"SELECT min({column}), max({column}) FROM {table}")[0]
        if first is None:
            return []
        starts, size = block_starts(first, last)
        return catalog.rows(
            f"SELECT {wanted} FROM json_each(:starts) b CROSS JOIN {table} t "
            f"ON t.{column} BETWEEN b.value AND b.value + :more",
            {"starts": json.dumps(starts), "more": size - 1},
        )

    sources = blocks("id", "sources", "t.key, t.chunk_count, t.language, t.bytes, t.written_at")
    lengths = blocks("number", "chunks", "length(t.text)")
    return StoreSample(tuple(SampledSource(*row) for row in sources), tuple(length for (length,) in lengths))


def sample_store(store: VetorStorage) -> StoreSample:
    """Return the first rows of any store as a sample; for stores without a better way."""
    rows = store.sources()
    step = max(len(rows) // SAMPLE, 1)
    sources = tuple(
        SampledSource(row.source, row.chunks, row.language, row.ledger.bytes, row.written_at)
        for row in rows[::step]
    )
    first = next(iter(store.iter_documents(SAMPLE)), [])
    return StoreSample(sources, tuple(len(document.page_content) for document in first))
