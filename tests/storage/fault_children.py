"""What the tests of faults and of shared folders run in processes of their own; see `tests.storage.children`."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sqlite3
import struct
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from oraculo_kit.errors import StorageError
from oraculo_kit.storage import commit
from oraculo_kit.storage.faiss import FaissVetorStorage
from tests.storage.children import command, forked, main, wait_for_parent
from tests.storage.disk import Do, Operation, refuse, watch
from tests.storage.kit import documents, vectors
from tests.storage.scenario import STATES, STEPS, State, Step, examine, live, shrink_limits, stored

_WHAT_TO_DO = re.compile(
    r"free some space|check the disk|check that the folder|try again|choose another", re.IGNORECASE
)
_NEEDS_ROOM = ("write", "make folder")


@dataclass
class FailingDisk:
    """A disk that refuses every so many operations of the store, counted over all calls; works between them."""

    error: int
    lasting: bool
    first: int
    every: int
    count: int = 0
    armed: bool = False
    broken: bool = False
    refused: Counter[str] = field(default_factory=Counter)

    def __call__(self, operation: Operation, do: Do) -> Any:
        if not self.armed:
            return do(operation.data)
        strikes = self.count % self.every == self.first
        self.count += 1
        # A full disk still forces, renames and removes what is there.
        affected = not self.lasting or self.error != errno.ENOSPC or operation.kind in _NEEDS_ROOM
        if (strikes or (self.lasting and self.broken)) and affected:
            self.broken = True
            self.refused[operation.kind] += 1
            refuse(operation, do, self.error)
        return do(operation.data)

    def during(self, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """Make a call; return what it returned and what it raised. Afterwards the disk works again."""
        self.armed, self.broken = True, False
        try:
            return call(), None
        except BaseException as exc:
            return None, exc
        finally:
            self.armed = False


@command
def survive_faults(folder: str, faults: list[tuple[int, bool, int]], every: int) -> dict[str, Any]:
    """Live through the scenario on disks that refuse operations; see `_Life`.

    Each fault is an error, whether it lasts until the call ends, and the first operation that is refused.
    """
    shrink_limits()
    current: list[FailingDisk] = []
    watch(lambda operation, do: current[-1](operation, do) if current else do(operation.data))
    result: dict[str, Any] = {"raised": 0, "quiet": 0, "problems": []}
    kinds: Counter[str] = Counter()
    for number, (error, lasting, first) in enumerate(faults):
        current.append(FailingDisk(error, lasting, first, every))
        life = _Life(Path(folder) / str(number) / "store", current[-1])
        life.live()
        result["raised"] += life.raised
        result["quiet"] += life.quiet
        result["problems"] += [f"{error} {lasting} {first}: {problem}" for problem in life.problems]
        kinds += current[-1].refused
        shutil.rmtree(life.folder.parent)
    return result | {"operations": current[-1].count, "refused": kinds}


@command
def die_after_faults(folder: str, error: int, every: int) -> dict[str, Any]:
    """Refuse one operation after the other, for good, and end the process as soon as the call is over.

    What a log holds of a refused commit must not become half of one when the next process reads it.
    """
    acknowledged = Path(folder) / "acknowledged"

    def live_until(first: int, where: Path) -> int:
        disk = FailingDisk(error, True, first, 1_000_000)
        watch(disk)
        acknowledged.write_text("0")
        store, exc = disk.during(lambda: FaissVetorStorage(where))
        for number, step in enumerate(STEPS, 1):
            if disk.broken:
                os._exit(0)
            _, exc = disk.during(lambda step=step: step.run(store))
            if exc is None:
                acknowledged.write_text(str(number))
        return disk.count

    shrink_limits()
    live(Path(folder) / "warm", lambda _number: None)  # loads everything before the first fork
    examine(Path(folder) / "warm", len(STATES) - 1)
    _, total = forked(lambda: live_until(1_000_000, Path(folder) / "whole"))
    result: dict[str, Any] = {"operations": total, "lost": 0, "problems": []}
    for first in range(every // 2, total, every):
        where = Path(folder) / str(first)
        wait_for(partial(live_until, first, where))
        _, (lost, problems) = forked(partial(examine, where, int(acknowledged.read_text())))
        result["lost"] += lost
        result["problems"] += [f"{first}: {problem}" for problem in problems]
        shutil.rmtree(where, ignore_errors=True)
    return result


def wait_for(function: Callable[[], Any]) -> None:
    """Run a function in a fork of this process that ends without an answer."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


