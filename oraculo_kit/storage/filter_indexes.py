"""Indexes on metadata keys, for filters that are asked often.

Without one a filter reads the metadata of every chunk. An index is SQLite's own: an expression index over the JSON
type and the value of one key, over ``chunks`` and over ``sources``, and only over rows that have the key. SQLite keeps
it in step with every commit of every process, and it is no part of the store's format: a program that knows nothing
of these indexes reads and writes the store all the same.

Making one for a million chunks takes 2.5 s of CPU time, with the writer lock held: readers go on, writers wait. Each
index of short values adds 20 MB per million chunks that have the key. A commit of 100 chunks takes about a tenth
longer with one index or three.

Which keys have one is read from the schema, so a snapshot sees the indexes of its own version. An index's name
carries the key as hexadecimal UTF-8: SQLite's names know no upper and lower case, and keys may hold anything.
"""

from __future__ import annotations

from contextlib import suppress

from oraculo_kit.errors import FilterError
from oraculo_kit.storage.catalog import Catalog
from oraculo_kit.storage.filters import KeyPlace, path_literal
from oraculo_kit.storage.records import clean_text

_PREFIX = "filter_"
# Further columns of the index: what a search for the key and for its source asks for too, so that SQLite need not look
# at the rows of the table (10,000 rows of a million that pass, and a source: 2 ms instead of 30).
_COLUMNS = {"chunks": ", source, inherits", "sources": ""}


def create_index(catalog: Catalog, key: str) -> bool:
    """Index a metadata key, within the write transaction that is open.

    Parameters
    ----------
    catalog : Catalog
    key : str
        A metadata key; no chunk need have it yet.

    Returns
    -------
    bool
        False when there was one.

    Raises
    ------
    FilterError
        When a filter could not ask for the key.
    """
    key = checked_key(key)
    if key in indexed_keys(catalog) or key == "source":  # a column, which has an index from the beginning
        return False
    path = path_literal(key)
    for table, more in _COLUMNS.items():
        catalog.db.execute(
            f"CREATE INDEX {_name(table, key)} ON {table}(json_type(metadata, {path}), metadata ->> {path}{more}) "
            f"WHERE json_type(metadata, {path}) IS NOT NULL"
        )
    return True


def drop_index(catalog: Catalog, key: str) -> bool:
    """Drop the index of a key, within the write transaction that is open; False when there was none."""
    key = checked_key(key)
    if key not in indexed_keys(catalog):
        return False
    for table in _COLUMNS:
        catalog.db.execute(f"DROP INDEX IF EXISTS {_name(table, key)}")
    return True


def indexed_keys(catalog: Catalog) -> list[str]:
    """Return the keys that have an index, sorted, in the version that the open transaction sees."""
    begin = f"{_PREFIX}chunks_"
    names = catalog.rows(
        "SELECT name FROM sqlite_schema WHERE type = 'index' AND substr(name, 1, ?) = ?", (len(begin), begin)
    )
    return sorted(bytes.fromhex(name[len(begin) :]).decode() for (name,) in names)


def key_of_index(name: str) -> str | None:
    """Return the key that an index of ours, by its name, is for; None for another name, and for a damaged one.

    Examples
    --------
    >>> key_of_index("filter_sources_706c616365"), key_of_index("chunks_by_source"), key_of_index("filter_chunks_7")
    ('place', None, None)
    """
    for table in _COLUMNS:
        begin = f"{_PREFIX}{table}_"
        if name.startswith(begin):
            with suppress(ValueError):  # UnicodeDecodeError is one
                return bytes.fromhex(name[len(begin) :]).decode()
    return None


def checked_key(key: str) -> str:
    """Return a key as metadata stores it, or refuse it.

    Raises
    ------
    FilterError
    """
    if not isinstance(key, str):
        raise FilterError(f"metadata key {key!r} is {type(key).__name__}, expected a text")
    if key.startswith("$"):
        raise FilterError(
            f"got {key!r:.80} as metadata key, but a filter reads names that begin with $ as operators; "
            "rename the key in the metadata"
        )
    return clean_text(key)


class KeyPlaces:
    """Where the keys of a version stand; for `oraculo_kit.storage.filters.CompiledFilter`.

    Parameters
    ----------
    catalog : Catalog
        Inside a transaction, which must last as long as this object is used.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._indexed = frozenset(indexed_keys(catalog))
        self._known: dict[str, KeyPlace] = {}

    def __call__(self, key: str) -> KeyPlace:
        """Return the place of a key. One that was never written stands nowhere."""
        place = self._known.get(key)
        if place is None:
            # Every writer adds its keys to this table in the commit that brings the chunks, and none takes any away:
            # a key may be listed that no chunk has any more, but none is missing.
            rows = self._catalog.rows("SELECT in_chunks, in_sources FROM metadata_keys WHERE key = ?", (key,))
            in_chunks, in_sources = rows[0] if rows else (0, 0)
            place = KeyPlace(bool(in_chunks), bool(in_sources), key in self._indexed)
            self._known[key] = place
        return place


def _name(table: str, key: str) -> str:
    return f"{_PREFIX}{table}_{key.encode().hex()}"
