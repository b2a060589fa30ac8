"""Everything that a store writes, seen one operation at a time: to record it, to die in its middle, or to refuse it.

SQLite's writes are seen through a virtual file system that becomes the process's default, those of segments and lock
files by replacing the functions that make them. All this happens in processes made for it.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from oraculo_kit.storage import commit, folders, lock, segments

Do = Callable[[bytes], Any]
Watcher = Callable[["Operation", Do], Any]


class Operation(NamedTuple):
    """One thing done to the disk; `kind` is a key of `_SQLITE_CODES`, rename, sync folder, make folder or remove; or
    "ack", which is none.
    """

    kind: str
    path: str
    offset: int = 0
    data: bytes = b""
    target: str = ""


class _WatchedFile(apsw.VFSFile):
    def __init__(self, watcher: Watcher, name: Any, flags: list[int]) -> None:
        self.watcher = watcher
        self.path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        whole = bytes(data)
        write = super().xWrite
        self.watcher(Operation("write", self.path, offset, whole), lambda part: write(part, offset))

    def xTruncate(self, size: int) -> None:
        truncate = super().xTruncate
        self.watcher(Operation("truncate", self.path, size), lambda _part: truncate(size))

    def xSync(self, flags: int) -> None:
        sync = super().xSync
        self.watcher(Operation("sync", self.path), lambda _part: sync(flags))


class _WatchedSystem(apsw.VFS):
    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        super().__init__("watched", base="unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return self.watcher(Operation("open", path), lambda _part: _WatchedFile(self.watcher, name, flags))

    def xDelete(self, name: str, sync: bool) -> None:
        delete = super().xDelete
        self.watcher(Operation("delete", name), lambda _part: delete(name, sync))


class _SegmentFile:
    """A file open for writing whose operations are seen."""

    def __init__(self, watcher: Watcher, path: Path) -> None:
        self.watcher, self.path = watcher, str(path)
        self.file = watcher(
            Operation("open", self.path),
            lambda _part: open(path, "wb", buffering=0),  # noqa: SIM115
        )
        self.size = 0

    def __enter__(self) -> _SegmentFile:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.file.close()

    def write(self, data: Any) -> None:
        self.watcher(Operation("write", self.path, self.size, bytes(data)), self.file.write)
        self.size += len(data)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self.file.fileno()


def watch(watcher: Watcher) -> None:
    """Show every operation of this process's stores to a function that does it, or does not."""
    watched = _WatchedSystem(watcher)
    watch.kept = watched  # type: ignore[attr-defined]
    write_at, sync_file, sync_folder = lock._write_at, segments.sync_file, segments.sync_folder
    replace, mkdir, unlink, open_file = os.replace, os.mkdir, os.unlink, os.open

    def path_of(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def open_segment(path: Path, mode: str = "r", **options: Any) -> Any:
        return _SegmentFile(watcher, path) if mode == "wb" else open(path, mode, **options)

    def open_lock(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if not str(path).endswith(("writer.lock", "writer.queue")):
            return open_file(path, flags, *more, **options)
        return watcher(Operation("open", str(path)), lambda _part: open_file(path, flags, *more, **options))

    segments.open = open_segment  # type: ignore[attr-defined]
    segments.sync_file = lambda at: watcher(Operation("sync", path_of(at)), lambda _part: sync_file(at))
    for module in (segments, commit, folders):
        module.sync_folder = lambda at: watcher(  # type: ignore[attr-defined]
            Operation("sync folder", str(at)), lambda _part: sync_folder(at)
        )
    os.replace = lambda a, b: watcher(Operation("rename", str(a), target=str(b)), lambda _part: replace(a, b))
    os.mkdir = lambda at, *mode, **more: watcher(
        Operation("make folder", str(at)), lambda _part: mkdir(at, *mode, **more)
    )
    os.unlink = lambda at, **more: watcher(Operation("remove", str(at)), lambda _part: unlink(at, **more))
    os.open = open_lock
    lock._write_at = lambda at, data, offset: watcher(
        Operation("write", path_of(at), offset, data), lambda part: write_at(at, part, offset)
    )


_SQLITE_CODES = {
    "open": apsw.SQLITE_CANTOPEN,
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "delete": apsw.SQLITE_IOERR_DELETE,
}


def refuse(operation: Operation, do: Do, error: int) -> None:
    """Fail an operation with ENOSPC or EIO, after half of a write, as the layer that it belongs to reports it."""
    if operation.kind == "write":
        do(operation.data[: len(operation.data) // 2])
    if not Path(operation.path).name.startswith("catalog.sqlite3"):
        raise OSError(error, os.strerror(error), operation.path)
    full = error == errno.ENOSPC and operation.kind == "write"
    code = apsw.SQLITE_FULL if full else _SQLITE_CODES[operation.kind]
    exc = apsw.exception_for(code)
    exc.args = ("database or disk is full" if full else "disk I/O error",)
    exc.extendedresult = code
    raise exc


_IN_FOLDER = ("rename", "delete", "remove")


class Disk:
    """A disk that may forget, at a power cut, whatever was not forced onto it.

    Operations reach `durable` when their file is synced, renames and deletions when their folder is; until then they
    are `waiting`. That a file was made counts as durable at once: SQLite syncs the folder when it makes a log.
    """

    POLICIES = ("drop", "keep", "lock", "names", "some")

    def __init__(self) -> None:
        self.durable: dict[str, bytes] = {}
        self.waiting: list[Operation] = []

    def do(self, operation: Operation) -> None:
        """Take note of an operation."""
        in_folder = _IN_FOLDER
        if operation.kind == "sync":
            is_new = operation.path not in self.durable
            self._settle(lambda each: each.path == operation.path and each.kind not in in_folder)
            if is_new and operation.path.endswith(("-wal", "-journal")):  # SQLite then syncs the folder too
                self._settle(lambda each: each.kind in in_folder)
        elif operation.kind == "sync folder":
            self._settle(lambda each: each.kind in in_folder)
        elif operation.kind in ("write", "truncate", *_IN_FOLDER):
            self.waiting.append(operation)

    def _settle(self, chosen: Callable[[Operation], bool]) -> None:
        for operation in filter(chosen, self.waiting):
            _apply(self.durable, operation)
        self.waiting = [operation for operation in self.waiting if not chosen(operation)]

    def cut(self, policy: str, chance: random.Random) -> dict[str, bytes]:
        """Return the files as a power cut may leave them: without what waits, with it, with the lock's, with what
        changed names only, or with some of it.
        """
        files = dict(self.durable)
        for operation in self.waiting:
            if (
                policy == "keep"
                or (policy == "lock" and operation.path.endswith("writer.lock"))
                or (policy == "names" and operation.kind in _IN_FOLDER)
            ):
                _apply(files, operation)
            elif policy == "some" and chance.random() < 0.5:
                whole = chance.random() < 0.7
                sectors = (
                    len(operation.data) if whole else chance.randrange(len(operation.data) + 1) // 512 * 512
                )
                _apply(files, operation._replace(data=operation.data[:sectors]))
        return files


def _apply(files: dict[str, bytes], operation: Operation) -> None:
    content = files.get(operation.path, b"")
    end = operation.offset + len(operation.data)
    if operation.kind == "write":
        padded = content.ljust(operation.offset, b"\0")
        files[operation.path] = padded[: operation.offset] + operation.data + padded[end:]
    elif operation.kind == "truncate":
        files[operation.path] = content[: operation.offset]
    elif operation.kind in ("delete", "remove"):
        files.pop(operation.path, None)
    elif operation.path in files:
        files[operation.target] = files.pop(operation.path)
