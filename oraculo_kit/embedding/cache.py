"""Vectors of texts that were embedded before: a bounded SQLite database, shared by the processes of a project.

A vector is found by a digest of its text, keyed by a number drawn at random for its model. So two models never mix,
whatever their names: a model is recognised by its name, its dimension and the vector of `PROBE_TEXT`, which must lie
as near to the one noted (cosine >= 0.999) as a store demands. A digest of that vector would not do: the same model
gives slightly other numbers on another number of threads, and remote ones do from call to call.

It is a cache, so nothing of it may cost more than itself:

* Each call opens the database and closes it again (0.14 ms), so nothing is left open when a process forks or is
  killed. With 384 dimensions and 1,000 characters a text that is found takes about 15 us, one that is not 6 us, and one
  that is added 25 us and 2.1 KB (Linux, two cores, a local disk).
* ``synchronous=OFF``: a power cut may damage the file, and then it is begun anew. A killed process damages nothing.
* No lock is waited for longer than a second. What cannot be read counts as not there, what cannot be written is
  not written; the first failure of a process is logged, and after one that will not pass (a folder that may not be
  written to, a full disk) the process leaves the cache alone.
* A row carries a checksum of key and vector: a damaged one counts as not there.
* **Bounded**: before vectors are added that would take it over its limit, those that were used least recently go, five
  per cent of the limit at a time. The time of use is noted by the hour, so that a vector that is in daily use costs
  one small write an hour, and not one per use.

What lies on disk is vectors and digests, never a text. A vector still tells what a text is about: the file has the
rights of the project's folder, as the store has.

A network drive is left alone: SQLite's shared memory does not work there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from oraculo_kit.storage.filesystems import file_system
from oraculo_kit.storage.forks import ForkGate
from oraculo_kit.storage.sharing import share

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_T = TypeVar("_T")

_log = logging.getLogger("oraculo_kit.embedding")

APPLICATION_ID = 0x4F454D42  # "OEMB"
_VERSION = 1
_SCHEMA = """
CREATE TABLE models(id BLOB PRIMARY KEY, name TEXT NOT NULL, probe BLOB NOT NULL) STRICT;
CREATE TABLE vectors(
    key BLOB PRIMARY KEY, vector BLOB NOT NULL, checksum INTEGER NOT NULL, used INTEGER NOT NULL
) STRICT;
CREATE INDEX vectors_by_use ON vectors(used);
CREATE TABLE turns(model TEXT PRIMARY KEY, next REAL NOT NULL) STRICT;
"""
_LOCK_WAIT = 1000  # milliseconds
_SAME_MODEL = 0.999  # cosine, as for the probe of a store
_MOST_MODELS = 64
_KEYS_AT_ONCE = 500
_FREED_AT_ONCE = 0.05  # of the limit
_ROW_OVERHEAD = 96  # bytes of a row beside its vector, in table and indexes, measured
_ROOM_LOST = 1.3  # pages are not filled to the end: 384 dimensions take 2.1 KB, measured
_HOUR = 3600
_LONGEST_TURN = 600.0  # seconds; a later one was noted by a clock that has been put right since

_gate = ForkGate()  # see oraculo_kit.storage.forks: no thread is inside SQLite while the process forks


class EmbeddingCache:
    """Looks up and keeps vectors; never raises for what happens to its file.

    Parameters
    ----------
    path : path
        Of the database; folder and file are made when something is to be kept.
    limit : int
        Bytes of the file at most. Its log adds up to 4 MB while it is written to.
    """

    def __init__(self, path: str | os.PathLike[str], limit: int) -> None:
        self.path = Path(path)
        self.limit = limit
        self._is_off = False
        self._has_warned = False

    def model(self, name: str, probe: Vectors) -> bytes | None:
        """Return the id under which the vectors of a model are kept, noting it when it is new.

        Parameters
        ----------
        name : str
        probe : numpy.ndarray
            Its vector of `PROBE_TEXT`, float32 of length one.

        Returns
        -------
        bytes or None
            None when the cache cannot be used.
        """
        return self._using(lambda db: _model(db, name, probe))

    def get(self, model: bytes, texts: Sequence[str], dimension: int) -> tuple[list[int], Vectors]:
        """Return the places of the texts whose vectors are known, and these, float32 (len(places), dimension)."""
        import numpy as np

        wanted = {_key(model, text): place for place, text in enumerate(texts)}
        found = self._using(lambda db: list(_found(db, list(wanted), 4 * dimension))) or []
        damaged = sum(vector is None for _, vector in found)
        if damaged:
            self._warn(f"{damaged} vectors in {self.path} were damaged, and are made again")
        places = [wanted[key] for key, vector in found if vector is not None]
        content = b"".join(vector for _, vector in found if vector is not None)
        return places, np.frombuffer(content, np.float32).reshape(len(places), dimension)

    def put(self, model: bytes, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep the vectors of texts; as many of them as there is room for."""
        now, size = _now(), _space(4 * vectors.shape[1])
        fitting = int(self.limit * (1 - _FREED_AT_ONCE)) // size
        rows = []
        for text, vector in zip(texts[:fitting], vectors[:fitting], strict=True):
            key, content = _key(model, text), vector.tobytes()
            rows.append((key, content, _checksum(key, content), now))
        if rows:
            self._using(lambda db: _add(db, rows, size * len(rows), self.limit))

    def turn(self, model: str, interval: float) -> float | None:
        """Reserve the next turn of a request among all processes.

        Parameters
        ----------
        model : str
        interval : float
            Seconds between two requests.

        Returns
        -------
        float or None
            Seconds to wait; None when the cache cannot be used.
        """
        return self._using(lambda db: _turn(db, model, interval))

    def _using(self, work: Callable[[apsw.Connection], _T]) -> _T | None:
        if self._is_off:
            return None
        try:
            try:
                return self._worked(work)
            except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as exc:
                # An SQLError, for our fixed statements, is a schema that is not ours: a damaged one.
                self._begin_anew(exc)
                return self._worked(work)
        except apsw.BusyError:
            self._warn(f"the embedding cache {self.path} was busy for a second, and is passed over for now")
        except (apsw.Error, OSError) as exc:
            self._is_off = True
            self._warn(f"the embedding cache {self.path} cannot be used, so texts are embedded again: {exc}")
        return None

    def _worked(self, work: Callable[[apsw.Connection], _T]) -> _T | None:
        with _gate.passage(), contextlib.closing(self._opened()) as db:
            version = db.pragma("application_id"), db.pragma("user_version")
            if version != (APPLICATION_ID, _VERSION) and not self._is_made(db):
                return None
            return work(db)

    def _opened(self) -> apsw.Connection:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            system = file_system(self.path.parent)
            if system is not None and system.verdict == "network":
                raise OSError(f"it would lie on a network drive ({system.kind})")
        db = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        db.set_busy_timeout(_LOCK_WAIT)
        db.pragma("synchronous", "OFF")
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        return db

    def _is_made(self, db: apsw.Connection) -> bool:
        """Make the tables in a new file; refuse one that is not ours."""
        db.pragma("auto_vacuum", "INCREMENTAL")
        db.pragma("journal_mode", "WAL")
        with _writing(db):
            version = db.pragma("application_id"), db.pragma("user_version")
            if version == (APPLICATION_ID, _VERSION):
                return True  # another process was faster
            is_empty = db.execute("SELECT count(*) FROM sqlite_schema").get == 0
            if is_empty:
                db.execute(_SCHEMA)
                db.pragma("application_id", APPLICATION_ID)
                db.pragma("user_version", _VERSION)
        if not is_empty:
            self._is_off = True
            self._warn(
                f"{self.path} is not an embedding cache of this version, so texts are embedded again. Delete it, or "
                "set ORACULO_EMBEDDING_CACHE_MB=0"
            )
            return False
        share(self.path)
        return True

    def _begin_anew(self, cause: Exception) -> None:
        self._warn(f"the embedding cache {self.path} was damaged, and is begun anew: {cause}")
        # The log first: one that outlives its database would be played into the next.
        for suffix in ("-wal", "-shm", ""):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _warn(self, message: str) -> None:
        _log.log(logging.DEBUG if self._has_warned else logging.WARNING, message)
        self._has_warned = True


