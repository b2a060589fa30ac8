"""Salvage: a new catalog, made of the rows that can still be read of a damaged one.

Every table is read by its key, from both ends; what lies between two places where SQLite meets damage is halved and
tried again, until only keys are left that stand on damaged pages. Of those the indexes may still know the names: an
index is a copy of its columns on pages of its own. A chunk that an index knows is looked for on the pages themselves,
too (`oraculo_kit.storage.pages`): a damaged page near the root of the table hides sound ones. It is taken if its
checksum holds. Other rows that can be read need not be right: the repair that follows looks at their checksums.

The new catalog is written into the old file by SQLite's backup, as one transaction: readers see the old version or
the new one, and a process killed on the way leaves the old one. So no file is replaced under an open connection, and it
works on Windows too. It cannot help where SQLite does not take the file for a database (the first 100 bytes), or where the list of
tables is damaged on its first page, or on the one where chunks and sources stand. What else of the list is lost is named: tables, and
filter indexes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from oraculo_kit.storage.catalog import Catalog, translated
from oraculo_kit.storage.filter_indexes import create_index, key_of_index
from oraculo_kit.storage.pages import leaf_rows
from oraculo_kit.storage.records import chunk_id, row_checksum, source_checksum
from oraculo_kit.storage.runs import drop_damaged_runs
from oraculo_kit.storage.schema import first_values

_ROWS_AT_ONCE = 500
_PROBES = 20_000  # reads of one table that may meet damage: some seconds
_DAMAGE = (apsw.CorruptError, apsw.IOError, apsw.NotADBError, apsw.FormatError, UnicodeDecodeError)
_LARGEST = 1 << 62

_BY_NUMBER = {
    "sources": "id",
    "chunks": "number",
    "pending": "number",
    "tombstones": "number",
    "feedback": "id",
    "runs": "id",
    "outcomes": "id",
}
_SINCE = {
    "runs": 3,
    "outcomes": 3,
}  # the format that brought a table; an older catalog has lost nothing of it
_BY_NAME = ("metadata_keys", "segments", "indexes", "staged", "claims")
_KINDS: dict[str, type] = {"TEXT": bytes, "BLOB": bytes, "INTEGER": int, "REAL": float}


@dataclass
class Salvaged:
    """What a salvage could not read.

    Attributes
    ----------
    chunks : list of tuple
        (id or None, source or None, place or number or None) of every lost chunk that an index still knows.
    sources : list of str
        Sources of which only the name is left.
    tables : set of str
        Tables of which some pages could not be read.
    verdicts : int
        Rows of feedback that are lost, at least.
    meta : set of str
        Values of ``meta`` that are lost.
    filter_indexes : bool
        Indexes of filters may be lost: their names stood in a part of the list of tables that cannot be read.
    commit : int
        The commit number that the damaged catalog had; 0 when it is lost.
    everything : bool
        Not one chunk could be read, though there were some.
    """

    chunks: list[tuple[str | None, str | None, int | None]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    tables: set[str] = field(default_factory=set)
    verdicts: int = 0
    meta: set[str] = field(default_factory=set)
    filter_indexes: bool = False
    commit: int = 0
    everything: bool = False


def copy_catalog(source: Path, target: Path) -> None:
    """Copy a database page by page, whatever is on its pages, into another one, as one transaction.

    Raises
    ------
    StoreCorruptedError
        When SQLite does not take one of them for a database.
    """
    with translated(source), lenient(source) as old, lenient(target, create=True) as new:
        with new.backup("main", old, "main") as backup:
            backup.step()


@contextmanager
def lenient(path: Path, *, create: bool = False) -> Iterator[apsw.Connection]:
    """Open a database that may be damaged; errors are SQLite's own."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    with closing(apsw.Connection(str(path), flags=flags)) as db:
        db.set_busy_timeout(10_000)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # Without it SQLite refuses all of a database whose list of tables is partly damaged, or whose end is missing.
        db.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
        db.wal_autocheckpoint(0)
        yield db


