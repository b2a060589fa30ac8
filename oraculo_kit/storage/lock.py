"""One writer at a time, across processes: bounded, fair, and it says who holds the store.

Two files are locked, and neither is ever opened by SQLite:

``writer.lock``
    held around commit, checkpoint and close, never while embedding or extracting. Its content names the holder
    (for the message of the one who waits) and remembers the number of the last commit: a catalog that is
    *behind* this number was restored from an old copy or lost its log, and must not be written to.
``writer.queue``
    a turnstile. A writer passes it *before* it waits for ``writer.lock`` and leaves it once it holds that, so
    one that has just committed cannot overtake those who wait. (A single lock starves: of eight writers
    one made 9 commits while another made 1,680.) Waiters poll, and poll faster the longer they have waited.

The operating system drops both locks when their holder dies, however it dies; no lock can be left behind. POSIX
uses ``flock``, which belongs to the open file: unlike ``fcntl`` locks it is not lost when the process opens and
closes the same file elsewhere. A forked child closes the inherited descriptors without unlocking, so the
parent's lock stays the parent's. Windows locks one byte far behind the content, because its locks are mandatory
and the content must stay readable.
"""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oraculo_kit.errors import StorageError, StoreLockTimeoutError, StoreNotFoundError, StoreReadOnlyError
from oraculo_kit.storage.sharing import share

_COMMIT_BYTES = 64  # the commit record: fixed width, so that a shorter one never leaves digits behind
_HOLDER_BYTES = 256
_HOLDER: dict[str, Callable[[Any], Any]] = {"pid": int, "host": str, "since": int, "what": str}
_FIRST_PAUSE = 0.002
_LAST_PAUSE = 0.0005

if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 1 << 30

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        with suppress(OSError):  # it was not locked, which is no error on POSIX
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class WriterLock:
    """The writer lock of one store folder.

    Parameters
    ----------
    folder : pathlib.Path
        The store's folder; the two lock files are made in it.
    timeout : float
        Longest wait in seconds.

    Notes
    -----
    One object serves all threads of a process; it is not reentrant.
    """

    def __init__(self, folder: Path, timeout: float) -> None:
        self.path = folder / "writer.lock"
        self._queue_path = folder / "writer.queue"
        self.timeout = timeout
        self._threads = threading.Lock()
        self._descriptors: tuple[int, int] | None = None

    def _opened(self) -> tuple[int, int]:
        if self._descriptors is None:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            queue = os.open(self._queue_path, flags, 0o666)
            try:
                lock = os.open(self.path, flags, 0o666)
            except BaseException:
                os.close(queue)
                raise
            self._descriptors = queue, lock
            for path in (self._queue_path, self.path):
                share(path)
        return self._descriptors

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Hold the lock for the body of a ``with``.

        Parameters
        ----------
        what : str
            What is being done; others read it when they wait too long.

        Raises
        ------
        StoreLockTimeoutError
            When the lock is not free within the time limit; says who holds it.
        StoreNotFoundError
            When the store's folder is gone.
        StoreReadOnlyError
            When the lock files cannot be made or written.
        """
        deadline = time.monotonic() + self.timeout
        if not self._threads.acquire(timeout=self.timeout):
            raise self._timed_out()
        try:
            try:
                lock = self._acquired(deadline)
                self._name_holder(lock, what)
            except BaseException as exc:
                self.close()  # unlocks whatever was locked so far
                if isinstance(exc, OSError) and not isinstance(exc, StorageError):
                    raise self._unusable(exc) from exc
                raise
            try:
                yield
            finally:
                _unlock(lock)
        finally:
            self._threads.release()

    def _acquired(self, deadline: float) -> int:
        while True:
            queue, lock = self._opened()
            self._wait(queue, deadline)
            self._wait(lock, deadline)
            _unlock(queue)
            if _is_at(lock, self.path) and _is_at(queue, self._queue_path):
                return lock
            # Somebody removed or replaced the files: a lock on a file without a name keeps nobody out.
            self.close()

    def _wait(self, descriptor: int, deadline: float) -> None:
        pause = _FIRST_PAUSE
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise self._timed_out()
            # Jitter, so that waiters do not wake in step; shorter pauses favour those who have waited longer.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = max(pause * 0.9, _LAST_PAUSE)

    def _name_holder(self, descriptor: int, what: str) -> None:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname()[:64],
            "since": int(time.time()),
            "what": what,
        }
        _write_at(descriptor, json.dumps(holder).encode().ljust(_HOLDER_BYTES), _COMMIT_BYTES)

    def holder(self) -> dict[str, Any]:
        """Return who last took the lock: pid, host, since (seconds since 1970) and what; empty when unknown."""
        try:
            holder = json.loads(self._read()[_COMMIT_BYTES:])
            return {name: kind(holder[name]) for name, kind in _HOLDER.items()}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def commit_number(self) -> int:
        """Return the number of the last commit that this file knows of; 0 when it knows of none.

        A record that a crash tore is read as 0: it then vouches for nothing, and the next commit writes it anew.
        """
        try:
            number, _, checksum = self._read()[:_COMMIT_BYTES].split(b"\0")[0].decode("ascii").partition(" ")
            if int(checksum, 16) == zlib.crc32(number.encode()):
                return int(number)
        except (OSError, ValueError):
            return 0
        return 0

    def record_commit(self, number: int) -> None:
        """Remember the number of a durable commit. Call it with the lock held."""
        text = str(number)
        record = f"{text} {zlib.crc32(text.encode()):x}".encode().ljust(_COMMIT_BYTES, b"\0")
        _write_at(self._opened()[1], record, 0)

    def _read(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read(_COMMIT_BYTES + _HOLDER_BYTES)

    def _unusable(self, exc: OSError) -> StorageError:
        folder = self.path.parent
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreReadOnlyError(
                f"cannot write to the store {folder}: {exc.strerror}. Ask for write permission on the folder, choose "
                "another ORACULO_STORE, or open it with read_only=True"
            )
        if isinstance(exc, FileNotFoundError):
            return StoreNotFoundError(
                f"the store {folder} is gone: its folder was removed. Nothing was written; open it again to make "
                "a new one"
            )
        return StorageError(
            f"the lock {self.path} cannot be used: {exc.strerror or exc}. Nothing was written; check the disk and "
            "try again"
        )

    def _timed_out(self) -> StoreLockTimeoutError:
        holder = self.holder()
        since = time.strftime("%H:%M:%S", time.localtime(holder.get("since", 0)))
        who = (
            f"process {holder['pid']} on {holder['host']} ({holder['what']}, since {since})"
            if holder
            else "an unknown process"
        )
        return StoreLockTimeoutError(
            f"the store {self.path.parent} was not free for writing within {self.timeout:g} s; last held by {who}. "
            "Try again, wait longer (ORACULO_LOCK_TIMEOUT), or end that process if it hangs"
        )

    def close(self) -> None:
        """Close the lock files."""
        descriptors, self._descriptors = self._descriptors, None
        for descriptor in descriptors or ():
            os.close(descriptor)

    def abandon(self) -> None:
        """In a forked child: let go of the inherited descriptors without unlocking what the parent holds."""
        self.close()
        self._threads = threading.Lock()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    # pwrite does not exist on Windows; the lock is held, so nobody else moves this file position.
    os.lseek(descriptor, offset, os.SEEK_SET)
    os.write(descriptor, data)
