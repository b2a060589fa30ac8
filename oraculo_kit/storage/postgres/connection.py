"""Connections to the server: pooled, safe to fork, made anew after a restart, with errors that say what to do.

A connection is used by one thread at a time and kept for the next. It is thrown away, never used again, when it was
interrupted in the middle of an answer, when the server went away, and in a forked child, which must not speak on its
parent's line. A connection that rested may be dead without anybody knowing (the server was restarted): the first
statement of a transaction finds out, and a new one takes its place.

The driver is pg8000: pure Python, BSD licence. Against asyncpg (Apache 2.0, compiled) it took 6.9 s instead of 6.1 for
50,000 chunks by binary COPY (of which the server has 5), 0.12 ms instead of 0.28 for the shortest query (asyncpg needs
a thread with an event loop) and the same for vectors and texts; it forks, and stops at Ctrl-C, as any Python does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from oraculo_kit.errors import (
    OraculoError,
    StorageError,
    StoreClosedError,
    StoreCorruptedError,
    StoreLockTimeoutError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from oraculo_kit.storage.postgres.location import PostgresLocation, literal, quoted

if TYPE_CHECKING:
    import io

_Result = TypeVar("_Result")

CONNECT_SECONDS = 10.0
_STARTING_SECONDS = 10.0  # a server that is starting is waited for
_KEEP = 4
_ATTEMPTS = 8

_STARTING = "57P03"
# Serialization failure, deadlock, and two writers that bring the same new id: the same transaction, once more.
_AGAIN = ("40001", "40P01", "23505")
_GONE = ("57P01", "57P02", "08000", "08003", "08006")
BEGIN_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_abandoned: list[Any] = []  # a forked child never touches what it inherited, nor lets it be closed


class Session:
    """One connection within a transaction, or outside of one.

    Threads that share it (a hybrid search has two) take turns, a statement at a time; hold `turn` for several.

    Parameters
    ----------
    connection : pg8000.native.Connection
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.turn = threading.RLock()
        self.busy = False  # in the middle of an answer: interrupted there, it cannot be used any more
        self.begun: list[list[Any]] = []  # what the last statement that began the transaction returned

    def rows(self, sql: str, *values: Any) -> list[list[Any]]:
        """Run a statement with parameters ``$1``, ``$2``, ... and return its rows.

        Values are texts, integers or None; the SQL says what type they are.
        """
        return self._run(sql, values, None)

    def one(self, sql: str, *values: Any) -> Any:
        """Return the first column of the first row, or None."""
        rows = self._run(sql, values, None)
        return rows[0][0] if rows else None

    def run(self, sql: str) -> list[list[Any]]:
        """Run one statement or several without parameters; return the rows of the last."""
        with self.turn:
            self.busy = True
            context = self._connection.execute_simple(sql)
            self.busy = False
        return context.rows or []

    def copy(self, table: str, stream: io.BytesIO) -> None:
        """Insert the rows of `encoding.binary_rows`."""
        self._run(f"COPY {table} FROM STDIN WITH (FORMAT binary)", (), stream)

    def _run(self, sql: str, values: tuple[Any, ...], stream: Any) -> list[list[Any]]:
        with self.turn:
            self.busy = True
            context = self._connection.execute_unnamed(sql, vals=values, stream=stream)
            self.busy = False
        return context.rows or []

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(Exception):
            self._connection.close()

    def abandon(self) -> None:
        """In a forked child: keep the parent's connection, unused and unclosed."""
        _abandoned.append(self._connection)