@command
def open_and_close_with_sqlite(folder: str) -> int:
    """Open, read and close the catalog with the interpreter's own SQLite, until the parent says stop."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    print("ready", flush=True)
    rounds = 0
    while not stop.is_set():
        with closing(sqlite3.connect(Path(folder) / "catalog.sqlite3", timeout=10)) as db:
            assert db.execute("SELECT count(*) FROM chunks").fetchone()[0] >= 0
        rounds += 1
    return rounds


class _Life:
    """The scenario on a failing disk: what was refused is tried again; what is there is compared after each call."""

    def __init__(self, folder: Path, disk: FailingDisk) -> None:
        self.folder = folder
        self.disk = disk
        self.raised = 0
        self.quiet = 0
        self.problems: list[str] = []

    def live(self) -> None:
        store = None
        for _ in range(3):
            if store is None:
                store = self.attempt("open", lambda: FaissVetorStorage(self.folder))
        if store is None:
            self.problems.append("the store can no longer be opened")
            return
        for number, step in enumerate(STEPS):
            what, done, attempts = f"{number} {step.call} {step.source}", None, 0
            while not done:
                attempts += 1
                if attempts <= 3:
                    done = self.attempt(what, lambda step=step: step.run(store) or "done")
                else:  # a step of more operations than there are between two refusals
                    step.run(store)
                    done = "done"
                self.compare(what, STATES[number + bool(done)], store)
        later = Step("write", "afterwards", 1, 1)
        later.run(store)
        stats = store.stats()
        if stats.pending >= commit.SEGMENT_ROWS:
            self.problems.append(f"{stats.pending} vectors were not flushed any more")
        if not self.attempt("close", lambda: store.close() or "done"):
            self.problems.append("closing raised")
        with FaissVetorStorage(self.folder) as again:
            self.compare("opened again", later.after(STATES[-1]), again)
        left = len(list((self.folder / "segments").iterdir())) - stats.segments
        if left:
            self.problems.append(f"{left} files were left")

    def attempt(self, what: str, call: Callable[[], Any]) -> Any:
        """Make a call on the failing disk; return what it returned, None when it was refused."""
        returned, exc = self.disk.during(call)
        if exc is None:
            self.quiet += self.disk.broken
            return returned
        self.raised += 1
        if not isinstance(exc, StorageError):
            self.problems.append(f"{what}: a bare {type(exc).__name__}: {exc}")
        elif str(self.folder.parent) not in str(exc) or not _WHAT_TO_DO.search(str(exc)):
            self.problems.append(f"{what}: which file, and what to do? {exc}")
        elif not self.disk.broken:
            self.problems.append(f"{what}: refused without a reason: {exc}")
        return None

    def compare(self, what: str, state: State, store: FaissVetorStorage) -> None:
        """Look with the same object and with a new one."""
        with FaissVetorStorage(self.folder, read_only=True) as other:
            if not stored(store) == stored(other) == state:
                self.problems.append(f"{what}: found {stored(store)}, and elsewhere {stored(other)}")
            self.problems += [f"{what}: {problem}" for problem in other.verify().problems]


@command
def write_as(folder: str, user: int, group: int, umask: int) -> None:
    """Write in turns with other processes as a user with a group of its own and a common one; print the count."""
    load_what_root_may_read()
    os.umask(umask)
    os.setgroups([group])
    os.setgid(user)
    os.setuid(user)
    wait_for_parent()
    for count in write_turns(folder, str(user)):
        print(count, flush=True)
        sys.stdin.readline()


@command
def write_with_umasks(folders: dict[str, int]) -> None:
    """Write to stores, each with a umask of its own."""
    shrink_limits()
    for folder, umask in folders.items():
        os.umask(umask)
        list(write_turns(folder, "one"))


def write_turns(folder: str, who: str) -> Iterator[int]:
    """Write small and large sources; the store is opened for each, so that its files are made and found in turns."""
    for turn, count in enumerate((2, 20, 5, 13)):
        with FaissVetorStorage(folder) as store:
            store.replace(f"{who} {turn}", documents(f"{who} {turn}", count), vectors(count))
            assert store.verify().ok
            yield len(store)


def load_what_root_may_read() -> None:
    """Load what writing needs, as a process may not read the interpreter's files without root's rights."""
    shrink_limits()
    with tempfile.TemporaryDirectory() as name:
        list(write_turns(name, "warm"))


@command
def write_on_fuse(folder: str) -> dict[str, Any]:
    """Mount a file system that calls itself sshfs, in a mount namespace of this process, and open a store on it."""
    mounted = Path(folder) / "remote"
    mounted.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"ana@servidor:", os.fsencode(mounted), b"fuse.sshfs", 0, options):
        return {"mounted": False}
    asked: Counter[int] = Counter()
    threading.Thread(target=_serve_fuse, args=(device, asked), daemon=True).start()
    answer = {"mounted": True, "error": ""}
    try:
        FaissVetorStorage(mounted / "base")
    except StorageError as exc:
        answer["error"] = f"{type(exc).__name__}: {exc}"
    return answer | {"asked": sorted(asked)}


def _serve_fuse(device: int, asked: Counter[int]) -> None:
    """Answer the kernel as an empty folder does; see fuse(4)."""
    lookup, forget, getattr_, init = 1, 2, 3, 26
    while True:
        request = os.read(device, 1 << 18)
        _, operation, unique = struct.unpack_from("<IIQ", request)
        asked[operation] += 1
        error, body = 0, b""
        if operation == init:
            body = struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 16, 0, 8, 8, 1 << 16, 1, 16, 0, 0)
        elif operation == getattr_:
            body = struct.pack("<QIIQQQQQQIIIIIIIIII", 1, 0, 0, 1, *[0] * 8, 0o40777, 2, *[0] * 5)
        elif operation == forget:
            continue
        else:
            error = -errno.ENOENT if operation == lookup else -errno.ENOSYS
        os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


if __name__ == "__main__":
    main()