@dataclass(frozen=True, slots=True)
class CachedModel:
    """The cache, for one model."""

    cache: EmbeddingCache
    model: bytes
    dimension: int

    @classmethod
    def of(cls, cache: EmbeddingCache, name: str, probe: Vectors) -> CachedModel | None:
        """Return the cache for the model of this name and probe vector, or None when it cannot be used."""
        model = cache.model(name, probe)
        return cls(cache, model, len(probe)) if model is not None else None

    def get(self, texts: Sequence[str]) -> tuple[list[int], Vectors]:
        """Return the places of the texts whose vectors are known, and these."""
        return self.cache.get(self.model, texts, self.dimension)

    def put(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep the vectors of texts."""
        self.cache.put(self.model, texts, vectors)


@contextlib.contextmanager
def _writing(db: apsw.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _model(db: apsw.Connection, name: str, probe: Vectors) -> bytes:
    import numpy as np

    with _writing(db):
        models: list[Any] = db.execute("SELECT id, probe FROM models WHERE name = ?", (name,)).fetchall()
        for noted, vector in models:
            other = np.frombuffer(vector, np.float32)
            if other.shape == probe.shape and float(other @ probe) >= _SAME_MODEL:
                return bytes(noted)
        number = secrets.token_bytes(16)
        db.execute("INSERT INTO models VALUES (?, ?, ?)", (number, name, probe.tobytes()))
        # A model that never gives the same vector twice would fill the table.
        db.execute("DELETE FROM models WHERE rowid <= (SELECT max(rowid) FROM models) - ?", (_MOST_MODELS,))
    return number


def _key(model: bytes, text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=model).digest()


def _checksum(key: bytes, vector: bytes) -> int:
    return zlib.crc32(vector, zlib.crc32(key))


def _now() -> int:
    return int(time.time()) // _HOUR


def _found(db: apsw.Connection, keys: list[bytes], size: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield keys with their vectors, None for a damaged one, and note that they were used."""
    now, used = _now(), []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        marks = ",".join("?" * len(some))
        rows: list[Any] = db.execute(
            f"SELECT key, vector, checksum, used FROM vectors WHERE key IN ({marks})", some
        ).fetchall()
        for key, vector, checksum, hour in rows:
            is_whole = len(vector) == size and _checksum(key, vector) == checksum
            yield key, vector if is_whole else None
            if hour != now and is_whole:
                used.append((now, key))
    if used:
        with contextlib.suppress(apsw.BusyError), _writing(db):
            db.executemany("UPDATE vectors SET used = ? WHERE key = ?", used)


def _add(db: apsw.Connection, rows: Sequence[tuple[Any, ...]], size: int, limit: int) -> None:
    with _writing(db):
        _make_room(db, size, limit)
        db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)
    page = db.pragma("page_size")
    spare = db.pragma("page_count") - limit // page
    if spare > 0:  # the limit was lowered
        db.pragma("incremental_vacuum", spare)


