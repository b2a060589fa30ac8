"""The truth of a store: one SQLite database, reached through APSW only.

One transaction is one commit: ledger, chunks, full text, vectors and tombstones change together or not at all.
Rules that the rest of the package relies on:

- APSW bundles its own current SQLite. Nothing else in the process may open the catalog file: closing any other
  descriptor on it would drop SQLite's POSIX locks (that lost an acknowledged commit in a test).
- Write transactions are ``BEGIN IMMEDIATE`` and run under ``writer.lock``; checkpoints too
  (``wal_autocheckpoint=0``, no checkpoint on close).
- No statement is left unfinished and no read transaction outlives a call: either would keep the log growing.
- No connection is open while the process forks (see `oraculo_kit.storage.forks`). Where that could not be had, the
  child keeps those it inherited, unused and unclosed: closing them would touch files that belong to the parent.
- Chunk numbers are ``AUTOINCREMENT``: a number is never used twice, so it can stand in an immutable segment.
- ``synchronous=FULL`` makes a commit durable when it returns (one fsync of the log). ``durability="process"``
  sets ``NORMAL``: commits survive a killed process, but the last ones may be lost in a power cut.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from oraculo_kit.errors import (
    OraculoError,
    StorageError,
    StoreCorruptedError,
    StoreFormatError,
    StoreLockTimeoutError,
    StoreReadOnlyError,
)
from oraculo_kit.storage.forks import gate
from oraculo_kit.storage.schema import APPLICATION_ID, FORMAT, FULL_TEXT, SCHEMA, migrate

_abandoned: list[apsw.Connection] = []  # see the module docstring on forks


class Catalog:
    """One connection to the catalog file; one thread uses it at a time.

    Parameters
    ----------
    path : pathlib.Path
        ``catalog.sqlite3``.
    read_only : bool
        Open for reading; a catalog in a folder that cannot be written is opened as immutable.
    create : bool
        Make the file when it is missing.
    durability : {"power", "process"}
        What an acknowledged commit survives.
    """

    def __init__(
        self, path: Path, *, read_only: bool = False, create: bool = False, durability: str = "power"
    ) -> None:
        self.path = path
        self.wal_pages = 0
        self._functions: set[str] = set()
        self._immutable = False
        with translated(path):
            # Before it is opened: a file that takes its place in between makes the connection outdated, not this note.
            self._file = _identity(path)
            if read_only:
                name, flags = str(path), apsw.SQLITE_OPEN_READONLY
                self._immutable = _is_immutable(path)
                if self._immutable:
                    name, flags = path.as_uri() + "?immutable=1", flags | apsw.SQLITE_OPEN_URI
            else:
                name = str(path)
                flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
            self.db = apsw.Connection(name, flags=flags)
            if create and self._file is None:
                self._file = _identity(path)
            try:
                self._configure(read_only, durability)
            except BaseException:
                self.db.close()
                raise

    def _configure(self, read_only: bool, durability: str) -> None:
        db = self.db
        db.set_busy_timeout(10_000)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        # KiB. A search reads wide parts of the full-text index again and again; a commit writes a few hundred pages, and
        # was no faster with four times as much.
        db.pragma("cache_size", -32_000 if read_only else -8_000)
        if not read_only:
            db.pragma("synchronous", "FULL" if durability == "power" else "NORMAL")
            db.pragma("fullfsync", durability == "power")
            db.pragma("checkpoint_fullfsync", True)
            db.wal_autocheckpoint(0)
            db.set_wal_hook(self._count_wal_pages)

    def _count_wal_pages(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def create_schema(self, values: dict[str, Any]) -> None:
        """Make the tables in one transaction; a process killed before its commit leaves an empty file behind.

        Parameters
        ----------
        values : dict
            First rows of ``meta``.
        """
        with translated(self.path):
            # Both must be set before the first page is written; neither can be set inside a transaction.
            self.db.pragma("auto_vacuum", "INCREMENTAL")
            self.db.pragma("journal_mode", "WAL")
            with self.writing():
                self.db.execute(SCHEMA)
                self.db.execute(FULL_TEXT)
                self.db.pragma("application_id", APPLICATION_ID)
                self.db.pragma("user_version", FORMAT)
                self.db.executemany("INSERT INTO meta VALUES (?, ?)", list(values.items()))

    def is_outdated(self) -> bool:
        """Tell whether the connection looks at the wrong thing.

        Its file was removed or replaced, or it was opened as unchanging and somebody who may write has begun to.
        """
        return _identity(self.path) != self._file or (self._immutable and not _is_immutable(self.path))

    def is_empty(self) -> bool:
        """Tell whether the file holds no table at all: it was just made, or its creator died."""
        with translated(self.path):
            return int(self.one("SELECT count(*) FROM sqlite_schema")) == 0

    def version(self) -> int:
        """Return the format of the catalog.

        Raises
        ------
        StoreFormatError
            When the file is not a catalog, or one of a newer format.
        StoreCorruptedError
        """
        with translated(self.path):
            application, version = self.db.pragma("application_id"), self.db.pragma("user_version")
        if application != APPLICATION_ID and self.is_empty():
            raise StoreCorruptedError(
                f"the catalog {self.path} holds nothing: its -wal file is lost, or whoever made it was ended early. Put "
                "the -wal file back; a store that never held anything becomes one when it is opened for writing"
            )
        if application != APPLICATION_ID:
            raise StoreFormatError(
                f"{self.path} is a SQLite database, but not a catalog of oraculo_kit. Choose another folder "
                "for the store (ORACULO_STORE)"
            )
        if not isinstance(version, int) or not 1 <= version <= FORMAT:
            raise StoreFormatError(
                f"the store {self.path.parent} has format {version}, and this oraculo_kit reads up to {FORMAT}. "
                "Upgrade: pip install --upgrade oraculo_kit"
            )
        return version

    def check_format(self) -> None:
        """Refuse a file that is not a catalog of this format.

        Raises
        ------
        StoreFormatError
        StoreCorruptedError
        """
        version = self.version()
        if version != FORMAT:
            raise StoreFormatError(
                f"the store {self.path.parent} has format {version}, and this oraculo_kit works with {FORMAT}. Open "
                "it once for writing to bring it forward: `oraculo status` does, in seconds, and nothing is lost. "
                "Of a folder that may not be written make a copy first"
            )

    def bring_forward(self) -> bool:
        """Bring a catalog of an earlier format to this one, in one transaction; return whether it was one."""
        version = self.version()
        if version == FORMAT:
            return False
        with translated(self.path):
            # Outside the transaction, where alone it works: a table may be made anew under its name.
            self.db.pragma("legacy_alter_table", True)
            try:
                with self.writing():
                    migrate(self.db, version)
            finally:
                self.db.pragma("legacy_alter_table", False)
        return True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Pin one version of the catalog for the body: writers go on, this body does not see them."""
        with translated(self.path):
            try:
                # Inside the try: Ctrl-C strikes between any two steps, and must not leave a transaction open.
                self.db.execute("BEGIN")
                yield
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Run the body as one write transaction; any exception rolls all of it back."""
        with translated(self.path):
            try:
                self.db.execute("BEGIN IMMEDIATE")
                yield
                self.db.execute("COMMIT")  # the commit point
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def rows(self, sql: str, bindings: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement to its end and return all its rows."""
        return self.db.execute(sql, bindings).fetchall()

    def rows_of_all(self, sql: str, bindings: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Run a statement once with each of these bindings and return the rows of all."""
        return self.db.executemany(sql, bindings).fetchall()

    def one(self, sql: str, bindings: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """Return the first column of the first row, or None."""
        found = self.rows(sql, bindings)
        return found[0][0] if found else None

    def meta(self, key: str) -> Any:
        """Return a value of ``meta``, or None."""
        return self.one("SELECT value FROM meta WHERE key = ?", (key,))

    def set_meta(self, key: str, value: Any) -> None:
        """Set a value of ``meta``; part of the transaction that is open."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def register_function(self, name: str, function: Callable[..., Any]) -> None:
        """Make a Python function callable from SQL on this connection; done once per connection."""
        if name not in self._functions:
            self.db.create_scalar_function(name, function, deterministic=True)
            self._functions.add(name)

    def checkpoint(self, *, truncate: bool = False) -> bool:
        """Move the log's pages into the database file. Call it with the writer lock held.

        Readers that still use old pages are not waited for: what is left goes with the next checkpoint.

        Returns
        -------
        bool
            False when readers were in the way.
        """
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
        self.db.set_busy_timeout(0)
        try:
            with translated(self.path):
                self.db.wal_checkpoint(mode=mode)
        except StoreLockTimeoutError:
            # Not an error: the log just stays as long as it is, and the next checkpoint tries again.
            return False
        finally:
            self.db.set_busy_timeout(10_000)
        self.wal_pages = 0
        return True

    def close(self) -> None:
        """Close the connection; no checkpoint is made."""
        self.db.close()

    def abandon(self) -> None:
        """In a forked child: keep the parent's connection alive and never touch it."""
        _abandoned.append(self.db)


class ReaderPool:
    """Connections for readers: each is used by one thread at a time and kept for the next."""

    def __init__(self, path: Path, *, read_only: bool, keep: int = 4) -> None:
        self._path = path
        self._read_only = read_only
        self._keep = keep
        self._idle: list[Catalog] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def reader(self) -> Iterator[Catalog]:
        """Lend a connection for the body of a ``with``."""
        with gate.passage():
            catalog = self._taken()
            try:
                yield catalog
            except StoreCorruptedError:
                catalog.close()
                raise
            except BaseException:
                self._give_back(catalog)
                raise
            self._give_back(catalog)

    def _taken(self) -> Catalog:
        with self._lock:
            catalog = self._idle.pop() if self._idle else None
        if catalog is not None:
            if not catalog.is_outdated():
                return catalog
            catalog.close()
        catalog = Catalog(self._path, read_only=self._read_only)
        try:
            catalog.check_format()
        except BaseException:
            catalog.close()
            raise
        return catalog

    def _give_back(self, catalog: Catalog) -> None:
        with self._lock:
            # A connection is in a transaction only if Ctrl-C struck while it was leaving it.
            if not self._closed and len(self._idle) < self._keep and not catalog.db.in_transaction:
                self._idle.append(catalog)
                return
        catalog.close()

    def close(self) -> None:
        """Close the idle connections; lent ones are closed when they come back."""
        self._closed = True
        with gate.passage():
            self.rest()

    def rest(self) -> None:
        """Close the idle connections, for instance before the process forks; new ones are opened on demand."""
        with self._lock:
            idle, self._idle = self._idle, []
        for catalog in idle:
            catalog.close()

    def abandon(self) -> None:
        """In a forked child: leave alone what connections the parent could not close, and start empty."""
        idle, self._idle = self._idle, []
        for catalog in idle:
            catalog.abandon()
        self._lock = threading.Lock()


def has_log(path: Path) -> bool:
    """Tell whether a catalog has a log file with something in it."""
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


def _is_immutable(path: Path) -> bool:
    # In a folder that may not be written SQLite cannot make the two files that it needs beside the catalog. While
    # they are missing nobody writes, and the catalog can be read as a file that does not change.
    has_both = all(path.with_name(path.name + end).exists() for end in ("-wal", "-shm"))
    return not has_both and not has_log(path) and not os.access(path.parent, os.W_OK)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, with the file, the reason and the fix."""
    try:
        yield
    except OraculoError:
        raise
    except apsw.BusyError as exc:
        raise StoreLockTimeoutError(
            f"the catalog {path} is locked by another program ({exc}). Close what has it open; only oraculo_kit "
            "may open this file"
        ) from exc
    except (apsw.CorruptError, apsw.NotADBError) as exc:
        raise StoreCorruptedError(
            f"the catalog {path} is damaged ({exc}). Nothing was changed. `oraculo verify` tells what is "
            "damaged, `oraculo repair` saves what can be saved, `oraculo restore` brings a snapshot back"
        ) from exc
    except UnicodeDecodeError as exc:
        raise StoreCorruptedError(
            f"the catalog {path} is damaged: it holds text that is not UTF-8 ({exc}). Nothing was changed. Run "
            "`oraculo repair`: it saves what can be saved, and names what is lost"
        ) from exc
    except apsw.FullError as exc:
        raise StorageError(
            f"the disk that holds {path} is full ({exc}). The last version of the store is whole; free some "
            "space and try again"
        ) from exc
    except (apsw.ReadOnlyError, apsw.PermissionsError) as exc:
        raise StoreReadOnlyError(
            f"the catalog {path} cannot be written ({exc}). Ask for write permission, or open the store with "
            "read_only=True"
        ) from exc
    except apsw.CantOpenError as exc:
        raise StorageError(
            f"the catalog {path} cannot be opened ({exc}). Check that the folder exists and can be written"
        ) from exc
    except apsw.IOError as exc:
        raise StorageError(
            f"the disk failed under {path} ({exc}). The last version of the store is whole; check the disk, then try "
            "again"
        ) from exc
    except apsw.Error as exc:
        raise StorageError(
            f"SQLite refused an operation on {path}: {type(exc).__name__}: {exc}. What was stored is untouched; try "
            "again, and check the disk and the rights of the file if that does not help"
        ) from exc
    except OSError as exc:
        raise StorageError(
            f"the system refused an operation on {exc.filename or path}: {exc.strerror or exc}. What was stored is "
            "untouched; check the disk and the rights of the file, then try again"
        ) from exc