def salvage(damaged: Path, rebuilt: Path, above: int) -> Salvaged:
    """Make a new catalog of what a damaged one still gives; its full-text index is left empty.

    Parameters
    ----------
    damaged : pathlib.Path
        The damaged catalog, or a copy of it; only read.
    rebuilt : pathlib.Path
        The new one; does not exist.
    above : int
        The new catalog's commit number is greater than this, and than all that the old one speaks of.

    Returns
    -------
    Salvaged
    """
    with lenient(damaged) as old, closing(Catalog(rebuilt, create=True)) as new:
        new.create_schema({})
        new.db.pragma("synchronous", "OFF")  # it is a draft: what counts is written from it later
        with new.writing():
            made = _Salvage(damaged, old, new)
            made.run(above)
        new.checkpoint(truncate=True)
    return made.lost


class _Salvage:
    def __init__(self, damaged: Path, old: apsw.Connection, new: Catalog) -> None:
        self.old, self.new = old, new
        self._damaged = damaged
        self.lost = Salvaged()
        self._given = dict(self._pairs("SELECT name, seq FROM sqlite_sequence ORDER BY rowid", ""))

    def run(self, above: int) -> None:
        self._copy_meta()
        keys = {
            number: key for key, number in self._pairs("SELECT CAST(key AS BLOB), id FROM sources", "key")
        }
        for table in _BY_NAME:
            self._insert(table, self._rows_by_name(table))
        version = self.old.pragma("user_version")
        for table in _BY_NUMBER:
            if isinstance(version, int) and 0 < version < _SINCE.get(table, 0):
                continue
            rows: Iterable[tuple[Any, ...]] = self._rows_by_number(table)
            self._insert(table, self._with_right_keys(rows, keys) if table == "sources" else rows)
        if "precision" in self.lost.meta and self.new.one(
            "SELECT count(*) FROM segments WHERE name LIKE '%.f16'"
        ):
            self.new.set_meta("precision", "float16")
        self._remake_sources(keys)
        self._mend_chunks()
        self._find_sources()
        drop_damaged_runs(self.new)
        is_empty = not self.new.one("SELECT count(*) FROM chunks")
        self.lost.everything = is_empty and bool(self.lost.chunks or "chunks" in self.lost.tables)
        self._set_sequences()
        self.lost.commit = _integer(self.new.meta("commit"))
        highest = self.new.one("SELECT max(commit_number) FROM tombstones") or 0
        self.new.set_meta("commit", max(above, int(highest), self.lost.commit) + 1)
        self._restore_indexes()

    def _copy_meta(self) -> None:
        values = dict(self._pairs("SELECT CAST(key AS BLOB), value FROM meta", "key"))
        for key, default in first_values("float32").items():
            if key not in values:
                self.lost.meta.add(key)
            value = default if key in ("epoch", "stemmer") else values.get(key, default)
            self.new.set_meta(key, value)
        self.new.db.execute("DELETE FROM metadata_keys")

    def _pairs(self, sql: str, order: str) -> list[tuple[Any, Any]]:
        """Read two columns from both ends, in the order of an index that holds them."""
        found: dict[Any, tuple[Any, Any]] = {}
        for direction in ("", " DESC") if order else ("",):
            rows, damaged = self._read(f"{sql} ORDER BY {order}{direction}" if order else sql, ())
            for first, second in rows:
                first = _text(first) if isinstance(first, bytes) else first
                found[first] = first, second
            if not damaged:
                break
        return list(found.values())

    def _read(self, sql: str, bindings: tuple[Any, ...]) -> tuple[list[tuple[Any, ...]], bool]:
        """Return the rows up to the first damage, and whether there was one."""
        rows: list[tuple[Any, ...]] = []
        try:
            for row in self.old.execute(sql, bindings):
                rows.append(row)
        except (*_DAMAGE, apsw.SQLError):  # the last: a table that is missing in a damaged list of tables
            return rows, True
        return rows, False

    def _columns(self, table: str) -> list[_Column]:
        return [
            _Column(*row)
            for row in self.new.rows(f"SELECT name, type, \"notnull\" FROM pragma_table_info('{table}')")
        ]

    def _rows_by_name(self, table: str) -> Iterator[tuple[Any, ...]]:
        columns = self._columns(table)
        select = f"SELECT {_selected(columns)} FROM {table} ORDER BY {columns[0].name}"
        seen = set()
        for direction in ("", " DESC"):
            rows, damaged = self._read(select + direction, ())
            for row in rows:
                values = _checked(row, columns)
                if values is not None and values[0] not in seen:
                    seen.add(values[0])
                    yield values
            if not damaged:
                return
        self.lost.tables.add(table)

    def _rows_by_number(self, table: str) -> Iterator[tuple[Any, ...]]:
        """Yield all rows that can be read; see the module docstring."""
        key, columns = _BY_NUMBER[table], self._columns(table)[1:]
        select = f"SELECT {key}, {_selected(columns)} FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {key}"
        given = self._given.get("chunks" if key == "number" else table)
        gaps = deque([(-1, given if isinstance(given, int) and given > 0 else _LARGEST)])
        probes = 0
        while gaps and probes < _PROBES:
            low, high = (
                gaps.popleft()
            )  # the widest first, so that the sound pages between two damaged ones are found
            for direction in ("", " DESC"):
                while low <= high:
                    rows, damaged = self._read(f"{select}{direction} LIMIT {_ROWS_AT_ONCE}", (low, high))
                    for row in rows:
                        if not low <= row[0] <= high:  # damage that SQLite did not notice
                            damaged = True
                            break
                        low, high = (low, row[0] - 1) if direction else (row[0] + 1, high)
                        values = _checked(row[1:], columns)
                        if values is not None:
                            yield (row[0], *values)
                    if damaged:
                        probes += 1
                        break
                    if len(rows) < _ROWS_AT_ONCE:
                        low = high + 1
            if low < high:
                middle = (low + high) // 2
                gaps += [(low, middle), (middle + 1, high)]
            if low == high:
                self.lost.tables.add(table)
                self.lost.verdicts += table == "feedback"
        if gaps:
            self.lost.tables.add(table)

    def _insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        for row in rows:
            marks = ", ".join("?" * len(row))
            # Or ignore: two rows may claim the same name on damaged pages.
            self.new.db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)

    def _with_right_keys(
        self, rows: Iterable[tuple[Any, ...]], keys: dict[int, str]
    ) -> Iterator[tuple[Any, ...]]:
        """Take a source's key from the index where the row's own is the one that is damaged."""
        for number, key, *values in rows:
            language, metadata, checksum = values[5], values[6], values[9]
            other = keys.get(number, key)
            if (
                source_checksum(key, metadata, language)
                != checksum
                == source_checksum(other, metadata, language)
            ):
                key = other
            yield (number, key, *values)

    def _remake_sources(self, keys: dict[int, str]) -> None:
        for number, key in keys.items():
            if not isinstance(number, int) or self.new.one(
                "SELECT count(*) FROM sources WHERE id = ?", (number,)
            ):
                continue
            self.new.db.execute(
                "INSERT OR IGNORE INTO sources VALUES (?, ?, NULL, NULL, NULL, '', '', NULL, '{}', 0, '', ?)",
                (number, key, source_checksum(key, "{}", None)),
            )
            self.lost.sources.append(key)

    def _mend_chunks(self) -> None:
        """Look for chunks that could not be read, or not rightly: in the indexes, then on the pages themselves."""
        sound = {row[0]: row[2] for row in self.new.db.execute("SELECT * FROM chunks") if _is_sound(row)}
        by_id = "FROM chunks INDEXED BY sqlite_autoindex_chunks_1 ORDER BY id"
        by_source = "FROM chunks INDEXED BY chunks_by_source ORDER BY source"
        names = {
            number: name
            for number, name in self._of_index("chunks", f"SELECT number, CAST(id AS BLOB) {by_id}")
            if number not in sound
        }
        places: dict[int, tuple[Any, Any]] = {}
        for number, source, place in self._of_index("chunks", f"SELECT number, source, ordinal {by_source}"):
            if number not in sound:
                places[number] = source, place
            elif source != sound[number]:
                self._settle_source(number, source)
        # That a text is indexed shows that its chunk was not deleted, when the indexes of its table are damaged, too.
        indexed = self._of_index("", "SELECT id FROM chunk_text_docsize ORDER BY id")
        wanted = names.keys() | places.keys() | {number for (number,) in indexed if number not in sound}
        found = self._on_pages(wanted) if wanted else {}
        for number in sorted(wanted):
            name = _text(names[number]) if isinstance(names.get(number), bytes) else None
            self._settle_chunk(number, name, *places.get(number, (None, None)), found.get(number))

    def _of_index(self, table: str, sql: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of an index, from both ends where it is damaged; some come twice then."""
        for direction in ("", " DESC"):
            try:
                for row in self.old.execute(sql + direction):
                    if isinstance(row[0], int):
                        yield row
            except (*_DAMAGE, apsw.SQLError):
                continue
            self.lost.tables.discard(table)  # of what could not be read every row is known
            return

    def _on_pages(self, wanted: set[int]) -> dict[int, tuple[Any, ...]]:
        found: dict[int, tuple[Any, ...]] = {}
        for number, values in leaf_rows(self._damaged, 8):
            if number in wanted and number not in found and _is_sound(values):
                found[number] = (number, *_decoded(values[1:]))
        return found

    def _settle_chunk(
        self, number: int, name: str | None, source: Any, place: Any, found: tuple[Any, ...] | None
    ) -> None:
        """Put the right row of a chunk in the place of none or of a damaged one, or name it as lost."""
        rows = self.new.rows("SELECT * FROM chunks WHERE number = ?", (number,))
        row = found or (_with_right_name(rows[0], name, place) if rows else None)
        if row is not None:
            self.new.db.execute("DELETE FROM chunks WHERE number = ?", (number,))
            self.new.db.execute("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            if source is not None and source != row[2]:
                self._settle_source(number, source)
        elif rows and name is not None:  # so that it is named rightly when it is removed
            self.new.db.execute("UPDATE OR IGNORE chunks SET id = ? WHERE number = ?", (name, number))
        elif not rows:
            key = self.new.one("SELECT key FROM sources WHERE id = ?", (source,))
            self.new.db.execute("UPDATE sources SET content_hash = NULL WHERE id = ?", (source,))
            is_named = name is not None or place is not None
            self.lost.chunks.append((name, key, place if is_named else number))

    def _settle_source(self, number: int, source: Any) -> None:
        """Believe an index about the source of a chunk when the chunk's id, a hash over the source's name, agrees."""
        rows = self.new.rows(
            "SELECT c.id, s.key, c.ordinal, c.text FROM chunks c, sources s WHERE c.number = ? AND s.id = ?",
            (number, source),
        )
        if rows and rows[0][0] == chunk_id(*rows[0][1:]):
            self.new.db.execute("UPDATE chunks SET source = ? WHERE number = ?", (source, number))

    def _find_sources(self) -> None:
        """Look on the pages themselves for rows of the ledger that chunks need."""
        needed = "SELECT DISTINCT source FROM chunks WHERE source NOT IN (SELECT id FROM sources)"
        wanted = {number for (number,) in self.new.rows(needed)}
        for number, values in leaf_rows(self._damaged, 12) if wanted else ():
            try:
                _, key, _, size, mtime, pipeline, run, language, metadata, count, at, checksum = _decoded(
                    values
                )
                is_sound = number in wanted and source_checksum(key, metadata, language) == checksum
            except UnicodeDecodeError:
                continue
            if is_sound:  # but it may be an earlier version: so the next ingestion reads the source again
                row = (number, key, None, size, mtime, pipeline, run, language, metadata, count, at, checksum)
                self.new.db.execute(f"INSERT OR IGNORE INTO sources VALUES ({', '.join('?' * 12)})", row)

    def _set_sequences(self) -> None:
        for table, key in _BY_NUMBER.items():
            if table in ("pending", "tombstones"):
                continue
            highest = [self._given.get(table), self.new.one(f"SELECT max({key}) FROM {table}")]
            if table == "chunks":
                highest += [
                    self.new.one(f"SELECT max(number) FROM {each}") for each in ("pending", "tombstones")
                ]
            if not isinstance(highest[0], int):
                # Numbers may have been given to writers that are still at work: they must begin anew.
                self.new.db.execute("DELETE FROM claims")
            seq = max(each for each in (*highest, 0) if isinstance(each, int))
            self.new.db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            self.new.db.execute("INSERT INTO sqlite_sequence(name, seq) VALUES (?, ?)", (table, seq))

    def _restore_indexes(self) -> None:
        """Make the indexes of filters anew, and list the keys of metadata that are there."""
        for column, table in (("in_chunks", "chunks"), ("in_sources", "sources")):
            self.new.db.execute(
                f"INSERT INTO metadata_keys SELECT DISTINCT item.key, {int(column == 'in_chunks')}, "
                f"{int(column == 'in_sources')} FROM {table} AS holder, "
                "json_each(iif(json_valid(holder.metadata), holder.metadata, '{}')) AS item "
                f"WHERE true ON CONFLICT DO UPDATE SET {column} = 1"
            )
        for key in self._indexed_keys():
            create_index(self.new, key)

    def _indexed_keys(self) -> list[str]:
        """Return the keys that have an index, as far as the list of tables can be read; each stands in it twice."""
        keys: set[str] = set()
        for direction in ("", " DESC"):
            listed = f"SELECT CAST(name AS BLOB) FROM sqlite_schema ORDER BY rowid{direction}"
            rows, damaged = self._read(listed, ())
            keys |= {key for (name,) in rows if (key := key_of_index(_text(name or b""))) is not None}
            if not damaged:
                return sorted(keys)
        self.lost.filter_indexes = True
        return sorted(keys)


def _is_sound(row: tuple[Any, ...]) -> bool:
    """Tell whether a row of ``chunks``, text decoded or not, matches its checksum."""
    try:
        _, name, source, ordinal, inherits, checksum, metadata, text = _decoded(row)
    except UnicodeDecodeError:
        return False
    kinds_fit = isinstance(source, int) and isinstance(ordinal, int) and inherits in (0, 1)
    return kinds_fit and row_checksum(name, ordinal, text, metadata) == checksum


def _decoded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.decode() if isinstance(value, bytes) else value for value in row)


def _with_right_name(row: tuple[Any, ...], name: str | None, place: int | None) -> tuple[Any, ...] | None:
    """Return a damaged row with id and place as the indexes have them, if its checksum says that this is right."""
    number, own, source, ordinal, *rest = row
    for each in (own, name):
        for where in (ordinal, place):
            mended = (number, each, source, where, *rest)
            if each is not None and where is not None and _is_sound(mended):
                return mended
    return None


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    is_required: int

    @property
    def selected(self) -> str:
        # Text as bytes: damaged text may not be UTF-8.
        return f"CAST({self.name} AS BLOB)" if self.type == "TEXT" else self.name

    def value(self, found: Any) -> Any:
        """Return a value, text decoded.

        Raises
        ------
        TypeError
            When it is not of the column's type: a damaged cell may hold anything.
        """
        if found is None and not self.is_required:
            return None
        if not isinstance(found, _KINDS[self.type]):
            raise TypeError(self.name)
        return _text(found) if isinstance(found, bytes) and self.type == "TEXT" else found


def _selected(columns: list[_Column]) -> str:
    return ", ".join(column.selected for column in columns)


def _checked(row: tuple[Any, ...], columns: list[_Column]) -> tuple[Any, ...] | None:
    """Return the values of a row, text decoded; None when one is not of its column's type."""
    try:
        return tuple(column.value(found) for column, found in zip(columns, row, strict=True))
    except TypeError:
        return None


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _integer(value: Any) -> int:
    return value if isinstance(value, int) else 0