def _make_room(db: apsw.Connection, size: int, limit: int) -> None:
    goal = limit * (1 - _FREED_AT_ONCE) - size
    while True:
        taken = (db.pragma("page_count") - db.pragma("freelist_count")) * db.pragma("page_size")
        if taken + size <= limit or taken <= goal:
            return
        largest = db.execute("SELECT max(length(vector)) FROM (SELECT vector FROM vectors LIMIT 100)").get
        if largest is None:
            return
        assert isinstance(largest, int)
        count = max(1, int((taken - goal) / _space(largest)))
        db.execute(
            "DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM vectors ORDER BY used, rowid LIMIT ?)",
            (count,),
        )


def _space(vector: int) -> int:
    """Return the bytes that a row takes with a vector of so many."""
    return int(vector * _ROOM_LOST) + _ROW_OVERHEAD


def _turn(db: apsw.Connection, model: str, interval: float) -> float:
    now = time.time()
    with _writing(db):
        noted = db.execute("SELECT next FROM turns WHERE model = ?", (model,)).get
        turn = max(now, noted) if noted is not None and noted < now + _LONGEST_TURN else now
        db.execute("INSERT OR REPLACE INTO turns VALUES (?, ?)", (model, turn + interval))
    return float(turn - now)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gate.close, after_in_parent=_gate.open, after_in_child=_gate.reset)