class Pool:
    """The connections of one store in one process.

    Parameters
    ----------
    location : PostgresLocation
    lock_timeout : float
        Seconds that a writer waits for another one.
    durability : {"power", "process"}
        ``"process"`` lets the server acknowledge before its log is on disk.
    """

    def __init__(self, location: PostgresLocation, lock_timeout: float, durability: str = "power") -> None:
        self.location = location
        self.lock_timeout = lock_timeout
        synchronous = "on" if durability == "power" else "off"
        self._begin_writing = (
            f"BEGIN; SET LOCAL lock_timeout = {max(int(lock_timeout * 1000), 1)}; "
            f"SET LOCAL synchronous_commit = {synchronous}"
        )
        self._idle: list[Session] = []
        self._lock = threading.Lock()
        self._closed = False
        _pools.add(self)

    @contextmanager
    def reading(self, begin: str = "") -> Iterator[Session]:
        """Pin one version for the body: writers go on, this body does not see them."""
        with self._transaction(begin or BEGIN_READING) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Run the body as one transaction; any exception rolls all of it back."""
        with self._transaction(self._begin_writing) as session:
            yield session

    @contextmanager
    def alone(self) -> Iterator[Session]:
        """Lend a connection without a transaction, closed afterwards with all its session holds (advisory locks)."""
        with self.translated():
            session = self._connected()
            try:
                yield session
            finally:
                session.close()

    def committing(self, body: Callable[[Session], _Result]) -> _Result:
        """Run a body as one write transaction, again when the server asks for that; return what it returned.

        Raises
        ------
        StoreLockTimeoutError
            When it met other writers at every attempt.
        """
        deadline = time.monotonic() + self.lock_timeout
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self.writing() as session:
                    return body(session)
            except StorageError as exc:
                if sqlstate(exc.__cause__) not in _AGAIN:
                    raise
                if attempt == _ATTEMPTS or time.monotonic() > deadline:
                    raise StoreLockTimeoutError(
                        f"{attempt} attempts to commit to {self.location.shown} each met another writer of the same "
                        "chunks; try again, or let fewer workers write the same sources"
                    ) from exc
                time.sleep(0.01 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Session]:
        with self.translated():
            session = self._begun(begin)
            kept = False
            try:
                yield session
                session.run("COMMIT")  # the commit point
                kept = True
            except BaseException:
                if not session.busy or _has_answered(session):
                    with contextlib.suppress(Exception):
                        session.run("ROLLBACK")
                        kept = True
                raise
            finally:
                self._give_back(session, kept)

    def _begun(self, begin: str) -> Session:
        while True:
            with self._lock:
                session = self._idle.pop() if self._idle else None
            rested = session is not None
            if session is None:
                session = self._connected()
            try:
                session.begun = session.run(begin)
                return session
            except Exception as exc:
                session.close()
                if not rested or not is_gone(exc):
                    raise
                self.rest()  # the server was restarted: all that rested are dead

    def _give_back(self, session: Session, kept: bool) -> None:
        with self._lock:
            if kept and not self._closed and len(self._idle) < _KEEP:
                self._idle.append(session)
                return
        session.close()

    def _connected(self) -> Session:
        if self._closed:
            raise StoreClosedError(
                f"the store {self.location.shown} was closed; open it again with open_storage()"
            )
        deadline = time.monotonic() + _STARTING_SECONDS
        while True:
            try:
                session = Session(_connect(self.location))
                break
            except Exception as exc:
                if sqlstate(exc) != _STARTING or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        session.run(self._first_words())
        return session

    def _first_words(self) -> str:
        # pgvector may live in any schema; its operators are found by the search path only. The plan of a query with a
        # filter depends on the filter.
        schema = literal(quoted(self.location.schema))
        return (
            "SELECT set_config('search_path', concat_ws(',', "
            f"{schema}, (SELECT quote_ident(nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace "
            "WHERE extname = 'vector'), 'pg_catalog'), false), "
            "set_config('jit', 'off', false), set_config('client_min_messages', 'warning', false)"
        )

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the driver's errors into ours, with the location, the reason and the fix."""
        try:
            yield
        except OraculoError:
            raise
        except Exception as exc:
            ours = _translation(exc, self.location)
            if ours is None:
                raise
            raise ours from exc

    def rest(self) -> None:
        """Close the idle connections; new ones are made on demand."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def close(self) -> None:
        """Close the idle connections; lent ones are closed when they come back."""
        self._closed = True
        self.rest()

    def abandon(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._lock = threading.Lock()
        idle, self._idle = self._idle, []
        for session in idle:
            session.abandon()


def driver() -> Any:
    """Return the driver, imported when it is needed.

    Raises
    ------
    StorageError
        When it is not installed; names the extra.
    """
    try:
        import pg8000.native
    except ImportError as exc:
        raise StorageError(
            f"a store in PostgreSQL needs pg8000, which is not installed ({exc}). Install it: "
            'pip install "oraculo_kit[postgres]"'
        ) from exc
    return pg8000.native


def _connect(location: PostgresLocation) -> Any:
    native = driver()
    line = _line(location)
    try:
        connection = native.Connection(
            location.user,
            host=location.host,
            database=location.database,
            password=location.password,
            sock=line,
            ssl_context=_ssl_context(location),
            application_name="oraculo_kit",
        )
    except BaseException:
        line.close()
        raise
    # For the handshake only: an answer may take as long as it needs.
    connection._usock.settimeout(None)
    return connection


def _line(location: PostgresLocation) -> socket.socket:
    if location.socket is None:
        line = socket.create_connection((location.host, location.port), CONNECT_SECONDS)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return line
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.settimeout(CONNECT_SECONDS)
        line.connect(location.socket)
    except BaseException:
        line.close()
        raise
    return line


def _ssl_context(location: PostgresLocation) -> Any:
    """Return what pg8000 takes: False for none, None where the server can, else a context."""
    if location.sslmode == "disable" or location.socket is not None:
        return False
    if location.sslmode == "prefer":
        return None
    context = ssl.create_default_context(cafile=location.sslrootcert)
    if location.sslmode == "require" and location.sslrootcert is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def sqlstate(error: BaseException | None) -> str:
    """Return the five characters by which PostgreSQL names an error; empty for another one."""
    details = error.args[0] if error is not None and error.args else None
    return str(details.get("C", "")) if isinstance(details, dict) else ""


def _has_answered(session: Session) -> bool:
    # The driver reads an answer to its end before it raises the server's error.
    import sys

    return bool(sqlstate(sys.exc_info()[1])) and session.busy


def is_gone(error: BaseException) -> bool:
    """Tell whether the connection broke, as when the server was stopped."""
    if sqlstate(error):
        return sqlstate(error).startswith(_GONE)
    return isinstance(error, OSError | EOFError) or type(error).__name__ == "InterfaceError"


def _translation(error: Exception, location: PostgresLocation) -> StorageError | None:
    state, where = sqlstate(error), location.shown
    said = str(error.args[0].get("M", "")) if state else f"{type(error).__name__}: {error}"
    if isinstance(error, TimeoutError | ConnectionError | socket.gaierror | FileNotFoundError) and not state:
        return StorageError(
            f"the server of the store {where} does not answer ({said}). Start it, or check host and port of the URL "
            "(ORACULO_STORE)"
        )
    if is_gone(error) or state == _STARTING:
        return StorageError(
            f"the connection to the store {where} broke ({said}). What was committed is stored; whether the last write "
            "was, only a look tells. Do it again: a source or an id that is written again replaces itself"
        )
    if not state:
        return None
    if state in ("28P01", "28000"):
        return StorageError(
            f"the server refuses the user of {where}: {said}. Check user and password of the URL (ORACULO_STORE), or "
            "set PGPASSWORD"
        )
    if state == "3D000":
        return StoreNotFoundError(
            f"there is no such database: {where} ({said}). Make it (createdb), or check the URL (ORACULO_STORE)"
        )
    if state in ("42501", "25006"):
        return StoreReadOnlyError(
            f"the store {where} may not be written: {said}. Have the rights granted, or open it with read_only=True"
        )
    if state == "55P03":
        return StoreLockTimeoutError(
            f"the store {where} was held by another writer for longer than the wait allowed ({said}). Try again, or "
            "raise ORACULO_LOCK_TIMEOUT"
        )
    if state.startswith("XX00"):
        return StoreCorruptedError(
            f"the server reports damage in {where}: {said}. Restore the database from a backup (pg_restore), or drop "
            "the schema and ingest again"
        )
    if state == "53300":
        return StorageError(
            f"the server of {where} has no connection left: {said}. Use fewer workers, or raise max_connections"
        )
    return StorageError(f"the server of the store {where} refused: {said} (SQLSTATE {state})")


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
